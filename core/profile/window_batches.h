// The windows that go through the layers together in a profile pass.
#pragma once

#include "tokenizer/windows.h"

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace espalier
{

struct WindowBatch {
    std::size_t first = 0;  // index into the run's windows
    std::size_t count = 0;
    int length = 0;
    std::vector<std::int64_t> positions;    // [count * length] in the text
    std::vector<std::int64_t> sampledRows;  // ascending
};

struct BatchRule {
    bool gram = false;            // tokens are sampled for the Gram store
    std::int64_t gramTokens = 0;  // of the whole text
    std::int64_t textTokens = 0;
    std::int64_t batchTokens = 0;  // at most, but one window
    std::size_t mostWindows = 1;
};

// Batches of the whole text. They depend on the text and the model alone: shards are made of whole batches, so that every window is
// computed in the same company, and with the same bits, as in a single pass.
std::vector<WindowBatch> makeBatches(const TokenWindows& windows, const BatchRule& rule);
// Token ids, int64 [count, length].
at::Tensor idTensor(const TokenWindows& windows, const WindowBatch& batch);

}  // namespace espalier
