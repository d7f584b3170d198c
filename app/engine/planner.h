// From a profile to a plan: allocate, select, choose by blocks, rank. What `plan`, `compress` and the window's pipeline share. No ATen
// here.
#pragma once

#include "allocate/allocator.h"
#include "allocate/rank_rule.h"
#include "base/error.h"
#include "base/job.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "search/receptive_field.h"
#include "search/selector.h"
#include "search/verified_exchange.h"
#include "session/profile_data.h"
#include "tokenizer/windows.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

class MoeModel;

struct ReceptiveFieldChoice {
    int sets = 3;       // K
    int blockSize = 3;  // T
};

// Which method fills each slot, and for how much. Everything a plan depends on besides model, profile and text.
struct PlanRecipe {
    std::optional<int> keepTotal;       // routed experts kept; or
    std::optional<std::int64_t> bytes;  // the largest plan that is not larger than this
    bool uniformCount = false;
    std::string score = "leave-one-out";
    std::string allocate = "importance";
    std::string select = "ranking";
    std::optional<ReceptiveFieldChoice> receptiveField;
    bool ranks = false;
    std::string rankRule = "moe-i2";
    std::optional<double> averageRank;     // ranks without either: autoAverageRank of the layer's shape
    std::optional<double> decomposeShare;  // in [0, 1)
    std::string factors;                   // "whitened-svd", "svd"; empty: whitened where the profile has bases
    std::map<std::string, Params> params;  // by slot: score, allocate, select, rank
    std::uint64_t seed = 0;
    int threads = 0;
};

// Methods, parameters and target as they go into the plan file: no floating point numbers, so that equal plans are equal bytes.
Json toJson(const PlanRecipe& recipe);
// Errors: method.unknown (usage), naming the slot.
Status checkRecipe(const PlanRecipe& recipe);

struct PlanInputs {
    std::shared_ptr<const Checkpoint> checkpoint;
    const ProfileData& profile;
    std::string profileSha256;
    CompressionPlan base;  // locks, protection; ranks of experts that stay
    // The model on the calibration text: for the receptive field and the verified allocator, called when first needed. May be empty.
    std::function<Result<MoeModel*>()> model = {};
    std::optional<TokenWindows> windows = {};
    std::optional<TokenWindows> locked = {};  // text that no search sees, measured once at the end
};

struct PlanStage {
    std::string name;  // "allocate", "select", "receptive-field", "rank"
    double seconds = 0;
    Json detail;
};

struct PlanOutcome {
    CompressionPlan plan;
    std::vector<int> keep;              // per decoder layer
    std::vector<Selection> selections;  // per decoder layer
    std::optional<ReceptiveField> receptiveField;
    std::optional<ExchangeResult> exchange;  // of the verified allocator
    std::vector<PlanStage> stages;
    std::vector<std::string> warnings;
};

// Partial results: those of selectLayers, chooseByBlocks and exchangeVerified, each with "stage". Errors: those of the parts;
// plan.text_needed (usage) where a stage runs the model and no text was given; cancelled.
Result<PlanOutcome> makePlan(const PlanInputs& inputs, const PlanRecipe& recipe, JobContext& job);

Json toJson(const PlanStage& stage);

// Squared errors of all ranks of a profile with curves, weighted to the layer's output, as the rank rules take them.
std::shared_ptr<const RankCurves> rankCurvesOf(const ProfileData& profile);

}  // namespace espalier
