#include "base/peak_memory.h"

#include <algorithm>
#include <atomic>
#include <fstream>
#include <string>

#include <sys/resource.h>

namespace espalier
{

namespace
{

// The kernel has one mark for all: what it said before it was set back, getrusage included.
std::atomic<std::int64_t> g_before{0};

}  // namespace

std::int64_t recentPeakBytes()
{
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
    struct rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

std::int64_t peakMemoryBytes() { return std::max(g_before.load(), recentPeakBytes()); }

void beginRecentPeak()
{
    g_before = peakMemoryBytes();
    std::ofstream("/proc/self/clear_refs") << "5";
}

}  // namespace espalier
