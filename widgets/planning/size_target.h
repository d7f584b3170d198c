// A target in the unit that somebody thinks in: experts, size of the file, bytes of the experts, parameters, parameters that a token
// runs. Everything but the last is one line in the number of experts kept, so all of them say the same size. Pure functions.
#pragma once

#include "plan/compression_plan.h"
#include "plan/model_shape.h"

#include <QString>

#include <cstdint>
#include <optional>
#include <vector>

namespace espalier
{

enum class TargetUnit { Experts, MiB, GiB, Percent, ExpertMiB, Parameters, ActiveParameters };

// What is read off a model: the dense one, and what one routed expert with its router row adds to it.
struct SizeScale {
    std::int64_t denseBytes = 0;
    std::int64_t denseParameters = 0;
    std::int64_t expertBytes = 0;  // of all routed experts
    std::int64_t bytesEach = 0;
    std::int64_t parametersEach = 0;
    int experts = 0;
};
SizeScale sizeScale(const ModelShape& shape);

// Of the whole model, from a number in a unit; units that are not a size of the model (experts, active parameters) give nothing.
std::optional<std::int64_t> bytesOf(double value, TargetUnit unit, const SizeScale& scale);
// The number that stands for a size of the model; the reverse of bytesOf.
double valueOf(std::int64_t bytes, TargetUnit unit, const SizeScale& scale);
// The most experts whose model, all of them dense, is not larger than this; at least 0.
int expertsWithin(std::int64_t bytes, const SizeScale& scale);
// The same from this plan on: layers that do not run take nothing, and what goes leaves its constant where the plan has constants.
int expertsWithin(std::int64_t bytes, const ModelShape& shape, const CompressionPlan& plan);

// "10.4 MiB", "20.9gib", "75 %", "12.1 M parameters", "0.5b", or a number alone in `unit`. Nothing where it is none of these.
std::optional<std::int64_t> parseSize(const QString& typed, TargetUnit unit, const SizeScale& scale);

// The smallest plan that the locks of `plan` allow, and the one without them: as many experts as the router picks and protection keeps,
// in bytes with every unlocked matrix at rank 1.
struct LeastSize {
    int experts = 0;
    std::int64_t bytes = 0;
    int freeExperts = 0;  // without the locks
    std::int64_t freeBytes = 0;
    std::vector<int> locks;       // layers whose bytes their lock holds
    std::vector<int> countLocks;  // those that it holds at more experts
};
LeastSize leastSize(const ModelShape& shape, const CompressionPlan& plan);

// Active parameters depend on ranks, not on how many experts there are. The largest mean rank, the same for all three matrices of every
// expert, with which a token runs at most `target` parameters: 0 where even rank 1 is more, nothing where dense is not more.
std::optional<int> rankForActive(std::int64_t target, const ModelShape& shape);

}  // namespace espalier
