// The stage that chooses who stays, given how many: the search of core/search over all layers, shared between processes and kept in a
// journal; layers whose sampled tokens say too little are searched again on products of all experts. On the model's compute thread.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/work_share.h"
#include "pipeline/plan_journal.h"
#include "plan/compression_plan.h"
#include "search/selector.h"
#include "statistics/profile_data.h"
#include "tokenizer/windows.h"

#include <functional>
#include <string>
#include <vector>

namespace espalier
{

class MoeModel;

struct SelectRequest {
    const ModelShape& shape;
    const ProfileData& profile;
    const CompressionPlan& base;  // locks, protection
    std::vector<int> keep;        // per decoder layer
    std::string method;
    Params params;
    SelectOptions options;  // `finished` and `onLayer` belong to the stage
    JournalKeeper& journal;
    WorkShare& share;
    // For layers that are searched again; both may be missing, and then the warning of the search stands.
    std::function<Result<MoeModel*>()> model = {};
    const TokenWindows* windows = nullptr;
};

struct SelectAnswer {
    std::vector<Selection> selections;  // per decoder layer
    std::vector<std::string> warnings;  // of layers that were searched again
};

// job.partial: those of selectLayers, and {"layer","finished","kept","best_loss","reference_loss","output_norm","evaluated","trace"} for
// every layer that ends. Errors: those of selectLayers and of a profile pass, cancelled.
Result<SelectAnswer> selectSets(const SelectRequest& request, JobContext& job);

}  // namespace espalier
