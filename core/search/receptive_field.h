// Block-wise KT receptive field of MoE-I2 (methods.md 3.4): which of the K best sets of each layer work together. Blocks of T
// consecutive MoE layers run as real decoder layers, with attention, residual and norms, front to back on what the already chosen
// layers below put out; the combination whose output is nearest to the unpruned block's wins. Layer counts stay as they are.
//
//   (k_1 .. k_T)* = argmin || g_b(X) - g_b(X; S_{1,k1}, .., S_{T,kT}) ||_F
//
// Combinations that begin alike share their layer runs (4.6): K + K^2 + .. + K^T instead of T K^T, depth first, so that T residual
// streams are alive. No ATen in this header; runs on the model's compute thread.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "plan/compression_plan.h"
#include "search/selector.h"
#include "tokenizer/windows.h"

#include <cstdint>
#include <functional>
#include <vector>

namespace espalier
{

class MoeModel;

struct BlockTrial {
    std::vector<int> choice;  // per MoE layer of the block: index into Selection::best
    double loss = 0;          // Frobenius norm over the residual stream after the block's last decoder layer

    bool operator==(const BlockTrial&) const = default;
};

struct FieldBlock {
    std::vector<int> moeLayers;
    int firstLayer = 0;  // decoder layers, inclusive: dense layers in front of a MoE layer run with it, those after the last MoE
    int lastLayer = 0;   // layer with the last block
    double referenceNorm = 0;
    std::vector<BlockTrial> trials;  // all of them, in lexicographic order of the choice
    BlockTrial best;                 // ties: the first
    // Decoder layers run over all windows: by the trials, and for the reference. What the two share is counted once, as reference.
    int trialRuns = 0;
    int referenceRuns = 0;

    bool operator==(const FieldBlock&) const = default;
};

Json toJson(const FieldBlock& block);
Result<FieldBlock> fieldBlockFromJson(const Json& value);

enum class BlockReference {
    SameInput,        // the unpruned block on the same X
    DenseTrajectory,  // what the unpruned model puts out there
};

// Several processes can share the windows: all call chooseByBlocks with the same arguments and their own share, and all get the same field,
// the one that a single process finds.
struct FieldShare {
    int part = 0;  // of this process, 0 <= part < parts
    int parts = 1;
    // Everyone's part in order, for everyone; fails in all where one has failed. Not called where there is one process.
    std::function<Result<std::vector<Json>>(const Json&)> exchange = {};
};

struct ReceptiveFieldOptions {
    int sets = 3;       // K
    int blockSize = 3;  // T
    BlockReference reference = BlockReference::SameInput;
    int windows = 16;  // the first ones; 0 = all
    // Residual streams alive at a time beside X: more windows run together when it allows, which saves reading streamed weights again.
    std::int64_t streamBytes = std::int64_t{1} << 30;
    std::vector<FieldBlock> finished = {};                // leading blocks of an earlier run with the same inputs
    std::function<void(const FieldBlock&)> onBlock = {};  // for every block that gets finished
    FieldShare share = {};
};
// Error: search.bad_option (usage).
Status checkFieldOptions(const ReceptiveFieldOptions& options);

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
