#include "base/exception.h"

#include <gtest/gtest.h>

#include <new>
#include <stdexcept>

namespace espalier
{

namespace
{

// The words that libtorch, its CUDA allocator and oneDNN use, and others that only sound alike.
TEST(Exception, OnlyAllocatorsRunOutOfMemory)
{
    EXPECT_TRUE(isOutOfMemory(std::bad_alloc()));
    EXPECT_TRUE(isOutOfMemory(std::bad_array_new_length()));
    for (const char* words :
         {"[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
          "4398046511104 bytes. Error code 12 (Cannot allocate memory)",
          "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.80 GiB"})
        EXPECT_TRUE(isOutOfMemory(std::runtime_error(words))) << words;
    for (const char* words : {"could not create a primitive descriptor for the matmul primitive. Run workload with environment variable "
                              "ONEDNN_VERBOSE=all to get additional diagnostic information.",
                              "could not create a memory object", "mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)", ""})
        EXPECT_FALSE(isOutOfMemory(std::runtime_error(words))) << words;
}

TEST(Exception, EverythingElseCarriesItsCause)
{
    const Error memory = resourceError("a.out_of_memory", "a", "No memory.");
    EXPECT_EQ(errorOf(std::bad_alloc(), memory, "It").code, "a.out_of_memory");
    const Error other =
        errorOf(std::runtime_error("could not create a primitive.\nException raised from here\nframe #0"), memory, "Loading layer 3");
    EXPECT_EQ(other.kind, ErrorKind::Internal);
    EXPECT_EQ(other.code, "internal.bug");
    EXPECT_EQ(other.message, "Loading layer 3 failed: could not create a primitive.");
}

}  // namespace

}  // namespace espalier
