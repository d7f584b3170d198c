#include "shell/estimate_controller.h"

#include "format.h"
#include "plan/rank_edit.h"
#include "shell/evaluation_controller.h"

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

constexpr int kPairsWanted = 8;  // below it an estimate says that it is not calibrated (methods.md 4.9)
constexpr std::size_t kMostKnown = 2000;

double number(const Json& value, const char* key)
{
    const Json field = value.value(key, Json());
    return field.is_number() ? field.get<double>() : std::nan("");
}

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
    m_exact.clear();
    m_unpaired.clear();
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
    ExpertSet kept = m_plan.layer(m_cell.layer).kept;
    const auto at = std::lower_bound(kept.begin(), kept.end(), m_cell.expert);
    const bool isKept = at != kept.end() && *at == m_cell.expert;
    Result<CompressionPlan> other = m_plan;
    if (isKept && ranksOf(m_plan, m_cell.layer, m_cell.expert) != RankTriple{}) {
        m_cellWhat = tr("if dense");
        other = withExpertRank(m_shape, m_plan, m_cell.layer, m_cell.expert, 0, m_plan.factors());
    } else if (isKept) {
        m_cellWhat = tr("if dropped");
        kept.erase(at);
        other = m_plan.withKept(m_shape, m_cell.layer, std::move(kept));
    } else {
        m_cellWhat = tr("if kept");
        kept.insert(at, m_cell.expert);
        other = m_plan.withKept(m_shape, m_cell.layer, std::move(kept));
    }
    // The router needs it: there is nothing to say.
    if (other.ok())
        m_cellPlan = std::move(other).value();
    else
        m_cellWhat.clear();
}

void EstimateController::setMeasured(const std::map<std::string, PlanRun>& runs, const PlanHistory& history,
                                     const CompressionPlan& identity, const std::vector<int>& windows)
{
    m_exact.clear();
    m_unpaired.clear();
    const auto first = [&windows](const PlanRun& run) {
        std::vector<WindowLoss> losses;
        for (const int window : windows)
            if (const auto found = run.losses.find(window); found != run.losses.end()) losses.push_back(found->second);
        return losses;
    };
    const auto dense = runs.find(identity.hash());
    if (dense == runs.end() || windows.empty()) return;
    const std::vector<WindowLoss> reference = first(dense->second);
    if (reference.size() < windows.size()) return;
    for (const auto& [hash, run] : runs) {
        if (hash == identity.hash()) continue;
        const std::vector<WindowLoss> losses = first(run);
        if (losses.size() < windows.size()) continue;
        m_exact[hash] = pairedDifference(losses, reference).nll;
    }
    for (const HistoryEntry& entry : history.entries())
        if (const std::string& hash = entry.plan.hash(); m_exact.contains(hash) && !m_known.contains(hash))
            m_unpaired.emplace(hash, entry.plan);
    ask();
}

Json EstimateController::pairs() const
{
    Json list = Json::array();
    for (const auto& [hash, exact] : m_exact)
        if (const auto known = m_known.find(hash); known != m_known.end() && std::isfinite(known->second.e1) && std::isfinite(exact))
            list.push_back({known->second.e1, known->second.e2, exact});
    return list;
}

void EstimateController::ask()
{
    // The answer of the request that runs asks again, for whatever is wanted then.
    if (m_request != 0 || m_file.isEmpty() || m_refused || !m_engine->usable() || m_plan.layerCount() == 0) return;
    const CompressionPlan* wanted = nullptr;
    if (!m_known.contains(m_plan.hash()))
        wanted = &m_plan;
    else if (m_cellPlan && !m_known.contains(m_cellPlan->hash()))
        wanted = &*m_cellPlan;
    else if (const auto next =
                 std::find_if(m_unpaired.begin(), m_unpaired.end(), [this](const auto& item) { return !m_known.contains(item.first); });
             next != m_unpaired.end())
        wanted = &next->second;
    const Json known = pairs();
    // A run was measured since: the same estimates, fitted anew.
    if (!wanted && known.size() != m_sentPairs) wanted = &m_plan;
    if (!wanted) return;
    m_sentPairs = known.size();
    const std::string hash = wanted->hash();
    m_request =
        m_engine->request("estimate", {{"profile", m_file.toStdString()}, {"plan", toJson(*wanted)}, {"pairs", known}, {"tag", "estimate"}},
                          [this, hash, epoch = m_epoch](const EngineReply& reply) {
                              if (epoch != m_epoch) return;
                              m_request = 0;
                              if (reply.ok()) {
                                  if (m_known.size() >= kMostKnown) m_known.clear();
                                  // Filed under the plan that was asked for, if the engine read the same one.
                                  if (reply.result.value("plan_hash", std::string()) == hash) {
                                      m_known[hash] = {number(reply.result, "e1"), number(reply.result, "e2")};
                                      m_fit.band = number(reply.result, "band");
                                      const Json calibration = reply.result.value("calibration", Json());
                                      if (calibration.is_object()) {
                                          m_fit.pairs = calibration.value("pairs", 0);
                                          if (const Json beta = calibration.value("beta", Json()); beta.is_array() && beta.size() == 2) {
                                              m_fit.beta1 = beta[0].get<double>();
                                              m_fit.beta2 = beta[1].get<double>();
                                          }
                                      }
                                  } else {
                                      m_refused = true;
                                  }
                              } else if (reply.outcome == EngineReply::Outcome::Failed) {
                                  m_refused = true;
                              } else if (reply.outcome == EngineReply::Outcome::Lost) {
                                  return;
                              }
                              emit changed();
                              ask();
                          });
}

std::optional<EstimateController::Estimate> EstimateController::estimateOf(const std::string& planHash, double densePpl) const
{
    const auto known = m_known.find(planHash);
    if (known == m_known.end()) return std::nullopt;
    const double ratio = std::exp(m_fit.change(known->second));
    if (!std::isfinite(ratio) || !std::isfinite(densePpl)) return std::nullopt;
    Estimate estimate;
    estimate.deltaPpl = densePpl * (ratio - 1);
    estimate.note = m_fit.pairs >= kPairsWanted && std::isfinite(m_fit.band)
                        ? tr("past error ±%1 over %n run(s)", nullptr, m_fit.pairs).arg(format::number(densePpl * ratio * m_fit.band, 2))
                    : m_fit.pairs > 0 ? tr("uncalibrated, %n run(s)", nullptr, m_fit.pairs)
                                      : tr("uncalibrated");
    return estimate;
}

double EstimateController::cellDelta(double densePpl) const
{
    if (!m_cellPlan) return std::nan("");
    const auto now = m_known.find(m_plan.hash());
    const auto other = m_known.find(m_cellPlan->hash());
    if (now == m_known.end() || other == m_known.end()) return std::nan("");
    return densePpl * (std::exp(m_fit.change(other->second)) - std::exp(m_fit.change(now->second)));
}

}  // namespace espalier
