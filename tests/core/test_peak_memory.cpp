// Peaks of parts of a run, and that of the whole, which they leave alone.
#include "base/peak_memory.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <cstddef>
#include <vector>

namespace espalier
{
namespace
{

TEST(PeakMemory, APeakOfAPartLeavesThatOfTheWhole)
{
    constexpr std::size_t kBytes = std::size_t{192} << 20;
    {
        // Written to, so that it is resident; freed before the part begins.
        const std::vector<char> much(kBytes, 1);
        EXPECT_GE(peakMemoryBytes(), static_cast<std::int64_t>(kBytes));
    }
    const std::int64_t whole = peakMemoryBytes();
    beginRecentPeak();
    EXPECT_GE(peakMemoryBytes(), whole);
    if (access("/proc/self/clear_refs", W_OK) != 0) GTEST_SKIP() << "this system has no peaks of parts";
    EXPECT_LT(recentPeakBytes(), whole - static_cast<std::int64_t>(kBytes) / 2);
    {
        const std::vector<char> some(kBytes / 2, 1);
        EXPECT_GE(recentPeakBytes(), static_cast<std::int64_t>(kBytes) / 2);
    }
    beginRecentPeak();
    EXPECT_GE(peakMemoryBytes(), whole);
}

}  // namespace
}  // namespace espalier
