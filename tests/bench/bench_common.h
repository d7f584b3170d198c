// What the benches of estimates share: an error ends the program with its words, and time is counted in seconds.
#pragma once

#include "base/error.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace espalier::bench
{

template <typename T>
T require(Result<T> result)
{
    if (result.ok()) return std::move(result).value();
    std::fprintf(stderr, "%s\n", result.error().describe().c_str());
    std::exit(1);
}

inline double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <typename Work>
double seconds(Work work)
{
    const double started = now();
    work();
    return now() - started;
}

}  // namespace espalier::bench
