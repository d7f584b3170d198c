// A set of experts of one layer as bit words: what searches hash, compare and mutate.
#pragma once

#include "plan/compression_plan.h"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace espalier
{

class ExpertBits
{
public:
    static constexpr int kCapacity = 1024;  // experts of one layer

    ExpertBits() = default;
    static ExpertBits of(const ExpertSet& set)
    {
        ExpertBits bits;
        for (const int e : set)
            bits.insert(e);
        return bits;
    }
    static ExpertBits all(int experts)
    {
        ExpertBits bits;
        for (int e = 0; e < experts; ++e)
            bits.insert(e);
        return bits;
    }

    void insert(int e) { m_words[word(e)] |= bit(e); }
    void erase(int e) { m_words[word(e)] &= ~bit(e); }
    bool contains(int e) const { return (m_words[word(e)] & bit(e)) != 0; }
    int count() const
    {
        int sum = 0;
        for (const std::uint64_t w : m_words)
            sum += std::popcount(w);
        return sum;
    }
    ExpertBits with(int e) const
    {
        ExpertBits other = *this;
        other.insert(e);
        return other;
    }
    ExpertBits without(int e) const
    {
        ExpertBits other = *this;
        other.erase(e);
        return other;
    }
    ExpertSet toSet() const
    {
        ExpertSet set;
        for (std::size_t i = 0; i < m_words.size(); ++i)
            for (std::uint64_t w = m_words[i]; w != 0; w &= w - 1)
                set.push_back(static_cast<int>(64 * i) + std::countr_zero(w));
        return set;
    }
    // Expert e is bit e % 64 of word e / 64.
    std::span<const std::uint64_t, kCapacity / 64> words() const noexcept { return m_words; }
    bool operator==(const ExpertBits&) const = default;

    struct Hash {
        std::size_t operator()(const ExpertBits& bits) const
        {
            std::uint64_t hash = 0x9E3779B97F4A7C15ull;
            for (const std::uint64_t w : bits.m_words) {
                hash = (hash ^ w) * 0xBF58476D1CE4E5B9ull;
                hash ^= hash >> 29;
            }
            return static_cast<std::size_t>(hash);
        }
    };

private:
    static std::size_t word(int e) { return static_cast<std::size_t>(e) / 64; }
    static std::uint64_t bit(int e) { return std::uint64_t{1} << (static_cast<unsigned>(e) % 64); }

    std::array<std::uint64_t, kCapacity / 64> m_words{};
};

}  // namespace espalier
