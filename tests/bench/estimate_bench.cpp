// How good the instant estimate of the change of NLL is, and how fast: estimates beside exact evaluations of the same plans on the
// calibration windows. Run: estimate_bench MODEL TEXT [WINDOWS] [WINDOW_LENGTH] [--curvature]
#include "base/random.h"
#include "bench_common.h"
#include "checkpoint/checkpoint.h"
#include "evaluate/evaluator.h"
#include "model/moe_model.h"
#include "profile/profile_pass.h"
#include "score/nll_estimate.h"
#include "score/scorer.h"
#include "session/profile_file.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/windows.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

using namespace espalier;
using namespace espalier::bench;

namespace
{

struct Case {
    std::string family;
    CompressionPlan plan;
    NllEstimate estimate;
    double exact = 0, error = 0;
};

void report(const char* name, const std::vector<const Case*>& cases, double (*value)(const Case&))
{
    std::vector<double> a, b;
    double xy = 0, xx = 0, yy = 0, x = 0, y = 0;
    for (const Case* item : cases) {
        a.push_back(value(*item));
        b.push_back(item->exact);
        x += a.back();
        y += b.back();
    }
    const auto n = static_cast<double>(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
        xy += (a[i] - x / n) * (b[i] - y / n);
        xx += (a[i] - x / n) * (a[i] - x / n);
        yy += (b[i] - y / n) * (b[i] - y / n);
    }
    std::printf("  %-22s rank %.3f  linear %.3f  mean estimate/exact %.2f\n", name, rankCorrelation(a, b), xy / std::sqrt(xx * yy), x / y);
}

// Plans of one kind each: by single experts, by layers, by all layers, by ranks.
class CaseMaker
{
public:
    CaseMaker(const ModelShape& shape, const ExpertScores& importance) : m_shape(shape), m_importance(importance)
    {
        for (const LayerShape& layer : shape.layers)
            if (layer.moe) m_moe.push_back(layer.index);
    }

    std::vector<Case> make()
    {
        std::vector<Case> cases;
        const auto add = [&](const char* family, CompressionPlan plan) { cases.push_back({family, std::move(plan), {}, {}}); };
        for (const int layer : m_moe)
            for (int e = 0; e < m_shape.layers[static_cast<std::size_t>(layer)].experts; e += 4)
                add("one expert", without(m_identity, layer, {e}));
        for (const int layer : m_moe) {
            add("quarter of one layer", without(m_identity, layer, quarterOf(layer, order(layer))));
            for (int i = 0; i < 2; ++i)
                add("quarter of one layer", without(m_identity, layer, quarterOf(layer, shuffled(layer))));
        }
        for (int i = 0; i < 12; ++i) {
            CompressionPlan plan = m_identity;
            for (const int layer : m_moe)
                plan = without(plan, layer, quarterOf(layer, i == 0 ? order(layer) : shuffled(layer)));
            add("quarter of all layers", plan);
        }
        for (std::size_t skip = 0; skip < m_moe.size(); ++skip) {
            CompressionPlan plan = m_identity;
            for (const int layer : m_moe)
                if (layer != m_moe[skip]) plan = without(plan, layer, quarterOf(layer, order(layer)));
            add("all layers but one", plan);
        }
        for (const int layer : m_moe)
            for (const int rank : {8, 24, 48}) {
                const LayerShape& layerShape = m_shape.layers[static_cast<std::size_t>(layer)];
                if (rank >= m_shape.hiddenSize * layerShape.expertWidth / (m_shape.hiddenSize + layerShape.expertWidth)) continue;
                std::vector<RankTriple> ranks(static_cast<std::size_t>(layerShape.experts), RankTriple{rank, rank, rank});
                CompressionPlan plan = require(m_identity.withRanks(m_shape, layer, ranks));
                add("plain factors", plan.withFactors({.method = "svd", .profileSha256 = ""}));
            }
        return cases;
    }

private:
    CompressionPlan without(const CompressionPlan& plan, int layer, const std::vector<int>& removed) const
    {
        std::vector<int> kept;
        for (const int e : plan.layer(layer).kept())
            if (std::find(removed.begin(), removed.end(), e) == removed.end()) kept.push_back(e);
        return require(plan.withKept(m_shape, layer, kept));
    }
    std::vector<int> order(int layer) const  // least important first
    {
        const auto& row = m_importance.values.rows[static_cast<std::size_t>(layer)];
        std::vector<int> experts(row.size());
        std::iota(experts.begin(), experts.end(), 0);
        std::sort(experts.begin(), experts.end(),
                  [&](int a, int b) { return row[static_cast<std::size_t>(a)] < row[static_cast<std::size_t>(b)]; });
        return experts;
    }
    std::vector<int> shuffled(int layer)
    {
        std::vector<int> experts = order(layer);
        for (std::size_t i = 0; i + 1 < experts.size(); ++i)
            std::swap(experts[i], experts[i + m_random.below(experts.size() - i)]);
        return experts;
    }
    std::vector<int> quarterOf(int layer, std::vector<int> experts) const
    {
        experts.resize(static_cast<std::size_t>(m_shape.layers[static_cast<std::size_t>(layer)].experts / 4));
        return experts;
    }

    const ModelShape& m_shape;
    const ExpertScores& m_importance;
    const CompressionPlan m_identity = CompressionPlan::identity(m_shape);
    std::vector<int> m_moe;
    Random m_random{1};
};

// The estimate of every plan, and what it shows on all windows.
void measure(std::vector<Case>& cases, const ProfileData& data, Evaluator& evaluator, const std::vector<WindowLoss>& dense)
{
    SilentJob job;
    const auto all = firstWindows(evaluator.windowCount());
    const auto estimator = require(NllEstimator::create(data));
    const double create = seconds([&] { (void)require(NllEstimator::create(data)); });
    double whole = 0, edit = 0;
    int edits = 0;
    for (Case& item : cases) {
        const double took = seconds([&] { item.estimate = require(estimator->estimate(item.plan)); });
        if (item.family == "quarter of all layers") whole = std::max(whole, took);
        if (item.family == "one expert") {
            edit += took;
            ++edits;
        }
        const auto losses = require(evaluator.run(item.plan, all, {}, job));
        const PairedDifference difference = pairedDifference(losses, dense);
        item.exact = difference.nll;
        item.error = difference.se;
    }
    std::printf("estimator: made in %.1f ms, another set in all layers %.2f ms, one edit %.3f ms\n\n", create * 1e3, whole * 1e3,
                edit / edits * 1e3);
}

void report(const std::vector<Case>& cases)
{
    std::vector<std::string> families;
    for (const Case& item : cases)
        if (std::find(families.begin(), families.end(), item.family) == families.end()) families.push_back(item.family);
    families.push_back("removed experts, all");
    for (const std::string& family : families) {
        std::vector<const Case*> chosen;
        std::vector<EstimatePair> pairs;
        for (const Case& item : cases)
            if (item.family == family || (family == "removed experts, all" && item.family != "plain factors")) {
                chosen.push_back(&item);
                pairs.push_back({item.estimate.e1, item.estimate.e2, item.exact});
            }
        std::printf("%s (%zu plans)\n", family.c_str(), chosen.size());
        report("e1", chosen, [](const Case& c) { return c.estimate.e1; });
        report("e1 + e2", chosen, [](const Case& c) { return c.estimate.e1 + c.estimate.e2; });
        const EstimateCalibration fit = calibrateEstimates(pairs);
        std::printf("  calibrated: beta %.2f %.2f, band %.4f, rank %.3f\n", fit.beta1, fit.beta2, fit.residual, fit.rankCorrelation);
        for (std::size_t i = 0; i < std::min<std::size_t>(chosen.size(), 6); ++i)
            std::printf("    e1 %8.4f (%.4f)  e2 %7.4f  exact %8.4f (%.4f)  uncovered %.3f\n", chosen[i]->estimate.e1,
                        chosen[i]->estimate.e1Error, chosen[i]->estimate.e2, chosen[i]->exact, chosen[i]->error,
                        chosen[i]->estimate.uncoveredFraction);
    }
}

}  // namespace

int main(int argc, char** argv)
{
    if (argc < 3) {
        std::fprintf(stderr, "usage: estimate_bench MODEL TEXT [WINDOWS] [WINDOW_LENGTH] [--curvature]\n");
        return 2;
    }
    const auto checkpoint = require(Checkpoint::open(argv[1]));
    const auto tokenizer = require(Tokenizer::load(checkpoint->folder(), checkpoint->shape().vocabularySize));
    WindowOptions window;
    window.maxWindows = argc > 3 ? std::atoi(argv[3]) : 64;
    window.windowLength = argc > 4 ? std::atoi(argv[4]) : 256;
    const bool curvature = argc > 5 && std::string(argv[5]) == "--curvature";
    const std::vector<std::filesystem::path> files{argv[2]};
    const TokenWindows windows = require(windowsFromText(tokenizer, files, window));
    const auto model = require(MoeModel::create(checkpoint, {}));
    const ModelShape& shape = model->shape();
    SilentJob job;

    ProfileData data;
    const double plain = seconds([&] { (void)require(runProfile(*model, windows, {.collect = {"counts", "ean", "reap", "gram"}}, job)); });
    std::vector<std::string> collect{"counts", "ean", "reap", "gram", "gradients", "curves"};
    if (curvature) collect.push_back("curvature");
    const double swept = seconds([&] {
        (void)require(
            runProfile(*model, windows, {.collect = {"counts", "ean", "reap", "gram", curvature ? "curvature" : "gradients"}}, job));
    });
    data = require(runProfile(*model, windows, {.collect = collect}, job));
    Evaluator evaluator(*model, windows, std::int64_t{1} << 30);
    const auto all = firstWindows(evaluator.windowCount());
    const CompressionPlan identity = CompressionPlan::identity(shape);
    std::vector<WindowLoss> dense;
    const double forward = seconds([&] { dense = require(evaluator.run(identity, all, {}, job)); });
    std::printf("%lld tokens, %d windows of %d: forward %.2f s, profile %.2f s, with reverse sweep %.2f s\n",
                static_cast<long long>(data.tokens), data.windows, data.windowLength, forward, plain, swept);

    const ExpertScores importance = require(score(data, "leave-one-out"));
    std::vector<Case> cases = CaseMaker(shape, importance).make();
    measure(cases, data, evaluator, dense);
    report(cases);
    return 0;
}
