#include "plan/plan_edit.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace espalier
{

namespace
{

// The same layer with another body behind each column; null drops the column.
template <typename Choose>
LayerPlan rebuilt(const LayerPlan& now, int experts, Choose&& choose)
{
    LayerPlan::Content next = now.content();
    next.columns.clear();
    next.bodies.clear();
    std::map<const Body*, int> numbers;  // merged experts stay merged
    for (int expert = 0; expert < experts; ++expert) {
        const Body* before = now.bodyOf(expert);
        std::optional<Body> body = choose(expert, before);
        if (!body) continue;
        const int number = static_cast<int>(next.bodies.size());
        const bool same = before && *body == *before;
        const int behind = same ? numbers.emplace(before, number).first->second : number;
        next.columns.push_back({.expert = expert, .body = behind});
        if (behind == number) next.bodies.push_back(std::move(*body));
    }
    return LayerPlan(std::move(next));
}

Body asItIs(int expert) { return ExpertBody{.sources = {expert}, .channels = {}, .matrices = {}}; }

Status checkHasExperts(const ModelShape& shape, const CompressionPlan& plan, int layer)
{
    if (layer >= 0 && layer < static_cast<int>(shape.layers.size()) && shape.layers[static_cast<std::size_t>(layer)].moe &&
        plan.layer(layer).runsExperts())
        return {};
    return badInput("plan.unknown_layer", fmt::format("layer {}", layer), {"Layer {layer} has no experts.", {{"layer", layer}}});
}

}  // namespace

Result<CompressionPlan> withKeptAnd(const ModelShape& shape, const CompressionPlan& plan, int layer, const ExpertSet& kept,
                                    std::optional<ConstantKind> rest)
{
    ESPALIER_CHECK_OK(checkHasExperts(shape, plan, layer));
    const int experts = shape.layers[static_cast<std::size_t>(layer)].experts;
    return plan.with(shape, layer, rebuilt(plan.layer(layer), experts, [&](int expert, const Body* body) -> std::optional<Body> {
                         if (std::binary_search(kept.begin(), kept.end(), expert))
                             return body && std::holds_alternative<ExpertBody>(*body) ? *body : asItIs(expert);
                         if (!rest) return std::nullopt;
                         return Body(ConstantBody{.kind = *rest, .values = {}});
                     }));
}

Result<CompressionPlan> withConstant(const ModelShape& shape, const CompressionPlan& plan, int layer, int expert, ConstantKind kind)
{
    return withConstants(shape, plan, layer, {expert}, kind);
}

Result<CompressionPlan> withConstants(const ModelShape& shape, const CompressionPlan& plan, int layer, const ExpertSet& experts,
                                      ConstantKind kind)
{
    ESPALIER_CHECK_OK(checkHasExperts(shape, plan, layer));
    const int all = shape.layers[static_cast<std::size_t>(layer)].experts;
    return plan.with(shape, layer, rebuilt(plan.layer(layer), all, [&](int expert, const Body* body) -> std::optional<Body> {
                         if (std::binary_search(experts.begin(), experts.end(), expert))
                             return Body(ConstantBody{.kind = kind, .values = {}});
                         return body ? std::optional<Body>(*body) : std::nullopt;
                     }));
}

Result<CompressionPlan> withDropped(const ModelShape& shape, const CompressionPlan& plan, int layer, const ExpertSet& experts)
{
    ESPALIER_CHECK_OK(checkHasExperts(shape, plan, layer));
    const int all = shape.layers[static_cast<std::size_t>(layer)].experts;
    return plan.with(shape, layer, rebuilt(plan.layer(layer), all, [&](int expert, const Body* body) -> std::optional<Body> {
                         if (!body || std::binary_search(experts.begin(), experts.end(), expert)) return std::nullopt;
                         return *body;
                     }));
}

Result<CompressionPlan> withDroppedAs(const ModelShape& shape, const CompressionPlan& plan, std::optional<ConstantKind> kind)
{
    CompressionPlan next = plan;
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe || plan.isFixed(layer.index)) continue;
        ESPALIER_TRY(next, withKeptAnd(shape, next, layer.index, next.layer(layer.index).kept(), kind));
    }
    return next;
}

Result<CompressionPlan> withTopK(const ModelShape& shape, const CompressionPlan& plan, int layer, int topK)
{
    ESPALIER_CHECK_OK(checkHasExperts(shape, plan, layer));
    LayerPlan::Content next = plan.layer(layer).content();
    // Said only where it differs, so that a plan has one form.
    next.topK = topK == shape.layers[static_cast<std::size_t>(layer)].router.topK ? std::nullopt : std::optional(topK);
    return plan.with(shape, layer, LayerPlan(std::move(next)));
}

Result<CompressionPlan> withLinearForm(const ModelShape& shape, const CompressionPlan& plan, int layer, const LinearId& linear,
                                       const MatrixForm& form)
{
    LayerPlan::Content next = plan.layer(layer).content();
    const auto at = std::lower_bound(next.linears.begin(), next.linears.end(), linear,
                                     [](const auto& entry, const LinearId& wanted) { return entry.first < wanted; });
    const bool there = at != next.linears.end() && at->first == linear;
    if (form.isSource()) {
        if (!there) return plan;
        next.linears.erase(at);
    } else if (there) {
        at->second = form;
    } else {
        next.linears.emplace(at, linear, form);
    }
    return plan.with(shape, layer, LayerPlan(std::move(next)));
}

Result<CompressionPlan> withMergedLayer(const ModelShape& shape, const CompressionPlan& plan, int layer, std::optional<LayerMerge> merge)
{
    LayerPlan::Content next = plan.layer(layer).content();
    next.mergedFrom = std::move(merge);
    return plan.with(shape, layer, LayerPlan(std::move(next)));
}

Result<CompressionPlan> withSkipRule(const ModelShape& shape, const CompressionPlan& plan, int layer, std::optional<SkipRule> rule)
{
    ESPALIER_CHECK_OK(checkHasExperts(shape, plan, layer));
    LayerPlan::Content next = plan.layer(layer).content();
    next.skip = rule;
    return plan.with(shape, layer, LayerPlan(std::move(next)));
}

Result<CompressionPlan> withRun(const ModelShape& shape, const CompressionPlan& plan, int layer, LayerRun run)
{
    if (layer < 0 || layer >= static_cast<int>(shape.layers.size()))
        return badInput("plan.unknown_layer", fmt::format("layer {}", layer),
                        {"The model has layers 0 to {layers}.", {{"layers", shape.layers.size() - 1}}});
    const LayerPlan& now = plan.layer(layer);
    if (now.run() == run) return plan;
    LayerPlan::Content next;
    next.run = run;
    if (run == LayerRun::Whole || run == LayerRun::ExpertsOnly) {
        const LayerPlan& from = now.runsExperts() ? now : LayerPlan::allOf(shape.layers[static_cast<std::size_t>(layer)].experts);
        next = from.content();
        next.run = run;
    }
    return plan.with(shape, layer, LayerPlan(std::move(next)));
}

}  // namespace espalier
