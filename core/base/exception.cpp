#include "base/exception.h"

#include <algorithm>
#include <array>
#include <new>
#include <string_view>

namespace espalier
{

namespace
{

// c10's allocator for the processor, its allocators for devices, oneDNN's status.
constexpr std::array<std::string_view, 4> kWordsOfAllocators = {"can't allocate memory", "not enough memory: you tried to allocate",
                                                                "out of memory. Tried to allocate", "could not allocate memory"};

}  // namespace

bool isOutOfMemory(const std::exception& failure) noexcept
{
    if (dynamic_cast<const std::bad_alloc*>(&failure) != nullptr) return true;
    const std::string_view what = failure.what();
    return std::any_of(kWordsOfAllocators.begin(), kWordsOfAllocators.end(),
                       [&](std::string_view words) { return what.find(words) != std::string_view::npos; });
}

std::string causeOf(const std::exception& failure)
{
    std::string cause = failure.what();
    cause.resize(std::min(cause.size(), cause.find('\n')));
    while (!cause.empty() && (cause.back() == '.' || cause.back() == ' '))
        cause.pop_back();
    return cause;
}

Error errorOf(const std::exception& failure, Error outOfMemory, const std::string& doing)
{
    if (isOutOfMemory(failure)) return outOfMemory;
    return internalError(doing + " failed: " + causeOf(failure) + ".");
}

}  // namespace espalier
