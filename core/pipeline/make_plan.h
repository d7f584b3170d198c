// From a profile to a plan: allocate, select, choose by blocks, rank. What `plan`, `compress` and the window's pipeline share. Takes values
// and gives values: progress, stop and partial results go through the job, what is finished through the journal. On the model's compute
// thread.
#pragma once

#include "allocate/allocator.h"
#include "base/error.h"
#include "base/job.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "pipeline/plan_recipe.h"
#include "plan/factor_source.h"
#include "rpc/protocol_plan.h"
#include "search/plan_search.h"
#include "search/receptive_field.h"
#include "search/selector.h"
#include "statistics/profile_data.h"
#include "tokenizer/windows.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

class Evaluator;
class MoeModel;
class PlanJournal;
class WorkShare;

struct PlanInputs {
    std::shared_ptr<const Checkpoint> checkpoint;
    const ProfileData& profile;
    std::string profileSha256;
    CompressionPlan base;  // locks, protection; ranks of experts that stay
    // The model on the calibration text: for the receptive field and the allocators that measure, called whenever it is needed, ready for
    // the factors of `base`. May be empty.
    std::function<Result<MoeModel*>()> model = {};
    std::optional<TokenWindows> windows = {};  // the text given, or the profile's own windows
    std::string missingWindows = {};           // of the profile's text, for people; empty when all are there
    Evaluator* evaluator = nullptr;            // of this model on these windows, where there is one
    PlanJournal* journal = nullptr;            // what an earlier run finished, and where this one records; may be null
    std::optional<TokenWindows> locked = {};   // text that no search sees, measured once at the end
    BatchFactory batch = {};                   // of the searches, for SelectOptions
    WorkShare* processes = nullptr;            // that make the same plan and share layers and windows; null: one
    // Of the stage "recover": where it keeps what it finished, and its values file in the folder "values" there (the caller moves that
    // beside the plan); and the profiles and values files that a plan reads.
    std::filesystem::path recoverFolder = {};
    std::function<Result<FactorSources>(const CompressionPlan&)> sources = {};
    bool recoverOnly = false;  // `base` is what is recovered, as it is: no other stage runs
};

struct PlanStage {
    std::string name;  // "allocate", "select", "receptive-field", "rank", "finals", "recover"; for some sizes "size" (below)
    double seconds = 0;
    Json detail;
};

struct PlanOutcome {
    CompressionPlan plan;
    std::vector<int> keep;              // per decoder layer
    std::vector<Selection> selections;  // per decoder layer
    std::optional<ReceptiveField> receptiveField;
    std::optional<PlanSearchResult> search;  // of the verified allocator
    std::optional<RecoverSummary> recovery;  // of the stage "recover"
    std::optional<ValuesInfo> values;        // of the stage "recover", where its result was accepted
    std::vector<PlanStage> stages;
    std::vector<std::string> warnings;
};

// Hash of everything that a search's finished parts depend on: model, profile, recipe, start plan, text, compute type ("fp32", "bf16"),
// version.
std::string searchKey(const PlanInputs& inputs, const PlanRecipe& recipe, const std::string& computeType);

// Partial results, each with "stage":
//   "allocate"         those of layerCurves and searchPlans
//   "select"           {"plan","keep"} once: what the search improves on; then those of selectLayers; {"layer","finished","kept",
//                      "best_loss","reference_loss","output_norm","evaluated","trace"} for every layer that ends
//   "receptive-field"  those of chooseByBlocks
//   "rank"             {"plan"}
//   "finals"           a FinalistRecovered for every plan of the verified search that was recovered to be compared
//   "recover"          {"plan"} once: what is going to be recovered; then those of recoverPlan
// For a size that counts and rank rule have to meet together, counts are found by arithmetic (pipeline/size_fit.h) and every stage runs
// once. A stage "size" follows where what was searched turned out larger: {"excess","experts","bytes"}, what it gave back. Every "plan" is
// complete and valid. Progress counts thousandths of the whole (phase "search"). Errors: those of the parts and of checkRecipe,
// profile.missing_statistics before anything runs, plan.text_needed (usage) where a stage runs the model and there are no windows;
// cancelled.
Result<PlanOutcome> makePlan(const PlanInputs& inputs, const PlanRecipe& recipe, JobContext& job);

Json toJson(const PlanStage& stage);

}  // namespace espalier
