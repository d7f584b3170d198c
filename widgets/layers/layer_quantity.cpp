#include "layers/layer_quantity.h"

#include "look/format.h"
#include "plan/plan_rules.h"
#include "plan/rank_edit.h"

#include <QCoreApplication>

#include <algorithm>

namespace espalier
{

namespace
{
const LayerShape& layerOf(const ModelShape& shape, int layer) { return shape.layers[static_cast<std::size_t>(layer)]; }
QString tr(const char* text) { return QCoreApplication::translate("LayerQuantity", text); }
}  // namespace

int quantityOf(LayerQuantity quantity, const ModelShape& shape, const CompressionPlan& plan, int layer)
{
    return quantity == LayerQuantity::Kept ? static_cast<int>(plan.layer(layer).kept().size()) : meanLevelOf(shape, plan, layer);
}

int leastOf(LayerQuantity quantity, const ModelShape& shape, const CompressionPlan& plan, int layer)
{
    if (quantity == LayerQuantity::Rank) return 1;
    return fewestExperts(layerOf(shape, layer), plan.layer(layer));
}

int mostOf(LayerQuantity quantity, const ModelShape& shape, int layer)
{
    return quantity == LayerQuantity::Kept ? layerOf(shape, layer).experts : denseLevel(shape, layer);
}

int scaleOf(LayerQuantity quantity, const ModelShape& shape)
{
    if (quantity == LayerQuantity::Kept) return shape.maxExperts();
    int most = 0;
    for (const LayerShape& layer : shape.layers)
        most = std::max(most, breakEvenOf(shape, layer.index));
    return most;
}

int stepOf(LayerQuantity quantity, const ModelShape& shape, int layer, bool coarse)
{
    if (quantity == LayerQuantity::Kept) return coarse ? 5 : 1;
    return rankStep(breakEvenOf(shape, layer), coarse);
}

int steppedOf(LayerQuantity quantity, const ModelShape& shape, int layer, int value, int direction, bool coarse)
{
    const int step = stepOf(quantity, shape, layer, coarse);
    if (quantity == LayerQuantity::Kept) return value + direction * step;
    return direction > 0 ? (value / step + 1) * step : ((value + step - 1) / step - 1) * step;
}

QString quantityText(LayerQuantity quantity, const ModelShape& shape, int layer, int value)
{
    if (quantity == LayerQuantity::Kept) return format::keptOf(value, layerOf(shape, layer).experts);
    if (rankOfLevel(shape, layer, value) == 0) return tr(QT_TRANSLATE_NOOP("LayerQuantity", "dense"));
    return tr(QT_TRANSLATE_NOOP("LayerQuantity", "mean rank %1")).arg(format::count(value));
}

QString quantityNumber(LayerQuantity quantity, const ModelShape& shape, int layer, int value)
{
    if (quantity == LayerQuantity::Rank && rankOfLevel(shape, layer, value) == 0) return tr(QT_TRANSLATE_NOOP("LayerQuantity", "dense"));
    return format::count(value);
}

}  // namespace espalier
