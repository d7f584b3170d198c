#include "recover/training_optimiser.h"

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

// Numbers that are gone through at once: their temporaries stay in the cache.
constexpr std::int64_t kBlock = std::int64_t{1} << 17;

template <typename One>
void eachBlock(std::int64_t count, One&& one)
{
    for (std::int64_t begin = 0; begin < count; begin += kBlock)
        one(begin, std::min(kBlock, count - begin));
}

}  // namespace

AdamW AdamW::of(const at::Tensor& values) { return {at::zeros_like(values), at::zeros_like(values), 0}; }

void AdamW::step(at::Tensor& values, const at::Tensor& gradients, double rate, const StepSettings& settings)
{
    ++steps;
    const double correction = 1 - std::pow(settings.beta1, static_cast<double>(steps));
    const double root = std::sqrt(1 - std::pow(settings.beta2, static_cast<double>(steps)));
    eachBlock(values.numel(), [&](std::int64_t begin, std::int64_t count) {
        at::Tensor p = values.narrow(0, begin, count);
        const at::Tensor g = gradients.narrow(0, begin, count);
        at::Tensor m = first.narrow(0, begin, count);
        at::Tensor v = second.narrow(0, begin, count);
        if (settings.decay > 0) p.mul_(1 - rate * settings.decay);
        m.lerp_(g, 1 - settings.beta1);
        v.mul_(settings.beta2).addcmul_(g, g, 1 - settings.beta2);
        p.addcdiv_(m, v.sqrt().div_(root).add_(settings.eps), -rate / correction);
    });
}

double clipNorm(at::Tensor& gradients, double most)
{
    double squares = 0;
    eachBlock(gradients.numel(), [&](std::int64_t begin, std::int64_t count) {
        const double norm = gradients.narrow(0, begin, count).norm().item<double>();
        squares += norm * norm;
    });
    const double norm = std::sqrt(squares);
    if (most > 0 && norm + 1e-6 > most) gradients.mul_(most / (norm + 1e-6));
    return norm;
}

}  // namespace espalier
