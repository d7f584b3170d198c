// espalier_factors.safetensors: what a plan with whitened ranks needs of the calibration profile, so that the plan alone can be run and
// exported with nothing but the original model at hand. Of every factored matrix the first `rank` columns of its orthonormal basis Q
// [rows, rank], F32: U = Q and V = Q^T W (core/lowrank/whitened_svd.h).
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "plan/compression_plan.h"
#include "plan/factor_source.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace espalier
{

inline constexpr const char* kPlanFactorsName = "espalier_factors.safetensors";

// Bytes of the file for this plan, header included; `shape` is that of the model.
std::uint64_t planFactorBytes(const ModelShape& shape, const CompressionPlan& plan, const FactorSource& source);
// A stop is honoured between matrices. Errors: output.*, those of FactorSource::basis, cancelled.
Status writePlanFactors(const std::filesystem::path& path, const ModelShape& shape, const CompressionPlan& plan, const FactorSource& source,
                        JobContext& job);

// Whether the path is a file of this kind (by name), not a profile.
bool isPlanFactors(const std::filesystem::path& path);
// Stands for the profile the bases were taken from: same profileSha256, and bases up to the ranks of the plan. Immutable, any thread.
// Errors: checkpoint.* (the file is damaged), profile.invalid (it is another safetensors file).
Result<std::shared_ptr<const FactorSource>> openPlanFactors(const std::filesystem::path& path);

}  // namespace espalier
