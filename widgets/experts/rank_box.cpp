#include "experts/rank_box.h"

#include "plan/rank_edit.h"

#include <QLocale>

#include <algorithm>
#include <cmath>
#include <limits>

namespace espalier
{

RankBox::RankBox(QWidget* parent) : NumberBox(parent)
{
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

double RankBox::asked(const QString& text) const
{
    QString plain = QString::fromStdString(plainNumber(text)).toLower();
    if (plain == tr("dense").toLower()) return std::numeric_limits<double>::infinity();
    const bool percent = plain.endsWith(QLatin1Char('%'));
    if (percent) plain.chop(1);
    bool number = false;
    const double entered = plain.trimmed().toDouble(&number);
    if (!number || !(entered > 0)) return 0;
    return percent ? entered / 100 * (maximum() - 1) : entered;
}

// Beyond break-even is dense, whatever the number.
int RankBox::parse(const QString& text) const
{
    const double rank = asked(text);
    return rank > 0 ? static_cast<int>(std::clamp(std::round(rank), 1.0, static_cast<double>(maximum()))) : 0;
}

QString RankBox::refusal(const QString& text) const
{
    return tr("\"%1\" is no rank: write a number, 75% of break-even, or dense.").arg(text.trimmed());
}

QString RankBox::correction(const QString& text) const
{
    const double rank = asked(text);
    const int breakEven = maximum() - 1;
    if (!std::isfinite(rank) || std::round(rank) <= breakEven) return {};
    return tr("%1 asked, dense taken: beyond %2 the factors save nothing.")
        .arg(QLocale().toString(std::round(rank), 'f', 0))
        .arg(breakEven);
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
