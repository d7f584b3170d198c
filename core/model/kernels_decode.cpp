// Attention of single tokens over a cache: products of one row, which a library would generate code for at every length.
#include "model/kernels.h"
#include "model/vector_math.h"

#include <algorithm>

namespace espalier::kernels
{

namespace
{

template <typename T>
[[gnu::always_inline]] inline float dotOf(const float* a, const T* b, std::int64_t count)
{
    float lane[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
        for (std::int64_t j = 0; j < kLanes; ++j)
            lane[j] += a[i + j] * wide(b[i + j]);
    for (; i < count; ++i)
        lane[0] += a[i] * wide(b[i]);
    float sum = 0;
    for (std::int64_t j = 0; j < kLanes; ++j)
        sum += lane[j];
    return sum;
}

template <typename T>
[[gnu::always_inline]] inline void addOf(const T* x, float weight, float* out, std::int64_t count)
{
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i)
        out[i] += weight * wide(x[i]);
}

ESPALIER_CLONES float dot(const float* a, const float* b, std::int64_t count) { return dotOf(a, b, count); }
ESPALIER_CLONES float dot(const float* a, const std::uint16_t* b, std::int64_t count) { return dotOf(a, b, count); }
ESPALIER_CLONES void add(const float* x, float weight, float* out, std::int64_t count) { addOf(x, weight, out, count); }
ESPALIER_CLONES void add(const std::uint16_t* x, float weight, float* out, std::int64_t count) { addOf(x, weight, out, count); }

template <typename T>
void attend(const CachedRows<T>& rows, const float* q, std::int64_t queries, float* scores, float* out, float scale)
{
    // Keys once for all queries that share them.
    for (std::int64_t i = 0; i < rows.count; ++i)
        for (std::int64_t r = 0; r < queries; ++r)
            scores[r * rows.count + i] = dot(q + r * rows.keyWidth, rows.keys + i * rows.keyStride, rows.keyWidth);
    for (std::int64_t r = 0; r < queries; ++r) {
        float sum = 0;
        causalSoftmax(scores + r * rows.count, &sum, 1, rows.count, rows.count - 1, 0, 0, scale);
        const float share = 1.0f / sum;
        for (std::int64_t i = 0; i < rows.count; ++i)
            scores[r * rows.count + i] *= share;
    }
    std::fill_n(out, queries * rows.valueWidth, 0.0f);
    for (std::int64_t i = 0; i < rows.count; ++i)
        for (std::int64_t r = 0; r < queries; ++r)
            add(rows.values + i * rows.valueStride, scores[r * rows.count + i], out + r * rows.valueWidth, rows.valueWidth);
}

}  // namespace

void attendCached(const CachedRows<float>& rows, const float* q, std::int64_t queries, float* scores, float* out, float scale)
{
    attend(rows, q, queries, scores, out, scale);
}

void attendCached(const CachedRows<std::uint16_t>& rows, const float* q, std::int64_t queries, float* scores, float* out, float scale)
{
    attend(rows, q, queries, scores, out, scale);
}

}  // namespace espalier::kernels
