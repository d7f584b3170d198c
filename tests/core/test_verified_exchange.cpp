// The exchange on synthetic losses whose optimum is known (methods.md 6.11).
#include "search/verified_exchange.h"

#include "allocate/exact_solver.h"
#include "base/random.h"
#include "core/shapes.h"
#include "plan/cost_model.h"

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
    int stopAfter = -1;
    bool stopRequested() const noexcept override { return stopAfter >= 0 && static_cast<int>(partials.size()) >= stopAfter; }
    void progress(std::int64_t, std::int64_t, std::string_view) override {}
    void partial(const Json& value) override { partials.push_back(value); }
};

// Losses that depend on the counts alone: sum of the layers' curves, plus whatever `extra` adds.
struct World {
    int layers = 0;
    int experts = 0;
    std::vector<std::vector<double>> curve;  // [layer][removed]
    std::function<double(const std::vector<int>&)> extra = [](const std::vector<int>&) { return 0.0; };
    double noise = 0;  // of one window, differs from plan to plan
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
            counts.push_back(experts - static_cast<int>(plan.layer(l).kept.size()));
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
    std::vector<WindowLoss> measure(const CompressionPlan& plan) const
    {
        ++measurements;
        const double value = loss(removed(plan));
        Random random = Random::forPurpose(1, plan.hash());
        std::vector<WindowLoss> windows;
        for (int w = 0; w < 10; ++w)
            windows.push_back({w, 50 * (2 + 0.1 * w + value * (1 + 0.02 * w) + noise * (random.uniform() - 0.5)), 50});
        return windows;
    }
    ExchangeProblem problem(const std::vector<std::vector<int>>& candidates) const
    {
        ExchangeProblem problem;
        problem.shape = shape();
        for (std::size_t i = 0; i < candidates.size(); ++i)
            problem.candidates.push_back({"candidate " + std::to_string(i), plan(candidates[i])});
        problem.measure = [this](const CompressionPlan& plan) -> Result<std::vector<WindowLoss>> {
            EXPECT_EQ(plan.keptExperts(), layers * experts - total);
            return measure(plan);
        };
        problem.bestSet = [this](int layer, int count) -> Result<ExpertSet> { return bestSet(layer, count); };
        return problem;
    }
    int total = 0;  // removed by every plan
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

ExchangeResult exchange(const ExchangeProblem& problem, const ExchangeOptions& options = {})
{
    Job job;
    auto result = exchangeVerified(problem, options, job);
    if (!result.ok()) throw std::runtime_error(result.error().describe());
    EXPECT_EQ(job.partials.size(), result->trace.size());
    return std::move(result).value();
}

}  // namespace

TEST(VerifiedExchange, ReachesTheOptimumOfSeparableLosses)
{
    for (const std::uint64_t seed : {1, 2, 3}) {
        const World world = convexWorld(6, 8, 12, seed);
        const std::vector<int> optimum = dpOptimum(world);
        ExchangeProblem problem = world.problem({{2, 2, 2, 2, 2, 2}, {0, 0, 0, 0, 6, 6}});
        problem.estimatedGain = [&](const CompressionPlan& plan, const ExchangeMove& move) {
            std::vector<int> removed = world.removed(plan);
            const double before = world.loss(removed);
            removed[static_cast<std::size_t>(move.from)] += move.amount;
            removed[static_cast<std::size_t>(move.to)] -= move.amount;
            return before - world.loss(removed);
        };
        const ExchangeResult guided = exchange(problem);
        EXPECT_NEAR(world.loss(world.removed(guided.plan)), world.loss(optimum), 1e-12);
        EXPECT_EQ(guided.end, ExchangeEnd::Converged);
        EXPECT_LE(guided.change.nll, 0);
        // Without a hint every pair is tried before giving up.
        problem.estimatedGain = {};
        const ExchangeResult blind = exchange(problem, {.pairsPerRound = 30});
        EXPECT_NEAR(world.loss(world.removed(blind.plan)), world.loss(optimum), 1e-12);
        EXPECT_GE(blind.measured, guided.measured);
    }
}

TEST(VerifiedExchange, KeepsTheExactAnswerWhereSingleExchangesWouldNotReachIt)
{
    // The example of the exact solver: layers (0,1,6), (0,4,5), (0,2,9), remove 3; greedy gives 7, the optimum 6.
    World world{.layers = 3, .experts = 4, .curve = {{0, 1, 6}, {0, 4, 5}, {0, 2, 9}}, .total = 3};
    EXPECT_EQ(dpOptimum(world), (std::vector<int>{1, 2, 0}));
    const ExchangeResult result = exchange(world.problem({{1, 1, 1}, {1, 2, 0}}));
    EXPECT_EQ(result.startCandidate, 1);
    EXPECT_EQ(world.removed(result.plan), (std::vector<int>{1, 2, 0}));
    EXPECT_EQ(result.moves, 0);
    EXPECT_EQ(result.change.nll, 0);
}

TEST(VerifiedExchange, InteractingLossesBeatTheSeparableOptimum)
{
    World world = convexWorld(5, 8, 10, 7);
    const std::vector<int> separable = dpOptimum(world);
    // Layers 1 and 2 must not both give up experts; the curves cannot know.
    world.extra = [](const std::vector<int>& removed) { return 0.05 * removed[1] * removed[2]; };
    const ExchangeResult result = exchange(world.problem({separable, {2, 2, 2, 2, 2}}), {.pairsPerRound = 20});
    EXPECT_LT(world.loss(world.removed(result.plan)), world.loss(separable));
    EXPECT_GT(result.moves, 0);
    EXPECT_LT(result.change.high, 1);
}

TEST(VerifiedExchange, TraceAndBudget)
{
    const World world = convexWorld(6, 8, 12, 5);
    const ExchangeProblem problem = world.problem({{2, 2, 2, 2, 2, 2}, {2, 2, 2, 2, 2, 2}, {4, 4, 4, 0, 0, 0}});
    const ExchangeResult a = exchange(problem);
    const ExchangeResult b = exchange(problem);
    ASSERT_EQ(a.trace.size(), b.trace.size());
    EXPECT_EQ(static_cast<int>(a.trace.size()), a.measured);
    EXPECT_EQ(a.plan.hash(), b.plan.hash());
    std::set<std::string> hashes;
    double best = HUGE_VAL;
    int accepted = 0;
    for (std::size_t i = 0; i < a.trace.size(); ++i) {
        EXPECT_EQ(toJson(a.trace[i]), toJson(b.trace[i]));  // same path
        EXPECT_TRUE(hashes.insert(a.trace[i].planHash).second) << "measured twice";
        if (a.trace[i].accepted) {
            EXPECT_LT(a.trace[i].nll, best);
            best = a.trace[i].nll;
            ++accepted;
        }
    }
    EXPECT_NEAR(perplexity(a.losses).nll, best, 1e-15);
    EXPECT_EQ(a.trace.front().name, "candidate 0");
    EXPECT_EQ(a.trace[1].name, "candidate 2");  // candidate 1 is the same plan
    EXPECT_EQ(a.plan.keptExperts(), 6 * 8 - 12);
    // Every move takes each layer to its best set of that count.
    for (int l = 0; l < 6; ++l)
        EXPECT_EQ(a.plan.layer(l).kept, world.bestSet(l, static_cast<int>(a.plan.layer(l).kept.size())));
}

TEST(VerifiedExchange, NoiseIsNotTakenForGain)
{
    World world{.layers = 4, .experts = 8, .curve = std::vector(4, std::vector<double>(7, 0.0)), .noise = 0.2, .total = 8};
    const ExchangeProblem problem = world.problem({{2, 2, 2, 2}});
    const ExchangeResult careful = exchange(problem, {.allWindows = false});
    EXPECT_EQ(careful.moves, 0);
    for (std::size_t i = 1; i < careful.trace.size(); ++i)
        EXPECT_LE(-careful.trace[i].change, 2 * careful.trace[i].changeError);
    EXPECT_GT(exchange(problem).moves, 0);  // all windows: any gain counts
}

TEST(VerifiedExchange, LargerStepsFirst)
{
    World world = convexWorld(2, 40, 30, 3);
    world.curve[0] = std::vector<double>(39, 0.0);  // costs nothing to take from
    const ExchangeProblem problem = world.problem({{0, 30}});
    const ExchangeResult single = exchange(problem);
    const ExchangeResult stepped = exchange(problem, {.units = {8, 4, 2, 1}});
    EXPECT_EQ(world.removed(single.plan), (std::vector<int>{30, 0}));
    EXPECT_EQ(world.removed(stepped.plan), (std::vector<int>{30, 0}));
    EXPECT_LT(stepped.measured, single.measured);
}

TEST(VerifiedExchange, CancelAndLimitsReturnTheBestSoFar)
{
    const World world = convexWorld(6, 8, 12, 4);
    const ExchangeProblem problem = world.problem({{0, 0, 0, 0, 6, 6}, {2, 2, 2, 2, 2, 2}});
    const ExchangeResult whole = exchange(problem, {.pairsPerRound = 30});
    ASSERT_GT(whole.measured, 8);
    for (const int after : {1, 3, 7}) {
        Job job;
        job.stopAfter = after;
        const auto stopped = exchangeVerified(problem, {.pairsPerRound = 30}, job);
        ASSERT_TRUE(stopped.ok());
        EXPECT_EQ(stopped->end, ExchangeEnd::Cancelled);
        EXPECT_EQ(stopped->measured, after);
        double best = HUGE_VAL;
        for (int i = 0; i < after; ++i) {
            EXPECT_EQ(toJson(stopped->trace[static_cast<std::size_t>(i)]), toJson(whole.trace[static_cast<std::size_t>(i)]));
            best = std::min(best, stopped->trace[static_cast<std::size_t>(i)].nll);
        }
        EXPECT_NEAR(perplexity(stopped->losses).nll, best, 1e-15);
    }
    Job early;
    early.stopAfter = 0;
    EXPECT_EQ(exchangeVerified(problem, {}, early).error().kind, ErrorKind::Cancelled);

    EXPECT_EQ(exchange(problem, {.maxMoves = 1}).moves, 1);
    EXPECT_EQ(exchange(problem, {.maxMoves = 1}).end, ExchangeEnd::MoveLimit);
    double now = 0;
    const ExchangeResult timed = exchange(problem, {.seconds = 4.5, .clock = [&] { return now += 1; }});
    EXPECT_EQ(timed.end, ExchangeEnd::TimeLimit);
    EXPECT_LT(timed.measured, whole.measured);

    // A measurement that was stopped half way counts for nothing.
    ExchangeProblem breaks = problem;
    int calls = 0;
    breaks.measure = [&](const CompressionPlan& plan) -> Result<std::vector<WindowLoss>> {
        if (++calls == 5) return cancelledError();
        return world.measure(plan);
    };
    const ExchangeResult broken = exchange(breaks, {.pairsPerRound = 30});
    EXPECT_EQ(broken.end, ExchangeEnd::Cancelled);
    EXPECT_EQ(broken.measured, 4);
}

TEST(VerifiedExchange, LocksFloorsAndProtectionHold)
{
    World world = convexWorld(4, 8, 8, 6);
    world.curve[0] = std::vector<double>(7, 0.0);  // everything would be taken from here
    ExchangeProblem problem = world.problem({{2, 2, 2, 2}});
    EXPECT_EQ(world.removed(exchange(problem, {.pairsPerRound = 12}).plan)[0], 6);
    problem.lowestCount = {5, 0, 0, 0};
    EXPECT_EQ(world.removed(exchange(problem, {.pairsPerRound = 12}).plan)[0], 3);
    problem.lowestCount.clear();
    problem.candidates[0].plan = problem.candidates[0].plan.withLocked(0, true);
    EXPECT_EQ(world.removed(exchange(problem, {.pairsPerRound = 12}).plan)[0], 2);
}

TEST(VerifiedExchange, RanksKeepTheirBytes)
{
    World world = convexWorld(3, 6, 6, 8);
    ExchangeProblem problem = world.problem({{2, 2, 2}});
    CompressionPlan plan = problem.candidates[0].plan;
    for (int l = 0; l < 3; ++l) {
        std::vector<RankTriple> ranks;
        for (int i = 0; i < 4; ++i)
            ranks.push_back(i == 3 ? RankTriple{0, 0, 0} : RankTriple{100 + 40 * l + i, 100, 90 - l});
        plan = plan.withRanks(problem.shape, l, ranks).value();
    }
    const auto bytes = [&](const CompressionPlan& p) {
        std::int64_t sum = 0;
        for (int l = 0; l < 3; ++l)
            for (std::size_t i = 0; i < p.layer(l).kept.size(); ++i)
                for (std::size_t m = 0; m < 3; ++m) {
                    const int rank = p.layer(l).ranks.empty() ? 0 : p.layer(l).ranks[i][m];
                    sum += rank > 0 ? std::int64_t{rank} * (2048 + 1408) : std::int64_t{2048} * 1408;
                }
        return sum;
    };
    for (const ExchangeMove& move : {ExchangeMove{ExchangeMove::Kind::Experts, 0, 2, 1}, ExchangeMove{ExchangeMove::Kind::Experts, 2, 1, 2},
                                     ExchangeMove{ExchangeMove::Kind::Rank, 1, 0, 50}, ExchangeMove{ExchangeMove::Kind::Rank, 2, 1, 301}}) {
        const auto moved = applyMove(problem, plan, move);
        ASSERT_TRUE(moved.ok() && moved->has_value());
        EXPECT_EQ(bytes(**moved), bytes(plan));
        EXPECT_NE((*moved)->hash(), plan.hash());
    }
    // More rank than the other layer can take below break-even.
    EXPECT_FALSE(applyMove(problem, plan, {ExchangeMove::Kind::Rank, 1, 0, 9 * 834})->has_value());

    // Rank is worth something in layer 2 only.
    problem.candidates[0].plan = plan;
    problem.measure = [&](const CompressionPlan& p) -> Result<std::vector<WindowLoss>> {
        double units = 0;
        for (const RankTriple& triple : p.layer(2).ranks)
            units += triple[0] + triple[1] + triple[2];
        return std::vector<WindowLoss>{{0, 100 - units / 100 - 0.001 * world.loss(world.removed(p)), 10}};
    };
    problem.cost = bytes;
    problem.budget = bytes(plan);
    const ExchangeResult result = exchange(problem, {.rankUnits = 90, .maxMoves = 6});
    EXPECT_EQ(bytes(result.plan), bytes(plan));
    EXPECT_EQ(result.moves, 6);
    EXPECT_LT(result.change.nll, -0.3);
    problem.budget -= 1;
    Job job;
    EXPECT_EQ(exchangeVerified(problem, {}, job).error().code, "search.budget");
}

// Experts of unequal rank come and go; the plan never outgrows the one it started from.
TEST(VerifiedExchange, BytesAreHeldByGivingBackRank)
{
    World world = convexWorld(4, 8, 8, 8);
    world.curve[2] = world.curve[3] = {0, 9, 18, 27, 36, 45, 54};  // experts are wanted where they are large
    ExchangeProblem problem = world.problem({{2, 2, 2, 2}});
    for (LayerShape* layer : {&problem.shape.layers[2], &problem.shape.layers[3]}) {
        layer->expertWidth *= 2;
        layer->expertParameters *= 2;
        layer->bytesPerExpert *= 2;
    }
    CompressionPlan plan = problem.candidates[0].plan;
    for (int l = 0; l < 4; ++l)
        plan = plan.withRanks(problem.shape, l, std::vector<RankTriple>(6, RankTriple{300, 200, 400})).value();
    problem.candidates[0].plan = plan;
    const auto bytes = [&](const CompressionPlan& p) { return planCost(problem.shape, p).bytes; };
    problem.cost = bytes;
    EXPECT_EQ(exchange(problem).plan.layer(3).kept.size() + exchange(problem).plan.layer(2).kept.size(), 12u) << "held by refusing";
    problem.bytes = bytes(plan);
    const ExchangeResult result = exchange(problem);
    EXPECT_GT(result.plan.layer(3).kept.size(), 6u);
    EXPECT_EQ(result.plan.keptExperts(), plan.keptExperts());
    EXPECT_LE(bytes(result.plan), bytes(plan));
    EXPECT_GT(bytes(result.plan), 0.999 * static_cast<double>(bytes(plan)));
    EXPECT_GT(result.rankGivenBack, 0);
    EXPECT_TRUE(std::any_of(result.trace.begin(), result.trace.end(), [](const ExchangeStep& step) { return step.rankGivenBack > 0; }));
    problem.bytes -= 1;
    Job job;
    EXPECT_EQ(exchangeVerified(problem, {}, job).error().code, "search.budget");
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
    EXPECT_EQ(changed->layer(2).ranks, base.layer(2).ranks);
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
    EXPECT_EQ((*least)->plan.layer(0).ranks, base.layer(0).ranks);
    EXPECT_FALSE(heldToBytes(shape, base, bytes / 100)->has_value());
}

TEST(VerifiedExchange, LockedTextSaysWhatIsLeftOfTheGain)
{
    const World world = convexWorld(5, 8, 10, 9);
    ExchangeProblem problem = world.problem({{2, 2, 2, 2, 2}});
    int locked = 0;
    problem.measureLocked = [&](const CompressionPlan& plan) -> Result<std::vector<WindowLoss>> {
        ++locked;
        std::vector<WindowLoss> losses = world.measure(plan);
        for (WindowLoss& window : losses)
            window.nll = 0.5 * window.nll;
        return losses;
    };
    const ExchangeResult result = exchange(problem, {.pairsPerRound = 20});
    ASSERT_GT(result.moves, 0);
    EXPECT_EQ(locked, 2);
    ASSERT_TRUE(result.lockedChange.has_value());
    EXPECT_NEAR(result.lockedChange->nll, 0.5 * result.change.nll, 1e-12);
}

TEST(VerifiedExchange, ErrorsAndRegistryEntry)
{
    const World world = convexWorld(3, 6, 6, 1);
    ExchangeProblem problem = world.problem({});
    Job job;
    EXPECT_EQ(exchangeVerified(problem, {}, job).error().code, "search.no_candidates");
    problem = world.problem({{2, 2, 2}});
    problem.measure = [](const CompressionPlan&) -> Result<std::vector<WindowLoss>> { return internalError("broken"); };
    EXPECT_EQ(exchangeVerified(problem, {}, job).error().message, "broken");

    const auto params = checkParams(verifiedExchangeInfo(), {{"unit", 6}, {"minutes", 2}});
    ASSERT_TRUE(params.ok());
    const ExchangeOptions options = exchangeOptions(*params);
    EXPECT_THAT(options.units, testing::ElementsAre(6, 3, 1));
    EXPECT_EQ(options.seconds, 120);
}

}  // namespace espalier
