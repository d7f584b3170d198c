// Forms of an export: what is written for a plan, and plans that a form cannot say.
#include "core/export_fixture.h"
#include "export/python_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

namespace espalier
{

namespace
{

using namespace test;
using ::testing::HasSubstr;

TEST_F(Export, StockKeepsEverythingThatThePlanDoesNotTouch)
{
    const auto source = openTiny("qwen2moe-tiny");
    const CompressionPlan plan = uniformPlan(source->shape(), 4);
    const ExportReport report = write(*source, plan, "stock");
    EXPECT_EQ(report.flavor, "stock");
    EXPECT_EQ(fileNames(folder / "out"),
              (std::set<std::string>{"README.md", "config.json", "espalier_plan.json", "model.safetensors", "speed_espalier.py"}));
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
    EXPECT_EQ(contents(folder / "out" / timingFile().first), contents(fs::path(ESPALIER_RESOURCES) / "python" / timingFile().first));
    EXPECT_THAT(contents(folder / "out" / "README.md"), HasSubstr("python speed_espalier.py --against"));

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

}  // namespace

}  // namespace espalier
