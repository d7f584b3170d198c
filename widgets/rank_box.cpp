#include "rank_box.h"

#include "keep_box.h"
#include "plan/rank_edit.h"

#include <QLocale>

#include <algorithm>
#include <cmath>

namespace espalier
{

RankBox::RankBox(QWidget* parent) : QSpinBox(parent)
{
    setKeyboardTracking(false);
    setCorrectionMode(QAbstractSpinBox::CorrectToPreviousValue);
    setToolTip(tr("Rank: a number, 75% of break-even, or dense"));
    setBreakEven(1);
}

void RankBox::setBreakEven(int rank) { setRange(1, std::max(1, rank) + 1); }

void RankBox::stepBy(int steps)
{
    const int step = rankStep(maximum() - 1, false);
    const int from = steps > 0 ? value() / step : (value() + step - 1) / step;
    setValue(std::clamp((from + steps) * step, minimum(), maximum()));
}

int RankBox::parse(const QString& text) const
{
    QString plain = QString::fromStdString(plainNumber(text)).toLower();
    if (plain == tr("dense").toLower()) return maximum();
    const bool percent = plain.endsWith(QLatin1Char('%'));
    if (percent) plain.chop(1);
    bool number = false;
    const double entered = plain.trimmed().toDouble(&number);
    if (!number || !(entered > 0)) return 0;
    const double rank = percent ? entered / 100 * (maximum() - 1) : entered;
    // Beyond break-even is dense, whatever the number.
    return static_cast<int>(std::clamp(std::round(rank), 1.0, static_cast<double>(maximum())));
}

QValidator::State RankBox::validate(QString& text, int&) const
{
    return parse(text) > 0 ? QValidator::Acceptable : QValidator::Intermediate;
}

int RankBox::valueFromText(const QString& text) const
{
    const int rank = parse(text);
    return rank > 0 ? rank : value();
}

QString RankBox::textFromValue(int value) const { return value >= maximum() ? tr("dense") : QLocale().toString(value); }

}  // namespace espalier
