#include "shell/plan/planning_controller.h"

#include "look/format.h"

#include <cmath>
#include <set>
#include <utility>

namespace espalier
{

namespace
{
constexpr int kFrameMsec = 33;

// Before and after, on the windows that were kept apart to judge.
QString recoveryText(const RecoverSummary& recovery)
{
    if (!recovery.changed) return PlanningController::tr("Recovery: nothing was missing.");
    const auto ppl = [](double nll) { return format::number(std::exp(nll), 3); };
    const QString numbers = PlanningController::tr("perplexity %1 to %2, dense %3")
                                .arg(ppl(recovery.nllBefore), ppl(recovery.nllAfter), ppl(recovery.nllDense));
    return (recovery.accepted
                ? PlanningController::tr("Recovered: %1, on %n window(s) kept apart.", nullptr, recovery.windows)
                : PlanningController::tr("Recovery was not accepted: %1, on %n window(s) kept apart.", nullptr, recovery.windows))
        .arg(numbers);
}

// Whether the order after recovery is that of before.
QString finalsText(const SearchState& state)
{
    std::set<std::string> plans;
    const FinalistRecovered* ahead = nullptr;
    for (const FinalistRecovered& finalist : state.finalists) {
        plans.insert(finalist.planHash);
        if (finalist.ahead) ahead = &finalist;
    }
    const QString compared = PlanningController::tr("Compared after recovery: %n plan(s)", nullptr, static_cast<int>(plans.size()));
    return ahead ? PlanningController::tr("%1, \"%2\" is best.").arg(compared, QString::fromStdString(ahead->name)) : compared;
}
}  // namespace

PlanningController::PlanningController(EngineClient* engine, PlanController* plans, QObject* parent)
    : QObject(parent), m_engine(engine), m_plans(plans)
{
    m_frame.setSingleShot(true);
    m_frame.setInterval(kFrameMsec);
    connect(&m_frame, &QTimer::timeout, this, [this] {
        emit changed();
        if (running()) emit jobChanged();
    });
}

void PlanningController::start(const PipelineRecipe& recipe, const PlanningInputs& inputs)
{
    if (running() || !m_plans->isOpen()) return;
    const PlanRequest request = begin(recipe, inputs);
    const MethodInfo* select = findMethod(inputs.methods, Slot::Select, recipe.select.method);
    const MethodInfo* allocate = findMethod(inputs.methods, Slot::Allocate, recipe.allocate.method);
    const Json generations = paramOf(select, recipe.select, "generations");
    m_state.title = recipeTitle(recipe, inputs.methods, m_state.shape);
    m_state.name = recipeName(recipe, inputs.methods);
    m_state.scoreName = QString::fromStdString(recipe.score.method);
    m_state.generations = generations.is_number_integer() ? generations.get<int>() : 0;
    m_state.stochastic = select && select->stochastic;
    m_state.measures = allocate && allocate->runsModel;
    send(request);
}

void PlanningController::recover(const PipelineRecipe& recipe, const PlanningInputs& inputs)
{
    if (running() || !m_plans->isOpen() || recipe.recover.method.empty()) return;
    PipelineRecipe only = recipe;
    only.recovers = true;
    PlanRequest request = begin(only, inputs);
    // A request has a target; this one is met by the plan as it is.
    request.recipe.bytes.reset();
    request.recipe.keepTotal = m_state.base.keptExperts();
    request.recoverOnly = true;
    const MethodInfo* method = findMethod(inputs.methods, Slot::Recover, recipe.recover.method);
    m_state.title = method ? QString::fromStdString(method->title) : QString::fromStdString(recipe.recover.method);
    m_state.name = tr("Recovery");
    m_state.recoverOnly = true;
    send(request);
}

// What both send: the plan on screen, text and files.
PlanRequest PlanningController::begin(const PipelineRecipe& recipe, const PlanningInputs& inputs)
{
    if (m_plans->inGesture()) m_plans->finishGesture();
    m_startEntry = m_plans->history().currentId();
    m_state = {};
    m_state.recipe = recipe;
    m_state.shape = m_plans->shape();
    m_state.base = m_plans->committed();
    PlanRequest request;
    request.path = inputs.model;
    request.profile = inputs.profile;
    request.baseProfiles = inputs.baseProfiles;
    request.plan = toJson(m_state.base);
    request.recipe = planRecipe(recipe);
    request.text = selectionOf(inputs.text);
    request.windows = inputs.windows;
    request.state = inputs.journal;
    request.values = inputs.values;
    return request;
}

void PlanningController::resume()
{
    if (!canResume() || !m_plans->isOpen()) return;
    SearchState state;
    state.recipe = m_state.recipe;
    state.measures = m_state.measures;
    state.shape = m_state.shape;
    state.base = m_state.base;
    state.title = m_state.title;
    state.name = m_state.name;
    state.scoreName = m_state.scoreName;
    state.generations = m_state.generations;
    state.stochastic = m_state.stochastic;
    state.recoverOnly = m_state.recoverOnly;
    m_state = std::move(state);
    PlanRequest request = m_sent;
    request.resume = true;
    send(request);
}

void PlanningController::send(const PlanRequest& request)
{
    const int epoch = ++m_epoch;
    m_sent = request;
    m_lost = false;
    m_keep = false;
    m_kept = false;
    m_eta.reset();
    m_clock.start();
    m_state.phase = SearchState::Phase::Running;
    m_state.started = QDateTime::currentDateTime();
    m_request = m_engine->ask(
        request, {"plan", Lane::Full},
        [this, epoch](const EngineAnswer<PlanAnswer>& reply) {
            if (epoch == m_epoch) finish(reply);
        },
        [this, epoch](const EngineProgress& progress) {
            if (epoch != m_epoch) return;
            m_state.done = progress.done;
            m_state.total = progress.total;
            m_eta = progress.etaSeconds;
            if (!m_frame.isActive()) m_frame.start();
        },
        [this, epoch](const PlanEvent& event) {
            if (epoch != m_epoch) return;
            m_state.take(event);
            if (!m_frame.isActive()) m_frame.start();
        });
    emit started();
    emit changed();
    emit jobChanged();
}

void PlanningController::cancel()
{
    if (!running() || m_state.phase == SearchState::Phase::Cancelling) return;
    m_state.phase = SearchState::Phase::Cancelling;
    m_engine->cancel(m_request);
    emit changed();
    emit jobChanged();
}

void PlanningController::stopAndKeep()
{
    if (!running()) return;
    m_keep = true;
    cancel();
}

bool PlanningController::canKeepBest() const { return m_state.best.has_value() && !m_kept && m_state.phase != SearchState::Phase::None; }

void PlanningController::keepBest()
{
    if (running() || !canKeepBest()) return;
    m_state.phase = SearchState::Phase::Stopped;
    commit(*m_state.best, stoppedText());
    emit changed();
}

void PlanningController::show(SearchState ended)
{
    if (running() || ended.running()) return;
    m_state = std::move(ended);
    m_kept = true;
    emit changed();
}

void PlanningController::reset()
{
    if (running()) m_engine->cancel(m_request);
    const bool was = running();
    m_request = 0;
    ++m_epoch;
    m_state = {};
    m_sent = {};
    m_startEntry = -1;
    m_lost = false;
    m_kept = false;
    m_frame.stop();
    if (was) emit jobChanged();
    emit changed();
}

QString PlanningController::stoppedText() const
{
    if (!m_state.measured.empty() && m_state.layers.empty())
        return tr("%1, stopped after %n plan(s)", nullptr, static_cast<int>(m_state.measured.size())).arg(m_state.name);
    return tr("%1, stopped after %2 layers").arg(m_state.name, format::countOf(m_state.layersFinished(), m_state.layersToSearch()));
}

void PlanningController::finish(const EngineAnswer<PlanAnswer>& reply)
{
    using Outcome = EngineEnd::Outcome;
    m_request = 0;
    m_state.ended = QDateTime::currentDateTime();
    m_state.seconds = static_cast<double>(m_clock.elapsed()) / 1000.0;
    switch (reply.outcome) {
        case Outcome::Finished: {
            Result<CompressionPlan> plan = planFromJson(reply->plan, m_state.shape);
            if (!plan.ok()) {
                m_state.phase = SearchState::Phase::Failed;
                Error error = plan.error();
                error.kept = tr("The plan is unchanged.").toStdString();
                emit failed(error);
                break;
            }
            m_state.phase = reply->recovery && reply->recovery->cancelled ? SearchState::Phase::Stopped : SearchState::Phase::Finished;
            m_state.best = std::move(plan).value();
            m_state.planReachesTarget = true;
            if (reply->recovery && reply->recovery->accepted && !m_state.recoverOnly)
                m_state.title += QStringLiteral(", ") + tr("recovered");
            commit(*m_state.best, m_state.phase == SearchState::Phase::Stopped ? tr("%1, stopped").arg(m_state.title) : m_state.title);
            if (!m_state.finalists.empty()) m_state.notes << finalsText(m_state);
            if (reply->recovery) m_state.notes << recoveryText(*reply->recovery);
            for (const std::string& warning : reply->warnings)
                m_state.notes << QString::fromStdString(warning);
            break;
        }
        case Outcome::Cancelled:
        case Outcome::Superseded:
            m_state.phase = SearchState::Phase::Cancelled;
            if (m_keep && m_state.best) {
                m_state.phase = SearchState::Phase::Stopped;
                commit(*m_state.best, stoppedText());
            }
            break;
        case Outcome::Failed: {
            m_state.phase = SearchState::Phase::Failed;
            Error error = reply.error;
            error.kept = tr("The plan is unchanged.").toStdString();
            emit failed(error);
            break;
        }
        case Outcome::Lost:
            // The engine's end is told once, for everything that ran.
            m_state.phase = SearchState::Phase::Failed;
            m_lost = true;
            break;
    }
    m_frame.stop();
    emit ended();
    emit changed();
    emit jobChanged();
}

void PlanningController::commit(const CompressionPlan& plan, const QString& text)
{
    m_kept = true;
    if (plan == m_state.base) {
        emit unchanged();
        return;
    }
    if (!m_plans->inGesture() && m_plans->committed() == m_state.base) {
        m_plans->replacePlan(plan, text);
        return;
    }
    if (const int entry = m_plans->addBranch(m_startEntry, plan, text); entry >= 0) emit branched(entry, text);
}

std::optional<JobState> PlanningController::job() const
{
    if (!running()) return std::nullopt;
    JobState job;
    job.what = m_state.name;
    job.done = m_state.done;
    job.total = m_state.total;
    job.etaSeconds = m_eta;
    if (m_state.phase == SearchState::Phase::Cancelling) job.phase = JobState::Phase::Cancelling;
    const int layers = m_state.layersToSearch();
    // The first block is told of when it ends: until then all that is known is that no layer is left.
    const bool allSearched = m_state.stage == "select" && layers > 0 && m_state.layersFinished() == layers && m_state.recipe.field;
    if (m_state.stage == "select" && !allSearched)
        job.count = m_state.currentLayer < 0
                        ? tr("%n layer(s)", nullptr, layers)
                        : tr("layer %1, %2 done").arg(m_state.currentLayer).arg(format::countOf(m_state.layersFinished(), layers));
    else if (allSearched || m_state.stage == "receptive-field")
        job.count = tr("%1 blocks done").arg(format::countOf(static_cast<int>(m_state.blocks.size()), m_state.blocksToTry()));
    else if (m_state.stage == "rank")
        job.count = tr("ranks");
    else if (m_state.stage == "finals")
        job.count = tr("%n plan(s) recovered", nullptr, static_cast<int>(m_state.finalists.size()));
    else if (m_state.stage == "recover")
        job.count = m_state.recovery.empty() || !m_state.recovery.back().layer
                        ? tr("recovering")
                        : tr("recovering layer %1").arg(*m_state.recovery.back().layer);
    else if (m_state.stage == "allocate")
        job.count = !m_state.measured.empty() ? tr("%n plan(s) measured", nullptr, static_cast<int>(m_state.measured.size()))
                    : !m_state.alone.empty()  ? tr("%n layer(s) measured alone", nullptr, static_cast<int>(m_state.alone.size()))
                                              : tr("sharing the target");
    else
        job.count = tr("starting");
    return job;
}

}  // namespace espalier
