// What tests of the profile pass share: tiny models, their calibration ids, folders of their own.
#pragma once

#include "checkpoint/checkpoint.h"
#include "core/shared_work.h"
#include "model/moe_model_torch.h"
#include "parity/golden.h"
#include "profile/profile_pass.h"
#include "tokenizer/windows.h"

#include <gtest/gtest.h>

#include <unistd.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

namespace espalier
{

namespace fs = std::filesystem;

inline const fs::path kFixtures = ESPALIER_TEST_FIXTURES;

class Folder
{
public:
    Folder()
    {
        m_path = fs::temp_directory_path() / (std::string("espalier-profile-") +
                                              testing::UnitTest::GetInstance()->current_test_info()->name() + std::to_string(::getpid()));
        fs::remove_all(m_path);
        fs::create_directories(m_path);
    }
    ~Folder() { fs::remove_all(m_path); }
    fs::path operator/(const std::string& name) const { return m_path / name; }

private:
    fs::path m_path;
};

inline std::string readBytes(const fs::path& path)
{
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

inline std::unique_ptr<MoeModel> openModel(const fs::path& folder)
{
    auto checkpoint = Checkpoint::open(folder);
    if (!checkpoint.ok()) throw std::runtime_error(checkpoint.error().describe());
    ModelOptions options;
    options.residency = Residency::Stream;
    options.threads = 1;  // tiny batches: a second thread only waits
    auto model = MoeModel::create(*checkpoint, options);
    if (!model.ok()) throw std::runtime_error(model.error().describe());
    return std::move(model).value();
}

inline std::unique_ptr<MoeModel> tinyModel(const std::string& name) { return openModel(kFixtures / "model" / "checkpoints" / name); }

inline TokenWindows calibration(const std::string& name)
{
    auto windows = windowsFromIds((kFixtures / "profile" / (name + ".json")).string(), {.windowLength = 64}, 100000);
    if (!windows.ok()) throw std::runtime_error(windows.error().describe());
    return std::move(windows).value();
}

// Records what a job reports, and asks for a stop once `stopAfter` layers are reported.
struct RecordingJob final : JobContext {
    int stopAfter = -1;
    std::vector<Json> partials;
    std::int64_t done = 0;
    std::int64_t total = 0;

    bool stopRequested() const noexcept override { return stopAfter >= 0 && static_cast<int>(partials.size()) >= stopAfter; }
    void progress(std::int64_t d, std::int64_t t, std::string_view) override
    {
        EXPECT_GE(d, done);
        done = d;
        total = t;
    }
    void partial(const Json& value) override { partials.push_back(value); }
};

inline ProfileData take(MoeModel& model, const TokenWindows& windows, const ProfileOptions& options = {})
{
    SilentJob job;
    auto data = runProfile(model, windows, options, job);
    if (!data.ok()) throw std::runtime_error(data.error().describe());
    return std::move(data).value();
}

}  // namespace espalier
