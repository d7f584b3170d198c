#include "rpc/plan_recipe.h"

namespace espalier
{

namespace
{

int boundOf(const std::map<int, int>& bounds, int layer, int otherwise)
{
    for (const int key : {layer, CountBounds::kAllLayers})
        if (const auto it = bounds.find(key); it != bounds.end()) return it->second;
    return otherwise;
}

std::vector<int> perLayer(const std::map<int, int>& bounds, const ModelShape& shape, bool lower)
{
    if (bounds.empty()) return {};
    std::vector<int> values;
    for (const LayerShape& layer : shape.layers)
        values.push_back(boundOf(bounds, layer.index, lower ? 0 : layer.experts));
    return values;
}

}  // namespace

std::vector<int> CountBounds::floors(const ModelShape& shape) const { return perLayer(least, shape, true); }
std::vector<int> CountBounds::caps(const ModelShape& shape) const { return perLayer(most, shape, false); }
bool CountBounds::allow(int layer, int count) const
{
    return count >= boundOf(least, layer, 0) && count <= boundOf(most, layer, count) && count % multipleOf == 0;
}

Params PlanRecipe::paramsOf(const std::string& slot) const
{
    const auto it = params.find(slot);
    return it == params.end() ? Params() : it->second;
}

}  // namespace espalier
