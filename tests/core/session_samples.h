// Values that fill every field of sessions and profiles, for the round trips.
#pragma once

#include "session/profile_file.h"
#include "session/session_file.h"

#include <gtest/gtest.h>

#include <unistd.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>

namespace espalier::test
{

// A folder of this test's own, removed at the end.
class Folder
{
public:
    Folder()
    {
        const auto* info = testing::UnitTest::GetInstance()->current_test_info();
        m_path = std::filesystem::temp_directory_path() /
                 (std::string("espalier-") + info->test_suite_name() + "-" + info->name() + "-" + std::to_string(::getpid()));
        std::filesystem::remove_all(m_path);
        std::filesystem::create_directories(m_path);
    }
    ~Folder() { std::filesystem::remove_all(m_path); }
    std::filesystem::path operator/(const std::string& name) const { return m_path / name; }
    const std::filesystem::path& path() const { return m_path; }

private:
    std::filesystem::path m_path;
};

inline std::string readBytes(const std::filesystem::path& path)
{
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

inline void writeBytes(const std::filesystem::path& path, const std::string& bytes)
{
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// A dense layer and two MoE layers with 6 and 4 experts, top-2.
inline ModelShape smallShape()
{
    ModelShape shape;
    shape.modelType = "qwen2_moe";
    shape.architecture = "Qwen2MoeForCausalLM";
    shape.dtype = "BF16";
    shape.hiddenSize = 8;
    shape.vocabularySize = 32;
    shape.embeddingParameters = 256;
    shape.embeddingBytes = 512;
    for (int l = 0; l < 3; ++l) {
        LayerShape layer;
        layer.index = l;
        layer.moe = l != 0;
        layer.denseWidth = l == 0 ? 16 : 0;
        if (layer.moe) {
            layer.experts = l == 1 ? 6 : 4;
            layer.router.rule = RoutingRule::SoftmaxRenormalised;
            layer.router.topK = 2;
            layer.expertWidth = 12;
            layer.expertParameters = 3 * 8 * 12;
            layer.bytesPerExpert = 2 * 3 * 8 * 12;
            layer.routerParametersPerExpert = 8;
            layer.routerBytesPerExpert = 16;
        }
        shape.layers.push_back(layer);
    }
    return shape;
}

inline SessionData sampleSession()
{
    SessionData data;
    data.shape = smallShape();
    data.model = {.path = "/models/small", .fingerprint = "f1", .configSha256 = "c1", .weightsSha256 = "w1"};
    data.texts = {{.role = "calibration", .path = "/texts/a.txt"},
                  {.role = "live", .path = "/texts/b.txt", .firstWindow = 96, .windows = 128, .part = true, .textSha256 = "t1"}};
    const CompressionPlan root = CompressionPlan::identity(data.shape);
    const CompressionPlan first = *root.withKept(data.shape, 1, {0, 2, 5});
    const CompressionPlan second = first.withLocked(2, true).withProtected(1, 2, true);
    data.history = PlanHistory(root, "Opened", 100);
    data.history.commit(first, "Layer 1: keep 6 → 3", 110);
    data.history.undo();
    data.history.commit(second, "Other branch", 120);
    data.snapshots = {{.name = "A", .note = "first try", .colour = "#1a2b3c", .plan = first, .time = 115}};
    SessionRun run;
    run.planHash = first.hash();
    run.tier = "quick";
    run.textSha256 = "t1";
    run.tokenizerSha256 = "k1";
    run.windowLength = 256;
    run.bos = true;
    run.dtype = "fp32";
    run.losses = {{.window = 0, .nll = 812.1234567890123, .tokens = 255}, {.window = 3, .nll = 1.0 / 3.0, .tokens = 255}};
    run.settings = {{"against", "dense"}};
    run.time = 130;
    data.runs = {run, run};
    data.openings = {{.planHash = first.hash(),
                      .planName = "Layer 1: keep 6 → 3",
                      .text = "/texts/c.txt",
                      .textSha256 = "t2",
                      .windows = 128,
                      .windowLength = 256,
                      .time = 140,
                      .ppl = 45.5,
                      .pplError = 0.4,
                      .densePpl = 40.25,
                      .deltaNll = 0.1226,
                      .deltaNllError = 0.002}};
    data.tasks = {{.planHash = first.hash(),
                   .planName = "Layer 1: keep 6 → 3",
                   .folder = "/tasks",
                   .name = "rte",
                   .rules = "rte",
                   .fileSha256 = "f1",
                   .hidden = 1,
                   .acc = "10-",
                   .norm = "01-",
                   .first = 3,
                   .dtype = "fp32",
                   .time = 150}};
    data.speeds = {{.planHash = first.hash(), .computer = "loft", .measured = {{"ratio", {{"prefill", 1.31}}}}, .time = 150}};
    ExpertScores scores;
    scores.method = "leave-one-out";
    scores.title = "Leave-one-out importance";
    scores.unit = "relative output error";
    scores.values.rows = {{}, {0.1, 0.2, 0.3, 0.4, 0.5, 1e-300}, {1, 2, 3, 4}};
    scores.layerImportance = {0, 1.5, 10};
    data.scores = {scores};
    data.usage.rows = {{}, {0.5, 0.25, 0.25, 0, 0, 1}, {1, 0, 0, 1}};
    data.profile = "/profiles/small.h5";
    data.profileFingerprint = "p1";
    data.view = {{"method", "reap"}, {"selected_layer", 2}};
    return data;
}

inline ProfileData sampleProfile(int firstWindow = 0, int windows = 4)
{
    ProfileData data;
    data.shape = smallShape();
    data.fingerprint = "f1";
    data.numericMode = "fp32";
    data.windowLength = 4;
    data.textSha256 = "t1";
    data.source = "a.txt";
    data.windows = windows;
    data.tokens = windows * 4;
    data.ranges = {{.textSha256 = "t1",
                    .firstWindow = firstWindow,
                    .windowCount = windows,
                    .tokens = windows * 4,
                    .sha256 = "r" + std::to_string(firstWindow)}};
    for (int w = firstWindow; w < firstWindow + windows; ++w) {
        for (int i = 0; i < 4; ++i)
            data.windowIds.ids.push_back((3 * w + i) % 32);
        data.windowIds.lengths.push_back(4);
    }
    data.collected = {"counts", "ean", "reap", "gram", "outputs", "similarity"};
    data.engineVersion = "test";
    for (const LayerShape& shape : data.shape.layers) {
        LayerProfile layer;
        layer.layer = shape.index;
        layer.experts = shape.experts;
        const auto n = static_cast<std::size_t>(shape.experts);
        if (n > 0) {
            layer.tokens = data.tokens;
            double value = 0.1 * (shape.index + firstWindow);
            const auto next = [&] {
                std::vector<double> values(n);
                for (double& v : values)
                    v = value += 1.0 / 7.0;
                return values;
            };
            layer.count.assign(n, 3 + firstWindow);
            for (auto* sums : {&layer.softMass, &layer.routedMassRaw, &layer.routedMassRenormalised, &layer.routedMassApplied, &layer.norm,
                               &layer.normSquared, &layer.weightedNormRaw, &layer.weightedNormRenormalised, &layer.weightedNormApplied,
                               &layer.maxActivation})
                *sums = next();
            layer.outputs = OutputMoments::zeros(shape.experts, 5);
            for (OutputMoments::Weighted& moment : layer.outputs.byWeight)
                for (auto* values : {&moment.mass, &moment.sum, &moment.scatter})
                    for (double& v : *values)
                        v = value += 1.0 / 7.0;
            layer.outputEnergy = 5.5;
            layer.routedEnergy = 4.5;
            GramStore& gram = layer.gram;
            gram.listLength = 3;
            for (int t = 0; t < 2 * windows; ++t) {
                gram.tokens.push_back(4 * firstWindow + t);
                for (int i = 0; i < 3; ++i)
                    gram.list.push_back(static_cast<std::uint16_t>((t + i) % static_cast<int>(n)));
                for (int i = 0; i < 6; ++i)
                    gram.products.push_back(value += 0.01);
                for (std::size_t e = 0; e < n; ++e)
                    gram.logits.push_back(static_cast<float>((static_cast<int>(e) + t) % static_cast<int>(n)));
            }
            gram.outputEnergy = 2.25;
            GradientStore& gradients = layer.gradients;
            for (int t = 0; t < static_cast<int>(gram.tokens.size()); ++t) {
                gradients.window.push_back(t / 4);
                for (int i = 0; i < gram.listLength; ++i)
                    gradients.products.push_back(static_cast<float>(value += 0.01));
            }
            gradients.drawnProducts.assign(gradients.products.rbegin(), gradients.products.rend());
            gradients.squared = 0.75;
            gradients.drawnSquared = 0.5;
            gradients.tokens = static_cast<std::int64_t>(gram.tokens.size());
        }
        layer.similarity = {.cosine = 0.75 * static_cast<double>(data.tokens) + 0.125 * shape.index, .tokens = data.tokens};
        data.layers.push_back(std::move(layer));
    }
    return data;
}

}  // namespace espalier::test
