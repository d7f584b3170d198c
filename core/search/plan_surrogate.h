// What a plan is expected to cost the loss, as a sum over layers: for each layer what its missing experts and its ranks alone were measured
// to cost, times a factor that is fitted to the plans measured so far (Bayesian linear regression, prior around one common factor, because
// losses of several layers add up to more than their sum). Decides what is tried first, never what is taken.
#pragma once

#include "base/random.h"

#include <cstdint>
#include <vector>

namespace espalier
{

// A form in which one layer can be: how many experts, at which rank level. The unit of cost is the search's.
struct LayerOption {
    int count = 0;
    int level = 0;  // 0 = dense; the higher the smaller
    std::int64_t cost = 0;
    double prune = 0;  // relative squared error of the layer's output, dense experts
    double rank = 0;   // what the ranks add to it, same unit
};

// One layer measured alone: everything else as it is.
struct LayerProbe {
    double error = 0;  // relative squared error of the layer's output
    double rise = 0;   // of the loss per token
    double se = 0;
};

class PlanSurrogate
{
public:
    // Options of every free layer, and what was measured of each alone: of counts, and of ranks; either may be empty.
    PlanSurrogate(const std::vector<std::vector<LayerOption>>& options, const std::vector<std::vector<LayerProbe>>& counts,
                  const std::vector<std::vector<LayerProbe>>& ranks);

    // Expected rise of the loss by one layer's option, by the factors `factors` (empty: the fitted ones).
    double rise(std::size_t layer, const LayerOption& option, const std::vector<double>& factors = {}) const;
    // Sum over layers; `choice`: index of each layer's option.
    double rise(const std::vector<int>& choice) const;

    struct Observation {
        std::vector<int> choice;
        double rise = 0;
        double se = 0;
    };
    void fit(const std::vector<Observation>& observations);
    // A draw of the factors from what the fit leaves open.
    std::vector<double> draw(Random& random) const;

private:
    double part(std::size_t feature, const LayerOption& option) const;

    const std::vector<std::vector<LayerOption>>& m_options;
    // Feature 2 l: pruning of layer l, scale * error^power. Feature 2 l + 1: its ranks.
    std::vector<double> m_scale;
    std::vector<double> m_power;
    std::vector<double> m_factor;             // of each feature
    std::vector<std::vector<double>> m_root;  // lower Cholesky factor of the precision
};

}  // namespace espalier
