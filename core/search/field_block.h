// Values of the block-wise receptive field (search/receptive_field.h): what it is asked for, and what it found for one block. Nothing here
// runs the model.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "base/work_share.h"

#include <cstdint>
#include <functional>
#include <vector>

namespace espalier
{

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

struct ReceptiveFieldOptions {
    int sets = 3;       // K
    int blockSize = 3;  // T
    int windows = 16;   // the first ones; 0 = all
    // Residual streams alive at a time beside X: more windows run together when it allows, which saves reading streamed weights again.
    std::int64_t streamBytes = std::int64_t{1} << 30;
    std::vector<FieldBlock> finished = {};                // leading blocks of an earlier run with the same inputs
    std::function<void(const FieldBlock&)> onBlock = {};  // for every block that gets finished
    // Several processes can share the windows: all call chooseByBlocks with the same arguments and their own share, and all get the same
    // field, the one that a single process finds. Null: one.
    WorkShare* share = nullptr;
};
// Error: search.bad_option (usage).
Status checkFieldOptions(const ReceptiveFieldOptions& options);

}  // namespace espalier
