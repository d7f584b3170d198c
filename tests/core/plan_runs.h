// What tests of forms do with each of their plans, whatever the form: run it beside the portable way, evaluate it cached and not, hold its
// gradient against differences, export it and open what was written.
#pragma once

#include "core/compression_fixture.h"
#include "core/stored_forms.h"
#include "evaluate/evaluator.h"
#include "export/exporter.h"
#include "export/verify.h"
#include "model/moe_model_torch.h"
#include "plan/cost_model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace espalier::test
{

inline std::unique_ptr<MoeModel> portableModel(std::shared_ptr<const Checkpoint> checkpoint)
{
    ModelOptions options;
    options.residency = Residency::Resident;
    options.threads = 1;
    options.device = "portable";
    return take(MoeModel::create(std::move(checkpoint), options));
}

// The same for both layouts of one model.
inline TokenWindows textOf(const std::string& name) { return stream(name.substr(0, name.find("-fused")), 64); }

// [1,64]
inline at::Tensor firstIds(const TokenWindows& windows)
{
    at::Tensor ids = at::empty({1, 64}, at::kLong);
    std::copy(windows.rows[0].begin(), windows.rows[0].end(), ids.mutable_data_ptr<std::int64_t>());
    return ids;
}

// What comes to a layer of the whole model.
inline at::Tensor enteringLayer(MoeModel& model, const TokenWindows& windows, int layer)
{
    at::Tensor hidden = take(model.embed(firstIds(windows)));
    for (int l = 0; l < layer; ++l)
        hidden = take(model.layer(l, hidden, model.identity()));
    return hidden;
}

// What an evaluation of one plan left behind must not reach the number of another. Plans with their names, no two alike.
inline void expectCachedEqualsUncached(const std::shared_ptr<const Checkpoint>& checkpoint, const FactorSources& sources,
                                       const TokenWindows& windows, const std::vector<std::pair<std::string, CompressionPlan>>& plans)
{
    auto model = modelOf(checkpoint);
    model->setFactorSources(sources);
    Evaluator warm(*model, windows, std::int64_t{64} << 20);
    SilentJob job;
    const std::vector<int> some = {0, 1};
    std::set<double> numbers;
    for (int round = 0; round < 2; ++round)
        for (const auto& [name, plan] : plans) {
            SCOPED_TRACE(name);
            auto alone = modelOf(checkpoint);
            alone->setFactorSources(sources);
            Evaluator fresh(*alone, windows, 0);
            const auto cached = take(warm.run(plan, some, {}, job));
            const auto uncached = take(fresh.run(plan, some, {}, job));
            ASSERT_EQ(cached.size(), uncached.size());
            for (std::size_t i = 0; i < cached.size(); ++i)
                EXPECT_EQ(cached[i].nll, uncached[i].nll);
            numbers.insert(cached[0].nll);
        }
    EXPECT_EQ(numbers.size(), plans.size()) << "two different plans gave one number";
}

// Written, verified, opened.
inline std::shared_ptr<const Checkpoint> verifiedExport(const Checkpoint& checkpoint, const CompressionPlan& plan, ExportOptions options,
                                                        ExportReport* written = nullptr)
{
    SilentJob job;
    options.force = true;
    ExportReport report = take(exportCheckpoint(checkpoint, plan, options, job));
    if (written) *written = std::move(report);
    VerifyOptions check;
    check.exported = options.out;
    check.model.threads = 1;  // values files are found where they lay
    const VerifyReport verified = take(verifyExport(check, job));
    for (const VerifyCheck& found : verified.checks)
        EXPECT_TRUE(found.holds) << found.name << ": " << found.detail;
    EXPECT_TRUE(verified.holds);
    return take(Checkpoint::open(options.out));
}

// The number of source and plan is the export's, to the bit where `room` is 0, else within that share.
inline void expectPreviewIsExport(const std::shared_ptr<const Checkpoint>& checkpoint, const FactorSources& sources,
                                  const CompressionPlan& plan, const std::shared_ptr<const Checkpoint>& written,
                                  const TokenWindows& windows, double room)
{
    SilentJob job;
    auto before = modelOf(checkpoint);
    before->setFactorSources(sources);
    auto after = modelOf(written);
    Evaluator preview(*before, windows, 0), exported(*after, windows, 0);
    const std::vector<int> some = {0, 1};
    const auto a = take(preview.run(plan, some, {}, job));
    const auto b = take(exported.run(CompressionPlan::identity(written->shape()), some, {}, job));
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (room > 0)
            EXPECT_NEAR(a[i].nll, b[i].nll, room * a[i].nll);
        else
            EXPECT_EQ(a[i].nll, b[i].nll);
    }
}

inline void expectSizeAsSaid(const ModelShape& shape, const CompressionPlan& plan, const ModelShape& written)
{
    const PlanCost said = planCost(shape, plan), there = planCost(written, CompressionPlan::identity(written));
    EXPECT_EQ(there.bytes, said.bytes) << "the size that was shown is the size that was written";
    EXPECT_EQ(there.parameters, said.parameters);
    EXPECT_EQ(there.activeParameters, said.activeParameters);
}

// `gradient`, of the sum of above * out, against central differences of three directions of four tokens each. run(hidden) gives out and
// what was seen on the way; same(seen, seen) whether the same experts were chosen: a choice that turns is a jump.
template <typename Run, typename Same>
void expectGradientIsSlope(const at::Tensor& hidden, const at::Tensor& above, const at::Tensor& gradient, Run&& run, Same&& same)
{
    const auto reference = run(hidden).second;
    int measured = 0;
    for (int trial = 0; trial < 60 && measured < 3; ++trial) {
        at::Tensor direction = at::zeros_like(hidden);
        direction.narrow(1, trial % 60, 4).copy_(numbers(100 + trial, {1, 4, hidden.size(2)}, 1.0));
        direction += 0.5 * gradient / gradient.norm() * direction.norm() * direction.ne(0);
        const double step = 1e-3 * hidden.norm().item<double>() / std::sqrt(16.0) / direction.norm().item<double>();
        const auto [a, up] = run(hidden + direction * step);
        const auto [b, down] = run(hidden - direction * step);
        if (!same(up, reference) || !same(down, reference)) continue;
        ++measured;
        const double expected =
            ((a.to(at::kDouble) - b.to(at::kDouble)) * above.to(at::kDouble)).sum().template item<double>() / (2 * step);
        const double actual = (gradient.to(at::kDouble) * direction.to(at::kDouble)).sum().template item<double>();
        const double size = gradient.norm().item<double>() * direction.norm().item<double>();
        EXPECT_NEAR(actual, expected, 5e-3 * size) << trial;
    }
    EXPECT_EQ(measured, 3);
}

}  // namespace espalier::test
