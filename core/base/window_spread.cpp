#include "base/window_spread.h"

#include <algorithm>
#include <cstdint>

namespace espalier
{

std::vector<int> spreadWindows(int count, int wanted)
{
    wanted = std::clamp(wanted, 0, std::max(count, 0));
    std::vector<int> windows(static_cast<std::size_t>(wanted));
    for (int i = 0; i < wanted; ++i)
        windows[static_cast<std::size_t>(i)] = static_cast<int>((2 * std::int64_t{i} + 1) * count / (2 * std::int64_t{wanted}));
    return windows;
}

}  // namespace espalier
