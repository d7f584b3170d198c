#include "pipeline/checkpoint_weights.h"

#include <fmt/format.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace espalier
{

namespace
{

float fromHalf(std::uint16_t bits)
{
    const float sign = (bits & 0x8000u) != 0 ? -1.0f : 1.0f;
    const int exponent = (bits >> 10) & 0x1f;
    const int mantissa = bits & 0x3ff;
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
    if (exponent == 31) return mantissa == 0 ? sign * HUGE_VALF : NAN;
    return sign * std::ldexp(static_cast<float>(mantissa + 0x400), exponent - 25);
}

float fromBrain(std::uint16_t bits)
{
    const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
    float value = 0;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}

template <typename Stored, typename Convert>
std::vector<float> converted(const TensorView& view, Convert convert)
{
    std::vector<float> values(view.bytes.size() / sizeof(Stored));
    for (std::size_t i = 0; i < values.size(); ++i) {
        Stored stored;  // possibly at an odd address
        std::memcpy(&stored, view.bytes.data() + i * sizeof stored, sizeof stored);
        values[i] = convert(stored);
    }
    return values;
}

Result<std::vector<float>> valuesOf(const TensorView& view)
{
    switch (view.dtype) {
        case DType::F32:
            return converted<float>(view, [](float v) { return v; });
        case DType::F64:
            return converted<double>(view, [](double v) { return static_cast<float>(v); });
        case DType::BF16:
            return converted<std::uint16_t>(view, fromBrain);
        case DType::F16:
            return converted<std::uint16_t>(view, fromHalf);
        default:
            return badInput("checkpoint.weights_unreadable", view.name,
                            {"{name} is stored in a type that is no floating-point number.", {{"name", view.name}}},
                            "Use a score that reads the profile alone.");
    }
}

}  // namespace

Result<std::vector<float>> CheckpointWeights::matrix(int layer, int expert, int matrix) const
{
    if (m_checkpoint->expertConstant(layer, expert)) return std::vector<float>();
    const LinearView linear = m_checkpoint->expert(layer, expert, static_cast<Matrix>(matrix));
    if (!linear.factored) return valuesOf(linear.dense);
    ESPALIER_TRY(const std::vector<float> u, valuesOf(linear.u));
    ESPALIER_TRY(const std::vector<float> v, valuesOf(linear.v));
    const auto out = static_cast<std::size_t>(linear.u.shape[0]);
    const auto rank = static_cast<std::size_t>(linear.u.shape[1]);
    const auto in = static_cast<std::size_t>(linear.v.shape[1]);
    std::vector<float> product(out * in, 0.0f);
    for (std::size_t r = 0; r < out; ++r)
        for (std::size_t k = 0; k < rank; ++k)
            for (std::size_t c = 0; c < in; ++c)
                product[r * in + c] += u[r * rank + k] * v[k * in + c];
    return product;
}

}  // namespace espalier
