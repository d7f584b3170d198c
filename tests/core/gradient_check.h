// Gradients of everything that is trained against differences of the loss.
#pragma once

#include "core/training_fixture.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <utility>

namespace espalier::test
{

// Slope of the loss along a direction at one step length: central differences at s and s / 2, extrapolated (Richardson), so that what is
// left is of the order of s^4. Nothing where a router selects otherwise at one of the points: the loss jumps there, and is no function of
// which a slope could be measured.
template <typename Loss>
std::optional<double> slopeAlong(at::Tensor& values, const at::Tensor& direction, double step, std::uint64_t selection, Loss&& loss)
{
    const at::Tensor before = values.clone();
    std::array<double, 4> at{};
    bool smooth = true;
    const std::array<double, 4> places = {step, -step, step / 2, -step / 2};
    for (std::size_t i = 0; i < places.size() && smooth; ++i) {
        values.copy_(before + direction * places[i]);
        const auto [total, own] = loss();
        at[i] = total;
        smooth = own == selection;
    }
    values.copy_(before);
    if (!smooth) return std::nullopt;
    const double whole = (at[0] - at[1]) / (2 * step), half = (at[2] - at[3]) / step;
    return (4 * half - whole) / 3;
}

// A few tokens of a golden batch none of which stands between two experts: small changes of everything that is trained leave the selection
// as it is. Where a token stands on an edge, every step along some direction is a jump.
inline TrainingBatch steadyBatch(TrainingModel& model, const std::string& name)
{
    constexpr std::size_t kTokens = 10;
    const TrainingBatch all = goldenBatch(name);
    const at::Tensor before = model.trainables->values().clone();
    SilentJob job;
    TrainingPass pass(*model.parts, model.plan, model.trainables.get());
    at::Generator random = at::detail::createCPUGenerator(17);
    for (std::size_t first = 0; first + kTokens <= all.rows.front().size(); ++first) {
        TrainingBatch batch;
        for (const std::vector<int>& row : all.rows)
            batch.rows.emplace_back(row.begin() + static_cast<std::ptrdiff_t>(first),
                                    row.begin() + static_cast<std::ptrdiff_t>(first + kTokens));
        const std::uint64_t selection = must(pass.loss(batch, {}, job)).selection;
        bool steady = true;
        for (int trial = 0; trial < 4 && steady; ++trial) {
            model.trainables->values().copy_(before + at::randn(before.sizes(), random, before.options()) * 2e-4);
            steady = must(pass.loss(batch, {}, job)).selection == selection;
        }
        model.trainables->values().copy_(before);
        if (steady) return batch;
    }
    throw std::runtime_error(name + ": every part of the text has a token on an edge");
}

// Every tensor looked at, without exception, to 1 %. Along random mixtures of its gradient, so that what is compared is not small; of those
// one is taken along which no router selects otherwise.
inline void expectGradients(TrainingModel& model, const TrainingBatch& batch, const PassSettings& settings, double lambda = 0,
                            int least = 20)
{
    SilentJob job;
    TrainingPass pass(*model.parts, model.plan, model.trainables.get());
    Trainables& trainables = *model.trainables;
    trainables.gradients().zero_();
    must(pass.gradients(batch, settings, job));
    const auto total = [&] {
        const PassLoss loss = must(pass.loss(batch, settings, job));
        return std::pair{loss.sum * settings.weight + lambda * loss.entropy, loss.selection};
    };
    const std::uint64_t selection = total().second;
    std::mt19937 random(11);
    std::uniform_real_distribution<float> uniform(0.2f, 1.8f);
    int measured = 0;
    // About forty of them, of every kind and layer.
    const std::size_t stride = std::max<std::size_t>(trainables.tensors().size() / 40, 1) | 1;
    for (std::size_t t = 0; t < trainables.tensors().size(); ++t) {
        const TrainableTensor& tensor = trainables.tensors()[t];
        if (t % stride != 0 && !tensor.name.ends_with(".router")) continue;
        const at::Tensor gradient = trainables.gradientOf(tensor).contiguous();
        at::Tensor values = trainables.valueOf(tensor);
        if (gradient.norm().item<double>() < 1e-6) continue;
        std::optional<double> slope;
        double expected = 0, nearest = std::numeric_limits<double>::infinity();
        for (int trial = 0; trial < 12 && nearest > 1e-2 * expected + 2e-6; ++trial) {
            at::Tensor direction = at::empty_like(gradient);
            for (std::int64_t i = 0; i < direction.numel(); ++i)
                direction.mutable_data_ptr<float>()[i] = uniform(random) * gradient.const_data_ptr<float>()[i];
            direction.div_(direction.norm());
            expected = (gradient.to(at::kDouble) * direction.to(at::kDouble)).sum().item<double>();
            // The loss is known to about 1e-7: steps that change it by 4e-3 to 2e-4.
            double step = std::min(4e-3 / expected, 0.1);
            for (int length = 0; length < 4 && nearest > 1e-2 * expected + 2e-6; ++length, step /= 2.7) {
                slope = slopeAlong(values, direction, step, selection, total);
                if (slope) nearest = std::min(nearest, std::abs(*slope - expected));
            }
        }
        EXPECT_LE(nearest, 1e-2 * expected + 2e-6)
            << tensor.name << ": the gradient says " << expected << (std::isinf(nearest) ? ", and every step crosses a jump" : "");
        ++measured;
    }
    EXPECT_GT(measured, least);
}

}  // namespace espalier::test
