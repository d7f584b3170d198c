// The folder of an export: what it may touch, how it is cut into files, and what interruptions leave.
#include "core/export_fixture.h"
#include "export/export_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <set>

namespace espalier
{

namespace
{

using namespace test;
using ::testing::HasSubstr;

// Asks for a stop, or kills the process, once so many bytes were written.
class StoppingJob final : public JobContext
{
public:
    explicit StoppingJob(std::int64_t after, bool kills = false) : m_after(after), m_kills(kills) {}
    bool stopRequested() const noexcept override { return m_done >= m_after; }
    void progress(std::int64_t done, std::int64_t, std::string_view) override
    {
        m_done = done;
        if (m_kills && done >= m_after) ::raise(SIGKILL);
    }
    void partial(const Json&) override {}

private:
    std::int64_t m_after = 0;
    std::int64_t m_done = 0;
    bool m_kills = false;
};

TEST_F(Export, NeverTouchesWhatIsNotItsOwn)
{
    const auto source = openTiny("mixtral-tiny");
    const CompressionPlan plan = uniformPlan(source->shape(), 2);
    ExportOptions options;
    options.flavor = "stock";
    for (const fs::path& inside : {tiny("mixtral-tiny"), tiny("mixtral-tiny") / "out", tiny("mixtral-tiny").parent_path(),
                                   tiny("mixtral-tiny") / ".." / "mixtral-tiny" / "x"}) {
        options.out = inside;
        options.force = true;
        EXPECT_EQ(refused(*source, plan, options).code, "export.into_source") << inside;
    }
    options.force = false;
    options.out = folder / "out";
    fs::create_directories(folder / "out");
    std::ofstream(folder / "out" / "thesis.txt") << "years of work";
    EXPECT_EQ(refused(*source, plan, options).code, "output.exists");
    options.force = true;
    EXPECT_THAT(refused(*source, plan, options).message, HasSubstr("not an export of Espalier"));
    EXPECT_EQ(contents(folder / "out" / "thesis.txt"), "years of work");

    fs::remove_all(folder / "out");
    SilentJob job;
    options.force = false;
    ASSERT_TRUE(exportCheckpoint(*source, plan, options, job).ok());
    EXPECT_EQ(refused(*source, plan, options).exitCode(), 3);
    // Replacing an earlier export leaves nothing of it.
    options.force = true;
    options.flavor = "plan";
    ASSERT_TRUE(exportCheckpoint(*source, plan, options, job).ok());
    EXPECT_EQ(fileNames(folder / "out"), (std::set<std::string>{"README.md", "espalier_plan.json"}));
    EXPECT_EQ(fileNames(folder), (std::set<std::string>{"out"}));
}

TEST_F(Export, DryRunPredictsEveryFileAndWritesNone)
{
    const auto source = openTiny("mixtral-tiny");
    const CompressionPlan plan = planOf(method("mixtral-tiny"), "irregular_plain_rank", source->shape());
    ExportOptions options;
    options.flavor = "factored";
    options.out = folder / "out";
    options.shardSize = 100'000;
    options.dryRun = true;
    SilentJob job;
    const ExportReport dry = take(exportCheckpoint(*source, plan, options, job));
    EXPECT_TRUE(fs::is_empty(folder));
    options.dryRun = false;
    const ExportReport real = take(exportCheckpoint(*source, plan, options, job));
    Json a = toJson(dry), b = toJson(real);
    a.erase("dry_run");
    b.erase("dry_run");
    EXPECT_EQ(a, b);
    for (const ExportedFile& file : real.files)
        EXPECT_EQ(fs::file_size(folder / "out" / file.name), static_cast<std::uintmax_t>(file.bytes)) << file.name;
    EXPECT_EQ(fileNames(folder / "out").size(), real.files.size());
}

TEST_F(Export, ShardsAreNamedAndIndexed)
{
    const auto source = openTiny("mixtral-tiny");
    const CompressionPlan plan = uniformPlan(source->shape(), 2);
    write(*source, plan, "stock", "out", 60'000);
    const Json index = take(readJsonFile(folder / "out" / "model.safetensors.index.json", "index"));
    std::set<std::string> shards;
    for (const auto& [name, shard] : index["weight_map"].items())
        shards.insert(shard);
    const std::size_t count = shards.size();
    ASSERT_GT(count, 5u);
    std::int64_t total = 0;
    for (const std::string& shard : shards) {
        const auto file = take(SafetensorsFile::open(folder / "out" / shard));
        std::uint64_t bytes = 0;
        for (const TensorInfo& info : file.tensors()) {
            bytes += info.byteCount();
            EXPECT_EQ(index["weight_map"][info.name], shard);
        }
        // Only a single tensor may be larger than the limit.
        EXPECT_TRUE(bytes <= 60'000 || file.tensors().size() == 1) << shard;
        total += static_cast<std::int64_t>(bytes);
        char name[64];
        std::snprintf(name, sizeof name, "-of-%05zu.safetensors", count);
        EXPECT_THAT(shard, HasSubstr(name));
    }
    EXPECT_EQ(index["metadata"]["total_size"], total);
    const std::string text = contents(folder / "out" / "model.safetensors.index.json");
    EXPECT_EQ(text, index.dump(2) + "\n");
    const VerifyReport report = verify("out");
    EXPECT_TRUE(report.holds) << failing(report);
}

TEST_F(Export, CancelledLeavesNoOutputAndResumes)
{
    const auto source = openTiny("mixtral-tiny");
    const CompressionPlan plan = planOf(method("mixtral-tiny"), "irregular_plain_rank", source->shape());
    ExportOptions options;
    options.flavor = "factored";
    options.out = folder / "out";
    StoppingJob early(20'000);
    auto result = exportCheckpoint(*source, plan, options, early);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().kind, ErrorKind::Cancelled);
    EXPECT_TRUE(fs::is_empty(folder));  // a single file: nothing worth keeping

    write(*source, plan, "factored", "reference", 60'000);
    options.shardSize = 60'000;
    StoppingJob late(200'000);
    result = exportCheckpoint(*source, plan, options, late);
    ASSERT_FALSE(result.ok());
    EXPECT_FALSE(fs::exists(folder / "out"));
    EXPECT_THAT(result.error().kept, HasSubstr("files are finished"));
    ASSERT_TRUE(fs::exists(folder / "out.partial" / "model-00001-of-00009.safetensors") || fs::exists(folder / "out.partial"))
        << result.error().kept;

    // Another plan does not go on with it.
    options.resume = true;
    EXPECT_EQ(refused(*source, CompressionPlan::identity(source->shape()), options).code, "export.nothing_to_resume");
    SilentJob job;
    const ExportReport report = take(exportCheckpoint(*source, plan, options, job));
    EXPECT_GT(report.resumedFiles, 0);
    EXPECT_EQ(fileNames(folder / "out"), fileNames(folder / "reference"));
    for (const std::string& name : fileNames(folder / "out"))
        EXPECT_EQ(contents(folder / "out" / name), contents(folder / "reference" / name)) << name;
    EXPECT_FALSE(fs::exists(folder / "out.partial"));
}

TEST_F(Export, KilledLeavesNoOutputAndResumes)
{
    const auto source = openTiny("mixtral-tiny");
    const CompressionPlan plan = uniformPlan(source->shape(), 2);
    ExportOptions options;
    options.flavor = "stock";
    options.out = folder / "out";
    options.shardSize = 60'000;
    const pid_t child = ::fork();
    if (child == 0) {
        StoppingJob job(200'000, true);
        (void)exportCheckpoint(*source, plan, options, job);
        ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    EXPECT_FALSE(fs::exists(folder / "out"));
    ASSERT_TRUE(fs::exists(folder / "out.partial"));

    options.resume = true;
    SilentJob job;
    const ExportReport report = take(exportCheckpoint(*source, plan, options, job));
    EXPECT_GT(report.resumedFiles, 1);
    for (const std::string& name : fileNames(folder / "out"))
        EXPECT_THAT(name, ::testing::Not(HasSubstr("partial")));
    EXPECT_FALSE(fs::exists(folder / "out.partial"));
    const VerifyReport verified = verify("out");
    EXPECT_TRUE(verified.holds) << failing(verified);

    // Something else under that name is not removed.
    fs::create_directories(folder / "second.partial" / "notes");
    options.out = folder / "second";
    options.resume = false;
    EXPECT_EQ(refused(*source, plan, options).code, "export.partial_in_the_way");
    EXPECT_TRUE(fs::exists(folder / "second.partial" / "notes"));
}

// A kill between any two calls of an export leaves a folder that the next one knows as its own.
TEST_F(Export, EveryMomentOfAKilledExportCanBeTakenUp)
{
    const auto source = openTiny("mixtral-tiny");
    const CompressionPlan plan = uniformPlan(source->shape(), 2);
    write(*source, plan, "stock", "reference", 60'000);
    const fs::path partial = folder / "out.partial";
    const auto stateOf = [&](const std::string& name) {
        // A stopped export leaves its state file and the shards it finished.
        ExportOptions options;
        options.flavor = "stock";
        options.out = folder / name;
        options.shardSize = 60'000;
        StoppingJob job(200'000);
        EXPECT_FALSE(exportCheckpoint(*source, plan, options, job).ok());
        return folder / (name + ".partial");
    };
    const fs::path stopped = stateOf("stopped");
    ASSERT_TRUE(fs::exists(stopped / kExportStateFile));
    const auto copyTree = [](const fs::path& from, const fs::path& to) { fs::copy(from, to, fs::copy_options::recursive); };
    const std::pair<const char*, std::function<void()>> moments[] = {
        {"the folder was made", [&] { fs::create_directories(partial); }},
        {"the state file was being written",
         [&] {
             fs::create_directories(partial);
             std::ofstream(partial / (std::string(kExportStateFile) + ".partial-4711")) << "{\"expo";
         }},
        {"shards were written",
         [&] {
             copyTree(stopped, partial);
             std::ofstream(partial / "model-00009-of-00009.safetensors.partial-4711") << "half";
         }},
        {"everything is there, the state file too",
         [&] {
             copyTree(folder / "reference", partial);
             fs::copy(stopped / kExportStateFile, partial / kExportStateFile);
         }},
        {"only the rename is missing", [&] { copyTree(folder / "reference", partial); }},
        {"only the rename is missing, and a byte was lost since",
         [&] {
             copyTree(folder / "reference", partial);
             const auto names = fileNames(partial);
             flipByte(partial / *names.lower_bound("model-00001"), 20'000);
         }},
        {"it was being removed",
         [&] {
             copyTree(stopped, partial);
             for (const std::string& name : fileNames(partial))
                 if (name != kExportStateFile) fs::remove(partial / name);
         }},
        {"a file of the source is there that the source lost since",
         [&] {
             copyTree(stopped, partial);
             std::ofstream(partial / "tokenizer.model") << "old";
         }},
    };
    for (const auto& [moment, make] : moments)
        for (const bool resume : {true, false}) {
            SCOPED_TRACE(std::string(moment) + (resume ? ", resumed" : ", afresh"));
            make();
            EXPECT_NE(partialState(partial).kind, PartialState::Kind::Foreign);
            ExportOptions options;
            options.flavor = "stock";
            options.out = folder / "out";
            options.shardSize = 60'000;
            options.resume = resume;
            options.force = !resume;
            SilentJob job;
            const auto report = exportCheckpoint(*source, plan, options, job);
            ASSERT_TRUE(report.ok()) << report.error().describe();
            EXPECT_EQ(fileNames(folder / "out"), fileNames(folder / "reference"));
            for (const std::string& name : fileNames(folder / "out"))
                EXPECT_EQ(contents(folder / "out" / name), contents(folder / "reference" / name)) << name;
            EXPECT_FALSE(fs::exists(partial));
            fs::remove_all(folder / "out");
        }
    // Somebody's notes, a file, a link to a folder of ours: not ours.
    fs::create_directories(partial / "notes");
    EXPECT_EQ(partialState(partial).kind, PartialState::Kind::Foreign);
    fs::remove_all(partial);
    std::ofstream(partial) << "text";
    EXPECT_EQ(partialState(partial).kind, PartialState::Kind::Foreign);
    fs::remove(partial);
    fs::create_directory_symlink(stopped, partial);
    EXPECT_EQ(partialState(partial).kind, PartialState::Kind::Foreign);
}

}  // namespace

}  // namespace espalier
