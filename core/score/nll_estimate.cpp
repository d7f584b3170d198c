#include "score/nll_estimate.h"

#include "plan/routing.h"
#include "score/gram_loss.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <type_traits>
#include <utility>

// One binary for every x86-64, as in model/kernels.cpp.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define ESPALIER_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ESPALIER_CLONES
#endif

namespace espalier
{

namespace
{

// One place of the lists of `count` neighbouring tokens: its expert joins the selection where it is kept and fewer than topK were found.
ESPALIER_CLONES void addPlace(std::size_t count, int topK, const std::int32_t* keeps, const std::uint16_t* list, const float* probability,
                              const float* product, std::int32_t* found, float* mass, float* slope, float* take)
{
#pragma GCC ivdep
    for (std::size_t t = 0; t < count; ++t) {
        const std::int32_t taken = keeps[list[t]] & static_cast<std::int32_t>(found[t] < topK);
        found[t] += taken;
        take[t] = static_cast<float>(taken) * probability[t];
        mass[t] += take[t];
        slope[t] += take[t] * product[t];
    }
}

ESPALIER_CLONES void addProducts(std::size_t count, const float* a, const float* b, float* sums)
{
#pragma GCC ivdep
    for (std::size_t t = 0; t < count; ++t)
        sums[t] += a[t] * b[t];
}

constexpr std::size_t kResultsHeld = 4;  // per layer: back and forth between a few variants costs nothing

Error missing(const std::string& what, const std::string& action)
{
    return badInput("profile.missing_statistics", "profile", what, action);
}

bool plainOrder(const RouterShape& router)
{
    switch (router.rule) {
        case RoutingRule::SoftmaxRenormalised:
        case RoutingRule::Softmax:
            return true;
        case RoutingRule::GroupLimitedSoftmax:
            return router.groups <= 1 || router.topGroups >= router.groups;
        default:
            return false;
    }
}

// What a kept set does in one layer.
struct KeptResult {
    std::vector<int> kept;
    int topK = 0;
    std::vector<float> change;       // [T] u_t
    std::vector<float> drawnChange;  // [T] with drawn labels, where the profile has them
    std::vector<double> byWindow;    // [windows] sums of u
    double first = 0;                // sum of u
    double squares = 0;              // sum of u^2, of the drawn ones where there are any
    std::int64_t uncovered = 0;
    double removed = 0;    // squared error of the output relative to its square, with probes only
    bool nothing = false;  // keeps all: everything above is zero and the vectors are empty
};

struct RankResult {
    std::vector<int> kept;
    std::vector<RankTriple> ranks;
    double error = 0;  // sum of eps_e(r)
};

// Some of the layer's tokens, spread evenly: the size of an output's error needs no more, and estimates are wanted while a mouse moves.
class OutputError
{
public:
    OutputError(const LayerProfile& layer, const RouterShape& router) : m_router(router)
    {
        constexpr std::size_t kMostTokens = 2048, kLeastTokens = 256, kMostBytes = std::size_t{3} << 19;
        const GramStore& all = layer.gram;
        const auto n = static_cast<std::size_t>(layer.experts), k = static_cast<std::size_t>(all.listLength);
        const std::size_t each = all.triangle() * sizeof(double) + n * (sizeof(double) + sizeof(float)) + k * sizeof(std::uint16_t);
        const std::size_t count = std::min(all.tokenCount(), std::clamp(kMostBytes / each, kLeastTokens, kMostTokens));
        m_layer.layer = layer.layer;
        m_layer.experts = layer.experts;
        GramStore& some = m_layer.gram;
        some.listLength = all.listLength;
        some.selectionBias = all.selectionBias;
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t t = i * all.tokenCount() / count;
            const auto copy = [t](const auto& from, auto& to, std::size_t width) {
                const auto begin = from.begin() + static_cast<std::ptrdiff_t>(t * width);
                to.insert(to.end(), begin, begin + static_cast<std::ptrdiff_t>(width));
            };
            some.tokens.push_back(all.tokens[t]);
            copy(all.list, some.list, k);
            copy(all.products, some.products, all.triangle());
            copy(all.logits, some.logits, n);
        }
        some.outputEnergy = all.outputEnergy * static_cast<double>(count) / static_cast<double>(std::max<std::size_t>(all.tokenCount(), 1));
    }
    double relative(const std::vector<int>& kept, int topK) const
    {
        if (!(m_layer.gram.outputEnergy > 0)) return 0;
        std::unique_ptr<GramEvaluator>& gram = m_evaluators[topK];
        if (!gram) gram = std::make_unique<GramEvaluator>(m_layer, m_router, topK);
        return gram->evaluate(kept).squared / m_layer.gram.outputEnergy;
    }

private:
    LayerProfile m_layer;
    RouterShape m_router;
    mutable std::map<int, std::unique_ptr<GramEvaluator>> m_evaluators;  // by experts per token
};

// One layer: position-major copies, so that loops over tokens are loops over neighbours.
class LayerEstimator
{
public:
    // `sized`: how large the error of the output is, is wanted too.
    LayerEstimator(const LayerProfile& layer, const RouterShape& router, int windows, bool sized);

    int index() const { return m_layer; }
    std::int64_t tokens() const { return static_cast<std::int64_t>(m_tokens); }
    double meanSquaredGradient() const { return m_meanSquared; }
    const KeptResult& kept(const LayerPlan& plan);
    Result<double> rankError(const LayerPlan& plan);
    double outputEnergy() const { return m_outputEnergy; }

private:
    KeptResult evaluate(const std::vector<int>& kept, int topK) const;
    KeptResult evaluateGeneric(KeptResult result) const;
    void finish(KeptResult& result) const;

    const int m_layer;
    const int m_experts;
    const RouterShape m_router;
    const bool m_plain;
    std::size_t m_tokens = 0;
    std::size_t m_length = 0;
    std::size_t m_windows = 0;
    std::vector<std::uint16_t> m_list;   // [K][T]
    std::vector<float> m_mass;           // [K][T] probability over all experts; plain order
    std::vector<float> m_probability;    // [n][T] plain order, not renormalised
    std::vector<float> m_slope;          // [K][T] c
    std::vector<float> m_drawn;          // [K][T], or empty
    std::vector<float> m_full;           // [T] sum_e w_te(all) c_te
    std::vector<float> m_fullDrawn;      // [T]
    std::vector<float> m_logits;         // [T][n] other rules
    std::vector<float> m_bias;           // [n]
    std::vector<std::int32_t> m_window;  // [T]
    double m_meanSquared = 0;
    double m_outputEnergy = 0;
    std::unique_ptr<OutputError> m_outputError;
    int m_spectrumLength = 0;
    std::vector<float> m_spectra;               // [n][3][R]
    std::vector<double> m_gain;                 // [n][3]
    std::vector<std::vector<double>> m_curves;  // [n*3], made when first needed
    std::vector<KeptResult> m_keptResults;      // most recent last
    std::vector<RankResult> m_rankResults;
};

LayerEstimator::LayerEstimator(const LayerProfile& layer, const RouterShape& router, int windows, bool sized)
    : m_layer(layer.layer),
      m_experts(layer.experts),
      m_router(router),
      m_plain(plainOrder(router)),
      m_tokens(layer.gram.tokenCount()),
      m_length(static_cast<std::size_t>(layer.gram.listLength)),
      m_windows(static_cast<std::size_t>(windows)),
      m_window(layer.gradients.window),
      m_outputEnergy(layer.outputEnergy),
      m_outputError(sized ? std::make_unique<OutputError>(layer, router) : nullptr)
{
    const GramStore& gram = layer.gram;
    const GradientStore& gradients = layer.gradients;
    const auto n = static_cast<std::size_t>(m_experts);
    const bool drawn = !gradients.drawnProducts.empty();
    if (!m_window.empty()) m_windows = std::max(m_windows, static_cast<std::size_t>(m_window.back()) + 1);
    const double squared = drawn ? gradients.drawnSquared : gradients.squared;
    m_meanSquared = gradients.tokens > 0 ? squared / static_cast<double>(gradients.tokens) : 0;
    const auto transposed = [&](const auto& rows) {
        std::remove_cvref_t<decltype(rows)> columns(rows.size());
        for (std::size_t t = 0; t < m_tokens; ++t)
            for (std::size_t i = 0; i < m_length; ++i)
                columns[i * m_tokens + t] = rows[t * m_length + i];
        return columns;
    };
    m_list = transposed(gram.list);
    m_slope = transposed(gradients.products);
    if (drawn) m_drawn = transposed(gradients.drawnProducts);
    m_full.assign(m_tokens, 0.0f);
    if (drawn) m_fullDrawn.assign(m_tokens, 0.0f);
    m_bias = gram.selectionBias;
    if (m_plain) {
        m_mass.resize(m_length * m_tokens);
        if (m_router.rule != RoutingRule::SoftmaxRenormalised) m_probability.resize(n * m_tokens);
    } else {
        m_logits = gram.logits;
    }
    std::vector<double> p(n);
    for (std::size_t t = 0; t < m_tokens; ++t) {
        const std::span<const float> logits(gram.logits.data() + t * n, n);
        if (m_plain) {
            const double top = *std::max_element(logits.begin(), logits.end());
            double sum = 0;
            for (std::size_t e = 0; e < n; ++e)
                sum += p[e] = std::exp(static_cast<double>(logits[e]) - top);
            for (double& value : p)
                value /= sum;
            for (std::size_t i = 0; i < m_length; ++i)
                m_mass[i * m_tokens + t] = static_cast<float>(p[m_list[i * m_tokens + t]]);
            if (!m_probability.empty())
                for (std::size_t e = 0; e < n; ++e)
                    m_probability[e * m_tokens + t] = static_cast<float>(p[e]);
        }
        const Routing all = route(m_router, logits, {}, m_bias);
        double full = 0, fullDrawn = 0;
        for (std::size_t i = 0; i < m_length; ++i) {
            const auto at = std::find(all.experts.begin(), all.experts.end(), static_cast<int>(m_list[i * m_tokens + t]));
            if (at == all.experts.end()) continue;
            const double weight = all.weights[static_cast<std::size_t>(at - all.experts.begin())];
            full += weight * static_cast<double>(m_slope[i * m_tokens + t]);
            if (drawn) fullDrawn += weight * static_cast<double>(m_drawn[i * m_tokens + t]);
        }
        m_full[t] = static_cast<float>(full);
        if (drawn) m_fullDrawn[t] = static_cast<float>(fullDrawn);
    }
    m_spectrumLength = layer.spectrumLength;
    if (m_spectrumLength == 0) return;
    m_spectra = layer.spectra;
    for (int e = 0; e < m_experts; ++e)
        for (int matrix = 0; matrix < 3; ++matrix)
            m_gain.push_back(layer.outputGain(e, matrix));
    m_curves.resize(m_gain.size());
}

const KeptResult& LayerEstimator::kept(const LayerPlan& plan)
{
    const int topK = plan.topK().value_or(m_router.topK);
    const auto it = std::find_if(m_keptResults.begin(), m_keptResults.end(),
                                 [&](const KeptResult& held) { return held.topK == topK && held.kept == plan.kept(); });
    if (it != m_keptResults.end()) {
        std::rotate(it, it + 1, m_keptResults.end());
    } else {
        if (m_keptResults.size() >= kResultsHeld) m_keptResults.erase(m_keptResults.begin());
        m_keptResults.push_back(evaluate(plan.kept(), topK));
    }
    return m_keptResults.back();
}

void LayerEstimator::finish(KeptResult& result) const
{
    result.byWindow.assign(m_windows, 0.0);
    for (std::size_t t = 0; t < m_tokens; ++t)
        result.byWindow[static_cast<std::size_t>(m_window[t])] += static_cast<double>(result.change[t]);
    result.first = std::accumulate(result.byWindow.begin(), result.byWindow.end(), 0.0);
    for (const float u : m_drawn.empty() ? result.change : result.drawnChange)
        result.squares += static_cast<double>(u) * static_cast<double>(u);
    if (m_outputError) result.removed = m_outputError->relative(result.kept, result.topK);
}

KeptResult LayerEstimator::evaluate(const std::vector<int>& kept, int topK) const
{
    KeptResult result;
    result.kept = kept;
    result.topK = topK;
    if (static_cast<int>(kept.size()) == m_experts && topK == m_router.topK) {
        result.nothing = true;
        return result;
    }
    result.change.resize(m_tokens);
    if (!m_drawn.empty()) result.drawnChange.resize(m_tokens);
    if (!m_plain) return evaluateGeneric(std::move(result));

    const auto n = static_cast<std::size_t>(m_experts);
    std::vector<std::int32_t> keeps(n, 0);
    for (const int e : kept)
        keeps[static_cast<std::size_t>(e)] = 1;
    const bool renormalised = m_router.rule == RoutingRule::SoftmaxRenormalised;
    // Rule B: the probability that is left, by adding up whichever side has fewer experts.
    const bool addKept = 2 * kept.size() <= n;
    // Tokens in blocks that stay in the first-level cache; within a block every step runs over neighbours, without branches.
    constexpr std::size_t kBlock = 512;
    std::int32_t found[kBlock];
    float mass[kBlock], slope[kBlock], drawn[kBlock], left[kBlock], take[kBlock];
    for (std::size_t begin = 0; begin < m_tokens; begin += kBlock) {
        const std::size_t count = std::min(kBlock, m_tokens - begin);
        std::fill_n(found, count, 0);
        for (float* sums : {mass, slope, drawn, left})
            std::fill_n(sums, count, 0.0f);
        for (std::size_t i = 0; i < m_length; ++i) {
            const std::size_t row = i * m_tokens + begin;
            addPlace(count, topK, keeps.data(), m_list.data() + row, m_mass.data() + row, m_slope.data() + row, found, mass, slope, take);
            if (!m_drawn.empty()) addProducts(count, take, m_drawn.data() + row, drawn);
        }
        if (!renormalised) {
            for (std::size_t e = 0; e < n; ++e) {
                if ((keeps[e] != 0) != addKept) continue;
                const float* p = m_probability.data() + e * m_tokens + begin;
                for (std::size_t t = 0; t < count; ++t)
                    left[t] += p[t];
            }
            for (std::size_t t = 0; t < count; ++t) {
                if (!addKept) left[t] = 1.0f - left[t];
                if (!addKept && left[t] < 0.25f) {  // the difference cancels
                    left[t] = 0;
                    for (const int e : kept)
                        left[t] += m_probability[static_cast<std::size_t>(e) * m_tokens + begin + t];
                }
                mass[t] = left[t] / static_cast<float>(m_router.scaling);
            }
        }
        for (std::size_t t = 0; t < count; ++t) {
            const bool covered = found[t] >= topK;
            result.uncovered += covered ? 0 : 1;
            const float scale = covered && mass[t] > 0 ? 1.0f / mass[t] : 0.0f;
            result.change[begin + t] = slope[t] * scale - m_full[begin + t];
            if (!m_drawn.empty()) result.drawnChange[begin + t] = drawn[t] * scale - m_fullDrawn[begin + t];
        }
    }
    finish(result);
    return result;
}

KeptResult LayerEstimator::evaluateGeneric(KeptResult result) const
{
    RouterShape router = m_router;
    router.topK = result.topK;
    const auto n = static_cast<std::size_t>(m_experts);
    for (std::size_t t = 0; t < m_tokens; ++t) {
        const Routing after = route(router, {m_logits.data() + t * n, n}, result.kept, m_bias);
        double slope = 0, drawn = 0;
        bool covered = true;
        for (std::size_t s = 0; s < after.experts.size() && covered; ++s) {
            std::size_t i = 0;
            while (i < m_length && m_list[i * m_tokens + t] != after.experts[s])
                ++i;
            covered = i < m_length;
            if (!covered) break;
            slope += after.weights[s] * static_cast<double>(m_slope[i * m_tokens + t]);
            if (!m_drawn.empty()) drawn += after.weights[s] * static_cast<double>(m_drawn[i * m_tokens + t]);
        }
        result.uncovered += covered ? 0 : 1;
        result.change[t] = static_cast<float>(covered ? slope : 0.0) - m_full[t];
        if (!m_drawn.empty()) result.drawnChange[t] = static_cast<float>(covered ? drawn : 0.0) - m_fullDrawn[t];
    }
    finish(result);
    return result;
}

Result<double> LayerEstimator::rankError(const LayerPlan& plan)
{
    const bool any = std::any_of(plan.ranks().begin(), plan.ranks().end(), [](const RankTriple& ranks) { return ranks != RankTriple{}; });
    if (!any) return 0.0;
    if (m_spectrumLength == 0)
        return missing("The plan sets ranks, and the profile has no rank curves to estimate their effect from.",
                       "Take the profile with --collect +curves.");
    const auto it = std::find_if(m_rankResults.begin(), m_rankResults.end(),
                                 [&](const RankResult& held) { return held.ranks == plan.ranks() && held.kept == plan.kept(); });
    if (it != m_rankResults.end()) {
        std::rotate(it, it + 1, m_rankResults.end());
        return m_rankResults.back().error;
    }
    RankResult result{plan.kept(), plan.ranks(), 0};
    const auto length = static_cast<std::size_t>(m_spectrumLength);
    for (std::size_t i = 0; i < plan.kept().size() && i < plan.ranks().size(); ++i)
        for (std::size_t matrix = 0; matrix < 3; ++matrix) {
            const int rank = plan.ranks()[i][matrix];
            if (rank == 0 || static_cast<std::size_t>(rank) >= length) continue;
            const std::size_t which = static_cast<std::size_t>(plan.kept()[i]) * 3 + matrix;
            std::vector<double>& curve = m_curves[which];
            if (curve.empty()) {
                curve.assign(length + 1, 0.0);
                for (std::size_t r = length; r-- > 0;)
                    curve[r] = curve[r + 1] + static_cast<double>(m_spectra[which * length + r]);
            }
            result.error += m_gain[which] * curve[static_cast<std::size_t>(rank)];
        }
    if (m_rankResults.size() >= kResultsHeld) m_rankResults.erase(m_rankResults.begin());
    m_rankResults.push_back(result);
    return result.error;
}

// Mean ranks from 1, ties at their mean.
std::vector<double> ranksOf(std::span<const double> values)
{
    std::vector<std::size_t> order(values.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
    std::vector<double> ranks(values.size());
    for (std::size_t i = 0; i < order.size();) {
        std::size_t j = i;
        while (j < order.size() && values[order[j]] == values[order[i]])
            ++j;
        for (std::size_t k = i; k < j; ++k)
            ranks[order[k]] = 0.5 * static_cast<double>(i + j + 1);
        i = j;
    }
    return ranks;
}

}  // namespace

struct NllEstimator::State {
    ModelShape shape;
    std::string fingerprint;
    double scored = 0;     // tokens
    double positions = 0;  // tokens
    std::vector<LayerEstimator> layers;
    std::optional<ProbeFit> fit;
    int probeWindows = 0;
};

namespace
{

// The plan of a probe. A profile that was edited by hand may hold one that the model does not allow.
std::optional<CompressionPlan> planOf(const NllProbe& probe, const ModelShape& shape)
{
    CompressionPlan plan = CompressionPlan::identity(shape);
    for (const NllProbe::Layer& layer : probe.layers) {
        Result<CompressionPlan> next = plan.withKept(shape, layer.layer, layer.kept);
        if (next.ok() && !layer.ranks.empty()) next = next->withRanks(shape, layer.layer, layer.ranks);
        if (!next.ok()) return {};
        plan = std::move(next).value();
    }
    return plan;
}

// Per scored token, with the error over windows.
void measure(ProbePoint& point, const NllProbe& probe, const NllProbeSet& set)
{
    double scored = 0;
    for (std::size_t w = 0; w < set.scored.size(); ++w) {
        point.change += probe.change[w];
        scored += set.scored[w];
    }
    point.change /= scored;
    const auto windows = static_cast<double>(set.scored.size());
    if (windows < 2) return;
    double squares = 0;
    for (std::size_t w = 0; w < set.scored.size(); ++w)
        squares += std::pow(probe.change[w] - point.change * set.scored[w], 2);
    point.error = std::sqrt(squares * windows / (windows - 1)) / scored;
}

}  // namespace

NllEstimator::NllEstimator(std::unique_ptr<State> state) : m_state(std::move(state)) {}
NllEstimator::~NllEstimator() = default;

const ModelShape& NllEstimator::shape() const { return m_state->shape; }
const std::string& NllEstimator::fingerprint() const { return m_state->fingerprint; }

Result<std::unique_ptr<NllEstimator>> NllEstimator::create(const ProfileData& profile)
{
    auto state = std::make_unique<State>();
    state->shape = profile.shape;
    state->fingerprint = profile.fingerprint;
    state->scored = static_cast<double>(profile.tokens - profile.windows);
    state->positions = static_cast<double>(profile.tokens);
    for (const LayerProfile& layer : profile.layers) {
        if (layer.experts == 0) continue;
        const std::size_t entries = layer.gram.tokenCount() * static_cast<std::size_t>(layer.gram.listLength);
        if (layer.gram.tokenCount() == 0 || layer.gradients.products.size() != entries)
            return missing("The profile holds no gradients to estimate a change of NLL from.",
                           "Take the profile again with --collect +gradients.");
        state->layers.emplace_back(layer, profile.shape.layers[static_cast<std::size_t>(layer.layer)].router, profile.windows,
                                   !profile.probes.empty());
    }
    if (state->scored <= 0) return missing("The profile's windows hold no scored token.", "Use longer windows.");
    std::unique_ptr<NllEstimator> estimator(new NllEstimator(std::move(state)));
    std::vector<ProbePoint> points;
    for (const NllProbeSet& set : profile.probes) {
        for (const NllProbe& probe : set.probes) {
            const std::optional<CompressionPlan> plan = planOf(probe, profile.shape);
            if (!plan) continue;
            // Ranks without curves: nothing to fit the measurement to.
            const Result<NllEstimate> at = estimator->estimate(*plan);
            if (!at.ok()) continue;
            ProbePoint point{.layers = at->effects};
            measure(point, probe, set);
            points.push_back(std::move(point));
        }
        estimator->m_state->probeWindows += static_cast<int>(set.windows.size());
    }
    estimator->m_state->fit = ProbeFit::fit(points);
    return estimator;
}

const ProbeFit* NllEstimator::probeFit() const { return m_state->fit ? &*m_state->fit : nullptr; }
int NllEstimator::probeWindows() const { return m_state->probeWindows; }

Status estimateCovers(const CompressionPlan& plan)
{
    if (plan.isPlain()) return {};
    std::string what;
    const auto add = [&what](const char* text) { what += (what.empty() ? "" : " and ") + std::string(text); };
    bool partial = false;
    bool other = false;
    for (int l = 0; l < plan.layerCount(); ++l) {
        const LayerPlan& layer = plan.layer(l);
        partial = partial || layer.run() != LayerRun::Whole;
        other = other || (!layer.isPlain() && layer.run() == LayerRun::Whole && layer.constants().empty());
    }
    if (plan.hasConstants()) add("constants");
    if (partial) add("skipped layers");
    if (other) add("forms other than ranks");
    return unsupported("estimate.not_covered", what,
                       {"The estimate covers dropped experts and ranks; this plan has {what} as well.", {{"what", what}}},
                       "Evaluate the plan.");
}

Result<NllEstimate> NllEstimator::estimate(const CompressionPlan& plan)
{
    State& state = *m_state;
    const auto layers = static_cast<int>(state.shape.layers.size());
    if (plan.layerCount() != layers)
        return badInput(
            "plan.unknown_layer", "plan",
            {"The plan has {layer_count} layers, the profile's model {layers}.", {{"layer_count", plan.layerCount()}, {"layers", layers}}},
            "Use a plan that was made for this model.");
    ESPALIER_CHECK_OK(estimateCovers(plan));
    NllEstimate estimate;
    std::vector<double> byWindow;
    std::int64_t changed = 0, uncovered = 0;
    for (LayerEstimator& layer : state.layers) {
        const LayerPlan& layerPlan = plan.layer(layer.index());
        const KeptResult& kept = layer.kept(layerPlan);
        ESPALIER_TRY(const double rankError, layer.rankError(layerPlan));
        const double scale = state.positions / static_cast<double>(layer.tokens()) / state.scored;
        const double ranks = 0.5 * rankError * layer.meanSquaredGradient() / state.shape.hiddenSize / state.scored;
        NllEstimate::Layer part;
        part.layer = layer.index();
        part.e1 = scale * kept.first;
        part.e2 = 0.5 * scale * kept.squares + ranks;
        estimate.ranks += ranks;
        estimate.effects.push_back({.removed = kept.removed,
                                    .ranks = layer.outputEnergy() > 0 ? rankError / layer.outputEnergy() : 0,
                                    .slope = part.e1,
                                    .curvature = 0.5 * scale * kept.squares});
        if (!kept.nothing) {
            part.uncoveredFraction = static_cast<double>(kept.uncovered) / static_cast<double>(layer.tokens());
            changed += layer.tokens();
            uncovered += kept.uncovered;
            byWindow.resize(std::max(byWindow.size(), kept.byWindow.size()), 0.0);
            for (std::size_t w = 0; w < kept.byWindow.size(); ++w)
                byWindow[w] += scale * kept.byWindow[w];
        }
        estimate.e1 += part.e1;
        estimate.e2 += part.e2;
        estimate.layers.push_back(part);
    }
    if (changed > 0) estimate.uncoveredFraction = static_cast<double>(uncovered) / static_cast<double>(changed);
    // byWindow adds up to e1: the mean over windows, times their number.
    if (const auto windows = static_cast<double>(byWindow.size()); windows >= 2) {
        const double mean = std::accumulate(byWindow.begin(), byWindow.end(), 0.0) / windows;
        double squares = 0;
        for (const double value : byWindow)
            squares += (value - mean) * (value - mean);
        estimate.e1Error = std::sqrt(windows / (windows - 1) * squares);
    }
    if (state.fit) estimate.fitted = state.fit->estimate(estimate.effects);
    return estimate;
}

double rankCorrelation(std::span<const double> a, std::span<const double> b)
{
    const double nan = std::numeric_limits<double>::quiet_NaN();
    if (a.size() != b.size() || a.size() < 3) return nan;
    const std::vector<double> x = ranksOf(a), y = ranksOf(b);
    const double mean = 0.5 * static_cast<double>(a.size() + 1);
    double xy = 0, xx = 0, yy = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        xy += (x[i] - mean) * (y[i] - mean);
        xx += (x[i] - mean) * (x[i] - mean);
        yy += (y[i] - mean) * (y[i] - mean);
    }
    return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : nan;
}

EstimateCalibration calibrateEstimates(std::span<const EstimatePair> pairs)
{
    EstimateCalibration fit;
    fit.pairs = static_cast<int>(pairs.size());
    fit.residual = fit.rankCorrelation = std::numeric_limits<double>::quiet_NaN();
    double s11 = 0, s12 = 0, s22 = 0, s1 = 0, s2 = 0;
    for (const EstimatePair& pair : pairs) {
        s11 += pair.e1 * pair.e1;
        s12 += pair.e1 * pair.e2;
        s22 += pair.e2 * pair.e2;
        s1 += pair.e1 * pair.exact;
        s2 += pair.e2 * pair.exact;
    }
    if (!pairs.empty()) {
        // Objective: sum (beta . e - exact)^2 + r1 (beta1 - 1)^2 + r2 (beta2 - 1)^2.
        const double r1 = s11 / static_cast<double>(pairs.size()), r2 = s22 / static_cast<double>(pairs.size());
        const double a = s11 + r1, b = s22 + r2, d1 = s1 + r1, d2 = s2 + r2;
        const auto objective = [&](double x, double y) { return a * x * x + 2 * s12 * x * y + b * y * y - 2 * d1 * x - 2 * d2 * y; };
        const auto alone = [](double square, double product) { return square > 0 ? std::max(product / square, 0.0) : 1.0; };
        const double determinant = a * b - s12 * s12;
        std::vector<std::pair<double, double>> candidates;
        if (determinant > 0) candidates.emplace_back((b * d1 - s12 * d2) / determinant, (a * d2 - s12 * d1) / determinant);
        if (a == 0) candidates.emplace_back(1.0, alone(b, d2));
        if (b == 0) candidates.emplace_back(alone(a, d1), 1.0);
        candidates.emplace_back(alone(a, d1), 0.0);
        candidates.emplace_back(0.0, alone(b, d2));
        bool first = true;
        for (const auto& [x, y] : candidates) {
            if (x < 0 || y < 0 || (!first && objective(x, y) >= objective(fit.beta1, fit.beta2))) continue;
            fit.beta1 = x;
            fit.beta2 = y;
            first = false;
        }
    }
    if (pairs.size() < 3) return fit;
    std::vector<double> estimates, exact;
    double squares = 0;
    for (const EstimatePair& pair : pairs) {
        estimates.push_back(fit.change(pair.e1, pair.e2));
        exact.push_back(pair.exact);
        squares += std::pow(exact.back() - estimates.back(), 2);
    }
    fit.residual = std::sqrt(squares / static_cast<double>(pairs.size() - 2));
    fit.rankCorrelation = rankCorrelation(estimates, exact);
    return fit;
}

}  // namespace espalier
