#include "pipeline/model_match.h"

#include "session/profile_file.h"

namespace espalier
{

PlanModel planModelOf(const Checkpoint& checkpoint)
{
    return {checkpoint.config().modelType, checkpoint.configSha256(), checkpoint.weightsSha256()};
}

Status checkPlanModel(const CompressionPlan& plan, const Checkpoint& checkpoint, bool allowOther)
{
    if (allowOther) return {};
    return checkPlanModel(plan, planModelOf(checkpoint), checkpoint.folder().string());
}

Status checkPlanModel(const CompressionPlan& plan, const PlanModel& own, const std::string& subject)
{
    const PlanModel& other = plan.model();
    const auto differs = [](const std::string& a, const std::string& b) { return !a.empty() && a != b; };
    if (differs(other.modelType, own.modelType) || differs(other.configSha256, own.configSha256) ||
        differs(other.weightsSha256, own.weightsSha256))
        return badInput("plan.other_model", subject, "The plan was made for another model: type or hashes differ.",
                        "Open the model it belongs to, or use --allow-other-model.");
    return {};
}

Result<CompressionPlan> readPlan(const std::filesystem::path& path, const Checkpoint& checkpoint, bool allowOther)
{
    ESPALIER_TRY(CompressionPlan plan, readPlanFile(path, checkpoint.shape()));
    ESPALIER_CHECK_OK(checkPlanModel(plan, checkpoint, allowOther));
    return plan;
}

Status checkProfileModel(const ProfileData& profile, const std::filesystem::path& path, const Checkpoint& checkpoint)
{
    if (profile.fingerprint == checkpoint.fingerprint()) return {};
    return badInput("profile.other_model", path.string(), "The profile was taken of another model.",
                    "Profile this model, or open the one it belongs to.");
}

Result<ProfileData> readProfileFor(const std::filesystem::path& path, const Checkpoint& checkpoint, bool allowOther)
{
    ESPALIER_TRY(ProfileData data, readProfile(path));
    if (!allowOther) ESPALIER_CHECK_OK(checkProfileModel(data, path, checkpoint));
    return data;
}

}  // namespace espalier
