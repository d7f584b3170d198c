// What a plan is made by: which method fills each slot, and for how much. A value: chosen by options, by requests and in the window,
// written into plan files. What the methods it names can is core/pipeline's.
#pragma once

#include "base/method_registry.h"
#include "plan/layer_plan.h"
#include "plan/model_shape.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct ReceptiveFieldChoice {
    int sets = 3;       // K
    int blockSize = 3;  // T
};

// How many experts a layer that is not locked may keep, beyond what top-k, router groups and protected experts demand.
struct CountBounds {
    static constexpr int kAllLayers = -1;
    std::map<int, int> least;  // by decoder layer, or for all that are not named
    std::map<int, int> most;
    int multipleOf = 1;

    bool none() const { return least.empty() && most.empty() && multipleOf == 1; }
    // Per decoder layer as allocators take them (allocate/allocator.h); empty where nothing was said.
    std::vector<int> floors(const ModelShape& shape) const;
    std::vector<int> caps(const ModelShape& shape) const;
    bool allow(int layer, int count) const;
    bool operator==(const CountBounds&) const = default;
};

// Everything a plan depends on besides model, profile and text.
struct PlanRecipe {
    std::optional<int> keepTotal;       // routed experts kept; or
    std::optional<std::int64_t> bytes;  // the largest plan that is not larger than this
    bool uniformCount = false;
    CountBounds bounds;
    std::string score = "leave-one-out";
    std::string allocate = "importance";
    std::string select = "ranking";
    std::optional<ReceptiveFieldChoice> receptiveField;
    bool ranks = false;
    std::string rankRule = "moe-i2";
    std::optional<double> averageRank;     // ranks without either: autoAverageRank of the layer's shape
    std::optional<double> decomposeShare;  // in [0, 1)
    std::string factors;                   // empty: the best that the profile allows
    std::optional<ConstantKind> dropped;   // dropped experts become constants of this kind; otherwise they go
    std::vector<int> dropLayers;           // decoder layers that are left out, and
    int dropSimilar = 0;                   // so many of those that change the hidden state least
    std::string recover;                   // how what was lost is won back; empty: not
    std::string skip;                      // which experts a token may skip; empty: none. There is no method yet
    std::map<std::string, Params> params;  // by slot: score, allocate, select, rank, recover, skip
    std::uint64_t seed = 0;
    int threads = 0;

    Params paramsOf(const std::string& slot) const;
};

}  // namespace espalier
