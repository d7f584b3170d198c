#include "base/atomic_file.h"
#include "base/text.h"

#include <gtest/gtest.h>

#include <unistd.h>
#include <cstdlib>
#include <filesystem>
#include <fstream>

using namespace espalier;
namespace fs = std::filesystem;

namespace
{
class AtomicFileTest : public testing::Test
{
protected:
    void SetUp() override
    {
        std::string pattern = (fs::temp_directory_path() / "espalier-XXXXXX").string();
        folder = ::mkdtemp(pattern.data());
    }
    void TearDown() override { fs::remove_all(folder); }
    std::size_t fileCount() const
    {
        return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
    }
    fs::path folder;
};
}  // namespace

TEST_F(AtomicFileTest, ReplacesAndLeavesNothingBeside)
{
    const fs::path path = folder / "plan.json";
    ASSERT_TRUE(writeFileAtomically(path, "old").ok());
    ASSERT_TRUE(writeFileAtomically(path, "new").ok());
    EXPECT_EQ(*readTextFile(path, "plan", 100), "new");
    EXPECT_EQ(fileCount(), 1u);
}

TEST_F(AtomicFileTest, WithoutCommitTheOldFileStays)
{
    const fs::path path = folder / "plan.json";
    ASSERT_TRUE(writeFileAtomically(path, "old").ok());
    {
        auto file = AtomicFile::create(path);
        ASSERT_TRUE(file.ok());
        ASSERT_TRUE(file->write(std::as_bytes(std::span("half", 4))).ok());
        EXPECT_EQ(*readTextFile(path, "plan", 100), "old");
    }
    EXPECT_EQ(*readTextFile(path, "plan", 100), "old");
    EXPECT_EQ(fileCount(), 1u);
}

// What a killed writer left goes with the next write of the same output; what another one is writing, and what is somebody else's, stays.
TEST_F(AtomicFileTest, AbandonedTemporariesAreRemoved)
{
    const fs::path path = folder / "plan.json";
    std::ofstream(folder / "plan.json.partial-1-0") << "left by a kill";
    std::ofstream(folder / "plan.json.old") << "the user's";
    std::ofstream(folder / "other.json.partial-1-0") << "of another output";
    auto writing = AtomicFile::create(path);
    ASSERT_TRUE(writing.ok());
    ASSERT_TRUE(writing->write(std::as_bytes(std::span("first", 5))).ok());
    ASSERT_TRUE(writeFileAtomically(path, "second").ok());
    EXPECT_FALSE(fs::exists(folder / "plan.json.partial-1-0"));
    EXPECT_TRUE(fs::exists(folder / "plan.json.old"));
    EXPECT_TRUE(fs::exists(folder / "other.json.partial-1-0"));
    ASSERT_TRUE(fs::exists(writing->temporaryPath()));
    ASSERT_TRUE(writing->commit().ok());
    EXPECT_EQ(*readTextFile(path, "plan", 100), "first");
    EXPECT_EQ(fileCount(), 3u);
}

TEST_F(AtomicFileTest, AFolderThatIsNotThereIsAResourceError)
{
    const auto status = writeFileAtomically(folder / "missing" / "plan.json", "x");
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, "output.unwritable");
    EXPECT_EQ(status.error().exitCode(), 4);
    EXPECT_FALSE(status.error().kept.empty());
}
