#include "shell/engine/generate_controller.h"

#include <algorithm>
#include <utility>

namespace espalier
{

namespace
{

constexpr int kAlternatives = 5;

QString finishText(const std::string& finish)
{
    if (finish == "end") return GenerateController::tr("ended by itself");
    if (finish == "context") return GenerateController::tr("no room in the model's context");
    return {};
}

}  // namespace

GenerateController::GenerateController(EngineClient* engine, QObject* parent) : RequestedJob(engine, parent) {}

void GenerateController::setModel(const std::string& path, const CompressionPlan& identity)
{
    changeModel(path);
    m_identity = identity;
    m_onScreen = path.empty() ? std::string() : identity.hash();
    m_completed.clear();
    m_dense = m_plan = {};
    m_denseIs.reset();
    emit changed();
}

void GenerateController::setPlan(const CompressionPlan& plan)
{
    if (plan.hash() == m_onScreen) return;
    m_onScreen = plan.hash();
    if (!m_dense.tokens.empty() || busy()) emit changed();
}

void GenerateController::complete(const CompressionPlan& plan, const QString& name, const std::vector<std::filesystem::path>& profiles,
                                  const std::string& prompt, int tokens)
{
    if (!canAsk() || prompt.empty()) return;
    const Wanted wanted{plan, name, profiles, prompt, tokens};
    const bool isDense = plan.hash() == m_identity.hash();
    const bool known = m_denseIs == std::pair(prompt, tokens);
    m_plan = {};
    m_completed = plan.hash();
    if (!isDense) {
        m_plan.name = name;
        m_plan.waiting = true;
    }
    if (known && isDense) return emit changed();
    run(wanted, !known);
}

void GenerateController::run(const Wanted& wanted, bool dense)
{
    Completion& of = side(dense);
    of = {};
    of.name = dense ? tr("dense") : wanted.name;
    of.running = true;
    if (dense) m_denseIs.reset();
    GenerateRequest request;
    request.path = path();
    request.prompt = wanted.prompt;
    request.plan = toJson(dense ? m_identity : wanted.plan);
    if (!dense) request.profiles = wanted.profiles;
    request.tokens = wanted.tokens;
    request.alternatives = kAlternatives;
    ask(
        request, {"generate", Lane::Attended}, tr("Completion · %1").arg(of.name),
        [this, wanted, dense](const EngineAnswer<GenerateAnswer>& reply) { finished(reply, wanted, dense); },
        [this, dense](const GeneratedTokenEvent& token) {
            side(dense).tokens.push_back(token);
            emit changed();
        });
}

void GenerateController::finished(const EngineAnswer<GenerateAnswer>& reply, const Wanted& wanted, bool dense)
{
    Completion& of = side(dense);
    of.running = false;
    if (reply.ok()) {
        of.finish = finishText(reply->finish);
        if (reply->decodeSeconds > 0 && reply->ids.size() > 1)
            of.tokensPerSecond = static_cast<double>(reply->ids.size() - 1) / reply->decodeSeconds;
        if (dense) m_denseIs = std::pair(wanted.prompt, wanted.tokens);
        if (!reply->warnings.empty()) emit warned(reply->warnings);
        if (dense && m_plan.waiting) return run(wanted, false);
    } else if (reply.outcome == EngineEnd::Outcome::Cancelled) {
        of.finish = tr("stopped");
    }
    m_plan.waiting = false;
    end(reply);
}

CompletionState GenerateController::state() const
{
    CompletionState state;
    state.dense = m_dense;
    state.plan = m_plan;
    state.busy = busy();
    const bool nothing = m_plan.tokens.empty() && !m_plan.running && !m_plan.waiting;
    state.planIsDense = nothing && (m_completed == m_identity.hash() || m_completed.empty());
    state.plan.stale = !nothing && m_completed != m_onScreen;
    return state;
}

}  // namespace espalier
