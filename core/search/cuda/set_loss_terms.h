// What one token adds to the squared loss of one kept set: the arithmetic that the CPU twin and the CUDA kernels share. Plain pointers,
// which are the host's there and the device's here. Operations come in the order in which SetLoss has them, so that on a machine without
// fused multiply-add, or compiled without contraction, all three give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define ESPALIER_HOST_DEVICE __host__ __device__
#else
#define ESPALIER_HOST_DEVICE
#endif

namespace espalier::batched
{

inline constexpr int kMaxTopK = 24;

// Tables of one layer, T tokens, n experts, lists of K.
struct LayerTables {
    int experts = 0;     // n
    int listLength = 0;  // K
    int modelTopK = 0;
    int topK = 0;  // of the candidates
    bool renormalised = false;
    double scale = 1;
    const std::uint16_t* list = nullptr;      // [T][K]
    const double* products = nullptr;         // [T][K(K+1)/2]
    const double* listProbability = nullptr;  // [T][K]
    const double* probability = nullptr;      // [T][n]; not read where weights are renormalised
    const double* routedEnergy = nullptr;     // [T]
};

// A kept set: word w of it at words[w * stride], so that sets of a batch may lie side by side.
struct KeptWords {
    const std::uint64_t* words = nullptr;
    std::size_t stride = 1;

    ESPALIER_HOST_DEVICE std::uint64_t word(int index) const { return words[static_cast<std::size_t>(index) * stride]; }
    ESPALIER_HOST_DEVICE bool contains(int expert) const { return (word(expert / 64) >> (expert % 64) & 1u) != 0; }
};

struct TokenTerm {
    double squared = 0;
    bool uncovered = false;
};

// 1 - (probability of what was removed); below a quarter the difference has lost digits and the kept mass is added up instead.
ESPALIER_HOST_DEVICE inline double remainingMass(const double* probability, int experts, const KeptWords& kept)
{
    double rest = 1.0;
    for (int first = 0; first < experts; first += 64) {
        const std::uint64_t word = kept.word(first / 64);
        for (int e = first; e < experts && e < first + 64; ++e)
            if ((word >> (e - first) & 1u) == 0) rest -= probability[e];
    }
    if (rest >= 0.25) return rest;
    rest = 0;
    for (int e = 0; e < experts; ++e)
        if (kept.contains(e)) rest += probability[e];
    return rest;
}

// kTopK: top-k of both routers where the compiler is to know it, else 0.
template <int kTopK>
ESPALIER_HOST_DEVICE inline TokenTerm tokenTerm(const LayerTables& layer, std::size_t token, const KeptWords& kept)
{
    constexpr int kRoom = kTopK > 0 ? kTopK : kMaxTopK;
    const int own = kTopK > 0 ? kTopK : layer.modelTopK;
    const int uses = kTopK > 0 ? kTopK : layer.topK;
    const auto length = static_cast<std::size_t>(layer.listLength);
    const std::uint16_t* list = layer.list + token * length;
    const double* p = layer.listProbability + token * length;
    const double energy = layer.routedEnergy[token];

    // The first `uses` kept experts of the list: of the token's own positions as bits, then those that enter.
    std::uint32_t stays = 0;
    int found = 0;
    for (int i = 0; i < own && found < uses; ++i) {
        if (!kept.contains(list[i])) continue;
        stays |= std::uint32_t{1} << i;
        ++found;
    }
    if (found == own) {
        // The same experts. Renormalised: the same weights.
        if (layer.renormalised) return {};
        const double rest = remainingMass(layer.probability + token * static_cast<std::size_t>(layer.experts), layer.experts, kept);
        const double growth = (1.0 - rest) / rest;
        return {growth * growth * energy, false};
    }
    int position[kRoom];
    int entered = 0;
    for (int i = own; i < layer.listLength && found < uses; ++i) {
        if (!kept.contains(list[i])) continue;
        position[entered++] = i;
        ++found;
    }
    if (found < uses) return {energy, true};

    double before = 1.0;
    double after = 0;
    if (layer.renormalised) {
        before = 0;
        for (int i = 0; i < own; ++i) {
            before += p[i];
            if ((stays >> i & 1u) != 0) after += p[i];
        }
        for (int i = 0; i < entered; ++i)
            after += p[position[i]];
    } else {
        after = remainingMass(layer.probability + token * static_cast<std::size_t>(layer.experts), layer.experts, kept);
    }
    // a = v / after - w over the token's own positions and those that enter; the result is a'Ga.
    const double scaleBefore = layer.scale / before;
    const double scaleAfter = layer.scale / after;
    double aOwn[kRoom];
    double aNew[kRoom];
    for (int i = 0; i < own; ++i)
        aOwn[i] = p[i] * (((stays >> i & 1u) != 0 ? scaleAfter : 0.0) - scaleBefore);
    for (int i = 0; i < entered; ++i)
        aNew[i] = p[position[i]] * scaleAfter;

    const double* row = layer.products + token * (length * (length + 1) / 2);
    const double* triangle = row;
    double q = 0;
    for (int i = 0; i < own; row += ++i) {
        double sum = 0;
        for (int j = 0; j < i; ++j)
            sum += aOwn[j] * row[j];
        q += aOwn[i] * (2 * sum + aOwn[i] * row[i]);
    }
    for (int i = 0; i < entered; ++i) {
        const auto at = static_cast<std::size_t>(position[i]);
        row = triangle + at * (at + 1) / 2;
        double sum = 0;
        for (int j = 0; j < own; ++j)
            sum += aOwn[j] * row[j];
        for (int j = 0; j < i; ++j)
            sum += aNew[j] * row[position[j]];
        q += aNew[i] * (2 * sum + aNew[i] * row[at]);
    }
    // Rounding of a difference of equal vectors may leave a tiny negative number.
    return {q < 0 ? 0.0 : q, false};
}

}  // namespace espalier::batched
