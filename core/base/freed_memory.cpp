#include "base/freed_memory.h"

#include <atomic>
#include <chrono>
#include <cstdint>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace espalier
{

void giveBackFreedMemory()
{
#ifdef __GLIBC__
    using namespace std::chrono;
    static std::atomic<std::int64_t> next{0};
    const std::int64_t now = duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
    std::int64_t due = next.load();
    // One caller of those that come at the same moment.
    if (now >= due && next.compare_exchange_strong(due, now + 3000)) malloc_trim(0);
#endif
}

}  // namespace espalier
