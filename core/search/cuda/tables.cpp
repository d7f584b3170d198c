#include "search/cuda/tables.h"

#include "score/gram_loss.h"

#include <algorithm>

namespace espalier
{

Result<SetLossTables> setLossTables(const GramEvaluator& evaluator)
{
    const auto refuse = [](std::string message) {
        return unsupported("search.batch_router", "router", std::move(message), "Search this layer on the CPU.");
    };
    const GramStore& store = evaluator.store();
    SetLossTables tables;
    tables.tokens = evaluator.tokens();
    tables.experts = evaluator.experts();
    tables.listLength = store.listLength;
    tables.modelTopK = evaluator.reference().topK;
    tables.topK = evaluator.router().topK;
    tables.renormalised = evaluator.renormalised();
    tables.scale = evaluator.scale();
    tables.list = store.list;
    tables.products = store.products;
    tables.probability = evaluator.probabilities();
    tables.routedEnergy = evaluator.routedEnergy();
    if (!evaluator.plainOrder())
        return refuse("Losses of many sets at once are not there for a router that chooses groups of experts before experts.");
    if (tables.modelTopK > batched::kMaxTopK)
        return refuse("Losses of many sets at once are not there for a router that uses more than 24 experts per token.");
    if (tables.listLength < tables.modelTopK)
        return refuse("Losses of many sets at once need lists that hold at least the experts each token uses.");
    return tables;
}

namespace batched
{

Status check(const SetLossTables& tables)
{
    const auto refuse = [](std::string message) {
        return badInput("search.batch_tables", "layer", std::move(message), "Take the profile again.");
    };
    const auto tokens = static_cast<std::size_t>(std::max<std::int64_t>(tables.tokens, 0));
    const auto length = static_cast<std::size_t>(std::max(tables.listLength, 0));
    if (tables.tokens < 0 || tables.experts < 1 || tables.experts > ExpertBits::kCapacity || tables.topK < 1 ||
        tables.topK > tables.modelTopK || tables.modelTopK > kMaxTopK || tables.modelTopK > tables.listLength ||
        tables.listLength > tables.experts)
        return refuse("The sizes of a layer's tables contradict each other.");
    if (tables.list.size() != tokens * length || tables.products.size() != tokens * (length * (length + 1) / 2) ||
        tables.probability.size() != tokens * static_cast<std::size_t>(tables.experts) || tables.routedEnergy.size() != tokens)
        return refuse("The arrays of a layer's tables do not have the sizes that belong to its tokens and experts.");
    if (std::any_of(tables.list.begin(), tables.list.end(), [&](std::uint16_t e) { return e >= tables.experts; }))
        return refuse("A list of a layer's tables names an expert that the layer does not have.");
    return {};
}

std::vector<double> listProbability(const SetLossTables& tables)
{
    const auto length = static_cast<std::size_t>(tables.listLength);
    const auto experts = static_cast<std::size_t>(tables.experts);
    std::vector<double> values(tables.list.size());
    for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = tables.probability[i / length * experts + tables.list[i]];
    return values;
}

LayerTables layerTables(const SetLossTables& tables)
{
    LayerTables layer;
    layer.experts = tables.experts;
    layer.listLength = tables.listLength;
    layer.modelTopK = tables.modelTopK;
    layer.topK = tables.topK;
    layer.renormalised = tables.renormalised;
    layer.scale = tables.scale;
    layer.list = tables.list.data();
    layer.products = tables.products.data();
    layer.probability = tables.probability.data();
    layer.routedEnergy = tables.routedEnergy.data();
    return layer;
}

}  // namespace batched

}  // namespace espalier
