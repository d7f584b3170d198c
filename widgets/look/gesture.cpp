#include "look/gesture.h"

namespace espalier
{

StepGesture::StepGesture(QObject* parent) : QObject(parent)
{
    m_timer.setSingleShot(true);
    m_timer.setInterval(kMsec);
    connect(&m_timer, &QTimer::timeout, this, &StepGesture::finished);
}

void StepGesture::step()
{
    const bool wasOpen = m_timer.isActive();
    m_timer.start();
    if (!wasOpen) emit started();
}

void StepGesture::finish()
{
    if (!m_timer.isActive()) return;
    m_timer.stop();
    emit finished();
}

}  // namespace espalier
