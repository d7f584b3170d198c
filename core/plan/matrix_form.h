// What becomes of one linear map W [out, in]: its structure (dense, low rank, base and delta, masked), how it is stored (bits), and where
// its numbers come from. Three independent things: tuned factors at 4 bits need no variant of their own. Plain values.
#pragma once

#include <string>
#include <variant>
#include <vector>

namespace espalier
{

// SHA-256 of a values file that holds stored numbers (tuned, imported, searched). Empty: derived from the checkpoint and the profile by
// the plan's recipe.
using ValuesId = std::string;
using BaseId = std::string;  // names a base that the experts of a layer share, per kind of matrix

// Part of a decomposition, largest singular values first. bits 0: the source's dtype.
struct Band {
    int rank = 0;
    int bits = 0;
    bool operator==(const Band&) const = default;
};

struct Dense {
    bool operator==(const Dense&) const = default;
};

// U V (+ b, as principal components of the output have it). One band of 0 bits and no bias is all that version 1 of a plan can say.
struct LowRank {
    std::vector<Band> bands;
    bool bias = false;
    bool operator==(const LowRank&) const = default;
};

// B + U V; B is shared by the experts of a layer and kind of matrix.
struct BaseDelta {
    BaseId base;
    std::vector<Band> bands;
    bool operator==(const BaseDelta&) const = default;
};

// Weights that are zero. Either `kept` of every `of` neighbours along the input stay (2 of 4), or, with of = 0, so many millionths of all.
struct MaskPattern {
    int kept = 0;
    int of = 0;
    int keptMillionths = 0;
    bool operator==(const MaskPattern&) const = default;
};
struct Masked {
    MaskPattern pattern;
    bool operator==(const Masked&) const = default;
};

using Structure = std::variant<Dense, LowRank, BaseDelta, Masked>;

enum class QuantScheme { None, Symmetric, Asymmetric };

// Of what lies in no band. bits 0: the source's dtype. `group`: neighbours along the input that share one scale (16 bits).
struct Storage {
    int bits = 0;
    int group = 0;
    QuantScheme scheme = QuantScheme::None;
    bool operator==(const Storage&) const = default;
};

struct MatrixForm {
    Structure structure;
    Storage storage;
    ValuesId values;
    bool operator==(const MatrixForm&) const = default;

    bool isSource() const { return *this == MatrixForm{}; }  // as the checkpoint has it
    // The rank that version 1 would write: of a plain low-rank form, else 0.
    int plainRank() const;
    // Whether version 1 of a plan can say it: as it is, or plain factors of one rank.
    bool isPlain() const;
    static MatrixForm lowRank(int rank);  // 0: as it is
    // Of all bands of factors U V that stand alone: columns of U. 0 for every other structure.
    int factorRank() const;
    // Whether its numbers are made of the checkpoint by the plan's recipe of factors.
    bool needsFactors() const { return values.empty() && (factorRank() > 0 || std::holds_alternative<BaseDelta>(structure)); }
};

inline int MatrixForm::plainRank() const
{
    const auto* low = std::get_if<LowRank>(&structure);
    return low && low->bands.size() == 1 && low->bands[0].bits == 0 && !low->bias ? low->bands[0].rank : 0;
}

inline bool MatrixForm::isPlain() const
{
    return storage == Storage{} && values.empty() && (std::holds_alternative<Dense>(structure) || plainRank() > 0);
}

inline int MatrixForm::factorRank() const
{
    const auto* low = std::get_if<LowRank>(&structure);
    int rank = 0;
    for (std::size_t i = 0; low && i < low->bands.size(); ++i)
        rank += low->bands[i].rank;
    return rank;
}

inline MatrixForm MatrixForm::lowRank(int rank)
{
    MatrixForm form;
    if (rank > 0) form.structure = LowRank{.bands = {{.rank = rank, .bits = 0}}, .bias = false};
    return form;
}

}  // namespace espalier
