// For tests that bound what a reader allocates; counting_allocator.cpp must be among the program's sources.
#pragma once

#include <atomic>
#include <cstddef>

namespace espalier::test
{
extern std::atomic<std::size_t> largestAllocation;  // bytes; set to 0 before the measured call
}
