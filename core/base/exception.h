// What a library's exception was about. libtorch reports memory that ran out, a kernel that a processor does not have and wrong shapes
// alike by c10::Error: only its words tell them apart, and only the first of the three is helped by more memory.
#pragma once

#include "base/error.h"

#include <exception>
#include <string>

namespace espalier
{

// std::bad_alloc, or the words of one of libtorch's and oneDNN's allocators. Everything else is not, however large the tensors were.
bool isOutOfMemory(const std::exception& failure) noexcept;

// The exception's own words without the C++ stack that libtorch adds: its first line.
std::string causeOf(const std::exception& failure);

// `outOfMemory` where memory ran out, else an internal error (exit 70) "`doing` failed: <cause>."
Error errorOf(const std::exception& failure, Error outOfMemory, const std::string& doing);

}  // namespace espalier
