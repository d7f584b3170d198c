// Verification: what it finds, and that every form of every fixture holds.
#include "core/export_fixture.h"
#include "plan/cost_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace espalier
{

namespace
{

using namespace test;
using ::testing::HasSubstr;

TEST_F(Export, FindsOneFlippedByteAnywhere)
{
    const auto source = openTiny("mixtral-tiny");
    const CompressionPlan plan = planOf(method("mixtral-tiny"), "irregular_plain_rank", source->shape());
    write(*source, plan, "factored");
    ASSERT_TRUE(verify("out").holds);
    const fs::path weights = folder / "out" / "model.safetensors";
    const std::uint64_t size = fs::file_size(weights);
    const auto file = take(SafetensorsFile::open(weights));
    std::vector<std::pair<fs::path, std::uint64_t>> places;
    for (const std::uint64_t offset : {file.dataOffset(), file.dataOffset() + 1, size / 3, size / 2 + 5, size - 4, size - 1})
        places.emplace_back(weights, offset);
    for (const char* name : {"model.layers.2.block_sparse_moe.experts.3.w2.U", "model.layers.1.block_sparse_moe.gate.weight",
                             "model.layers.0.block_sparse_moe.experts.3.w1.weight", "model.norm.weight"})
        places.emplace_back(weights, file.dataOffset() + file.find(name)->begin + 8);  // low byte of a mantissa
    for (const char* name : {"README.md", "config.json", "espalier_plan.json", "modeling_espalier.py"}) {
        const fs::path path = folder / "out" / name;
        for (const std::uint64_t part : {std::uint64_t{1}, fs::file_size(path) / 2, fs::file_size(path) - 1})
            places.emplace_back(path, part);
    }
    for (const auto& [path, offset] : places) {
        flipByte(path, offset);
        EXPECT_FALSE(verify("out", tiny("mixtral-tiny")).holds) << path << " byte " << offset;
        flipByte(path, offset);
    }
    flipByte(weights, file.dataOffset() + file.find("model.norm.weight")->begin + 8);
    EXPECT_THAT(failing(verify("out")), HasSubstr("untouched-tensors: model.norm.weight differs from the source at byte 8"));
    flipByte(weights, file.dataOffset() + file.find("model.norm.weight")->begin + 8);
    EXPECT_TRUE(verify("out").holds);
}

TEST_F(Export, VerificationKnowsOtherSourcesAndPlans)
{
    const auto source = openTiny("mixtral-tiny");
    const CompressionPlan plan = uniformPlan(source->shape(), 2);
    write(*source, plan, "stock");
    VerifyOptions options;
    options.exported = folder / "out";
    options.plan = folder / "other.json";
    std::ofstream(folder / "other.json") << R"({"version": 1, "layers": [{"layer": 0, "kept": [0, 1, 2]}]})";
    SilentJob job;
    EXPECT_THAT(failing(take(verifyExport(options, job))), HasSubstr("plan: the export was made from another plan"));
    std::ofstream(folder / "other.json") << toJson(plan).dump();
    EXPECT_TRUE(take(verifyExport(options, job)).holds);

    // A fine-tuned copy has the same shapes.
    fs::copy(tiny("mixtral-tiny"), folder / "copy");
    fs::permissions(folder / "copy" / "model.safetensors", fs::perms::owner_all);
    flipByte(folder / "copy" / "model.safetensors", fs::file_size(folder / "copy" / "model.safetensors") - 3);
    options.source = folder / "copy";
    EXPECT_FALSE(take(verifyExport(options, job)).holds);

    options.exported = tiny("mixtral-tiny");
    const auto nothing = verifyExport(options, job);
    ASSERT_FALSE(nothing.ok());
    EXPECT_EQ(nothing.error().code, "export.not_an_export");
}

// Of all tensors in the files of a folder.
std::int64_t tensorBytes(const fs::path& folder)
{
    std::int64_t bytes = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder))
        if (entry.path().extension() == ".safetensors") {
            const auto file = take(SafetensorsFile::open(entry.path()));
            for (const TensorInfo& info : file.tensors())
                bytes += static_cast<std::int64_t>(info.byteCount());
        }
    return bytes;
}

class EverySource : public Export, public ::testing::WithParamInterface<const char*>
{
};

TEST_P(EverySource, EveryFlavourHolds)
{
    const auto source = take(Checkpoint::open(tiny(GetParam())));
    const ModelShape& shape = source->shape();
    // Groups must stay equal: drop the first expert of each.
    CompressionPlan uniform = CompressionPlan::identity(shape);
    CompressionPlan irregular = uniform;
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        const int size = layer.experts / layer.router.groups;
        ExpertSet kept;
        for (int e = 0; e < layer.experts; ++e)
            if (e % size != 0) kept.push_back(e);
        uniform = take(uniform.withKept(shape, layer.index, kept));
        if (layer.index % 2 == 1) irregular = take(irregular.withKept(shape, layer.index, kept));
        std::vector<RankTriple> ranks(irregular.layer(layer.index).kept().size(), RankTriple{5, 0, 7});
        irregular = take(irregular.withRanks(shape, layer.index, ranks));
    }
    write(*source, uniform, "stock", "stock");
    VerifyReport report = verify("stock");
    EXPECT_TRUE(report.holds) << failing(report);
    // What is said before is what is written: a column of the router with all that belongs to it (DeepSeek-V3's bias of the selection).
    EXPECT_EQ(tensorBytes(folder / "stock"), planCost(shape, uniform).bytes);
    const auto stock = take(Checkpoint::open(folder / "stock"));
    EXPECT_EQ(stock->config().modelType, source->config().modelType);
    for (const LayerShape& layer : shape.layers)
        if (layer.moe) {
            EXPECT_EQ(stock->fusedExperts(layer.index), source->fusedExperts(layer.index));
        }

    ExportOptions unfused;
    unfused.flavor = "stock";
    unfused.out = folder / "unfused";
    unfused.unfuse = true;
    SilentJob job;
    ASSERT_TRUE(exportCheckpoint(*source, uniform, unfused, job).ok());
    report = verify("unfused");
    EXPECT_TRUE(report.holds) << failing(report);

    write(*source, irregular, "factored", "factored", 200'000);
    report = verify("factored");
    EXPECT_TRUE(report.holds) << failing(report);
    EXPECT_EQ(tensorBytes(folder / "factored"), planCost(shape, irregular).bytes);

    const CompressionPlan ranked = [&] {
        CompressionPlan plan = uniform;
        for (const LayerShape& layer : shape.layers)
            if (layer.moe)
                plan = take(plan.withRanks(shape, layer.index,
                                           std::vector<RankTriple>(plan.layer(layer.index).kept().size(), RankTriple{5, 6, 0})));
        return plan;
    }();
    write(*source, ranked, "reconstructed", "reconstructed");
    report = verify("reconstructed");
    EXPECT_TRUE(report.holds) << failing(report);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, EverySource,
                         ::testing::Values("mixtral-tiny-fused-v5", "mixtral-bf16-sharded", "qwen2moe-mlponly", "qwen3moe-tiny",
                                           "qwen3moe-tiny-fused-v5", "qwen3moe-tied", "olmoe-tiny", "deepseekv2-lite-tiny",
                                           "deepseekv2-lite-tiny-fused-v5", "deepseekv2-full-tiny", "deepseekv3-tiny"),
                         [](const auto& info) {
                             std::string text = info.param;
                             std::replace(text.begin(), text.end(), '-', '_');
                             return text;
                         });

}  // namespace

}  // namespace espalier
