#include "allocate/size_plan.h"

#include "allocate/exact_solver.h"
#include "allocate/layer_allocator.h"
#include "allocate/rank_rules.h"
#include "allocate/rank_split.h"
#include "plan/cost_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

namespace espalier
{

namespace
{

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Prices of the rank profiles: the multiplier itself, others around it, ever wider apart, over eight decades.
constexpr int kPricesPerSide = 20;
constexpr double kPriceDecades = 4;
// Matrices x ranks x layers up to which neighbouring counts are tried.
constexpr double kNeighbourWork = 2e6;

struct Count {
    int kept = 0;
    double loss = 0;  // of pruning, weighted
    ExpertSet experts;
};

struct Layer {
    const LayerShape* shape = nullptr;
    std::vector<Count> counts;  // ascending
    // Matrices of every expert of the uncompressed layer that some count keeps; empty without curves.
    std::vector<SplitMatrix> matrices;
    std::vector<int> firstMatrix;  // of each expert; -1: none
    std::unique_ptr<RankPrices> prices;
};

// What the experts of one layer cost and lose when every matrix answers to one price.
struct Profile {
    std::vector<double> loss;         // per expert
    std::vector<std::int64_t> bytes;  // per expert, router row included
    std::vector<RankTriple> ranks;
};

class SizeProblem
{
public:
    SizeProblem(const ModelShape& shape, const SizeRequest& request) : m_shape(shape), m_request(request) {}

    Status prepare()
    {
        m_allocation.plan = m_request.plan;
        m_allocation.unit = BudgetUnit::Bytes;
        m_allocation.target = m_request.bytes;
        m_allocation.floor = m_request.floor;
        m_allocation.cap = m_request.cap;
        m_allocation.multipleOf = m_request.multipleOf;
        ESPALIER_TRY(const AllocationProblem problem, allocationProblem(m_shape, m_allocation));
        m_budget = problem.budget.total;
        for (std::size_t i = 0; i < problem.slots(); ++i) {
            if (problem.locked(i)) {
                m_budget -= problem.budget.cost[i];
                continue;
            }
            ESPALIER_TRY(Layer layer, layerOf(problem, i));
            m_layers.push_back(std::move(layer));
        }
        if (m_request.uniformCount) ESPALIER_CHECK_OK(checkUniform(problem));
        return {};
    }

    Result<SizedPlan> solve()
    {
        ESPALIER_CHECK_OK(checkFeasible());
        double low = 0;
        double high = ceiling();
        double bound = dual(low);
        for (int halving = 0; halving < 60; ++halving) {
            const double price = low + (high - low) / 2;
            if (price == low || price == high) break;
            double cost = 0;
            bound = std::max(bound, dual(price, &cost));
            (cost > static_cast<double>(m_budget) ? low : high) = price;
        }
        bound = std::max(bound, dual(high));

        const std::vector<double> prices = pricesAround(high);
        std::vector<std::vector<Profile>> profiles(m_layers.size());
        for (std::size_t i = 0; i < m_layers.size(); ++i)
            for (const double price : prices)
                profiles[i].push_back(profileAt(m_layers[i], price));

        ESPALIER_TRY(const SolverAnswer answer, choose(profiles));
        CompressionPlan plan = m_request.plan.withFactors(m_request.factors);
        std::vector<std::size_t> chosen;  // count of each layer
        for (std::size_t i = 0; i < m_layers.size(); ++i) {
            const int payload = answer.payload[i];
            const auto profile = static_cast<std::size_t>(payload) % prices.size();
            chosen.push_back(static_cast<std::size_t>(payload) / prices.size());
            const Count& count = m_layers[i].counts[chosen.back()];
            std::vector<RankTriple> ranks;
            for (const int expert : count.experts)
                ranks.push_back(profiles[i][profile].ranks[static_cast<std::size_t>(expert)]);
            ESPALIER_TRY(plan, withLayer(plan, *m_layers[i].shape, count.experts, ranks));
        }
        SizedPlan sized;
        sized.plan = std::move(plan);
        sized.loss = answer.loss;
        sized.method = answer.method;
        ESPALIER_CHECK_OK(polish(chosen, sized));
        ESPALIER_CHECK_OK(tryNeighbours(chosen, sized));
        sized.bytes = planCost(m_shape, sized.plan).bytes;
        sized.dualBound = std::min(bound, sized.loss);
        sized.gap = sized.loss - sized.dualBound;
        return sized;
    }

private:
    double weightOf(int layer) const
    {
        const auto l = static_cast<std::size_t>(layer);
        return l < m_request.layerWeight.size() ? m_request.layerWeight[l] : 1.0;
    }

    Result<Layer> layerOf(const AllocationProblem& problem, std::size_t slot)
    {
        Layer layer;
        layer.shape = &problem.layer(slot);
        const auto l = static_cast<std::size_t>(layer.shape->index);
        const double weight = weightOf(layer.shape->index);
        if (!(weight >= 0 && std::isfinite(weight)))
            return badInput("allocate.utility", fmt::format("layer {}", l), "A layer's weight is negative or not finite.");
        for (int units = problem.budget.limits.low[slot]; units <= problem.budget.limits.high[slot]; ++units) {
            Count count;
            count.kept = units * problem.step[slot];
            const auto m = static_cast<std::size_t>(count.kept);
            const bool known = l < m_request.lossCurves.size() && m < m_request.lossCurves[l].size();
            if (!known || !std::isfinite(m_request.lossCurves[l][m])) continue;
            count.loss = weight * m_request.lossCurves[l][m];
            if (l < m_request.keptSets.size() && m < m_request.keptSets[l].size() && !m_request.keptSets[l][m].empty()) {
                count.experts = m_request.keptSets[l][m];
                // A set made without the protection does not hold it.
                const ExpertSet& pinned = problem.pinned(slot);
                if (!std::includes(count.experts.begin(), count.experts.end(), pinned.begin(), pinned.end())) continue;
            } else {
                ESPALIER_TRY(count.experts, rankedExperts(*layer.shape, problem.pinned(slot), count.kept, m_request.scores));
            }
            layer.counts.push_back(std::move(count));
        }
        if (layer.counts.empty())
            return badInput("allocate.no_curves", fmt::format("layer {}", l),
                            {"The loss of layer {l} is not known for the counts in question.", {{"l", l}}},
                            "Measure the layers' loss curves, or lock the layer.");
        layer.firstMatrix.assign(static_cast<std::size_t>(layer.shape->experts), -1);
        if (m_request.curves) {
            const std::int64_t perRank = m_shape.hiddenSize + layer.shape->expertWidth;
            const std::int64_t whole = static_cast<std::int64_t>(m_shape.hiddenSize) * layer.shape->expertWidth;
            for (const Count& count : layer.counts)
                for (const int expert : count.experts) {
                    int& first = layer.firstMatrix[static_cast<std::size_t>(expert)];
                    if (first >= 0) continue;
                    first = static_cast<int>(layer.matrices.size());
                    ESPALIER_TRY(const ExpertCurves* curves, curvesOf(m_request.curves.get(), layer.shape->index, expert));
                    for (const MatrixCurve& curve : *curves) {
                        SplitMatrix matrix;
                        matrix.error = curve.error;
                        matrix.weight = weight * curve.weight;
                        matrix.rankCost = expertBytes(*layer.shape, perRank);
                        matrix.denseCost = expertBytes(*layer.shape, whole);
                        matrix.maxRank = breakEvenRank(m_shape.hiddenSize, layer.shape->expertWidth);
                        layer.matrices.push_back(matrix);
                    }
                }
        }
        layer.prices = std::make_unique<RankPrices>(layer.matrices, m_request.rankMultipleOf);
        return layer;
    }

    // All free layers offer the same counts; a locked layer of another count forbids the rest.
    Status checkUniform(const AllocationProblem& problem)
    {
        std::map<int, std::size_t> offered;
        for (const Layer& layer : m_layers)
            for (const Count& count : layer.counts)
                ++offered[count.kept];
        for (const auto& [kept, layers] : offered) {
            bool everywhere = layers == m_layers.size();
            for (std::size_t i = 0; i < problem.slots(); ++i)
                if (problem.locked(i) && static_cast<int>(problem.plan(i).kept().size()) != kept) everywhere = false;
            if (everywhere) m_uniform.push_back(kept);
        }
        if (!m_uniform.empty()) return {};
        return badInput("allocate.infeasible", "equal counts", "Locked layers, floors and caps leave no single count that fits all layers.",
                        "Unlock layers, or allow unequal counts.");
    }

    Profile profileAt(const Layer& layer, double price) const
    {
        const auto experts = static_cast<std::size_t>(layer.shape->experts);
        Profile profile{std::vector<double>(experts, 0), std::vector<std::int64_t>(experts, 0), std::vector<RankTriple>(experts)};
        const std::int64_t whole = static_cast<std::int64_t>(m_shape.hiddenSize) * layer.shape->expertWidth;
        const std::int64_t perRank = m_shape.hiddenSize + layer.shape->expertWidth;
        for (std::size_t e = 0; e < experts; ++e) {
            std::int64_t parameters = layer.shape->expertParameters;
            if (layer.firstMatrix[e] >= 0)
                for (std::size_t k = 0; k < 3; ++k) {
                    const std::size_t matrix = static_cast<std::size_t>(layer.firstMatrix[e]) + k;
                    const int rank = layer.prices->rankAt(matrix, price);
                    profile.ranks[e][k] = rank;
                    profile.loss[e] += layer.prices->matrix(matrix).loss(rank);
                    if (rank > 0) parameters += rank * perRank - whole;
                }
            profile.bytes[e] = expertBytes(*layer.shape, parameters) + layer.shape->routerBytesPerExpert;
        }
        return profile;
    }

    static void addUp(const Profile& profile, const Count& count, double& loss, std::int64_t& bytes)
    {
        loss = count.loss;
        bytes = 0;
        for (const int expert : count.experts) {
            loss += profile.loss[static_cast<std::size_t>(expert)];
            bytes += profile.bytes[static_cast<std::size_t>(expert)];
        }
    }

    // Lagrangian dual at one price: a lower bound of every plan within the budget. `cost`: what the minimiser costs.
    double dual(double price, double* cost = nullptr) const
    {
        double total = kInfinity;
        double totalCost = 0;
        const std::vector<int> any = {-1};
        for (const int uniform : m_uniform.empty() ? any : m_uniform) {
            double sum = 0;
            double spent = 0;
            for (std::size_t i = 0; i < m_layers.size(); ++i) {
                const Profile& profile = dualProfile(i, price);
                double best = kInfinity;
                std::int64_t bestBytes = 0;
                for (const Count& count : m_layers[i].counts) {
                    if (uniform >= 0 && count.kept != uniform) continue;
                    double loss = 0;
                    std::int64_t bytes = 0;
                    addUp(profile, count, loss, bytes);
                    const double value = loss + price * static_cast<double>(bytes);
                    if (value < best) {
                        best = value;
                        bestBytes = bytes;
                    }
                }
                sum += best;
                spent += static_cast<double>(bestBytes);
            }
            if (sum < total) {
                total = sum;
                totalCost = spent;
            }
        }
        if (cost) *cost = totalCost;
        return total - price * static_cast<double>(m_budget);
    }

    const Profile& dualProfile(std::size_t layer, double price) const
    {
        if (m_dualPrice != price || m_dualProfiles.size() != m_layers.size()) {
            m_dualProfiles.clear();
            for (const Layer& each : m_layers)
                m_dualProfiles.push_back(profileAt(each, price));
            m_dualPrice = price;
        }
        return m_dualProfiles[layer];
    }

    // A price at which everything is as small as it gets.
    double ceiling() const
    {
        double most = 0;
        double losses = 0;
        std::int64_t smallest = std::numeric_limits<std::int64_t>::max();
        for (const Layer& layer : m_layers) {
            most = std::max(most, layer.prices->ceiling());
            const Profile least = profileAt(layer, kInfinity);
            for (const Count& count : layer.counts) {
                double loss = 0;
                std::int64_t bytes = 0;
                addUp(least, count, loss, bytes);
                losses = std::max(losses, loss);
            }
            for (const std::int64_t bytes : least.bytes)
                smallest = std::min(smallest, std::max<std::int64_t>(1, bytes));
        }
        return std::max(most, losses / static_cast<double>(smallest)) * 2 + std::numeric_limits<double>::min();
    }

    std::vector<double> pricesAround(double price) const
    {
        std::vector<double> prices = {0, price, kInfinity};
        if (m_request.curves)
            for (int k = 1; k <= kPricesPerSide; ++k) {
                const double part = static_cast<double>(k) / kPricesPerSide;
                const double factor = std::pow(10.0, kPriceDecades * part * part);
                prices.push_back(price * factor);
                prices.push_back(price / factor);
            }
        std::sort(prices.begin(), prices.end());
        return prices;
    }

    Status checkFeasible() const
    {
        std::int64_t least = std::numeric_limits<std::int64_t>::max();
        std::int64_t most = 0;
        const std::vector<int> any = {-1};
        for (const int uniform : m_uniform.empty() ? any : m_uniform) {
            std::int64_t small = 0;
            std::int64_t large = 0;
            for (const Layer& layer : m_layers) {
                const Profile smallest = profileAt(layer, kInfinity);
                const Profile largest = profileAt(layer, 0);
                std::int64_t low = std::numeric_limits<std::int64_t>::max();
                std::int64_t high = 0;
                for (const Count& count : layer.counts) {
                    if (uniform >= 0 && count.kept != uniform) continue;
                    double loss = 0;
                    std::int64_t bytes = 0;
                    addUp(smallest, count, loss, bytes);
                    low = std::min(low, bytes);
                    addUp(largest, count, loss, bytes);
                    high = std::max(high, bytes);
                }
                small += low;
                large += high;
            }
            least = std::min(least, small);
            most = std::max(most, large);
        }
        if (least <= m_budget) return {};
        const std::int64_t rest = m_request.bytes - m_budget;
        return badInput("allocate.infeasible", fmt::format("{} bytes", m_request.bytes),
                        {"A size of {bytes} bytes cannot be met: with the router's top-k, locks, protected experts and limits the feasible "
                         "range is {rest} to {rest2}.",
                         {{"bytes", m_request.bytes}, {"rest", rest + least}, {"rest2", rest + most}}},
                        "Choose a larger size, or unlock layers.");
    }

    // Best options of all layers; payload = count * prices + profile.
    Result<SolverAnswer> choose(const std::vector<std::vector<Profile>>& profiles) const
    {
        std::vector<SolverLayer> all(m_layers.size());
        for (std::size_t i = 0; i < m_layers.size(); ++i)
            for (std::size_t c = 0; c < m_layers[i].counts.size(); ++c)
                for (std::size_t p = 0; p < profiles[i].size(); ++p) {
                    SolverOption option;
                    addUp(profiles[i][p], m_layers[i].counts[c], option.loss, option.cost);
                    option.payload = static_cast<int>(c * profiles[i].size() + p);
                    all[i].push_back(option);
                }
        if (m_uniform.empty()) return solveExact(all, m_budget);
        Result<SolverAnswer> best = internalError("No count was tried.");
        for (const int kept : m_uniform) {
            std::vector<SolverLayer> some(all.size());
            for (std::size_t i = 0; i < all.size(); ++i)
                for (const SolverOption& option : all[i])
                    if (m_layers[i].counts[static_cast<std::size_t>(option.payload) / profiles[i].size()].kept == kept)
                        some[i].push_back(option);
            Result<SolverAnswer> answer = solveExact(some, m_budget);
            // The counts too large for the budget are left out; checkFeasible knows that one fits.
            if (answer.ok() && (!best.ok() || answer->loss < best->loss)) best = std::move(answer);
        }
        return best;
    }

    Result<CompressionPlan> withLayer(const CompressionPlan& plan, const LayerShape& layer, const ExpertSet& kept,
                                      const std::vector<RankTriple>& ranks) const
    {
        ESPALIER_TRY(const CompressionPlan bare, plan.withRanks(m_shape, layer.index, {}));
        ESPALIER_TRY(const CompressionPlan pruned, bare.withKept(m_shape, layer.index, kept));
        return pruned.withRanks(m_shape, layer.index, ranks);
    }

    // These counts, the bytes they leave for ranks split over all matrices at once. Kept where it is better and fits.
    Status polish(const std::vector<std::size_t>& chosen, SizedPlan& sized) const
    {
        if (!m_request.curves) return {};
        std::vector<SplitMatrix> matrices;
        std::int64_t rest = m_request.bytes - m_budget;
        std::int64_t denseBytes = 0;
        double loss = 0;
        for (std::size_t i = 0; i < m_layers.size(); ++i) {
            const Count& count = m_layers[i].counts[chosen[i]];
            loss += count.loss;
            rest += count.kept * (m_layers[i].shape->bytesPerExpert + m_layers[i].shape->routerBytesPerExpert);
            for (const int expert : count.experts)
                for (std::size_t k = 0; k < 3; ++k) {
                    const auto first = static_cast<std::size_t>(m_layers[i].firstMatrix[static_cast<std::size_t>(expert)]);
                    matrices.push_back(m_layers[i].matrices[first + k]);
                    denseBytes += matrices.back().denseCost;
                }
        }
        if (loss >= sized.loss) return {};
        const Result<RankSplit> split = splitRanks(matrices, m_request.bytes - (rest - denseBytes), m_request.rankMultipleOf);
        if (!split.ok() || loss + split->loss >= sized.loss) return {};
        CompressionPlan plan = m_request.plan.withFactors(m_request.factors);
        std::size_t next = 0;
        for (std::size_t i = 0; i < m_layers.size(); ++i) {
            const Count& count = m_layers[i].counts[chosen[i]];
            std::vector<RankTriple> ranks;
            for (std::size_t e = 0; e < count.experts.size(); ++e, next += 3)
                ranks.push_back({split->ranks[next], split->ranks[next + 1], split->ranks[next + 2]});
            ESPALIER_TRY(plan, withLayer(plan, *m_layers[i].shape, count.experts, ranks));
        }
        if (planCost(m_shape, plan).bytes > m_request.bytes) return {};
        sized.plan = std::move(plan);
        sized.loss = loss + split->loss;
        return {};
    }

    // The profiles of a small model are coarse: one count more or less in one layer, ranks split anew, as long as that wins. Large
    // models have no need of it and would take long.
    Status tryNeighbours(std::vector<std::size_t> chosen, SizedPlan& sized) const
    {
        if (!m_request.curves || !m_uniform.empty()) return {};
        double work = 0;
        for (const Layer& layer : m_layers)
            for (const SplitMatrix& matrix : layer.matrices)
                work += matrix.maxRank;
        if (work * static_cast<double>(m_layers.size()) > kNeighbourWork) return {};
        for (bool better = true; better;) {
            better = false;
            for (std::size_t i = 0; i < m_layers.size(); ++i)
                for (const bool more : {true, false}) {
                    if (more ? chosen[i] + 1 >= m_layers[i].counts.size() : chosen[i] == 0) continue;
                    std::vector<std::size_t> other = chosen;
                    more ? ++other[i] : --other[i];
                    const double before = sized.loss;
                    ESPALIER_CHECK_OK(polish(other, sized));
                    if (sized.loss >= before) continue;
                    chosen = std::move(other);
                    better = true;
                }
        }
        return {};
    }

    const ModelShape& m_shape;
    const SizeRequest& m_request;
    AllocationRequest m_allocation;
    std::vector<Layer> m_layers;  // free ones
    std::int64_t m_budget = 0;    // for the experts of the free layers
    std::vector<int> m_uniform;   // counts that fit all layers, with uniformCount
    mutable double m_dualPrice = -1;
    mutable std::vector<Profile> m_dualProfiles;
};

}  // namespace

Result<SizedPlan> planForBytes(const ModelShape& shape, const SizeRequest& request)
{
    SizeProblem problem(shape, request);
    ESPALIER_CHECK_OK(problem.prepare());
    return problem.solve();
}

}  // namespace espalier
