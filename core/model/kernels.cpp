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

ESPALIER_CLONES void rmsNormRow(const float* x, const float* weight, float* out, std::int64_t width, float eps)
{
    float lane[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes)
        for (std::int64_t j = 0; j < kLanes; ++j)
            lane[j] += x[i + j] * x[i + j];
    double sum = 0;
    for (const float value : lane)
        sum += value;
    for (; i < width; ++i)
        sum += static_cast<double>(x[i]) * x[i];
    const auto mean = static_cast<float>(sum / static_cast<double>(width));
    const float scale = 1.0f / std::sqrt(mean + eps);
    for (std::int64_t k = 0; k < width; ++k)
        out[k] = weight[k] * (x[k] * scale);
}

ESPALIER_CLONES void ropeHead(float* head, const float* cos, const float* sin, std::int64_t half)
{
    float* first = head;
    float* second = head + half;
#pragma GCC ivdep
    for (std::int64_t j = 0; j < half; ++j) {
        const float a = first[j];
        const float b = second[j];
        first[j] = a * cos[j] - b * sin[j];
        second[j] = b * cos[half + j] + a * sin[half + j];
    }
}

ESPALIER_CLONES void axpy(const float* y, float weight, float* out, std::int64_t width)
{
#pragma GCC ivdep
    for (std::int64_t i = 0; i < width; ++i)
        out[i] += weight * y[i];
}

ESPALIER_CLONES void rowEnergyOf(const float* x, double* energy, float* largest, std::int64_t width)
{
    measureRow(x, energy, largest, width);
}

ESPALIER_CLONES void widenToDouble(const float* x, double* out, std::int64_t count)
{
    for (std::int64_t i = 0; i < count; ++i)
        out[i] = x[i];
}

ESPALIER_CLONES double product(const double* a, const double* b, std::int64_t count)
{
    double lane[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
        for (std::int64_t j = 0; j < kLanes; ++j)
            lane[j] += a[i + j] * b[i + j];
    for (; i < count; ++i)
        lane[0] += a[i] * b[i];
    double sum = 0;
    for (std::int64_t j = 0; j < kLanes; ++j)
        sum += lane[j];
    return sum;
}

ESPALIER_CLONES void siluMulBlock(float* gate, const float* up, std::int64_t count)
{
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) {
        const float g = gate[i];
        gate[i] = g / (1.0f + fastExp(-g)) * up[i];  // the exponential is clamped: nothing overflows
    }
}

ESPALIER_CLONES float softmaxRow(float* x, std::int64_t count, float scale)
{
    float lane[kLanes];
    for (std::int64_t j = 0; j < kLanes; ++j)
        lane[j] = x[0];
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
        for (std::int64_t j = 0; j < kLanes; ++j)
            lane[j] = lane[j] < x[i + j] ? x[i + j] : lane[j];
    for (; i < count; ++i)
        lane[0] = lane[0] < x[i] ? x[i] : lane[0];
    float top = lane[0];
    for (std::int64_t j = 1; j < kLanes; ++j)
        top = top < lane[j] ? lane[j] : top;
    float sum[kLanes] = {};
    for (i = 0; i + kLanes <= count; i += kLanes)
        for (std::int64_t j = 0; j < kLanes; ++j) {
            const float d = (x[i + j] - top) * scale;
            x[i + j] = fastExp(d) + d * 0.0f;  // the product carries a NaN or an infinity into the result
            sum[j] += x[i + j];
        }
    for (; i < count; ++i) {
        const float d = (x[i] - top) * scale;
        x[i] = fastExp(d) + d * 0.0f;
        sum[0] += x[i];
    }
    double total = 0;
    for (std::int64_t j = 0; j < kLanes; ++j)
        total += sum[j];
    return static_cast<float>(total);
}

// Sum of exp(x - largest), and the largest.
ESPALIER_CLONES double exponentials(const float* x, std::int64_t width, float* largest)
{
    float lane[kLanes];
    std::fill_n(lane, kLanes, x[0]);
    std::int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes)
        for (std::int64_t j = 0; j < kLanes; ++j)
            lane[j] = lane[j] < x[i + j] ? x[i + j] : lane[j];
    float top = lane[0];
    for (const float value : lane)
        top = std::max(top, value);
    for (; i < width; ++i)
        top = std::max(top, x[i]);
    double total = 0;
    constexpr std::int64_t kBlock = 1024;  // partial sums of a block in fp32 lanes, blocks in fp64
    for (std::int64_t begin = 0; begin < width; begin += kBlock) {
        const std::int64_t end = std::min(begin + kBlock, width);
        float sum[kLanes] = {};
        std::int64_t k = begin;
        for (; k + kLanes <= end; k += kLanes)
            for (std::int64_t j = 0; j < kLanes; ++j) {
                const float d = x[k + j] - top;
                sum[j] += fastExp(d) + d * 0.0f;  // the product carries a NaN or an infinity into the sum
            }
        for (; k < end; ++k)
            total += fastExp(x[k] - top) + (x[k] - top) * 0.0f;
        for (const float value : sum)
            total += value;
    }
    *largest = top;
    return total;
}

double rowNll(const float* x, std::int64_t target, std::int64_t width)
{
    float top = 0;
    const double total = exponentials(x, width, &top);
    return std::log(total) + top - static_cast<double>(x[target]);
}

ESPALIER_CLONES std::uint32_t largestExponent(const std::uint32_t* bits, std::int64_t count)
{
    std::uint32_t largest = 0;
    for (std::int64_t i = 0; i < count; ++i)
        largest = largest < (bits[i] & 0x7f800000u) ? bits[i] & 0x7f800000u : largest;
    return largest;
}

ESPALIER_CLONES std::uint16_t largestExponent16(const std::uint16_t* bits, std::int64_t count)
{
    std::uint16_t largest = 0;
    for (std::int64_t i = 0; i < count; ++i)
        largest = largest < (bits[i] & 0x7f80u) ? static_cast<std::uint16_t>(bits[i] & 0x7f80u) : largest;
    return largest;
}

ESPALIER_CLONES void widenBf16(const std::byte* in, std::uint32_t* out, std::int64_t count)
{
    for (std::int64_t i = 0; i < count; ++i) {
        std::uint16_t value;
        std::memcpy(&value, in + 2 * i, 2);
        out[i] = static_cast<std::uint32_t>(value) << 16;
    }
}

ESPALIER_CLONES void widenHalf(const std::byte* in, std::uint32_t* out, std::int64_t count)
{
    for (std::int64_t i = 0; i < count; ++i) {
        std::uint16_t value;
        std::memcpy(&value, in + 2 * i, 2);
        const std::uint32_t sign = static_cast<std::uint32_t>(value & 0x8000u) << 16;
        const std::uint32_t rest = value & 0x7fffu;
        // Shift exponent and mantissa into place and rescale by 2^112: exact, subnormals included. Infinity and NaN get exponent 255.
        const float scaled = bitsAs<float>(rest << 13) * 5.192296858534828e33f;
        const std::uint32_t finite = bitsAs<std::uint32_t>(scaled);
        const std::uint32_t special = 0x7f800000u | (rest << 13);
        out[i] = sign | (rest >= 0x7c00u ? special : finite);
    }
}

ESPALIER_CLONES void narrowDouble(const std::byte* in, float* out, std::int64_t count)
{
    for (std::int64_t i = 0; i < count; ++i) {
        double value;
        std::memcpy(&value, in + 8 * i, 8);
        out[i] = static_cast<float>(value);
    }
}

ESPALIER_CLONES void roundToBf16(const std::uint32_t* in, std::uint16_t* out, std::int64_t count)
{
    for (std::int64_t i = 0; i < count; ++i) {
        const std::uint32_t bits = in[i];
        const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        const std::uint32_t quiet = (bits >> 16) | 0x40u;
        out[i] = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
    }
}

// Runs a conversion in blocks that stay in the first-level cache, and looks at each block while it is there.
template <typename Convert>
bool inBlocks(std::int64_t count, std::int64_t bytesPerValue, const std::byte* in, float* out, Convert&& convert)
{
    constexpr std::int64_t kBlock = 2048;
    bool finite = true;
    for (std::int64_t begin = 0; begin < count; begin += kBlock) {
        const std::int64_t size = std::min(kBlock, count - begin);
        convert(in + begin * bytesPerValue, out + begin, size);
        finite = allFinite(out + begin, size) && finite;
    }
    return finite;
}

}  // namespace

bool floatFromFloat(const std::byte* in, float* out, std::int64_t count)
{
    return inBlocks(count, 4, in, out, [](const std::byte* from, float* to, std::int64_t size) {
        std::memcpy(to, from, static_cast<std::size_t>(size) * sizeof(float));
    });
}

bool floatFromBf16(const std::byte* in, float* out, std::int64_t count)
{
    return inBlocks(count, 2, in, out, [](const std::byte* from, float* to, std::int64_t size) {
        widenBf16(from, reinterpret_cast<std::uint32_t*>(to), size);
    });
}

bool floatFromHalf(const std::byte* in, float* out, std::int64_t count)
{
    return inBlocks(count, 2, in, out, [](const std::byte* from, float* to, std::int64_t size) {
        widenHalf(from, reinterpret_cast<std::uint32_t*>(to), size);
    });
}

bool floatFromDouble(const std::byte* in, float* out, std::int64_t count)
{
    return inBlocks(count, 8, in, out, [](const std::byte* from, float* to, std::int64_t size) { narrowDouble(from, to, size); });
}

void bf16FromFloat(const float* in, std::uint16_t* out, std::int64_t count)
{
    roundToBf16(reinterpret_cast<const std::uint32_t*>(in), out, count);
}

void rmsNorm(const float* x, std::int64_t stride, const float* weight, float* out, std::int64_t rows, std::int64_t width, float eps)
{
    at::parallel_for(0, rows, grain(width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r)
            rmsNormRow(x + r * stride, weight, out + r * width, width, eps);
    });
}

void ropeHalf(float* x, std::int64_t rowStride, std::int64_t headStride, std::int64_t rows, std::int64_t heads, std::int64_t dim,
              std::int64_t length, const float* cos, const float* sin)
{
    at::parallel_for(0, rows, grain(heads * dim), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
            const std::int64_t position = r % length;
            for (std::int64_t h = 0; h < heads; ++h)
                ropeHead(x + r * rowStride + h * headStride, cos + position * dim, sin + position * dim, dim / 2);
        }
    });
}

void gatherRows(const std::byte* x, const std::int64_t* index, std::byte* out, std::int64_t count, std::int64_t rowBytes)
{
    at::parallel_for(0, count, grain(rowBytes / 4), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
            std::memcpy(out + i * rowBytes, x + index[i] * rowBytes, static_cast<std::size_t>(rowBytes));
    });
}

void sumWeightedRows(const std::byte* const* rows, const float* weight, int k, float* out, std::int64_t count, std::int64_t width)
{
    at::parallel_for(0, count, grain(k * width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
            std::memset(out + r * width, 0, static_cast<std::size_t>(width) * sizeof(float));
            for (std::int64_t i = r * k; i < (r + 1) * k; ++i)
                axpy(reinterpret_cast<const float*>(rows[i]), weight[i], out + r * width, width);
        }
    });
}

void causalSoftmax(float* x, float* sums, std::int64_t rows, std::int64_t columns, std::int64_t first, std::int64_t firstKey,
                   std::int64_t window, float scale)
{
    for (std::int64_t r = 0; r < rows; ++r) {
        float* row = x + r * columns;
        const std::int64_t end = first + r + 1 - firstKey;
        const std::int64_t begin = window > 0 ? std::max<std::int64_t>(0, end - window) : 0;
        sums[r] = softmaxRow(row + begin, end - begin, scale);
        std::fill_n(row, begin, 0.0f);
        std::fill_n(row + end, columns - end, 0.0f);
    }
}

void siluMul(float* gate, const float* up, std::int64_t count)
{
    at::parallel_for(0, count, 4096, [&](std::int64_t begin, std::int64_t end) { siluMulBlock(gate + begin, up + begin, end - begin); });
}

void pairProducts(const float* x, std::int64_t groups, std::int64_t size, std::int64_t width, double* out)
{
    constexpr std::int64_t kColumns = 256;  // a block of every row of a group stays in the first-level cache
    const std::int64_t triangle = size * (size + 1) / 2;
    at::parallel_for(0, groups, grain(triangle * width), [&](std::int64_t begin, std::int64_t end) {
        std::vector<double> block(static_cast<std::size_t>(size * kColumns));
        for (std::int64_t g = begin; g < end; ++g) {
            double* sums = out + g * triangle;
            std::fill_n(sums, triangle, 0.0);
            for (std::int64_t column = 0; column < width; column += kColumns) {
                const std::int64_t count = std::min(kColumns, width - column);
                for (std::int64_t r = 0; r < size; ++r)
                    widenToDouble(x + (g * size + r) * width + column, block.data() + r * kColumns, count);
                double* to = sums;
                for (std::int64_t a = 0; a < size; ++a)
                    for (std::int64_t b = 0; b <= a; ++b)
                        *to++ += product(block.data() + a * kColumns, block.data() + b * kColumns, count);
            }
        }
    });
}

bool allFinite(const float* x, std::int64_t count)
{
    return largestExponent(reinterpret_cast<const std::uint32_t*>(x), count) != 0x7f800000u;
}

bool allFiniteBf16(const std::uint16_t* x, std::int64_t count) { return largestExponent16(x, count) != 0x7f80u; }

void rowEnergy(const float* x, double* energy, float* largest, std::int64_t rows, std::int64_t width)
{
    at::parallel_for(0, rows, grain(width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r)
            rowEnergyOf(x + r * width, energy + r, largest + r, width);
    });
}

void negativeLogLikelihood(const float* logits, const std::int64_t* target, double* out, std::int64_t rows, std::int64_t width)
{
    at::parallel_for(0, rows, grain(4 * width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r)
            out[r] = rowNll(logits + r * width, target[r], width);
    });
}

void addExponentials(const float* logits, double* largest, double* sum, std::int64_t rows, std::int64_t width)
{
    at::parallel_for(0, rows, grain(4 * width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
            float top = 0;
            const double added = exponentials(logits + r * width, width, &top);
            const double higher = std::max(largest[r], static_cast<double>(top));
            sum[r] = sum[r] * std::exp(largest[r] - higher) + added * std::exp(top - higher);
            largest[r] = higher;
        }
    });
}

}  // namespace espalier::kernels
