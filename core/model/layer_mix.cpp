#include "model/layer_mix.h"

#include "model/layer_weights.h"

#include <fmt/format.h>

#include <cstring>

namespace espalier
{

namespace
{

at::ScalarType typeOf(const TensorView& view) { return view.dtype == DType::F64 ? at::kDouble : storedType(view); }

// From number `first` of the bytes on.
at::Tensor floats(const TensorView& view, std::int64_t first, std::int64_t count)
{
    at::Tensor copy = at::empty({count}, typeOf(view));
    const auto size = static_cast<std::int64_t>(copy.element_size());
    std::memcpy(copy.mutable_data_ptr(), view.bytes.data() + first * size, static_cast<std::size_t>(count * size));
    return copy.to(at::kFloat);
}

}  // namespace

Result<at::Tensor> LayerMix::numbers(const TensorView& view, std::int64_t first, std::int64_t count) const
{
    const std::string from = fmt::format("layers.{}.", m_layer);
    std::string name = view.name;
    if (const std::size_t at = name.find(from); at != std::string::npos)
        name.replace(at, from.size(), fmt::format("layers.{}.", m_merge.layer));
    ESPALIER_TRY(const TensorView whole, m_checkpoint.tensor(view.name));
    ESPALIER_TRY(const TensorView other, m_checkpoint.tensor(name));
    // Where the view begins in its tensor: an expert's slice of a fused one.
    const std::int64_t begin = (view.bytes.data() - whole.bytes.data()) * 8 / dtypeBits(view.dtype);
    const float own = static_cast<float>(m_merge.alphaMillionths / 1e6);
    const at::Tensor mixed = floats(view, first, count) * own + floats(other, begin + first, count) * (1.0F - own);
    return mixed.to(typeOf(view));
}

}  // namespace espalier
