// Where whitened factors and constants come from: a calibration profile that holds, for every expert matrix, an orthonormal basis in which
// the factors of any rank are slices (lowrank/whitened_svd.h). The model and the exporter know this interface only. No torch, no HDF5.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "plan/compression_plan.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

class StoredValues;

// What the second moment behind a basis is, by how many tokens it was taken of.
enum class FactorRule {
    Own,     // of the expert's own tokens, ridge 1e-6
    Ridge,   // of the expert's own tokens, fewer than twice the rank: ridge 1e-2
    Pooled,  // no token: of the inputs of all experts of the layer (gate and up)
    Plain,   // no token: none, the plain SVD (down; hidden activations of different experts have nothing in common)
};
std::string_view factorRuleName(FactorRule rule);  // "own", "ridge", "pooled", "plain"
// `tokens` routed to the expert; matrix: 0 gate, 1 up, 2 down.
FactorRule factorRule(std::int64_t tokens, int rank, int matrix);

struct FactorBasis {
    int rows = 0;  // output width of the matrix
    int columns = 0;
    std::vector<float> values;  // [rows][columns], columns orthonormal, most important first

    bool operator==(const FactorBasis&) const = default;
};

// A calibration profile, or the part of one that was exported with a plan, or a values file (stored() is not null; the rest then errs).
// Any thread.
class FactorSource
{
public:
    virtual ~FactorSource() = default;
    virtual const std::string& profileSha256() const = 0;  // what FactorSettings::profileSha256 names
    virtual const std::string& fingerprint() const = 0;    // of the model the profile belongs to
    // What was measured: {"text", "text_sha256", "tokens", "window_length", "dtype", "engine"}.
    virtual Json calibration() const = 0;
    virtual FactorRule rule(int layer, int expert, int rank, int matrix) const = 0;
    // The basis for factors of this rank (it has at least so many columns); the same for all ranks under one rule.
    // Errors: plan.profile_without_factors (nothing was collected for this matrix), profile.* while reading.
    virtual Result<FactorBasis> basis(int layer, int expert, int matrix, int rank) const = 0;
    // What stands in for an expert that became a constant, v_e [H]. Errors: plan.profile_without_constants (the outputs of experts were not
    // collected), profile.* while reading.
    virtual Result<std::vector<float>> constant(int layer, int expert, ConstantKind kind) const;
    // The stored numbers of a values file; null of a profile.
    virtual const StoredValues* stored() const { return nullptr; }
};

using FactorSources = std::vector<std::shared_ptr<const FactorSource>>;

// The profile that the plan's factors are made from, or null where they need none (no ranks, or plain SVD). `fingerprint` of the
// model. Errors: plan.profile_needed (none was given), plan.other_profile (others than the one the plan names), profile.other_model,
// plan.factors (Unsupported: a method that is not known).
Result<std::shared_ptr<const FactorSource>> factorSourceFor(const CompressionPlan& plan, const FactorSources& given,
                                                            const std::string& fingerprint);

// The profile that the plan's constants are read from, or null where it has none without stored values. Errors: plan.profile_needed,
// plan.other_profile, profile.other_model.
Result<std::shared_ptr<const FactorSource>> constantSourceFor(const CompressionPlan& plan, const FactorSources& given,
                                                              const std::string& fingerprint);

// A plan written by hand may ask for "whitened-svd" or for constants without naming the profile: the only one given is then the one that is
// meant.
CompressionPlan withGivenProfile(const CompressionPlan& plan, const FactorSources& given);

// For people: which matrices of the plan fall back to another rule than FactorRule::Own, at most one line per rule. `source` as
// factorSourceFor gives it.
std::vector<std::string> factorWarnings(const CompressionPlan& plan, const FactorSource* source);

}  // namespace espalier
