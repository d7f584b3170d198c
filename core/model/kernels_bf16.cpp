#include "model/kernels.h"
#include "model/vector_math.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace espalier::kernels
{

namespace
{

[[gnu::always_inline]] inline std::uint16_t narrow(float value)
{
    const auto bits = bitsAs<std::uint32_t>(value);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const std::uint32_t quiet = (bits >> 16) | 0x40u;
    return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

[[gnu::always_inline]] inline float rounded(float value) { return wide(narrow(value)); }

ESPALIER_CLONES void rmsNormRow(const std::uint16_t* x, const std::uint16_t* weight, std::uint16_t* out, std::int64_t width, float eps)
{
    float lane[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes)
        for (std::int64_t j = 0; j < kLanes; ++j)
            lane[j] += wide(x[i + j]) * wide(x[i + j]);
    double sum = 0;
    for (const float value : lane)
        sum += value;
    for (; i < width; ++i)
        sum += static_cast<double>(wide(x[i])) * wide(x[i]);
    const auto mean = static_cast<float>(sum / static_cast<double>(width));
    const float scale = 1.0f / std::sqrt(mean + eps);
#pragma GCC ivdep
    for (std::int64_t k = 0; k < width; ++k)
        out[k] = narrow(wide(weight[k]) * rounded(wide(x[k]) * scale));
}

ESPALIER_CLONES void ropeHead(std::uint16_t* head, const std::uint16_t* cos, const std::uint16_t* sin, std::int64_t half)
{
    std::uint16_t* first = head;
    std::uint16_t* second = head + half;
#pragma GCC ivdep
    for (std::int64_t j = 0; j < half; ++j) {
        const float a = wide(first[j]);
        const float b = wide(second[j]);
        first[j] = narrow(rounded(a * wide(cos[j])) - rounded(b * wide(sin[j])));
        second[j] = narrow(rounded(b * wide(cos[half + j])) + rounded(a * wide(sin[half + j])));
    }
}

ESPALIER_CLONES void addWeighted(const std::uint16_t* y, float weight, std::uint16_t* out, std::int64_t width)
{
#pragma GCC ivdep
    for (std::int64_t i = 0; i < width; ++i)
        out[i] = narrow(wide(out[i]) + rounded(wide(y[i]) * weight));
}

ESPALIER_CLONES void rowEnergyOf(const std::uint16_t* x, double* energy, float* largest, std::int64_t width)
{
    measureRow(x, energy, largest, width);
}

ESPALIER_CLONES void siluMulBlock(std::uint16_t* gate, const std::uint16_t* up, std::int64_t count)
{
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) {
        const float g = wide(gate[i]);
        gate[i] = narrow(rounded(g / (1.0f + fastExp(-g))) * wide(up[i]));
    }
}

ESPALIER_CLONES void widen(const std::uint16_t* in, float* out, std::int64_t count)
{
    for (std::int64_t i = 0; i < count; ++i)
        out[i] = wide(in[i]);
}

}  // namespace

void rmsNorm(const std::uint16_t* x, std::int64_t stride, const std::uint16_t* weight, std::uint16_t* out, std::int64_t rows,
             std::int64_t width, float eps)
{
    at::parallel_for(0, rows, grain(width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r)
            rmsNormRow(x + r * stride, weight, out + r * width, width, eps);
    });
}

void ropeHalf(std::uint16_t* x, std::int64_t rowStride, std::int64_t headStride, std::int64_t rows, std::int64_t heads, std::int64_t dim,
              std::int64_t length, const std::uint16_t* cos, const std::uint16_t* sin)
{
    at::parallel_for(0, rows, grain(heads * dim), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
            const std::int64_t position = r % length;
            for (std::int64_t h = 0; h < heads; ++h)
                ropeHead(x + r * rowStride + h * headStride, cos + position * dim, sin + position * dim, dim / 2);
        }
    });
}

void sumWeightedRows(const std::byte* const* rows, const float* weight, int k, std::uint16_t* out, std::int64_t count, std::int64_t width)
{
    at::parallel_for(0, count, grain(k * width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
            std::memset(out + r * width, 0, static_cast<std::size_t>(width) * sizeof(std::uint16_t));
            for (std::int64_t i = r * k; i < (r + 1) * k; ++i)
                addWeighted(reinterpret_cast<const std::uint16_t*>(rows[i]), weight[i], out + r * width, width);
        }
    });
}

void siluMul(std::uint16_t* gate, const std::uint16_t* up, std::int64_t count)
{
    at::parallel_for(0, count, 4096, [&](std::int64_t begin, std::int64_t end) { siluMulBlock(gate + begin, up + begin, end - begin); });
}

void rowEnergy(const std::uint16_t* x, double* energy, float* largest, std::int64_t rows, std::int64_t width)
{
    at::parallel_for(0, rows, grain(width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r)
            rowEnergyOf(x + r * width, energy + r, largest + r, width);
    });
}

void pairProducts(const std::uint16_t* x, std::int64_t groups, std::int64_t size, std::int64_t width, double* out)
{
    const std::int64_t triangle = size * (size + 1) / 2;
    at::parallel_for(0, groups, grain(triangle * width), [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> group(static_cast<std::size_t>(size * width));
        for (std::int64_t g = begin; g < end; ++g) {
            widen(x + g * size * width, group.data(), size * width);
            pairProducts(group.data(), 1, size, width, out + g * triangle);
        }
    });
}

void addExponentials(const std::uint16_t* logits, double* largest, double* sum, std::int64_t rows, std::int64_t width)
{
    at::parallel_for(0, rows, grain(4 * width), [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> row(static_cast<std::size_t>(width));
        for (std::int64_t r = begin; r < end; ++r) {
            widen(logits + r * width, row.data(), width);
            addExponentials(row.data(), largest + r, sum + r, 1, width);
        }
    });
}

void negativeLogLikelihood(const std::uint16_t* logits, const std::int64_t* target, double* out, std::int64_t rows, std::int64_t width)
{
    at::parallel_for(0, rows, grain(4 * width), [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> row(static_cast<std::size_t>(width));
        for (std::int64_t r = begin; r < end; ++r) {
            widen(logits + r * width, row.data(), width);
            negativeLogLikelihood(row.data(), target + r, out + r, 1, width);
        }
    });
}

}  // namespace espalier::kernels
