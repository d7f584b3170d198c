#include "shell/engine/estimate_controller.h"

#include "look/format.h"
#include "plan/rank_edit.h"
#include "score/nll_estimate.h"
#include "shell/engine/evaluation_controller.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace espalier
{

namespace
{

constexpr int kPairsWanted = 8;  // below it an estimate says that it is not calibrated
constexpr std::size_t kMostKnown = 2000;
constexpr double kReach = 1.645;  // standard deviations that hold nine of ten normal errors

}  // namespace

EstimateController::EstimateController(EngineClient* engine, QObject* parent) : QObject(parent), m_engine(engine)
{
    connect(m_engine, &EngineClient::ready, this, [this] {
        m_refused = false;
        ask();
    });
}

void EstimateController::setProfile(const QString& file, const QString& sha256)
{
    if (file == m_file && sha256 == m_sha256) return;
    m_file = file;
    m_sha256 = sha256;
    ++m_epoch;
    m_request = 0;
    m_refused = false;
    m_known.clear();
    m_fit = {};
    m_sentPairs = 0;
    m_probes = 0;
    restoreRecord(std::exchange(m_restored, Json()));
    emit changed();
    ask();
}

void EstimateController::setShape(const ModelShape& shape)
{
    m_shape = shape;
    m_plan = {};
    m_cell = {};
    m_cellPlan.reset();
    m_cellWhat.clear();
    m_quick.clear();
    m_full.clear();
    m_unpaired.clear();
    m_restored = Json();
}

void EstimateController::setPlan(const CompressionPlan& plan)
{
    m_plan = plan;
    refreshCell();
    ask();
}

void EstimateController::setCell(CellId cell)
{
    if (cell == m_cell) return;
    m_cell = cell;
    refreshCell();
    ask();
}

void EstimateController::refreshCell()
{
    m_cellPlan.reset();
    m_cellWhat.clear();
    if (m_plan.layerCount() != static_cast<int>(m_shape.layers.size()) || m_cell.layer < 0 || m_cell.layer >= m_plan.layerCount() ||
        m_cell.expert < 0 || m_cell.expert >= m_shape.layers[static_cast<std::size_t>(m_cell.layer)].experts)
        return;
    ExpertSet kept = m_plan.layer(m_cell.layer).kept();
    const auto at = std::lower_bound(kept.begin(), kept.end(), m_cell.expert);
    const bool isKept = at != kept.end() && *at == m_cell.expert;
    Result<CompressionPlan> other = m_plan;
    if (isKept && ranksOf(m_plan, m_cell.layer, m_cell.expert) != RankTriple{}) {
        m_cellWhat = tr("if dense");
        other = withExpertRank(m_shape, m_plan, m_cell.layer, m_cell.expert, 0, m_plan.factors());
    } else if (isKept) {
        m_cellWhat = tr("if dropped");
        kept.erase(at);
        other = m_plan.withKept(m_shape, m_cell.layer, kept);
    } else {
        m_cellWhat = tr("if kept");
        kept.insert(at, m_cell.expert);
        other = m_plan.withKept(m_shape, m_cell.layer, kept);
    }
    // The router needs it, or no estimate covers it: there is nothing to say.
    if (other.ok() && estimateCovers(*other).ok() && estimateCovers(m_plan).ok())
        m_cellPlan = std::move(other).value();
    else
        m_cellWhat.clear();
}

void EstimateController::setMeasured(const std::map<std::string, PlanRun>& runs, const PlanHistory& history,
                                     const CompressionPlan& identity, const Tiers& tiers)
{
    const auto on = [](const PlanRun& run, const std::vector<int>& windows) {
        std::vector<WindowLoss> losses;
        for (const int window : windows)
            if (const auto at = run.losses.find(window); at != run.losses.end()) losses.push_back(at->second);
        return losses;
    };
    const auto dense = runs.find(identity.hash());
    for (const auto& [exact, windows] : {std::pair{&m_quick, &tiers.quick}, {&m_full, &tiers.full}}) {
        exact->clear();
        if (dense == runs.end() || windows->empty()) continue;
        const std::vector<WindowLoss> reference = on(dense->second, *windows);
        if (reference.size() < windows->size()) continue;
        for (const auto& [hash, run] : runs) {
            if (hash == identity.hash()) continue;
            if (const std::vector<WindowLoss> losses = on(run, *windows); losses.size() == windows->size())
                (*exact)[hash] = pairedDifference(losses, reference).nll;
        }
    }
    m_unpaired.clear();
    for (const HistoryEntry& entry : history.entries())
        if (const std::string& hash = entry.plan.hash();
            (m_quick.contains(hash) || m_full.contains(hash)) && !m_known.contains(hash) && estimateCovers(entry.plan).ok())
            m_unpaired.emplace(hash, entry.plan);
    ask();
}

// All but the record.
void EstimateController::forget()
{
    std::erase_if(m_known, [this](const auto& item) { return !m_quick.contains(item.first) && !m_full.contains(item.first); });
}

bool EstimateController::settled() const
{
    return std::none_of(m_unpaired.begin(), m_unpaired.end(), [this](const auto& item) { return !m_known.contains(item.first); });
}

std::vector<EstimatePoint> EstimateController::pairs() const
{
    std::vector<EstimatePoint> list;
    for (const auto& [hash, exact] : m_quick)
        if (const auto known = m_known.find(hash); known != m_known.end() && std::isfinite(known->second.e1) && std::isfinite(exact))
            list.push_back({known->second.e1, known->second.e2, {}, exact});
    return list;
}

void EstimateController::ask()
{
    // The answer of the request that runs asks again, for whatever is wanted then.
    if (m_request != 0 || m_file.isEmpty() || m_refused || !m_engine->usable() || m_plan.layerCount() == 0) return;
    const CompressionPlan* wanted = nullptr;
    const bool covered = estimateCovers(m_plan).ok();
    if (covered && !m_known.contains(m_plan.hash()))
        wanted = &m_plan;
    else if (const auto next =
                 std::find_if(m_unpaired.begin(), m_unpaired.end(), [this](const auto& item) { return !m_known.contains(item.first); });
             next != m_unpaired.end())
        wanted = &next->second;
    else if (m_cellPlan && !m_known.contains(m_cellPlan->hash()))
        wanted = &*m_cellPlan;
    const std::vector<EstimatePoint> known = pairs();
    // A run was measured since: the same estimates, fitted anew. What is fitted to measured plans is refined here.
    if (!wanted && covered && m_probes == 0 && known.size() != m_sentPairs) wanted = &m_plan;
    if (!wanted) return;
    m_sentPairs = known.size();
    const std::string hash = wanted->hash();
    EstimateRequest request;
    request.profile = m_file.toStdString();
    request.plan = toJson(*wanted);
    if (m_probes == 0) request.pairs = known;
    m_request = m_engine->ask(request, {"estimate", {}}, [this, hash, epoch = m_epoch](const EngineAnswer<EstimateAnswer>& reply) {
        if (epoch != m_epoch) return;
        m_request = 0;
        if (reply.ok())
            take(hash, reply.value);
        else if (reply.outcome == EngineEnd::Outcome::Failed)
            m_refused = true;
        if (reply.outcome == EngineEnd::Outcome::Lost) return;
        emit changed();
        ask();
    });
}

void EstimateController::take(const std::string& hash, const EstimateAnswer& answer)
{
    if (m_known.size() >= kMostKnown) forget();
    // Filed under the plan that was asked for, if the engine read the same one.
    if (answer.planHash != hash) {
        m_refused = true;
        return;
    }
    const espalier::Estimate& estimate = answer.estimate;
    const auto calibration = estimate.calibration.value_or(espalier::Estimate::Calibration());
    Known& known = m_known[hash];
    known = {estimate.e1, estimate.e2, {}};
    m_probes = calibration.probes;
    if (m_probes > 0) known.fitted = NllInterval{estimate.deltaNll, estimate.low, estimate.high, estimate.spread};
    m_fit.band = estimate.band;
    m_fit.pairs = calibration.pairs;
    if (calibration.beta && calibration.beta->size() == 2) {
        m_fit.beta1 = calibration.beta->front();
        m_fit.beta2 = calibration.beta->back();
    }
}

std::optional<NllInterval> EstimateController::intervalOf(const std::string& planHash, Tier tier, int* runs) const
{
    const auto known = m_known.find(planHash);
    if (known == m_known.end()) return std::nullopt;
    if (!known->second.fitted) {
        const double change = m_fit.change(known->second), reach = m_fit.pairs >= kPairsWanted ? kReach * m_fit.band : std::nan("");
        if (!std::isfinite(change)) return std::nullopt;
        if (runs) *runs = m_fit.pairs;
        return NllInterval{change, change - reach, change + reach, std::nan("")};
    }
    std::vector<MeasuredEstimate> others;
    for (const auto& [hash, exact] : exactOf(tier))
        if (const auto other = m_known.find(hash); hash != planHash && other != m_known.end() && other->second.fitted)
            others.push_back({other->second.fitted->change, exact});
    if (runs) *runs = static_cast<int>(others.size());
    return refined(*known->second.fitted, others);
}

std::optional<EstimateController::Estimate> EstimateController::estimateOf(const std::string& planHash, double densePpl, Tier tier) const
{
    if (!std::isfinite(densePpl) || !settled()) return std::nullopt;
    Estimate estimate;
    const std::optional<NllInterval> interval = intervalOf(planHash, tier, &estimate.runs);
    if (!interval || !std::isfinite(std::exp(interval->change))) return std::nullopt;
    const auto difference = [densePpl](double nll) { return densePpl * std::expm1(nll); };
    estimate.deltaPpl = difference(interval->change);
    estimate.low = difference(interval->low);
    estimate.high = difference(interval->high);
    estimate.probes = m_probes;
    estimate.calibrated = std::isfinite(estimate.low) && std::isfinite(estimate.high);
    if (estimate.calibrated)
        estimate.note = tr("likely %1 to %2").arg(format::number(densePpl + estimate.low, 1), format::number(densePpl + estimate.high, 1));
    else
        estimate.note =
            estimate.runs > 0 ? tr("rough: fitted to %n measured plan(s)", nullptr, estimate.runs) : tr("rough: no plan was measured yet");
    return estimate;
}

QString EstimateController::notCovered() const
{
    if (!available() || m_plan.layerCount() == 0) return {};
    if (estimateCovers(m_plan).ok()) return {};
    bool constants = false, skipped = false;
    for (int layer = 0; layer < m_plan.layerCount(); ++layer) {
        constants = constants || !m_plan.layer(layer).constants().empty();
        skipped = skipped || m_plan.layer(layer).run() != LayerRun::Whole;
    }
    if (constants && skipped) return tr("constants and skipped layers are measured, not estimated");
    if (constants) return tr("constants are measured, not estimated");
    return skipped ? tr("skipped layers are measured, not estimated") : tr("this plan's forms are measured, not estimated");
}

double EstimateController::cellDelta(double densePpl, Tier tier) const
{
    if (!m_cellPlan || !settled()) return std::nan("");
    const std::optional<NllInterval> now = intervalOf(m_plan.hash(), tier);
    const std::optional<NllInterval> other = intervalOf(m_cellPlan->hash(), tier);
    if (!now || !other) return std::nan("");
    return densePpl * (std::exp(other->change) - std::exp(now->change));
}

Json EstimateController::record() const
{
    Json plans = Json::object();
    for (const Exact* exact : {&m_quick, &m_full})
        for (const auto& [hash, change] : *exact)
            if (const auto known = m_known.find(hash); known != m_known.end() && known->second.fitted) {
                const NllInterval& fitted = *known->second.fitted;
                plans[hash] = {known->second.e1, known->second.e2, fitted.change, fitted.low, fitted.high, fitted.spread};
            }
    return {{"profile", m_sha256.toStdString()}, {"probes", m_probes}, {"plans", std::move(plans)}};
}

void EstimateController::restoreRecord(const Json& record)
{
    m_restored = Json();
    if (!record.is_object()) return;
    const Json sha256 = record.value("profile", Json()), probes = record.value("probes", Json()), plans = record.value("plans", Json());
    if (!sha256.is_string() || !probes.is_number_integer() || !plans.is_object()) return;
    if (sha256.get<std::string>() != m_sha256.toStdString()) {
        m_restored = record;  // the profile may be found yet
        return;
    }
    for (const auto& [hash, values] : plans.items()) {
        const bool numbers = values.is_array() && values.size() == 6 &&
                             std::all_of(values.begin(), values.end(), [](const Json& value) { return value.is_number(); });
        if (numbers) m_known[hash] = {values[0], values[1], NllInterval{values[2], values[3], values[4], values[5]}};
    }
    if (!m_known.empty()) m_probes = probes.get<int>();
}

}  // namespace espalier
