// Every property is asked of the CPU twin and, where it is built, of the CUDA implementation, which is skipped without a device.
#include "search/cuda/batched_set_loss.h"
#include "search/cuda/set_loss_kernels.h"

#include "core/profile_fixture.h"
#include "score/gram_loss.h"
#include "search/set_loss.h"

#include <gmock/gmock.h>

#include <numeric>
#include <optional>
#include <string>

namespace espalier
{

namespace
{

using test::madeLayer;
using test::MadeLayer;

// Agreement with SetLoss: both add the same products, in another order at most.
constexpr double kRelative = 1e-13;

struct Case {
    RoutingRule rule;
    int experts;
    int topK;
    int length;  // of the lists; 0 = dense
    double scaling = 1.0;
    int planTopK = 0;  // of the candidates; 0 = the model's
    std::optional<int> plan() const { return planTopK > 0 ? std::optional(planTopK) : std::nullopt; }
};
// All routers, all compiled top-k and the general one, more experts than one word has bits, lists behind 32 positions.
const std::vector<Case> kCases = {{RoutingRule::SoftmaxRenormalised, 8, 2, 0},
                                  {RoutingRule::SoftmaxRenormalised, 12, 4, 6},
                                  {RoutingRule::SoftmaxRenormalised, 6, 1, 0},
                                  {RoutingRule::SoftmaxRenormalised, 70, 6, 0},
                                  {RoutingRule::SoftmaxRenormalised, 130, 8, 17},
                                  {RoutingRule::SoftmaxRenormalised, 30, 24, 27},
                                  {RoutingRule::SoftmaxRenormalised, 12, 4, 5, 1.0, 3},
                                  {RoutingRule::SoftmaxRenormalised, 70, 6, 0, 1.0, 1},
                                  {RoutingRule::Softmax, 10, 3, 0, 1.5},
                                  {RoutingRule::Softmax, 12, 4, 6},
                                  {RoutingRule::Softmax, 70, 4, 0, 2.0},
                                  {RoutingRule::Softmax, 12, 4, 5, 1.0, 3},
                                  {RoutingRule::GroupLimitedSoftmax, 12, 4, 6, 1.5},
                                  {RoutingRule::SigmoidBias, 12, 4, 6, 2.5},
                                  {RoutingRule::SigmoidBias, 70, 6, 0, 2.5},
                                  {RoutingRule::SigmoidBias, 10, 4, 0, 2.5, 2}};

std::vector<ExpertBits> randomSets(int experts, int fewest, int count, std::uint64_t seed)
{
    Random random(seed);
    std::vector<ExpertBits> sets;
    for (int i = 0; i < count; ++i) {
        const int keep = fewest + static_cast<int>(random.below(static_cast<std::uint64_t>(experts - fewest) + 1));
        ExpertBits kept = ExpertBits::all(experts);
        for (int left = experts; left > keep;) {
            const int e = static_cast<int>(random.below(static_cast<std::uint64_t>(experts)));
            if (!kept.contains(e)) continue;
            kept.erase(e);
            --left;
        }
        sets.push_back(kept);
    }
    return sets;
}

void expectEqualToSetLoss(BatchedSetLoss& batched, SetLoss& single, const std::vector<ExpertBits>& sets)
{
    const auto losses = batched.evaluate(sets);
    ASSERT_TRUE(losses.ok()) << losses.error().describe();
    ASSERT_EQ(losses->size(), sets.size());
    for (std::size_t i = 0; i < sets.size(); ++i) {
        const GramLoss expected = single.evaluate(sets[i]);
        EXPECT_NEAR((*losses)[i].squared, expected.squared, kRelative * expected.squared);
        EXPECT_EQ((*losses)[i].uncovered, expected.uncovered);
    }
}

// Why nothing can run on a device here, or nothing.
std::string whyNoDevice()
{
#ifdef ESPALIER_HAS_CUDA
    const MadeLayer layer = madeLayer(RoutingRule::Softmax, 4, 2, 1, 0, 1);
    const GramEvaluator evaluator(layer.profile, layer.router);
    const auto device = makeCudaSetLoss(setLossTables(evaluator).value());
    // Any other error is one of ours.
    return device.ok() || device.error().code != "device.unavailable" ? "" : device.error().describe();
#else
    return "built without ESPALIER_WITH_CUDA";
#endif
}

class BatchedSetLossTest : public testing::TestWithParam<std::string>
{
protected:
    void SetUp() override
    {
        if (GetParam() != "cuda") return;
        if (const std::string why = whyNoDevice(); !why.empty()) GTEST_SKIP() << "no CUDA device: " << why;
    }

    Result<std::unique_ptr<BatchedSetLoss>> make(const SetLossTables& tables) const
    {
#ifdef ESPALIER_HAS_CUDA
        // Room for a few tokens of a full pass only, so that most tests take several.
        if (GetParam() == "cuda") return makeCudaSetLoss(tables, {.workspaceBytes = 300'000, .candidatesPerPass = 4096});
#endif
        return makeCpuSetLoss(tables);
    }

    std::unique_ptr<BatchedSetLoss> made(const GramEvaluator& evaluator) const
    {
        auto batched = make(setLossTables(evaluator).value());
        if (!batched.ok()) throw std::runtime_error(batched.error().describe());
        return std::move(batched).value();
    }
};

}  // namespace

TEST_P(BatchedSetLossTest, EqualsSetLossOnRandomSets)
{
    for (const Case& c : kCases) {
        SCOPED_TRACE(testing::Message() << static_cast<int>(c.rule) << " " << c.experts << " " << c.topK << " " << c.length);
        const MadeLayer layer = madeLayer(c.rule, c.experts, c.topK, 90, c.length, 5, c.scaling);
        const GramEvaluator evaluator(layer.profile, layer.router, c.plan());
        SetLoss single(evaluator);
        ASSERT_GT(single.evaluate(randomSets(c.experts, c.topK, 1, 3)[0]).squared, 0.0);
        expectEqualToSetLoss(*made(evaluator), single, randomSets(c.experts, single.topK(), 70, 17));
    }
}

TEST_P(BatchedSetLossTest, AllKeptCostsNothingUnlessFewerAreUsed)
{
    for (const Case& c : kCases) {
        const MadeLayer layer = madeLayer(c.rule, c.experts, c.topK, 20, c.length, 5, c.scaling);
        const GramEvaluator evaluator(layer.profile, layer.router, c.plan());
        const auto losses = made(evaluator)->evaluate(std::vector{ExpertBits::all(c.experts)}).value();
        EXPECT_EQ(losses[0].squared == 0.0, c.planTopK == 0);
        EXPECT_EQ(losses[0].uncovered, 0);
    }
}

TEST_P(BatchedSetLossTest, TopKKeptOnly)
{
    for (const Case& c : kCases) {
        const MadeLayer layer = madeLayer(c.rule, c.experts, c.topK, 40, 0, 6, c.scaling);
        const GramEvaluator evaluator(layer.profile, layer.router, c.plan());
        SetLoss single(evaluator);
        std::vector<ExpertBits> sets;
        for (int first = 0; first + single.topK() <= c.experts; ++first) {
            ExpertBits kept;
            for (int e = first; e < first + single.topK(); ++e)
                kept.insert(e);
            sets.push_back(kept);
        }
        expectEqualToSetLoss(*made(evaluator), single, sets);
    }
}

TEST_P(BatchedSetLossTest, AnUncoveredTokenIsChargedItsWholeRoutedOutput)
{
    for (const RoutingRule rule : {RoutingRule::SoftmaxRenormalised, RoutingRule::Softmax}) {
        const MadeLayer layer = madeLayer(rule, 12, 3, 25, 4, 8);
        const GramEvaluator evaluator(layer.profile, layer.router);
        SetLoss single(evaluator);
        // Without any of the first token's list; and without any expert at all, which leaves every token uncovered.
        ExpertBits without = ExpertBits::all(12);
        for (int i = 0; i < 4; ++i)
            without.erase(layer.profile.gram.list[static_cast<std::size_t>(i)]);
        const auto batched = made(evaluator);
        expectEqualToSetLoss(*batched, single, {without});
        const auto losses = batched->evaluate(std::vector{without, ExpertBits()}).value();
        const std::span<const double> energy = evaluator.routedEnergy();
        EXPECT_GE(losses[0].uncovered, 1);
        EXPECT_GE(losses[0].squared, energy[0]);
        EXPECT_EQ(losses[1].uncovered, 25);
        EXPECT_EQ(losses[1].squared, std::accumulate(energy.begin(), energy.end(), 0.0));
    }
}

TEST_P(BatchedSetLossTest, AnExpertWithNearlyAllTheProbability)
{
    MadeLayer layer = madeLayer(RoutingRule::Softmax, 6, 2, 3, 0, 4);
    for (std::size_t t = 0; t < 3; ++t)
        layer.profile.gram.logits[t * 6 + layer.profile.gram.list[t * 6]] = 40;
    const GramEvaluator evaluator(layer.profile, layer.router);
    SetLoss single(evaluator);
    expectEqualToSetLoss(*made(evaluator), single, {ExpertBits::all(6).without(layer.profile.gram.list[0])});
}

TEST_P(BatchedSetLossTest, ASetDoesNotDependOnItsBatch)
{
    const MadeLayer layer = madeLayer(RoutingRule::Softmax, 60, 4, 33, 9, 2);
    const GramEvaluator evaluator(layer.profile, layer.router);
    const auto batched = made(evaluator);
    // More than one pass of the device's.
    const std::vector<ExpertBits> sets = randomSets(60, 4, 4096 + 4096 + 17, 5);
    const auto together = batched->evaluate(sets).value();
    EXPECT_EQ(batched->evaluate(sets).value(), together);
    for (const std::size_t i : {std::size_t{0}, std::size_t{31}, std::size_t{4095}, std::size_t{4096}, sets.size() - 1})
        EXPECT_EQ(batched->evaluate(std::vector{sets[i]}).value()[0], together[i]);
    EXPECT_TRUE(batched->evaluate({}).value().empty());
}

TEST_P(BatchedSetLossTest, NoTokens)
{
    const MadeLayer layer = madeLayer(RoutingRule::Softmax, 6, 2, 0, 0, 4);
    const GramEvaluator evaluator(layer.profile, layer.router);
    EXPECT_EQ(made(evaluator)->evaluate(std::vector{ExpertBits::all(6).without(1)}).value()[0], BatchedLoss());
}

TEST_P(BatchedSetLossTest, RefusesTablesThatContradictThemselves)
{
    const MadeLayer layer = madeLayer(RoutingRule::Softmax, 6, 2, 5, 4, 4);
    const GramEvaluator evaluator(layer.profile, layer.router);
    const SetLossTables good = setLossTables(evaluator).value();
    ASSERT_TRUE(make(good).ok());
    const auto codeOf = [&](auto change) {
        SetLossTables tables = good;
        change(tables);
        const auto batched = make(tables);
        return batched.ok() ? std::string() : batched.error().code;
    };
    std::vector<std::uint16_t> list(good.list.begin(), good.list.end());
    list.back() = 6;
    EXPECT_EQ(codeOf([&](SetLossTables& t) { t.list = list; }), "search.batch_tables");
    EXPECT_EQ(codeOf([](SetLossTables& t) { t.products = t.products.first(t.products.size() - 1); }), "search.batch_tables");
    EXPECT_EQ(codeOf([](SetLossTables& t) { t.tokens = 6; }), "search.batch_tables");
    EXPECT_EQ(codeOf([](SetLossTables& t) { t.tokens = -1; }), "search.batch_tables");
    EXPECT_EQ(codeOf([](SetLossTables& t) { t.topK = 3; }), "search.batch_tables");
    EXPECT_EQ(codeOf([](SetLossTables& t) { t.modelTopK = 5; }), "search.batch_tables");
}

INSTANTIATE_TEST_SUITE_P(Search, BatchedSetLossTest, testing::Values("cpu", "cuda"), [](const auto& info) { return info.param; });

#ifdef ESPALIER_HAS_CUDA
TEST(CudaSetLoss, GivesTheTwinsBits)
{
    if (const std::string why = whyNoDevice(); !why.empty()) GTEST_SKIP() << "no CUDA device: " << why;
    for (const Case& c : kCases) {
        SCOPED_TRACE(testing::Message() << static_cast<int>(c.rule) << " " << c.experts << " " << c.topK << " " << c.length);
        const MadeLayer layer = madeLayer(c.rule, c.experts, c.topK, 90, c.length, 5, c.scaling);
        const GramEvaluator evaluator(layer.profile, layer.router, c.plan());
        const SetLossTables tables = setLossTables(evaluator).value();
        const std::vector<ExpertBits> sets = randomSets(c.experts, 0, 133, 17);
        const auto expected = makeCpuSetLoss(tables).value()->evaluate(sets).value();
        for (const int perPass : {1, 32, 100, 4096})
            for (const std::size_t workspace : {std::size_t{0}, std::size_t{9 * 32 * 7}, std::size_t{1} << 26}) {
                const auto batched = makeCudaSetLoss(tables, {.workspaceBytes = workspace, .candidatesPerPass = perPass});
                ASSERT_TRUE(batched.ok()) << batched.error().describe();
                EXPECT_EQ((*batched)->evaluate(sets).value(), expected);
            }
    }
}

TEST(CudaSetLoss, MoreTokensThanAGridHasRows)
{
    if (const std::string why = whyNoDevice(); !why.empty()) GTEST_SKIP() << "no CUDA device: " << why;
    // The tokens of a small layer over and over.
    const MadeLayer layer = madeLayer(RoutingRule::SoftmaxRenormalised, 4, 1, 50, 2, 9);
    const GramEvaluator evaluator(layer.profile, layer.router);
    SetLossTables tables = setLossTables(evaluator).value();
    std::vector<std::uint16_t> list;
    std::vector<double> products, probability, energy;
    const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    for (; tables.tokens <= batched::kMostTokens; tables.tokens += 50) {
        append(list, layer.profile.gram.list);
        append(products, layer.profile.gram.products);
        append(probability, evaluator.probabilities());
        append(energy, evaluator.routedEnergy());
    }
    tables.tokens = static_cast<std::int64_t>(energy.size());
    tables.list = list;
    tables.products = products;
    tables.probability = probability;
    tables.routedEnergy = energy;
    const std::vector<ExpertBits> sets = randomSets(4, 1, 3, 2);
    EXPECT_EQ(makeCudaSetLoss(tables, {.workspaceBytes = std::size_t{1} << 30}).value()->evaluate(sets).value(),
              makeCpuSetLoss(tables).value()->evaluate(sets).value());
}

TEST(CudaSetLoss, OutOfMemoryIsAnError)
{
    if (const std::string why = whyNoDevice(); !why.empty()) GTEST_SKIP() << "no CUDA device: " << why;
    const MadeLayer layer = madeLayer(RoutingRule::Softmax, 4, 2, 4000, 0, 1);
    const GramEvaluator evaluator(layer.profile, layer.router);
    const SetLossTables tables = setLossTables(evaluator).value();
    const auto refused = makeCudaSetLoss(tables, {.workspaceBytes = std::size_t{1} << 50, .candidatesPerPass = 1 << 30});
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, "device.out_of_memory");
    // The device is as before.
    EXPECT_TRUE(makeCudaSetLoss(tables).ok());
}

TEST(CudaSetLoss, ADeviceThatIsNotThereIsAnError)
{
    const MadeLayer layer = madeLayer(RoutingRule::Softmax, 4, 2, 3, 0, 1);
    const GramEvaluator evaluator(layer.profile, layer.router);
    const auto refused = makeCudaSetLoss(setLossTables(evaluator).value(), {.device = 4711});
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, "device.unavailable");
    EXPECT_EQ(refused.error().kind, ErrorKind::Resources);
    EXPECT_THAT(refused.error().message, testing::HasSubstr("cuda:4711"));
    EXPECT_FALSE(refused.error().action.empty());
}
#endif

TEST(CudaSetLoss, PassesFitWhatIsHeldForThem)
{
    using batched::kMostTokens;
    using batched::strideOf;
    using batched::termsOf;
    using batched::tokensPerPass;
    EXPECT_EQ(strideOf(1), 32u);
    EXPECT_EQ(strideOf(32), 32u);
    EXPECT_EQ(strideOf(33), 64u);
    for (const std::int64_t tokens : {0, 1, 90, 4096, 10'000'000})
        for (const std::size_t most : {1u, 32u, 600u, 4096u})
            for (const std::size_t workspace : {std::size_t{0}, std::size_t{9'000}, std::size_t{1} << 26, std::size_t{1} << 40}) {
                const std::size_t terms = termsOf(tokens, strideOf(most), workspace);
                EXPECT_LE(terms * 9, std::max(workspace, strideOf(most) * 9));
                EXPECT_LE(terms, strideOf(most) * static_cast<std::size_t>(std::max<std::int64_t>(tokens, 1)));
                for (std::size_t sets = 1; sets <= most; sets += 31) {
                    const std::int64_t pass = tokensPerPass(strideOf(sets), terms);
                    EXPECT_GE(pass, 1);
                    EXPECT_LE(pass, kMostTokens);
                    EXPECT_LE(static_cast<std::size_t>(pass) * strideOf(sets), terms);
                }
            }
}

TEST(SetLossTables, RefusesRoutersThatChooseGroups)
{
    MadeLayer layer = madeLayer(RoutingRule::Softmax, 8, 2, 5, 0, 4);
    layer.router = {.rule = RoutingRule::GroupLimitedSoftmax, .topK = 2, .groups = 4, .topGroups = 2, .normalise = true};
    const auto grouped = setLossTables(GramEvaluator(layer.profile, layer.router));
    ASSERT_FALSE(grouped.ok());
    EXPECT_EQ(grouped.error().code, "search.batch_router");
    EXPECT_EQ(grouped.error().kind, ErrorKind::Unsupported);
    EXPECT_FALSE(grouped.error().action.empty());

    const MadeLayer many = madeLayer(RoutingRule::Softmax, 40, 25, 5, 0, 4);
    EXPECT_EQ(setLossTables(GramEvaluator(many.profile, many.router)).error().code, "search.batch_router");
}

}  // namespace espalier
