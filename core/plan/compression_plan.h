// CompressionPlan: everything that will be done to the model, as one immutable value. A change is `plan -> new plan`. State, not steps: for
// every slot of the model the one form it has; equal state has an equal hash, whatever the way there. Layers are shared between plans that
// do the same in them.
// Checked once at the edge (planFromJson, with*) by plan_rules; code behind relies on it.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "plan/layer_plan.h"
#include "plan/model_shape.h"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

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

// A values file that the plan reads (plan/values.h): where it lies, and what people want to know of it. The id is what counts: it is the
// SHA-256 of the file.
struct ValuesInfo {
    ValuesId id;
    std::string file;    // path; relative to the plan file where that is how it was written
    std::string madeBy;  // as StoredValues::madeBy; may be empty
    bool operator==(const ValuesInfo&) const = default;
};

// What guides the hand and decides no number: no part of the hash.
struct PlanMarks {
    std::vector<int> locked;                    // layers that allocators and searches leave as they are; ascending
    std::map<int, ExpertSet> protectedExperts;  // per layer: never dropped by them; no empty sets
    bool operator==(const PlanMarks&) const = default;
};

class CompressionPlan
{  // copy is one shared_ptr; any thread
public:
    CompressionPlan() = default;  // no layers; not valid for any model
    static CompressionPlan identity(const ModelShape& shape);

    int layerCount() const noexcept;
    const LayerPlan& layer(int layer) const;  // index over all decoder layers
    const FactorSettings& factors() const;
    // The profile that constants without stored values come from; empty where there are none, or in a plan written by hand.
    const std::string& constantsProfile() const;
    const PlanModel& model() const;
    const PlanMarks& marks() const;
    // Where values files lie, as far as it is known; no part of the hash, which has their ids.
    const std::vector<ValuesInfo>& values() const;

    bool isLocked(int layer) const;
    // Locked, or without experts that run: allocators and searches leave the layer as it is.
    bool isFixed(int layer) const;
    const ExpertSet& protectedExperts(int layer) const;

    bool isWholeLayer(int layer) const;  // nothing happens in it
    bool isIdentity(const ModelShape& shape) const;
    bool keeps(int layer, int expert) const;
    int keptExperts() const;  // over all layers
    int runningLayers() const;
    bool hasRanks() const;      // of version 1
    bool needsFactors() const;  // ranks, or other forms that are derived by the recipe of factors
    bool hasConstants() const;
    bool needsConstants() const;  // some constants come from a profile, not from a values file
    bool isPlain() const;         // version 1 of the file format can say it
    // First layer whose numbers differ from the other plan's, or layerCount() when none does.
    int firstDifference(const CompressionPlan& other) const;

    // Each returns an error with code plan.* and the reason when the result would not be valid.
    // The one edit: everything else is made of it (plan_edit.h).
    [[nodiscard]] Result<CompressionPlan> with(const ModelShape& shape, int layer, LayerPlan plan) const;
    // Forms stay with the experts that stay; one that returns is as the checkpoint has it; constants that are not kept stay constants.
    [[nodiscard]] Result<CompressionPlan> withKept(const ModelShape& shape, int layer, const ExpertSet& kept) const;
    // `ranks` per kept expert, or empty: all dense.
    [[nodiscard]] Result<CompressionPlan> withRanks(const ModelShape& shape, int layer, const std::vector<RankTriple>& ranks) const;
    [[nodiscard]] CompressionPlan withLocked(int layer, bool locked) const;
    [[nodiscard]] CompressionPlan withProtected(int layer, int expert, bool isProtected) const;
    [[nodiscard]] CompressionPlan withMarks(PlanMarks marks) const;
    [[nodiscard]] CompressionPlan withFactors(FactorSettings factors) const;
    [[nodiscard]] CompressionPlan withConstantsProfile(std::string profileSha256) const;
    [[nodiscard]] CompressionPlan withModel(PlanModel model) const;
    [[nodiscard]] CompressionPlan withValues(std::vector<ValuesInfo> values) const;

    // SHA-256 over everything that decides the numbers: version, layers, factors, the profile of constants. Layers in which nothing happens
    // are left out, so a plan that lists them and one that does not are the same plan. Needs no shape. A plan that version 1 can say has
    // the hash of version 1.
    const std::string& hash() const;

    // What reaches a half of a layer: equal for two plans exactly when they do the same everywhere below it. Chained, all of them computed
    // once. entryDigest(layerCount(), Attention) covers the whole plan.
    enum class Half { Attention, Experts };
    const Sha256Digest& entryDigest(int layer, Half half) const;

    bool operator==(const CompressionPlan& other) const;  // marks included

private:
    struct Data;
    explicit CompressionPlan(std::shared_ptr<const Data> data) : m_data(std::move(data)) {}
    static CompressionPlan of(Data data);
    std::shared_ptr<const Data> m_data;
};

// espalier_plan.json, version 1 and 2; a plan that version 1 can say is written as version 1. Errors: plan.invalid, plan.unknown_layer,
// plan.unknown_expert, plan.kept_below_top_k, plan.rank_beyond_break_even, plan.version, plan.groups, plan.factors, and
// plan.unknown_content (Unsupported) for anything whose meaning is not known here: nothing is left out in silence.
Result<CompressionPlan> planFromJson(const Json& value, const ModelShape& shape);
Json toJson(const CompressionPlan& plan);
Result<CompressionPlan> readPlanFile(const std::filesystem::path& path, const ModelShape& shape);

}  // namespace espalier
