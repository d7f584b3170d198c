// Perplexity in tiers, filed by plan: a loss belongs to exactly one plan hash on one text, so a late answer is never wrong, only for
// another plan. GUI thread; talks to the engine only.
#pragma once

#include "base/statistics.h"
#include "perplexity/history_panel.h"
#include "perplexity/perplexity_panel.h"
#include "plan/compression_plan.h"
#include "rpc/protocol_evaluation.h"
#include "rpc/protocol_export.h"
#include "shell/engine/engine_client.h"
#include "shell/session/text_choice.h"

#include <QElapsedTimer>
#include <QHash>
#include <QObject>
#include <QTimer>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

// What was measured of one plan.
struct PlanRun {
    std::map<int, WindowLoss> losses;
    double quickSeconds = 0;
    double fullSeconds = 0;
    std::int64_t time = 0;  // of the newest loss, seconds since 1970
};

class EvaluationController final : public QObject
{
    Q_OBJECT
public:
    explicit EvaluationController(EngineClient* engine, QObject* parent = nullptr);

    void setModel(const std::string& path, const CompressionPlan& identity, const EvaluationText& text);
    void clear();
    bool isOpen() const { return !m_path.empty(); }

    // Every frame. The quick tier starts at once, or, while a drag is moving, after a rest.
    void setPlan(const CompressionPlan& plan, const QString& name, bool moving = false);
    void setAutomatic(bool on);
    // Files that whitened factors come from, by their content. Plans whose factors come from another one are not evaluated.
    void setProfiles(std::map<std::string, std::string> files);
    // Files that a plan's factors and constants come from, as far as they are here.
    std::vector<std::filesystem::path> profilesFor(const CompressionPlan& plan) const;
    bool holds(const std::string& profileSha256) const { return m_profiles.contains(profileSha256); }
    bool measurable(const CompressionPlan& plan) const;  // as far as its factors, constants and stored numbers go
    bool runsFull() const { return m_job && m_job->full; }
    void evaluateFull();
    void cancel();
    bool busy() const { return m_job.has_value(); }
    // Results are shown only once the first quick tier of plan and dense are there.
    bool quickComplete() const;

    PerplexityState state() const;
    // The windows of a tier: all of the text, or those spread evenly over it.
    std::vector<int> tierWindows(bool full) const;
    // What an estimate of the plan on screen is added to: the dense model on the windows of the number that stands beside it. Nothing
    // until it is measured on all of them, so that it stays while a run goes on.
    struct DenseBase {
        double ppl = 0;
        bool full = false;
        int windows = 0;
    };
    std::optional<DenseBase> denseBase() const;
    std::optional<double> perplexityOf(const std::string& planHash, bool full) const;  // nothing if one of the tier's windows is missing
    std::optional<double> perplexityOf(const std::string& planHash, int windows) const = delete;
    // To the dense model on the same windows of the tier; nothing unless both have all.
    std::optional<PairedDifference> differenceOf(const std::string& planHash, bool full) const;
    // What the best complete tier of a plan shows, as exports record it.
    struct Measured {
        Measurement measurement;
        int windowsOf = 0;  // of the text
    };
    std::optional<Measured> measuredOf(const std::string& planHash) const;
    QHash<QString, PlanLoss> planLosses() const;  // by plan hash: full where there is one, else quick
    const std::map<std::string, PlanRun>& runs() const { return m_runs; }
    void restoreRun(const std::string& planHash, PlanRun run);
    // Hashes of the text and tokenizer that restored runs were measured with. An evaluation on another text drops them.
    void restoreText(const std::string& textSha256, const std::string& tokenizerSha256, const std::string& dtype);
    const std::string& textSha256() const { return m_textSha256; }
    const std::string& tokenizerSha256() const { return m_tokenizerSha256; }
    const std::string& dtype() const { return m_dtype; }
    const EvaluationText& text() const { return m_text; }

signals:
    void changed();      // numbers for the panel
    void runsChanged();  // something new is worth saving
    void jobChanged(const std::optional<espalier::JobState>& job);
    void failed(const espalier::Error& error);
    void warned(const std::vector<std::string>& sentences);  // about the text, of an evaluation that ran

private:
    struct Running {
        std::int64_t id = 0;
        std::string planHash;
        bool full = false;
        int wanted = 0;  // windows of the whole tier
        QElapsedTimer clock;
        JobState state;
    };
    std::vector<int> missing(const std::string& hash, bool full) const;
    int windowsMeasured(const std::string& hash, bool full) const;  // of the tier
    int totalWindows() const;                                       // of the full tier, as far as is known
    QString age() const;                                            // of the numbers that are drawn stale
    void rest();
    void next();  // the most urgent thing that is not measured yet
    void run(const CompressionPlan& plan, const std::vector<int>& windows, bool full, const QString& name);

    EngineClient* m_engine;
    std::string m_path;
    EvaluationText m_text;
    std::map<std::string, std::string> m_profiles;
    CompressionPlan m_identity;
    CompressionPlan m_plan;
    QString m_planName;
    std::map<std::string, PlanRun> m_runs;
    std::string m_lastShown;  // hash of the plan whose numbers are drawn stale
    QString m_lastShownName;
    bool m_lastShownMoving = false;  // it was on screen in the middle of a drag
    bool m_moving = false;
    int m_changes = 0;        // of the plan since it was on screen
    std::string m_committed;  // hash of the plan before a drag
    std::optional<Running> m_job;
    int m_epoch = 0;  // counts models and texts: answers of an earlier one are dropped
    QTimer m_rest;
    QTimer m_frame;  // losses that wait to be drawn
    bool m_automatic = true;
    bool m_quickWanted = false;
    bool m_fullWanted = false;
    int m_totalWindows = -1;
    std::string m_textSha256;
    std::string m_tokenizerSha256;
    std::string m_dtype;
};

}  // namespace espalier
