// Where the numbers of a plan file lie that a verb writes: beside it, so that both are moved together.
#pragma once

#include "base/atomic_file.h"
#include "base/error.h"
#include "plan/compression_plan.h"

#include <filesystem>
#include <optional>
#include <vector>

namespace espalier
{

// PLAN.json -> PLAN.values.safetensors
inline std::filesystem::path valuesBeside(const std::filesystem::path& plan)
{
    return plan.parent_path() / (plan.stem().string() + ".values.safetensors");
}

// Moves the file there, and names it so in the plan; without one, the plan as it is. Errors: output.*.
inline Result<CompressionPlan> withValuesBeside(const CompressionPlan& plan, const std::optional<ValuesInfo>& values,
                                                const std::filesystem::path& planFile)
{
    if (!values) return plan;
    const std::filesystem::path beside = valuesBeside(planFile);
    ESPALIER_CHECK_OK(syncAndRename(values->file, beside));
    std::vector<ValuesInfo> all = plan.values();
    for (ValuesInfo& info : all)
        if (info.id == values->id) info.file = beside.filename().string();
    return plan.withValues(std::move(all));
}

}  // namespace espalier
