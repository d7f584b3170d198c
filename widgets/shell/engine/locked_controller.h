// The locked text: measured on request only, plan and dense model on the same windows, and every opening is written down. GUI thread;
// talks to the engine only.
#pragma once

#include "perplexity/perplexity_panel.h"
#include "plan/compression_plan.h"
#include "session/session_file.h"
#include "shell/engine/engine_client.h"
#include "shell/engine/evaluation_controller.h"
#include "shell/session/text_choice.h"

#include <QElapsedTimer>
#include <QObject>

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

class LockedController final : public QObject
{
    Q_OBJECT
public:
    explicit LockedController(EngineClient* engine, QObject* parent = nullptr);

    // Another text keeps the openings, which name theirs.
    void setModel(const std::string& path, const CompressionPlan& identity, const EvaluationText& text);
    void clear();
    const EvaluationText& text() const { return m_text; }
    const std::string& textSha256() const { return m_textSha256; }

    // Measures the plan, and the dense model where it was not yet. `profiles`: files that its factors and constants come from, or "".
    // Nothing happens while it measures; a plan that was measured is not opened again.
    void measure(const CompressionPlan& plan, const QString& name, const std::vector<std::filesystem::path>& profiles);
    bool measured(const std::string& planHash) const;
    void cancel();
    bool busy() const { return m_job.has_value(); }

    // As the perplexity panel shows it for this plan.
    LockedState state(const std::string& planHash) const;
    const std::vector<SessionOpening>& openings() const { return m_openings; }
    int plansOpened() const;  // on this text
    const std::map<std::string, PlanRun>& runs() const { return m_runs; }
    void restore(std::vector<SessionOpening> openings) { m_openings = std::move(openings); }
    void restoreText(const std::string& textSha256) { m_textSha256 = textSha256; }
    void restoreRun(const std::string& planHash, PlanRun run);

signals:
    void changed();
    void opened(const espalier::SessionOpening& opening);  // something worth saving
    void jobChanged(const std::optional<espalier::JobState>& job);
    void failed(const espalier::Error& error);
    void warned(const std::vector<std::string>& sentences);  // about the text, of an evaluation that ran

private:
    struct Wanted {
        CompressionPlan plan;
        QString name;
        std::vector<std::filesystem::path> profiles;
    };
    void next();
    void run(const CompressionPlan& plan, const QString& name, const std::vector<std::filesystem::path>& profiles);
    void finish();
    bool complete(const std::string& planHash) const;

    EngineClient* m_engine;
    std::string m_path;
    EvaluationText m_text;
    CompressionPlan m_identity;
    std::string m_textSha256;
    int m_total = -1;                       // windows of the text, once known
    std::map<std::string, PlanRun> m_runs;  // whole ones only
    std::vector<SessionOpening> m_openings;
    std::optional<Wanted> m_wanted;
    std::optional<JobState> m_job;
    std::int64_t m_request = 0;
    int m_epoch = 0;
};

}  // namespace espalier
