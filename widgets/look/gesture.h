// Wheel and key steps on one control within 600 ms form one gesture (one history entry): views call step() before each move they emit.
#pragma once

#include <QObject>
#include <QTimer>

namespace espalier
{

inline constexpr int kDragPixels = 4;  // a press that moves less is a click, and edits nothing

class StepGesture final : public QObject
{
    Q_OBJECT
public:
    static constexpr int kMsec = 600;

    explicit StepGesture(QObject* parent = nullptr);
    void step();    // starts a gesture, or prolongs the one that is open
    void finish();  // ends an open one now
    bool open() const { return m_timer.isActive(); }

signals:
    void started();
    void finished();

private:
    QTimer m_timer;
};

}  // namespace espalier
