// What a candidate costs. Synthetic layer of 60 experts, 4 per token, lists of 9, 4,096 tokens: the figures of a Qwen1.5-MoE layer
// Not a test: build target search_bench, run it alone on a quiet machine.
#include "core/profile_fixture.h"
#include "score/gram_loss.h"
#include "search/cuda/batched_set_loss.h"
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

// The routers of DeepSeek: 160 experts, 6 per token from 3 of 8 groups; 256, 8 from 4 of 8, by sigmoid; 64, 6 per token, by sigmoid.
const test::MadeLayer& groupedLayer(std::int64_t which)
{
    const auto made = [](RoutingRule rule, int experts, int topK, int groups, int topGroups) {
        test::MadeLayer layer = test::madeLayer(rule == RoutingRule::SigmoidBias ? RoutingRule::SoftmaxRenormalised : RoutingRule::Softmax,
                                                experts, topK, kTokens, 2 * topK + 1, 1);
        layer.router = {.rule = rule, .topK = topK, .groups = groups, .topGroups = topGroups, .normalise = true};
        return layer;
    };
    static const test::MadeLayer d = made(RoutingRule::GroupLimitedSoftmax, 160, 6, 8, 3);
    static const test::MadeLayer c = made(RoutingRule::SigmoidBias, 256, 8, 8, 4);
    static const test::MadeLayer plain = made(RoutingRule::SigmoidBias, 64, 6, 1, 1);
    return which == 0 ? d : which == 1 ? c : plain;
}

// A quarter of the experts gone, equally many of each group; then one more of each group.
void groupedCandidate(benchmark::State& state)
{
    const test::MadeLayer& layer = groupedLayer(state.range(0));
    const GramEvaluator evaluator(layer.profile, layer.router);
    SetLoss loss(evaluator);
    const int groups = layer.router.groups;
    const int size = evaluator.experts() / groups;
    Random random(3);
    std::vector<ExpertBits> sets;
    for (int i = 0; i < 16; ++i) {
        ExpertBits kept = ExpertBits::all(evaluator.experts());
        for (int g = 0; g < groups; ++g)
            for (int left = size; left > size - size / 4;) {
                const int e = g * size + static_cast<int>(random.below(static_cast<std::uint64_t>(size)));
                if (!kept.contains(e)) continue;
                kept.erase(e);
                --left;
            }
        sets.push_back(kept);
    }
    std::size_t i = 0;
    double sum = 0;
    for (auto _ : state)
        sum = loss.evaluate(sets[i++ % 16]).squared;
    state.counters["loss"] = sum;
}

void groupedRemovals(benchmark::State& state)
{
    const test::MadeLayer& layer = groupedLayer(state.range(0));
    const GramEvaluator evaluator(layer.profile, layer.router);
    SetLoss loss(evaluator);
    const LossState start(loss, ExpertBits::all(evaluator.experts()));
    for (auto _ : state)
        benchmark::DoNotOptimize(start.squaredWithoutEach());
}

void groupedTables(benchmark::State& state)
{
    const test::MadeLayer& layer = groupedLayer(state.range(0));
    for (auto _ : state) {
        const GramEvaluator evaluator(layer.profile, layer.router);
        benchmark::DoNotOptimize(SetLoss(evaluator));
    }
}

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

// Argument 1: sets of a batch. Sets per second is what compares with candidate().
void batch(benchmark::State& state, Result<std::unique_ptr<BatchedSetLoss>> (*make)(const SetLossTables&))
{
    const test::MadeLayer& layer = layerOf(ruleOf(state));
    const GramEvaluator evaluator(layer.profile, layer.router);
    const auto batched = make(setLossTables(evaluator).value());
    if (!batched.ok()) return state.SkipWithError(batched.error().describe().c_str());
    const std::vector<ExpertBits> sets = randomSets(static_cast<int>(state.range(1)));
    for (auto _ : state)
        benchmark::DoNotOptimize((*batched)->evaluate(sets).value());
    state.SetItemsProcessed(state.iterations() * state.range(1));
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
BENCHMARK_CAPTURE(batch, cpu, makeCpuSetLoss)->ArgsProduct({{0, 1}, {64}})->Unit(benchmark::kMillisecond);
#ifdef ESPALIER_HAS_CUDA
BENCHMARK_CAPTURE(batch, cuda, [](const SetLossTables& tables) { return makeCudaSetLoss(tables); })
    ->ArgsProduct({{0, 1}, {1, 64, 4096, 65536}})
    ->Unit(benchmark::kMillisecond);
#endif
BENCHMARK(swapCandidate)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);
BENCHMARK(removalSweep)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);
BENCHMARK(leaveOneOut)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);
BENCHMARK(tables)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);
// 0: rule D in groups, 1: rule C in groups, 2: rule C without.
BENCHMARK(groupedCandidate)->Arg(0)->Arg(1)->Arg(2)->Unit(benchmark::kMicrosecond);
BENCHMARK(groupedRemovals)->Arg(2)->Unit(benchmark::kMillisecond);
BENCHMARK(groupedTables)->Arg(0)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond);
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
