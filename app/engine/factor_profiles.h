// --profile of the verbs that run or write a plan: where whitened factors come from.
#pragma once

#include "base/error.h"
#include "checkpoint/values_file.h"
#include "export/plan_factors.h"
#include "options.h"
#include "plan/factor_source.h"
#include "session/profile_parts.h"

#include <filesystem>
#include <vector>

namespace espalier
{

inline void addProfileOption(CLI::App* verb, std::vector<std::filesystem::path>& profiles)
{
    verb->add_option(
            "--profile", profiles,
            "Profile that whitened factors of the plan come from, espalier_factors.safetensors of an exported plan, or a values file with "
            "stored numbers that does not lie beside the plan (several: each plan finds its own)")
        ->type_name("FILE")
        ->allow_extra_args(false);
}

// Errors: profile.*.
inline Result<FactorSources> openProfiles(const std::vector<std::filesystem::path>& paths)
{
    FactorSources sources;
    for (const std::filesystem::path& path : paths) {
        if (isValuesFile(path)) {
            ESPALIER_TRY(auto values, openValuesFile(path));
            sources.push_back(std::move(values));
            continue;
        }
        if (isPlanFactors(path)) {
            ESPALIER_TRY(auto factors, openPlanFactors(path));
            sources.push_back(std::move(factors));
            continue;
        }
        ESPALIER_TRY(auto parts, ProfileParts::open(path));
        sources.push_back(std::move(parts));
    }
    return sources;
}

// Refuses early what would fail when the first factored layer runs, and says which experts fall back to other rules. `plan` gets the only
// profile given where it names none; `sources` get the values files that it reads and that lie beside `planFile`. Errors: those of
// addValuesFiles and factorSourceFor.
inline Status bindProfile(CompressionPlan& plan, const std::filesystem::path& planFile, FactorSources& sources,
                          const std::string& fingerprint, std::vector<std::string>& warnings)
{
    ESPALIER_CHECK_OK(addValuesFiles(plan, planFile, sources));
    plan = withGivenProfile(plan, sources);
    ESPALIER_TRY(const auto source, factorSourceFor(plan, sources, fingerprint));
    ESPALIER_TRY([[maybe_unused]] const auto constants, constantSourceFor(plan, sources, fingerprint));
    for (std::string& warning : factorWarnings(plan, source.get()))
        warnings.push_back(std::move(warning));
    return {};
}

}  // namespace espalier
