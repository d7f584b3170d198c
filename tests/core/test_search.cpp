#include "search/cuda/batched_set_loss.h"
#include "search/layer_search.h"
#include "search/selector.h"
#include "search/set_loss.h"

#include "allocate/allocator.h"
#include "core/profile_fixture.h"
#include "core/shapes.h"

#include <gmock/gmock.h>

#include <atomic>
#include <cmath>
#include <set>

namespace espalier
{

namespace
{

using test::madeLayer;
using test::MadeLayer;
using test::madeProfile;

ExpertSet randomSet(Random& random, int n, int keep)
{
    std::vector<int> ids(static_cast<std::size_t>(n));
    std::iota(ids.begin(), ids.end(), 0);
    for (int i = 0; i < keep; ++i)
        std::swap(ids[static_cast<std::size_t>(i)], ids[static_cast<std::size_t>(i) + random.below(static_cast<std::uint64_t>(n - i))]);
    ids.resize(static_cast<std::size_t>(keep));
    std::sort(ids.begin(), ids.end());
    return ids;
}

struct Case {
    RoutingRule rule;
    int experts;
    int topK;
    int length;  // of the lists; 0 = dense
    double scaling = 1.0;
    int planTopK = 0;  // of the candidates; 0 = the model's
    int uses() const { return planTopK > 0 ? planTopK : topK; }
    std::optional<int> plan() const { return planTopK > 0 ? std::optional(planTopK) : std::nullopt; }
};
const std::vector<Case> kCases = {{RoutingRule::SoftmaxRenormalised, 8, 2, 0},
                                  {RoutingRule::SoftmaxRenormalised, 12, 4, 6},
                                  {RoutingRule::SoftmaxRenormalised, 6, 1, 0},
                                  {RoutingRule::Softmax, 10, 3, 0, 1.5},
                                  {RoutingRule::Softmax, 12, 4, 6},
                                  {RoutingRule::Softmax, 70, 4, 0, 2.0},
                                  {RoutingRule::SoftmaxRenormalised, 70, 6, 0},
                                  {RoutingRule::SoftmaxRenormalised, 10, 4, 0, 1.0, 2},
                                  {RoutingRule::SoftmaxRenormalised, 12, 4, 5, 1.0, 3},
                                  {RoutingRule::SoftmaxRenormalised, 70, 6, 0, 1.0, 1},
                                  {RoutingRule::Softmax, 10, 4, 0, 1.5, 2},
                                  {RoutingRule::Softmax, 12, 4, 5, 1.0, 3},
                                  {RoutingRule::Softmax, 70, 6, 0, 2.0, 1},
                                  {RoutingRule::SigmoidBias, 12, 4, 6, 2.5},
                                  {RoutingRule::SigmoidBias, 70, 6, 0, 2.5},
                                  {RoutingRule::SigmoidBias, 10, 4, 0, 2.5, 2}};

struct Quiet final : JobContext {
    int stopAfterPartials = -1;
    std::vector<Json> partials;
    bool stopRequested() const noexcept override
    {
        return stopAfterPartials >= 0 && static_cast<int>(partials.size()) >= stopAfterPartials;
    }
    void progress(std::int64_t, std::int64_t, std::string_view) override {}
    void partial(const Json& value) override { partials.push_back(value); }
};

std::vector<Selection> select(const ProfileData& profile, const std::string& method, const std::vector<int>& keep,
                              const Params& params = {}, const SelectOptions& options = {}, std::optional<CompressionPlan> base = {})
{
    Quiet job;
    auto result = selectLayers(profile, method, params, keep, base ? *base : CompressionPlan::identity(profile.shape), options, job);
    if (!result.ok()) throw std::runtime_error(result.error().describe());
    return std::move(result).value();
}

// Every set of `keep` of n, by a recursion of its own.
void forEachSet(int n, int keep, const std::function<void(const ExpertSet&)>& visit, ExpertSet prefix = {})
{
    if (static_cast<int>(prefix.size()) == keep) return visit(prefix);
    for (int e = prefix.empty() ? 0 : prefix.back() + 1; e < n; ++e) {
        prefix.push_back(e);
        forEachSet(n, keep, visit, prefix);
        prefix.pop_back();
    }
}

// Losses of many sets at once, off by up to `error` of each, upwards or downwards by the set.
class Inexact final : public BatchedSetLoss
{
public:
    Inexact(std::unique_ptr<BatchedSetLoss> exact, double error, std::atomic<std::int64_t>& asked)
        : m_exact(std::move(exact)), m_error(error), m_asked(asked)
    {
    }
    Result<std::vector<BatchedLoss>> evaluate(std::span<const ExpertBits> kept) override
    {
        auto losses = m_exact->evaluate(kept);
        for (std::size_t i = 0; losses.ok() && i < kept.size(); ++i)
            losses->at(i).squared *= 1 + m_error * (static_cast<double>(ExpertBits::Hash()(kept[i]) % 2001) / 1000 - 1);
        m_asked += static_cast<std::int64_t>(kept.size());
        return losses;
    }

private:
    std::unique_ptr<BatchedSetLoss> m_exact;
    double m_error;
    std::atomic<std::int64_t>& m_asked;
};

BatchFactory inexact(double error, std::atomic<std::int64_t>& asked)
{
    return [error, &asked](const GramEvaluator& evaluator) -> Result<std::unique_ptr<BatchedSetLoss>> {
        ESPALIER_TRY(const SetLossTables tables, setLossTables(evaluator));
        ESPALIER_TRY(std::unique_ptr<BatchedSetLoss> exact, makeCpuSetLoss(tables));
        return std::unique_ptr<BatchedSetLoss>(std::make_unique<Inexact>(std::move(exact), error, asked));
    };
}

KeptSet bruteForce(const ProfileData& profile, int layer, int keep, std::optional<int> topK = {})
{
    const auto l = static_cast<std::size_t>(layer);
    const GramEvaluator evaluator(profile.layers[l], profile.shape.layers[l].router, topK);
    KeptSet best;
    best.loss = HUGE_VAL;
    forEachSet(evaluator.experts(), keep, [&](const ExpertSet& set) {
        if (const double loss = evaluator.evaluate(set).loss(); loss < best.loss) best = {set, loss, 0};
    });
    return best;
}

}  // namespace

TEST(SetLoss, EqualsTheEvaluatorOnRandomSets)
{
    for (const Case& c : kCases) {
        const MadeLayer made = madeLayer(c.rule, c.experts, c.topK, 90, c.length, 5, c.scaling);
        const GramEvaluator evaluator(made.profile, made.router, c.plan());
        SetLoss loss(evaluator);
        Random random(17);
        for (int trial = 0; trial < 60; ++trial) {
            const int keep = c.uses() + static_cast<int>(random.below(static_cast<std::uint64_t>(c.experts - c.uses()) + 1));
            const ExpertSet kept = randomSet(random, c.experts, keep);
            const GramLoss expected = evaluator.evaluate(kept);
            const GramLoss actual = loss.evaluate(ExpertBits::of(kept));
            EXPECT_NEAR(actual.squared, expected.squared, 1e-12 * (1 + expected.squared));
            EXPECT_NEAR(actual.chargedSquared, expected.chargedSquared, 1e-12 * (1 + expected.squared));
            EXPECT_EQ(actual.uncovered, expected.uncovered);
            EXPECT_EQ(actual.tokens, expected.tokens);
            if (c.length == 0) {
                EXPECT_NEAR(actual.squared, made.direct(kept, c.planTopK), 1e-10 * (1 + expected.squared));
            }
        }
        EXPECT_EQ(loss.evaluate(ExpertBits::all(c.experts)).squared == 0.0, c.planTopK == 0);
    }
}

TEST(SetLoss, NeighboursByDifferenceEqualFullEvaluation)
{
    for (const Case& c : kCases) {
        const MadeLayer made = madeLayer(c.rule, c.experts, c.topK, 70, c.length, 6, c.scaling);
        const GramEvaluator evaluator(made.profile, made.router, c.plan());
        SetLoss loss(evaluator);
        Random random(23);
        for (int trial = 0; trial < 12; ++trial) {
            const int keep = c.uses() + 1 + static_cast<int>(random.below(static_cast<std::uint64_t>(c.experts - c.uses() - 1)));
            const ExpertBits kept = ExpertBits::of(randomSet(random, c.experts, keep));
            LossState state(loss, kept);
            EXPECT_EQ(state.squared(), loss.evaluate(kept).squared);
            const std::vector<double> without = state.squaredWithoutEach();
            for (int e = 0; e < c.experts; ++e) {
                const ExpertBits other = kept.contains(e) ? kept.without(e) : kept.with(e);
                const double expected = loss.evaluate(other).squared;
                const double actual = kept.contains(e) ? state.squaredWithout(e) : state.squaredWith(e);
                EXPECT_NEAR(actual, expected, 1e-11 * (1 + expected));
                EXPECT_EQ(without[static_cast<std::size_t>(e)], kept.contains(e) ? actual : HUGE_VAL);
            }
            // A swap is a removal and an addition.
            const int out = kept.toSet().front();
            int in = 0;
            while (in < c.experts && kept.contains(in))
                ++in;
            state.remove(out);
            EXPECT_NEAR(state.squaredWith(in), loss.evaluate(kept.without(out).with(in)).squared, 1e-11 * (1 + state.squared()));
            state.add(in);
            EXPECT_EQ(state.squared(), loss.evaluate(kept.without(out).with(in)).squared);
        }
    }
}

TEST(SetLoss, AnExpertWithNearlyAllTheProbability)
{
    MadeLayer made = madeLayer(RoutingRule::Softmax, 6, 2, 3, 0, 4);
    for (std::size_t t = 0; t < 3; ++t)
        made.profile.gram.logits[t * 6 + made.profile.gram.list[t * 6]] = 40;
    const GramEvaluator evaluator(made.profile, made.router);
    SetLoss loss(evaluator);
    const int gone = made.profile.gram.list[0];
    const ExpertBits kept = ExpertBits::all(6).without(gone);
    const double expected = evaluator.evaluate(kept.toSet()).squared;
    EXPECT_NEAR(loss.evaluate(kept).squared, expected, 1e-12 * expected);
    EXPECT_NEAR(LossState(loss, ExpertBits::all(6)).squaredWithout(gone), expected, 1e-12 * expected);
}

TEST(SetLoss, AnExpertNobodySelectsCostsNothingUnderRuleA)
{
    for (const RoutingRule rule : {RoutingRule::SoftmaxRenormalised, RoutingRule::Softmax}) {
        const MadeLayer made = madeLayer(rule, 8, 2, 1, 0, 12);
        const GramEvaluator evaluator(made.profile, made.router);
        SetLoss loss(evaluator);
        const int last = made.profile.gram.list[7];
        const double squared = loss.evaluate(ExpertBits::all(8).without(last)).squared;
        EXPECT_EQ(squared == 0.0, rule == RoutingRule::SoftmaxRenormalised);
        EXPECT_GE(squared, 0.0);
    }
}

TEST(Select, GeneticFindsTheEnumeratedOptimum)
{
    const ProfileData profile = madeProfile(2, 8, 2, 12, 0, 31);
    for (const int removed : {2, 3, 4}) {
        for (const int enumerateBelow : {5000, 0}) {
            const auto found = select(profile, "genetic", {8 - removed, 8 - removed}, {{"enumerate_below", enumerateBelow}});
            const auto all = select(profile, "exhaustive", {8 - removed, 8 - removed});
            for (int l = 0; l < 2; ++l) {
                const KeptSet best = bruteForce(profile, l, 8 - removed);
                const Selection& selection = found[static_cast<std::size_t>(l)];
                EXPECT_EQ(selection.best.front().kept, best.kept);
                EXPECT_NEAR(selection.best.front().loss, best.loss, 1e-12 * best.loss);
                EXPECT_EQ(selection.best, all[static_cast<std::size_t>(l)].best);
                EXPECT_EQ(selection.best.size(), 3u);
                EXPECT_LE(selection.best[0].loss, selection.best[1].loss);
                EXPECT_LE(selection.best[1].loss, selection.best[2].loss);
            }
        }
    }
}

// A plan that lets each token use fewer experts is searched as it will run.
TEST(Select, TopKOfThePlanDecides)
{
    ProfileData profile = madeProfile(1, 9, 3, 6, 0, 31);
    const MadeLayer made = madeLayer(RoutingRule::Softmax, 9, 3, 48, 0, 31);
    profile.layers[0] = made.profile;
    const ExpertSet all = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    const auto base = planFromJson({{"version", 1}, {"layers", {{{"layer", 0}, {"kept", all}, {"top_k", 1}}}}}, profile.shape);
    ASSERT_TRUE(base.ok());
    ASSERT_EQ(base->layer(0).topK(), 1);
    for (const int keep : {2, 5}) {  // 2: below the model's own top-k
        KeptSet best;
        best.loss = HUGE_VAL;
        forEachSet(9, keep, [&](const ExpertSet& set) {
            if (const double loss = std::sqrt(made.direct(set, 1)); loss < best.loss) best = {set, loss, 0};
        });
        for (const MethodInfo& method : selectorMethods()) {
            Params params;
            if (method.id == "genetic") params = {{"enumerate_below", 0}};
            const KeptSet found = select(profile, method.id, {keep}, params, {}, *base)[0].best[0];
            EXPECT_NEAR(found.loss, std::sqrt(made.direct(found.kept, 1)), 1e-10) << method.id;
            if (method.id == "exhaustive" || method.id == "genetic") {
                EXPECT_EQ(found.kept, best.kept) << method.id << " " << keep;
            }
        }
        EXPECT_NEAR(bruteForce(profile, 0, keep, 1).loss, best.loss, 1e-10);
    }
    Quiet job;
    const auto curves = layerCurves(profile, *base, {}, job);
    ASSERT_TRUE(curves.ok());
    const LayerCurve& curve = (*curves)[0];
    EXPECT_EQ(curve.lowest, 1);
    for (std::size_t i = 0; i < curve.sets.size(); ++i)
        EXPECT_NEAR(curve.setLoss[i], std::sqrt(made.direct(curve.sets[i], 1)), 1e-10);
    EXPECT_GT(curve.setLoss.back(), 0);
}

TEST(Select, GeneticIsNeverWorseThanRankingAndItsTraceFalls)
{
    const ProfileData profile = madeProfile(3, 24, 4, 20, 0, 77);
    const std::vector<int> keep = {18, 15, 20};
    const auto genetic = select(profile, "genetic", keep, {{"population", 40}, {"generations", 15}});
    const auto ranking = select(profile, "ranking", keep);
    for (std::size_t l = 0; l < 3; ++l) {
        EXPECT_LE(genetic[l].best.front().loss, ranking[l].best.front().loss);
        ASSERT_EQ(genetic[l].trace.size(), 16u);
        EXPECT_TRUE(std::is_sorted(genetic[l].trace.rbegin(), genetic[l].trace.rend()));
        EXPECT_EQ(genetic[l].trace.back(), genetic[l].best.front().loss);
        EXPECT_LE(genetic[l].evaluated, 40 + 15 * 32);
        EXPECT_GE(genetic[l].evaluated, 40);
        EXPECT_EQ(static_cast<int>(genetic[l].best.front().kept.size()), keep[l]);
        std::set<ExpertSet> distinct;
        for (const KeptSet& set : genetic[l].best)
            distinct.insert(set.kept);
        EXPECT_EQ(distinct.size(), 3u);
    }
}

TEST(Select, SameSeedSameSetsForAnyThreadCount)
{
    const ProfileData profile = madeProfile(5, 20, 3, 10, 0, 3);
    const std::vector<int> keep = {14, 15, 13, 12, 16};
    const Params params = {{"population", 30}, {"generations", 8}, {"swap", true}};
    const auto one = select(profile, "genetic", keep, params, {.seed = 9, .threads = 1});
    EXPECT_EQ(one, select(profile, "genetic", keep, params, {.seed = 9, .threads = 4}));
    EXPECT_NE(one[3].trace, select(profile, "genetic", keep, params, {.seed = 10, .threads = 4})[3].trace);
}

TEST(Select, NothingRemovedCostsNothing)
{
    const ProfileData profile = madeProfile(1, 9, 2, 4, 0, 8);
    for (const MethodInfo& method : selectorMethods()) {
        const auto selections = select(profile, method.id, {9});
        ASSERT_EQ(selections[0].best.size(), 1u) << method.id;
        EXPECT_EQ(selections[0].best[0].kept.size(), 9u);
        EXPECT_EQ(selections[0].best[0].loss, 0.0);
        EXPECT_EQ(selections[0].uncoveredShare, 0.0);
    }
}

TEST(Select, SwapImprovementReachesALocalOptimum)
{
    const ProfileData profile = madeProfile(1, 14, 3, 16, 0, 21);
    const auto plain = select(profile, "greedy", {9});
    const auto swapped = select(profile, "greedy", {9}, {{"swap", true}});
    const auto ranked = select(profile, "ranking", {9}, {{"swap", true}});
    EXPECT_LE(swapped[0].best[0].loss, plain[0].best[0].loss);
    EXPECT_LE(ranked[0].best[0].loss, select(profile, "ranking", {9})[0].best[0].loss);
    EXPECT_TRUE(std::is_sorted(ranked[0].trace.rbegin(), ranked[0].trace.rend()));
    const GramEvaluator evaluator(profile.layers[0], profile.shape.layers[0].router);
    for (const auto& selections : {swapped, ranked}) {
        const ExpertBits kept = ExpertBits::of(selections[0].best[0].kept);
        for (int out = 0; out < 14; ++out)
            for (int in = 0; in < 14; ++in)
                if (kept.contains(out) && !kept.contains(in)) {
                    EXPECT_GE(evaluator.evaluate(kept.without(out).with(in).toSet()).loss(), selections[0].best[0].loss * (1 - 1e-12));
                }
    }
}

// What a search is compared with is the first thing it tries, whatever the score, bred or enumerated: the curve never begins above it.
TEST(Select, TracesBeginAtTheChoiceOfTheScoreOrBelow)
{
    const ProfileData profile = madeProfile(4, 16, 4, 16, 0, 91);
    ExpertScores scores;
    scores.better = Better::Higher;
    Random random(5);
    for (int l = 0; l < 4; ++l) {
        scores.values.rows.emplace_back();
        for (int e = 0; e < 16; ++e)
            scores.values.rows.back().push_back(random.uniform());
    }
    const std::vector<int> keep = {12, 10, 8, 14};
    for (const bool ofScore : {true, false})
        for (const int enumerateBelow : {0, 1000000}) {
            SelectOptions options;
            options.seed = 3;
            if (ofScore) options.scores = scores;
            const auto found =
                select(profile, "genetic", keep, {{"population", 8}, {"generations", 3}, {"enumerate_below", enumerateBelow}}, options);
            const auto leaveOneOut = select(profile, "ranking", keep);
            for (std::size_t l = 0; l < 4; ++l) {
                EXPECT_LE(found[l].trace.front(), leaveOneOut[l].best.front().loss * (1 + 1e-12));
                if (ofScore) {
                    ASSERT_TRUE(found[l].referenceLoss.has_value());
                    EXPECT_LE(found[l].trace.front(), *found[l].referenceLoss * (1 + 1e-12)) << l << " " << enumerateBelow;
                }
            }
        }
}

TEST(Select, GreedyRemovesTheLeastMissedOneByOne)
{
    const ProfileData profile = madeProfile(1, 10, 2, 10, 0, 40);
    const GramEvaluator evaluator(profile.layers[0], profile.shape.layers[0].router);
    ExpertBits kept = ExpertBits::all(10);
    for (int left = 10; left > 6; --left) {
        int least = -1;
        double loss = HUGE_VAL;
        for (int e = 0; e < 10; ++e)
            if (kept.contains(e))
                if (const double without = evaluator.evaluate(kept.without(e).toSet()).squared; without < loss) {
                    loss = without;
                    least = e;
                }
        kept.erase(least);
    }
    const auto selections = select(profile, "greedy", {6});
    EXPECT_EQ(selections[0].best[0].kept, kept.toSet());
    EXPECT_EQ(selections[0].evaluated, 10 - 3);  // those of the wanted size
}

TEST(Select, RankingIsTheAllocatorsRanking)
{
    const ProfileData profile = madeProfile(3, 12, 3, 6, 0, 2);
    CompressionPlan base = CompressionPlan::identity(profile.shape).withProtected(1, 4, true).withLocked(2, true);
    const std::vector<int> keep = {7, 8, 12};
    for (const Better better : {Better::Higher, Better::Lower}) {
        ExpertScores scores;
        scores.better = better;
        Random random(4);
        for (int l = 0; l < 3; ++l) {
            scores.values.rows.emplace_back();
            for (int e = 0; e < 12; ++e)
                scores.values.rows.back().push_back(std::floor(random.uniform() * 5));  // with ties
        }
        scores.values.rows[0][3] = std::nan("");
        const auto expected = selectByRanking(profile.shape, base, keep, scores);
        ASSERT_TRUE(expected.ok());
        const auto selections = select(profile, "ranking", keep, {}, {.scores = scores}, base);
        const auto plan = applySelections(profile.shape, base, selections);
        ASSERT_TRUE(plan.ok());
        EXPECT_EQ(plan->hash(), expected->hash());
        // Without products of outputs the sets are the same and their loss unknown.
        ProfileData bare = profile;
        for (LayerProfile& layer : bare.layers)
            layer.gram = {};
        const auto unknown = select(bare, "ranking", keep, {}, {.scores = scores}, base);
        EXPECT_EQ(unknown[1].best[0].kept, selections[1].best[0].kept);
        EXPECT_TRUE(std::isnan(unknown[1].best[0].loss));
    }
}

TEST(Select, ProtectedAndLockedExpertsStay)
{
    const ProfileData profile = madeProfile(2, 12, 2, 8, 0, 15);
    CompressionPlan base = CompressionPlan::identity(profile.shape);
    for (const int e : {1, 5, 6})
        base = base.withProtected(0, e, true);
    base = base.withKept(profile.shape, 1, {0, 1, 2, 3})->withLocked(1, true);
    for (const MethodInfo& method : selectorMethods()) {
        const auto selections = select(profile, method.id, {5, 9}, {}, {}, base);
        for (const KeptSet& set : selections[0].best)
            for (const int e : {1, 5, 6})
                EXPECT_TRUE(std::binary_search(set.kept.begin(), set.kept.end(), e)) << method.id;
        ASSERT_EQ(selections[1].best.size(), 1u);
        EXPECT_EQ(selections[1].best[0].kept, (ExpertSet{0, 1, 2, 3}));
        EXPECT_GT(selections[1].best[0].loss, 0);
    }
    Quiet job;
    for (int e = 0; e < 6; ++e)
        base = base.withProtected(0, e, true);
    EXPECT_EQ(selectLayers(profile, "genetic", {}, {5, 9}, base, {}, job).error().code, "search.protected");
}

TEST(Select, GroupedRoutersKeepEquallyManyPerGroup)
{
    // 12 experts in 3 groups, two of which a token may use.
    ProfileData profile = madeProfile(1, 12, 2, 8, 0, 19);
    RouterShape& router = profile.shape.layers[0].router;
    router.rule = RoutingRule::GroupLimitedSoftmax;
    router.groups = 3;
    router.topGroups = 2;
    MadeLayer made = madeLayer(RoutingRule::Softmax, 12, 2, 64, 0, 19);
    profile.layers[0] = made.profile;
    made.router = router;
    for (const MethodInfo& method : selectorMethods()) {
        Params params;
        if (method.id == "genetic") params = {{"enumerate_below", 0}, {"population", 30}, {"generations", 20}, {"swap", true}};
        const auto selections = select(profile, method.id, {9}, params);
        for (const KeptSet& set : selections[0].best) {
            std::vector<int> perGroup(3, 0);
            for (const int e : set.kept)
                ++perGroup[static_cast<std::size_t>(e / 4)];
            EXPECT_THAT(perGroup, testing::ElementsAre(3, 3, 3)) << method.id;
        }
    }
    const auto all = select(profile, "exhaustive", {9});
    EXPECT_EQ(all[0].evaluated, 4 * 4 * 4);
    EXPECT_EQ(select(profile, "genetic", {9}, {{"enumerate_below", 0}})[0].best[0], all[0].best[0]);
    Quiet job;
    EXPECT_EQ(selectLayers(profile, "greedy", {}, {8}, CompressionPlan::identity(profile.shape), {}, job).error().code, "search.groups");
    const auto curves = layerCurves(profile, CompressionPlan::identity(profile.shape), {}, job);
    ASSERT_TRUE(curves.ok());
    EXPECT_EQ((*curves)[0].lowest, 3);
    EXPECT_EQ((*curves)[0].sets[8 - 3].size(), 6u);
    EXPECT_EQ((*curves)[0].sets[9 - 3].size(), 9u);
}

TEST(Select, UncoveredTokensAreCountedAndSaid)
{
    ProfileData profile = madeProfile(1, 16, 2, 40, 0, 5);
    profile.layers[0] = madeLayer(RoutingRule::Softmax, 16, 2, 320, 3, 5).profile;  // K = k + 1
    const auto selections = select(profile, "genetic", {8});
    EXPECT_GT(selections[0].uncoveredShare, 0.01);
    EXPECT_THAT(selections[0].warning, testing::HasSubstr("of the tokens have fewer experts left"));
    EXPECT_EQ(select(madeProfile(1, 16, 2, 4, 0, 5), "genetic", {16})[0].warning, "");
    // Charged, the search gains nothing from tokens it cannot see: against the true loss it stays near the true best.
    const MadeLayer dense = madeLayer(RoutingRule::Softmax, 16, 2, 320, 0, 5);
    const GramEvaluator evaluator(dense.profile, dense.router);
    ProfileData full = profile;
    full.layers[0] = dense.profile;
    const double best = select(full, "genetic", {8})[0].best[0].loss;
    EXPECT_LT(evaluator.evaluate(selections[0].best[0].kept).loss(), 1.1 * best);
}

TEST(Select, Errors)
{
    const ProfileData profile = madeProfile(2, 40, 2, 2, 0, 1);
    const CompressionPlan base = CompressionPlan::identity(profile.shape);
    Quiet job;
    EXPECT_EQ(selectLayers(profile, "annealing", {}, {30, 30}, base, {}, job).error().code, "method.unknown");
    EXPECT_EQ(selectLayers(profile, "genetic", {{"elites", 2}}, {30, 30}, base, {}, job).error().code, "method.bad_parameter");
    EXPECT_EQ(selectLayers(profile, "genetic", {}, {30, 1}, base, {}, job).error().code, "search.keep_out_of_range");
    EXPECT_EQ(selectLayers(profile, "genetic", {}, {30, 41}, base, {}, job).error().code, "search.keep_out_of_range");
    const auto refused = selectLayers(profile, "exhaustive", {}, {30, 30}, base, {}, job);
    EXPECT_EQ(refused.error().code, "search.too_many_sets");
    EXPECT_THAT(refused.error().message, testing::HasSubstr("8.477e+08"));  // 40 choose 10
    EXPECT_EQ(selectLayers(profile, "exhaustive", {{"limit", 100}}, {38, 38}, base, {}, job).error().code, "search.too_many_sets");
    EXPECT_TRUE(selectLayers(profile, "exhaustive", {}, {38, 38}, base, {}, job).ok());
    ProfileData bare = profile;
    bare.layers[1].gram = {};
    EXPECT_EQ(selectLayers(bare, "greedy", {}, {30, 30}, base, {}, job).error().code, "profile.missing_statistics");
}

TEST(Select, ABatchChangesNothing)
{
    // With 2 tokens most sets differ only in experts that no token selects, so that under the renormalising rule many have one loss, which
    // the batch tells apart by chance.
    for (const int tokens : {2, 70}) {
        for (const RoutingRule rule : {RoutingRule::SoftmaxRenormalised, RoutingRule::Softmax}) {
            ProfileData profile = madeProfile(2, 14, 2, 1, 0, 77);
            for (std::size_t l = 0; l < 2; ++l) {
                profile.shape.layers[l].router.rule = rule;
                profile.layers[l] = madeLayer(rule, 14, 2, tokens, 4, 77 + l).profile;
            }
            const std::vector<int> keep = {3, 8};
            const std::vector<std::pair<std::string, Params>> searches = {
                {"exhaustive", {}},
                {"genetic", {}},
                {"genetic", {{"enumerate_below", 0}, {"population", 30}, {"generations", 8}}},
                {"genetic", {{"enumerate_below", 0}, {"population", 12}, {"generations", 3}, {"elites", 0.9}, {"swap", true}}},
                {"greedy", {{"swap", true}}}};
            for (const auto& [method, params] : searches) {
                const auto plain = select(profile, method, keep, params, {.bestSets = 5});
                std::atomic<std::int64_t> asked = 0;
                SelectOptions options{.bestSets = 5};
                options.batch = inexact(4e-10, asked);
                EXPECT_EQ(select(profile, method, keep, params, options), plain) << method << " " << params << " " << tokens;
                EXPECT_EQ(asked > 0, method != "greedy");
            }
        }
    }
}

TEST(Select, WhatABatchRefusesEndsTheSearch)
{
    const ProfileData profile = madeProfile(1, 10, 2, 4, 0, 7);
    const CompressionPlan base = CompressionPlan::identity(profile.shape);
    SelectOptions options;
    options.batch = [](const GramEvaluator&) -> Result<std::unique_ptr<BatchedSetLoss>> {
        return resourceError("device.out_of_memory", "cuda:0", "Out of memory.");
    };
    Quiet job;
    for (const Params& params : {Params(), Params({{"enumerate_below", 0}})})
        EXPECT_EQ(selectLayers(profile, "genetic", params, {6}, base, options, job).error().code, "device.out_of_memory");
    EXPECT_EQ(selectLayers(profile, "exhaustive", {}, {6}, base, options, job).error().code, "device.out_of_memory");
    EXPECT_TRUE(selectLayers(profile, "ranking", {}, {6}, base, options, job).ok());
}

TEST(Select, StoppedAndResumed)
{
    const ProfileData profile = madeProfile(4, 24, 3, 12, 0, 51);
    const CompressionPlan base = CompressionPlan::identity(profile.shape);
    const std::vector<int> keep = {18, 18, 18, 18};
    const Params params = {{"population", 20}, {"generations", 6}};
    const auto whole = select(profile, "genetic", keep, params);

    struct StopAfterTwoLayers final : JobContext {
        int done = 0;
        bool stopRequested() const noexcept override { return done >= 2; }
        void progress(std::int64_t, std::int64_t, std::string_view) override {}
        void partial(const Json&) override {}
    } job;
    SelectOptions options{.threads = 1};
    options.onLayer = [&](const Selection& selection) {
        ++job.done;
        const auto copy = selectionFromJson(toJson(selection));
        ASSERT_TRUE(copy.ok());
        options.finished[selection.layer] = *copy;
    };
    const auto stopped = selectLayers(profile, "genetic", params, keep, base, options, job);
    // The pool may have finished the rest before it noticed; what counts is that nothing is lost.
    if (!stopped.ok()) {
        EXPECT_EQ(stopped.error().kind, ErrorKind::Cancelled);
    }
    ASSERT_GE(options.finished.size(), 2u);
    std::vector<int> again;
    SelectOptions rest = options;
    rest.onLayer = [&](const Selection& selection) { again.push_back(selection.layer); };
    EXPECT_EQ(select(profile, "genetic", keep, params, rest), whole);
    EXPECT_EQ(again.size() + options.finished.size(), 4u);
}

TEST(Select, AStopIsNoticedInsideALayer)
{
    const ProfileData profile = madeProfile(1, 30, 3, 60, 0, 51);
    Quiet job;
    job.stopAfterPartials = 1;
    const auto stopped = selectLayers(profile, "genetic", {{"generations", 5000}, {"population", 500}}, {20},
                                      CompressionPlan::identity(profile.shape), {}, job);
    ASSERT_FALSE(stopped.ok());
    EXPECT_EQ(stopped.error().kind, ErrorKind::Cancelled);
    EXPECT_EQ(job.partials[0].at("layer"), 0);
    EXPECT_EQ(job.partials[0].at("trace").size(), job.partials[0].at("generation").get<std::size_t>() + 1);
    EXPECT_EQ(job.partials[0].at("best_loss"), job.partials[0].at("trace").back());
}

TEST(Select, JsonRoundTrip)
{
    Selection selection{.layer = 3,
                        .best = {{{0, 2, 5}, 1.25, 0.125}, {{1, 2, 5}, 2.5, 0}},
                        .trace = {3, 1.25},
                        .evaluated = 17,
                        .outputNorm = 10,
                        .uncoveredShare = 0.125,
                        .warning = "text"};
    EXPECT_EQ(*selectionFromJson(toJson(selection)), selection);
    selection.best[0].loss = std::nan("");
    EXPECT_TRUE(std::isnan(selectionFromJson(parseJson(canonicalJson(toJson(selection)), "s", "search").value())->best[0].loss));
    Json broken = toJson(selection);
    broken["best"][0]["kept"] = {2, 1};
    EXPECT_EQ(selectionFromJson(broken).error().code, "search.invalid");
    EXPECT_EQ(selectionFromJson(Json::array()).error().code, "search.invalid");
}

TEST(Select, RegistryIsConsistent)
{
    std::vector<std::string> ids;
    for (const MethodInfo& method : selectorMethods()) {
        ids.push_back(method.id);
        EXPECT_EQ(method.slot, Slot::Select);
        EXPECT_TRUE(checkParams(method, {}).ok()) << method.id;
        Params defaults;
        for (const ParamSpec& spec : method.params)
            defaults[spec.key] = spec.defaultValue;
        EXPECT_TRUE(checkParams(method, defaults).ok()) << method.id;
        const auto copy = methodFromJson(toJson(method));
        ASSERT_TRUE(copy.ok());
        EXPECT_EQ(copy->id, method.id);
    }
    EXPECT_THAT(ids, testing::ElementsAre("ranking", "exhaustive", "greedy", "genetic"));
}

TEST(LayerCurve, IsTheRunningMinimumOfGoodSets)
{
    const ProfileData profile = madeProfile(3, 9, 2, 10, 0, 66);
    CompressionPlan base = CompressionPlan::identity(profile.shape).withLocked(1, true);
    for (const int e : {0, 1, 2})
        base = base.withProtected(2, e, true);
    Quiet job;
    for (const bool genetic : {false, true}) {
        CurveOptions options;
        if (genetic) options.genetic = Params{{"population", 10}};
        const auto curves = layerCurves(profile, base, options, job);
        ASSERT_TRUE(curves.ok());
        ASSERT_EQ(curves->size(), 2u);
        EXPECT_EQ((*curves)[1].layer, 2);
        EXPECT_EQ((*curves)[1].lowest, 3);
        const LayerCurve& curve = (*curves)[0];
        EXPECT_EQ(curve.lowest, 2);
        ASSERT_EQ(curve.loss.size(), 8u);
        EXPECT_EQ(curve.loss.back(), 0.0);
        EXPECT_TRUE(std::is_sorted(curve.loss.rbegin(), curve.loss.rend()));
        for (int m = 2; m <= 9; ++m) {
            const auto i = static_cast<std::size_t>(m - 2);
            EXPECT_EQ(static_cast<int>(curve.sets[i].size()), m);
            EXPECT_EQ(curve.loss[i], *std::min_element(curve.setLoss.begin(), curve.setLoss.begin() + static_cast<std::ptrdiff_t>(i) + 1));
            const double best = bruteForce(profile, 0, m).loss;
            EXPECT_GE(curve.setLoss[i], best * (1 - 1e-12));
            if (genetic) {
                EXPECT_NEAR(curve.setLoss[i], best, 1e-12 * (1 + best));  // few sets: enumerated
            }
        }
    }
}

TEST(LayerCurve, TableForAllocators)
{
    const ProfileData profile = madeProfile(2, 6, 2, 4, 0, 66);
    Quiet job;
    const auto curves = layerCurves(profile, CompressionPlan::identity(profile.shape).withLocked(1, true), {}, job);
    ASSERT_TRUE(curves.ok());
    const auto table = curveTable(*curves, profile.shape);
    ASSERT_EQ(table.size(), 2u);
    ASSERT_EQ(table[0].size(), 7u);
    EXPECT_TRUE(std::isinf(table[0][1]));
    EXPECT_NEAR(table[0][3], (*curves)[0].loss[1] / (*curves)[0].outputNorm, 1e-15);
    EXPECT_EQ(table[0][6], 0.0);
    EXPECT_TRUE(std::isinf(table[1][6]));
}

}  // namespace espalier
