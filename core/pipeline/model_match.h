// Whether plans and profiles belong to a model. Any thread.
#pragma once

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "plan/compression_plan.h"
#include "statistics/profile_data.h"

#include <filesystem>
#include <string>

namespace espalier
{

// What a plan says about the model it was made for.
PlanModel planModelOf(const Checkpoint& checkpoint);

// Refuses a plan made for another model unless told otherwise. Error: plan.other_model.
Status checkPlanModel(const CompressionPlan& plan, const Checkpoint& checkpoint, bool allowOther);
// The same against a profile's model; `subject` names what it belongs to.
Status checkPlanModel(const CompressionPlan& plan, const PlanModel& own, const std::string& subject);
// Errors: plan.*, plan.other_model.
Result<CompressionPlan> readPlan(const std::filesystem::path& path, const Checkpoint& checkpoint, bool allowOther);

// Error: profile.other_model.
Status checkProfileModel(const ProfileData& profile, const std::filesystem::path& path, const Checkpoint& checkpoint);
// Refuses a profile of another model unless told otherwise. Errors: profile.*, profile.other_model.
Result<ProfileData> readProfileFor(const std::filesystem::path& path, const Checkpoint& checkpoint, bool allowOther);

}  // namespace espalier
