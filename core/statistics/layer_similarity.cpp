// "similarity": the sums, how they merge, and where they lie in the file.
#include "statistics/layer_similarity.h"

#include "statistics/statistic.h"

#include <cmath>

namespace espalier
{

double LayerSimilarity::mean() const noexcept { return tokens > 0 ? cosine / static_cast<double>(tokens) : 0.0; }

void LayerSimilarity::add(const LayerSimilarity& part) noexcept
{
    cosine += part.cosine;
    tokens += part.tokens;
}

StatisticStore layerSimilarityStore()
{
    StatisticStore store;
    store.denseLayers = true;
    store.minor = 5;
    store.there = [](const LayerProfile& layer) { return !layer.similarity.empty(); };
    store.bytes = [](const LayerProfile&) { return std::int64_t{2048}; };
    store.write = [](ArrayWriter& writer, const LayerProfile& layer) {
        const auto own = writer.group("similarity");
        own->write("cosine", std::vector<double>{layer.similarity.cosine});
        own->write("tokens", std::vector<std::int64_t>{layer.similarity.tokens});
    };
    store.read = [](const ArrayReader& reader, LayerProfile& layer) {
        if (!reader.has("similarity")) return;
        const auto own = reader.group("similarity");
        std::vector<double> cosine;
        std::vector<std::int64_t> tokens;
        own->read("cosine", cosine);
        own->read("tokens", tokens);
        // Rounding may carry a sum of ones a little beyond the number of tokens.
        expectFit(
            cosine.size() == 1 && tokens.size() == 1 && tokens[0] > 0 && std::abs(cosine[0]) <= static_cast<double>(tokens[0]) * (1 + 1e-9),
            layer, "similarity");
        layer.similarity = {.cosine = cosine[0], .tokens = tokens[0]};
    };
    store.sameForm = [](const LayerProfile& a, const LayerProfile& b) { return a.similarity.empty() == b.similarity.empty(); };
    store.add = [](LayerProfile& sum, const LayerProfile& part, const MergePlace&) { sum.similarity.add(part.similarity); };
    return store;
}

}  // namespace espalier
