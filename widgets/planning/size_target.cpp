#include "planning/size_target.h"

#include "plan/cost_model.h"
#include "plan/plan_rules.h"
#include "plan/rank_edit.h"

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

constexpr double kMiB = 1024.0 * 1024.0;
constexpr double kGiB = 1024.0 * kMiB;

}  // namespace

SizeScale sizeScale(const ModelShape& shape)
{
    const PlanCost dense = planCost(shape, CompressionPlan::identity(shape));
    SizeScale scale;
    scale.denseBytes = dense.bytes;
    scale.denseParameters = dense.parameters;
    for (const LayerShape& layer : shape.layers) {
        if (layer.experts == 0) continue;
        scale.experts += layer.experts;
        scale.expertBytes += layer.experts * layer.bytesPerExpert;
        scale.bytesEach = std::max(scale.bytesEach, layer.bytesPerExpert + layer.routerBytesPerExpert);
        scale.parametersEach = std::max(scale.parametersEach, layer.expertParameters + layer.routerParametersPerExpert);
    }
    return scale;
}

std::optional<std::int64_t> bytesOf(double value, TargetUnit unit, const SizeScale& scale)
{
    double bytes = 0;
    switch (unit) {
        case TargetUnit::MiB:
            bytes = value * kMiB;
            break;
        case TargetUnit::GiB:
            bytes = value * kGiB;
            break;
        case TargetUnit::Percent:
            bytes = value / 100 * static_cast<double>(scale.denseBytes);
            break;
        case TargetUnit::ExpertMiB:
            bytes = value * kMiB + static_cast<double>(scale.denseBytes - scale.expertBytes);
            break;
        case TargetUnit::Parameters:
            // What goes is experts, at their own bytes a parameter.
            if (scale.parametersEach == 0) return {};
            bytes = static_cast<double>(scale.denseBytes) - (static_cast<double>(scale.denseParameters) - value * 1e6) *
                                                                static_cast<double>(scale.bytesEach) /
                                                                static_cast<double>(scale.parametersEach);
            break;
        case TargetUnit::Experts:
        case TargetUnit::ActiveParameters:
            return {};
    }
    if (!(bytes > 0) || bytes > 1e18) return {};
    return static_cast<std::int64_t>(bytes);
}

double valueOf(std::int64_t bytes, TargetUnit unit, const SizeScale& scale)
{
    const auto size = static_cast<double>(bytes);
    switch (unit) {
        case TargetUnit::GiB:
            return size / kGiB;
        case TargetUnit::Percent:
            return 100 * size / static_cast<double>(std::max<std::int64_t>(1, scale.denseBytes));
        case TargetUnit::ExpertMiB:
            return (size - static_cast<double>(scale.denseBytes - scale.expertBytes)) / kMiB;
        case TargetUnit::Parameters:
            return (static_cast<double>(scale.denseParameters) - (static_cast<double>(scale.denseBytes) - size) *
                                                                     static_cast<double>(scale.parametersEach) /
                                                                     static_cast<double>(std::max<std::int64_t>(1, scale.bytesEach))) /
                   1e6;
        default:
            return size / kMiB;
    }
}

int expertsWithin(std::int64_t bytes, const SizeScale& scale)
{
    if (scale.bytesEach == 0) return scale.experts;
    const std::int64_t over = std::max<std::int64_t>(0, scale.denseBytes - bytes);
    const std::int64_t dropped = (over + scale.bytesEach - 1) / scale.bytesEach;
    return static_cast<int>(std::clamp<std::int64_t>(scale.experts - dropped, 0, scale.experts));
}

int expertsWithin(std::int64_t bytes, const ModelShape& shape, const CompressionPlan& plan)
{
    const std::int64_t now = planCost(shape, withoutRanks(shape, plan)).bytes;
    std::int64_t each = 0;
    std::int64_t running = 0;
    for (const LayerShape& layer : shape.layers) {
        if (layer.experts == 0 || !plan.layer(layer.index).runsExperts()) continue;
        running += layer.experts;
        // What comes may have had no constant; what goes may leave one and its row of the router.
        const bool leaves = now > bytes && plan.hasConstants();
        const std::int64_t one =
            layer.bytesPerExpert + (leaves ? -bodyBytes(layer, shape.hiddenSize, ConstantBody{}) : layer.routerBytesPerExpert);
        each = each == 0 ? one : now > bytes ? std::min(each, one) : std::max(each, one);
    }
    if (each <= 0) return plan.keptExperts();
    const std::int64_t change = now > bytes ? -((now - bytes + each - 1) / each) : (bytes - now) / each;
    return static_cast<int>(std::clamp<std::int64_t>(plan.keptExperts() + change, 0, running));
}

std::optional<std::int64_t> parseSize(const QString& typed, TargetUnit unit, const SizeScale& scale)
{
    QString number = typed.trimmed().toLower();
    for (const char* word : {"parameters", "params"})
        if (number.endsWith(QLatin1String(word))) {
            number.chop(static_cast<int>(qstrlen(word)));
            number = number.trimmed();
            if (!number.endsWith(QLatin1Char('m')) && !number.endsWith(QLatin1Char('b'))) return {};
            break;
        }
    double factor = 1;
    struct Suffix {
        const char* text;
        TargetUnit unit;
        double factor;
    };
    constexpr Suffix kSuffixes[] = {{"%", TargetUnit::Percent, 1},       {"gib", TargetUnit::GiB, 1},
                                    {"mib", TargetUnit::MiB, 1},         {"gb", TargetUnit::GiB, 1e9 / kGiB},
                                    {"mb", TargetUnit::MiB, 1e6 / kMiB}, {"m", TargetUnit::Parameters, 1},
                                    {"b", TargetUnit::Parameters, 1000}};
    for (const Suffix& suffix : kSuffixes)
        if (number.endsWith(QLatin1String(suffix.text))) {
            number.chop(static_cast<int>(qstrlen(suffix.text)));
            unit = suffix.unit;
            factor = suffix.factor;
            break;
        }
    bool read = false;
    const double value = number.trimmed().toDouble(&read);
    if (!read || !std::isfinite(value) || value <= 0) return {};
    return bytesOf(value * factor, unit, scale);
}

LeastSize leastSize(const ModelShape& shape, const CompressionPlan& plan)
{
    LeastSize least;
    CompressionPlan held = plan;
    CompressionPlan open = plan;
    for (const LayerShape& layer : shape.layers) {
        if (layer.experts == 0) continue;
        const LayerPlan& now = plan.layer(layer.index);
        const int here = static_cast<int>(now.kept().size());
        const bool locked = plan.isLocked(layer.index) && here > 0;
        if (plan.isFixed(layer.index) && !locked) continue;  // none of its experts runs
        ExpertSet kept = plan.protectedExperts(layer.index);
        const int floor = fewestExperts(layer, now, kept);
        for (int e = 0; static_cast<int>(kept.size()) < floor && e < layer.experts; ++e)
            if (!std::binary_search(kept.begin(), kept.end(), e)) kept.insert(std::lower_bound(kept.begin(), kept.end(), e), e);
        const std::vector<RankTriple> ranks(kept.size(), RankTriple{1, 1, 1});
        const auto shrink = [&](CompressionPlan& into) {
            Result<CompressionPlan> next = into.withKept(shape, layer.index, kept);
            if (next.ok()) next = next->withRanks(shape, layer.index, ranks);
            if (next.ok()) into = std::move(next).value();
        };
        shrink(open);
        if (!locked) shrink(held);
        least.experts += locked ? here : floor;
        least.freeExperts += floor;
        if (locked) least.locks.push_back(layer.index);
        if (locked && here > floor) least.countLocks.push_back(layer.index);
    }
    least.bytes = planCost(shape, held).bytes;
    least.freeBytes = planCost(shape, open).bytes;
    return least;
}

std::optional<int> rankForActive(std::int64_t target, const ModelShape& shape)
{
    std::int64_t active = planCost(shape, CompressionPlan::identity(shape)).activeParameters;
    if (active <= target) return {};
    // A token runs top-k experts of every layer: their matrices go, factors of one rank come.
    std::int64_t perRank = 0;
    int most = 0;
    for (const LayerShape& layer : shape.layers) {
        if (layer.experts == 0) continue;
        active -= std::int64_t{3} * layer.router.topK * shape.hiddenSize * layer.expertWidth;
        perRank += std::int64_t{3} * layer.router.topK * (shape.hiddenSize + layer.expertWidth);
        most = std::max(most, breakEvenRank(shape.hiddenSize, layer.expertWidth));
    }
    if (perRank == 0 || target < active) return 0;
    return static_cast<int>(std::min<std::int64_t>((target - active) / perRank, most));
}

}  // namespace espalier
