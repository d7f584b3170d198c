// Counter-based random numbers that are the same on every machine and standard library.
#pragma once

#include <cstdint>
#include <string_view>

namespace espalier
{

// SplitMix64 over a counter. Cheap to copy; equal seeds give equal streams everywhere.
class Random
{
public:
    explicit Random(std::uint64_t seed) : m_state(seed) {}
    // Independent stream for one purpose: hash(seed, purpose, index).
    static Random forPurpose(std::uint64_t runSeed, std::string_view purpose, std::uint64_t index = 0);

    std::uint64_t next();
    // Uniform in [0, bound), bound > 0, without modulo bias.
    std::uint64_t below(std::uint64_t bound);
    // Uniform in [0, 1).
    double uniform();

private:
    std::uint64_t m_state;
};

}  // namespace espalier
