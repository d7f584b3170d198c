#include "statistics/layer_similarity.h"

namespace espalier
{

double LayerSimilarity::mean() const noexcept { return tokens > 0 ? cosine / static_cast<double>(tokens) : 0.0; }

void LayerSimilarity::add(const LayerSimilarity& part) noexcept
{
    cosine += part.cosine;
    tokens += part.tokens;
}

}  // namespace espalier
