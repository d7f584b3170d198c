#include "profile/statistics/row_sums.h"

#include "model/vector_math.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

namespace espalier::kernels
{

namespace
{

// Columns whose three sums stay in the first cache level.
constexpr std::int64_t kColumns = 512;

template <typename Stored>
[[gnu::always_inline]] inline void addBlock(const Stored* x, const float* w, std::int64_t rows, std::int64_t width, std::int64_t count,
                                            double* plain, double* routing, double* squared)
{
    for (std::int64_t r = 0; r < rows; ++r) {
        const Stored* row = x + r * width;
        const double weight = w[r];
        const double square = weight * weight;
        std::int64_t i = 0;
        for (; i + kVector <= count; i += kVector) {
            Floats value;
            load(row + i, value);
            const Doubles exact = __builtin_convertvector(value, Doubles);
            Doubles sum;
            __builtin_memcpy(&sum, plain + i, sizeof sum);
            sum += exact;
            __builtin_memcpy(plain + i, &sum, sizeof sum);
            __builtin_memcpy(&sum, routing + i, sizeof sum);
            sum += exact * weight;
            __builtin_memcpy(routing + i, &sum, sizeof sum);
            __builtin_memcpy(&sum, squared + i, sizeof sum);
            sum += exact * square;
            __builtin_memcpy(squared + i, &sum, sizeof sum);
        }
        for (; i < count; ++i) {
            const double exact = wide(row[i]);
            plain[i] += exact;
            routing[i] += exact * weight;
            squared[i] += exact * square;
        }
    }
}

template <typename Stored>
[[gnu::always_inline]] inline void squareBlock(const Stored* x, const float* w, std::int64_t rows, std::int64_t width, std::int64_t count,
                                               double* energy, double* peak)
{
    for (std::int64_t r = 0; r < rows; ++r) {
        const Stored* row = x + r * width;
        const double weight = w[r];
        for (std::int64_t i = 0; i < count; ++i) {
            const double value = static_cast<double>(wide(row[i])) * weight;
            const double square = value * value;
            energy[i] += square;
            peak[i] = square > peak[i] ? square : peak[i];
        }
    }
}

template <typename Stored>
[[gnu::always_inline]] inline double distance(const Stored* x, const double* centre, std::int64_t width)
{
    constexpr std::int64_t kParts = 4;  // sums side by side hide the latency of an addition
    Doubles sum[kParts] = {};
    std::int64_t i = 0;
    for (; i + kParts * kVector <= width; i += kParts * kVector)
        for (std::int64_t j = 0; j < kParts; ++j) {
            Floats value;
            load(x + i + j * kVector, value);
            Doubles middle;
            __builtin_memcpy(&middle, centre + i + j * kVector, sizeof middle);
            const Doubles apart = __builtin_convertvector(value, Doubles) - middle;
            sum[j] += apart * apart;
        }
    double total = 0;
    for (std::int64_t j = 0; j < kParts; ++j)
        for (std::int64_t lane = 0; lane < kVector; ++lane)
            total += sum[j][lane];
    for (; i < width; ++i) {
        const double apart = wide(x[i]) - centre[i];
        total += apart * apart;
    }
    return total;
}

template <typename Stored>
[[gnu::always_inline]] inline void products(const Stored* x, const Stored* z, std::int64_t width, double* xx, double* zz, double* xz)
{
    Doubles own = {};
    Doubles other = {};
    Doubles both = {};
    std::int64_t i = 0;
    for (; i + kVector <= width; i += kVector) {
        Floats values;
        load(x + i, values);
        const Doubles a = __builtin_convertvector(values, Doubles);
        load(z + i, values);
        const Doubles b = __builtin_convertvector(values, Doubles);
        own += a * a;
        other += b * b;
        both += a * b;
    }
    double sums[3] = {};
    for (std::int64_t lane = 0; lane < kVector; ++lane) {
        sums[0] += own[lane];
        sums[1] += other[lane];
        sums[2] += both[lane];
    }
    for (; i < width; ++i) {
        const double a = wide(x[i]);
        const double b = wide(z[i]);
        sums[0] += a * a;
        sums[1] += b * b;
        sums[2] += a * b;
    }
    *xx = sums[0];
    *zz = sums[1];
    *xz = sums[2];
}

ESPALIER_CLONES void addBlockOf(const float* x, const float* w, std::int64_t rows, std::int64_t width, std::int64_t count, double* plain,
                                double* routing, double* squared)
{
    addBlock(x, w, rows, width, count, plain, routing, squared);
}
ESPALIER_CLONES void addBlockOf16(const std::uint16_t* x, const float* w, std::int64_t rows, std::int64_t width, std::int64_t count,
                                  double* plain, double* routing, double* squared)
{
    addBlock(x, w, rows, width, count, plain, routing, squared);
}
ESPALIER_CLONES void squareBlockOf(const float* x, const float* w, std::int64_t rows, std::int64_t width, std::int64_t count,
                                   double* energy, double* peak)
{
    squareBlock(x, w, rows, width, count, energy, peak);
}
ESPALIER_CLONES void squareBlockOf16(const std::uint16_t* x, const float* w, std::int64_t rows, std::int64_t width, std::int64_t count,
                                     double* energy, double* peak)
{
    squareBlock(x, w, rows, width, count, energy, peak);
}
ESPALIER_CLONES double distanceOf(const float* x, const double* centre, std::int64_t width) { return distance(x, centre, width); }
ESPALIER_CLONES double distanceOf16(const std::uint16_t* x, const double* centre, std::int64_t width) { return distance(x, centre, width); }
ESPALIER_CLONES void productsOf(const float* x, const float* z, std::int64_t width, double* xx, double* zz, double* xz)
{
    products(x, z, width, xx, zz, xz);
}
ESPALIER_CLONES void productsOf16(const std::uint16_t* x, const std::uint16_t* z, std::int64_t width, double* xx, double* zz, double* xz)
{
    products(x, z, width, xx, zz, xz);
}

template <typename Block>
void byColumns(std::int64_t rows, std::int64_t width, Block block)
{
    const std::int64_t blocks = (width + kColumns - 1) / kColumns;
    // A few rows are not worth waking a thread for.
    const std::int64_t share = std::max<std::int64_t>(1, 65536 / std::max<std::int64_t>(1, rows * kColumns));
    at::parallel_for(0, blocks, share, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t b = begin; b < end; ++b)
            block(b * kColumns, std::min(kColumns, width - b * kColumns));
    });
}

template <typename Row>
void byRows(std::int64_t rows, std::int64_t width, Row row)
{
    at::parallel_for(0, rows, grain(width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r)
            row(r);
    });
}

double cosine(double xx, double zz, double xz)
{
    if (xx == 0 || zz == 0) return xx == zz ? 1.0 : 0.0;
    return xz / (std::sqrt(xx) * std::sqrt(zz));
}

}  // namespace

void addWeightedRows(const float* x, const float* w, std::int64_t rows, std::int64_t width, double* plain, double* routing, double* squared)
{
    byColumns(rows, width, [&](std::int64_t first, std::int64_t count) {
        addBlockOf(x + first, w, rows, width, count, plain + first, routing + first, squared + first);
    });
}

void addWeightedRows(const std::uint16_t* x, const float* w, std::int64_t rows, std::int64_t width, double* plain, double* routing,
                     double* squared)
{
    byColumns(rows, width, [&](std::int64_t first, std::int64_t count) {
        addBlockOf16(x + first, w, rows, width, count, plain + first, routing + first, squared + first);
    });
}

void addSquaredRows(const float* x, const float* w, std::int64_t rows, std::int64_t width, double* energy, double* peak)
{
    byColumns(rows, width, [&](std::int64_t first, std::int64_t count) {
        squareBlockOf(x + first, w, rows, width, count, energy + first, peak + first);
    });
}

void addSquaredRows(const std::uint16_t* x, const float* w, std::int64_t rows, std::int64_t width, double* energy, double* peak)
{
    byColumns(rows, width, [&](std::int64_t first, std::int64_t count) {
        squareBlockOf16(x + first, w, rows, width, count, energy + first, peak + first);
    });
}

void rowDistances(const float* x, const double* centre, std::int64_t rows, std::int64_t width, double* out)
{
    byRows(rows, width, [&](std::int64_t r) { out[r] = distanceOf(x + r * width, centre, width); });
}

void rowDistances(const std::uint16_t* x, const double* centre, std::int64_t rows, std::int64_t width, double* out)
{
    byRows(rows, width, [&](std::int64_t r) { out[r] = distanceOf16(x + r * width, centre, width); });
}

void rowCosines(const float* x, const float* z, std::int64_t rows, std::int64_t width, double* out)
{
    byRows(rows, width, [&](std::int64_t r) {
        double xx = 0, zz = 0, xz = 0;
        productsOf(x + r * width, z + r * width, width, &xx, &zz, &xz);
        out[r] = cosine(xx, zz, xz);
    });
}

void rowCosines(const std::uint16_t* x, const std::uint16_t* z, std::int64_t rows, std::int64_t width, double* out)
{
    byRows(rows, width, [&](std::int64_t r) {
        double xx = 0, zz = 0, xz = 0;
        productsOf16(x + r * width, z + r * width, width, &xx, &zz, &xz);
        out[r] = cosine(xx, zz, xz);
    });
}

}  // namespace espalier::kernels
