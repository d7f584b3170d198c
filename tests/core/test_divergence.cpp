// Divergence of two plans' next-token distributions: the worked example, and what must hold for any two plans of a real model.
#include "core/compression_fixture.h"
#include "evaluate/divergence.h"
#include "evaluate/divergence_torch.h"
#include "model/moe_model_torch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace espalier
{

namespace
{

using test::method;
using test::modelOf;
using test::openTiny;
using test::planOf;
using test::stream;
using test::take;

std::vector<WindowDivergence> measured(MoeModel& model, const TokenWindows& windows, const CompressionPlan& plan,
                                       const CompressionPlan& reference)
{
    SilentJob job;
    return take(measureDivergence(model, windows, plan, reference, job));
}

TEST(RowDivergence, WorkedExample)
{
    // Logits are defined up to a constant: another one in each row.
    const at::Tensor p = at::tensor({0.5, 0.3, 0.2}).log().add(3.0).unsqueeze(0);
    const at::Tensor q = at::tensor({0.4, 0.4, 0.2}).log().sub(1.0).unsqueeze(0);
    const at::Tensor there = rowDivergences(p, q);
    EXPECT_NEAR(there[0][0].item<double>(), 0.025267, 1e-6);
    EXPECT_NEAR(there[0][1].item<double>(), 0.9, 1e-6);
    EXPECT_EQ(there[0][2].item<double>(), 1.0);  // 0.4 twice: the lower id counts
    const at::Tensor back = rowDivergences(q, p);
    EXPECT_NEAR(back[0][0].item<double>(), 0.4 * std::log(0.8) + 0.4 * std::log(4.0 / 3), 1e-6) << "the direction matters for KL";
    EXPECT_NEAR(back[0][1].item<double>(), 0.9, 1e-6) << "and not for ESAP";
}

TEST(Divergence, OfAPlanFromItselfIsNone)
{
    const auto model = modelOf(openTiny("qwen2moe-tiny"));
    const TokenWindows windows = stream("qwen2moe-tiny", 32);
    const CompressionPlan plan = planOf(method("qwen2moe-tiny"), "pruned_chain", model->shape());
    const DivergenceEstimate none = divergence(measured(*model, windows, plan, plan));
    EXPECT_EQ(none.kl, 0.0);
    EXPECT_NEAR(none.esap, 1.0, 1e-6);
    EXPECT_EQ(none.agreement, 1.0);
    EXPECT_EQ(none.windows, static_cast<int>(windows.rows.size()));
}

TEST(Divergence, AgreesWithProbabilitiesWrittenOut)
{
    const auto model = modelOf(openTiny("mixtral-tiny"));
    TokenWindows windows = stream("mixtral-tiny", 24);
    windows.rows.resize(3);
    windows.rows[2].resize(9);  // a short last window is a group of its own
    const CompressionPlan dense = CompressionPlan::identity(model->shape());
    const CompressionPlan plan = planOf(method("mixtral-tiny"), "pruned_irregular", model->shape());
    const std::vector<WindowDivergence> found = measured(*model, windows, plan, dense);
    ASSERT_EQ(found.size(), 3u);

    const c10::InferenceMode inference;
    for (std::size_t w = 0; w < found.size(); ++w) {
        const std::vector<int>& row = windows.rows[w];
        const at::Tensor ids = at::tensor(std::vector<std::int64_t>(row.begin(), row.end())).unsqueeze(0);
        const auto probabilities = [&](const CompressionPlan& which) {
            const PreparedPlan prepared = take(model->prepare(which));
            const at::Tensor hidden = take(model->finalNorm(take(model->hiddenStates(ids, prepared))));
            return at::softmax(take(model->logits(hidden.flatten(0, 1))).to(at::kDouble), -1).narrow(0, 0, ids.size(1) - 1);
        };
        const at::Tensor p = probabilities(dense);
        const at::Tensor q = probabilities(plan);
        EXPECT_EQ(found[w].tokens, static_cast<int>(row.size()) - 1);
        EXPECT_NEAR(found[w].kl, (p * (p / q).log()).sum().item<double>(), 1e-5);
        EXPECT_NEAR(found[w].esap, at::minimum(p, q).sum().item<double>(), 1e-5);
        EXPECT_EQ(found[w].agreement, p.argmax(-1).eq(q.argmax(-1)).sum().item<double>());
        EXPECT_GT(found[w].kl, 0.0);
        const double n = found[w].tokens;
        EXPECT_LE(1 - found[w].esap / n, std::sqrt(found[w].kl / n / 2) + 1e-9) << "Pinsker";
    }
}

// Under mpirun each process runs a part of the windows: together they have every window once, with the same numbers.
TEST(Divergence, PartsOfTheWindowsMakeTheWhole)
{
    const auto model = modelOf(openTiny("mixtral-tiny"));
    TokenWindows windows = stream("mixtral-tiny", 24);
    for (std::size_t i = 0; i < windows.rows.size(); ++i)
        windows.rows[i].resize(10 + i);  // a group each
    const CompressionPlan dense = CompressionPlan::identity(model->shape());
    const CompressionPlan plan = planOf(method("mixtral-tiny"), "pruned_irregular", model->shape());
    const std::vector<WindowDivergence> whole = measured(*model, windows, plan, dense);
    ASSERT_GE(whole.size(), 3u);
    std::map<int, WindowDivergence> together;
    struct Half final : WorkShare {
        explicit Half(int rank) : WorkShare(rank, 2) {}
    };
    for (int part = 0; part < 2; ++part) {
        SilentJob job;
        for (const WindowDivergence& window : take(measureDivergence(*model, windows, plan, dense, job, Half(part))))
            EXPECT_TRUE(together.emplace(window.window, window).second) << "window " << window.window << " twice";
    }
    ASSERT_EQ(together.size(), whole.size());
    for (const WindowDivergence& window : whole) {
        EXPECT_EQ(together[window.window].kl, window.kl);
        EXPECT_EQ(together[window.window].tokens, window.tokens);
    }
}

TEST(Divergence, StopsBetweenLayers)
{
    struct Stopped final : JobContext {
        bool stopRequested() const noexcept override { return steps > 1; }
        void progress(std::int64_t done, std::int64_t, std::string_view) override { steps = done; }
        void partial(const Json&) override {}
        std::int64_t steps = 0;
    } job;
    const auto model = modelOf(openTiny("mixtral-tiny"));
    const CompressionPlan dense = CompressionPlan::identity(model->shape());
    const auto result = measureDivergence(*model, stream("mixtral-tiny", 32), dense, dense, job);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().kind, ErrorKind::Cancelled);
}

}  // namespace

}  // namespace espalier
