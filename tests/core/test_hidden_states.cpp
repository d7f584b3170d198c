#include "profile/hidden_states.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include <unistd.h>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

std::vector<WindowBatch> twoBatches()
{
    WindowBatch first, second;
    first.count = 3;
    first.length = 5;
    second.first = 3;
    second.count = 1;
    second.length = 5;
    return {first, second};
}

at::Tensor states(const WindowBatch& batch, float value)
{
    return at::full({static_cast<std::int64_t>(batch.count), batch.length, 4}, value, at::kFloat);
}

class HiddenStatesInFiles : public testing::Test
{
protected:
    void SetUp() override
    {
        m_folder = fs::temp_directory_path() / ("espalier-hidden-" + std::to_string(::getpid()));
        fs::remove_all(m_folder);
        fs::create_directories(m_folder);
    }
    void TearDown() override { fs::remove_all(m_folder); }

    const std::vector<WindowBatch> m_batches = twoBatches();
    fs::path m_folder;
};

// As a pass uses them: layer after layer, then killed in the middle of layer 2.
TEST_F(HiddenStatesInFiles, AKilledPassGoesOnFromTheLayerThatWasFinishedLast)
{
    {
        HiddenStates hidden(m_batches, 4, at::kFloat);
        ASSERT_TRUE(hidden.useFiles(m_folder, 0, false).ok());
        for (std::size_t b = 0; b < 2; ++b)
            hidden.setInput(b, states(m_batches[b], 1));
        for (int layer = 0; layer < 2; ++layer) {
            for (std::size_t b = 0; b < 2; ++b)
                hidden.setOutput(b, hidden.input(b) * 10 + static_cast<float>(b));
            ASSERT_TRUE(hidden.advance().ok());
        }
        hidden.setOutput(0, states(m_batches[0], -1));
    }
    HiddenStates hidden(m_batches, 4, at::kFloat);
    ASSERT_TRUE(hidden.useFiles(m_folder, 2, true).ok());
    EXPECT_TRUE(at::equal(hidden.input(0), states(m_batches[0], 100)));
    EXPECT_TRUE(at::equal(hidden.input(1), states(m_batches[1], 111)));
}

TEST_F(HiddenStatesInFiles, MemoryGivesTheSame)
{
    HiddenStates hidden(m_batches, 4, at::kFloat);
    hidden.setInput(0, states(m_batches[0], 1));
    hidden.setInput(1, states(m_batches[1], 2));
    hidden.setOutput(0, hidden.input(0) + 1);
    hidden.setOutput(1, hidden.input(1) + 1);
    EXPECT_TRUE(at::equal(hidden.input(0), states(m_batches[0], 1)));
    ASSERT_TRUE(hidden.advance().ok());
    EXPECT_TRUE(at::equal(hidden.input(0), states(m_batches[0], 2)));
    EXPECT_TRUE(at::equal(hidden.input(1), states(m_batches[1], 3)));
}

TEST_F(HiddenStatesInFiles, FilesOfAnotherPassAreRefused)
{
    HiddenStates hidden(m_batches, 4, at::kFloat);
    EXPECT_EQ(hidden.useFiles(m_folder, 1, true).error().code, "profile.other_run");
    {
        HiddenStates wider(m_batches, 8, at::kFloat);
        ASSERT_TRUE(wider.useFiles(m_folder, 0, false).ok());
    }
    HiddenStates again(m_batches, 4, at::kFloat);
    EXPECT_EQ(again.useFiles(m_folder, 1, true).error().code, "profile.other_run");
    HiddenStates nowhere(m_batches, 4, at::kFloat);
    EXPECT_EQ(nowhere.useFiles(m_folder / "missing", 0, false).error().code, "output.unwritable");
}

}  // namespace

}  // namespace espalier
