#include "pipeline/drop_layers.h"

#include "plan/plan_edit.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

const std::vector<MethodInfo>& layerMethods()
{
    static const std::vector<MethodInfo> methods = [] {
        MethodInfo similarity;
        similarity.id = "similarity";
        similarity.title = "Most similar output";
        similarity.slot = Slot::Layers;
        similarity.help = "Leaves out the decoder layers that change the hidden state least.";
        similarity.needs = {"similarity"};
        similarity.source = "ShortGPT, arXiv 2403.03853";
        similarity.answers = {Answer::Layers};
        return std::vector<MethodInfo>{similarity};
    }();
    return methods;
}

Result<std::vector<int>> mostSimilarLayers(const ProfileData& profile, const CompressionPlan& plan, int count)
{
    std::vector<std::pair<double, int>> order;
    for (const LayerProfile& layer : profile.layers) {
        if (plan.isLocked(layer.layer) || plan.layer(layer.layer).run() != LayerRun::Whole) continue;
        if (layer.similarity.empty())
            return badInput("profile.missing_statistics", "similarity",
                            "The profile was taken without \"similarity\", which says how much each layer changes the hidden state.",
                            "Take the profile again: it is collected by default (or with --collect +similarity).");
        order.emplace_back(-layer.similarity.mean(), -layer.layer);
    }
    if (count < 1 || count >= static_cast<int>(order.size()))
        return usageError({"{count} layers cannot be left out of {order}.", {{"count", count}, {"order", order.size()}}},
                          "Leave some layers in.");
    std::sort(order.begin(), order.end());
    std::vector<int> layers;
    layers.reserve(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i)
        layers.push_back(-order[static_cast<std::size_t>(i)].second);
    std::sort(layers.begin(), layers.end());
    return layers;
}

Result<CompressionPlan> withoutLayers(const ModelShape& shape, const CompressionPlan& plan, const std::vector<int>& layers)
{
    CompressionPlan next = plan;
    for (const int layer : layers) {
        ESPALIER_TRY(next, withRun(shape, next, layer, LayerRun::Skipped));
    }
    const bool experts = std::any_of(shape.layers.begin(), shape.layers.end(),
                                     [&](const LayerShape& layer) { return layer.moe && next.layer(layer.index).runsExperts(); });
    if (!experts) return usageError("No layer with experts would be left.", "Leave out fewer layers.");
    return next;
}

}  // namespace espalier
