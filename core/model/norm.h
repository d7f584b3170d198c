// RMS norm, w dt(x rsqrt(mean x^2 + eps)): normalise in fp32, round to the compute type, then multiply by the weight in the compute type.
#pragma once

#include <ATen/ATen.h>

namespace espalier
{

// x [.., D], weight [D] of the same dtype. Returns a dense tensor.
at::Tensor rmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace espalier
