#include "base/random.h"

namespace espalier
{

std::uint64_t Random::next()
{
    std::uint64_t z = (m_state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

Random Random::forPurpose(std::uint64_t runSeed, std::string_view purpose, std::uint64_t index)
{
    std::uint64_t hash = 0xCBF29CE484222325ull ^ runSeed;
    for (const char c : purpose)
        hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
    Random mixed(hash ^ (index * 0xD6E8FEB86659FD93ull));
    return Random(mixed.next());
}

std::uint64_t Random::below(std::uint64_t bound)
{
    const std::uint64_t limit = ~0ull - ~0ull % bound;
    std::uint64_t value = next();
    while (value >= limit)
        value = next();
    return value % bound;
}

double Random::uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

}  // namespace espalier
