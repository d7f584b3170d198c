// Values of the block-wise receptive field (search/receptive_field.h): what it is asked for, and what it found for one block. Nothing here
// runs the model.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "base/work_share.h"
#include "rpc/plan_event.h"

#include <cstdint>
#include <functional>
#include <vector>

namespace espalier
{

// A block as a search keeps it, or as chooseByBlocks told of it (rpc/plan_event.h), read back. Error: search.invalid.
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
