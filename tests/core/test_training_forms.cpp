// Training under every kind of plan: gradients are those of what runs, merging gives the same model, or the plan is refused by name.
#include "core/gradient_check.h"
#include "core/stored_forms.h"
#include "plan/plan_edit.h"
#include "recover/merged_values.h"

#include <unistd.h>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;
using test::must;

constexpr int kLayer = 1;

class TrainingForms : public testing::TestWithParam<const char*>
{
protected:
    TrainingForms() : model(test::modelFixture(GetParam())), stored(*model.checkpoint, kLayer) { fs::create_directories(folder); }
    ~TrainingForms() override
    {
        std::error_code ignored;
        fs::remove_all(folder, ignored);
    }
    const ModelShape& shape() const { return model.checkpoint->shape(); }

    void expectTrained(const CompressionPlan& plan, const FactorSources& sources, const std::string& name)
    {
        SCOPED_TRACE(name);
        model.model->setFactorSources(sources);
        model.use(plan);
        model.train(test::everything());
        model.shake(0.05);
        const TrainingBatch batch = test::steadyBatch(model, GetParam());
        PassSettings settings;
        settings.weight = 1.0 / static_cast<double>(test::scoredRows(batch));
        test::expectGradients(model, batch, settings, 0, 10);
        SilentJob job;
        TrainingPass pass(*model.parts, model.plan, model.trainables.get());
        const double unmerged = must(pass.loss(batch, settings, job)).sum * settings.weight;
        const MergedPlan merged = must(mergedPlan(*model.parts, model.plan, *model.trainables, folder / "parts"));
        FactorSources all = sources;
        all.insert(all.end(), merged.parts.begin(), merged.parts.end());
        model.model->setFactorSources(all);
        const PreparedPlan prepared = must(model.model->prepare(merged.plan));
        TrainingPass plain(*model.parts, prepared, nullptr);
        // 1e-6 of a loss, where the checkpoint stores numbers that hold it.
        EXPECT_NEAR(must(plain.loss(batch, settings, job)).sum * settings.weight, unmerged, 1e-6 * unmerged);
    }

    test::TrainingModel model;
    test::StoredForms stored;
    const fs::path folder = fs::temp_directory_path() / ("espalier-training-forms-" + std::to_string(::getpid()));
};

TEST_P(TrainingForms, StoredOnes)
{
    const ValuesInfo info = stored.write(folder / "values");
    const FactorSources sources = {must(openValuesFile(info.file, info.id))};
    for (const test::FormCase& one : stored.cases(info.id))
        expectTrained(must(CompressionPlan::identity(shape()).with(shape(), kLayer, LayerPlan(one.content))), sources, one.name);
}

TEST_P(TrainingForms, SkippedExpertsAndLayers)
{
    const CompressionPlan whole = CompressionPlan::identity(shape());
    for (const SkipRule& rule : {SkipRule{SkipRule::Kind::Ratio, 700'000}, SkipRule{SkipRule::Kind::Cumulative, 600'000}})
        expectTrained(must(withSkipRule(shape(), whole, kLayer, rule)), {}, rule.kind == SkipRule::Kind::Ratio ? "ratio" : "cumulative");
    for (const LayerRun run : {LayerRun::Skipped, LayerRun::AttentionOnly, LayerRun::ExpertsOnly})
        expectTrained(must(withRun(shape(), whole, kLayer, run)), {}, "run " + std::to_string(static_cast<int>(run)));
}

TEST_P(TrainingForms, AMergedLayerIsRefusedByName)
{
    const LayerMerge merge{.layer = kLayer + 1, .alphaMillionths = 500'000, .alignment = ""};
    const CompressionPlan plan = must(withMergedLayer(shape(), CompressionPlan::identity(shape()), kLayer, merge));
    model.use(must(withRun(shape(), plan, kLayer + 1, LayerRun::Skipped)));
    model.train(test::everything());
    SilentJob job;
    TrainingPass pass(*model.parts, model.plan, model.trainables.get());
    const auto refused = pass.gradients(test::goldenBatch(GetParam()), {}, job);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, "plan.form_not_run");
}

INSTANTIATE_TEST_SUITE_P(All, TrainingForms, testing::Values("qwen2moe-tiny", "deepseekv3-tiny"), [](const auto& info) {
    std::string name = info.param;
    std::erase(name, '-');
    return name;
});

}  // namespace

}  // namespace espalier
