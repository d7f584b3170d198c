// Scores of the experts: of the profile, row by row as they arrive, and of the weights; which one is shown, and which one ranks.
#include "shell/engine/problem_id.h"
#include "shell/plan/workbench.h"

#include <cmath>
#include <utility>

namespace espalier
{

void Workbench::takePartial(const LayerScored& scored)
{
    const auto layer = static_cast<std::size_t>(scored.layer);
    if (layer >= m_plans.shape().layers.size()) return;
    for (const auto& [method, row] : scored.scores) {
        ExpertScores& scores = m_scores[method];
        if (scores.method.empty()) {
            scores.method = method;
            scores.title = method;
            for (const MethodInfo& info : methods(Slot::Score))
                if (info.id == method) scores.title = info.title;
        }
        scores.values.rows.resize(m_plans.shape().layers.size());
        for (const LayerShape& l : m_plans.shape().layers)
            if (auto& values = scores.values.rows[static_cast<std::size_t>(l.index)]; static_cast<int>(values.size()) != l.experts)
                values.assign(static_cast<std::size_t>(l.experts), std::nan(""));
        std::vector<double>& values = scores.values.rows[layer];
        for (std::size_t e = 0; e < values.size() && e < row.size(); ++e)
            values[e] = row[e];
    }
    emit scoresChanged();
}

void Workbench::takeScores(const ScoresByMethod& scores)
{
    for (const auto& [method, value] : scores) {
        ExpertScores taken = value;
        taken.values.rows.resize(m_plans.shape().layers.size());
        m_scores[method] = std::move(taken);
    }
    chooseScore(m_chosenScore);
}

// Statistics that it reads beside the weights are in the profile.
bool Workbench::canReadWeights(const MethodInfo& method) const
{
    if (!readsWeights(method)) return false;
    return std::all_of(method.needs.begin(), method.needs.end(),
                       [this](const std::string& need) { return need == "weights" || (m_profiled && m_collected.contains(need)); });
}

QStringList Workbench::scoreIds() const
{
    QStringList ids;
    // What the profile brought with it, and what the engine can compute without one: nothing else has values here.
    for (const MethodInfo& method : methods(Slot::Score))
        if (m_scores.empty() || m_scores.contains(method.id) || (canReadWeights(method) && m_engine.usable()))
            ids << QString::fromStdString(method.id);
    for (const auto& [id, scores] : m_scores)
        if (!ids.contains(QString::fromStdString(id))) ids << QString::fromStdString(id);
    return ids;
}

const ExpertScores* Workbench::currentScores() const
{
    const auto it = m_scores.find(m_chosenScore);
    return it == m_scores.end() ? nullptr : &it->second;
}

void Workbench::chooseScore(const std::string& method)
{
    m_chosenScore = method;
    askForWeightScores();
    giveRanking();
    emit scoresChanged();
}

void Workbench::rankBy(const std::string& method)
{
    m_ranking = method;
    askForWeightScores();
    giveRanking();
    emit scoresChanged();
}

void Workbench::giveRanking()
{
    // What is being computed ranks once it is there; until then the one before does.
    if (m_profiled && !m_scores.empty() && !m_weightScores.pending(m_ranking)) {
        // A profile that lacks the score is ranked by one that it has, and the chooser shows which.
        if (!m_scores.contains(m_ranking)) m_ranking = m_scores.contains(kRanking) ? kRanking : m_scores.begin()->first;
        m_plans.setScores(m_scores.at(m_ranking));
    }
    if (const auto it = m_scores.find("leave-one-out"); it != m_scores.end()) m_plans.setLayerImportance(it->second.layerImportance);
}

// ---- of the weights

void Workbench::connectWeightScores()
{
    connect(&m_weightScores, &WeightScores::arrived, this, [this](const std::string& method, const ExpertScores& answer) {
        const bool unchanged = !modified();
        ExpertScores taken = answer;
        taken.values.rows.resize(m_plans.shape().layers.size());
        m_scores[method] = std::move(taken);
        giveRanking();
        // To have looked at them changes no session; whoever saves it keeps them.
        if (unchanged) markSaved(sessionContentHash(snapshot()), m_plans.history().entries().size());
        emit scoresChanged();
        emit sessionChanged();
    });
    connect(&m_weightScores, &WeightScores::gaveUp, this, [this](const std::string& method) {
        if (m_chosenScore == method) m_chosenScore = kRanking;
        giveRanking();
        emit scoresChanged();
    });
    connect(&m_weightScores, &WeightScores::failed, this, [this](const Error& error) { emit notice(error, problemId(error)); });
    connect(&m_weightScores, &WeightScores::jobChanged, this, [this] {
        if (!m_evaluation.busy() && !m_profileJob) tellJob(backgroundJob());
        if (!m_weightScores.job()) considerDeep();
    });
}

// Computed when somebody wants to see them or rank by them, and kept.
void Workbench::askForWeightScores()
{
    for (const MethodInfo& method : methods(Slot::Score)) {
        const bool wanted = method.id == m_chosenScore || method.id == m_ranking;
        if (!wanted || !canReadWeights(method) || m_scores.contains(method.id)) continue;
        m_deep.giveWay();  // nobody waits for that one
        m_weightScores.ask(method, profileOnDisk());
    }
}

void Workbench::forgetScores(bool sameModel)
{
    std::set<std::string> kept;
    for (const MethodInfo& method : methods(Slot::Score))
        if (sameModel && readsWeightsAlone(method)) kept.insert(method.id);
    std::erase_if(m_scores, [&kept](const auto& entry) { return !kept.contains(entry.first); });
}

ExpertGrid Workbench::usage() const
{
    const auto it = m_scores.find("expert_frequency");
    if (it == m_scores.end()) return {};
    ExpertGrid grid = it->second.values;
    for (std::vector<double>& row : grid.rows) {
        double sum = 0;
        for (const double x : row)
            sum += x;
        if (sum > 0)
            for (double& x : row)
                x /= sum;
    }
    return grid;
}

}  // namespace espalier
