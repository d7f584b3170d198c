// Everything behind the window: the open model, its profile and scores, plan, perplexity, session. Owns the controllers; knows no widget.
// GUI thread; file work on the session store's I/O thread, computing in the engine.
#pragma once

#include "base/method_registry.h"
#include "plan/cost_model.h"
#include "rpc/protocol_model.h"
#include "rpc/protocol_profile.h"
#include "session/session_file.h"
#include "shell/engine/deep_profile.h"
#include "shell/engine/engine_client.h"
#include "shell/engine/evaluation_controller.h"
#include "shell/engine/generate_controller.h"
#include "shell/engine/locked_controller.h"
#include "shell/engine/speed_controller.h"
#include "shell/engine/tasks_controller.h"
#include "shell/engine/weight_scores.h"
#include "shell/plan/plan_controller.h"
#include "shell/plan/planning_controller.h"
#include "shell/session/session_store.h"

#include <QObject>
#include <QTimer>

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>

namespace espalier
{

struct WorkbenchPaths {
    QString demoFolder;  // resources/demo
    QString dataFolder;  // profiles and recovery of this user
};

class Workbench final : public QObject
{
    Q_OBJECT
public:
    explicit Workbench(WorkbenchPaths paths, QObject* parent = nullptr);
    ~Workbench() override;

    EngineClient* engine() { return &m_engine; }
    PlanController* plans() { return &m_plans; }
    EvaluationController* evaluation() { return &m_evaluation; }
    LockedController* locked() { return &m_locked; }
    TasksController* tasks() { return &m_tasks; }
    GenerateController* completions() { return &m_completions; }
    SpeedController* speed() { return &m_speed; }
    PlanningController* planning() { return &m_planning; }
    SessionStore* store() { return &m_store; }
    // Spectra, bases and gradients: measured by itself once the first profile and the quick tier are there, if the first pass was quick.
    DeepProfile* deep() { return &m_deep; }
    void measureRanks();  // by hand
    // How long the window rests before the deep profile starts by itself; negative: never.
    void setDeepRest(int msec);

    void openDemo();
    // On the built-in texts, or those given.
    void openModel(const QString& folder, const std::optional<TextChoice>& texts = {});
    void openSession(const QString& file);
    void adoptSession(SessionData data, const QString& file, bool recovered);
    void saveSession(const QString& file);
    // Values files of plans of this session that are not where the plans say: looked for in this file, and beside it.
    void findValues(const QString& file);
    QString valuesFolder() const;  // where those are kept that searches of this window write
    void closeModel();
    // Texts (workbench_texts.cpp). Taken once the engine finds the new ones usable; another calibration text is profiled again.
    void setTexts(const TextChoice& texts);
    void setCalibrationText(const QString& file);
    TextChoice builtInTexts() const;
    bool isBuiltIn(const QString& file) const;
    const TextChoice& texts() const { return m_texts; }
    const TextShares& textShares() const { return m_shares; }
    // What was measured on texts that are no longer in use, of one plan, in words.
    QStringList elsewhere(const std::string& planHash) const;
    void measureLocked();                              // the plan on screen, on the locked text: counted
    void measureTasks(int first);                      // the plan on screen and the dense model, so many questions of every task; 0: all
    void complete(const QString& prompt, int tokens);  // by the dense model and the plan on screen
    void measureSpeed();                               // of the plan on screen, beside the dense model
    void profile();
    void profileAgain();  // a complete one too; the old one stays until the new one is there
    void cancelJob();
    void plan(const PipelineRecipe& recipe);     // starts a search; nothing where planningProblem() says why not
    void recover(const PipelineRecipe& recipe);  // the plan on screen, by its method of recovery; likewise

    bool isOpen() const { return m_plans.isOpen(); }
    bool profiling() const { return m_profileRequest != 0; }
    bool profileComplete() const;                                                  // and its file is where it was written
    bool readingWeights() const { return m_weightScores.pending(m_chosenScore); }  // for the score that is shown
    bool forwardSupported() const { return m_forwardSupported; }
    QString modelPath() const { return m_modelPath; }
    QString modelName() const;
    QString sessionFile() const { return m_sessionFile; }
    const QString& readOnly() const { return m_readOnly; }  // why the session's file is not written; empty: it is
    // Of the plan on screen: the name given to it, or one that says what it does. Committed plans of one name are told apart by a number.
    QString planName() const;
    void namePlan(const QString& name);  // the committed plan; empty: back to the proposed name
    const std::map<std::string, std::string>& planNames() const { return m_planNames; }  // given ones, by plan hash
    bool modified() const;
    QString calibrationText() const { return m_texts.calibration; }
    const std::map<std::string, ExpertScores>& scores() const { return m_scores; }
    QStringList scoreIds() const;  // that can be shown or ranked by, in the engine's order; before there are any, those of the engine
    const ExpertScores* currentScores() const;
    ExpertGrid usage() const;
    void chooseScore(const std::string& method);
    const std::string& chosenScore() const { return m_chosenScore; }
    // What allocators and counts rank experts by: chosen beside them, whatever the map shows.
    void rankBy(const std::string& method);
    const std::string& ranking() const { return m_ranking; }
    std::vector<MethodInfo> methods(Slot slot) const;         // of the engine, or the built-in ones before it is there
    std::vector<MethodInfo> methods() const;                  // of all slots
    QString planningProblem() const;                          // why no search can start now; empty: it can
    std::optional<std::set<std::string>> statistics() const;  // of the profile; nothing without one
    PlanCost cost() const;
    PlanCost denseCost() const;
    bool settled() const;  // profile there and first quick tier complete: what --screenshot waits for
    // How long results wait for the next recovery copy; edits never wait.
    void setAutosaveInterval(int msec) { m_autosave.setInterval(msec); }
    // While a model or session is being opened the views move on their own: what they show then is not the user's view.
    void setViewState(Json view)
    {
        if (!m_opening) m_view = std::move(view);
    }
    const Json& viewState() const { return m_view; }

signals:
    void opened();  // a model or session is on screen
    void closed();
    void scoresChanged();                                          // of the chosen metric, rows may still be missing
    void profileChanged();                                         // started, progressed, ended
    void sessionChanged();                                         // file, modified flag
    void notice(const espalier::Error& error, const QString& id);  // becomes a banner
    void noticeSettled(const QString& id);                         // and goes again
    void jobChanged(const std::optional<espalier::JobState>& job);
    void recentChanged(const QString& path);
    void textChanged();  // another text is in use
    // Texts that nobody chose are in use, or one file stands for several: worth saying. `session`: runs of it are of another text.
    void textsNoted(const QString& cause, const QString& consequence);
    void saved(const QString& file);

private:
    void modelOpened(const QString& folder, const OpenModelAnswer& answer, const std::optional<SessionData>& session, bool reconnect);
    // reconnect: the engine is new, the plan on screen stays.
    void requestOpen(const QString& folder, std::optional<SessionData> session, bool reconnect = false);
    // Of a new model: shares out the texts first.
    void beginModel(const ModelShape& shape, const PlanModel& model, const TextChoice& texts, const TextShares& shares);
    void takeScores(const ScoresByMethod& scores);
    void takePartial(const LayerScored& scored);
    void giveRanking();  // to the plan
    void openedReadOnly(const QString& why);
    QString profileFile() const;
    QString profileFileOf(const char* kind) const;
    QString profileOnDisk() const;  // the first one, or where that has gone the deep one; where neither is there, the first one's place
    void dropFirstProfile();        // once the deep one is there, and what refers to a profile refers to that
    void warnOfText(const std::vector<std::string>& sentences);
    QString planningProfile() const;  // the one that holds most
    PlanningInputs planningInputs() const;
    void lookForDeep();
    void keepDeep();  // before another text is taken
    void considerDeep();
    void deepChanged();
    void lookForConstants();                        // in the first profile
    std::optional<JobState> backgroundJob() const;  // one of the profiles
    void measuredIn(double seconds);                // the first pass
    int windowLengthFor(const ModelShape& shape) const;
    // Counts the windows of files that stand for several texts, reads the others where `check` asks for it, and hands on who gets what.
    void withShares(const TextChoice& texts, const ModelShape& shape, const std::vector<QString>& check,
                    std::function<void(Result<TextShares>)> then);
    void useTexts(const TextChoice& texts, const TextShares& shares);
    void keepRuns();     // of the live text, before another is taken
    void restoreRuns();  // of the live text, if it was in use before
    void noteTexts();
    void adoptTexts(const SessionData& data);
    void adoptRuns(const SessionData& data);
    void saveTexts(SessionData& data) const;
    void saveRuns(SessionData& data) const;
    void connectTasks();
    void connectTrying();
    void setTriedModel(const ModelShape& shape);
    void adoptTasks(const SessionData& data);
    void saveTasks(SessionData& data) const;
    void forgetProfile(bool sameModel = false);  // of another text of it: what the weights say stays
    void forgetScores(bool sameModel);
    void connectWeightScores();
    void askForWeightScores();
    bool canReadWeights(const MethodInfo& method) const;
    SessionData snapshot() const;
    void markSaved(std::string hash, std::size_t entries);
    void committed();
    void writeRecovery();
    void tellJob(const std::optional<JobState>& job);  // a search stays in front of what runs beside it

    static constexpr const char* kRanking = "leave-one-out";  // until another one is chosen

    WorkbenchPaths m_paths;
    EngineClient m_engine;
    PlanController m_plans;
    EvaluationController m_evaluation;
    LockedController m_locked;
    TasksController m_tasks;
    GenerateController m_completions;
    SpeedController m_speed;
    PlanningController m_planning;
    SessionStore m_store;
    DeepProfile m_deep;
    WeightScores m_weightScores;
    int m_deepRest = 1500;
    std::map<std::string, std::string> m_rankProfiles;  // of this model, whatever the text: file by content

    QString m_modelPath;
    TextChoice m_texts;
    TextShares m_shares;
    struct TextRuns {
        EvaluationText text;
        std::string textSha256, tokenizerSha256, dtype;
        std::map<std::string, PlanRun> runs;
    };
    std::vector<TextRuns> m_otherTexts;  // what was measured on texts used before; a way back needs no measuring
    std::string m_calibrationSha256;     // of the profiled windows
    int m_windowLength = 0;              // of the opened session's runs; 0: by the model
    QString m_sessionFile;
    QString m_readOnly;
    SessionData m_kept;  // parts of the opened session that this window does not edit
    QString m_keptText;  // that the kept profile was measured on, where it is not the text in use
    std::string m_fingerprint;
    std::string m_configSha256;
    std::string m_weightsSha256;
    bool m_forwardSupported = false;
    bool m_opening = false;
    std::map<std::string, ExpertScores> m_scores;
    std::string m_chosenScore = "leave-one-out";  // of the map
    std::string m_ranking = kRanking;
    std::int64_t m_profileRequest = 0;
    int m_profileEpoch = 0;  // counts models and texts: a profile of an earlier one is dropped
    std::optional<JobState> m_profileJob;
    bool m_profiled = false;
    bool m_profileAgain = false;
    std::set<std::string> m_collected;     // what the profile holds
    QString m_savedProfile;                // that the session's file refers to
    std::set<std::string> m_toldWarnings;  // of the engine about the texts of this model
    int m_constantsEpoch = 0;              // counts looks for constants: the answer to an earlier one is dropped
    std::string m_savedHash;               // of the session's content; empty: never equal
    std::size_t m_savedEntries = 0;        // of its history
    std::int64_t m_savedAt = 0;
    int m_editsSinceSave = 0;
    QTimer m_autosave;                      // results that arrived since the last recovery copy
    std::optional<QString> m_pendingModel;  // asked for before the engine was ready
    std::optional<TextChoice> m_pendingTexts;
    std::optional<SessionData> m_pendingSession;
    std::map<std::string, std::string> m_planNames;
    // By plan hash, so that a long history is not described again and again: names, and the place among plans of one name.
    mutable std::unordered_map<std::string, std::string> m_proposedNames;
    mutable std::unordered_map<std::string, std::size_t> m_nameNumbers;
    Json m_view = Json::object();
};

}  // namespace espalier
