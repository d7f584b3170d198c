// Sums over rows in fp64 behind plain pointers, for the statistics of this folder. Private to it.
//
// Rows are fp32, or bf16 as its bits, contiguous. Threads share out columns or rows, and every sum runs in the order of the rows: the
// number of threads changes no bit.
#pragma once

#include <cstdint>

namespace espalier::kernels
{

// x [rows][width], w [rows]. plain[c] += sum x, routing[c] += sum w x, squared[c] += sum w^2 x, each [width].
void addWeightedRows(const float* x, const float* w, std::int64_t rows, std::int64_t width, double* plain, double* routing,
                     double* squared);
void addWeightedRows(const std::uint16_t* x, const float* w, std::int64_t rows, std::int64_t width, double* plain, double* routing,
                     double* squared);

// With v = (w[r] x[r][c])^2: energy[c] += v, peak[c] = max(peak[c], v), each [width].
void addSquaredRows(const float* x, const float* w, std::int64_t rows, std::int64_t width, double* energy, double* peak);
void addSquaredRows(const std::uint16_t* x, const float* w, std::int64_t rows, std::int64_t width, double* energy, double* peak);

// out[r] = ||x[r] - centre||^2, centre [width].
void rowDistances(const float* x, const double* centre, std::int64_t rows, std::int64_t width, double* out);
void rowDistances(const std::uint16_t* x, const double* centre, std::int64_t rows, std::int64_t width, double* out);

// out[r] = <x[r], z[r]> / (||x[r]|| ||z[r]||); 1 where both are zero, 0 where one is.
void rowCosines(const float* x, const float* z, std::int64_t rows, std::int64_t width, double* out);
void rowCosines(const std::uint16_t* x, const std::uint16_t* z, std::int64_t rows, std::int64_t width, double* out);

}  // namespace espalier::kernels
