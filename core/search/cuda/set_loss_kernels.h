// The kernels of the CUDA implementation behind plain pointers, and the sizes they are launched with. Private to this folder.
#pragma once

#include "search/cuda/set_loss_terms.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace espalier::batched
{

// Neighbouring threads take neighbouring sets of one token: what belongs to the token is read once for all of them.
inline constexpr int kSetsPerBlock = 32;
inline constexpr int kTokensPerBlock = 8;
inline constexpr int kThreads = kSetsPerBlock * kTokensPerBlock;
inline constexpr std::int64_t kMostTokens = std::int64_t{65535} * kTokensPerBlock;  // second dimension of a grid

// Sets side by side, rounded up to whole blocks.
constexpr std::size_t strideOf(std::size_t sets) { return (sets + kSetsPerBlock - 1) / kSetsPerBlock * kSetsPerBlock; }

// Terms to hold for passes of up to `stride` sets: as many as fit the workspace, at least one token's, no more than the layer has.
constexpr std::size_t termsOf(std::int64_t tokens, std::size_t stride, std::size_t workspaceBytes)
{
    const std::size_t fit = workspaceBytes / (sizeof(double) + sizeof(std::uint8_t));
    return std::clamp(fit, stride, stride * static_cast<std::size_t>(std::max<std::int64_t>(tokens, 1)));
}

// Tokens of one pass over `stride` sets into so many terms.
constexpr std::int64_t tokensPerPass(std::size_t stride, std::size_t terms)
{
    return std::min(static_cast<std::int64_t>(terms / stride), kMostTokens);
}

// One pass: tokens [firstToken, firstToken + tokens) of the layer and `sets` kept sets. All pointers are the device's.
struct Pass {
    std::size_t firstToken = 0;
    std::int64_t tokens = 0;  // at most kMostTokens
    int sets = 0;
    std::size_t stride = 0;                // of words and terms
    const std::uint64_t* words = nullptr;  // [n / 64 rounded up][stride]
    double* squared = nullptr;             // [tokens][stride] scratch
    std::uint8_t* uncovered = nullptr;     // [tokens][stride] scratch
    double* squaredSum = nullptr;          // [stride] the pass is added to it
    std::int64_t* uncoveredSum = nullptr;  // [stride] likewise
};

// Queues the pass; does not wait. Returns a cudaError_t.
int launchPass(const LayerTables& layer, const Pass& pass, CUstream_st* stream);

}  // namespace espalier::batched
