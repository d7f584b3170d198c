// Replaces the global allocation functions of a test program, so that it can say how large its largest allocation was.
#include "counting_allocator.h"

#include <cstdlib>
#include <new>

namespace espalier::test
{
std::atomic<std::size_t> largestAllocation{0};
}

void* operator new(std::size_t size)
{
    std::atomic<std::size_t>& record = espalier::test::largestAllocation;
    std::size_t largest = record.load(std::memory_order_relaxed);
    while (size > largest && !record.compare_exchange_weak(largest, size, std::memory_order_relaxed)) {
    }
    if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
