#include "score/probe_fit.h"

#include "score/nll_estimate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace espalier
{

namespace
{

constexpr double kQuantile = 1.645;   // of nine in ten, two sides
constexpr double kModelError = 0.15;  // expected scatter of the logarithm beside the noise of the measurements
constexpr double kSmallest = 1e-12;   // of what enters a logarithm
constexpr double kBeyond = 0.5;       // of the logarithm by which a plan exceeds the largest probe
constexpr int kMostSteps = 100;

// Places of the parameters behind the 2 L of the layers.
enum Shared { kMix, kPower, kRankPower, kAcross, kRankScale, kScale, kSlope, kSharedCount };

struct Prior {
    double mean;
    double deviation;
};
constexpr Prior kLayerPrior = {0, 1.5};
constexpr Prior kLayerRankPrior = {0, 0.5};
// h as a logit, logarithms of g, k and p, b - a, a, s.
constexpr Prior kSharedPrior[kSharedCount] = {{0, 1}, {0, 0.3}, {0, 0.5}, {0, 0.15}, {0, 1.5}, {0, 10}, {0.5, 0.5}};

double quantile(std::vector<double> values, double share)
{
    if (values.empty()) return 0;
    const auto at = static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
    std::nth_element(values.begin(), values.begin() + at, values.end());
    return values[static_cast<std::size_t>(at)];
}

bool changes(const LayerEffect& effect) { return effect.removed > 0 || effect.ranks > 0 || effect.curvature > 0; }

bool finite(const LayerEffect& effect)
{
    return std::isfinite(effect.removed) && std::isfinite(effect.ranks) && std::isfinite(effect.slope) && std::isfinite(effect.curvature);
}

// A symmetric positive definite matrix [n][n], factored in place; false where it is not.
bool cholesky(std::vector<double>& a, std::size_t n)
{
    for (std::size_t j = 0; j < n; ++j) {
        for (std::size_t k = 0; k < j; ++k)
            for (std::size_t i = j; i < n; ++i)
                a[i * n + j] -= a[i * n + k] * a[j * n + k];
        if (!(a[j * n + j] > 0)) return false;
        const double root = std::sqrt(a[j * n + j]);
        for (std::size_t i = j; i < n; ++i)
            a[i * n + j] /= root;
    }
    return true;
}

std::vector<double> solve(const std::vector<double>& factor, std::size_t n, std::vector<double> b)
{
    for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t k = 0; k < i; ++k)
            b[i] -= factor[i * n + k] * b[k];
        b[i] /= factor[i * n + i];
    }
    for (std::size_t i = n; i-- > 0;) {
        for (std::size_t k = i + 1; k < n; ++k)
            b[i] -= factor[k * n + i] * b[k];
        b[i] /= factor[i * n + i];
    }
    return b;
}

// The form at one plan, with derivatives by all parameters.
struct Value {
    double change = 0;
    std::vector<double> gradient;
};

Value evaluate(const std::vector<double>& p, std::size_t layers, std::span<const LayerEffect> effects)
{
    Value value;
    value.gradient.assign(p.size(), 0.0);
    const double* shared = p.data() + 2 * layers;
    const double mix = 1 / (1 + std::exp(-shared[kMix]));
    const double power = std::exp(shared[kPower]), rankPower = std::exp(shared[kRankPower]), across = std::exp(shared[kAcross]);
    struct Part {
        std::size_t layer;
        double logTotal, removedShare, logRemoved, logRatio, logRanks;
    };
    std::vector<Part> parts;
    double slopes = 0, top = -std::numeric_limits<double>::infinity();
    for (std::size_t l = 0; l < layers; ++l) {
        const LayerEffect& effect = effects[l];
        slopes += effect.slope;
        if (!changes(effect)) continue;
        const double logR = std::log(std::max(effect.removed, kSmallest)), logC = std::log(std::max(effect.curvature, kSmallest));
        Part part{.layer = l,
                  .logTotal = 0,
                  .removedShare = 0,
                  .logRemoved = mix * logR + (1 - mix) * logC,
                  .logRatio = logR - logC,
                  .logRanks = std::log(std::max(effect.ranks, kSmallest))};
        const double weight = shared[kScale] + p[l];
        const double removed = effect.removed > 0 || effect.curvature > 0 ? std::exp(weight + power * part.logRemoved) : 0;
        const double ranks = effect.ranks > 0 ? std::exp(weight + shared[kRankScale] + p[layers + l] + rankPower * part.logRanks) : 0;
        if (!(removed + ranks > 0)) continue;
        part.logTotal = std::log(removed + ranks);
        part.removedShare = removed / (removed + ranks);
        top = std::max(top, part.logTotal);
        parts.push_back(part);
    }
    value.change = shared[kSlope] * slopes;
    value.gradient[2 * layers + kSlope] = slopes;
    if (parts.empty()) return value;
    double sum = 0;
    for (const Part& part : parts)
        sum += std::exp(across * (part.logTotal - top));
    const double logSum = top + std::log(sum) / across;
    const double total = std::exp(logSum);
    value.change += total;
    double mean = 0;
    for (const Part& part : parts) {
        const double share = std::exp(across * (part.logTotal - top)) / sum;
        mean += share * part.logTotal;
        const double all = total * share, removed = all * part.removedShare, ranks = all - removed;
        double* gradient = value.gradient.data();
        gradient[part.layer] += all;
        gradient[layers + part.layer] += ranks;
        gradient += 2 * layers;
        gradient[kScale] += all;
        gradient[kRankScale] += ranks;
        gradient[kMix] += removed * power * part.logRatio * mix * (1 - mix);
        gradient[kPower] += removed * power * part.logRemoved;
        gradient[kRankPower] += ranks * rankPower * part.logRanks;
    }
    value.gradient[2 * layers + kAcross] = total * (mean - logSum);
    return value;
}

// Weighted residuals of the points and of the priors, and their derivatives [rows][n].
struct Residuals {
    std::vector<double> value;
    std::vector<double> jacobian;
    double squares() const { return std::inner_product(value.begin(), value.end(), value.begin(), 0.0); }
};

double curved(double change, double noise) { return std::asinh(change / (2 * noise)); }
// Its derivative.
double steepness(double change, double noise) { return 1 / std::sqrt(change * change + 4 * noise * noise); }

Residuals residuals(const std::vector<double>& p, std::size_t layers, std::span<const ProbePoint> points,
                    const std::vector<double>& weights, double noise)
{
    const std::size_t n = p.size();
    Residuals result;
    result.value.reserve(points.size() + n);
    result.jacobian.assign((points.size() + n) * n, 0.0);
    for (std::size_t i = 0; i < points.size(); ++i) {
        const Value at = evaluate(p, layers, points[i].layers);
        result.value.push_back(weights[i] * (curved(at.change, noise) - curved(points[i].change, noise)));
        const double scale = weights[i] * steepness(at.change, noise);
        for (std::size_t j = 0; j < n; ++j)
            result.jacobian[i * n + j] = scale * at.gradient[j];
    }
    for (std::size_t j = 0; j < n; ++j) {
        const Prior prior = j < layers ? kLayerPrior : j < 2 * layers ? kLayerRankPrior : kSharedPrior[j - 2 * layers];
        result.value.push_back((p[j] - prior.mean) / prior.deviation);
        result.jacobian[(points.size() + j) * n + j] = 1 / prior.deviation;
    }
    return result;
}

// J'J; with `damping` times its diagonal added.
std::vector<double> normalMatrix(const std::vector<double>& jacobian, std::size_t n, double damping)
{
    std::vector<double> matrix(n * n, 0.0);
    for (std::size_t row = 0; row < jacobian.size() / n; ++row) {
        const double* values = jacobian.data() + row * n;
        for (std::size_t i = 0; i < n; ++i)
            if (values[i] != 0)
                for (std::size_t j = 0; j < n; ++j)
                    matrix[i * n + j] += values[i] * values[j];
    }
    for (std::size_t i = 0; i < n; ++i)
        matrix[i * n + i] *= 1 + damping;
    return matrix;
}

std::vector<double> minimise(std::vector<double> p, std::size_t layers, std::span<const ProbePoint> points,
                             const std::vector<double>& weights, double noise)
{
    const std::size_t n = p.size();
    Residuals at = residuals(p, layers, points, weights, noise);
    double damping = 1e-3;
    for (int step = 0; step < kMostSteps && damping < 1e9; ++step) {
        std::vector<double> matrix = normalMatrix(at.jacobian, n, damping);
        std::vector<double> down(n, 0.0);
        for (std::size_t row = 0; row < at.value.size(); ++row)
            for (std::size_t j = 0; j < n; ++j)
                down[j] -= at.jacobian[row * n + j] * at.value[row];
        std::vector<double> next = p;
        bool better = false;
        Residuals there;
        if (cholesky(matrix, n)) {
            const std::vector<double> move = solve(matrix, n, std::move(down));
            for (std::size_t j = 0; j < n; ++j)
                next[j] += std::clamp(move[j], -2.0, 2.0);
            there = residuals(next, layers, points, weights, noise);
            better = there.squares() < at.squares();
        }
        if (!better) {
            damping *= 8;
            continue;
        }
        const double gain = 1 - there.squares() / at.squares();
        p = std::move(next);
        at = std::move(there);
        damping = std::max(damping / 5, 1e-9);
        if (gain < 1e-10) break;
    }
    return p;
}

}  // namespace

std::optional<ProbeFit> ProbeFit::fit(std::span<const ProbePoint> given)
{
    std::vector<ProbePoint> points;
    for (const ProbePoint& point : given)
        if (std::isfinite(point.change) && std::isfinite(point.error) && std::all_of(point.layers.begin(), point.layers.end(), finite) &&
            std::any_of(point.layers.begin(), point.layers.end(), changes) && point.layers.size() == given.front().layers.size())
            points.push_back(point);
    ProbeFit fit;
    std::vector<double> errors, relative;
    double below = 0;
    for (ProbePoint& point : points) {
        if (!(point.error > 0)) point.error = 0.1 * std::abs(point.change);
        errors.push_back(point.error);
        if (point.change > 5 * point.error && point.error > 0) relative.push_back(point.error / point.change);
        fit.m_largest = std::max(fit.m_largest, point.change);
        below += std::pow(std::min(point.change, 0.0), 2);
    }
    if (static_cast<int>(points.size()) < kLeastProbes || !(fit.m_largest > 0)) return {};
    const std::size_t layers = points.front().layers.size(), n = 2 * layers + kSharedCount;
    fit.m_layers = static_cast<int>(layers);
    fit.m_probes = static_cast<int>(points.size());
    fit.m_noise = std::max(quantile(errors, 0.25), 1e-6 * fit.m_largest);
    fit.m_relative = quantile(relative, 0.5);
    fit.m_below = std::sqrt(below / static_cast<double>(points.size()));
    std::vector<double> weights;
    weights.reserve(points.size());
    for (const ProbePoint& point : points)
        weights.push_back(1 / std::hypot(kModelError, point.error * steepness(point.change, fit.m_noise)));

    std::vector<double> start(n, 0.0);
    for (int j = 0; j < kSharedCount; ++j)
        start[2 * layers + static_cast<std::size_t>(j)] = kSharedPrior[j].mean;
    fit.m_parameters = minimise(std::move(start), layers, points, weights, fit.m_noise);

    const Residuals at = residuals(fit.m_parameters, layers, points, weights, fit.m_noise);
    std::vector<double> factor = normalMatrix(at.jacobian, n, 0);
    if (!cholesky(factor, n)) return {};
    fit.m_covariance.resize(n * n);
    for (std::size_t j = 0; j < n; ++j) {
        std::vector<double> unit(n, 0.0);
        unit[j] = 1;
        const std::vector<double> column = solve(factor, n, std::move(unit));
        std::copy(column.begin(), column.end(), fit.m_covariance.begin() + static_cast<std::ptrdiff_t>(j * n));
    }
    double squares = 0, logSquares = 0;
    std::vector<double> predicted, measured;
    for (std::size_t i = 0; i < points.size(); ++i) {
        const std::vector<double> row(at.jacobian.begin() + static_cast<std::ptrdiff_t>(i * n),
                                      at.jacobian.begin() + static_cast<std::ptrdiff_t>((i + 1) * n));
        const std::vector<double> solved = solve(factor, n, row);
        const double leverage = std::inner_product(row.begin(), row.end(), solved.begin(), 0.0);
        const double left = at.value[i] / std::max(1 - leverage, 0.05);
        squares += left * left;
        logSquares += left * left / (weights[i] * weights[i]);
        predicted.push_back(curved(points[i].change, fit.m_noise) + left / weights[i]);
        measured.push_back(points[i].change);
    }
    const auto count = static_cast<double>(points.size());
    fit.m_variance = squares / count;
    fit.m_residual = std::sqrt(logSquares / count);
    fit.m_rankCorrelation = espalier::rankCorrelation(predicted, measured);
    return fit;
}

NllInterval ProbeFit::estimate(std::span<const LayerEffect> layers) const
{
    NllInterval result;
    if (static_cast<int>(layers.size()) != m_layers || std::none_of(layers.begin(), layers.end(), changes)) return result;
    const std::size_t n = m_parameters.size();
    const Value at = evaluate(m_parameters, static_cast<std::size_t>(m_layers), layers);
    const double steep = steepness(at.change, m_noise);
    double parameters = 0;
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j)
            parameters += at.gradient[i] * at.gradient[j] * m_covariance[i * n + j];
    const double noise = steep * std::max(m_relative * std::abs(at.change), m_noise);
    const double beyond = kBeyond * std::max(std::log(std::max(at.change, kSmallest) / m_largest), 0.0);
    const double variance = m_variance * (kModelError * kModelError + parameters * steep * steep) + noise * noise + beyond * beyond;
    result.change = at.change;
    result.spread = std::sqrt(variance);
    const double middle = curved(at.change, m_noise), reach = kQuantile * result.spread;
    const double below = kQuantile * m_below * static_cast<double>(std::count_if(layers.begin(), layers.end(), changes));
    result.low = 2 * m_noise * std::sinh(middle - reach) - below;
    result.high = 2 * m_noise * std::sinh(middle + reach) + below;
    return result;
}

NllInterval refined(const NllInterval& estimate, std::span<const MeasuredEstimate> pairs)
{
    constexpr double kOwnWeight = 1;     // of the ratio 1, in pairs
    constexpr double kSpreadWeight = 3;  // of the estimate's own spread
    constexpr double kMostRatio = 1.5;   // of one pair, as a logarithm
    std::vector<double> ratios;
    for (const MeasuredEstimate& pair : pairs)
        if (pair.estimate > 0 && pair.exact > 0 && std::isfinite(pair.estimate) && std::isfinite(pair.exact))
            ratios.push_back(std::clamp(std::log(pair.exact / pair.estimate), -kMostRatio, kMostRatio));
    if (ratios.empty()) return estimate;
    const auto count = static_cast<double>(ratios.size());
    const double mean = std::accumulate(ratios.begin(), ratios.end(), 0.0) / (count + kOwnWeight);
    double squares = kSpreadWeight * estimate.spread * estimate.spread;
    for (const double ratio : ratios)
        squares += (ratio - mean) * (ratio - mean);
    const double spread = std::sqrt(squares / (kSpreadWeight + count) * (1 + 1 / (count + kOwnWeight)));
    const double ratio = std::exp(mean), wider = estimate.spread > 0 ? spread / estimate.spread : 1;
    NllInterval result;
    result.change = ratio * estimate.change;
    result.low = result.change - ratio * wider * (estimate.change - estimate.low);
    result.high = result.change + ratio * wider * (estimate.high - estimate.change);
    result.spread = spread;
    return result;
}

}  // namespace espalier
