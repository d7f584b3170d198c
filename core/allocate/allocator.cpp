#include "allocate/allocator.h"

#include "allocate/layer_allocator.h"
#include "plan/cost_model.h"
#include "plan/plan_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

namespace espalier
{

namespace
{

// One line per allocator, in the order of the choosers.
const std::vector<LayerAllocator>& methods()
{
    static const std::vector<LayerAllocator> table = {
        uniformAllocator(), importanceAllocator(), inverseAllocator(), coverageAllocator(), globalAllocator(), exactAllocator(),
    };
    return table;
}

int roundedUp(int value, int step) { return (value + step - 1) / step * step; }

std::int64_t constantBytes(const LayerShape& layer, const ModelShape& shape) { return bodyBytes(layer, shape.hiddenSize, ConstantBody{}); }

// Where dropped experts stay as constants the router has all its columns whatever is kept.
int floorOf(const LayerShape& layer, const AllocationRequest& request)
{
    const ExpertSet& pinned = request.plan.protectedExperts(layer.index);
    if (request.dropped) return std::max(layer.router.groups, static_cast<int>(pinned.size()));
    return fewestExperts(layer, request.plan.layer(layer.index), pinned);
}

// Of one expert with its router row; over what a constant in its place takes, where dropped experts stay as constants.
std::int64_t expertCost(const LayerShape& layer, const ModelShape& shape, const AllocationRequest& request)
{
    const std::int64_t bytes = layer.bytesPerExpert + (request.dropped ? -constantBytes(layer, shape) : layer.routerBytesPerExpert);
    const std::int64_t parameters = layer.expertParameters + (request.dropped ? -shape.hiddenSize : layer.routerParametersPerExpert);
    switch (request.unit) {
        case BudgetUnit::Bytes:
            return std::max<std::int64_t>(1, bytes);
        case BudgetUnit::Parameters:
            return std::max<std::int64_t>(1, parameters);
        case BudgetUnit::Experts:
            break;
    }
    return 1;
}

int valueOr(const std::vector<int>& values, int index, int fallback)
{
    return static_cast<std::size_t>(index) < values.size() ? values[static_cast<std::size_t>(index)] : fallback;
}

}  // namespace

Result<AllocationProblem> allocationProblem(const ModelShape& shape, const AllocationRequest& request)
{
    AllocationProblem problem{shape, request, {}, {}, {}, {}};
    Budget& budget = problem.budget;
    budget.total = request.unit == BudgetUnit::Experts ? request.keepTotal : request.target;
    budget.unit = request.unit == BudgetUnit::Experts ? "experts" : request.unit == BudgetUnit::Bytes ? "bytes" : "parameters";
    if (request.unit == BudgetUnit::Bytes) budget.total -= shape.embeddingBytes;
    if (request.unit == BudgetUnit::Parameters) budget.total -= shape.embeddingParameters;
    for (const LayerShape& layer : shape.layers) {
        const LayerPlan& plan = request.plan.layer(layer.index);
        // What the layer takes without a routed expert; nothing where it is left out.
        const LayerPlan bare = plan.run() == LayerRun::Whole ? LayerPlan() : plan;
        const std::int64_t bareBytes = layerBytes(layer, shape.hiddenSize, bare);
        const std::int64_t bareParameters = layerParameters(layer, shape.hiddenSize, bare);
        if (request.unit == BudgetUnit::Bytes) budget.total -= bareBytes;
        if (request.unit == BudgetUnit::Parameters) budget.total -= bareParameters;
        if (!layer.moe || !plan.runsExperts()) continue;
        const int kept = static_cast<int>(plan.kept().size());
        if (request.dropped && !request.plan.isFixed(layer.index)) {
            if (request.unit == BudgetUnit::Bytes)
                budget.total -= layer.experts * (layer.routerBytesPerExpert + constantBytes(layer, shape));
            if (request.unit == BudgetUnit::Parameters)
                budget.total -= layer.experts * (layer.routerParametersPerExpert + shape.hiddenSize);
        }
        problem.layers.push_back(layer.index);
        problem.experts.push_back(layer.experts);
        if (request.plan.isFixed(layer.index)) {
            std::int64_t cost = kept;
            if (request.unit == BudgetUnit::Bytes) cost = layerBytes(layer, shape.hiddenSize, plan) - bareBytes;
            if (request.unit == BudgetUnit::Parameters) cost = layerParameters(layer, shape.hiddenSize, plan) - bareParameters;
            problem.step.push_back(kept);
            budget.limits.low.push_back(1);
            budget.limits.high.push_back(1);
            budget.cost.push_back(std::max<std::int64_t>(1, cost));
            continue;
        }
        const int step = std::lcm(std::max(1, layer.router.groups), std::max(1, request.multipleOf));
        const int low = roundedUp(std::max({1, floorOf(layer, request), valueOr(request.floor, layer.index, 0)}), step);
        const int high = std::min(layer.experts, valueOr(request.cap, layer.index, layer.experts)) / step * step;
        if (low > high)
            return badInput(
                "allocate.infeasible", fmt::format("layer {}", layer.index),
                {"Layer {layer} must keep at least {low} experts and may keep at most {high}{step}.",
                 {{"layer", layer.index}, {"low", low}, {"high", high}, {"step", step > 1 ? fmt::format(", in steps of {}", step) : ""}}},
                "Raise its cap, lower its floor, or choose another multiple.");
        problem.step.push_back(step);
        budget.limits.low.push_back(low / step);
        budget.limits.high.push_back(high / step);
        budget.cost.push_back(expertCost(layer, shape, request) * step);
    }
    if (problem.layers.empty()) return badInput("allocate.no_experts", shape.modelType, "The model has no expert layers.");
    return problem;
}

namespace
{

// One count for all layers: the largest whose cost does not exceed the total.
Result<int> equalCount(const AllocationProblem& problem)
{
    const Budget& budget = problem.budget;
    int least = 1;
    int most = problem.experts.front();
    int step = 1;
    for (std::size_t i = 0; i < problem.slots(); ++i) {
        least = std::max(least, budget.limits.low[i] * problem.step[i]);
        most = std::min(most, budget.limits.high[i] * problem.step[i]);
        if (!problem.locked(i)) step = std::lcm(step, problem.step[i]);
    }
    const auto costAt = [&](int count) {
        std::int64_t cost = 0;
        for (std::size_t i = 0; i < problem.slots(); ++i)
            cost += budget.cost[i] * (problem.locked(i) ? 1 : count / problem.step[i]);
        return cost;
    };
    least = roundedUp(least, step);
    most = most / step * step;
    if (least > most)
        return badInput("allocate.infeasible", fmt::format("{} {}", budget.total, budget.unit),
                        "Locked layers, floors and caps leave no single count that fits all layers.",
                        "Unlock layers, or allow unequal counts.");
    int count = most;
    while (count >= least && costAt(count) > budget.total)
        count -= step;
    if (count < least)
        return badInput("allocate.infeasible", fmt::format("{} {}", budget.total, budget.unit),
                        {"With equal counts the feasible range is {cost_at} to {cost_at2} {unit}.",
                         {{"cost_at", costAt(least)}, {"cost_at2", costAt(most)}, {"unit", budget.unit}}},
                        "Choose a target in that range, or allow unequal counts.");
    return count;
}

std::vector<int> spread(const AllocationProblem& problem, const std::vector<int>& units)
{
    std::vector<int> keep(problem.shape.layers.size(), 0);
    for (std::size_t i = 0; i < units.size(); ++i)
        keep[static_cast<std::size_t>(problem.layers[i])] = units[i] * problem.step[i];
    return keep;
}

std::vector<int> equalUnits(const AllocationProblem& problem, int count)
{
    std::vector<int> units(problem.slots());
    for (std::size_t i = 0; i < units.size(); ++i)
        units[i] = problem.locked(i) ? 1 : count / problem.step[i];
    return units;
}

}  // namespace

bool AllocationProblem::plainCounts() const
{
    if (request.unit != BudgetUnit::Experts) return false;
    for (std::size_t i = 0; i < slots(); ++i)
        if (!locked(i) && step[i] != 1) return false;
    return true;
}

Result<std::vector<double>> AllocationProblem::importance(const std::string& method) const
{
    if (request.layerImportance.size() != shape.layers.size())
        return badInput("allocate.no_importance", method, {"The allocator \"{method}\" needs layer importance.", {{"method", method}}},
                        "Measure a profile and score it with leave-one-out.");
    std::vector<double> values;
    for (const int layer : layers)
        values.push_back(request.layerImportance[static_cast<std::size_t>(layer)]);
    return values;
}

Result<std::vector<double>> AllocationProblem::scores(std::size_t slot, const std::string& method) const
{
    const auto l = static_cast<std::size_t>(layers[slot]);
    const auto& rows = request.scores.values.rows;
    if (l >= rows.size() || static_cast<int>(rows[l].size()) != experts[slot])
        return badInput("allocate.no_scores", fmt::format("layer {}", layers[slot]),
                        {"The allocator \"{method}\" needs a score for each of the {slot} experts of layer {slot2}.",
                         {{"method", method}, {"slot", experts[slot]}, {"slot2", layers[slot]}}},
                        "Measure a profile of this model and score it.");
    return rows[l];
}

const std::vector<MethodInfo>& allocators()
{
    static const std::vector<MethodInfo> infos = [] {
        std::vector<MethodInfo> list;
        for (const LayerAllocator& method : methods()) {
            list.push_back(method.info);
            list.back().slot = Slot::Allocate;
            list.back().answers = {Answer::Counts};
        }
        return list;
    }();
    return infos;
}

Result<std::vector<int>> allocate(const std::string& method, const ModelShape& shape, const AllocationRequest& request,
                                  const Params& params)
{
    const auto it = std::find_if(methods().begin(), methods().end(), [&](const LayerAllocator& m) { return m.info.id == method; });
    if (it == methods().end()) {
        Error error =
            usageError({"There is no allocator \"{method}\".", {{"method", method}}}, "See `espalier-engine methods --slot allocate`.");
        error.code = "method.unknown";
        error.subject = method;
        return error;
    }
    ESPALIER_TRY(const Params checked, checkParams(it->info, params));
    ESPALIER_TRY(AllocationProblem problem, allocationProblem(shape, request));
    if (request.uniformCount) {
        ESPALIER_TRY(const int count, equalCount(problem));
        return spread(problem, equalUnits(problem, count));
    }
    ESPALIER_CHECK_OK(checkFeasible(problem.budget));
    ESPALIER_TRY(const std::vector<int> units, it->units(problem, checked));
    return spread(problem, units);
}

Result<int> parseKeep(std::string_view text, int total)
{
    const auto trim = [](std::string_view s) {
        while (!s.empty() && s.front() == ' ')
            s.remove_prefix(1);
        while (!s.empty() && s.back() == ' ')
            s.remove_suffix(1);
        return s;
    };
    const auto number = [](std::string_view s, double& value) {
        const auto [end, failure] = std::from_chars(s.data(), s.data() + s.size(), value);
        return failure == std::errc() && end == s.data() + s.size() && std::isfinite(value);
    };
    std::string_view body = trim(text);
    double share = 0;
    double kept = -1;
    if (!body.empty() && body.back() == '%') {
        body = trim(body.substr(0, body.size() - 1));
        if (number(body, share)) kept = share / 100 * total;
    } else if (const auto slash = body.find('/'); slash != std::string_view::npos) {
        double above = 0;
        double below = 0;
        if (number(trim(body.substr(0, slash)), above) && number(trim(body.substr(slash + 1)), below) && below > 0)
            kept = above / below * total;
    } else if (number(body, share)) {
        const bool fraction = body.find('.') != std::string_view::npos && share <= 1;
        kept = fraction ? share * total : share;
    }
    if (!(kept >= 0 && kept <= total + 1e-9))
        return usageError({"\"{text}\" is not a share or count of {total} experts.", {{"text", text}, {"total", total}}},
                          "Write for example 75%, 0.75, 96/128 or a number of experts.");
    return static_cast<int>(std::floor(kept + 0.5));
}

}  // namespace espalier
