#include "keep_box.h"

#include "allocate/allocator.h"

#include <QLocale>

namespace espalier
{

std::string plainNumber(QString text)
{
    const QLocale locale;
    text = text.trimmed();
    for (const QString& group : {locale.groupSeparator(), QString(QChar(0x00A0)), QString(QChar(0x202F))}) {
        if (!group.isEmpty()) text.remove(group);
    }
    if (locale.decimalPoint() != QLatin1StringView(".")) text.replace(locale.decimalPoint(), QStringLiteral("."));
    return text.toStdString();
}

KeepBox::KeepBox(QWidget* parent) : QSpinBox(parent)
{
    setKeyboardTracking(false);
    setCorrectionMode(QAbstractSpinBox::CorrectToPreviousValue);
    setToolTip(tr("Experts kept: a number, 75%, 0.75 or 96/128"));
}

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

QAbstractSpinBox::StepEnabled KeepBox::stepEnabled() const
{
    StepEnabled steps = StepNone;
    if (value() > m_floor) steps |= StepDownEnabled;
    if (value() < maximum()) steps |= StepUpEnabled;
    return steps;
}

}  // namespace espalier
