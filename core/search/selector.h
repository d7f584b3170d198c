// Slot X: which experts of a layer stay, given how many. Every method works on the exact layer loss from the Gram
// store of a profile, so that a candidate costs no forward pass. A new selector is one file in this folder and one line in selector.cpp.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/method_registry.h"
#include "plan/compression_plan.h"
#include "plan/expert_grid.h"
#include "statistics/profile_data.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

class BatchedSetLoss;
class GramEvaluator;
// Makes what evaluates many sets of a layer at once (search/cuda/batched_set_loss.h), or null where this layer is better searched without.
// Called from the thread that searches the layer.
using BatchFactory = std::function<Result<std::unique_ptr<BatchedSetLoss>>(const GramEvaluator&)>;

struct KeptSet {
    ExpertSet kept;
    double loss = 0;            // || Z - Z(kept) ||_F on the stored tokens; NaN without a Gram store (ranking only)
    double uncoveredShare = 0;  // of the tokens: charged their whole routed output

    bool operator==(const KeptSet&) const = default;
};

struct Selection {
    int layer = 0;
    std::vector<KeptSet> best;  // distinct, over everything evaluated; ascending loss, ties to the lexicographically lower set
    std::vector<double> trace;  // best loss so far after each generation or step, non-increasing
    std::int64_t evaluated = 0;
    double outputNorm = 0;      // ||MoE output||_F on the stored tokens: loss / outputNorm is comparable between layers
    double uncoveredShare = 0;  // of best[0]
    std::string warning;        // for people; not empty when more than 1 % of the tokens are uncovered
    // Loss of the set that SelectOptions::scores would choose at the same count: what the search gains. None for locked layers and
    // without scores or products.
    std::optional<double> referenceLoss = {};

    bool operator==(const Selection&) const = default;
};

Json toJson(const Selection& selection);
Result<Selection> selectionFromJson(const Json& value);

// ranking, exhaustive, greedy, genetic.
const std::vector<MethodInfo>& selectorMethods();

struct SelectOptions {
    int bestSets = 3;  // K best sets per layer
    std::uint64_t seed = 1;
    int threads = 0;                          // layers at a time; 0 = one per core
    std::optional<ExpertScores> scores = {};  // what `ranking` ranks by (leave-one-out importance when absent), and referenceLoss
    // Layers finished by an earlier run with the same settings: taken as they are.
    std::map<int, Selection> finished = {};
    // Called from the calling thread for every layer that gets finished, in the order in which they do.
    std::function<void(const Selection&)> onLayer = {};
    // Where there is one, the exhaustive and the genetic search evaluate their candidates by it. It decides what is worth a closer look,
    // never what is best: the answer is the same, as long as it is right to 1e-9. Its errors end the search.
    BatchFactory batch = {};
};

// The best sets of every layer at `keepPerLayer` (per decoder layer; ignored for dense ones), one Selection per decoder layer, empty
// for dense layers. A locked layer of `base` answers with what it keeps, protected experts are in every set, and routers with groups
// keep equally many experts of each. The same seed gives the same result for any number of threads. While it runs job.partial gets
// {"layer","generation","best_loss","reference_loss","enumerated","trace"} for curves, a few times a second for each layer. "enumerated":
// every set is tried, and what counts as a generation is a part of them.
// Errors: method.unknown, method.bad_parameter, search.keep_out_of_range, search.protected, search.too_many_sets, search.groups (Usage),
// profile.missing_statistics, score.shape (BadInput), cancelled.
Result<std::vector<Selection>> selectLayers(const ProfileData& profile, const std::string& method, const Params& params,
                                            const std::vector<int>& keepPerLayer, const CompressionPlan& base, const SelectOptions& options,
                                            JobContext& job);

// `base` with the set at `choice[layer]` of every selection (the best one where `choice` is empty). With `dropped` the others become
// constants.
Result<CompressionPlan> applySelections(const ModelShape& shape, const CompressionPlan& base, const std::vector<Selection>& selections,
                                        const std::vector<int>& choice = {});

// What one layer loses at every count: the input of the exact allocators.
struct LayerCurve {
    int layer = 0;
    int lowest = 0;                 // smallest count; element i belongs to count lowest + i, the last one to the whole layer
    std::vector<double> setLoss;    // loss of sets[i]
    std::vector<double> loss;       // D(m): setLoss made non-increasing in m by a running minimum from small m
    std::vector<double> uncovered;  // share of tokens of sets[i]
    std::vector<ExpertSet> sets;    // best set found of exactly that many experts
    double outputNorm = 0;
};

struct CurveOptions {
    bool swap = true;                    // improve every count by swaps after the elimination step
    std::optional<Params> genetic = {};  // also run the genetic search at every count (parameters; missing ones default)
    std::uint64_t seed = 1;
    int threads = 0;  // layers at a time
};

// One curve per MoE layer that is not locked, by backward elimination from the whole layer down to max(top-k, protected experts).
// Grouped routers: only counts that all groups can share are in the curve's sets; others repeat the next lower one.
// Errors: profile.missing_statistics, cancelled.
Result<std::vector<LayerCurve>> layerCurves(const ProfileData& profile, const CompressionPlan& base, const CurveOptions& options,
                                            JobContext& job);

// The curves as allocators take them: [decoder layer][m], infinite where a layer has no value. `relative` divides by the norm of the
// layer's output, so that layers can be compared.
std::vector<std::vector<double>> curveTable(const std::vector<LayerCurve>& curves, const ModelShape& shape, bool relative = true);

}  // namespace espalier
