#include "allocate/exact_solver.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <queue>
#include <utility>

namespace espalier
{

namespace
{

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Options of a layer that no cheaper or equal one beats, ascending cost, hence descending loss. `index` points into the caller's list.
struct Option {
    std::int64_t cost;
    double loss;
    int index;
};
using Frontier = std::vector<Option>;

Status check(const std::vector<SolverLayer>& layers)
{
    for (std::size_t i = 0; i < layers.size(); ++i) {
        if (layers[i].empty())
            return badInput("allocate.no_options", fmt::format("layer {}", i), "Locks and limits leave a layer without any option.",
                            "Unlock it, or widen its floor and cap.");
        for (const SolverOption& option : layers[i])
            if (!std::isfinite(option.loss))
                return badInput("allocate.utility", fmt::format("layer {}", i), "The loss of an option is missing or not finite.",
                                "Measure the profile again.");
    }
    return {};
}

std::vector<Frontier> sortedOptions(const std::vector<SolverLayer>& layers)
{
    std::vector<Frontier> sorted(layers.size());
    for (std::size_t i = 0; i < layers.size(); ++i) {
        for (std::size_t o = 0; o < layers[i].size(); ++o)
            sorted[i].push_back({layers[i][o].cost, layers[i][o].loss, static_cast<int>(o)});
        std::sort(sorted[i].begin(), sorted[i].end(), [](const Option& a, const Option& b) {
            return a.cost != b.cost ? a.cost < b.cost : a.loss != b.loss ? a.loss < b.loss : a.index < b.index;
        });
    }
    return sorted;
}

std::vector<Frontier> undominated(const std::vector<SolverLayer>& layers)
{
    std::vector<Frontier> sorted = sortedOptions(layers);
    for (Frontier& options : sorted) {
        Frontier left;
        for (const Option& option : options)
            if (left.empty() || option.loss < left.back().loss) left.push_back(option);
        options = std::move(left);
    }
    return sorted;
}

Error infeasible(std::int64_t budget, std::int64_t least, std::int64_t most)
{
    return badInput("allocate.infeasible", fmt::format("budget {}", budget),
                    {"A budget of {budget} cannot be met: the feasible range is {least} to {most}.",
                     {{"budget", budget}, {"least", least}, {"most", most}}},
                    "Choose a target in that range, or unlock layers.");
}

// Positions into the frontiers, and their sums.
struct Pick {
    std::vector<int> at;
    std::int64_t cost = 0;
    double loss = 0;

    void sum(const std::vector<Frontier>& layers)
    {
        cost = 0;
        loss = 0;
        for (std::size_t i = 0; i < at.size(); ++i) {
            cost += layers[i][static_cast<std::size_t>(at[i])].cost;
            loss += layers[i][static_cast<std::size_t>(at[i])].loss;
        }
    }
};

SolverAnswer answerOf(const std::vector<SolverLayer>& layers, const std::vector<int>& choice, std::string method)
{
    SolverAnswer answer;
    answer.choice = choice;
    for (std::size_t i = 0; i < choice.size(); ++i) {
        const SolverOption& option = layers[i][static_cast<std::size_t>(choice[i])];
        answer.payload.push_back(option.payload);
        answer.cost += option.cost;
        answer.loss += option.loss;
    }
    answer.method = std::move(method);
    return answer;
}

SolverAnswer answerOf(const std::vector<SolverLayer>& layers, const std::vector<Frontier>& options, const Pick& pick, std::string method)
{
    std::vector<int> choice;
    for (std::size_t i = 0; i < pick.at.size(); ++i)
        choice.push_back(options[i][static_cast<std::size_t>(pick.at[i])].index);
    return answerOf(layers, choice, std::move(method));
}

// Positions of the lower convex hull of a frontier.
std::vector<int> hullOf(const Frontier& options)
{
    std::vector<int> hull;
    const auto turnsUp = [&](int a, int b, int c) {  // b on or above the line a-c
        const Option& p = options[static_cast<std::size_t>(a)];
        const Option& q = options[static_cast<std::size_t>(b)];
        const Option& r = options[static_cast<std::size_t>(c)];
        return (p.loss - q.loss) * static_cast<double>(r.cost - q.cost) <= (q.loss - r.loss) * static_cast<double>(q.cost - p.cost);
    };
    for (int i = 0; i < static_cast<int>(options.size()); ++i) {
        while (hull.size() >= 2 && turnsUp(hull[hull.size() - 2], hull.back(), i))
            hull.pop_back();
        hull.push_back(i);
    }
    return hull;
}

// One step of the sweep: layer moves to a dearer hull point, saving `slope` of loss per unit of cost.
struct Step {
    double slope;
    std::size_t layer;
    int from;
    int to;
};

std::vector<Step> sweepSteps(const std::vector<Frontier>& layers)
{
    std::vector<Step> steps;
    for (std::size_t i = 0; i < layers.size(); ++i) {
        const std::vector<int> hull = hullOf(layers[i]);
        for (std::size_t k = 1; k < hull.size(); ++k) {
            const Option& a = layers[i][static_cast<std::size_t>(hull[k - 1])];
            const Option& b = layers[i][static_cast<std::size_t>(hull[k])];
            steps.push_back({(a.loss - b.loss) / static_cast<double>(b.cost - a.cost), i, hull[k - 1], hull[k]});
        }
    }
    // Within a layer slopes fall, so the sort keeps its order; equal slopes keep theirs because the sort is stable.
    std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.slope > b.slope; });
    return steps;
}

// The sweep stopped at the budget: the last hull solution that fits, the first one that does not, and the multiplier between them.
struct Dual {
    Pick below;
    Pick above;  // == below where everything fits
    double lambda = 0;
    double bound = 0;
};

Dual dualOf(const std::vector<Frontier>& layers, std::int64_t budget)
{
    Dual dual;
    dual.below.at.assign(layers.size(), 0);
    dual.below.sum(layers);
    dual.above = dual.below;
    dual.bound = dual.below.loss;
    for (const Step& step : sweepSteps(layers)) {
        const std::int64_t price =
            layers[step.layer][static_cast<std::size_t>(step.to)].cost - layers[step.layer][static_cast<std::size_t>(step.from)].cost;
        if (dual.below.cost + price <= budget) {
            dual.below.at[step.layer] = step.to;
            dual.below.cost += price;
            continue;
        }
        dual.below.sum(layers);
        dual.lambda = step.slope;
        dual.bound = dual.below.loss - step.slope * static_cast<double>(budget - dual.below.cost);
        dual.above = dual.below;
        dual.above.at[step.layer] = step.to;
        dual.above.sum(layers);
        return dual;
    }
    dual.below.sum(layers);
    dual.above = dual.below;
    dual.bound = dual.below.loss;
    return dual;
}

// Single moves that fit and save most, until none is left.
void fillUp(Pick& pick, const std::vector<Frontier>& layers, std::int64_t budget)
{
    while (true) {
        std::size_t best = layers.size();
        int bestTo = 0;
        double bestGain = 0;
        for (std::size_t i = 0; i < layers.size(); ++i) {
            const Option& now = layers[i][static_cast<std::size_t>(pick.at[i])];
            // Losses fall with cost: the dearest option that still fits is the layer's best move.
            const auto end = std::upper_bound(layers[i].begin(), layers[i].end(), now.cost + budget - pick.cost,
                                              [](std::int64_t cost, const Option& o) { return cost < o.cost; });
            const int to = static_cast<int>(end - layers[i].begin()) - 1;
            if (to <= pick.at[i]) continue;
            const double gain = now.loss - layers[i][static_cast<std::size_t>(to)].loss;
            if (gain <= bestGain) continue;
            best = i;
            bestTo = to;
            bestGain = gain;
        }
        if (best == layers.size()) break;
        pick.cost += layers[best][static_cast<std::size_t>(bestTo)].cost - layers[best][static_cast<std::size_t>(pick.at[best])].cost;
        pick.at[best] = bestTo;
    }
    pick.sum(layers);
}

// Single steps down, least loss per unit of cost first, until the budget is met.
void giveBack(Pick& pick, const std::vector<Frontier>& layers, std::int64_t budget)
{
    using Offer = std::pair<double, std::size_t>;  // price of the layer's next step down; ties to the lower layer
    std::priority_queue<Offer, std::vector<Offer>, std::greater<>> offers;
    const auto offer = [&](std::size_t i) {
        if (pick.at[i] == 0) return;
        const Option& now = layers[i][static_cast<std::size_t>(pick.at[i])];
        const Option& next = layers[i][static_cast<std::size_t>(pick.at[i] - 1)];
        offers.emplace((next.loss - now.loss) / static_cast<double>(now.cost - next.cost), i);
    };
    for (std::size_t i = 0; i < layers.size(); ++i)
        offer(i);
    while (pick.cost > budget && !offers.empty()) {
        const std::size_t i = offers.top().second;
        offers.pop();
        const auto at = static_cast<std::size_t>(pick.at[i]);
        pick.cost -= layers[i][at].cost - layers[i][at - 1].cost;
        --pick.at[i];
        offer(i);
    }
    pick.sum(layers);
}

std::int64_t leastCost(const std::vector<Frontier>& layers)
{
    return std::accumulate(layers.begin(), layers.end(), std::int64_t{0},
                           [](std::int64_t sum, const Frontier& f) { return sum + f.front().cost; });
}
std::int64_t mostCost(const std::vector<Frontier>& layers)
{
    return std::accumulate(layers.begin(), layers.end(), std::int64_t{0},
                           [](std::int64_t sum, const Frontier& f) { return sum + f.back().cost; });
}

void setBound(SolverAnswer& answer, double bound)
{
    // Sums in different order differ in the last digits; the bound never lies above an answer.
    answer.dualBound = std::min(bound, answer.loss);
    answer.gap = answer.loss - answer.dualBound;
}

// One sum of a prefix of layers; `parent` and `option` lead back.
struct State {
    std::int64_t cost;
    double loss;
    std::int32_t parent;
    std::int32_t option;
};
static_assert(sizeof(State) == 24);

std::int64_t commonDivisor(const std::vector<Frontier>& layers)
{
    std::int64_t divisor = 0;
    for (const Frontier& layer : layers)
        for (const Option& option : layer)
            divisor = std::gcd(divisor, option.cost - layer.front().cost);
    return std::max<std::int64_t>(1, divisor);
}

class DynamicProgram
{
public:
    // `upper`: a loss that is reachable, or infinity. Options must be sorted by cost within each layer.
    DynamicProgram(const std::vector<Frontier>& layers, std::int64_t budget, const SolverSettings& settings, double lambda, double upper)
        : m_layers(layers), m_settings(settings), m_lambda(lambda), m_budget(budget)
    {
        for (const Frontier& layer : layers)
            m_budget -= layer.front().cost;
        // Bounds are sums in another order than the losses they are compared with.
        m_upper = upper + 1e-12 * (std::abs(upper) + m_lambda * static_cast<double>(m_budget));
        const std::size_t n = layers.size();
        m_leastLoss.assign(n + 1, 0);
        m_leastPenalised.assign(n + 1, 0);
        m_most.assign(n + 1, 0);
        for (std::size_t i = n; i-- > 0;) {
            double loss = kInfinity;
            double penalised = kInfinity;
            for (const Option& o : layers[i]) {
                loss = std::min(loss, o.loss);
                penalised = std::min(penalised, o.loss + m_lambda * static_cast<double>(extra(i, o)));
            }
            m_leastLoss[i] = m_leastLoss[i + 1] + loss;
            m_leastPenalised[i] = m_leastPenalised[i + 1] + penalised;
            m_most[i] = m_most[i + 1] + extra(i, layers[i].back());
        }
        const std::int64_t divisor = commonDivisor(layers);
        const auto cells = static_cast<std::int64_t>(std::max<std::size_t>(2, settings.maxStates));
        const std::int64_t range = std::min(m_budget, m_most[0]);
        m_grid = std::max(divisor, (range + cells - 2) / (cells - 1));
        m_fine = m_grid == divisor;
    }

    bool fine() const noexcept { return m_fine; }
    bool coarsened() const noexcept { return m_coarsened; }

    // Positions into the frontiers; empty when nothing fits (or nothing below `upper`).
    std::vector<int> run()
    {
        std::vector<std::vector<State>> table;
        table.push_back({{0, 0.0, -1, -1}});
        for (std::size_t i = 0; i < m_layers.size(); ++i) {
            table.push_back(extended(table.back(), i));
            if (table.back().empty()) return {};
        }
        const std::vector<State>& last = table.back();
        int best = -1;
        for (int s = 0; s < static_cast<int>(last.size()); ++s) {
            const State& state = last[static_cast<std::size_t>(s)];
            if (m_settings.meaning == SolverBudget::Exactly && state.cost != m_budget) continue;
            if (best < 0 || state.loss < last[static_cast<std::size_t>(best)].loss) best = s;
        }
        if (best < 0) return {};
        std::vector<int> at(m_layers.size());
        for (std::size_t i = m_layers.size(); i-- > 0;) {
            const State& state = table[i + 1][static_cast<std::size_t>(best)];
            at[i] = state.option;
            best = state.parent;
        }
        return at;
    }

private:
    std::int64_t extra(std::size_t layer, const Option& option) const { return option.cost - m_layers[layer].front().cost; }

    bool hopeless(const State& state, std::size_t next) const
    {
        if (state.cost > m_budget) return true;
        if (m_settings.meaning == SolverBudget::Exactly) return state.cost + m_most[next] < m_budget;
        if (state.loss + m_leastLoss[next] > m_upper) return true;
        return state.loss + m_leastPenalised[next] - m_lambda * static_cast<double>(m_budget - state.cost) > m_upper;
    }

    std::vector<State> extended(const std::vector<State>& states, std::size_t layer)
    {
        const Frontier& options = m_layers[layer];
        // Few sums: sort them all, which loses nothing. Many: the best of every grid cell, in one pass.
        return states.size() * options.size() <= kSortBelow && m_settings.meaning == SolverBudget::AtMost ? bySorting(states, layer)
                                                                                                          : byCells(states, layer);
    }

    std::vector<State> bySorting(const std::vector<State>& states, std::size_t layer)
    {
        std::vector<State> next;
        const Frontier& options = m_layers[layer];
        for (std::size_t s = 0; s < states.size(); ++s)
            for (std::size_t o = 0; o < options.size(); ++o) {
                const State state{states[s].cost + extra(layer, options[o]), states[s].loss + options[o].loss, static_cast<std::int32_t>(s),
                                  static_cast<std::int32_t>(o)};
                if (!hopeless(state, layer + 1)) next.push_back(state);
            }
        std::sort(next.begin(), next.end(), [](const State& a, const State& b) {
            if (a.cost != b.cost) return a.cost < b.cost;
            if (a.loss != b.loss) return a.loss < b.loss;
            return a.parent != b.parent ? a.parent < b.parent : a.option < b.option;
        });
        keepUndominated(next);
        if (next.size() <= m_settings.maxStates) return next;
        m_coarsened = true;
        return thinned(next);
    }

    std::vector<State> byCells(const std::vector<State>& states, std::size_t layer)
    {
        const Frontier& options = m_layers[layer];
        std::vector<State> cells(static_cast<std::size_t>(std::min(m_budget, m_most[0]) / m_grid) + 1, State{0, kInfinity, -1, -1});
        for (std::size_t s = 0; s < states.size(); ++s)
            for (std::size_t o = 0; o < options.size(); ++o) {
                const State state{states[s].cost + extra(layer, options[o]), states[s].loss + options[o].loss, static_cast<std::int32_t>(s),
                                  static_cast<std::int32_t>(o)};
                if (state.cost > m_budget) break;
                State& cell = cells[static_cast<std::size_t>(state.cost / m_grid)];
                if (state.loss > cell.loss || (state.loss == cell.loss && state.cost >= cell.cost)) continue;
                if (hopeless(state, layer + 1)) continue;
                cell = state;
            }
        if (!m_fine) m_coarsened = true;
        std::vector<State> next;
        for (const State& cell : cells)
            if (cell.option >= 0) next.push_back(cell);
        if (m_settings.meaning == SolverBudget::AtMost) keepUndominated(next);
        return next;
    }

    static void keepUndominated(std::vector<State>& states)
    {
        std::size_t kept = 0;
        for (const State& state : states)
            if (kept == 0 || state.loss < states[kept - 1].loss) states[kept++] = state;
        states.resize(kept);
    }

    // The best of every cell of equal width.
    std::vector<State> thinned(const std::vector<State>& states) const
    {
        std::vector<State> kept;
        for (const State& state : states)
            if (!kept.empty() && kept.back().cost / m_grid == state.cost / m_grid)
                kept.back() = state;  // dearer but with less loss
            else
                kept.push_back(state);
        return kept;
    }

    static constexpr std::size_t kSortBelow = 300000;

    const std::vector<Frontier>& m_layers;
    const SolverSettings& m_settings;
    double m_lambda;
    double m_upper = 0;
    std::int64_t m_budget;  // above the cheapest options
    std::int64_t m_grid = 1;
    bool m_fine = true;
    bool m_coarsened = false;
    std::vector<double> m_leastLoss;       // of the layers from here on
    std::vector<double> m_leastPenalised;  // the same with lambda x cost
    std::vector<std::int64_t> m_most;      // the dearest they can cost
};

// Options that cannot be part of an answer with loss <= upper: choosing one raises the dual bound beyond it.
std::vector<Frontier> withoutHopeless(const std::vector<Frontier>& layers, const Dual& dual, std::int64_t budget, double upper)
{
    std::vector<double> least(layers.size(), kInfinity);
    double sum = 0;
    for (std::size_t i = 0; i < layers.size(); ++i) {
        for (const Option& o : layers[i])
            least[i] = std::min(least[i], o.loss + dual.lambda * static_cast<double>(o.cost));
        sum += least[i];
    }
    const double bound = sum - dual.lambda * static_cast<double>(budget);
    // The bound is a difference of large sums: their rounding must not cut off an optimum.
    const double slack = 1e-9 * (std::abs(upper) + std::abs(bound)) + 1e-12 * (std::abs(sum) + std::abs(sum - bound));
    std::vector<Frontier> left(layers.size());
    for (std::size_t i = 0; i < layers.size(); ++i)
        for (const Option& o : layers[i])
            if (bound - least[i] + o.loss + dual.lambda * static_cast<double>(o.cost) <= upper + slack) left[i].push_back(o);
    return left;
}

}  // namespace

Result<LagrangianAnswer> solveLagrangian(const std::vector<SolverLayer>& layers, std::int64_t budget)
{
    ESPALIER_CHECK_OK(check(layers));
    const std::vector<Frontier> options = undominated(layers);
    if (leastCost(options) > budget) return infeasible(budget, leastCost(options), mostCost(options));
    Dual dual = dualOf(options, budget);
    fillUp(dual.below, options, budget);
    giveBack(dual.above, options, budget);
    fillUp(dual.above, options, budget);
    LagrangianAnswer answer{answerOf(layers, options, dual.below, "lagrangian"), answerOf(layers, options, dual.above, "lagrangian")};
    for (SolverAnswer* side : {&answer.filledUp, &answer.givenBack}) {
        setBound(*side, dual.bound);
        side->optimal = side->gap == 0;
    }
    return answer;
}

Result<SolverAnswer> solveGreedy(const std::vector<SolverLayer>& layers, std::int64_t budget)
{
    ESPALIER_CHECK_OK(check(layers));
    const std::vector<Frontier> options = undominated(layers);
    if (leastCost(options) > budget) return infeasible(budget, leastCost(options), mostCost(options));
    Pick pick;
    for (const Frontier& layer : options)
        pick.at.push_back(static_cast<int>(layer.size()) - 1);
    pick.sum(options);
    giveBack(pick, options, budget);
    SolverAnswer answer = answerOf(layers, options, pick, "greedy");
    setBound(answer, dualOf(options, budget).bound);
    answer.optimal = answer.gap == 0;
    return answer;
}

Result<SolverAnswer> solveExact(const std::vector<SolverLayer>& layers, std::int64_t budget, const SolverSettings& settings)
{
    ESPALIER_CHECK_OK(check(layers));
    const std::vector<Frontier> options = undominated(layers);
    if (leastCost(options) > budget) return infeasible(budget, leastCost(options), mostCost(options));

    if (settings.meaning == SolverBudget::Exactly) {
        const std::vector<Frontier> all = sortedOptions(layers);
        const std::int64_t most = mostCost(all);
        if (most < budget) return infeasible(budget, leastCost(all), most);
        DynamicProgram program(all, budget, settings, 0, kInfinity);
        if (!program.fine())
            return badInput("allocate.too_large", fmt::format("budget {}", budget),
                            "The costs have too many different sums for a budget that must be met exactly.",
                            "Allow costs below the budget.");
        Pick pick;
        pick.at = program.run();
        if (pick.at.empty() && !layers.empty()) return infeasible(budget, leastCost(all), most);
        SolverAnswer answer = answerOf(layers, all, pick, "dp");
        setBound(answer, dualOf(options, budget).bound);
        answer.optimal = true;
        return answer;
    }

    ESPALIER_TRY(const LagrangianAnswer lagrangian, solveLagrangian(layers, budget));
    SolverAnswer best = lagrangian.best();
    if (mostCost(options) <= budget) {
        best.method = "all";
        best.optimal = true;
        return best;
    }
    if (best.optimal) return best;
    ESPALIER_TRY(const SolverAnswer greedy, solveGreedy(layers, budget));
    if (greedy.loss < best.loss) best = greedy;

    const Dual dual = dualOf(options, budget);
    const std::vector<Frontier> left = withoutHopeless(options, dual, budget, best.loss);
    DynamicProgram program(left, budget, settings, dual.lambda, best.loss);
    Pick pick;
    pick.at = program.run();
    const bool exact = !program.coarsened();
    if (!pick.at.empty()) {
        SolverAnswer answer = answerOf(layers, left, pick, exact ? "dp" : "dp-grid");
        setBound(answer, dual.bound);
        if (answer.loss < best.loss || (exact && answer.loss <= best.loss)) best = std::move(answer);
    }
    best.optimal = exact;
    return best;
}

}  // namespace espalier
