#include "profile/nll_probes.h"

#include "base/random.h"
#include "model/moe_model_torch.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace espalier
{

namespace
{

// Of a layer alone: shares of its experts, and of its break-even rank, one of two in turn.
constexpr double kFew = 0.125;
constexpr double kMany = 0.5;
constexpr double kAloneRanks[] = {0.3, 0.55};

// Of all layers: share left out, by importance or at random; share of the break-even rank, 0 = dense.
struct Mixture {
    double removed;
    bool random;
    double rank;
};
constexpr Mixture kMixtures[] = {{0.1, false, 0}, {0.25, false, 0}, {0.4, true, 0}, {0, false, 0.5}, {0.25, false, 0.4}, {0.12, true, 0.7}};

std::vector<int> moeLayers(const ModelShape& shape)
{
    std::vector<int> layers;
    for (const LayerShape& layer : shape.layers)
        if (layer.moe) layers.push_back(layer.index);
    return layers;
}

// Passes through all layers that the probes take together.
double probePasses(const ModelShape& shape, bool ranks)
{
    const std::vector<int> layers = moeLayers(shape);
    if (layers.empty()) return 0;
    const auto depth = static_cast<double>(shape.layers.size());
    double passes = 1;  // the dense model
    for (const int layer : layers)
        passes += (ranks ? 3 : 2) * (depth - layer) / depth;
    for (const Mixture& mixture : kMixtures)
        if (ranks || mixture.rank == 0) passes += (depth - layers.front()) / depth;
    return passes;
}

// `share` of the layer's experts left out, at least one: the least important, or at random. From every group of the router as many.
ExpertSet keptOf(const LayerShape& layer, const std::vector<double>& importance, double share, bool random, std::uint64_t seed)
{
    const int groups = std::max(layer.router.groups, 1);
    const int size = layer.experts / groups;
    const int most = std::max((layer.experts - layer.router.topK) / groups, 0);
    const int leave = std::clamp(static_cast<int>(std::lround(share * size)), 1, std::max(most, 1));
    Random numbers = Random::forPurpose(seed, "nll probes", static_cast<std::uint64_t>(layer.index));
    ExpertSet kept;
    for (int g = 0; g < groups; ++g) {
        std::vector<int> order(static_cast<std::size_t>(size));
        std::iota(order.begin(), order.end(), g * size);
        if (random) {
            for (std::size_t i = order.size(); i > 1; --i)
                std::swap(order[i - 1], order[numbers.below(i)]);
        } else {
            std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
                return importance[static_cast<std::size_t>(a)] < importance[static_cast<std::size_t>(b)];
            });
        }
        kept.insert(kept.end(), order.begin() + std::min(leave, size), order.end());
    }
    std::sort(kept.begin(), kept.end());
    return kept;
}

// The plan with this layer changed too; unchanged where the model allows no such change.
CompressionPlan changed(const ModelShape& shape, CompressionPlan plan, int index, const std::vector<double>& importance,
                        const Mixture& mixture, const FactorSettings& factors, std::uint64_t seed)
{
    const LayerShape& layer = shape.layers[static_cast<std::size_t>(index)];
    if (mixture.removed > 0 && importance.size() == static_cast<std::size_t>(layer.experts)) {
        Result<CompressionPlan> fewer = plan.withKept(shape, index, keptOf(layer, importance, mixture.removed, mixture.random, seed));
        if (fewer.ok()) plan = std::move(fewer).value();
    }
    const int even = breakEvenRank(shape.hiddenSize, layer.expertWidth);
    const int rank = static_cast<int>(std::lround(mixture.rank * even));
    if (mixture.rank > 0 && rank >= 1 && rank < even) {
        Result<CompressionPlan> lower =
            plan.withRanks(shape, index, std::vector<RankTriple>(plan.layer(index).kept().size(), RankTriple{rank, rank, rank}));
        if (lower.ok()) plan = std::move(lower).value().withFactors(factors);
    }
    return plan;
}

int firstChange(const CompressionPlan& plan, const CompressionPlan& identity) { return plan.firstDifference(identity); }

NllProbe describe(const CompressionPlan& plan, const CompressionPlan& identity)
{
    NllProbe probe;
    for (int l = 0; l < plan.layerCount(); ++l)
        if (const LayerPlan& layer = plan.layer(l); layer.kept() != identity.layer(l).kept() || !layer.ranks().empty())
            probe.layers.push_back({.layer = l, .kept = layer.kept(), .ranks = layer.ranks()});
    return probe;
}

// Windows that go through the layers together.
struct Group {
    at::Tensor ids;         // [B,T]
    std::size_t first = 0;  // index into the set's windows
    at::Tensor states;      // [B,T,H] of the dense model
    std::vector<at::Tensor> planStates;
};

// Neighbours of one length, at most about kGroupTokens tokens.
std::vector<Group> groupsOf(const std::vector<std::vector<int>>& rows)
{
    constexpr std::size_t kGroupTokens = 2048;
    std::vector<Group> groups;
    for (std::size_t first = 0; first < rows.size();) {
        const std::size_t length = rows[first].size(), most = std::max<std::size_t>(kGroupTokens / length, 1);
        std::size_t last = first + 1;
        while (last < rows.size() && last - first < most && rows[last].size() == length)
            ++last;
        Group group;
        group.first = first;
        group.ids = at::empty({static_cast<std::int64_t>(last - first), static_cast<std::int64_t>(length)}, at::kLong);
        auto* out = group.ids.mutable_data_ptr<std::int64_t>();
        for (std::size_t w = first; w < last; ++w)
            out = std::copy(rows[w].begin(), rows[w].end(), out);
        groups.push_back(std::move(group));
        first = last;
    }
    return groups;
}

Result<std::vector<double>> windowLosses(MoeModel& model, const at::Tensor& hidden, const at::Tensor& ids)
{
    ESPALIER_TRY(const at::Tensor nll, model.tokenNll(hidden, ids));
    const at::Tensor sums = nll.to(at::kDouble).sum(1).contiguous();
    return std::vector<double>(sums.const_data_ptr<double>(), sums.const_data_ptr<double>() + sums.numel());
}

// Plans [begin, end) and the dense model beside them through all layers, for some groups.
class ProbeWave
{
public:
    ProbeWave(MoeModel& model, const ProbeRun& run, std::vector<PreparedPlan>& plans, const std::vector<int>& starts)
        : m_model(model), m_run(run), m_plans(plans), m_starts(starts)
    {
    }

    // change[plan][window of the set]
    Status measure(std::span<Group> groups, std::size_t begin, std::size_t end, std::vector<std::vector<double>>& change)
    {
        const PreparedPlan identity = m_model.identity();
        for (Group& group : groups) {
            ESPALIER_TRY(group.states, m_model.embed(group.ids));
            group.planStates.assign(end - begin, at::Tensor());
        }
        for (int l = 0; l < m_model.layerCount(); ++l)
            for (Group& group : groups) {
                if (m_run.stopRequested()) return cancelledError();
                ESPALIER_TRY(const at::Tensor attended, m_model.attend(l, group.states, identity));
                for (std::size_t i = begin; i < end; ++i) {
                    if (l < m_starts[i]) continue;
                    if (m_run.stopRequested()) return cancelledError();
                    at::Tensor& states = group.planStates[i - begin];
                    at::Tensor input = attended;
                    if (l > m_starts[i]) {
                        ESPALIER_TRY(input, m_model.attend(l, states, identity));
                    }
                    ESPALIER_TRY(states, m_model.feedForward(l, input, m_plans[i]));
                    m_run.step(group.ids.numel());
                }
                ESPALIER_TRY(group.states, m_model.feedForward(l, attended, identity));
                m_run.step(group.ids.numel());
            }
        for (Group& group : groups) {
            ESPALIER_TRY(const std::vector<double> dense, windowLosses(m_model, group.states, group.ids));
            for (std::size_t i = begin; i < end; ++i) {
                ESPALIER_TRY(const std::vector<double> losses, windowLosses(m_model, group.planStates[i - begin], group.ids));
                for (std::size_t w = 0; w < losses.size(); ++w)
                    change[i][group.first + w] = losses[w] - dense[w];
            }
            group.planStates.clear();
            group.states.reset();
        }
        return {};
    }

private:
    MoeModel& m_model;
    const ProbeRun& m_run;
    std::vector<PreparedPlan>& m_plans;
    const std::vector<int>& m_starts;
};

}  // namespace

std::vector<std::int32_t> probeWindows(const ModelShape& shape, const std::vector<std::vector<int>>& rows, bool ranks)
{
    const double passes = probePasses(shape, ranks);
    std::vector<std::int32_t> usable;
    std::int64_t tokens = 0;
    for (std::size_t w = 0; w < rows.size(); ++w)
        if (rows[w].size() >= 2) {
            usable.push_back(static_cast<std::int32_t>(w));
            tokens += static_cast<std::int64_t>(rows[w].size());
        }
    if (passes <= 0 || usable.empty()) return {};
    const std::int64_t least = std::min(kLeastProbeTokens, std::max<std::int64_t>(512, tokens / 4));
    const double wanted =
        std::clamp(kProbeCost * static_cast<double>(tokens) / passes, static_cast<double>(least), static_cast<double>(kMostProbeTokens));
    const double mean = static_cast<double>(tokens) / static_cast<double>(usable.size());
    const auto count =
        std::clamp<std::size_t>(static_cast<std::size_t>(std::ceil(wanted / mean)), std::min<std::size_t>(4, usable.size()), usable.size());
    std::vector<std::int32_t> chosen;
    for (std::size_t i = 0; i < count; ++i)
        chosen.push_back(usable[(2 * i + 1) * usable.size() / (2 * count)]);
    return chosen;
}

std::int64_t probeWork(const ModelShape& shape, const std::vector<std::vector<int>>& rows, bool ranks)
{
    std::int64_t tokens = 0;
    for (const std::int32_t window : probeWindows(shape, rows, ranks))
        tokens += static_cast<std::int64_t>(rows[static_cast<std::size_t>(window)].size());
    return static_cast<std::int64_t>(std::llround(probePasses(shape, ranks) * static_cast<double>(shape.layers.size()))) * tokens;
}

std::vector<CompressionPlan> probePlans(const ModelShape& shape, const std::vector<std::vector<double>>& importance,
                                        const FactorSettings& factors)
{
    const CompressionPlan identity = CompressionPlan::identity(shape);
    std::vector<CompressionPlan> plans;
    const auto add = [&](CompressionPlan plan) {
        const bool known =
            std::any_of(plans.begin(), plans.end(), [&](const CompressionPlan& other) { return other.hash() == plan.hash(); });
        if (!known && firstChange(plan, identity) < plan.layerCount()) plans.push_back(std::move(plan));
    };
    const std::vector<int> layers = moeLayers(shape);
    const auto of = [&](int layer) -> const std::vector<double>& { return importance[static_cast<std::size_t>(layer)]; };
    for (std::size_t i = 0; i < layers.size(); ++i) {
        const int l = layers[i];
        // Good sets and bad ones: few experts by importance here, many in the next layer.
        const bool odd = i % 2 == 1;
        add(changed(shape, identity, l, of(l), {kFew, odd, 0}, factors, 1));
        add(changed(shape, identity, l, of(l), {kMany, !odd, 0}, factors, 2));
        if (!factors.method.empty()) add(changed(shape, identity, l, of(l), {0, false, kAloneRanks[i % 2]}, factors, 3));
    }
    std::uint64_t seed = 4;
    for (const Mixture& mixture : kMixtures) {
        ++seed;
        if (mixture.rank > 0 && factors.method.empty()) continue;
        CompressionPlan plan = identity;
        for (const int l : layers)
            plan = changed(shape, plan, l, of(l), mixture, factors, seed);
        add(std::move(plan));
    }
    std::stable_sort(plans.begin(), plans.end(), [&](const CompressionPlan& a, const CompressionPlan& b) {
        return firstChange(a, identity) < firstChange(b, identity);
    });
    return plans;
}

Result<NllProbeSet> runProbes(MoeModel& model, const ProbeRun& run)
{
    const c10::InferenceMode inference;
    const ModelShape& shape = model.shape();
    const CompressionPlan identity = CompressionPlan::identity(shape);
    NllProbeSet set;
    set.windows = probeWindows(shape, run.rows, run.source != nullptr);
    std::vector<std::vector<int>> rows;
    for (const std::int32_t window : set.windows) {
        rows.push_back(run.rows[static_cast<std::size_t>(window)]);
        set.scored.push_back(static_cast<std::int32_t>(rows.back().size()) - 1);
    }
    FactorSettings factors;
    if (run.source) factors = {.method = "whitened-svd", .profileSha256 = run.source->profileSha256()};
    const std::vector<CompressionPlan> plans = probePlans(shape, run.importance, factors);
    if (rows.empty() || plans.empty()) return NllProbeSet{};

    const FactorSources others = model.factorSources();
    if (run.source) model.setFactorSources({run.source});
    std::vector<PreparedPlan> prepared;
    std::vector<int> starts;
    Status status;
    for (const CompressionPlan& plan : plans) {
        Result<PreparedPlan> ready = model.prepare(plan);
        if (!ready.ok()) {
            status = ready.error();
            break;
        }
        prepared.push_back(std::move(ready).value());
        starts.push_back(firstChange(plan, identity));
        set.probes.push_back(describe(plan, identity));
        if (plan.hasRanks()) set.factors = factors.method;
    }
    model.setFactorSources(others);
    ESPALIER_CHECK_OK(status);

    std::vector<std::vector<double>> change(plans.size(), std::vector<double>(rows.size(), 0.0));
    std::vector<Group> groups = groupsOf(rows);
    ProbeWave wave(model, run, prepared, starts);
    // Weights that are held: group after group. Weights that are read each time: all groups together, so that they are read once.
    const std::size_t together = model.streamsWeights() ? groups.size() : 1;
    for (std::size_t g = 0; g < groups.size(); g += together) {
        const std::span<Group> some(groups.data() + g, std::min(together, groups.size() - g));
        std::int64_t bytes = 0;
        for (const Group& group : some)
            bytes += group.ids.numel() * shape.hiddenSize * static_cast<std::int64_t>(sizeof(float));
        const auto most = static_cast<std::size_t>(std::clamp<std::int64_t>(run.memory / std::max<std::int64_t>(bytes, 1) - 2, 1, 1 << 16));
        for (std::size_t begin = 0; begin < plans.size(); begin += most)
            ESPALIER_CHECK_OK(wave.measure(some, begin, std::min(begin + most, plans.size()), change));
    }
    for (std::size_t i = 0; i < plans.size(); ++i)
        set.probes[i].change = std::move(change[i]);
    return set;
}

}  // namespace espalier
