#include "checkpoint/tensor_files.h"
#include "core/compression_fixture.h"
#include "evaluate/evaluator.h"
#include "export/export_files.h"
#include "export/export_folder.h"
#include "export/exporter.h"
#include "export/layout.h"
#include "export/python_files.h"
#include "export/runtime_check.h"
#include "export/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;
using test::kShared;
using test::method;
using test::modelOf;
using test::openTiny;
using test::planOf;
using test::stream;
using test::take;
using test::tiny;
using ::testing::HasSubstr;

std::string contents(const fs::path& path)
{
    std::ifstream in(path, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
}

std::set<std::string> fileNames(const fs::path& folder)
{
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder))
        names.insert(entry.path().filename().string());
    return names;
}

void flipByte(const fs::path& path, std::uint64_t offset)
{
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    const int byte = file.get();
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(static_cast<char>(byte ^ 0x01));
    ASSERT_TRUE(file.good());
}

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

CompressionPlan uniformPlan(const ModelShape& shape, int drop)
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

TEST_F(Export, StockKeepsEverythingThatThePlanDoesNotTouch)
{
    const auto source = openTiny("qwen2moe-tiny");
    const CompressionPlan plan = uniformPlan(source->shape(), 4);
    const ExportReport report = write(*source, plan, "stock");
    EXPECT_EQ(report.flavor, "stock");
    EXPECT_EQ(fileNames(folder / "out"), (std::set<std::string>{"README.md", "config.json", "espalier_plan.json", "model.safetensors"}));
    EXPECT_FALSE(fs::exists(folder / "out.partial"));

    const auto exported = take(Checkpoint::open(folder / "out"));
    EXPECT_EQ(exported->config().modelType, "qwen2_moe");
    EXPECT_EQ(exported->shape().layers[2].experts, 8);
    for (const StoredTensor& stored : source->tensorsInOrder()) {
        const auto there = exported->tensor(stored.view.name);
        if (stored.role.kind != TensorRole::Kind::Other) continue;
        ASSERT_TRUE(there.ok()) << stored.view.name;
        EXPECT_TRUE(std::ranges::equal(there->bytes, stored.view.bytes)) << stored.view.name;
    }
    for (int l = 0; l < 4; ++l) {
        const ExpertSet& kept = plan.layer(l).kept();
        const TensorView before = source->router(l), after = exported->router(l);
        const std::size_t row = before.bytes.size() / 12;
        for (std::size_t j = 0; j < kept.size(); ++j) {
            EXPECT_TRUE(
                std::ranges::equal(after.bytes.subspan(j * row, row), before.bytes.subspan(static_cast<std::size_t>(kept[j]) * row, row)));
            for (const Matrix matrix : {Matrix::Gate, Matrix::Up, Matrix::Down})
                EXPECT_TRUE(std::ranges::equal(exported->expert(l, static_cast<int>(j), matrix).dense.bytes,
                                               source->expert(l, kept[j], matrix).dense.bytes));
        }
    }
    // The config differs in one value.
    Json config = take(readJsonFile(folder / "out" / "config.json", "config"));
    EXPECT_EQ(config["num_experts"], 8);
    config["num_experts"] = 12;
    EXPECT_EQ(config, take(readJsonFile(tiny("qwen2moe-tiny") / "config.json", "config")));

    expectSamePerplexity("qwen2moe-tiny", source, plan);
    const VerifyReport verified = verify("out");
    EXPECT_TRUE(verified.holds) << failing(verified);
    EXPECT_EQ(verified.planHash, plan.hash());
    EXPECT_EQ(verified.maxAbsLogitDifference, 0.0);
    EXPECT_EQ(verified.pplPreview, verified.pplExport);
}

TEST_F(Export, WithoutAChangeTheConfigStaysByteForByte)
{
    const auto source = openTiny("mixtral-tiny");
    write(*source, CompressionPlan::identity(source->shape()), "stock");
    EXPECT_EQ(contents(folder / "out" / "config.json"), contents(tiny("mixtral-tiny") / "config.json"));
    const VerifyReport report = verify("out");
    EXPECT_TRUE(report.holds) << failing(report);
}

TEST_F(Export, FactoredHoldsIrregularCountsAndRanks)
{
    const auto source = openTiny("mixtral-tiny");
    const CompressionPlan plan = planOf(method("mixtral-tiny"), "irregular_plain_rank", source->shape());
    const ExportReport report = write(*source, plan, "auto");
    EXPECT_EQ(report.flavor, "factored");
    const auto exported = take(Checkpoint::open(folder / "out"));
    const Json config = take(readJsonFile(folder / "out" / "config.json", "config"));
    EXPECT_EQ(config["model_type"], "espalier_mixtral");
    EXPECT_EQ(config["architectures"], Json::array({"EspalierMixtralForCausalLM"}));
    EXPECT_EQ(config["num_experts_per_layer"], Json::array({4, 3, 4, 4}));
    EXPECT_EQ(config["num_local_experts"], 4);
    EXPECT_EQ(config["per_layer_config"], (Json{{"1", {{"num_local_experts", 3}}}}));
    EXPECT_EQ(config["espalier"]["kept_experts"][3], Json::array({0, 1, 2, 7}));
    EXPECT_EQ(config["espalier"]["ranks"][2][3], Json::array({22, 22, 2}));
    EXPECT_EQ(config["rope_theta"], 1000000.0);

    // Rank 0 is dense and byte-identical; a rank stands as U [out,r] and V [r,in] under the same name.
    EXPECT_TRUE(std::ranges::equal(exported->expert(0, 3, Matrix::Gate).dense.bytes, source->expert(0, 7, Matrix::Gate).dense.bytes));
    const TensorView u = take(exported->tensor("model.layers.2.block_sparse_moe.experts.3.w2.U"));
    const TensorView v = take(exported->tensor("model.layers.2.block_sparse_moe.experts.3.w2.V"));
    EXPECT_EQ(u.shape, (std::vector<std::int64_t>{64, 2}));
    EXPECT_EQ(v.shape, (std::vector<std::int64_t>{2, 40}));
    EXPECT_FALSE(exported->tensor("model.layers.2.block_sparse_moe.experts.3.w2.weight").ok());
    const auto file = take(SafetensorsFile::open(folder / "out" / "model.safetensors"));
    EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"espalier.version", "1"}}));
    for (const auto& [name, content] : pythonFiles())
        EXPECT_EQ(contents(folder / "out" / name), contents(fs::path(ESPALIER_RESOURCES) / "python" / name)) << name;

    expectSamePerplexity("mixtral-tiny", source, plan);
    const VerifyReport verified = verify("out", tiny("mixtral-tiny"));
    EXPECT_TRUE(verified.holds) << failing(verified);

    // The reference's perplexity of the same plan.
    auto model = modelOf(exported);
    Evaluator evaluator(*model, stream("mixtral-tiny", 64), 0);
    SilentJob job;
    const auto losses = take(evaluator.run(CompressionPlan::identity(model->shape()), firstWindows(evaluator.windowCount()), {}, job));
    EXPECT_NEAR(perplexity(losses).ppl / method("mixtral-tiny")["ppl"]["irregular_plain_rank"]["w64"].get<double>(), 1.0, 2e-5);
}

TEST_F(Export, AnExportCanBeCompressedFurther)
{
    const auto source = openTiny("mixtral-tiny");
    const CompressionPlan first = planOf(method("mixtral-tiny"), "irregular_plain_rank", source->shape());
    write(*source, first, "factored", "first");
    const auto middle = take(Checkpoint::open(folder / "first"));
    const CompressionPlan second = take(CompressionPlan::identity(middle->shape()).withKept(middle->shape(), 0, {0, 2, 3}));
    write(*middle, second, "factored", "out");
    const Json config = take(readJsonFile(folder / "out" / "config.json", "config"));
    // Original ids of the first model; factors that were there stay as they are.
    EXPECT_EQ(config["espalier"]["kept_experts"][0], Json::array({1, 5, 7}));
    EXPECT_EQ(config["espalier"]["ranks"][0][1], Json::array({4, 12, 12}));
    EXPECT_EQ(config["num_experts_per_layer"], Json::array({3, 3, 4, 4}));
    VerifyReport report = verify("out");
    EXPECT_TRUE(report.holds) << failing(report);

    // Whole matrices again: every runtime, and the same model up to rounding.
    const CompressionPlan equal = take(take(take(CompressionPlan::identity(middle->shape()).withKept(middle->shape(), 0, {0, 2, 3}))
                                                .withKept(middle->shape(), 2, {0, 1, 3}))
                                           .withKept(middle->shape(), 3, {1, 2, 3}));
    ExportOptions stock;
    stock.flavor = "stock";
    stock.out = folder / "stock";
    EXPECT_EQ(refused(*middle, equal, stock).code, "export.ranks_not_dense");
    write(*middle, equal, "reconstructed", "whole");
    EXPECT_EQ(take(Checkpoint::open(folder / "whole"))->config().modelType, "mixtral");
    EXPECT_EQ(take(readJsonFile(folder / "whole" / "config.json", "config"))["architectures"], Json::array({"MixtralForCausalLM"}));
    report = verify("whole");
    EXPECT_TRUE(report.holds) << failing(report);
}

TEST_F(Export, ReconstructedMultipliesFactorsBack)
{
    const auto source = openTiny("qwen2moe-tiny");
    CompressionPlan plan = uniformPlan(source->shape(), 3);
    plan = take(plan.withRanks(source->shape(), 1, std::vector<RankTriple>(9, RankTriple{8, 0, 5})));
    const ExportReport report = write(*source, plan, "reconstructed");
    EXPECT_THAT(report.warnings, ::testing::Contains(HasSubstr("save neither disk nor memory")));
    const auto exported = take(Checkpoint::open(folder / "out"));
    EXPECT_EQ(exported->config().modelType, "qwen2_moe");
    EXPECT_THAT(contents(folder / "out" / "README.md"), HasSubstr("saves neither disk nor memory"));
    const VerifyReport verified = verify("out");
    EXPECT_TRUE(verified.holds) << failing(verified);
    EXPECT_GT(*verified.maxAbsLogitDifference, 0.0);
}

TEST_F(Export, ThePlanAloneIsAFewKilobytes)
{
    const auto source = openTiny("mixtral-tiny");
    const CompressionPlan plan = planOf(method("mixtral-tiny"), "irregular_plain_rank", source->shape());
    const ExportReport report = write(*source, plan, "plan");
    EXPECT_EQ(fileNames(folder / "out"), (std::set<std::string>{"README.md", "espalier_plan.json"}));
    EXPECT_LT(report.bytes, 10'000);
    const CompressionPlan read = take(readPlanFile(folder / "out" / "espalier_plan.json", source->shape()));
    EXPECT_EQ(read.hash(), plan.hash());
    EXPECT_EQ(read.model().configSha256, source->configSha256());
    EXPECT_EQ(read.model().weightsSha256, source->weightsSha256());
    const VerifyReport verified = verify("out");
    EXPECT_TRUE(verified.holds) << failing(verified);
}

TEST_F(Export, APlanThatDoesNotFitNamesLayersAndWaysOut)
{
    const auto source = openTiny("mixtral-tiny");
    const CompressionPlan plan = planOf(method("mixtral-tiny"), "pruned_irregular", source->shape());
    ExportOptions options;
    options.flavor = "stock";
    options.out = folder / "out";
    Error error = refused(*source, plan, options);
    EXPECT_EQ(error.code, "export.unequal_counts");
    EXPECT_EQ(error.exitCode(), 3);
    EXPECT_THAT(error.message, HasSubstr("most layers keep 4, but layer 1 (3 experts)"));
    EXPECT_THAT(error.action, HasSubstr("factored"));
    EXPECT_THAT(error.action, HasSubstr("plan"));
    options.flavor = "reconstructed";
    EXPECT_EQ(refused(*source, plan, options).code, "export.unequal_counts");

    const CompressionPlan ranked =
        take(uniformPlan(source->shape(), 4).withRanks(source->shape(), 2, std::vector<RankTriple>(4, RankTriple{8, 8, 8})));
    options.flavor = "stock";
    error = refused(*source, ranked, options);
    EXPECT_EQ(error.code, "export.ranks_not_dense");
    EXPECT_THAT(error.message, HasSubstr("layer 2"));

    options.flavor = "zip";
    EXPECT_EQ(refused(*source, plan, options).exitCode(), 2);
    options.flavor = "factored";
    FactorSettings whitened{"whitened-svd", std::string(64, 'a')};
    EXPECT_EQ(refused(*source, ranked.withFactors(whitened), options).code, "plan.profile_needed");
    EXPECT_FALSE(fs::exists(folder / "out"));
    EXPECT_FALSE(fs::exists(folder / "out.partial"));
}

TEST_F(Export, ALowerTopKIsWrittenWhereItDiffers)
{
    const auto source = openTiny("qwen2moe-tiny");
    const auto plan = [&](const Json& layers) { return take(planFromJson({{"version", 1}, {"layers", layers}}, source->shape())); };
    const ExpertSet all = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    const CompressionPlan one = plan({{{"layer", 1}, {"kept", {2, 5, 7}}, {"top_k", 3}}});
    write(*source, one, "factored");
    const auto exported = take(Checkpoint::open(folder / "out"));
    EXPECT_EQ(exported->shape().layers[1].router.topK, 3);
    EXPECT_EQ(exported->shape().layers[0].router.topK, 4);
    expectSamePerplexity("qwen2moe-tiny", source, one);
    VerifyReport report = verify("out");
    EXPECT_TRUE(report.holds) << failing(report);

    Json layers = Json::array();
    for (int l = 0; l < 4; ++l)
        layers.push_back({{"layer", l}, {"kept", all}, {"top_k", 2}});
    write(*source, plan(layers), "stock", "stock");
    EXPECT_EQ(take(readJsonFile(folder / "stock" / "config.json", "config"))["num_experts_per_tok"], 2);
    report = verify("stock");
    EXPECT_TRUE(report.holds) << failing(report);
}

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

// What is read otherwise than the source's config.json says is written as it was read, and verification asks what others make of it.
TEST_F(Export, TheConfigSaysWhatWasRead)
{
    const fs::path model = folder / "model";
    fs::create_directories(model);
    Json config = take(readJsonFile(tiny("mixtral-tiny") / "config.json", "config"));
    config["tie_word_embeddings"] = false;
    config["quantization_config"] = {{"quant_method", "fp8"}};
    config["num_nextn_predict_layers"] = 1;
    config["auto_map"] = {{"AutoConfig", "configuration_foreign.Config"}};
    config["torch_dtype"] = "float16";
    std::ofstream(model / "config.json") << config.dump(2);
    // Without its head and under names of a bare model, with a prediction layer behind the last one.
    const auto whole = take(SafetensorsFile::open(tiny("mixtral-tiny") / "model.safetensors"));
    std::vector<TensorDeclaration> declared;
    std::map<std::string, std::string> original;
    const auto declare = [&](const std::string& name, const TensorInfo& info) {
        declared.push_back({name, info.dtype, info.shape});
        original[name] = info.name;
    };
    for (const TensorInfo& info : whole.tensors())
        if (info.name != "lm_head.weight") declare(info.name.substr(6), info);
    declare("layers." + config["num_hidden_layers"].dump() + ".eh_proj.weight", *whole.find("model.norm.weight"));
    auto writer = take(SafetensorsWriter::create(model / "model.safetensors", declared));
    for (const TensorInfo& info : writer.order())
        ASSERT_TRUE(writer.write(whole.bytes(*whole.find(original.at(info.name)))).ok());
    ASSERT_TRUE(writer.finish().ok());
    const auto source = take(Checkpoint::open(model));
    const CompressionPlan plan = uniformPlan(source->shape(), 2);
    const auto objections = take(runtimeObjections(model));
    for (const char* said : {"not tied", "quantization_config", "configuration_foreign.py", "float16"})
        EXPECT_THAT(objections, ::testing::Contains(HasSubstr(said)));
    for (const char* flavor : {"stock", "factored"}) {
        const ExportReport report = write(*source, plan, flavor, flavor);
        EXPECT_THAT(report.warnings, ::testing::Contains(HasSubstr("1 tensors that are no part of the model were left out")));
        EXPECT_THAT(report.warnings, ::testing::Contains(HasSubstr("configuration_foreign.py")));
        const Json written = take(readJsonFile(folder / flavor / "config.json", "config"));
        EXPECT_EQ(written["tie_word_embeddings"], true);
        EXPECT_EQ(written["num_nextn_predict_layers"], 0);
        EXPECT_FALSE(written.contains("quantization_config"));
        EXPECT_EQ(written["torch_dtype"], source->shape().dtype == "F32" ? "float32" : "bfloat16");
        EXPECT_EQ(written.contains("auto_map"), std::string(flavor) == "factored");
        EXPECT_THAT(take(runtimeObjections(folder / flavor)), ::testing::IsEmpty());
        EXPECT_TRUE(take(openTensorFiles(folder / flavor)).find("model.embed_tokens.weight")) << "standard names";
        const VerifyReport verified = verify(flavor);
        EXPECT_TRUE(verified.holds) << failing(verified);
        EXPECT_THAT(contents(folder / flavor / "README.md"), HasSubstr("`configuration_foreign.py`"));
    }
    // An export that says something else to other programs does not hold, whatever Espalier reads.
    std::string text = contents(folder / "stock" / "config.json");
    const std::size_t at = text.find("\"tie_word_embeddings\": true");
    ASSERT_NE(at, std::string::npos);
    text.replace(at, 27, "\"tie_word_embeddings\": false");
    std::ofstream(folder / "stock" / "config.json", std::ios::trunc) << text;
    EXPECT_THAT(failing(verify("stock")), HasSubstr("runtime: config.json says that embeddings are not tied, but lm_head.weight is not"));
}

// The libraries that read an export stop at a byte order mark before JSON; one in the source does not travel.
TEST_F(Export, ByteOrderMarksStayBehind)
{
    const fs::path model = folder / "model";
    fs::copy(tiny("mixtral-tiny"), model);
    const std::string mark = "\xEF\xBB\xBF";
    for (const auto& [name, text] : std::map<std::string, std::string>{
             {"generation_config.json", R"({"eos_token_id": 2})"},
             {"tokenizer_config.json", R"({"auto_map": {"AutoTokenizer": ["tokenization_x.X", null]}, "bos_token": "<s>"})"},
             {"vocab.json", R"({"a": 0})"}})
        std::ofstream(model / name) << mark << text;
    std::ofstream(model / "merges.txt") << mark << "a b";
    const std::string config = contents(model / "config.json");
    std::ofstream(model / "config.json") << mark << config;
    const auto source = take(Checkpoint::open(model));
    write(*source, uniformPlan(source->shape(), 2), "stock");
    for (const char* name : {"config.json", "generation_config.json", "tokenizer_config.json", "vocab.json"}) {
        const std::string written = contents(folder / "out" / name);
        EXPECT_TRUE(written.starts_with("{")) << name;
        EXPECT_TRUE(Json::accept(written)) << name;
    }
    EXPECT_EQ(contents(folder / "out" / "vocab.json"), R"({"a": 0})");
    EXPECT_FALSE(take(readJsonFile(folder / "out" / "tokenizer_config.json", "tokenizer")).contains("auto_map"));
    EXPECT_EQ(contents(folder / "out" / "merges.txt"), mark + "a b") << "what is no JSON is copied byte for byte";
    const VerifyReport verified = verify("out");
    EXPECT_TRUE(verified.holds) << failing(verified);
}

// Vocabularies under any name, templates, settings; what JSON names is there, and code is named where it is missed.
TEST_F(Export, EverythingATokenizerNeedsTravelsButItsCode)
{
    const fs::path model = folder / "model";
    fs::copy(tiny("mixtral-tiny"), model);
    fs::create_directories(model / "additional_chat_templates");
    for (const char* name : {"tiktoken.model", "qwen.tiktoken", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
                             "added_tokens.json", "chat_template.jinja", "additional_chat_templates/rag.jinja", "words.dat",
                             "preprocessor_config.json", "tokenization_foreign.py", "helper.py", "optimizer.pt", "unrelated.dat"})
        std::ofstream(model / name) << "{}";
    std::ofstream(model / "tokenizer_config.json")
        << R"({"tokenizer_class": "Foreign", "vocab_file": "words.dat", "auto_map": {"AutoTokenizer": ["tokenization_foreign.Foreign", null]}})";
    std::ofstream(model / "generation_config.json") << R"({"eos_token_id": 2})";
    fs::create_symlink("nowhere", model / "tokenizer.model");
    const auto source = take(Checkpoint::open(model));
    ExportOptions options;
    options.flavor = "stock";
    options.out = folder / "out";
    SilentJob job;
    const ExportReport report = take(exportCheckpoint(*source, uniformPlan(source->shape(), 2), options, job));
    EXPECT_EQ(fileNames(folder / "out"),
              (std::set<std::string>{"README.md", "added_tokens.json", "additional_chat_templates", "chat_template.jinja", "config.json",
                                     "espalier_plan.json", "generation_config.json", "merges.txt", "model.safetensors",
                                     "preprocessor_config.json", "qwen.tiktoken", "spiece.model", "tiktoken.model", "tokenizer_config.json",
                                     "vocab.json", "vocab.txt", "words.dat"}));
    EXPECT_TRUE(fs::exists(folder / "out" / "additional_chat_templates" / "rag.jinja"));
    EXPECT_EQ(contents(folder / "out" / "generation_config.json"), R"({"eos_token_id": 2})") << "byte for byte where nothing changes";
    const Json settings = take(readJsonFile(folder / "out" / "tokenizer_config.json", "tokenizer"));
    EXPECT_FALSE(settings.contains("auto_map"));
    EXPECT_EQ(settings["tokenizer_class"], "Foreign");
    for (const char* said : {"helper.py, tokenization_foreign.py", "The source's tokenizer is Python code (tokenization_foreign.py)",
                             "tokenizer.model of the source is a link to a file that is not there"})
        EXPECT_THAT(report.warnings, ::testing::Contains(HasSubstr(said)));
    const std::string readme = contents(folder / "out" / "README.md");
    EXPECT_THAT(readme, HasSubstr("read `tokenization_foreign.py`, then copy it and `tokenizer_config.json` from the original"));
    EXPECT_THAT(readme, ::testing::Not(HasSubstr("AutoTokenizer")));
    const VerifyReport verified = verify("out");
    EXPECT_TRUE(verified.holds) << failing(verified);
}

TEST_F(Export, CompanionFilesTravelAndForeignCodeDoesNot)
{
    const fs::path model = folder / "model";
    fs::copy(tiny("mixtral-tiny"), model);
    for (const char* name :
         {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja", "LICENSE",
          "tokenization_foreign.py", "modeling_foreign.py", "pytorch_model.bin", "README.md", "model.safetensors.index.json.bak"})
        std::ofstream(model / name) << name << " of the source\n";
    const auto source = take(Checkpoint::open(model));
    ExportOptions options;
    options.flavor = "stock";
    options.out = folder / "out";
    options.measured = take(parseMeasured({{"text", "/data/validation.txt"},
                                           {"role", "live"},
                                           {"window_length", 256},
                                           {"windows", 16},
                                           {"ppl", 13.25},
                                           {"dense_ppl", 12.5},
                                           {"delta_nll", 0.0583},
                                           {"delta_nll_error", 0.0041}}));
    SilentJob job;
    ASSERT_TRUE(exportCheckpoint(*source, uniformPlan(source->shape(), 2), options, job).ok());
    EXPECT_EQ(fileNames(folder / "out"), (std::set<std::string>{"LICENSE", "README.md", "chat_template.jinja", "config.json",
                                                                "espalier_plan.json", "generation_config.json", "model.safetensors",
                                                                "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"}));
    EXPECT_EQ(contents(folder / "out" / "LICENSE"), "LICENSE of the source\n");
    const std::string readme = contents(folder / "out" / "README.md");
    EXPECT_THAT(readme, HasSubstr("8 of 32 routed experts are gone (25.0 %)"));
    EXPECT_THAT(readme, HasSubstr("| validation.txt (live) | 16 | 256 | 12.5000 | 13.2500 | +0.0583 ± 0.0041 |"));
    EXPECT_THAT(readme, ::testing::Not(HasSubstr("not measured")));
    EXPECT_THAT(readme, HasSubstr("AutoModelForCausalLM.from_pretrained"));
}

TEST_F(Export, MeasurementsComeFromTheWindowOrFromEvaluate)
{
    const auto source = openTiny("mixtral-tiny");
    const CompressionPlan plan = uniformPlan(source->shape(), 2);
    // As `evaluate --json` prints it: windows one by one, the dense model as reference.
    Json printed = {{"model", {{"path", "m"}, {"fingerprint", source->fingerprint()}}},
                    {"plan_hash", plan.hash()},
                    {"text", "test.txt"},
                    {"text_sha256", std::string(64, 'a')},
                    {"windows", {{{"window", 0}}, {{"window", 1}}, {{"window", 2}}}},
                    {"window_length", 64},
                    {"ppl", 20.5},
                    {"against", "dense"},
                    {"dtype", "fp32"},
                    {"reference", {{"ppl", 19.25}}},
                    {"delta", {{"nll", 0.0629}, {"se", 0.01}}}};
    ExportOptions options;
    options.flavor = "stock";
    options.out = folder / "out";
    options.measured = take(parseMeasured(printed));
    SilentJob job;
    ASSERT_TRUE(exportCheckpoint(*source, plan, options, job).ok());
    EXPECT_THAT(contents(folder / "out" / "README.md"), HasSubstr("| test.txt | 3 | 64 | 19.2500 | 20.5000 | +0.0629 ± 0.0100 |"));
    const Json recorded = take(readJsonFile(folder / "out" / "espalier_plan.json", "plan"));
    EXPECT_EQ(recorded["export"]["measured"][0]["windows"], 3);
    EXPECT_EQ(recorded["export"]["measured"][0]["dense_ppl"], 19.25);
    const VerifyReport report = verify("out");
    EXPECT_TRUE(report.holds) << failing(report);

    // Numbers of something else do not get into a README.
    options.force = true;
    printed["plan_hash"] = std::string(64, '0');
    options.measured = take(parseMeasured(printed));
    EXPECT_EQ(refused(*source, plan, options).code, "export.measured_other_plan");
    printed["plan_hash"] = plan.hash();
    printed["model"]["fingerprint"] = "another";
    options.measured = take(parseMeasured(printed));
    EXPECT_EQ(refused(*source, plan, options).code, "export.measured_other_plan");
    for (const char* field : {"text", "windows", "window_length", "ppl"}) {
        Json lacking = printed;
        lacking[field] = nullptr;
        const auto parsed = parseMeasured(lacking);
        ASSERT_FALSE(parsed.ok()) << field;
        EXPECT_EQ(parsed.error().code, "export.measured_invalid");
        EXPECT_THAT(parsed.error().message, HasSubstr(field));
    }
    // A plan that was compared with another one says nothing about the dense model.
    printed["against"] = "other-plan.json";
    EXPECT_FALSE(take(parseMeasured(printed)).front().densePpl);
}

// Larger or rarer sources lie beside the checkout.
class SharedSource : public Export, public ::testing::WithParamInterface<const char*>
{
};

TEST_P(SharedSource, EveryFlavourHolds)
{
    const fs::path path = kShared / "checkpoints" / GetParam();
    if (!fs::exists(path)) GTEST_SKIP() << path << " is not there: the shared fixtures are optional";
    const auto source = take(Checkpoint::open(path));
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

INSTANTIATE_TEST_SUITE_P(Fixtures, SharedSource,
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
