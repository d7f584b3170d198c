// Multiple-choice tasks, measured on request: the plan, then the dense model where its answers to the same questions are not there yet.
// A newer request takes the place of one that runs; what was answered stays. Runs belong to one plan each. GUI thread.
#pragma once

#include "perplexity/tasks_panel.h"
#include "plan/compression_plan.h"
#include "rpc/measurement.h"
#include "shell/engine/requested_job.h"

#include <QObject>

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

// What one plan answered of one folder's tasks.
struct PlanAnswers {
    QString name;  // of the plan when it was measured
    std::vector<TaskMarks> tasks;
    int first = 0;  // questions of each that were asked for; 0: all
    std::string dtype;
    std::int64_t time = 0;  // seconds since 1970
};

class TasksController final : public RequestedJob
{
    Q_OBJECT
public:
    explicit TasksController(EngineClient* engine, QObject* parent = nullptr);

    // Another model: everything measured goes.
    void setModel(const std::string& path, const CompressionPlan& identity, const std::string& folder);
    // Another folder of the same model: its runs are others, and a way back finds them.
    void setFolder(const std::string& folder);
    const std::string& folder() const { return m_folder; }
    void setPlan(const CompressionPlan& plan);  // on screen: which numbers are of an earlier one

    // `profiles`: files that the plan's factors and constants come from. `first`: questions of every task; 0: all.
    void measure(const CompressionPlan& plan, const QString& name, const std::vector<std::filesystem::path>& profiles, int first);

    TasksState state() const;                          // of the plan on screen
    bool measured(const std::string& planHash) const;  // any question of the folder in use
    QString words(const std::string& planHash) const;  // one line for a list of plans; empty: nothing is measured
    // As exports record it: tasks that are whole.
    std::vector<TaskMeasurement> measurements(const std::string& planHash) const;

    using Key = std::pair<std::string, std::string>;  // folder, plan hash
    const std::map<Key, PlanAnswers>& runs() const { return m_runs; }
    void restoreRun(const Key& key, PlanAnswers run);

signals:
    void runsChanged();  // something new is worth saving

private:
    struct Wanted {
        CompressionPlan plan;
        QString name;
        std::vector<std::filesystem::path> profiles;
        int first = 0;
        std::string folder;
    };
    const PlanAnswers* runOf(const std::string& planHash) const;
    bool denseIsMissing(const std::string& planHash) const;
    void run(const Wanted& wanted, bool thenDense);
    PlanAnswers& take(const Wanted& of, const std::vector<TaskMarks>& tasks);
    void finished(const EngineAnswer<TasksAnswer>& reply, const Wanted& of, bool thenDense);
    void describe(JobState& job, const EngineProgress& progress) const override;

    std::string m_folder;
    CompressionPlan m_identity;
    std::string m_onScreen;   // plan hash
    std::string m_lastShown;  // of the plan whose numbers are drawn stale
    std::map<Key, PlanAnswers> m_runs;
    mutable std::map<std::string, QString> m_words;  // by plan hash, as long as nothing is new
    QString m_running;                               // name of the plan being measured
};

}  // namespace espalier
