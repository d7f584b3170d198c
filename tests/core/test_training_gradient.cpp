// Gradients of everything that can be trained against differences of the loss, for every architecture and for plans.
#include "core/gradient_check.h"
#include "recover/router_entropy.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace espalier
{

namespace
{

using test::expectGradients;
using test::must;

class TrainingGradient : public testing::TestWithParam<const char*>
{
};

TEST_P(TrainingGradient, EqualsDifferences)
{
    test::TrainingModel model(test::modelFixture(GetParam()));
    model.train(test::everything());
    model.shake(0.05);
    const TrainingBatch batch = test::steadyBatch(model, GetParam());
    PassSettings settings;
    settings.weight = 1.0 / static_cast<double>(test::scoredRows(batch));
    expectGradients(model, batch, settings);
}

INSTANTIATE_TEST_SUITE_P(Architectures, TrainingGradient,
                         testing::Values("mixtral-tiny", "mixtral-sliding", "qwen2moe-tiny", "qwen2moe-mlponly", "qwen3moe-tiny",
                                         "qwen3moe-tied", "olmoe-tiny", "olmoe-clip", "deepseekv2-lite-tiny", "deepseekv2-full-tiny",
                                         "deepseekv3-tiny"),
                         [](const auto& info) {
                             std::string name = info.param;
                             std::erase(name, '-');
                             return name;
                         });

CompressionPlan prunedAndFactored(const ModelShape& shape)
{
    CompressionPlan plan = *CompressionPlan::identity(shape).withKept(shape, 1, {0, 2, 3, 5, 7, 8, 11});
    plan = *plan.withRanks(shape, 1, std::vector<RankTriple>(7, {5, 0, 6}));
    return plan.withFactors({.method = "svd", .profileSha256 = ""});
}

TEST(TrainingGradientPlan, PrunedAndFactored)
{
    test::TrainingModel model(test::modelFixture("qwen2moe-tiny"));
    model.use(prunedAndFactored(model.checkpoint->shape()));
    model.train(test::everything());
    model.shake(0.05);
    const TrainingBatch batch = test::steadyBatch(model, "qwen2moe-tiny");
    PassSettings settings;
    settings.weight = 1.0 / static_cast<double>(test::scoredRows(batch));
    expectGradients(model, batch, settings);
}

TEST(TrainingGradientPlan, EntropyIsPartOfTheLoss)
{
    for (const char* name : {"qwen2moe-tiny", "deepseekv3-tiny"}) {
        test::TrainingModel model(test::modelFixture(name));
        TrainingTargets targets;
        targets.withAdapters = false;
        targets.routers = true;
        model.train(targets);
        const TrainingBatch batch = test::goldenBatch(name);
        PassSettings settings;
        settings.weight = 0.1 / static_cast<double>(test::scoredRows(batch));
        settings.entropyWeight = 1;
        settings.stepTokens = static_cast<std::int64_t>(batch.rows.size() * batch.rows.front().size());
        SilentJob job;
        TrainingPass pass(*model.parts, model.plan, model.trainables.get());
        must(pass.gradients(batch, settings, job));
        // Along the gradient the sum of both falls by its square.
        const double slope = model.trainables->gradients().square().sum().item<double>();
        const at::Tensor before = model.trainables->values().clone();
        const auto total = [&](double step) {
            model.trainables->values().copy_(before - model.trainables->gradients() * step);
            const PassLoss loss = must(pass.loss(batch, settings, job));
            return loss.sum * settings.weight + loss.entropy;
        };
        double step = 1e-3 / slope, measured = 0;
        for (int trial = 0; trial < 4; ++trial, step /= 4) {
            measured = (total(-step) - total(step)) / (2 * step);
            if (std::abs(measured - slope) <= 1e-2 * slope) break;
        }
        EXPECT_NEAR(measured, slope, 1e-2 * slope) << name;
    }
}

// What is kept and what is computed again are the same numbers, and so is a model whose layers come and go.
TEST(TrainingPass, KeptEqualsComputedAgain)
{
    test::TrainingModel model(test::modelFixture("qwen2moe-tiny"));
    TrainingTargets targets = test::everything();
    targets.adapters.dropout = 0.2;
    model.train(targets);
    model.shake(0.05);
    const TrainingBatch batch = test::goldenBatch("qwen2moe-tiny");
    PassSettings settings;
    settings.weight = 1.0 / static_cast<double>(test::scoredRows(batch));
    settings.dropoutSeed = 9;
    SilentJob job;
    const auto gradients = [&](std::int64_t bytes, std::uint64_t seed) {
        TrainingPass pass(*model.parts, model.plan, model.trainables.get());
        pass.keepAtMost(bytes);
        settings.dropoutSeed = seed;
        model.trainables->gradients().zero_();
        must(pass.gradients(batch, settings, job));
        return model.trainables->gradients().clone();
    };
    const auto tokens = static_cast<std::int64_t>(batch.rows.size() * batch.rows.front().size());
    {
        TrainingPass pass(*model.parts, model.plan, model.trainables.get());
        pass.keepAtMost(std::int64_t{1} << 40);
        ASSERT_EQ(pass.keptLayers(tokens), model.checkpoint->config().layerCount);
        pass.keepAtMost(0);
        ASSERT_EQ(pass.keptLayers(tokens), 0);
    }
    const at::Tensor kept = gradients(std::int64_t{1} << 40, 9);
    const at::Tensor again = gradients(0, 9);
    EXPECT_TRUE(at::equal(kept, again)) << (kept - again).abs().max().item<double>();
    EXPECT_FALSE(at::allclose(kept, gradients(0, 10)));
    EXPECT_TRUE(at::equal(kept, gradients(std::int64_t{1} << 40, 9)));
}

TEST(RouterEntropy, ByHand)
{
    RouterShape router;
    router.rule = RoutingRule::Softmax;
    const at::Tensor logits = at::tensor({0.7, 0.2, 0.1}, at::kDouble).log().unsqueeze(0);
    const RouterEntropy result = routerEntropy(router, logits);
    EXPECT_NEAR(result.entropy.item<double>(), 0.801819, 1e-6);
    const double expected[] = {-0.311601, 0.161524, 0.150077};
    for (int i = 0; i < 3; ++i)
        EXPECT_NEAR(result.gradient[0][i].item<double>(), expected[i], 1e-6);
    EXPECT_NEAR(result.gradient.sum().item<double>(), 0, 1e-12);
    const RouterEntropy uniform = routerEntropy(router, at::zeros({1, 4}));
    EXPECT_NEAR(uniform.entropy.item<double>(), 1.386294, 1e-6);
    EXPECT_EQ(uniform.gradient.abs().max().item<double>(), 0);
}

TEST(RouterEntropy, SigmoidEqualsDifferences)
{
    RouterShape router;
    router.rule = RoutingRule::SigmoidBias;
    const at::Tensor logits = at::tensor({0.3, -1.2, 2.0, 0.1, -0.5}, at::kDouble).unsqueeze(0);
    const RouterEntropy result = routerEntropy(router, logits);
    for (int i = 0; i < 5; ++i) {
        at::Tensor up = logits.clone(), down = logits.clone();
        up[0][i] += 1e-5;
        down[0][i] -= 1e-5;
        const double slope = (routerEntropy(router, up).entropy.item<double>() - routerEntropy(router, down).entropy.item<double>()) / 2e-5;
        EXPECT_NEAR(result.gradient[0][i].item<double>(), slope, 1e-9);
    }
}

}  // namespace

}  // namespace espalier
