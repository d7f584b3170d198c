// The search behind the allocator "verified": the best plan of a size, by measuring. Whatever other methods propose is a candidate; what
// each layer is worth to the loss is measured with everything else whole; from that the exact solver proposes plans, races decide, what was
// measured corrects the expectations, and single exchanges between layers are tried as long as they measurably lower the loss.
// On the windows it is measured on the answer is not worse than any candidate, and it can be had at any time.
//
// An algorithm over callbacks: it runs no model and knows no profile. Everything happens on the calling thread and is deterministic.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/method_registry.h"
#include "base/statistics.h"
#include "plan/compression_plan.h"
#include "plan/model_shape.h"
#include "rpc/plan_event.h"
#include "search/plan_race.h"
#include "search/plan_surrogate.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

struct SearchCandidate {
    std::string name;  // for people: the allocator it came from
    CompressionPlan plan;
    bool guarded = false;  // the answer is compared with it on all windows before it is given
};

// Free layer (place in PlanSearchProblem::layers) and the option it takes.
using LayerChange = std::pair<std::size_t, LayerOption>;

struct PlanSearchProblem {
    ModelShape shape;
    std::vector<SearchCandidate> candidates;        // within the budget; may be empty where the options are not
    std::vector<int> layers;                        // free decoder layers, ascending
    std::vector<std::vector<LayerOption>> options;  // of each of them; the cheapest loss at every cost is not required
    std::int64_t budget = 0;                        // of the free layers together, in the unit of the options' costs
    bool exactly = false;                           // met exactly, as counts are; otherwise not exceeded
    bool uniformCount = false;                      // one count in all free layers
    CompressionPlan whole;                          // the free layers as they are in the model: what sensitivities are measured on
    CompressionPlan start;                          // what a choice of all layers is applied to
    // The plan with these layers in these forms, within the budget; nullopt: not possible.
    std::function<Result<std::optional<CompressionPlan>>(const CompressionPlan& from, const std::vector<LayerChange>& changes)> apply;
    // `whole` with this layer alone in this form, whatever it costs.
    std::function<Result<CompressionPlan>(const LayerChange& change)> alone;
    // What a free layer (decoder layer) of a plan costs.
    std::function<std::int64_t(const CompressionPlan& plan, int layer)> cost;
    MeasuredPlans::Measure measure;
    std::vector<std::vector<int>> groups;  // windows that are measured together, in the order in which races grow
    // Losses on text that no search has seen, for the start and the answer, once at the end. May be empty.
    std::function<Result<std::vector<WindowLoss>>(const CompressionPlan&)> measureLocked;
};

struct PlanSearchOptions {
    double seconds = 0;            // time limit; 0 = none
    double passes = 40;            // full passes of the model over all windows, at most; 0 = no limit
    std::vector<int> units = {1};  // experts per exchange
    int maxMoves = 0;              // accepted changes after the candidates; 0 = no limit
    int perRound = 8;              // exchanges that are raced together
    int quietRounds = 2;           // rounds without a gain after which nothing more is expected
    bool allWindows = true;        // the windows are all there are: any gain counts. Otherwise it must exceed two standard errors
    std::uint64_t seed = 0;
    std::function<double()> clock = {};  // seconds; empty: a steady clock
};

// A plan that left a race.
enum class PlanSearchEnd { Converged, TimeLimit, PassLimit, MoveLimit, Cancelled };

struct PlanSearchResult {
    CompressionPlan plan;
    std::vector<WindowLoss> losses;                // of the plan, on the windows measured
    std::string start;                             // name of the best candidate
    std::vector<PlanSearchStep> trace;             // everything that was raced, in order
    std::vector<double> layerRise;                 // per decoder layer: measured alone at the first count; NaN where not
    PairedDifference change;                       // plan - best candidate
    std::optional<PairedDifference> againstWhole;  // plan - whole
    std::optional<PairedDifference> againstFirst;  // plan - first candidate
    std::optional<PairedDifference> lockedChange;  // plan - best candidate on the locked text
    PlanSearchEnd end = PlanSearchEnd::Converged;
    int measured = 0;                // plans raced
    int moves = 0;                   // accepted after the candidates
    double passes = 0;               // full passes of the model that all measurements are worth
    std::int64_t rankGivenBack = 0;  // units, to stay within bytes: the caller's, who applies the changes
    // The plan, then what it was chosen from at first, by loss: candidates, and what the first measurements proposed. For who compares them
    // by something else than their loss.
    std::vector<SearchCandidate> finalists;
};

// job.partial: {"layer","alone"} for every layer measured alone; every step as toJson(step), with "plan", the whole plan, when it was
// accepted; {"plan"} for the best of the candidates after their first windows. job.progress counts thousandths of the time or of the passes
// that are allowed, whichever is nearer to its end. A stop and the limits end the search with the best plan so far; a stop before anything
// was measured is the error cancelled. Errors: search.no_candidates, search.shape, search.budget (a candidate costs more than the budget),
// and those of the callbacks.
Result<PlanSearchResult> searchPlans(const PlanSearchProblem& problem, const PlanSearchOptions& options, JobContext& job);

// The registry entry "verified" of the allocators' slot.
const MethodInfo& verifiedInfo();
// Parameters of that entry, checked, as options.
PlanSearchOptions planSearchOptions(const Params& params);

const char* planSearchEndName(PlanSearchEnd end);  // "converged", "time-limit", "pass-limit", "move-limit", "cancelled"

}  // namespace espalier
