#include "search/plan_surrogate.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <optional>

namespace espalier
{

namespace
{

constexpr double kPriorSpread = 0.35;  // of the factors, relative to the common one
constexpr double kModelError = 0.05;   // of a sum over layers, relative
constexpr double kFarFromBest = 0.25;  // how much less a plan counts that loses more than the best one
constexpr double kLeastFactor = 0.05;

double gaussian(Random& random)
{
    const double radius = std::sqrt(-2 * std::log(1 - random.uniform()));
    return radius * std::cos(2 * std::numbers::pi * random.uniform());
}

struct Curve {
    double scale = 0;
    double power = 1;
};

// scale * error^power through what was measured: exactly through the largest, which stands out of the noise best.
std::optional<Curve> curveThrough(const std::vector<LayerProbe>& probes)
{
    const LayerProbe* large = nullptr;
    const LayerProbe* small = nullptr;
    for (const LayerProbe& probe : probes) {
        if (!(probe.error > 0)) continue;
        if (!large || probe.error > large->error) large = &probe;
        if (!small || probe.error < small->error) small = &probe;
    }
    if (!large) return std::nullopt;
    // What measurably costs nothing, or gains, has a limit somewhere: half its error stands in for it.
    const auto rise = [](const LayerProbe& probe) { return std::max({probe.rise, 0.5 * probe.se, 1e-7}); };
    Curve curve;
    if (small->error < large->error * 0.95)
        curve.power = std::clamp(std::log(rise(*large) / rise(*small)) / std::log(large->error / small->error), 0.5, 2.0);
    curve.scale = rise(*large) / std::pow(large->error, curve.power);
    return curve;
}

std::vector<double> forwardSolve(const std::vector<std::vector<double>>& root, std::vector<double> b)
{
    for (std::size_t i = 0; i < b.size(); ++i) {
        for (std::size_t j = 0; j < i; ++j)
            b[i] -= root[i][j] * b[j];
        b[i] /= root[i][i];
    }
    return b;
}

std::vector<double> backwardSolve(const std::vector<std::vector<double>>& root, std::vector<double> b)
{
    for (std::size_t i = b.size(); i-- > 0;) {
        for (std::size_t j = i + 1; j < b.size(); ++j)
            b[i] -= root[j][i] * b[j];
        b[i] /= root[i][i];
    }
    return b;
}

// Lower Cholesky factor of a symmetric positive definite matrix, in place.
void factorise(std::vector<std::vector<double>>& a)
{
    for (std::size_t j = 0; j < a.size(); ++j) {
        for (std::size_t k = 0; k < j; ++k)
            a[j][j] -= a[j][k] * a[j][k];
        a[j][j] = std::sqrt(std::max(a[j][j], 1e-300));
        for (std::size_t i = j + 1; i < a.size(); ++i) {
            for (std::size_t k = 0; k < j; ++k)
                a[i][j] -= a[i][k] * a[j][k];
            a[i][j] /= a[j][j];
        }
    }
}

}  // namespace

PlanSurrogate::PlanSurrogate(const std::vector<std::vector<LayerOption>>& options, const std::vector<std::vector<LayerProbe>>& counts,
                             const std::vector<std::vector<LayerProbe>>& ranks)
    : m_options(options), m_scale(2 * options.size(), 0), m_power(2 * options.size(), 1), m_factor(2 * options.size(), 1)
{
    std::vector<std::optional<Curve>> curves(m_scale.size());
    double sum[2] = {0, 0};
    int known[2] = {0, 0};
    for (std::size_t i = 0; i < curves.size(); ++i) {
        const auto& probes = i % 2 == 0 ? counts : ranks;
        if (i / 2 < probes.size()) curves[i] = curveThrough(probes[i / 2]);
        if (!curves[i]) continue;
        sum[i % 2] += std::log(curves[i]->scale);
        ++known[i % 2];
    }
    // A layer that was not measured is taken for one of the others; ranks that were not, for experts that are missing.
    double usual[2] = {1, 1};
    for (const int kind : {0, 1})
        usual[kind] = known[kind] > 0 ? std::exp(sum[kind] / known[kind]) : usual[0];
    for (std::size_t i = 0; i < curves.size(); ++i) {
        m_scale[i] = curves[i] ? curves[i]->scale : usual[i % 2];
        m_power[i] = curves[i] ? curves[i]->power : 1;
        if (!curves[i] && i % 2 == 1 && curves[i - 1]) m_scale[i] = known[1] > 0 ? usual[1] : m_scale[i - 1];
    }
}

double PlanSurrogate::part(std::size_t feature, const LayerOption& option) const
{
    const double error = feature % 2 == 0 ? option.prune : option.rank;
    return error > 0 ? m_scale[feature] * std::pow(error, m_power[feature]) : 0.0;
}

double PlanSurrogate::rise(std::size_t layer, const LayerOption& option, const std::vector<double>& factors) const
{
    const std::vector<double>& f = factors.empty() ? m_factor : factors;
    return f[2 * layer] * part(2 * layer, option) + f[2 * layer + 1] * part(2 * layer + 1, option);
}

double PlanSurrogate::rise(const std::vector<int>& choice) const
{
    double sum = 0;
    for (std::size_t l = 0; l < choice.size(); ++l)
        sum += rise(l, m_options[l][static_cast<std::size_t>(choice[l])]);
    return sum;
}

void PlanSurrogate::fit(const std::vector<Observation>& observations)
{
    const std::size_t features = m_scale.size();
    if (observations.empty() || features == 0) return;
    std::vector<std::vector<double>> rows;
    double best = observations.front().rise;
    for (const Observation& seen : observations) {
        std::vector<double> row(features);
        for (std::size_t i = 0; i < features; ++i)
            row[i] = part(i, m_options[i / 2][static_cast<std::size_t>(seen.choice[i / 2])]);
        rows.push_back(std::move(row));
        best = std::min(best, seen.rise);
    }
    std::vector<double> weight;
    double measured = 0;
    double expected = 0;
    for (std::size_t n = 0; n < rows.size(); ++n) {
        const Observation& seen = observations[n];
        const double sigma = seen.se + kModelError * std::abs(seen.rise) + kFarFromBest * (seen.rise - best) + 1e-6;
        weight.push_back(1 / (sigma * sigma));
        measured += weight.back() * std::max(seen.rise, 0.0);
        expected += weight.back() * std::accumulate(rows[n].begin(), rows[n].end(), 0.0);
    }
    const double common = expected > 0 && measured > 0 ? std::clamp(measured / expected, 0.1, 10.0) : 1.0;
    const double prior = 1 / (kPriorSpread * kPriorSpread * common * common);
    std::vector<std::vector<double>> precision(features, std::vector<double>(features, 0));
    std::vector<double> right(features, prior * common);
    for (std::size_t i = 0; i < features; ++i)
        precision[i][i] = prior;
    for (std::size_t n = 0; n < rows.size(); ++n)
        for (std::size_t i = 0; i < features; ++i) {
            right[i] += weight[n] * rows[n][i] * observations[n].rise;
            for (std::size_t j = 0; j <= i; ++j)
                precision[i][j] += weight[n] * rows[n][i] * rows[n][j];
        }
    factorise(precision);
    m_root = std::move(precision);
    m_factor = backwardSolve(m_root, forwardSolve(m_root, right));
    for (double& factor : m_factor)
        factor = std::max(factor, kLeastFactor * common);
}

std::vector<double> PlanSurrogate::draw(Random& random) const
{
    std::vector<double> factors = m_factor;
    std::vector<double> noise(factors.size());
    for (double& value : noise)
        value = gaussian(random);
    if (!m_root.empty())
        noise = backwardSolve(m_root, noise);
    else
        for (double& value : noise)
            value *= kPriorSpread;
    double least = 0;
    for (const double factor : m_factor)
        least += factor / static_cast<double>(m_factor.size());
    for (std::size_t i = 0; i < factors.size(); ++i)
        factors[i] = std::max(factors[i] + noise[i], kLeastFactor * least);
    return factors;
}

}  // namespace espalier
