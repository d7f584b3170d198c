// A folder for exports, writing and verifying in one call, and plans that drop so many experts of every layer.
#pragma once

#include "core/compression_fixture.h"
#include "evaluate/evaluator.h"
#include "export/exporter.h"
#include "export/verify.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>

namespace espalier::test
{

namespace fs = std::filesystem;

inline std::string contents(const fs::path& path)
{
    std::ifstream in(path, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
}

inline void flipByte(const fs::path& path, std::uint64_t offset)
{
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    const int byte = file.get();
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(static_cast<char>(byte ^ 0x01));
    ASSERT_TRUE(file.good());
}

inline std::set<std::string> fileNames(const fs::path& folder)
{
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder))
        names.insert(entry.path().filename().string());
    return names;
}

class Export : public ::testing::Test
{
protected:
    Export() : folder(fs::temp_directory_path() / ("espalier-export-" + std::to_string(::getpid())))
    {
        fs::remove_all(folder);
        fs::create_directories(folder);
    }
    ~Export() override { fs::remove_all(folder); }

    ExportReport write(const Checkpoint& checkpoint, const CompressionPlan& plan, const std::string& flavor,
                       const std::string& name = "out", std::int64_t shardSize = 5'000'000'000)
    {
        ExportOptions options;
        options.flavor = flavor;
        options.out = folder / name;
        options.shardSize = shardSize;
        SilentJob job;
        return take(exportCheckpoint(checkpoint, plan, options, job));
    }
    Error refused(const Checkpoint& checkpoint, const CompressionPlan& plan, const ExportOptions& options)
    {
        SilentJob job;
        const auto result = exportCheckpoint(checkpoint, plan, options, job);
        if (result.ok()) throw std::runtime_error("the export was not refused");
        return result.error();
    }
    VerifyReport verify(const std::string& name, const fs::path& source = {})
    {
        VerifyOptions options;
        options.exported = folder / name;
        options.source = source;
        options.model.threads = 1;
        SilentJob job;
        return take(verifyExport(options, job));
    }
    static std::string failing(const VerifyReport& report)
    {
        std::string text;
        for (const VerifyCheck& check : report.checks)
            if (!check.holds) text += check.name + ": " + check.detail + "\n";
        return text;
    }
    // Perplexity of the reopened export and of source + plan: the same to the last bits.
    void expectSamePerplexity(const std::string& model, const std::shared_ptr<const Checkpoint>& source, const CompressionPlan& plan)
    {
        auto before = modelOf(source);
        auto after = modelOf(take(Checkpoint::open(folder / "out")));
        Evaluator preview(*before, stream(model, 64), 0), exported(*after, stream(model, 64), 0);
        SilentJob job;
        const auto windows = firstWindows(16);
        const double expected = perplexity(take(preview.run(plan, windows, {}, job))).ppl;
        const double ppl = perplexity(take(exported.run(CompressionPlan::identity(after->shape()), windows, {}, job))).ppl;
        EXPECT_NEAR(ppl / expected, 1.0, 1e-6);
    }

    fs::path folder;
};

inline CompressionPlan uniformPlan(const ModelShape& shape, int drop)
{
    CompressionPlan plan = CompressionPlan::identity(shape);
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        ExpertSet kept;
        for (int e = 0; e < layer.experts; ++e)
            if ((e + layer.index) % layer.experts >= drop) kept.push_back(e);
        plan = take(plan.withKept(shape, layer.index, kept));
    }
    return plan;
}

}  // namespace espalier::test
