// The search for plans on synthetic losses whose optimum is known, and its parts: races, expectations, forms of layers.
#include "search/plan_search.h"

#include "allocate/exact_solver.h"
#include "base/random.h"
#include "core/shapes.h"
#include "plan/cost_model.h"
#include "search/layer_forms.h"
#include "search/rank_budget.h"

#include <gmock/gmock.h>

#include <cmath>
#include <functional>
#include <set>

namespace espalier
{

namespace
{

struct Job final : JobContext {
    std::vector<Json> partials;
    std::vector<std::int64_t> told;
    int steps = 0;  // plans that left a race
    int stopAfter = -1;
    bool stopRequested() const noexcept override { return stopAfter >= 0 && steps >= stopAfter; }
    void progress(std::int64_t done, std::int64_t total, std::string_view) override
    {
        EXPECT_EQ(total, 1000);
        told.push_back(done);
    }
    void partial(const Json& value) override
    {
        partials.push_back(value);
        steps += value.contains("nll") ? 1 : 0;
    }
};

constexpr int kWindows = 24;

// Losses that depend on the counts alone: sum of the layers' curves, plus whatever `extra` adds.
struct World {
    int layers = 0;
    int experts = 0;
    std::vector<std::vector<double>> curve;  // [layer][removed]
    std::function<double(const std::vector<int>&)> extra = [](const std::vector<int>&) { return 0.0; };
    double noise = 0;  // of one window, differs from plan to plan
    int total = 0;     // removed by every plan
    mutable int measurements = 0;

    double loss(const std::vector<int>& removed) const
    {
        double sum = extra(removed);
        for (int l = 0; l < layers; ++l)
            sum += curve[static_cast<std::size_t>(l)][static_cast<std::size_t>(removed[static_cast<std::size_t>(l)])];
        return sum;
    }
    std::vector<int> removed(const CompressionPlan& plan) const
    {
        std::vector<int> counts;
        for (int l = 0; l < layers; ++l)
            counts.push_back(experts - static_cast<int>(plan.layer(l).kept().size()));
        return counts;
    }
    ModelShape shape() const { return test::evenShape(layers, experts, 2); }
    ExpertSet bestSet(int layer, int count) const
    {
        // Not nested: another end of the layer for every other count.
        ExpertSet set;
        for (int i = 0; i < count; ++i)
            set.push_back((layer + count) % 2 ? i : experts - count + i);
        return set;
    }
    CompressionPlan plan(const std::vector<int>& removed) const
    {
        CompressionPlan plan = CompressionPlan::identity(shape());
        for (int l = 0; l < layers; ++l)
            plan = plan.withKept(shape(), l, bestSet(l, experts - removed[static_cast<std::size_t>(l)])).value();
        return plan;
    }
    std::vector<WindowLoss> measure(const CompressionPlan& plan, std::span<const int> windows) const
    {
        ++measurements;
        const double value = loss(removed(plan));
        std::vector<WindowLoss> losses;
        for (const int w : windows) {
            Random random = Random::forPurpose(1, plan.hash(), static_cast<std::uint64_t>(w));
            losses.push_back({w, 50 * (2 + 0.1 * w + value * (1 + 0.02 * w) + noise * (random.uniform() - 0.5)), 50});
        }
        return losses;
    }
    // What an output error would say of a layer: not in the unit of the loss, and wrong about which layer matters.
    PlanSearchProblem problem(const std::vector<std::vector<int>>& candidates) const
    {
        PlanSearchProblem problem;
        problem.shape = shape();
        problem.whole = problem.start = CompressionPlan::identity(shape());
        problem.exactly = true;
        problem.budget = layers * experts - total;
        for (std::size_t i = 0; i < candidates.size(); ++i)
            problem.candidates.push_back({"candidate " + std::to_string(i), plan(candidates[i]), i == 0});
        for (int l = 0; l < layers; ++l) {
            problem.layers.push_back(l);
            std::vector<LayerOption> options;
            for (int count = 2; count <= experts; ++count) {
                const double gone = static_cast<double>(experts - count) / experts;
                options.push_back({.count = count, .level = 0, .cost = count, .prune = gone * gone, .rank = 0});
            }
            problem.options.push_back(options);
        }
        problem.cost = [](const CompressionPlan& p, int layer) { return static_cast<std::int64_t>(p.layer(layer).kept().size()); };
        const auto changed = [this](CompressionPlan p, const std::vector<LayerChange>& changes) {
            for (const auto& [layer, option] : changes)
                p = p.withKept(shape(), static_cast<int>(layer), bestSet(static_cast<int>(layer), option.count)).value();
            return p;
        };
        problem.apply = [changed](const CompressionPlan& from, const std::vector<LayerChange>& changes) {
            return Result<std::optional<CompressionPlan>>(std::optional(changed(from, changes)));
        };
        problem.alone = [this, changed](const LayerChange& change) {
            return Result<CompressionPlan>(changed(CompressionPlan::identity(shape()), {change}));
        };
        problem.measure = [this](const CompressionPlan& p, std::span<const int> windows) -> Result<std::vector<WindowLoss>> {
            return measure(p, windows);
        };
        for (int g = 0; g < kWindows / 2; ++g)
            problem.groups.push_back({2 * g, 2 * g + 1});
        return problem;
    }
};

World convexWorld(int layers, int experts, int total, std::uint64_t seed)
{
    World world{.layers = layers, .experts = experts, .curve = {}, .total = total};
    Random random(seed);
    for (int l = 0; l < layers; ++l) {
        std::vector<double> curve = {0};
        double slope = 0.01 * random.uniform();
        for (int r = 1; r <= experts - 2; ++r) {
            curve.push_back(curve.back() + slope);
            slope += 0.02 * random.uniform();
        }
        world.curve.push_back(curve);
    }
    return world;
}

std::vector<int> dpOptimum(const World& world)
{
    std::vector<SolverLayer> layers;
    for (const auto& curve : world.curve) {
        SolverLayer layer;
        for (std::size_t r = 0; r < curve.size(); ++r)
            layer.push_back({.cost = world.experts - static_cast<int>(r), .loss = curve[r], .payload = static_cast<int>(r)});
        layers.push_back(layer);
    }
    const auto answer = solveExact(layers, world.layers * world.experts - world.total, {.meaning = SolverBudget::Exactly});
    EXPECT_TRUE(answer.ok());
    return answer->payload;
}

PlanSearchResult searched(const PlanSearchProblem& problem, const PlanSearchOptions& options = {.passes = 0})
{
    Job job;
    auto result = searchPlans(problem, options, job);
    if (!result.ok()) throw std::runtime_error(result.error().describe());
    EXPECT_EQ(job.steps, static_cast<int>(result->trace.size()));
    EXPECT_TRUE(std::is_sorted(job.told.begin(), job.told.end())) << "progress goes back";
    if (result->end != PlanSearchEnd::Cancelled) {
        EXPECT_EQ(job.told.back(), 1000);
    }
    return std::move(result).value();
}

double lossOf(const World& world, const PlanSearchResult& result) { return world.loss(world.removed(result.plan)); }

}  // namespace

TEST(PlanSearch, ReachesTheOptimumOfSeparableLossesFromAnyStart)
{
    for (const std::uint64_t seed : {1, 2, 3}) {
        const World world = convexWorld(6, 8, 12, seed);
        const double optimum = world.loss(dpOptimum(world));
        for (const std::vector<int>& start : std::vector<std::vector<int>>{{2, 2, 2, 2, 2, 2}, {0, 0, 0, 0, 6, 6}, {6, 6, 0, 0, 0, 0}}) {
            const PlanSearchResult result = searched(world.problem({start}), {.passes = 0, .quietRounds = 4});
            EXPECT_NEAR(lossOf(world, result), optimum, 1e-9) << seed;
            EXPECT_EQ(result.end, PlanSearchEnd::Converged);
            EXPECT_EQ(result.plan.keptExperts(), 6 * 8 - 12);
            EXPECT_LE(result.againstFirst->nll, 0);
            EXPECT_LT(result.passes, 60);
        }
    }
}

TEST(PlanSearch, SensitivitiesAreMeasuredOnTheWholeModel)
{
    // From a start in which a layer has lost all it can, its own sensitivity could not be seen.
    const World world = convexWorld(4, 8, 8, 11);
    std::vector<std::string> alone;
    PlanSearchProblem problem = world.problem({{6, 2, 0, 0}});
    const auto inner = problem.alone;
    problem.alone = [&](const LayerChange& change) {
        auto plan = inner(change);
        int whole = 0;
        for (int l = 0; l < 4; ++l)
            whole += static_cast<int>(plan->layer(l).kept().size()) == 8 ? 1 : 0;
        EXPECT_EQ(whole, 3) << "everything else is whole";
        return plan;
    };
    const PlanSearchResult result = searched(problem);
    for (const double rise : result.layerRise)
        EXPECT_GE(rise, 0);
    // The same from another start, to the last digit.
    EXPECT_EQ(result.layerRise, searched(world.problem({{0, 0, 2, 6}})).layerRise);
}

TEST(PlanSearch, NeverWorseThanAnyCandidate)
{
    for (std::uint64_t seed = 1; seed <= 8; ++seed) {
        World world = convexWorld(5, 8, 10, seed);
        world.noise = 0.02;
        // Nothing that the layers alone say helps here.
        world.extra = [seed](const std::vector<int>& removed) {
            double sum = 0;
            for (std::size_t l = 0; l < removed.size(); ++l)
                sum += 0.03 * ((removed[l] * 7 + static_cast<int>(seed) * 5 + static_cast<int>(l) * 3) % 5);
            return sum;
        };
        PlanSearchProblem problem = world.problem({{2, 2, 2, 2, 2}, {4, 0, 2, 2, 2}, {0, 4, 4, 2, 0}, {1, 1, 2, 3, 3}});
        for (SearchCandidate& candidate : problem.candidates)
            candidate.guarded = true;
        const PlanSearchResult result = searched(problem);
        std::vector<int> all(kWindows);
        for (int w = 0; w < kWindows; ++w)
            all[static_cast<std::size_t>(w)] = w;
        for (const SearchCandidate& candidate : problem.candidates) {
            const PairedDifference difference = pairedDifference(result.losses, world.measure(candidate.plan, all));
            EXPECT_EQ(difference.windows, kWindows);
            EXPECT_LE(difference.nll, 1e-12) << candidate.name << ", seed " << seed;
        }
    }
}

TEST(PlanSearch, InteractingLossesBeatTheSeparableOptimum)
{
    World world = convexWorld(5, 8, 10, 7);
    const std::vector<int> separable = dpOptimum(world);
    // Layers 1 and 2 must not both give up experts; the layers alone cannot know.
    world.extra = [](const std::vector<int>& removed) { return 0.05 * removed[1] * removed[2]; };
    const PlanSearchResult result = searched(world.problem({separable, {2, 2, 2, 2, 2}}));
    EXPECT_LT(lossOf(world, result), world.loss(separable));
    EXPECT_LT(result.againstFirst->high, 1);
}

TEST(PlanSearch, SamePathEveryTimeAndTheBudgetHolds)
{
    World world = convexWorld(6, 8, 12, 5);
    world.noise = 0.01;
    PlanSearchProblem problem = world.problem({{2, 2, 2, 2, 2, 2}, {2, 2, 2, 2, 2, 2}, {4, 4, 4, 0, 0, 0}});
    int planned = 0;
    const auto inner = problem.measure;
    problem.measure = [&](const CompressionPlan& plan, std::span<const int> windows) {
        // Of the budget, or whole but for one layer.
        planned += plan.keptExperts() == 6 * 8 - 12 ? 1 : 0;
        int whole = 0;
        for (int l = 0; l < 6; ++l)
            whole += static_cast<int>(plan.layer(l).kept().size()) == 8 ? 1 : 0;
        EXPECT_TRUE(plan.keptExperts() == 6 * 8 - 12 || whole >= 5);
        return inner(plan, windows);
    };
    const PlanSearchResult a = searched(problem);
    const PlanSearchResult b = searched(problem);
    EXPECT_GT(planned, 10);
    ASSERT_EQ(a.trace.size(), b.trace.size());
    EXPECT_EQ(a.plan.hash(), b.plan.hash());
    EXPECT_EQ(a.passes, b.passes);
    std::set<std::string> hashes;
    double passes = 0;
    double best = HUGE_VAL;
    for (std::size_t i = 0; i < a.trace.size(); ++i) {
        EXPECT_EQ(toJson(a.trace[i]), toJson(b.trace[i]));
        EXPECT_TRUE(hashes.insert(a.trace[i].planHash).second) << "raced twice";
        EXPECT_GE(a.trace[i].passes, passes);
        passes = a.trace[i].passes;
        if (!a.trace[i].accepted) continue;
        EXPECT_LT(a.trace[i].nll, best);
        best = a.trace[i].nll;
    }
    EXPECT_NEAR(perplexity(a.losses).nll, best, 1e-12);
    // Most are told apart by a few windows.
    const auto early = std::count_if(a.trace.begin(), a.trace.end(), [](const PlanSearchStep& step) { return step.windows < kWindows; });
    EXPECT_GT(2 * early, static_cast<long>(a.trace.size()));
}

TEST(PlanSearch, StopsAndLimitsReturnTheBestSoFar)
{
    const World world = convexWorld(6, 8, 12, 4);
    const PlanSearchProblem problem = world.problem({{0, 0, 0, 0, 6, 6}, {2, 2, 2, 2, 2, 2}});
    const PlanSearchResult whole = searched(problem);
    ASSERT_GT(whole.moves, 0);
    ASSERT_GT(whole.trace.size(), 8u);
    for (const int after : {1, 5, 7}) {
        Job job;
        job.stopAfter = after;
        const auto stopped = searchPlans(problem, {.passes = 0}, job);
        ASSERT_TRUE(stopped.ok());
        EXPECT_EQ(stopped->end, PlanSearchEnd::Cancelled);
        EXPECT_LE(lossOf(world, *stopped), world.loss({0, 0, 0, 0, 6, 6}));
        EXPECT_EQ(stopped->plan.keptExperts(), 36);
        for (int i = 0; i < after; ++i)
            EXPECT_EQ(toJson(stopped->trace[static_cast<std::size_t>(i)]), toJson(whole.trace[static_cast<std::size_t>(i)]));
    }
    Job early;
    early.stopAfter = 0;
    EXPECT_EQ(searchPlans(problem, {}, early).error().kind, ErrorKind::Cancelled);

    EXPECT_EQ(searched(problem, {.passes = 0, .maxMoves = 1}).moves, 1);
    EXPECT_EQ(searched(problem, {.passes = 0, .maxMoves = 1}).end, PlanSearchEnd::MoveLimit);
    const PlanSearchResult few = searched(problem, {.passes = 6});
    EXPECT_EQ(few.end, PlanSearchEnd::PassLimit);
    EXPECT_LT(few.passes, 9) << "the guarded candidate at most on top";
    // However little time there is, there is an answer, and it is one of the candidates or better.
    for (const double seconds : {0.5, 3.5, 20.5, 60.5}) {
        double now = 0;
        const PlanSearchResult timed = searched(problem, {.seconds = seconds, .passes = 0, .clock = [&] { return now += 1; }});
        EXPECT_EQ(timed.end, PlanSearchEnd::TimeLimit);
        EXPECT_LE(lossOf(world, timed), world.loss({0, 0, 0, 0, 6, 6})) << seconds;
    }
    // A measurement that was broken off half way counts for nothing.
    PlanSearchProblem breaks = problem;
    int calls = 0;
    breaks.measure = [&](const CompressionPlan& plan, std::span<const int> windows) -> Result<std::vector<WindowLoss>> {
        if (++calls == 120) return cancelledError();
        return world.measure(plan, windows);
    };
    EXPECT_EQ(searched(breaks).end, PlanSearchEnd::Cancelled);
}

TEST(PlanSearch, GoesOnFromWhatWasMeasured)
{
    const World world = convexWorld(6, 8, 12, 4);
    PlanSearchProblem problem = world.problem({{0, 0, 0, 0, 6, 6}});
    std::map<std::pair<std::string, int>, WindowLoss> kept;
    int fresh = 0;
    problem.measure = [&](const CompressionPlan& plan, std::span<const int> windows) -> Result<std::vector<WindowLoss>> {
        std::vector<WindowLoss> losses;
        for (const int w : windows) {
            const auto key = std::pair(plan.hash(), w);
            if (!kept.contains(key)) {
                ++fresh;
                kept[key] = world.measure(plan, std::vector{w}).front();
            }
            losses.push_back(kept[key]);
        }
        return losses;
    };
    Job job;
    job.stopAfter = 6;
    ASSERT_TRUE(searchPlans(problem, {}, job).ok());
    const int before = std::exchange(fresh, 0);
    const PlanSearchResult resumed = searched(problem, {});
    const int after = std::exchange(fresh, 0);
    kept.clear();
    const PlanSearchResult whole = searched(problem, {});
    EXPECT_EQ(before + after, fresh) << "nothing is measured twice";
    EXPECT_EQ(resumed.plan.hash(), whole.plan.hash());
    EXPECT_EQ(resumed.passes, whole.passes);
}

TEST(PlanSearch, NoiseIsNotTakenForGain)
{
    World world{.layers = 4, .experts = 8, .curve = std::vector(4, std::vector<double>(7, 0.0)), .noise = 0.2, .total = 8};
    const PlanSearchResult careful = searched(world.problem({{2, 2, 2, 2}}), {.passes = 0, .allWindows = false});
    EXPECT_EQ(careful.moves, 0);
}

TEST(PlanSearch, LockedLayersHaveNoOptionsAndStay)
{
    World world = convexWorld(4, 8, 8, 6);
    world.curve[0] = std::vector<double>(7, 0.0);  // everything would be taken from here
    PlanSearchProblem problem = world.problem({{2, 2, 2, 2}});
    EXPECT_EQ(world.removed(searched(problem).plan)[0], 6);
    problem.layers.erase(problem.layers.begin());
    problem.options.erase(problem.options.begin());
    problem.budget -= 6;
    problem.whole = problem.whole.withKept(problem.shape, 0, world.bestSet(0, 6)).value();
    problem.start = problem.whole;
    problem.alone = [&](const LayerChange& change) {
        const int layer = problem.layers[change.first];
        return problem.whole.withKept(problem.shape, layer, world.bestSet(layer, change.second.count));
    };
    problem.apply = [&](const CompressionPlan& from, const std::vector<LayerChange>& changes) -> Result<std::optional<CompressionPlan>> {
        CompressionPlan plan = from;
        for (const auto& [place, option] : changes)
            plan = plan.withKept(problem.shape, problem.layers[place], world.bestSet(problem.layers[place], option.count)).value();
        return std::optional(plan);
    };
    const PlanSearchResult result = searched(problem);
    EXPECT_EQ(world.removed(result.plan)[0], 2);
    EXPECT_EQ(result.plan.keptExperts(), 24);
    EXPECT_TRUE(std::isnan(result.layerRise[0]));
}

// Experts and ranks under one budget of bytes, 7/10 of the dense ones: three layers of six experts.
struct RanksWorld {
    ModelShape shape = test::evenShape(3, 6, 2);
    std::shared_ptr<RankCurves> curves = std::make_shared<RankCurves>();
    std::vector<LayerForms> forms;
    std::int64_t dense = planCost(shape, CompressionPlan::identity(shape)).bytes;
    std::int64_t bytes = dense * 7 / 10;

    RanksWorld()
    {
        for (int l = 0; l < 3; ++l)
            addLayer(l);
    }

    void addLayer(int l)
    {
        LayerCurve curve{.layer = l, .lowest = 2, .setLoss = {}, .loss = {}, .uncovered = {}, .sets = {}, .outputNorm = 1};
        for (int count = 2; count <= 6; ++count) {
            ExpertSet set;
            for (int e = 0; e < count; ++e)
                set.push_back(e);
            curve.sets.push_back(set);
            curve.loss.push_back(0.3 * (6 - count));
        }
        curve.setLoss = curve.loss;
        curve.uncovered.assign(5, 0);
        std::vector<ExpertCurves> experts(6);
        for (ExpertCurves& expert : experts)
            for (MatrixCurve& matrix : expert) {
                for (int r = 0; r <= 1408; ++r)
                    matrix.error.push_back(std::exp(-r / 100.0) - std::exp(-14.08));
                matrix.weight = 0.001;
            }
        curves->layers.push_back(experts);
        EXPECT_EQ(LayerForms(shape, l, curve, nullptr).options().size(), 5u) << "without curves: dense";
        forms.emplace_back(shape, l, curve, curves.get());
    }

    CompressionPlan changed(CompressionPlan plan, const std::vector<LayerChange>& changes) const
    {
        for (const auto& [place, option] : changes) {
            const int layer = static_cast<int>(place);
            plan = plan.withRanks(shape, layer, {}).value().withKept(shape, layer, forms[place].setOf(option.count)).value();
            if (option.level > 0)
                plan = plan.withFactors({.method = "svd", .profileSha256 = {}})
                           .withRanks(shape, layer, forms[place].ranks(forms[place].setOf(option.count), option.level))
                           .value();
        }
        return plan;
    }

    // Layer 0 bears no rank, layer 1 no removal, layer 2 both.
    static std::vector<WindowLoss> measure(const CompressionPlan& plan, std::span<const int> windows)
    {
        double loss = 0;
        for (int l = 0; l < 3; ++l) {
            const double gone = 1 - static_cast<double>(plan.layer(l).kept().size()) / 6;
            double low = 0;
            for (const RankTriple& triple : plan.layer(l).ranks())
                for (const int rank : triple)
                    low += rank > 0 ? std::exp(-rank / 100.0) : 0;
            loss += (l == 0 ? 0.02 : l == 1 ? 2.0 : 0.1) * gone + (l == 0 ? 1.0 : l == 1 ? 0.01 : 0.05) * low;
        }
        std::vector<WindowLoss> losses;
        for (const int w : windows)
            losses.push_back({w, 50 * (2 + loss * (1 + 0.01 * w)), 50});
        return losses;
    }

    PlanSearchProblem problem() const
    {
        PlanSearchProblem problem;
        problem.shape = shape;
        problem.whole = problem.start = CompressionPlan::identity(shape);
        problem.budget = bytes - dense;
        for (int l = 0; l < 3; ++l) {
            problem.layers.push_back(l);
            problem.options.push_back(forms[static_cast<std::size_t>(l)].options());
            problem.budget += expertBytesOf(shape, problem.whole, l);
        }
        problem.cost = [this](const CompressionPlan& plan, int layer) { return expertBytesOf(shape, plan, layer); };
        problem.apply = [this](const CompressionPlan& from,
                               const std::vector<LayerChange>& changes) -> Result<std::optional<CompressionPlan>> {
            const CompressionPlan plan = changed(from, changes);
            if (planCost(shape, plan).bytes > bytes) return std::optional<CompressionPlan>();
            return std::optional(plan);
        };
        problem.alone = [this](const LayerChange& change) {
            return Result<CompressionPlan>(changed(CompressionPlan::identity(shape), {change}));
        };
        problem.measure = [](const CompressionPlan& plan, std::span<const int> windows) -> Result<std::vector<WindowLoss>> {
            return measure(plan, windows);
        };
        for (int g = 0; g < 6; ++g)
            problem.groups.push_back({2 * g, 2 * g + 1});
        return problem;
    }
};

TEST(PlanSearch, OptionsOfFormsCostWhatTheirPlansDo)
{
    const RanksWorld world;
    for (int l = 0; l < 3; ++l) {
        const LayerForms& forms = world.forms[static_cast<std::size_t>(l)];
        ASSERT_GT(forms.options().size(), 40u);
        for (const LayerOption& option : forms.options()) {
            const ExpertSet& set = forms.setOf(option.count);
            EXPECT_EQ(option.cost, forms.bytes(set, option.level));
            EXPECT_EQ(option.level == 0, forms.ranks(set, option.level).empty());
            EXPECT_EQ(option.rank > 0, option.level > 0);
            // What is said to cost so much does.
            CompressionPlan plan = CompressionPlan::identity(world.shape).withKept(world.shape, l, set).value();
            if (option.level > 0)
                plan = plan.withFactors({.method = "svd", .profileSha256 = {}})
                           .withRanks(world.shape, l, forms.ranks(set, option.level))
                           .value();
            EXPECT_EQ(expertBytesOf(world.shape, plan, l), option.cost);
        }
        const ExpertSet& three = forms.setOf(3);
        EXPECT_EQ(forms.levelWithin(three, forms.bytes(three, 0)), 0);
        EXPECT_EQ(forms.levelWithin(three, forms.bytes(three, 2) + 1), 2);
        EXPECT_FALSE(forms.levelWithin(three, 0).has_value());
    }
}

TEST(PlanSearch, RanksBelongToTheAnswer)
{
    const RanksWorld world;
    const ModelShape& shape = world.shape;
    PlanSearchProblem problem = world.problem();
    // Counts alone, as the candidate.
    problem.candidates = {{"uniform", CompressionPlan::identity(shape), true}};
    for (int l = 0; l < 3; ++l)
        problem.candidates[0].plan =
            problem.candidates[0].plan.withKept(shape, l, world.forms[static_cast<std::size_t>(l)].setOf(3)).value();
    ASSERT_LE(planCost(shape, problem.candidates[0].plan).bytes, world.bytes);
    const PlanSearchResult result = searched(problem);
    EXPECT_LE(planCost(shape, result.plan).bytes, world.bytes);
    EXPECT_GT(planCost(shape, result.plan).bytes, 0.97 * static_cast<double>(world.bytes));
    EXPECT_LT(result.plan.layer(0).kept().size(), 6u);
    EXPECT_TRUE(result.plan.layer(0).ranks().empty());
    EXPECT_EQ(result.plan.layer(1).kept().size(), 6u);
    EXPECT_FALSE(result.plan.layer(1).ranks().empty());
    EXPECT_LT(result.againstFirst->high, 1);
    problem.uniformCount = true;
    const PlanSearchResult even = searched(problem);
    EXPECT_EQ(even.plan.layer(0).kept().size(), even.plan.layer(1).kept().size());
    EXPECT_EQ(even.plan.layer(2).kept().size(), even.plan.layer(1).kept().size());
    EXPECT_GE(perplexity(even.losses).nll, perplexity(result.losses).nll - 1e-12);
}

TEST(PlanSearch, LockedTextSaysWhatIsLeftOfTheGain)
{
    const World world = convexWorld(5, 8, 10, 9);
    PlanSearchProblem problem = world.problem({{2, 2, 2, 2, 2}});
    problem.options.clear();  // candidates alone
    problem.layers.clear();
    problem.budget = 0;
    problem.candidates.push_back({"other", world.plan(dpOptimum(world)), false});
    EXPECT_EQ(searched(problem).start, "other");
    problem = world.problem({{2, 2, 2, 2, 2}});
    problem.measureLocked = [&](const CompressionPlan& plan) -> Result<std::vector<WindowLoss>> {
        std::vector<int> all(kWindows);
        for (int w = 0; w < kWindows; ++w)
            all[static_cast<std::size_t>(w)] = w;
        std::vector<WindowLoss> losses = world.measure(plan, all);
        for (WindowLoss& window : losses)
            window.nll = 0.5 * window.nll;
        return losses;
    };
    const PlanSearchResult result = searched(problem);
    ASSERT_TRUE(result.lockedChange.has_value());
    EXPECT_NEAR(result.lockedChange->nll, 0.5 * result.change.nll, 1e-12);
}

TEST(PlanSearch, ErrorsAndRegistryEntry)
{
    const World world = convexWorld(3, 6, 6, 1);
    PlanSearchProblem problem = world.problem({{2, 2, 2}});
    Job job;
    problem.measure = [](const CompressionPlan&, std::span<const int>) -> Result<std::vector<WindowLoss>> {
        return internalError("broken");
    };
    EXPECT_EQ(searchPlans(problem, {}, job).error().message, "broken");
    problem = world.problem({{2, 2, 3}});
    EXPECT_EQ(searchPlans(problem, {}, job).error().code, "search.budget");
    problem = world.problem({});
    problem.layers.clear();
    problem.options.clear();
    EXPECT_EQ(searchPlans(problem, {}, job).error().code, "search.no_candidates");

    const auto params = checkParams(verifiedInfo(), {{"unit", 6}, {"minutes", 2}});
    ASSERT_TRUE(params.ok());
    const PlanSearchOptions options = planSearchOptions(*params);
    EXPECT_THAT(options.units, testing::ElementsAre(6, 3, 1));
    EXPECT_EQ(options.seconds, 120);
    EXPECT_EQ(options.passes, 40);
}

TEST(PlanRace, FewWindowsTellMostPlansApartAndTheBestWins)
{
    World world = convexWorld(4, 8, 8, 3);
    world.noise = 0.02;
    std::vector<CompressionPlan> entrants;
    std::vector<double> truth;
    for (const std::vector<int>& removed : std::vector<std::vector<int>>{
             {2, 2, 2, 2}, {6, 2, 0, 0}, {0, 0, 2, 6}, {1, 2, 2, 3}, {3, 2, 2, 1}, {0, 6, 0, 2}, {2, 0, 6, 0}, {4, 4, 0, 0}}) {
        entrants.push_back(world.plan(removed));
        truth.push_back(world.loss(removed));
    }
    const auto best = std::min_element(truth.begin(), truth.end()) - truth.begin();
    MeasuredPlans measured(world.problem({}).groups, world.problem({}).measure);
    const auto result = race(measured, entrants, nullptr, {}, {});
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(result->winner, best);
    EXPECT_FALSE(result->stopped);
    EXPECT_EQ(measured.known(entrants[static_cast<std::size_t>(best)].hash()), measured.groups());
    EXPECT_LT(measured.passes(), 4) << "of 8";
    for (std::size_t i = 0; i < entrants.size(); ++i) {
        if (static_cast<long>(i) == best) continue;
        EXPECT_LE(measured.known(entrants[i].hash()), measured.groups());
        EXPECT_GE(measured.losses(entrants[i].hash()).size(), 4u) << "nobody drops out on fewer";
    }
    // Against an incumbent that is better than all of them nobody wins.
    const CompressionPlan incumbent = entrants[static_cast<std::size_t>(best)];
    entrants.erase(entrants.begin() + best);
    EXPECT_EQ(race(measured, entrants, &incumbent, {}, {})->winner, -1);
    // A stop before anything: nothing is known, nobody wins.
    MeasuredPlans nothing(world.problem({}).groups, world.problem({}).measure);
    const auto stopped = race(nothing, entrants, nullptr, {}, [] { return true; });
    EXPECT_TRUE(stopped->stopped);
    EXPECT_EQ(stopped->winner, -1);
    MeasuredPlans none({}, world.problem({}).measure);
    EXPECT_EQ(race(none, entrants, nullptr, {}, {}).error().code, "search.no_windows");
}

TEST(PlanRace, PassesCountWhatChangesRunAgain)
{
    const World world = convexWorld(4, 8, 8, 3);
    MeasuredPlans measured(world.problem({}).groups, world.problem({}).measure);
    const CompressionPlan first = world.plan({2, 2, 2, 2});
    ASSERT_TRUE(measured.measure(first, measured.groups()).ok());
    EXPECT_NEAR(measured.passes(), 1, 1e-12);
    ASSERT_TRUE(measured.measure(first, measured.groups()).ok());
    EXPECT_NEAR(measured.passes(), 1, 1e-12) << "known already";
    // Only the last of four layers differs.
    ASSERT_TRUE(measured.measure(first.withKept(world.shape(), 3, world.bestSet(3, 5)).value(), measured.groups()).ok());
    EXPECT_NEAR(measured.passes(), 1.25, 1e-12);
    ASSERT_TRUE(measured.measure(first.withKept(world.shape(), 0, world.bestSet(0, 5)).value(), measured.groups() / 2).ok());
    EXPECT_NEAR(measured.passes(), 1.75, 1e-12);
}

TEST(PlanSurrogate, LearnsFactorsFromWholePlans)
{
    // Two layers, one of which matters three times as much as it does alone.
    std::vector<std::vector<LayerOption>> options(2);
    for (std::vector<LayerOption>& layer : options)
        for (int count = 4; count >= 1; --count)
            layer.push_back({.count = count, .level = 0, .cost = count, .prune = 0.01 * (4 - count) * (4 - count), .rank = 0});
    const std::vector<std::vector<LayerProbe>> counts = {{{0.01, 0.1, 0.001}, {0.04, 0.4, 0.001}},
                                                         {{0.01, 0.1, 0.001}, {0.04, 0.2, 0.001}}};
    PlanSurrogate surrogate(options, counts, {});
    EXPECT_NEAR(surrogate.rise(0, options[0][3]), 0.9, 1e-9) << "proportional to the error";
    EXPECT_NEAR(surrogate.rise(1, options[1][3]), 0.3, 1e-9) << "to its root";
    EXPECT_NEAR(surrogate.rise({1, 2}), 0.1 + 0.2, 1e-9);
    std::vector<PlanSurrogate::Observation> seen;
    for (int a = 0; a < 4; ++a)
        for (int b = 0; b < 4; ++b)
            if (a + b > 0) {
                const double truth = 3 * 0.1 * a * a + 0.1 * b;
                seen.push_back({{a, b}, truth, 0.001});
            }
    surrogate.fit(seen);
    EXPECT_GT(surrogate.rise(0, options[0][2]) / surrogate.rise(1, options[1][2]), 3);
    Random random(1);
    double low = HUGE_VAL;
    double high = 0;
    for (int i = 0; i < 50; ++i) {
        const std::vector<double> factors = surrogate.draw(random);
        low = std::min(low, factors[1 * 2]);
        high = std::max(high, factors[1 * 2]);
        EXPECT_GT(factors[0], 0);
    }
    EXPECT_LT(low, high);
}

TEST(RankBudget, RanksAreHandedOn)
{
    const ModelShape shape = test::evenShape(3, 6, 2);
    CompressionPlan base = CompressionPlan::identity(shape);
    for (int l = 0; l < 3; ++l) {
        base = base.withKept(shape, l, {0, 1, 2, 3}).value();
        std::vector<RankTriple> ranks;
        for (int i = 0; i < 4; ++i)
            ranks.push_back({100 * (l + 1) + i, 50, l == 2 && i == 3 ? 0 : 60});
        base = base.withRanks(shape, l, ranks).value();
    }
    // Layer 0: 0 and 1 go, 4 comes. Layer 1: 5 comes. Layer 2 stays.
    const auto changed = withSetsHandingRanksOn(shape, base, {{2, 3, 4}, {0, 1, 2, 3, 5}, {}});
    ASSERT_TRUE(changed.ok());
    EXPECT_EQ(rankOf(changed->layer(0), 2), (RankTriple{102, 50, 60}));
    EXPECT_EQ(rankOf(changed->layer(0), 4), (RankTriple{101, 50, 60})) << "the larger one of those that left";
    EXPECT_EQ(rankOf(changed->layer(1), 5), (RankTriple{100, 50, 60}));
    EXPECT_EQ(changed->layer(2).ranks(), base.layer(2).ranks());
    EXPECT_EQ(planCost(shape, *changed).bytes, planCost(shape, base).bytes);
    // More experts than ranks: the middle one of the plan.
    const auto more = withSetsHandingRanksOn(shape, base, {{0, 1, 2, 3, 4}, {}, {}});
    EXPECT_EQ(rankOf(more->layer(0), 4), (RankTriple{202, 50, 60}));

    const std::int64_t bytes = planCost(shape, base).bytes;
    const auto even = heldToBytes(shape, base, bytes - 100000);
    ASSERT_TRUE(even.ok() && even->has_value());
    EXPECT_LE(planCost(shape, (*even)->plan).bytes, bytes - 100000);
    EXPECT_GT(planCost(shape, (*even)->plan).bytes, bytes - 100000 - 2 * (2048 + 1408));
    EXPECT_EQ((*even)->givenBack, 15);  // 6,912 bytes each
    EXPECT_EQ(rankOf((*even)->plan.layer(2), 3)[2], 0) << "dense stays dense";
    EXPECT_EQ(heldToBytes(shape, base, bytes)->value().plan.hash(), base.hash());
    // Expert 1 of layer 1 is worth nothing.
    const auto least = heldToBytes(shape, base, bytes - 100000, [](int layer, int expert, int matrix, int) {
        return layer == 1 && expert == 1 && matrix == 0 ? 0.0 : 1.0;
    });
    EXPECT_EQ(rankOf((*least)->plan.layer(1), 1), (RankTriple{201 - 15, 50, 60}));
    EXPECT_EQ((*least)->plan.layer(0).ranks(), base.layer(0).ranks());
    EXPECT_FALSE(heldToBytes(shape, base, bytes / 100)->has_value());
}

}  // namespace espalier
