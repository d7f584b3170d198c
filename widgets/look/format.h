// Numbers and words on screen, in the user's locale. Files never use these.
#pragma once

#include "base/statistics.h"
#include "plan/compression_plan.h"
#include "plan/model_shape.h"

#include <QDateTime>
#include <QString>

#include <cstdint>
#include <optional>
#include <string>

namespace espalier::format
{

QString count(std::int64_t value);                        // "1,080"
QString countOf(std::int64_t value, std::int64_t total);  // "1,080 of 1,440"
QString number(double value, int decimals);               // U+2212 for minus
QString signedNumber(double value, int decimals);         // "+0.36", "−0.02", "0"
QString perplexity(double ppl);                           // "7.58"
QString perplexity(double ppl, double error);             // "7.58 ± 0.11"; three decimals if the error rounds to 0.00
QString delta(double value);                              // "+0.36"
QString delta(double value, double error);                // "+0.36 ± 0.02" (the error of the paired difference)
// Difference of perplexities and its error from the paired difference of NLL: reference * (ratio - 1), reference * ratio * se.
struct Delta {
    double value = 0;
    double error = 0;
    int windows = 0;
};
std::optional<Delta> pairedDelta(std::span<const WindowLoss> plan, std::span<const WindowLoss> reference);
QString bytes(std::int64_t bytes);        // "20.9 GiB", "544 MiB", "16.5 MiB" (below 100 MiB one decimal)
QString bytesChange(std::int64_t bytes);  // "−99 MiB"
QString parameters(std::int64_t count);   // "14.3 B", "2.69 B", "8.65 M"
QString percentChange(double ratio);      // 0.78 -> "−22 %": whole percent
// 0.172 -> "+17.2 %", with the error of the paired difference "+17.2 ± 0.4 %".
QString percentDelta(double fraction);
QString percentDelta(double fraction, double error);
QString share(double fraction);                               // 0.011 -> "1.1 %"
QString score(double value);                                  // three significant digits; below 0.001 scientific; NaN "no value"
QString duration(double seconds);                             // "1.8 s", "29 s", "6 min 58 s"
QString eta(double seconds);                                  // "about 5 s", "about 20 s", "about 3 min"
QString time(const QDateTime& moment, const QDateTime& now);  // "14:31", "yesterday 14:31", "18 November"
QString estimate(double ppl);                                 // "est. 7.57"
QString layerExpert(int layer, int expert);                   // "Layer 12 · expert 35"
QString keptOf(int kept, int experts);                        // "33 of 60"
// Advice from the core without what only the command line can do: "Put the file there, or pass ids with --ids." -> "Put the file there."
QString withoutOptions(const std::string& advice);
extern const QString kDot;  // " · "

}  // namespace espalier::format
