#include "look/format.h"

#include <QCoreApplication>
#include <QLocale>
#include <QRegularExpression>

#include <cmath>

namespace espalier::format
{

const QString kDot = QStringLiteral(" · ");

namespace
{

constexpr QChar kMinus(0x2212);
constexpr QChar kNoBreak(0x00A0);

QString tr(const char* text) { return QCoreApplication::translate("format", text); }

QString unsignedNumber(double value, int decimals) { return QLocale().toString(std::abs(value), 'f', decimals); }

bool roundsToZero(double value, int decimals) { return std::abs(value) < 0.5 * std::pow(10.0, -decimals); }

QString withUnit(const QString& number, const char* unit) { return number + kNoBreak + QString::fromLatin1(unit); }

// Three significant digits without an exponent: 14.3, 2.69, 0.0214.
QString threeDigits(double value)
{
    const double magnitude = std::abs(value);
    if (magnitude == 0) return QStringLiteral("0");
    int decimals = std::clamp(2 - static_cast<int>(std::floor(std::log10(magnitude))), 0, 12);
    // 9.996 would print as 10.00: one digit less after rounding up.
    if (std::floor(std::log10(magnitude + 0.5 * std::pow(10.0, -decimals))) > std::floor(std::log10(magnitude)))
        decimals = std::max(0, decimals - 1);
    return number(value, decimals);
}

}  // namespace

QString count(std::int64_t value)
{
    const QString digits = QLocale().toString(static_cast<qlonglong>(value < 0 ? -value : value));
    return value < 0 ? QString(kMinus) + digits : digits;
}

QString countOf(std::int64_t value, std::int64_t total) { return tr("%1 of %2").arg(count(value), count(total)); }

QString number(double value, int decimals)
{
    if (std::isnan(value)) return tr("no value");
    if (std::isinf(value)) return value < 0 ? QString(kMinus) + QChar(0x221E) : QString(QChar(0x221E));
    const QString digits = unsignedNumber(value, decimals);
    return value < 0 && !roundsToZero(value, decimals) ? QString(kMinus) + digits : digits;
}

QString signedNumber(double value, int decimals)
{
    if (!std::isfinite(value)) return number(value, decimals);
    if (roundsToZero(value, decimals)) return QStringLiteral("0");
    return (value < 0 ? QString(kMinus) : QStringLiteral("+")) + unsignedNumber(value, decimals);
}

QString perplexity(double ppl) { return number(ppl, ppl >= 1000 ? 0 : 2); }

QString perplexity(double ppl, double error)
{
    if (!(error > 0)) return perplexity(ppl);
    const int decimals = ppl >= 1000 ? 0 : roundsToZero(error, 2) ? 3 : 2;
    return number(ppl, decimals) + QStringLiteral(" ± ") + number(error, decimals);
}

QString delta(double value) { return signedNumber(value, std::abs(value) >= 1000 ? 0 : 2); }

QString delta(double value, double error)
{
    if (!(error > 0)) return delta(value);
    const int decimals = std::abs(value) >= 1000 ? 0 : roundsToZero(error, 2) ? 3 : 2;
    return signedNumber(value, decimals) + QStringLiteral(" ± ") + number(error, decimals);
}

std::optional<Delta> pairedDelta(std::span<const WindowLoss> plan, std::span<const WindowLoss> reference)
{
    const PairedDifference pair = pairedDifference(plan, reference);
    if (pair.windows == 0) return std::nullopt;
    // Perplexity of the reference on the windows both have.
    std::vector<WindowLoss> common;
    for (const WindowLoss& loss : reference) {
        for (const WindowLoss& other : plan) {
            if (other.window == loss.window) {
                common.push_back(loss);
                break;
            }
        }
    }
    const double ppl = espalier::perplexity(common).ppl;
    return Delta{ppl * (pair.pplRatio - 1), ppl * pair.pplRatio * pair.se, pair.windows};
}

QString bytes(std::int64_t bytes)
{
    const double value = static_cast<double>(bytes);
    constexpr double kMiB = 1024.0 * 1024.0;
    constexpr double kGiB = kMiB * 1024.0;
    const double magnitude = std::abs(value);
    if (magnitude >= kGiB) return withUnit(number(value / kGiB, 1), "GiB");
    if (magnitude >= 99.95 * kMiB) return withUnit(number(value / kMiB, 0), "MiB");
    if (magnitude >= kMiB) return withUnit(number(value / kMiB, 1), "MiB");
    if (magnitude >= 1024) return withUnit(number(value / 1024.0, magnitude >= 99.95 * 1024 ? 0 : 1), "KiB");
    return withUnit(count(bytes), "B");
}

QString bytesChange(std::int64_t change)
{
    if (change == 0) return QStringLiteral("0");
    constexpr std::int64_t kMiB = 1024 * 1024;
    const std::int64_t magnitude = change < 0 ? -change : change;
    QString text = bytes(magnitude);
    // A change of several experts is told in whole MiB.
    if (magnitude >= 10 * kMiB && magnitude < 1024 * kMiB) text = withUnit(number(static_cast<double>(magnitude) / kMiB, 0), "MiB");
    return (change < 0 ? QString(kMinus) : QStringLiteral("+")) + text;
}

QString parameters(std::int64_t count)
{
    const double value = static_cast<double>(count);
    if (value >= 999.5e6) return withUnit(threeDigits(value / 1e9), "B");
    if (value >= 999.5e3) return withUnit(threeDigits(value / 1e6), "M");
    if (value >= 999.5) return withUnit(threeDigits(value / 1e3), "k");
    return format::count(count);
}

QString percentChange(double ratio) { return signedNumber((ratio - 1) * 100, 0) + kNoBreak + QLatin1Char('%'); }

QString percentDelta(double fraction)
{
    if (!std::isfinite(fraction)) return tr("no value");
    return signedNumber(fraction * 100, std::abs(fraction) >= 10 ? 0 : 1) + kNoBreak + QLatin1Char('%');
}

QString percentDelta(double fraction, double error)
{
    if (!(error > 0) || !std::isfinite(fraction)) return percentDelta(fraction);
    const int decimals = std::abs(fraction) >= 10 ? 0 : roundsToZero(error * 100, 1) ? 2 : 1;
    return signedNumber(fraction * 100, decimals) + QStringLiteral(" ± ") + number(error * 100, decimals) + kNoBreak + QLatin1Char('%');
}

QString share(double fraction)
{
    if (std::isnan(fraction)) return tr("no value");
    return number(fraction * 100, 1) + kNoBreak + QLatin1Char('%');
}

QString score(double value)
{
    if (!std::isfinite(value)) return number(value, 2);
    if (value == 0) return QStringLiteral("0");
    const double magnitude = std::abs(value);
    if (magnitude < 0.001 || magnitude >= 1e6) {
        int exponent = static_cast<int>(std::floor(std::log10(magnitude)));
        double mantissa = value / std::pow(10.0, exponent);
        if (std::abs(mantissa) >= 9.995) {
            mantissa /= 10;
            ++exponent;
        }
        return number(mantissa, 2) + QLatin1Char('e') + (exponent < 0 ? QString(kMinus) : QString()) + QString::number(std::abs(exponent));
    }
    return threeDigits(value);
}

QString duration(double seconds)
{
    if (seconds < 10) return withUnit(number(seconds, 1), "s");
    const auto whole = static_cast<std::int64_t>(std::llround(seconds));
    if (whole < 60) return withUnit(count(whole), "s");
    if (whole < 3600) {
        const QString minutes = withUnit(count(whole / 60), "min");
        return whole % 60 == 0 ? minutes : minutes + QLatin1Char(' ') + withUnit(count(whole % 60), "s");
    }
    const QString hours = withUnit(count(whole / 3600), "h");
    const std::int64_t minutes = (whole % 3600) / 60;
    return minutes == 0 ? hours : hours + QLatin1Char(' ') + withUnit(count(minutes), "min");
}

QString eta(double seconds)
{
    if (seconds < 45) {
        const int rounded = seconds < 7.5 ? 5 : seconds < 15 ? 10 : seconds < 25 ? 20 : 30;
        return tr("about %1 s").arg(rounded);
    }
    const auto minutes = std::max<std::int64_t>(1, std::llround(seconds / 60));
    if (minutes < 90) return tr("about %1 min").arg(minutes);
    return tr("about %1 h").arg(std::llround(static_cast<double>(minutes) / 60));
}

QString time(const QDateTime& moment, const QDateTime& now)
{
    const QLocale locale;
    QString clock = moment.time().toString(QStringLiteral("HH:mm"));
    const qint64 days = moment.date().daysTo(now.date());
    if (days == 0) return clock;
    if (days == 1) return tr("yesterday %1").arg(clock);
    return locale.toString(moment.date(), QStringLiteral("d MMMM"));
}

QString estimate(double ppl) { return tr("est. %1").arg(perplexity(ppl)); }

QString layerExpert(int layer, int expert)
{
    if (expert < 0) return tr("Layer %1").arg(layer);
    return tr("Layer %1 · expert %2").arg(layer).arg(expert);
}

QString withoutOptions(const std::string& advice)
{
    static const QRegularExpression option(QStringLiteral("(^|\\s)--[a-z]"));
    static const QRegularExpression sentenceEnd(QStringLiteral("(?<=\\.)\\s+"));
    static const QRegularExpression clause(QStringLiteral("(, or |; )"));
    QStringList kept;
    for (const QString& sentence : QString::fromStdString(advice).split(sentenceEnd, Qt::SkipEmptyParts)) {
        if (!sentence.contains(option)) {
            kept << sentence;
            continue;
        }
        QStringList clauses;
        for (const QString& part : sentence.split(clause, Qt::SkipEmptyParts))
            if (!part.contains(option)) clauses << part;
        if (clauses.isEmpty()) continue;
        QString rest = clauses.join(QStringLiteral(", "));
        rest[0] = rest[0].toUpper();
        kept << (rest.endsWith(QLatin1Char('.')) ? rest : rest + QLatin1Char('.'));
    }
    return kept.join(QLatin1Char(' '));
}

QString keptOf(int kept, int experts) { return tr("%1 of %2").arg(kept).arg(experts); }

}  // namespace espalier::format
