// AdamW (arXiv 1711.05101) on one array, as torch.optim.AdamW computes it, and the clipping of gradients by their norm. Any device.
#pragma once

#include "recover/training_settings.h"

#include <ATen/ATen.h>

#include <cstdint>

namespace espalier
{

struct AdamW {
    at::Tensor first, second;  // moments [count] fp32
    std::int64_t steps = 0;    // done

    static AdamW of(const at::Tensor& values);
    // values -= rate * (decay * values + m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)), m and v moved on first.
    void step(at::Tensor& values, const at::Tensor& gradients, double rate, const StepSettings& settings);
};

// Times min(1, most / (norm + 1e-6)), as clip_grad_norm_ does; returns the norm before. most 0: as they are.
double clipNorm(at::Tensor& gradients, double most);

}  // namespace espalier
