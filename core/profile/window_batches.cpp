#include "profile/window_batches.h"

#include "base/random.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

namespace espalier
{

namespace
{

// Positions of one window that enter the Gram store. Depends on the window's index in the text alone, so that shards and a single
// pass sample the same tokens.
std::vector<std::int64_t> samplePositions(int window, int windows, int length, std::int64_t gramTokens, bool all)
{
    std::vector<std::int64_t> positions(static_cast<std::size_t>(length));
    std::iota(positions.begin(), positions.end(), 0);
    if (all) return positions;
    const std::int64_t share = (window + 1) * gramTokens / windows - window * gramTokens / windows;
    const auto count = static_cast<std::size_t>(std::min<std::int64_t>(share, length));
    Random random = Random::forPurpose(0, "gram-sample", static_cast<std::uint64_t>(window));
    for (std::size_t i = 0; i < count; ++i)
        std::swap(positions[i], positions[i + random.below(positions.size() - i)]);
    positions.resize(count);
    std::sort(positions.begin(), positions.end());
    return positions;
}

}  // namespace

std::vector<WindowBatch> makeBatches(const TokenWindows& windows, const BatchRule& rule)
{
    const bool all = rule.gramTokens >= rule.textTokens;
    std::int64_t position = 0;
    std::vector<WindowBatch> batches;
    for (std::size_t w = 0; w < windows.rows.size(); ++w) {
        const auto length = static_cast<int>(windows.rows[w].size());
        if (batches.empty() || batches.back().length != length || batches.back().count >= rule.mostWindows ||
            static_cast<std::int64_t>(batches.back().count + 1) * length > rule.batchTokens)
            batches.push_back({.first = w, .count = 0, .length = length, .positions = {}, .sampledRows = {}});
        WindowBatch& batch = batches.back();
        const auto row = static_cast<std::int64_t>(batch.count) * length;
        for (int i = 0; i < length; ++i)
            batch.positions.push_back(position + i);
        if (rule.gram)
            for (const std::int64_t i :
                 samplePositions(static_cast<int>(w), static_cast<int>(windows.rows.size()), length, rule.gramTokens, all))
                batch.sampledRows.push_back(row + i);
        ++batch.count;
        position += length;
    }
    return batches;
}

at::Tensor idTensor(const TokenWindows& windows, const WindowBatch& batch)
{
    at::Tensor ids = at::empty({static_cast<std::int64_t>(batch.count), batch.length}, at::kLong);
    auto* to = ids.data_ptr<std::int64_t>();
    for (std::size_t w = batch.first; w < batch.first + batch.count; ++w)
        to = std::copy(windows.rows[w].begin(), windows.rows[w].end(), to);
    return ids;
}

}  // namespace espalier
