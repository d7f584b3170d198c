// One whole number per layer that curve and table show and edit: the experts kept, or the mean rank of those. Pure.
#pragma once

#include "plan/compression_plan.h"
#include "plan/model_shape.h"

#include <QString>

namespace espalier
{

enum class LayerQuantity {
    Kept,
    Rank  // on the scale of plan/rank_edit.h: one above break-even is dense
};

int quantityOf(LayerQuantity quantity, const ModelShape& shape, const CompressionPlan& plan, int layer);
int leastOf(LayerQuantity quantity, const ModelShape& shape, const CompressionPlan& plan, int layer);
int mostOf(LayerQuantity quantity, const ModelShape& shape, int layer);
// Upper end of an axis that all layers share: the most experts, or the largest break-even rank.
int scaleOf(LayerQuantity quantity, const ModelShape& shape);
int stepOf(LayerQuantity quantity, const ModelShape& shape, int layer, bool coarse);
// The next value for a key or notch: ranks move on multiples of the step.
int steppedOf(LayerQuantity quantity, const ModelShape& shape, int layer, int value, int direction, bool coarse);
// "33 of 60", "mean rank 460", "dense".
QString quantityText(LayerQuantity quantity, const ModelShape& shape, int layer, int value);
// The bare number for a cell: "33", "460", "dense".
QString quantityNumber(LayerQuantity quantity, const ModelShape& shape, int layer, int value);

}  // namespace espalier
