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

GenerateController::GenerateController(EngineClient* engine, QObject* parent) : QObject(parent), m_engine(engine) {}

void GenerateController::setJob(std::optional<JobState> job)
{
    m_job = std::move(job);
    emit jobChanged(m_job);
}

void GenerateController::setModel(const std::string& path, const CompressionPlan& identity)
{
    cancel();
    ++m_epoch;
    m_request = 0;
    if (m_job) setJob(std::nullopt);
    m_path = path;
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
    if (m_path.empty() || !m_engine->usable() || prompt.empty()) return;
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
    request.path = m_path;
    request.prompt = wanted.prompt;
    request.plan = toJson(dense ? m_identity : wanted.plan);
    if (!dense) request.profiles = wanted.profiles;
    request.tokens = wanted.tokens;
    request.alternatives = kAlternatives;
    const int epoch = ++m_epoch;
    JobState job;
    job.what = tr("Completion · %1").arg(of.name);
    setJob(std::move(job));
    // The engine ends what has the same tag.
    m_request = m_engine->ask(
        request, {"generate", Lane::Attended},
        [this, epoch, wanted, dense](const EngineAnswer<GenerateAnswer>& reply) {
            if (epoch == m_epoch) finished(reply, wanted, dense);
        },
        [this, epoch](const EngineProgress& progress) {
            if (epoch != m_epoch || !m_job || m_job->phase == JobState::Phase::Cancelling) return;
            m_job->done = progress.done;
            m_job->total = progress.total;
            m_job->etaSeconds = progress.etaSeconds;
            emit jobChanged(m_job);
        },
        [this, epoch, dense](const GeneratedTokenEvent& token) {
            if (epoch != m_epoch) return;
            side(dense).tokens.push_back(token);
            emit changed();
        });
    emit changed();
}

void GenerateController::finished(const EngineAnswer<GenerateAnswer>& reply, const Wanted& wanted, bool dense)
{
    m_request = 0;
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
    setJob(std::nullopt);
    if (reply.outcome == EngineEnd::Outcome::Failed) emit failed(reply.error);
    emit changed();
}

void GenerateController::cancel()
{
    if (m_request == 0) return;
    m_engine->cancel(m_request);
    if (!m_job) return;
    m_job->phase = JobState::Phase::Cancelling;
    emit jobChanged(m_job);
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
