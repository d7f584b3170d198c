#include "allocate/allocator.h"

#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

namespace espalier
{

namespace
{

constexpr double kEpsilon = 1e-12;  // methods.md 3.7

ParamSpec alphaSpec()
{
    ParamSpec spec;
    spec.key = "alpha";
    spec.type = ParamType::Number;
    spec.defaultValue = 0.15;
    spec.low = 0;
    spec.high = 1.5;
    spec.help = "How strongly importance shapes the counts: 0 is uniform.";
    return spec;
}

MethodInfo info(std::string id, std::string title, std::string help, std::string source, std::vector<ParamSpec> params,
                std::vector<std::string> needs)
{
    MethodInfo method;
    method.id = std::move(id);
    method.title = std::move(title);
    method.slot = Slot::Allocate;
    method.help = std::move(help);
    method.source = std::move(source);
    method.params = std::move(params);
    method.needs = std::move(needs);
    return method;
}

struct MoeLayers {
    std::vector<int> index;
    BudgetLimits limits;
};

// Floors: top-k, protected experts; group routers keep whole steps and are handled by the selection. Locks fix both ends.
MoeLayers moeLayers(const ModelShape& shape, const CompressionPlan& plan)
{
    MoeLayers layers;
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        const LayerPlan& layerPlan = plan.layer(layer.index);
        const int kept = static_cast<int>(layerPlan.kept.size());
        layers.index.push_back(layer.index);
        layers.limits.low.push_back(
            layerPlan.locked ? kept
                             : std::max(layerPlan.topK.value_or(layer.router.topK), static_cast<int>(layerPlan.protectedExperts.size())));
        layers.limits.high.push_back(layerPlan.locked ? kept : layer.experts);
    }
    return layers;
}

std::vector<int> spread(const ModelShape& shape, const MoeLayers& layers, const std::vector<int>& counts)
{
    std::vector<int> keep(shape.layers.size(), 0);
    for (std::size_t i = 0; i < layers.index.size(); ++i)
        keep[static_cast<std::size_t>(layers.index[i])] = counts[i];
    return keep;
}

// One count for all layers that are free: the largest that does not exceed the total.
Result<std::vector<int>> equalCounts(const MoeLayers& layers, int total)
{
    const int least = *std::max_element(layers.limits.low.begin(), layers.limits.low.end());
    const int most = *std::min_element(layers.limits.high.begin(), layers.limits.high.end());
    const int count = total / static_cast<int>(layers.index.size());
    const int experts = static_cast<int>(layers.index.size());
    if (least > most || count < least)
        return badInput("allocate.infeasible", fmt::format("{} experts", total),
                        least > most
                            ? std::string("Locked layers keep different counts, so no single count fits all layers.")
                            : fmt::format("With equal counts the feasible range is {} to {} experts.", least * experts, most * experts),
                        "Unlock layers, or allow unequal counts.");
    return std::vector<int>(layers.index.size(), std::min(count, most));
}

}  // namespace

const std::vector<MethodInfo>& allocators()
{
    static const std::vector<MethodInfo> methods = {
        info("uniform", "Uniform", "Every layer keeps the same share.", "methods.md 6.1", {}, {}),
        info("importance", "By importance", "Kept experts grow with layer importance to the power alpha.",
             "MoE-I² (arXiv 2411.01016), methods.md 3.2 (b)", {alphaSpec()}, {"gram"}),
        info("inverse", "Inverse importance", "Pruned experts are proportional to 1 / layer importance, without damping.",
             "methods.md 3.2 (a)", {}, {"gram"}),
    };
    return methods;
}

Result<std::vector<int>> allocate(const std::string& method, const ModelShape& shape, const AllocationRequest& request,
                                  const Params& params)
{
    const auto it = std::find_if(allocators().begin(), allocators().end(), [&](const MethodInfo& m) { return m.id == method; });
    if (it == allocators().end()) {
        Error error = usageError(fmt::format("There is no allocator \"{}\".", method), "See `espalier-engine methods --slot allocate`.");
        error.code = "method.unknown";
        error.subject = method;
        return error;
    }
    ESPALIER_TRY(const Params checked, checkParams(*it, params));
    const MoeLayers layers = moeLayers(shape, request.plan);
    const std::size_t n = layers.index.size();
    if (n == 0) return badInput("allocate.no_experts", shape.modelType, "The model has no expert layers.");

    if (request.uniformCount) {
        ESPALIER_TRY(const std::vector<int> counts, equalCounts(layers, request.keepTotal));
        return spread(shape, layers, counts);
    }

    std::vector<double> importance;
    if (method != "uniform") {
        if (request.layerImportance.size() != shape.layers.size())
            return badInput("allocate.no_importance", method, fmt::format("The allocator \"{}\" needs layer importance.", method),
                            "Measure a profile and score it with leave-one-out.");
        for (const int layer : layers.index)
            importance.push_back(request.layerImportance[static_cast<std::size_t>(layer)]);
    }

    std::vector<double> utility(n);
    if (method == "inverse") {
        // P_l proportional to 1 / (I_l + eps), cap n_l - floor: the pruned counts are the budget.
        BudgetLimits pruned;
        int total = -request.keepTotal;
        for (std::size_t i = 0; i < n; ++i) {
            const int experts = shape.layers[static_cast<std::size_t>(layers.index[i])].experts;
            utility[i] = 1.0 / (importance[i] + kEpsilon);
            pruned.low.push_back(experts - layers.limits.high[i]);
            pruned.high.push_back(experts - layers.limits.low[i]);
            total += experts;
        }
        ESPALIER_TRY(std::vector<int> counts, fillBudget(utility, pruned, total));
        for (std::size_t i = 0; i < n; ++i)
            counts[i] = shape.layers[static_cast<std::size_t>(layers.index[i])].experts - counts[i];
        return spread(shape, layers, counts);
    }
    const double alpha = method == "importance" ? checked.at("alpha").get<double>() : 0.0;
    for (std::size_t i = 0; i < n; ++i) {
        // Uniform keeps the same share of every layer; importance weighs counts as the paper does, equal widths assumed.
        const double experts = shape.layers[static_cast<std::size_t>(layers.index[i])].experts;
        utility[i] = method == "uniform" ? experts : std::pow(importance[i] + kEpsilon, alpha);
    }
    ESPALIER_TRY(const std::vector<int> counts, fillBudget(utility, layers.limits, request.keepTotal));
    return spread(shape, layers, counts);
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
        return usageError(fmt::format("\"{}\" is not a share or count of {} experts.", text, total),
                          "Write for example 75%, 0.75, 96/128 or a number of experts.");
    return static_cast<int>(std::floor(kept + 0.5));
}

}  // namespace espalier
