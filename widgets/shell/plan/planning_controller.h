// The one planning job: sends the recipe, collects what the engine finds on the way, and turns its answer into exactly one history entry.
// A plan that was edited meanwhile is not replaced: the answer becomes a branch of the entry that the search started from. GUI thread.
#pragma once

#include "planning/search_state.h"
#include "rpc/protocol_plan.h"
#include "shell/engine/engine_client.h"
#include "shell/engine/evaluation_controller.h"
#include "shell/plan/plan_controller.h"

#include <QElapsedTimer>
#include <QObject>
#include <QTimer>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct PlanningInputs {
    std::string model;
    std::string profile;
    EvaluationText text;
    int windows = 0;  // for stages that run the model
    std::vector<MethodInfo> methods;
    std::string journal;                              // file on the engine's side in which the search is kept while it runs; empty: nowhere
    std::vector<std::filesystem::path> baseProfiles;  // that the plan to start from is made of
    std::string values;                               // folder in which the numbers of recovered plans stay, on the engine's side
};

class PlanningController final : public QObject
{
    Q_OBJECT
public:
    PlanningController(EngineClient* engine, PlanController* plans, QObject* parent = nullptr);

    // Starts from the plan on screen. Nothing happens while another search runs.
    void start(const PipelineRecipe& recipe, const PlanningInputs& inputs);
    // Only new numbers for the plan on screen, by the recipe's method of recovery; whatever else the recipe says does not run.
    void recover(const PipelineRecipe& recipe, const PlanningInputs& inputs);
    void cancel();                 // the plan stays as it is; the best so far can still be kept
    void stopAndKeep();            // ends with the best plan so far
    void keepBest();               // of a search that was cancelled or broke off
    void resume();                 // of a search that a lost engine broke off, from what it had measured
    void show(SearchState ended);  // of an opened session; nothing happens while a search runs
    void reset();                  // another model: cancels and forgets

    bool running() const { return m_request != 0; }
    bool canResume() const { return m_lost && !running(); }
    bool canKeepBest() const;  // there is a best plan that is not in the history
    const SearchState& state() const { return m_state; }
    std::optional<JobState> job() const;
    int startEntry() const { return m_startEntry; }  // that the search began from

signals:
    void changed();     // the state, at most some thirty times a second
    void jobChanged();  // what the job strip shows
    void started();
    void ended();
    void failed(const espalier::Error& error);
    void branched(int entry, const QString& text);  // the answer stands beside the line of the user
    void unchanged();                               // the answer is the plan that was there

private:
    PlanRequest begin(const PipelineRecipe& recipe, const PlanningInputs& inputs);
    void send(const PlanRequest& request);
    void finish(const EngineAnswer<PlanAnswer>& reply);
    void commit(const CompressionPlan& plan, const QString& text);
    QString stoppedText() const;

    EngineClient* m_engine;
    PlanController* m_plans;
    SearchState m_state;
    int m_startEntry = -1;
    std::int64_t m_request = 0;
    int m_epoch = 0;      // counts searches: answers to an earlier one are dropped
    PlanRequest m_sent;   // the request of the last search
    bool m_lost = false;  // the engine went while it ran
    bool m_keep = false;
    bool m_kept = false;  // the best plan is in the history
    std::optional<double> m_eta;
    QElapsedTimer m_clock;
    QTimer m_frame;
};

}  // namespace espalier
