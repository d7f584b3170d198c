// One thread per set and token writes its term, then one thread per set adds the terms in the order of the tokens. The second step is
// latency-bound and short beside the first; in return every run, every batch and the CPU twin add in the same order.
#include "search/cuda/set_loss_kernels.h"

#include <cuda_runtime.h>

namespace espalier::batched
{

namespace
{

template <int kTopK>
__global__ void __launch_bounds__(kThreads) tokenTerms(LayerTables layer, Pass pass)
{
    const int set = static_cast<int>(blockIdx.x) * kSetsPerBlock + static_cast<int>(threadIdx.x);
    const std::int64_t token = static_cast<std::int64_t>(blockIdx.y) * kTokensPerBlock + threadIdx.y;
    if (set >= pass.sets || token >= pass.tokens) return;
    const TokenTerm term =
        tokenTerm<kTopK>(layer, pass.firstToken + static_cast<std::size_t>(token), KeptWords{pass.words + set, pass.stride});
    const std::size_t at = static_cast<std::size_t>(token) * pass.stride + static_cast<std::size_t>(set);
    pass.squared[at] = term.squared;
    pass.uncovered[at] = term.uncovered ? 1 : 0;
}

__global__ void __launch_bounds__(kSetsPerBlock) addTokens(Pass pass)
{
    const int set = static_cast<int>(blockIdx.x) * kSetsPerBlock + static_cast<int>(threadIdx.x);
    if (set >= pass.sets) return;
    const double* squared = pass.squared + set;
    const std::uint8_t* uncovered = pass.uncovered + set;
    double sum = pass.squaredSum[set];
    std::int64_t count = pass.uncoveredSum[set];
#pragma unroll 8
    for (std::int64_t t = 0; t < pass.tokens; ++t) {
        sum += squared[static_cast<std::size_t>(t) * pass.stride];
        count += uncovered[static_cast<std::size_t>(t) * pass.stride];
    }
    pass.squaredSum[set] = sum;
    pass.uncoveredSum[set] = count;
}

}  // namespace

int launchPass(const LayerTables& layer, const Pass& pass, CUstream_st* stream)
{
    const dim3 block(kSetsPerBlock, kTokensPerBlock);
    const auto columns = static_cast<unsigned>(pass.stride / kSetsPerBlock);
    const dim3 grid(columns, static_cast<unsigned>((pass.tokens + kTokensPerBlock - 1) / kTokensPerBlock));
    switch (layer.topK == layer.modelTopK ? layer.topK : 0) {
        case 2:
            tokenTerms<2><<<grid, block, 0, stream>>>(layer, pass);
            break;
        case 4:
            tokenTerms<4><<<grid, block, 0, stream>>>(layer, pass);
            break;
        case 6:
            tokenTerms<6><<<grid, block, 0, stream>>>(layer, pass);
            break;
        case 8:
            tokenTerms<8><<<grid, block, 0, stream>>>(layer, pass);
            break;
        default:
            tokenTerms<0><<<grid, block, 0, stream>>>(layer, pass);
    }
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
    addTokens<<<columns, kSetsPerBlock, 0, stream>>>(pass);
    return cudaGetLastError();
}

}  // namespace espalier::batched
