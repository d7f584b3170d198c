#include "statistics/statistic.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

bool never(const LayerProfile&) { return false; }

}  // namespace

const std::vector<StatisticInfo>& statistics()
{
    static const std::vector<StatisticInfo> table = {
        {.id = "counts",
         .help = "how often, and with how much weight, each expert is chosen",
         .with = {},
         .there = [](const LayerProfile& layer) { return !layer.softMass.empty(); }},
        {.id = "ean",
         .help = "norms of the experts' outputs",
         .with = {},
         .there = [](const LayerProfile& layer) { return !layer.norm.empty(); }},
        {.id = "reap",
         .help = "norms times routing weights",
         .with = {},
         .there = [](const LayerProfile& layer) { return !layer.weightedNormRaw.empty(); }},
        {.id = "gram",
         .help = "products of the experts' outputs on a sample of tokens",
         .with = {},
         .there = [](const LayerProfile& layer) { return layer.gram.listLength > 0; }},
        {.id = "outputs",
         .help = "mean and spread of each expert's output",
         .with = {},
         .there = [](const LayerProfile& layer) { return !layer.outputs.empty(); }},
        {.id = "similarity",
         .help = "cosine of the hidden states before and after each layer",
         .with = {},
         .there = [](const LayerProfile& layer) { return !layer.similarity.empty(); }},
        {.id = "channels",
         .help = "energy of each channel of each expert",
         .with = {},
         .there = [](const LayerProfile& layer) { return !layer.channels.empty(); }},
        {.id = "gradients",
         .help = "what each expert's output does to the NLL, on the same sample",
         .with = {},
         .there = [](const LayerProfile& layer) { return !layer.gradients.products.empty(); }},
        {.id = "curvature",
         .help = "the same for labels drawn from the model",
         .with = {"gradients"},
         .there = [](const LayerProfile& layer) { return !layer.gradients.drawnProducts.empty(); }},
        {.id = "curves",
         .help = "error of every rank",
         .with = {},
         .sums = false,
         .there = [](const LayerProfile& layer) { return layer.spectrumLength > 0; }},
        {.id = "factors", .help = "bases of the factors", .with = {"curves"}, .sums = false, .file = true, .there = never},
        {.id = "moments", .help = "second moments of the experts' inputs, for merging", .with = {}, .file = true, .there = never},
    };
    return table;
}

const StatisticInfo* findStatistic(std::string_view id)
{
    for (const StatisticInfo& info : statistics())
        if (info.id == id) return &info;
    return nullptr;
}

const std::vector<StatisticStore>& statisticStores()
{
    static const std::vector<StatisticStore> table = {routingCountStore(),    activationNormStore(), rankGainStore(),  outputEnergyStore(),
                                                      spectrumStore(),        outputMomentStore(),   gramStoreStore(), gradientStore(),
                                                      layerSimilarityStore(), channelSumStore()};
    return table;
}

void expectFit(bool condition, const LayerProfile& layer, std::string_view what)
{
    if (!condition) throw StatisticMisfit(fmt::format("layer {}: {} does not fit", layer.layer, what));
}

bool allFinite(std::span<const double> values)
{
    return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

bool allFinite(std::span<const float> values)
{
    return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

}  // namespace espalier
