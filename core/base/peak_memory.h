// The most memory that a process had resident, pages of mapped files included: since it began, and since some moment of it.
#pragma once

#include <cstdint>

namespace espalier
{

// Bytes since the process began. Any thread.
std::int64_t peakMemoryBytes();

// Begins a peak of its own. Where the system does not let a process do that (Linux: /proc/self/clear_refs), recentPeakBytes() goes on
// telling that of the whole process. One caller at a time.
void beginRecentPeak();
std::int64_t recentPeakBytes();

}  // namespace espalier
