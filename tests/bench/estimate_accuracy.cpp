// How good first estimates of the change of NLL are: 48 random plans (by importance, at random, with ranks, mixed; 5 to 45 % of the experts
// left out), each estimated from a fresh profile and then measured.
// Run: estimate_accuracy MODEL CALIBRATION_TEXT [CHECK_TEXT] [--windows N] [--length L] [--dump FILE.json] [--seed S]
// "random" for a text: random token ids, for checkpoints without a tokenizer. Plans are measured on CHECK_TEXT, or on the calibration text.
#include "base/json.h"
#include "base/random.h"
#include "bench_common.h"
#include "checkpoint/checkpoint.h"
#include "evaluate/evaluator.h"
#include "model/moe_model.h"
#include "profile/nll_probes.h"
#include "profile/profile_pass.h"
#include "score/nll_estimate.h"
#include "score/scorer.h"
#include "session/profile_file.h"
#include "session/profile_parts.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/windows.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <string>
#include <vector>

using namespace espalier;
using namespace espalier::bench;

namespace
{

// When how much of the profile was done.
struct TimedJob final : JobContext {
    std::vector<std::pair<std::int64_t, double>> times;
    bool stopRequested() const noexcept override { return false; }
    void progress(std::int64_t done, std::int64_t, std::string_view) override { times.emplace_back(done, now()); }
    void partial(const Json&) override {}
    double at(std::int64_t done) const
    {
        for (const auto& [reached, time] : times)
            if (reached >= done) return time;
        return times.back().second;
    }
};

struct Options {
    std::string model, text, check, dump;
    int windows = 64, length = 256;
    std::uint64_t seed = 1;
};

Options parse(int argc, char** argv)
{
    Options options;
    std::vector<std::string> plain;
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i];
        const auto value = [&] { return i + 1 < argc ? argv[++i] : ""; };
        if (name == "--windows")
            options.windows = std::atoi(value());
        else if (name == "--length")
            options.length = std::atoi(value());
        else if (name == "--seed")
            options.seed = static_cast<std::uint64_t>(std::atoll(value()));
        else if (name == "--dump")
            options.dump = value();
        else
            plain.push_back(name);
    }
    if (plain.size() < 2) {
        std::fprintf(stderr, "usage: estimate_accuracy MODEL CALIBRATION_TEXT [CHECK_TEXT] [--windows N] [--length L] [--dump FILE]\n");
        std::exit(2);
    }
    options.model = plain[0];
    options.text = plain[1];
    options.check = plain.size() > 2 ? plain[2] : plain[1];
    return options;
}

TokenWindows windowsOf(const std::string& text, const Options& options, const Checkpoint& checkpoint, std::uint64_t seed)
{
    const ModelShape& shape = checkpoint.shape();
    if (text == "random") {
        TokenWindows windows;
        windows.windowLength = options.length;
        windows.source = text;
        Random random(seed);
        for (int w = 0; w < options.windows; ++w) {
            std::vector<int> row;
            for (int t = 0; t < options.length; ++t)
                row.push_back(static_cast<int>(random.below(static_cast<std::uint64_t>(shape.vocabularySize))));
            windows.rows.push_back(std::move(row));
        }
        windows.textSha256 = hashOfRows(windows.rows);
        return windows;
    }
    const auto tokenizer = require(Tokenizer::load(checkpoint.folder(), shape.vocabularySize));
    WindowOptions window;
    window.maxWindows = options.windows;
    window.windowLength = options.length;
    const std::vector<std::filesystem::path> files{text};
    return require(windowsFromText(tokenizer, files, window));
}

struct Case {
    std::string family;
    CompressionPlan plan;
    NllEstimate estimate;
    double exact = 0, error = 0;
};

class Plans
{
public:
    Plans(const ModelShape& shape, ExpertScores scores, const FactorSettings& factors, std::uint64_t seed)
        : m_shape(shape), m_scores(std::move(scores)), m_factors(factors), m_random(seed)
    {
        for (const LayerShape& layer : shape.layers)
            if (layer.moe) m_layers.push_back(layer.index);
    }

    Case next(int number)
    {
        const double share = between(0.05, 0.45);
        CompressionPlan plan = CompressionPlan::identity(m_shape);
        switch (number % 4) {
            case 0:
                return {"by importance", without(plan, share, false), {}};
            case 1:
                return {"at random", without(plan, share, true), {}};
            case 2:
                return {"ranks", withRanks(plan, between(0.2, 0.95)), {}};
            default:
                return {"mixed", withRanks(without(plan, share, number % 8 == 7), between(0.3, 0.95)), {}};
        }
    }

private:
    double between(double low, double high) { return low + (high - low) * m_random.uniform(); }

    // A share of all experts, spread unevenly over the layers.
    CompressionPlan without(CompressionPlan plan, double share, bool random)
    {
        std::vector<double> weight;
        std::vector<int> count(m_layers.size(), 0), most;
        int wanted = 0;
        for (const int l : m_layers) {
            const LayerShape& layer = m_shape.layers[static_cast<std::size_t>(l)];
            weight.push_back(between(0.4, 1.6));
            most.push_back(layer.experts - layer.router.topK);
            wanted += layer.experts;
        }
        wanted = std::max(1, static_cast<int>(std::lround(share * wanted)));
        const double sum = std::accumulate(weight.begin(), weight.end(), 0.0);
        for (int i = 0, tries = 0; i < wanted && tries < 100 * wanted; ++tries) {
            double at = m_random.uniform() * sum;
            std::size_t which = 0;
            while (which + 1 < weight.size() && at >= weight[which])
                at -= weight[which++];
            if (count[which] >= most[which]) continue;
            ++count[which];
            ++i;
        }
        for (std::size_t i = 0; i < m_layers.size(); ++i) {
            const auto& row = m_scores.values.rows[static_cast<std::size_t>(m_layers[i])];
            std::vector<int> order(row.size());
            std::iota(order.begin(), order.end(), 0);
            if (random)
                for (std::size_t k = order.size(); k > 1; --k)
                    std::swap(order[k - 1], order[m_random.below(k)]);
            else
                std::sort(order.begin(), order.end(),
                          [&](int a, int b) { return row[static_cast<std::size_t>(a)] < row[static_cast<std::size_t>(b)]; });
            std::vector<int> kept(order.begin() + count[i], order.end());
            std::sort(kept.begin(), kept.end());
            Result<CompressionPlan> fewer = plan.withKept(m_shape, m_layers[i], kept);
            if (fewer.ok()) plan = std::move(fewer).value();  // routers with groups refuse some sets
        }
        return plan;
    }

    CompressionPlan withRanks(CompressionPlan plan, double share)
    {
        for (const int l : m_layers) {
            const LayerShape& layer = m_shape.layers[static_cast<std::size_t>(l)];
            const int even = breakEvenRank(m_shape.hiddenSize, layer.expertWidth);
            std::vector<RankTriple> ranks;
            const double own = share * between(0.8, 1.2);
            for (std::size_t i = 0; i < plan.layer(l).kept().size(); ++i) {
                const int rank = std::clamp(static_cast<int>(own * between(0.8, 1.2) * even), 1, std::max(even - 1, 1));
                ranks.push_back(even > 1 ? RankTriple{rank, rank, rank} : RankTriple{});
            }
            plan = require(plan.withRanks(m_shape, l, ranks));
        }
        return plan.withFactors(m_factors);
    }

    const ModelShape& m_shape;
    ExpertScores m_scores;
    FactorSettings m_factors;
    Random m_random;
    std::vector<int> m_layers;
};

double median(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    return values.empty() ? NAN : 0.5 * (values[(values.size() - 1) / 2] + values[values.size() / 2]);
}

void report(const std::string& family, const std::vector<Case>& cases, bool fitted)
{
    std::vector<double> estimates, exact, ratios, widths;
    int covered = 0;
    for (const Case& item : cases) {
        if (!family.empty() && item.family != family) continue;
        if (fitted && !item.estimate.fitted) return;
        const double value = fitted ? item.estimate.fitted->change : item.estimate.e1 + item.estimate.e2;
        estimates.push_back(value);
        exact.push_back(item.exact);
        ratios.push_back(value / item.exact);
        if (!fitted) continue;
        covered += item.exact >= item.estimate.fitted->low && item.exact <= item.estimate.fitted->high ? 1 : 0;
        widths.push_back(item.estimate.fitted->high / value);
    }
    std::vector<double> sorted = ratios;
    std::sort(sorted.begin(), sorted.end());
    std::printf("%-14s %-9s n %2zu  rank %.3f  ratio: median %.2f, 5 to 95 %% %.2f to %.2f", family.empty() ? "all" : family.c_str(),
                fitted ? "fitted" : "expansion", ratios.size(), rankCorrelation(estimates, exact), median(ratios),
                sorted[sorted.size() / 20], sorted[sorted.size() - 1 - sorted.size() / 20]);
    if (fitted) std::printf("  band covers %.0f %%, x %.2f", 100.0 * covered / static_cast<double>(ratios.size()), median(widths));
    std::printf("\n");
}

Json effectsJson(const std::vector<LayerEffect>& effects)
{
    Json list = Json::array();
    for (const LayerEffect& effect : effects)
        list.push_back({{"R", effect.removed}, {"K", effect.ranks}, {"e1", effect.slope}, {"e2", effect.curvature}});
    return list;
}

void dump(const std::string& path, const std::vector<Case>& cases, const ProfileData& data, NllEstimator& estimator)
{
    Json plans = Json::array(), probes = Json::array();
    for (const Case& item : cases)
        plans.push_back(
            {{"family", item.family}, {"exact", item.exact}, {"error", item.error}, {"layers", effectsJson(item.estimate.effects)}});
    for (const NllProbeSet& set : data.probes)
        for (const NllProbe& probe : set.probes) {
            CompressionPlan plan = CompressionPlan::identity(data.shape);
            for (const NllProbe::Layer& layer : probe.layers) {
                plan = require(plan.withKept(data.shape, layer.layer, layer.kept));
                if (!layer.ranks.empty()) plan = require(plan.withRanks(data.shape, layer.layer, layer.ranks));
            }
            probes.push_back(
                {{"layers", effectsJson(require(estimator.estimate(plan)).effects)}, {"change", probe.change}, {"scored", set.scored}});
        }
    std::ofstream(path) << Json{{"plans", plans}, {"probes", probes}}.dump() << "\n";
}

}  // namespace

int main(int argc, char** argv)
{
    const Options options = parse(argc, argv);
    const auto checkpoint = require(Checkpoint::open(options.model));
    const auto model = require(MoeModel::create(checkpoint, {}));
    const ModelShape& shape = model->shape();
    SilentJob job;
    const TokenWindows windows = windowsOf(options.text, options, *checkpoint, 5);
    const std::filesystem::path out = std::filesystem::temp_directory_path() / ("estimate_accuracy." + std::to_string(options.seed) + "." +
                                                                                checkpoint->fingerprint().substr(0, 8) + ".h5");
    const std::vector<std::string> collect{"counts", "ean", "reap", "gram", "gradients", "curves", "factors"};
    double started = now();
    TimedJob timed;
    const ProfileData data = require(runProfile(*model, windows, {.out = out, .collect = collect, .force = true}, timed));
    const std::int64_t passed = data.tokens * static_cast<std::int64_t>(shape.layers.size());
    const double probing = timed.at(passed + probeWork(shape, windows.rows, true)) - timed.at(passed);
    std::printf("%s: %lld tokens, %d windows; profile %.1f s", shape.modelType.c_str(), static_cast<long long>(data.tokens), data.windows,
                now() - started);
    for (const NllProbeSet& set : data.probes)
        std::printf(" (%.1f s of it for %zu probes on %zu windows)", probing, set.probes.size(), set.windows.size());
    started = now();
    const auto estimator = require(NllEstimator::create(data));
    std::printf(", estimator %.3f s\n", now() - started);
    if (const ProbeFit* fit = estimator->probeFit())
        std::printf("probes left out one by one: residual %.2f, rank %.3f\n", fit->residual(), fit->rankCorrelation());
    const auto parts = require(ProfileParts::open(out));
    model->setFactorSources({parts});

    Plans plans(shape, require(score(data, "leave-one-out")), {.method = "whitened-svd", .profileSha256 = parts->profileSha256()},
                options.seed);
    Evaluator evaluator(*model, windowsOf(options.check, options, *checkpoint, options.check == options.text ? 5 : 6),
                        std::int64_t{1} << 30);
    const auto all = firstWindows(evaluator.windowCount());
    const auto dense = require(evaluator.run(CompressionPlan::identity(shape), all, {}, job));
    std::vector<Case> cases;
    for (int i = 0; i < 48; ++i) {
        Case item = plans.next(i);
        started = now();
        item.estimate = require(estimator->estimate(item.plan));
        const PairedDifference difference = pairedDifference(require(evaluator.run(item.plan, all, {}, job)), dense);
        item.exact = difference.nll;
        item.error = difference.se;
        const NllInterval fitted = item.estimate.fitted.value_or(NllInterval{});
        std::printf("  %-14s exact %8.4f (%.4f)  expansion %8.4f  fitted %8.4f  %8.4f to %8.4f%s\n", item.family.c_str(), item.exact,
                    item.error, item.estimate.e1 + item.estimate.e2, fitted.change, fitted.low, fitted.high,
                    item.exact < fitted.low || item.exact > fitted.high ? "  outside" : "");
        cases.push_back(std::move(item));
    }
    for (const char* family : {"by importance", "at random", "ranks", "mixed"})
        report(family, cases, true);
    report("", cases, true);
    report("", cases, false);
    if (!options.dump.empty()) dump(options.dump, cases, data, *estimator);
    std::error_code ignored;
    std::filesystem::remove(out, ignored);
    return 0;
}
