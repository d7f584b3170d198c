// Block-wise KT receptive field of MoE-I2 (arXiv 2411.01016, eq. 4): which of the K best sets of each layer work together. Blocks of T
// consecutive MoE layers run as real decoder layers, with attention, residual and norms, front to back on what the already chosen
// layers below put out; the combination whose output is nearest to the unpruned block's wins. Layer counts stay as they are.
//
//   (k_1 .. k_T)* = argmin || g_b(X) - g_b(X; S_{1,k1}, .., S_{T,kT}) ||_F
//
// Combinations that begin alike share their layer runs: K + K^2 + .. + K^T instead of T K^T, depth first, so that T residual
// streams are alive. No ATen in this header; runs on the model's compute thread.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "plan/compression_plan.h"
#include "search/field_block.h"
#include "search/selector.h"
#include "tokenizer/windows.h"

#include <vector>

namespace espalier
{

class MoeModel;

struct ReceptiveField {
    std::vector<FieldBlock> blocks;
    std::vector<int> choice;  // per decoder layer, 0 where there was none: see applySelections
    CompressionPlan plan;     // base with the chosen sets
};

// `selections`: per decoder layer, as selectLayers returns them. Layers that are locked in `base` or have no selection run as `base`
// has them. Progress counts (layer, window group) runs; every finished block is handed to job.partial (its JSON, with the plan
// so far as "plan"), and a stop is honoured between two layer runs.
// Errors: search.shape, search.bad_option (Usage), text.too_short, plan.*, model.*, cancelled.
Result<ReceptiveField> chooseByBlocks(MoeModel& model, const TokenWindows& windows, const std::vector<Selection>& selections,
                                      const CompressionPlan& base, const ReceptiveFieldOptions& options, JobContext& job);

}  // namespace espalier
