#include "recover/training_settings.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace espalier
{

namespace
{

Error wrong(const char* name, double value, const char* range)
{
    return usageError({"{name} is {value}; it has to be {range}.", {{"name", name}, {"value", value}, {"range", range}}});
}

}  // namespace

std::string_view scheduleName(LearningSchedule schedule)
{
    switch (schedule) {
        case LearningSchedule::Constant:
            return "constant";
        case LearningSchedule::Linear:
            return "linear";
        case LearningSchedule::Cosine:
            break;
    }
    return "cosine";
}

Result<LearningSchedule> parseSchedule(std::string_view name)
{
    for (const LearningSchedule schedule : {LearningSchedule::Constant, LearningSchedule::Linear, LearningSchedule::Cosine})
        if (name == scheduleName(schedule)) return schedule;
    return usageError({"\"{name}\" is not a schedule of the learning rate.", {{"name", name}}}, "Use constant, linear or cosine.");
}

double rateOf(const StepSettings& settings, int step)
{
    const int done = step - 1;
    if (done < settings.warmup) return settings.rate * done / settings.warmup;
    const double share = static_cast<double>(done - settings.warmup) / std::max(settings.steps - settings.warmup, 1);
    switch (settings.schedule) {
        case LearningSchedule::Constant:
            return settings.rate;
        case LearningSchedule::Linear:
            return settings.rate * (1 - share);
        case LearningSchedule::Cosine:
            break;
    }
    return settings.rate * 0.5 * (1 + std::cos(std::numbers::pi * share));
}

Status checkSettings(const AdapterSettings& adapters)
{
    if (adapters.rank < 1 || adapters.rank > 4096) return wrong("The rank of the adapters", adapters.rank, "between 1 and 4096");
    if (!(adapters.alpha > 0) || !std::isfinite(adapters.alpha)) return wrong("alpha", adapters.alpha, "above 0");
    if (!(adapters.dropout >= 0 && adapters.dropout < 1)) return wrong("The dropout", adapters.dropout, "at least 0 and below 1");
    if (!adapters.experts && !adapters.attention && !adapters.shared && !adapters.dense)
        return usageError("Nothing is trained.", "Name at least one of experts, attention, shared and dense.");
    return {};
}

Status checkSettings(const StepSettings& steps)
{
    if (steps.steps < 1) return wrong("The number of steps", steps.steps, "at least 1");
    if (steps.batch < 1) return wrong("The batch", steps.batch, "at least 1");
    if (steps.microBatch < 0) return wrong("The micro-batch", steps.microBatch, "at least 0");
    if (!(steps.rate > 0) || !std::isfinite(steps.rate)) return wrong("The learning rate", steps.rate, "above 0");
    if (steps.warmup < 0 || steps.warmup > steps.steps) return wrong("The warm-up", steps.warmup, "between 0 and the number of steps");
    if (!(steps.decay >= 0) || !std::isfinite(steps.decay)) return wrong("The weight decay", steps.decay, "at least 0");
    if (!(steps.clip >= 0)) return wrong("The largest norm of the gradients", steps.clip, "at least 0");
    if (!(steps.beta1 >= 0 && steps.beta1 < 1) || !(steps.beta2 >= 0 && steps.beta2 < 1))
        return usageError("The betas of AdamW have to be at least 0 and below 1.");
    if (steps.evaluateEvery < 0) return wrong("The number of steps between two looks at the live text", steps.evaluateEvery, "at least 0");
    return {};
}

Json toJson(const AdapterSettings& adapters)
{
    return {{"rank", adapters.rank},           {"alpha", adapters.alpha},   {"dropout", adapters.dropout}, {"experts", adapters.experts},
            {"attention", adapters.attention}, {"shared", adapters.shared}, {"dense", adapters.dense}};
}

Json toJson(const StepSettings& steps)
{
    return {{"steps", steps.steps},
            {"batch", steps.batch},
            {"micro_batch", steps.microBatch},
            {"rate", steps.rate},
            {"warmup", steps.warmup},
            {"schedule", scheduleName(steps.schedule)},
            {"beta1", steps.beta1},
            {"beta2", steps.beta2},
            {"eps", steps.eps},
            {"decay", steps.decay},
            {"clip", steps.clip},
            {"seed", steps.seed},
            {"evaluate_every", steps.evaluateEvery}};
}

}  // namespace espalier
