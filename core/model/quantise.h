// Weights on a grid of few points: round to nearest, one scale (and zero point) of 16 bits per row or per group of neighbours along the
// input. What comes back are the numbers that the grid points stand for; products take them as they are. With n bits:
//   symmetric   s = max |w| / (2^(n-1) - 1), w ~ s q, q = round(w / s) in [-(2^(n-1) - 1), 2^(n-1) - 1]
//   asymmetric  s = (hi - lo) / (2^n - 1) with lo = min(w, 0), hi = max(w, 0); z = round(-lo / s); w ~ s (q - z), q = clamp(round(w / s) +
//   z) one bit     s = mean |w|, w ~ s sign(w) (XNOR-Net, arXiv 1603.05279, section 3.1)
// (Jacob et al., arXiv 1712.05877, section 2.1.) Scales are rounded to fp16 before they are used; halves round to even.
#pragma once

#include "plan/matrix_form.h"

#include <ATen/ATen.h>

namespace espalier
{

// weight [rows,in] fp32 -> the same shape. storage.bits 1 to 16, or 0: as it is. No scheme means symmetric.
at::Tensor onGrid(const at::Tensor& weight, const Storage& storage);

}  // namespace espalier
