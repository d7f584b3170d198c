// Shared by the kernel files: one build for every processor, and an exponential that vectorises.
#pragma once

#include <algorithm>
#include <cstdint>

// One binary for every x86-64: the loader picks the variant that the processor has. Levels, not processor names: those match one maker's.
// Sanitizers do not get along with ifuncs.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define ESPALIER_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ESPALIER_CLONES
#endif

namespace espalier::kernels
{

constexpr std::int64_t kLanes = 16;

// Rows per task: so much work that handing it out costs nothing beside it.
inline std::int64_t grain(std::int64_t width) { return std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, width)); }

// GCC inlines a function into a clone for another processor only if it is always_inline, and vectorises nothing around a call: no
// std::bit_cast, std::min or std::max in these loops.
template <typename To, typename From>
[[gnu::always_inline]] inline To bitsAs(From value)
{
    return __builtin_bit_cast(To, value);
}

// exp(x) for x <= 0 .. about 88, relative error below 2e-7 (Cephes' expf polynomial with a two-part ln 2), so that the loops
// around it vectorise. Below -87 it returns 0.
[[gnu::always_inline]] inline float fastExp(float x)
{
    const float clamped = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    // Round to nearest by adding 1.5 * 2^23; the integer then sits in the low mantissa bits.
    const float shifted = clamped * 1.44269504088896341f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    float r = clamped - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const auto bits = (bitsAs<std::int32_t>(shifted) - 0x4b400000 + 127) << 23;
    const float result = p * bitsAs<float>(bits);
    return x < -87.0f ? 0.0f : result;
}

// A stored value in fp32: itself, or the bits of a bf16.
[[gnu::always_inline]] inline float wide(float value) { return value; }
[[gnu::always_inline]] inline float wide(std::uint16_t value) { return bitsAs<float>(static_cast<std::uint32_t>(value) << 16); }

// Sum of squares in fp64 and largest absolute value of a row.
template <typename Stored>
[[gnu::always_inline]] inline void measureRow(const Stored* x, double* energy, float* largest, std::int64_t width)
{
    double sum[kLanes] = {};
    float top[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes)
        for (std::int64_t j = 0; j < kLanes; ++j) {
            const float value = wide(x[i + j]);
            const float size = value < 0 ? -value : value;
            sum[j] += static_cast<double>(value) * value;
            top[j] = top[j] < size ? size : top[j];
        }
    for (; i < width; ++i) {
        const float value = wide(x[i]);
        const float size = value < 0 ? -value : value;
        sum[0] += static_cast<double>(value) * value;
        top[0] = top[0] < size ? size : top[0];
    }
    double total = 0;
    float most = 0;
    for (std::int64_t j = 0; j < kLanes; ++j) {
        total += sum[j];
        most = most < top[j] ? top[j] : most;
    }
    *energy = total;
    *largest = most;
}

}  // namespace espalier::kernels
