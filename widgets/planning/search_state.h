// What is known of a running or ended search of the planner: per layer the best loss so far, measured plans, blocks of the receptive
// field, and the best plan so far. A value that grows by the engine's partial results; knows no engine and no widget.
#pragma once

#include "base/json.h"
#include "plan/compression_plan.h"
#include "planning/pipeline_recipe.h"
#include "rpc/plan_event.h"

#include <QDateTime>
#include <QString>
#include <QStringList>

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

namespace espalier
{

struct LayerSearch {
    std::vector<double> trace;        // best loss so far per generation, not increasing
    std::optional<double> best;       // ||Z - Z(kept)||, as the trace
    std::optional<double> reference;  // of the set that the score chooses, same count
    std::optional<double> outputNorm;
    ExpertSet kept;  // once finished
    std::int64_t evaluated = 0;
    int generation = -1;
    bool finished = false;
    bool enumerated = false;  // every set was tried, in steps that are no generations

    std::optional<double> gain() const;  // best / reference - 1
};

// One plan that the verified allocator measured.
struct MeasuredPlan {
    QString name;  // "uniform", "experts 3 → 1"
    double nll = 0;
    double change = 0;  // paired, to the plan that was best then
    double error = 0;
    std::optional<double> rise;    // of the loss against the whole model, paired on the windows measured
    std::optional<double> passes;  // full passes of the model until then
    int windows = 0;               // that it was measured on; 0: not said
    bool accepted = false;
};

struct SearchBlock {
    std::vector<int> layers;
    std::vector<double> trials;  // losses, in order; the first takes every layer's own best set
    std::vector<int> choice;     // of the best trial: which of the K sets, from 0
    double best = 0;

    std::optional<double> gain() const;  // best / first trial - 1
};

struct SearchState {
    enum class Phase { None, Running, Cancelling, Finished, Stopped, Cancelled, Failed };

    Phase phase = Phase::None;
    PipelineRecipe recipe;
    QString title;      // of the history entry
    QString name;       // in short
    QString scoreName;  // "reap"
    int generations = 0;
    bool stochastic = false;
    bool measures = false;     // the allocator measures plans on the model
    bool recoverOnly = false;  // new numbers for the plan it started from, and nothing else
    ModelShape shape;
    CompressionPlan base;  // the plan it started from

    std::string stage;  // "allocate", "select", "receptive-field", "rank", "finals", "recover"; empty: not begun
    std::map<int, LayerSearch> layers;
    int currentLayer = -1;        // that reported last
    std::map<int, double> alone;  // verified: rise of the loss when only this layer gives up its share
    std::vector<MeasuredPlan> measured;
    std::vector<SearchBlock> blocks;
    std::vector<FinalistRecovered> finalists;  // plans that were compared after recovery
    std::vector<RecoverPoint> recovery;        // trace of the recovery
    std::map<std::string, double> judged;      // nats per token on the windows that judge it, as RecoverJudged calls them
    int curves = 0;                            // layers whose error curve is known (allocate)
    std::optional<CompressionPlan> best;
    bool planReachesTarget = false;  // nothing that the target needs is still to come
    std::int64_t done = 0;
    std::int64_t total = 0;
    QDateTime started;
    QDateTime ended;
    double seconds = 0;
    QStringList notes;  // what the answer remarks

    bool running() const { return phase == Phase::Running || phase == Phase::Cancelling; }
    bool searches(int layer) const;  // MoE and not locked
    int layersToSearch() const;
    int layersFinished() const;
    int blocksToTry() const;
    std::vector<int> layersBeingSearched() const;  // now, ascending
    // Takes in one partial result.
    void take(const PlanEvent& event);

private:
    void take(const PlanFound& found);
    void take(const CurveKnown& known);
    void take(const LayerAlone& layer);
    void take(const PlanMeasured& plan);
    void take(const LayerSearching& layer);
    void take(const LayerSearched& layer);
    void take(const FinalistRecovered& finalist);
    void take(const RecoverJudged& judged) { this->judged[judged.what] = judged.nll; }
    void take(const RecoverPoint& point) { recovery.push_back(point); }
    void take(const BlockChosen& chosen);
    void takePlan(const Json& plan);
    bool knows(int layer) const { return layer >= 0 && layer < static_cast<int>(shape.layers.size()); }
};

// The measured plans of an ended search and how it ended, for the session; null where there is nothing to keep.
Json viewJson(const SearchState& search);
// Back again, as a search of this model that ended; phase None where it cannot be read.
SearchState searchFromViewJson(const Json& view, const ModelShape& shape);

}  // namespace espalier
