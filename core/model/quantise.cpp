#include "model/quantise.h"

#include <cmath>

namespace espalier
{

namespace
{

at::Tensor scaleOf(const at::Tensor& scale)
{
    // All zeros, or too small for fp16: everything rounds to zero then.
    const at::Tensor rounded = scale.to(at::kHalf).to(at::kFloat);
    return at::where(rounded == 0, at::ones_like(rounded), rounded);
}

// x [rows,groups,size]
at::Tensor groupsOnGrid(const at::Tensor& x, const Storage& storage)
{
    const double points = std::ldexp(1.0, storage.bits) - 1;
    if (storage.scheme == QuantScheme::Asymmetric) {
        const at::Tensor low = x.amin({-1}, true).clamp_max(0);
        const at::Tensor scale = scaleOf((x.amax({-1}, true).clamp_min(0) - low) / points);
        const at::Tensor zero = at::round(-low / scale);
        return (at::clamp(at::round(x / scale) + zero, 0, points) - zero) * scale;
    }
    if (storage.bits == 1) {
        const at::Tensor scale = x.abs().mean({-1}, true).to(at::kHalf).to(at::kFloat);
        return at::where(x < 0, -scale, scale);
    }
    const double most = std::ldexp(1.0, storage.bits - 1) - 1;
    const at::Tensor scale = scaleOf(x.abs().amax({-1}, true) / most);
    return at::clamp(at::round(x / scale), -most, most) * scale;
}

}  // namespace

at::Tensor onGrid(const at::Tensor& weight, const Storage& storage)
{
    if (storage.bits == 0) return weight;
    const std::int64_t rows = weight.size(0), in = weight.size(1);
    const std::int64_t size = storage.group > 0 ? std::min<std::int64_t>(storage.group, in) : in;
    const std::int64_t whole = in / size * size;
    at::Tensor body = groupsOnGrid(weight.narrow(1, 0, whole).reshape({rows, whole / size, size}), storage).reshape({rows, whole});
    if (whole == in) return body;
    const at::Tensor rest = groupsOnGrid(weight.narrow(1, whole, in - whole).unsqueeze(1), storage).squeeze(1);
    return at::cat({body, rest}, 1);
}

}  // namespace espalier
