#include "model/residence.h"

#include "base/text.h"
#include "model/layer_weights.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

// For activations, and for what an operation holds beside the weights; and for the program itself, with the kernels that are generated.
std::int64_t roomToCompute(std::int64_t budget)
{
    return std::min(budget / 8, std::int64_t{512} << 20) + std::min(budget / 16, std::int64_t{128} << 20);
}

struct Sizes {
    std::int64_t head = 0;
    std::int64_t headBlock = 0;
    std::int64_t all = 0;      // head included
    std::int64_t largest = 0;  // layer
    std::int64_t fixed = 0;    // of a layer without its routed experts
    std::int64_t expert = 0;
    std::int64_t reading = 0;  // an expert, and a matrix on its way into the layout of the products
    int experts = 0;           // of a layer, at most
};

Sizes sizesOf(const ModelShape& shape, std::int64_t valueBytes)
{
    Sizes sizes;
    // Rows of the embedding are read where they lie in the file.
    sizes.head = (shape.tiedEmbeddings ? shape.embeddingParameters : shape.embeddingParameters / 2) * valueBytes;
    sizes.headBlock = std::min(
        sizes.head, headBlockRows(std::max(shape.vocabularySize, 1), std::max(shape.hiddenSize, 1)) * shape.hiddenSize * valueBytes);
    sizes.all = sizes.head;
    for (const LayerShape& layer : shape.layers) {
        const std::int64_t fixed = (layer.otherParameters + layer.experts * layer.routerParametersPerExpert) * valueBytes;
        const std::int64_t expert = layer.expertParameters * valueBytes;
        const std::int64_t matrix = std::int64_t{shape.hiddenSize} * layer.expertWidth * valueBytes;
        sizes.all += fixed + layer.experts * expert;
        sizes.largest = std::max(sizes.largest, fixed + layer.experts * expert);
        sizes.fixed = std::max(sizes.fixed, fixed);
        sizes.expert = std::max(sizes.expert, expert);
        sizes.reading = std::max(sizes.reading, expert + matrix);
        sizes.experts = std::max(sizes.experts, layer.experts);
    }
    return sizes;
}

std::int64_t layerBytes(const LayerShape& layer, std::int64_t valueBytes)
{
    return (layer.otherParameters + layer.experts * (layer.expertParameters + layer.routerParametersPerExpert)) * valueBytes;
}

// A layer does not fit: what is left after the rest of it and the experts that are being read holds experts.
void holdSomeExperts(const Sizes& sizes, std::int64_t budget, std::int64_t room, int threads, Residence& residence)
{
    residence.holding.headInBlocks = sizes.headBlock < sizes.head;
    // The reverse pass makes row-major copies of what a layer always holds.
    const std::int64_t beside = room + sizes.headBlock + 2 * sizes.fixed;
    const std::int64_t most = sizes.reading > 0 ? (budget - beside) / sizes.reading : 0;
    residence.holding.mostRead = static_cast<int>(std::clamp<std::int64_t>(most, 1, threads));
    const std::int64_t left = budget - beside - residence.holding.mostRead * sizes.reading;
    residence.holding.experts = sizes.expert > 0 ? static_cast<int>(std::clamp<std::int64_t>(left / sizes.expert, 0, sizes.experts)) : 0;
    residence.spare = room + std::max<std::int64_t>(left - residence.holding.experts * sizes.expert, 0);
    residence.streamed = 2 * sizes.fixed + residence.holding.mostRead * sizes.reading + residence.holding.experts * sizes.expert;
    if (left < 0)
        residence.warnings.push_back(
            fmt::format("The memory budget of {} is too small for this model: one expert, the rest of its layer and room to compute in "
                        "take {} already. "
                        "That much is used.",
                        formatBytes(budget), formatBytes(budget - left)));
    else
        residence.warnings.push_back(
            fmt::format("A layer of this model takes {} here and does not fit the memory budget of {}: {} of its {} experts are held at a "
                        "time, the others "
                        "are converted whenever they are used, which is slower. From {} on whole layers fit.",
                        formatBytes(sizes.largest), formatBytes(budget), residence.holding.experts, sizes.experts,
                        formatBytes((sizes.headBlock + sizes.largest) * 16 / 13)));
}

}  // namespace

Residence residenceOf(const ModelShape& shape, std::int64_t valueBytes, const ModelOptions& options, bool blocks)
{
    const Sizes sizes = sizesOf(shape, valueBytes);
    const auto layers = static_cast<int>(shape.layers.size());
    const std::int64_t budget = options.memoryBudget;
    const std::int64_t room = roomToCompute(budget);
    Residence residence;
    WeightStore::Holding& holding = residence.holding;
    if (options.residency == Residency::Resident || (options.residency == Residency::Auto && sizes.all + room <= budget)) {
        holding.layers = layers;
        residence.spare = std::max<std::int64_t>(budget - sizes.all, 0);
        return residence;
    }
    std::int64_t left = budget - room - sizes.head - 2 * sizes.largest;
    holding.readAhead = left >= 0;
    if (!holding.readAhead) left += sizes.largest;
    if (left < 0 && blocks) {
        left += sizes.head - sizes.headBlock;
        if (left < 0) {
            holdSomeExperts(sizes, budget, room, options.threads, residence);
            return residence;
        }
        holding.headInBlocks = sizes.headBlock < sizes.head;
    }
    while (options.residency == Residency::Auto && holding.layers < layers &&
           left >= layerBytes(shape.layers[static_cast<std::size_t>(holding.layers)], valueBytes))
        left -= layerBytes(shape.layers[static_cast<std::size_t>(holding.layers++)], valueBytes);
    residence.spare = std::max<std::int64_t>(left, 0) + room;
    residence.streamed = (holding.readAhead ? 2 : 1) * sizes.largest;
    return residence;
}

}  // namespace espalier
