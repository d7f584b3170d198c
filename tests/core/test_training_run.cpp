// From a plan and a text to stored numbers: steps, losses, the state on disk, merging.
#include "core/training_fixture.h"
#include "plan/values.h"
#include "recover/merged_values.h"
#include "recover/recover.h"
#include "recover/training_loss.h"
#include "recover/training_optimiser.h"
#include "recover/training_run.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <set>

#include <unistd.h>

namespace espalier
{

namespace
{

using test::must;
namespace fs = std::filesystem;

constexpr const char* kModel = "qwen2moe-tiny";

fs::path freshFolder(const std::string& name)
{
    fs::path folder = fs::temp_directory_path() / ("espalier-training-" + std::to_string(::getpid())) / name;
    fs::remove_all(folder);
    fs::create_directories(folder);
    return folder;
}

// A language that can be learned: the next token is three further on, now and then something else.
TokenWindows language(int windows, int length, unsigned seed)
{
    std::mt19937 random(seed);
    TokenWindows text;
    text.windowLength = length;
    text.source = "made";
    for (int w = 0; w < windows; ++w) {
        std::vector<int> row = {static_cast<int>(random() % 300)};
        while (static_cast<int>(row.size()) < length)
            row.push_back(random() % 8 == 0 ? static_cast<int>(random() % 300) : (row.back() + 3) % 300);
        text.rows.push_back(std::move(row));
    }
    text.textSha256 = hashOfRows(text.rows);
    return text;
}

CompressionPlan compressed(const ModelShape& shape)
{
    CompressionPlan plan = *CompressionPlan::identity(shape).withKept(shape, 1, {0, 2, 3, 5, 7, 8, 11});
    plan = *plan.withRanks(shape, 1, std::vector<RankTriple>(7, {5, 0, 6}));
    plan = *plan.withKept(shape, 2, {1, 2, 4, 5, 6});
    return plan.withFactors({.method = "svd", .profileSha256 = ""});
}

struct Tuning {
    std::unique_ptr<MoeModel> model;
    fs::path folder;

    explicit Tuning(const std::string& name) : folder(freshFolder(name))
    {
        ModelOptions options;
        options.threads = 2;
        model = must(MoeModel::create(must(Checkpoint::open(test::modelFixture(kModel))), options));
    }
    RecoverRequest request(const std::string& method, Params params)
    {
        return {.model = model.get(),
                .plan = compressed(model->shape()),
                .sources = {},
                .method = method,
                .params = std::move(params),
                .text = {language(24, 24, 1), {}},
                .gate = language(6, 24, 2),
                .seed = 4,
                .folder = folder / "run",
                .valuesFolder = folder / "values"};
    }
};

Params loraParams(int steps)
{
    return {{"steps", steps}, {"batch", 6}, {"rate", 2e-2}, {"evaluate-every", 4}, {"warmup", 1}, {"dropout", 0.1}};
}

// Asks for a stop when so many steps were reported.
class StopAfter final : public JobContext
{
public:
    explicit StopAfter(int steps) : m_steps(steps) {}
    bool stopRequested() const noexcept override { return m_seen >= m_steps; }
    void progress(std::int64_t, std::int64_t, std::string_view) override {}
    void partial(const Json& step) override
    {
        if (step.contains("step")) m_seen = step["step"].get<int>();
    }

private:
    const int m_steps;
    std::atomic<int> m_seen = 0;
};

double nllOf(const std::vector<WindowLoss>& losses) { return perplexity(losses).nll; }

std::set<std::string> storedNames(const ValuesInfo& values)
{
    const SafetensorsFile file = must(SafetensorsFile::open(values.file));
    std::set<std::string> names;
    for (const TensorInfo& info : file.tensors())
        names.insert(info.name);
    return names;
}

TEST(Lora, LearnsALanguage)
{
    Tuning run("learns");
    SilentJob job;
    RecoverRequest request = run.request("lora", loraParams(24));
    request.control = true;
    const RecoverResult result = must(recoverPlan(request, job));
    ASSERT_EQ(result.steps.size(), 24U);
    EXPECT_LT(result.steps.back().loss, 0.8 * result.steps.front().loss);
    EXPECT_TRUE(result.accepted);
    EXPECT_LT(nllOf(result.after), nllOf(result.before) - 0.3);
    EXPECT_LT(nllOf(result.control), nllOf(result.dense) - 0.3);
    ASSERT_TRUE(result.values.has_value());
    // Factors stay factors of their rank.
    const LayerPlan& layer = result.plan.layer(1);
    for (const Body& body : layer.content().bodies) {
        const auto& expert = std::get<ExpertBody>(body);
        EXPECT_EQ(expert.matrices[0].factorRank(), 5);
        EXPECT_EQ(expert.matrices[1].factorRank(), 0);
        EXPECT_EQ(expert.matrices[2].factorRank(), 6);
        for (const MatrixForm& form : expert.matrices)
            EXPECT_EQ(form.values, result.values->id);
    }
    const std::set<std::string> names = storedNames(*result.values);
    for (const char* name : {"layers.0.self_attn.q_proj.weight", "layers.3.mlp.shared_expert.down_proj.weight", "layers.1.experts.7.gate.U",
                             "layers.1.experts.7.up.weight", "layers.0.experts.1.down.weight"})
        EXPECT_TRUE(names.contains(name)) << name;
    EXPECT_FALSE(names.contains("layers.0.router"));
    // What was written is what was measured.
    FactorSources given;
    given.push_back(must(openValuesFile(result.values->file, result.values->id)));
    run.model->setFactorSources(given);
    const PreparedPlan prepared = must(run.model->prepare(result.plan));
    const c10::InferenceMode guard;
    double sum = 0;
    for (const std::vector<int>& row : request.gate->rows) {
        at::Tensor ids = at::empty({1, static_cast<std::int64_t>(row.size())}, at::kLong);
        std::copy(row.begin(), row.end(), ids.mutable_data_ptr<std::int64_t>());
        sum += must(run.model->tokenNll(must(run.model->hiddenStates(ids, prepared)), ids)).sum().item<double>();
    }
    EXPECT_NEAR(sum / (6 * 23), nllOf(result.after), 1e-5);
}

TEST(Lora, StoppedAndResumedIsTheSameToTheBit)
{
    SilentJob job;
    Tuning whole("whole"), halves("halves");
    const RecoverResult expected = must(recoverPlan(whole.request("lora", loraParams(10)), job));
    ASSERT_TRUE(expected.accepted);
    RecoverRequest request = halves.request("lora", loraParams(10));
    StopAfter stop(5);
    const RecoverResult half = must(recoverPlan(request, stop));
    EXPECT_TRUE(half.cancelled);
    EXPECT_EQ(half.steps.size(), 5U);
    // The look after step 4 is the best so far.
    EXPECT_LT(nllOf(half.after), nllOf(half.before));
    request.resume = RecoverResume::Yes;
    const RecoverResult rest = must(recoverPlan(request, job));
    ASSERT_EQ(rest.steps.size(), expected.steps.size());
    for (std::size_t i = 0; i < rest.steps.size(); ++i)
        EXPECT_EQ(rest.steps[i].loss, expected.steps[i].loss) << i;
    EXPECT_EQ(rest.plan.hash(), expected.plan.hash());
    std::error_code ignored;
    EXPECT_TRUE(fs::exists(halves.folder / "run" / "training.safetensors", ignored));
}

TEST(Lora, AnotherSeedDoesNotGoOn)
{
    Tuning run("seed");
    RecoverRequest request = run.request("lora", loraParams(6));
    StopAfter stop(3);
    must(recoverPlan(request, stop));
    request.resume = RecoverResume::Yes;
    request.seed = 5;
    SilentJob job;
    const auto refused = recoverPlan(request, job);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, "recover.other_run");
    EXPECT_FALSE(refused.error().kept.empty());
    request.seed = 4;
    EXPECT_EQ(must(recoverPlan(request, job)).steps.size(), 6U);
}

TEST(Lora, DamagedStateIsNamed)
{
    Tuning run("damaged");
    RecoverRequest request = run.request("lora", loraParams(6));
    StopAfter stop(3);
    must(recoverPlan(request, stop));
    std::ofstream(run.folder / "run" / "training.safetensors", std::ios::trunc) << "nothing";
    request.resume = RecoverResume::Yes;
    SilentJob job;
    const auto refused = recoverPlan(request, job);
    ASSERT_FALSE(refused.ok());
    EXPECT_TRUE(refused.error().code.starts_with("checkpoint.")) << refused.error().code;
}

// Gradients that are added up over parts of a step are those of the step.
TEST(Lora, MicroBatchesAddUp)
{
    Tuning one("one"), parts("parts");
    Params params = loraParams(4);
    params["dropout"] = 0.0;
    SilentJob job;
    const RecoverResult whole = must(recoverPlan(one.request("lora", params), job));
    params["micro-batch"] = 2;
    const RecoverResult split = must(recoverPlan(parts.request("lora", params), job));
    for (std::size_t i = 0; i < 4; ++i)
        EXPECT_NEAR(whole.steps[i].loss, split.steps[i].loss, 1e-4) << i;
}

// Tokens that do not count teach nothing: with the first half of each window masked, the second half decides the loss.
TEST(Lora, MaskedTokensDoNotCount)
{
    test::TrainingModel model(test::modelFixture(kModel));
    model.train(test::everything());
    TrainingBatch batch;
    batch.rows = language(2, 16, 3).rows;
    batch.scored.assign(2, std::vector<bool>(16, true));
    for (auto& row : batch.scored)
        std::fill(row.begin(), row.begin() + 8, false);
    SilentJob job;
    TrainingPass pass(*model.parts, model.plan, model.trainables.get());
    const double masked = must(pass.loss(batch, {}, job)).sum;
    const c10::InferenceMode guard;
    double expected = 0;
    for (const auto& row : batch.rows) {
        const at::Tensor ids = at::tensor(std::vector<std::int64_t>(row.begin(), row.end()), at::kLong).unsqueeze(0);
        const at::Tensor nll = must(model.model->tokenNll(must(model.model->hiddenStates(ids, model.plan)), ids));
        expected += nll.narrow(1, 7, 8).sum().item<double>();
    }
    EXPECT_NEAR(masked, expected, 1e-4);
}

// Windows of several lengths at once: the same loss, entropy and gradients as one after the other.
TEST(Batches, WindowsThatAreFilledUpCountAsThemselves)
{
    test::TrainingModel model(test::modelFixture(kModel));
    model.train(test::everything());
    model.shake(0.05);
    const std::vector<std::vector<int>> rows = {language(1, 9, 3).rows[0], language(1, 24, 4).rows[0], language(1, 17, 5).rows[0]};
    TrainingPass pass(*model.parts, model.plan, model.trainables.get());
    SilentJob job;
    PassSettings settings;
    settings.weight = 1.0 / 30;
    settings.entropyWeight = 0.3;
    settings.stepTokens = 9 + 24 + 17;
    double sum = 0, entropy = 0;
    model.trainables->gradients().zero_();
    TrainingBatch together;
    for (const auto& row : rows) {
        std::vector<bool> scored(row.size(), true);
        std::fill(scored.begin(), scored.begin() + 5, false);
        TrainingBatch one;
        addWindow(one, row, scored);
        EXPECT_TRUE(one.lengths.empty());
        addWindow(together, row, scored);
        const PassLoss loss = must(pass.gradients(one, settings, job));
        sum += loss.sum;
        entropy += loss.entropy;
    }
    const at::Tensor expected = model.trainables->gradients().clone();
    EXPECT_EQ(together.rows[0].size(), 24U);
    EXPECT_EQ(together.lengths, (std::vector<int>{9, 24, 17}));
    model.trainables->gradients().zero_();
    const PassLoss loss = must(pass.gradients(together, settings, job));
    EXPECT_NEAR(loss.sum, sum, 1e-5 * sum);
    EXPECT_NEAR(loss.entropy, entropy, 1e-6 * entropy);
    const double difference = (model.trainables->gradients() - expected).norm().item<double>();
    EXPECT_LT(difference, 1e-5 * expected.norm().item<double>());
}

TEST(Merging, MergedEqualsUnmerged)
{
    test::TrainingModel model(test::modelFixture(kModel));
    model.use(compressed(model.checkpoint->shape()));
    model.train(test::everything());
    model.shake(0.1);
    TrainingBatch batch;
    batch.rows = language(4, 24, 6).rows;
    SilentJob job;
    PassSettings settings;
    settings.weight = 1.0 / (4 * 23);
    TrainingPass pass(*model.parts, model.plan, model.trainables.get());
    const double unmerged = must(pass.loss(batch, settings, job)).sum * settings.weight;
    const MergedPlan merged = must(mergedPlan(*model.parts, model.plan, *model.trainables, freshFolder("merged")));
    ASSERT_EQ(merged.parts.size(), 4U);
    model.model->setFactorSources(merged.parts);
    const PreparedPlan prepared = must(model.model->prepare(merged.plan));
    TrainingPass plain(*model.parts, prepared, nullptr);
    const double after = must(plain.loss(batch, settings, job)).sum * settings.weight;
    EXPECT_NEAR(after, unmerged, 1e-6 * unmerged);
    TrainingPass before(*model.parts, model.plan, nullptr);
    EXPECT_GT(std::abs(must(before.loss(batch, settings, job)).sum * settings.weight - unmerged), 1e-3);
}

TEST(RouterKd, ChangesRoutersAlone)
{
    Tuning run("router");
    SilentJob job;
    const RecoverResult result =
        must(recoverPlan(run.request("router-kd", {{"steps", 12}, {"batch", 6}, {"rate", 1e-2}, {"evaluate-every", 4}}), job));
    EXPECT_LT(result.steps.back().loss, result.steps.front().loss);
    EXPECT_EQ(nllOf(result.control), nllOf(result.dense));
    ASSERT_TRUE(result.changed);
    ASSERT_TRUE(result.accepted);
    for (const std::string& name : storedNames(*result.values))
        EXPECT_TRUE(name.ends_with(".router")) << name;
    // Without the rows it is the plan that was given: every other number is what it was, to the bit.
    CompressionPlan without = result.plan;
    const SafetensorsFile file = must(SafetensorsFile::open(result.values->file));
    const CompressionPlan given = compressed(run.model->shape());
    int changed = 0;
    for (int l = 0; l < without.layerCount(); ++l) {
        LayerPlan::Content content = without.layer(l).content();
        ASSERT_EQ(content.router, result.values->id) << l;
        content.router.clear();
        without = must(without.with(run.model->shape(), l, LayerPlan(content)));
        // Of the routers too, the rows of experts that are gone.
        const TensorView own = run.model->checkpoint().router(l);
        const TensorInfo* info = file.find(routerValueName(l));
        ASSERT_NE(info, nullptr);
        ASSERT_EQ(info->shape, own.shape);
        const auto bytes = file.bytes(*info);
        ASSERT_EQ(bytes.size(), own.bytes.size());
        const auto row = bytes.size() / static_cast<std::size_t>(own.shape[0]);
        const std::vector<int> kept = given.layer(l).kept();
        for (std::size_t e = 0; e < static_cast<std::size_t>(own.shape[0]); ++e) {
            const bool same =
                std::equal(bytes.begin() + static_cast<std::ptrdiff_t>(e * row), bytes.begin() + static_cast<std::ptrdiff_t>((e + 1) * row),
                           own.bytes.begin() + static_cast<std::ptrdiff_t>(e * row));
            if (std::find(kept.begin(), kept.end(), static_cast<int>(e)) == kept.end())
                EXPECT_TRUE(same) << l << " " << e;
            else
                changed += !same;
        }
    }
    EXPECT_GT(changed, 0);
    EXPECT_EQ(without.withValues({}).hash(), given.hash());
}

// What is locked, and what is not trained, stays.
TEST(Lora, TrainsWhatItIsToldTo)
{
    Tuning run("told");
    SilentJob job;
    Params params = loraParams(8);
    params["experts"] = false;
    params["shared"] = false;
    RecoverRequest request = run.request("lora", params);
    request.plan = request.plan.withLocked(0, true);
    const RecoverResult result = must(recoverPlan(request, job));
    ASSERT_TRUE(result.accepted);
    const std::set<std::string> names = storedNames(*result.values);
    EXPECT_EQ(names.size(), 3U * 4);
    for (const std::string& name : names) {
        EXPECT_NE(name.find("self_attn."), std::string::npos) << name;
        EXPECT_FALSE(name.starts_with("layers.0.")) << name;
    }
}

// A text of one token that the gate's language has not: the answer is the plan as it was, and it is said how much worse the tuned one is.
TEST(Lora, WhatIsNotBetterIsNotOffered)
{
    Tuning run("worse");
    SilentJob job;
    Params params = loraParams(16);
    params["evaluate-every"] = 0;
    RecoverRequest request = run.request("lora", params);
    request.text.windows.rows.assign(12, std::vector<int>(24, 302));
    request.text.windows.textSha256 = hashOfRows(request.text.windows.rows);
    request.control = true;
    const RecoverResult result = must(recoverPlan(request, job));
    EXPECT_TRUE(result.changed);
    EXPECT_FALSE(result.accepted);
    EXPECT_FALSE(result.values.has_value());
    EXPECT_EQ(result.plan.hash(), request.plan.hash());
    EXPECT_GT(nllOf(result.after), nllOf(result.before));
    EXPECT_EQ(nllOf(result.control), nllOf(result.dense));
    EXPECT_EQ(result.madeBy["result"]["nll_control"], result.madeBy["result"]["nll_dense"]);
}

TEST(RouterKd, IdenticalModelsHaveNothingToLearn)
{
    Tuning run("identical");
    RecoverRequest request = run.request("router-kd", {{"steps", 2}, {"batch", 6}, {"rate", 1e-2}});
    request.plan = CompressionPlan::identity(run.model->shape());
    SilentJob job;
    const RecoverResult result = must(recoverPlan(request, job));
    EXPECT_NEAR(result.steps.front().loss, 0, 1e-6);
}

TEST(EntropyRouter, SharpensForFewerExperts)
{
    Tuning run("entropy");
    RecoverRequest request =
        run.request("entropy-router", {{"steps", 12}, {"batch", 6}, {"rate", 1e-2}, {"lambda", 0.1}, {"evaluate-every", 3}});
    for (int l = 0; l < request.plan.layerCount(); ++l) {
        LayerPlan::Content content = request.plan.layer(l).content();
        content.topK = 2;
        request.plan = *request.plan.with(run.model->shape(), l, LayerPlan(content));
    }
    SilentJob job;
    const RecoverResult result = must(recoverPlan(request, job));
    EXPECT_TRUE(result.accepted);
    EXPECT_EQ(*result.plan.layer(0).topK(), 2);
}

GlobalWeights headOf(const at::Tensor& rows)
{
    GlobalWeights globals;
    globals.head = rows;
    globals.vocabulary = rows.size(0);
    return globals;
}

TEST(Divergence, ByHand)
{
    const GlobalWeights globals = headOf(at::eye(2));
    const at::Tensor p = at::tensor({0.7, 0.3}, at::kFloat).log().unsqueeze(0);
    const at::Tensor q = at::tensor({0.5, 0.5}, at::kFloat).log().unsqueeze(0);
    const TeacherRows teacher = teacherRows(p, 1);
    const LossSum loss = divergenceLoss(q, teacher, 1, globals, 1, true);
    EXPECT_NEAR(loss.sum, 0.082283, 1e-6);
    EXPECT_NEAR(loss.gradient[0][0].item<double>(), -0.2, 1e-6);
    EXPECT_NEAR(loss.gradient[0][1].item<double>(), 0.2, 1e-6);
    const LossSum same = divergenceLoss(p, teacher, 1, globals, 1, true);
    EXPECT_NEAR(same.sum, 0, 1e-7);
    EXPECT_NEAR(same.gradient.abs().max().item<double>(), 0, 1e-7);
}

// More tokens than the teacher names: the rest is one.
TEST(Divergence, WithARestEqualsDifferences)
{
    at::manual_seed(1);
    const at::Tensor head = at::randn({400, 12});
    const GlobalWeights globals = headOf(head);
    const at::Tensor own = at::randn({5, 12}) * 0.3;
    for (const double temperature : {1.0, 2.5}) {
        const TeacherRows teacher = teacherRows(at::mm(at::randn({5, 12}) * 0.3, head.t()), temperature);
        EXPECT_EQ(teacher.tokens.size(1), kTeacherTokens);
        const at::Tensor all = teacher.logProbability.exp().sum({1}) + teacher.rest.exp();
        EXPECT_TRUE(at::allclose(all, at::ones({5}), 1e-5, 1e-5));
        const LossSum loss = divergenceLoss(own, teacher, temperature, globals, 1, true);
        EXPECT_GT(loss.sum, 0);
        const at::Tensor direction = at::randn({5, 12});
        const double step = 1e-3;
        const double up = divergenceLoss(own + direction * step, teacher, temperature, globals, 1, false).sum;
        const double down = divergenceLoss(own - direction * step, teacher, temperature, globals, 1, false).sum;
        EXPECT_NEAR((loss.gradient * direction).sum().item<double>(), (up - down) / (2 * step), 2e-2);
    }
}

TEST(AdamWStep, EqualsTheFormula)
{
    at::Tensor values = at::tensor({1.0, -2.0}, at::kFloat);
    AdamW optimiser = AdamW::of(values);
    StepSettings settings;
    settings.decay = 0.1;
    double p[] = {1, -2}, m[2] = {}, v[2] = {};
    for (int t = 1; t <= 3; ++t) {
        const double g[] = {0.5 / t, -0.25 * t};
        at::Tensor gradient = at::tensor({g[0], g[1]}, at::kFloat);
        optimiser.step(values, gradient, 0.01, settings);
        for (int i = 0; i < 2; ++i) {
            m[i] = 0.9 * m[i] + 0.1 * g[i];
            v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
            p[i] -= 0.01 * 0.1 * p[i];
            p[i] -= 0.01 * (m[i] / (1 - std::pow(0.9, t))) / (std::sqrt(v[i] / (1 - std::pow(0.999, t))) + 1e-8);
            EXPECT_NEAR(values[i].item<double>(), p[i], 1e-6);
        }
    }
    at::Tensor gradients = at::tensor({3.0, 4.0}, at::kFloat);
    EXPECT_NEAR(clipNorm(gradients, 1), 5, 1e-6);
    EXPECT_NEAR(gradients[0].item<double>(), 0.6, 1e-5);
    EXPECT_NEAR(clipNorm(gradients, 0), 1, 1e-5);
}

TEST(Schedule, RisesAndFalls)
{
    StepSettings settings;
    settings.steps = 10;
    settings.warmup = 2;
    settings.rate = 1;
    settings.schedule = LearningSchedule::Linear;
    EXPECT_DOUBLE_EQ(rateOf(settings, 1), 0);
    EXPECT_DOUBLE_EQ(rateOf(settings, 2), 0.5);
    EXPECT_DOUBLE_EQ(rateOf(settings, 3), 1);
    EXPECT_DOUBLE_EQ(rateOf(settings, 7), 0.5);
    settings.schedule = LearningSchedule::Cosine;
    EXPECT_DOUBLE_EQ(rateOf(settings, 7), 0.5);
    EXPECT_NEAR(rateOf(settings, 5), 0.5 * (1 + std::cos(M_PI / 4)), 1e-12);
    settings.schedule = LearningSchedule::Constant;
    EXPECT_DOUBLE_EQ(rateOf(settings, 10), 1);
}

TEST(Order, EveryEpochTakesEveryWindowOnce)
{
    StepSettings settings;
    settings.batch = 4;
    settings.seed = 8;
    std::vector<int> seen;
    for (int step = 1; step <= 5; ++step)
        for (const int window : windowsOfStep(settings, 10, step))
            seen.push_back(window);
    const std::set<int> first(seen.begin(), seen.begin() + 10), second(seen.begin() + 10, seen.end());
    EXPECT_EQ(first.size(), 10U);
    EXPECT_EQ(second.size(), 10U);
    EXPECT_FALSE(std::equal(seen.begin(), seen.begin() + 10, seen.begin() + 10));
    StepSettings other = settings;
    other.seed = 9;
    EXPECT_NE(windowsOfStep(settings, 10, 1), windowsOfStep(other, 10, 1));
}

TEST(Dropout, LeavesItsShareAndRepeats)
{
    const Dropout dropout{0.25, 7};
    const at::Tensor mask = dropout.mask(3, {200, 100}, c10::kCPU);
    EXPECT_NEAR(mask.mean().item<double>(), 1, 0.02);
    EXPECT_NEAR((mask == 0).to(at::kDouble).mean().item<double>(), 0.25, 0.02);
    EXPECT_TRUE(at::equal(mask, dropout.mask(3, {200, 100}, c10::kCPU)));
    EXPECT_FALSE(at::equal(mask, dropout.mask(4, {200, 100}, c10::kCPU)));
    EXPECT_FALSE((Dropout{0, 7}.mask(3, {2, 2}, c10::kCPU).defined()));
}

}  // namespace

}  // namespace espalier
