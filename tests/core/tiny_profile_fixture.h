// Tiny models of the fixtures and profiles of them, for tests of what a pass collects.
#pragma once

#include "checkpoint/checkpoint.h"
#include "model/moe_model.h"
#include "profile/profile_pass.h"
#include "tokenizer/windows.h"

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>

namespace espalier::test
{

inline std::unique_ptr<MoeModel> tinyModel(const std::string& name, Residency residency = Residency::Resident)
{
    auto checkpoint = Checkpoint::open(std::filesystem::path(ESPALIER_TEST_FIXTURES) / "model" / "checkpoints" / name);
    if (!checkpoint.ok()) throw std::runtime_error(checkpoint.error().describe());
    ModelOptions options;
    options.residency = residency;
    options.threads = 1;
    auto model = MoeModel::create(*checkpoint, options);
    if (!model.ok()) throw std::runtime_error(model.error().describe());
    return std::move(model).value();
}

// The ids that its profile fixture was made of, in windows of 64.
inline TokenWindows calibration(const std::string& name)
{
    const auto file = std::filesystem::path(ESPALIER_TEST_FIXTURES) / "profile" / (name + ".json");
    auto windows = windowsFromIds(file.string(), {.windowLength = 64}, 100000);
    if (!windows.ok()) throw std::runtime_error(windows.error().describe());
    return std::move(windows).value();
}

inline ProfileData profileOf(MoeModel& model, const TokenWindows& windows, const ProfileOptions& options)
{
    SilentJob job;
    auto data = runProfile(model, windows, options, job);
    if (!data.ok()) throw std::runtime_error(data.error().describe());
    return std::move(data).value();
}

}  // namespace espalier::test
