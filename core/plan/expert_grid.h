// One number per (layer, expert): scores, usage, importance. Row-major [layer][expert] over ALL decoder layers of the model;
// a dense layer is an empty row, a missing value NaN. The array layout of the whole program is stated here, once.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace espalier
{

struct ExpertGrid {
    std::vector<std::vector<double>> rows;

    bool empty() const noexcept { return rows.empty(); }
    double at(int layer, int expert) const { return rows[static_cast<std::size_t>(layer)][static_cast<std::size_t>(expert)]; }
    bool operator==(const ExpertGrid&) const = default;
};

enum class Better { Higher, Lower };  // a higher score means a more valuable expert, or the reverse

struct ExpertScores {
    std::string method;  // registry id
    std::string title;
    std::string unit;
    Better better = Better::Higher;
    ExpertGrid values;
    std::vector<double> layerImportance;  // one per decoder layer, NaN for dense layers; empty if the method has none
};

}  // namespace espalier
