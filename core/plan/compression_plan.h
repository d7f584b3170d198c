// CompressionPlan: everything that will be done to the model, as one immutable value. A change is `plan -> new plan`.
// Checked once at the edge (fromJson, with*); code behind relies on it: kept >= top_k, ids ascending and unique,
// 1 <= rank < break-even or dense (0).
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "plan/model_shape.h"

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

using ExpertSet = std::vector<int>;     // original expert ids, ascending
using RankTriple = std::array<int, 3>;  // gate, up, down; 0 = dense

struct LayerPlan {
    ExpertSet kept;                 // empty in a dense layer
    std::vector<RankTriple> ranks;  // per kept expert; empty = all dense
    std::optional<int> topK;        // only where it differs from the model's
    bool locked = false;            // not touched by allocators and searches
    ExpertSet protectedExperts;     // never dropped by allocators and searches

    bool operator==(const LayerPlan&) const = default;
};

struct FactorSettings {
    std::string method;         // "svd" or "whitened-svd"; empty when no rank is set
    std::string profileSha256;  // whitened-svd only
    bool operator==(const FactorSettings&) const = default;
};

// Identity of the model a plan was made for. All empty in a hand-written plan.
struct PlanModel {
    std::string modelType;
    std::string configSha256;
    std::string weightsSha256;
    bool operator==(const PlanModel&) const = default;
};

class CompressionPlan
{  // copy is one shared_ptr; any thread
public:
    CompressionPlan() = default;  // no layers; not valid for any model
    static CompressionPlan identity(const ModelShape& shape);

    int layerCount() const noexcept;
    const LayerPlan& layer(int layer) const;  // index over all decoder layers
    const FactorSettings& factors() const;
    const PlanModel& model() const;

    bool isIdentity(const ModelShape& shape) const;
    bool keeps(int layer, int expert) const;
    int keptExperts() const;  // over all layers
    bool hasRanks() const;
    // First layer whose numbers differ from the other plan's, or layerCount() when none does.
    int firstDifference(const CompressionPlan& other) const;

    // Each returns an error with code plan.* and the reason when the result would not be valid.
    [[nodiscard]] Result<CompressionPlan> withKept(const ModelShape& shape, int layer, ExpertSet kept) const;
    [[nodiscard]] Result<CompressionPlan> withRanks(const ModelShape& shape, int layer, std::vector<RankTriple> ranks) const;
    [[nodiscard]] CompressionPlan withLocked(int layer, bool locked) const;
    [[nodiscard]] CompressionPlan withProtected(int layer, int expert, bool isProtected) const;
    [[nodiscard]] CompressionPlan withFactors(FactorSettings factors) const;
    [[nodiscard]] CompressionPlan withModel(PlanModel model) const;

    // SHA-256 over version, layers (kept, ranks, top_k) and factors: what decides the numbers (cli.md 6). Identity layers are
    // left out, so a plan that lists them and one that does not are the same plan. Needs no shape.
    const std::string& hash() const;
    // Depends on what happens in layers below `layer` only; prefixHash(layerCount()) covers the whole plan.
    std::string prefixHash(int layer) const;

    bool operator==(const CompressionPlan& other) const;  // locks and protection included

private:
    struct Data;
    explicit CompressionPlan(std::shared_ptr<const Data> data) : m_data(std::move(data)) {}
    std::shared_ptr<const Data> m_data;

    friend Result<CompressionPlan> planFromJson(const Json&, const ModelShape&);
    friend Json toJson(const CompressionPlan&);
};

// espalier_plan.json (cli.md 6). Errors: plan.invalid, plan.unknown_layer, plan.unknown_expert, plan.kept_below_top_k,
// plan.rank_beyond_break_even, plan.version, plan.groups.
Result<CompressionPlan> planFromJson(const Json& value, const ModelShape& shape);
Json toJson(const CompressionPlan& plan);
Result<CompressionPlan> readPlanFile(const std::filesystem::path& path, const ModelShape& shape);

}  // namespace espalier
