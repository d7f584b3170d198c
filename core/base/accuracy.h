// Shares of right answers and their errors. Source: the standard error of a mean, sample deviation by root n; of a difference on the same
// questions that of the differences (paired). Pure functions, any thread.
#pragma once

#include <optional>
#include <span>

namespace espalier
{

// Share of right answers and its standard error; none for a single question.
struct Accuracy {
    double value = 0;
    std::optional<double> error;
};

// `right`: 0 or 1 per question, at least one.
Accuracy accuracy(std::span<const double> right);

// Difference of the same questions under two plans, first minus second: its mean and the error of that mean.
Accuracy pairedAccuracy(std::span<const double> first, std::span<const double> second);

// Mean over tasks, each of which counts alike. Its error from theirs: the root of the summed squares by their number; none where one has
// none. At least one.
Accuracy meanAccuracy(std::span<const Accuracy> tasks);

}  // namespace espalier
