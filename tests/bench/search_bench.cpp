// What a candidate costs. Synthetic layer of 60 experts, 4 per token, lists of 9, 4,096 tokens: the figures of a Qwen1.5-MoE layer
// (methods.md 2.5, 3.3, 4.3). Not a test: build target search_bench, run it alone on a quiet machine.
#include "core/profile_fixture.h"
#include "score/gram_loss.h"
#include "search/selector.h"
#include "search/set_loss.h"

#include <benchmark/benchmark.h>

namespace espalier
{

namespace
{

constexpr int kExperts = 60;
constexpr int kTopK = 4;
constexpr int kListLength = 9;
constexpr int kTokens = 4096;
constexpr int kKeep = 45;

const test::MadeLayer& layerOf(RoutingRule rule)
{
    static const test::MadeLayer a = test::madeLayer(RoutingRule::SoftmaxRenormalised, kExperts, kTopK, kTokens, kListLength, 1);
    static const test::MadeLayer b = test::madeLayer(RoutingRule::Softmax, kExperts, kTopK, kTokens, kListLength, 1);
    return rule == RoutingRule::Softmax ? b : a;
}
RoutingRule ruleOf(const benchmark::State& state) { return state.range(0) ? RoutingRule::Softmax : RoutingRule::SoftmaxRenormalised; }

std::vector<ExpertBits> randomSets(int count)
{
    Random random(3);
    std::vector<ExpertBits> sets;
    for (int i = 0; i < count; ++i) {
        ExpertBits kept = ExpertBits::all(kExperts);
        while (kept.count() > kKeep)
            kept.erase(static_cast<int>(random.below(kExperts)));
        sets.push_back(kept);
    }
    return sets;
}

ProfileData profileOf(RoutingRule rule)
{
    ProfileData profile;
    profile.shape = test::evenShape(1, kExperts, kTopK);
    profile.shape.layers[0].router.rule = rule;
    profile.layers = {layerOf(rule).profile};
    profile.collected = {"gram"};
    return profile;
}

void fullPass(benchmark::State& state)
{
    const test::MadeLayer& layer = layerOf(ruleOf(state));
    const GramEvaluator evaluator(layer.profile, layer.router);
    const std::vector<ExpertBits> sets = randomSets(64);
    std::vector<ExpertSet> kept;
    for (const ExpertBits& bits : sets)
        kept.push_back(bits.toSet());
    std::size_t i = 0;
    for (auto _ : state)
        benchmark::DoNotOptimize(evaluator.evaluate(kept[i++ % 64]));
}

void candidate(benchmark::State& state)
{
    const test::MadeLayer& layer = layerOf(ruleOf(state));
    const GramEvaluator evaluator(layer.profile, layer.router);
    SetLoss loss(evaluator);
    const std::vector<ExpertBits> sets = randomSets(64);
    std::size_t i = 0;
    for (auto _ : state)
        benchmark::DoNotOptimize(loss.evaluate(sets[i++ % 64]));
}

void swapCandidate(benchmark::State& state)
{
    const test::MadeLayer& layer = layerOf(ruleOf(state));
    const GramEvaluator evaluator(layer.profile, layer.router);
    SetLoss loss(evaluator);
    const ExpertBits kept = randomSets(1).front();
    const LossState between(loss, kept.without(kept.toSet().front()));
    std::vector<int> in;
    for (int e = 0; e < kExperts; ++e)
        if (!kept.contains(e)) in.push_back(e);
    std::size_t i = 0;
    for (auto _ : state)
        benchmark::DoNotOptimize(between.squaredWith(in[i++ % in.size()]));
}

void removalSweep(benchmark::State& state)
{
    const test::MadeLayer& layer = layerOf(ruleOf(state));
    const GramEvaluator evaluator(layer.profile, layer.router);
    SetLoss loss(evaluator);
    const LossState start(loss, randomSets(1).front());
    for (auto _ : state)
        benchmark::DoNotOptimize(start.squaredWithoutEach());
}

void leaveOneOut(benchmark::State& state)
{
    const test::MadeLayer& layer = layerOf(ruleOf(state));
    const GramEvaluator evaluator(layer.profile, layer.router);
    for (auto _ : state)
        benchmark::DoNotOptimize(evaluator.leaveOneOut());
}

void tables(benchmark::State& state)
{
    const test::MadeLayer& layer = layerOf(ruleOf(state));
    for (auto _ : state) {
        const GramEvaluator evaluator(layer.profile, layer.router);
        benchmark::DoNotOptimize(SetLoss(evaluator));
    }
}

void search(benchmark::State& state, const std::string& method, const Params& params)
{
    const ProfileData profile = profileOf(ruleOf(state));
    const CompressionPlan base = CompressionPlan::identity(profile.shape);
    SilentJob job;
    Selection selection;
    for (auto _ : state)
        selection = selectLayers(profile, method, params, {kKeep}, base, {.threads = 1}, job).value()[0];
    state.counters["loss"] = selection.best[0].loss;
    state.counters["evaluated"] = static_cast<double>(selection.evaluated);
    state.counters["uncovered"] = selection.uncoveredShare;
}

void curve(benchmark::State& state)
{
    const ProfileData profile = profileOf(ruleOf(state));
    const CompressionPlan base = CompressionPlan::identity(profile.shape);
    SilentJob job;
    for (auto _ : state)
        benchmark::DoNotOptimize(layerCurves(profile, base, {.swap = state.range(1) != 0, .threads = 1}, job).value());
}

}  // namespace

// Argument 0: rule A (renormalised), 1: rule B.
BENCHMARK(fullPass)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);
BENCHMARK(candidate)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);
BENCHMARK(swapCandidate)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);
BENCHMARK(removalSweep)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);
BENCHMARK(leaveOneOut)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);
BENCHMARK(tables)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(search, ranking, "ranking", Params{})->Arg(0)->Arg(1)->MeasureProcessCPUTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(search, greedy, "greedy", Params{})->Arg(0)->Arg(1)->MeasureProcessCPUTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(search, greedySwap, "greedy", Params{{"swap", true}})
    ->Arg(0)
    ->Arg(1)
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(search, genetic, "genetic", Params{})->Arg(0)->Arg(1)->MeasureProcessCPUTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(search, geneticSwap, "genetic", Params{{"swap", true}})
    ->Arg(0)
    ->Arg(1)
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(curve)->ArgsProduct({{0, 1}, {0, 1}})->MeasureProcessCPUTime()->Unit(benchmark::kMillisecond);

}  // namespace espalier

BENCHMARK_MAIN();
