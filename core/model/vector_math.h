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

// Eight values at a time. The compiler's own vectors, which every processor variant gets as wide as it has them: written as loops over
// lanes, the mixture of fp32 and fp64 below came out one value at a time.
using Floats [[gnu::vector_size(32)]] = float;
using Bits [[gnu::vector_size(32)]] = std::uint32_t;
using Halves [[gnu::vector_size(16)]] = std::uint16_t;
using Doubles [[gnu::vector_size(64)]] = double;
constexpr std::int64_t kVector = 8;

[[gnu::always_inline]] inline void load(const float* x, Floats& values) { __builtin_memcpy(&values, x, sizeof values); }
[[gnu::always_inline]] inline void load(const std::uint16_t* x, Floats& values)
{
    Halves bits;
    __builtin_memcpy(&bits, x, sizeof bits);
    const Bits shifted = __builtin_convertvector(bits, Bits) << 16;
    __builtin_memcpy(&values, &shifted, sizeof values);
}

// Sum of squares in fp64 and largest absolute value of a row.
template <typename Stored>
[[gnu::always_inline]] inline void measureRow(const Stored* x, double* energy, float* largest, std::int64_t width)
{
    constexpr std::int64_t kParts = 4;  // sums side by side hide the latency of an addition
    Doubles sum[kParts] = {};
    Floats top[kParts] = {};
    std::int64_t i = 0;
    for (; i + kParts * kVector <= width; i += kParts * kVector)
        for (std::int64_t j = 0; j < kParts; ++j) {
            Floats value;
            load(x + i + j * kVector, value);
            const Doubles exact = __builtin_convertvector(value, Doubles);
            sum[j] += exact * exact;
            const Floats size = value < 0 ? -value : value;
            top[j] = top[j] < size ? size : top[j];
        }
    double total = 0;
    float most = 0;
    for (std::int64_t j = 0; j < kParts; ++j)
        for (std::int64_t lane = 0; lane < kVector; ++lane) {
            total += sum[j][lane];
            most = most < top[j][lane] ? top[j][lane] : most;
        }
    for (; i < width; ++i) {
        const float value = wide(x[i]);
        const float size = value < 0 ? -value : value;
        total += static_cast<double>(value) * value;
        most = most < size ? size : most;
    }
    *energy = total;
    *largest = most;
}

}  // namespace espalier::kernels
