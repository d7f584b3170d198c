// A prompt completed by the dense model, then by a plan; on request. A newer request takes the place of one that runs; the dense model is
// not asked again for the same prompt. GUI thread.
#pragma once

#include "completions/completion_state.h"
#include "plan/compression_plan.h"
#include "shell/engine/requested_job.h"

#include <QObject>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

class GenerateController final : public RequestedJob
{
    Q_OBJECT
public:
    explicit GenerateController(EngineClient* engine, QObject* parent = nullptr);

    void setModel(const std::string& path, const CompressionPlan& identity);
    void setPlan(const CompressionPlan& plan);  // on screen: whether the completion is that of an earlier one
    // `prompt` as it is given to the tokenizer. `profiles`: files that the plan's factors and constants come from.
    void complete(const CompressionPlan& plan, const QString& name, const std::vector<std::filesystem::path>& profiles,
                  const std::string& prompt, int tokens);
    CompletionState state() const;

private:
    struct Wanted {
        CompressionPlan plan;
        QString name;
        std::vector<std::filesystem::path> profiles;
        std::string prompt;
        int tokens = 0;
    };
    void run(const Wanted& wanted, bool dense);
    void finished(const EngineAnswer<GenerateAnswer>& reply, const Wanted& wanted, bool dense);
    Completion& side(bool dense) { return dense ? m_dense : m_plan; }

    CompressionPlan m_identity;
    std::string m_onScreen;   // plan hash
    std::string m_completed;  // whose completion m_plan is
    Completion m_dense;
    Completion m_plan;
    std::optional<std::pair<std::string, int>> m_denseIs;  // prompt and tokens of a whole completion of the dense model
};

}  // namespace espalier
