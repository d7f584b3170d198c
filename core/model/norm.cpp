#include "model/norm.h"

#include "model/kernels.h"
#include "model/placement.h"

namespace espalier
{

namespace
{

const std::uint16_t* bits(const at::BFloat16* values) { return reinterpret_cast<const std::uint16_t*>(values); }
std::uint16_t* bits(at::BFloat16* values) { return reinterpret_cast<std::uint16_t*>(values); }

}  // namespace

at::Tensor rmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps)
{
    if (!takesPortableWay(x)) {
        // Rows of a narrowed view are dense but further apart; anything else is copied first.
        const std::int64_t width = x.size(-1);
        at::Tensor source = x;
        std::int64_t stride = width;
        bool regular = x.stride(-1) == 1 && x.dim() >= 2;
        if (regular) {
            stride = x.stride(-2);
            for (std::int64_t i = x.dim() - 3; i >= 0; --i)
                regular = regular && x.stride(i) == x.stride(i + 1) * x.size(i + 1);
        }
        if (!regular) {
            source = x.contiguous();
            stride = width;
        }
        at::Tensor out = at::empty(x.sizes(), x.options());
        const std::int64_t rows = x.numel() / width;
        if (x.scalar_type() == at::kFloat)
            kernels::rmsNorm(source.const_data_ptr<float>(), stride, weight.const_data_ptr<float>(), out.mutable_data_ptr<float>(), rows,
                             width, static_cast<float>(eps));
        else
            kernels::rmsNorm(bits(source.const_data_ptr<at::BFloat16>()), stride, bits(weight.const_data_ptr<at::BFloat16>()),
                             bits(out.mutable_data_ptr<at::BFloat16>()), rows, width, static_cast<float>(eps));
        return out;
    }
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor scale = at::rsqrt(wide.square().mean({-1}, true) + eps);
    return weight * (wide * scale).to(x.scalar_type());
}

}  // namespace espalier
