#include "experts/keep_box.h"

#include "allocate/allocator.h"

namespace espalier
{

KeepBox::KeepBox(QWidget* parent) : NumberBox(parent) { setToolTip(tr("Experts kept: a number, 75%, 0.75 or 96/128")); }

void KeepBox::setExperts(int floor, int total)
{
    m_floor = floor;
    setRange(0, total);
}

QValidator::State KeepBox::validate(QString& text, int&) const
{
    return parseKeep(plainNumber(text), maximum()).ok() ? QValidator::Acceptable : QValidator::Intermediate;
}

int KeepBox::valueFromText(const QString& text) const
{
    const Result<int> keep = parseKeep(plainNumber(text), maximum());
    return keep.ok() ? *keep : value();
}

QString KeepBox::refusal(const QString& text) const
{
    bool whole = false;
    const int number = QString::fromStdString(plainNumber(text)).toInt(&whole);
    if (whole && number > maximum()) return tr("%1 asked, %2 kept as before: the layer has %3.").arg(number).arg(value()).arg(maximum());
    if (whole) return tr("%1 asked, %2 kept as before: at least 1.").arg(number).arg(value());
    return tr("\"%1\" is no number of experts: write 96, 75%, 0.75 or 96/128.").arg(text.trimmed());
}

QAbstractSpinBox::StepEnabled KeepBox::stepEnabled() const
{
    StepEnabled steps = StepNone;
    if (value() > m_floor) steps |= StepDownEnabled;
    if (value() < maximum()) steps |= StepUpEnabled;
    return steps;
}

}  // namespace espalier
