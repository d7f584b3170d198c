#include "parity/golden.h"

#include "checkpoint/checkpoint.h"
#include "model/moe_model_torch.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

namespace espalier::test
{

namespace
{

namespace fs = std::filesystem;

fs::path fixture(const std::string& relative) { return fs::path(ESPALIER_TEST_FIXTURES) / "model" / relative; }

struct Case {
    std::string name;
    std::string golden;  // name of the golden, where it differs
    Residency residency = Residency::Resident;
    int threads = 1;
    std::string device = "cpu";
};

std::string caseName(const testing::TestParamInfo<Case>& info)
{
    std::string name =
        info.param.name + (info.param.residency == Residency::Stream ? "_streamed_" : "_resident_") + std::to_string(info.param.threads);
    if (info.param.device != "cpu") name.append("_").append(info.param.device);
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
}

std::vector<Case> cases()
{
    std::vector<Case> all;
    for (const char* name : {"mixtral-tiny", "qwen2moe-tiny", "mixtral-bf16-sharded", "mixtral-sliding", "mixtral-ties", "qwen2moe-mlponly",
                             "qwen2moe-sliding", "qwen3moe-tiny", "qwen3moe-tied", "olmoe-tiny", "olmoe-clip", "deepseekv2-lite-tiny",
                             "deepseekv2-full-tiny", "deepseekv3-tiny"}) {
        all.push_back({name, name, Residency::Resident, 1});
        all.push_back({name, name, Residency::Stream, 2});
        // What runs on a GPU, on the processor, and on a GPU where there is one.
        all.push_back({name, name, Residency::Resident, 2, "portable"});
        all.push_back({name, name, Residency::Stream, 2, "cuda"});
    }
    for (const char* name : {"mixtral-tiny", "qwen3moe-tiny", "deepseekv2-lite-tiny"})
        all.push_back({std::string(name) + "-fused-v5", name, Residency::Resident, 2});
    return all;
}

struct Record final : LayerObserver {
    std::map<int, at::Tensor> attentionOut;
    std::map<int, MoeBatch> batches;
    std::map<int, at::Tensor> sums;  // of weighted expert outputs, from the per-expert calls
    void attention(int layer, const at::Tensor& out) override { attentionOut[layer] = out.clone(); }
    void expert(int layer, int, const at::Tensor& tokens, const at::Tensor& x, const at::Tensor& h, const at::Tensor& y,
                const at::Tensor& w) override
    {
        EXPECT_EQ(tokens.numel(), x.size(0));
        EXPECT_EQ(tokens.numel(), h.size(0));
        EXPECT_EQ(tokens.numel(), w.numel());
        m_counts[layer] += tokens.numel();
        (void)y;
    }
    void moe(const MoeBatch& batch) override { batches[batch.layer] = batch; }
    std::map<int, std::int64_t> m_counts;
};

struct Loaded {
    std::unique_ptr<MoeModel> model;
    Golden golden;
    bool ties = false;
};

class Parity : public testing::TestWithParam<Case>
{
protected:
    void SetUp() override
    {
        const Case& c = GetParam();
        const fs::path folder = fixture("checkpoints/" + c.name);
        const fs::path golden = fixture("goldens/" + c.golden + ".json");
        auto checkpoint = Checkpoint::open(folder);
        ASSERT_TRUE(checkpoint) << checkpoint.error().describe();
        ModelOptions options;
        options.residency = c.residency;
        options.threads = c.threads;
        options.device = c.device;
        if (const Status there = checkDevice("cuda"); c.device == "cuda" && !there.ok()) GTEST_SKIP() << there.error().describe();
        auto model = MoeModel::create(*checkpoint, options);
        ASSERT_TRUE(model) << model.error().describe();
        m_model = std::move(model).value();
        m_golden = Golden::read(fs::path(golden).replace_extension());
        m_ties = c.name == "mixtral-ties";
    }
    at::Tensor logitsOf(const at::Tensor& hidden)
    {
        auto normed = m_model->finalNorm(hidden.reshape({-1, hidden.size(-1)}));
        EXPECT_TRUE(normed);
        auto logits = m_model->logits(*normed);
        EXPECT_TRUE(logits);
        return *logits;
    }
    double meanNll(const at::Tensor& ids, std::vector<double>* perWindow = nullptr)
    {
        auto hidden = m_model->hiddenStates(ids, m_model->identity());
        EXPECT_TRUE(hidden) << hidden.error().describe();
        auto nll = m_model->tokenNll(*hidden, ids);
        EXPECT_TRUE(nll) << nll.error().describe();
        if (perWindow) {
            const at::Tensor means = nll->mean({1});
            for (std::int64_t i = 0; i < means.numel(); ++i)
                perWindow->push_back(means[i].item<double>());
        }
        return nll->mean().item<double>();
    }

    const c10::InferenceMode m_guard;
    std::unique_ptr<MoeModel> m_model;
    Golden m_golden;
    bool m_ties = false;
};

TEST_P(Parity, Forward)
{
    const at::Tensor ids = m_golden.tensor("input_ids");
    const PreparedPlan plan = m_model->identity();
    Record record;
    auto hidden = m_model->embed(ids);
    ASSERT_TRUE(hidden) << hidden.error().describe();
    at::Tensor state = *hidden;
    const at::Tensor last = m_golden.tensor("hidden_last");
    const at::Tensor norms = m_golden.tensor("hidden_norm");
    EXPECT_LE(vectorExcess(state.select(1, state.size(1) - 1), last[0]), 1.0);
    for (int l = 0; l < m_model->layerCount(); ++l) {
        auto next = m_model->layer(l, state, plan, &record);
        ASSERT_TRUE(next) << next.error().describe();
        state = *next;
        const std::string prefix = "layer" + std::to_string(l) + ".";
        EXPECT_LE(vectorExcess(state.select(1, state.size(1) - 1), last[l + 1]), 1.0) << prefix;
        EXPECT_LE(vectorExcess(state[0], m_golden.tensor(prefix + "hidden_out")), 1.0) << prefix;
        EXPECT_LE(vectorExcess(record.attentionOut[l][0], m_golden.tensor(prefix + "attn_out")), 1.0) << prefix;
        const at::Tensor norm = state.to(at::kDouble).square().sum({-1}).sqrt();
        EXPECT_LE(((norm - norms[l + 1]).abs() / (norms[l + 1] * 1e-5 + 1e-5)).max().item<double>(), 1.0);
        if (!m_golden.has(prefix + "router_logits")) {
            EXPECT_FALSE(record.batches.contains(l));
            continue;
        }
        const MoeBatch& batch = record.batches.at(l);
        const std::int64_t length = ids.size(1);
        EXPECT_EQ(record.m_counts[l], batch.selected.numel());
        EXPECT_LE(vectorExcess(batch.input.narrow(0, 0, length), m_golden.tensor(prefix + "moe_in")), 1.0) << prefix;
        EXPECT_LE(vectorExcess(batch.output.narrow(0, 0, length), m_golden.tensor(prefix + "moe_out")), 1.0) << prefix;
        const bool sigmoid = m_model->shape().layers[static_cast<std::size_t>(l)].router.rule == RoutingRule::SigmoidBias;
        const at::Tensor scores = sigmoid ? at::sigmoid(batch.routerLogits) : at::softmax(batch.routerLogits, 1);
        EXPECT_LE(maxDifference(scores.view({2, length, -1}), m_golden.tensor(prefix + "router_probs")), 2e-5);
        if (m_ties) continue;
        at::Tensor selected = batch.selected.view({2, length, -1});
        at::Tensor weights = batch.weights.view({2, length, -1});
        at::Tensor expectedSelected = m_golden.tensor(prefix + "selected").to(at::kLong);
        at::Tensor expectedWeights = m_golden.tensor(prefix + "weights");
        if (sigmoid) {
            // The reference takes the best of score + bias in no particular order.
            const auto byId = [](at::Tensor& ids, at::Tensor& values) {
                const auto [sorted, order] = ids.sort(2);
                values = values.gather(2, order);
                ids = sorted;
            };
            byId(selected, weights);
            byId(expectedSelected, expectedWeights);
        }
        EXPECT_TRUE(at::equal(selected, expectedSelected)) << prefix;
        EXPECT_LE(maxDifference(weights, expectedWeights), 2e-5) << prefix;
        const Json& counts = m_golden.json["tokens_per_expert"][std::to_string(l)];
        std::vector<int> count(counts.size(), 0);
        for (std::int64_t i = 0; i < batch.selected.numel(); ++i)
            ++count[static_cast<std::size_t>(batch.selected.const_data_ptr<std::int64_t>()[i])];
        EXPECT_EQ(count, counts.get<std::vector<int>>());
    }
    EXPECT_LE(maxDifference(logitsOf(state[0]), m_golden.tensor("logits")), 2e-4);
    EXPECT_LE(maxDifference(logitsOf(state.select(1, state.size(1) - 1)), m_golden.tensor("logits_last")), 2e-4);
    auto normed = m_model->finalNorm(state.select(1, state.size(1) - 1));
    ASSERT_TRUE(normed);
    EXPECT_LE(vectorExcess(*normed, m_golden.tensor("final_norm_last")), 1.0);
    auto nll = m_model->tokenNll(state, ids);
    ASSERT_TRUE(nll) << nll.error().describe();
    EXPECT_LE(maxDifference(*nll, m_golden.tensor("nll")), 2e-4);
}

TEST_P(Parity, Perplexity)
{
    const at::Tensor stream = m_golden.tensor("stream_ids").to(at::kLong);
    // A single flipped choice would move a perplexity by 4e-4. Exact ties have no margin, and none is needed: outputs do not depend on how
    // they are broken.
    if (!m_ties) {
        ASSERT_GE(m_golden.json["smallest_selection_margin_stream"].get<double>(), 5e-5);
    }
    for (const int window : {64, 128}) {
        const std::int64_t rows = stream.numel() / window;
        const at::Tensor ids = stream.narrow(0, 0, rows * window).view({rows, window});
        std::vector<double> perWindow;
        const double mean = meanNll(ids, &perWindow);
        const Json& reference = m_golden.json["perplexity"]["w" + std::to_string(window)];
        EXPECT_NEAR(std::exp(mean) / reference["ppl"].get<double>(), 1.0, 2e-5) << window;
        const at::Tensor windows = m_golden.tensor("stream_nll_w" + std::to_string(window));
        for (std::size_t i = 0; i < perWindow.size(); ++i)
            EXPECT_NEAR(perWindow[i], windows[static_cast<std::int64_t>(i)].item<double>(), 2e-4) << window << " " << i;
    }
}

TEST_P(Parity, LongInput)
{
    if (!m_golden.has("long_input_ids")) return;  // only YaRN and window models have one
    const at::Tensor ids = m_golden.tensor("long_input_ids");
    auto hidden = m_model->hiddenStates(ids, m_model->identity());
    ASSERT_TRUE(hidden) << hidden.error().describe();
    auto nll = m_model->tokenNll(*hidden, ids);
    ASSERT_TRUE(nll);
    EXPECT_LE(maxDifference(*nll, m_golden.tensor("long_nll")), 2e-4);
    EXPECT_LE(maxDifference(logitsOf((*hidden)[0].narrow(0, ids.size(1) - 16, 16)), m_golden.tensor("long_logits_tail")), 2e-4);
}

INSTANTIATE_TEST_SUITE_P(Reference, Parity, testing::ValuesIn(cases()), caseName);

std::unique_ptr<MoeModel> openModel(const std::string& name, ModelOptions options = {})
{
    const fs::path folder = fixture("checkpoints/" + name);
    auto checkpoint = Checkpoint::open(folder);
    if (!checkpoint) throw std::runtime_error(checkpoint.error().describe());
    if (options.threads == 0) options.threads = 2;
    auto model = MoeModel::create(*checkpoint, options);
    if (!model) throw std::runtime_error(model.error().describe());
    return std::move(model).value();
}

TEST(ParityLayouts, FusedGivesTheSameBits)
{
    const c10::InferenceMode guard;
    for (const std::string name : {"mixtral-tiny", "qwen3moe-tiny", "deepseekv2-lite-tiny"}) {
        const auto plain = openModel(name);
        const auto fused = openModel(name + "-fused-v5");
        const at::Tensor ids = Golden::read(fixture("goldens/" + name + ".json").replace_extension()).tensor("input_ids");
        const auto a = plain->hiddenStates(ids, plain->identity());
        const auto b = fused->hiddenStates(ids, fused->identity());
        ASSERT_TRUE(a && b);
        EXPECT_TRUE(at::equal(*a, *b)) << name;
    }
}

TEST(ParityBf16, ComputesInBf16)
{
    const c10::InferenceMode guard;
    ModelOptions options;
    options.compute = ComputeType::Bf16;
    const auto model = openModel("mixtral-bf16-sharded", options);
    const Golden golden = Golden::read(fixture("goldens/mixtral-bf16-sharded.json").replace_extension());
    const auto hidden = model->hiddenStates(golden.tensor("input_ids"), model->identity());
    ASSERT_TRUE(hidden) << hidden.error().describe();
    EXPECT_EQ(hidden->scalar_type(), at::kBFloat16);
    const auto normed = model->finalNorm((*hidden)[0]);
    const auto logits = model->logits(*normed);
    ASSERT_TRUE(logits);
    const double mean = (*logits - golden.tensor("bf16_logits").to(at::kFloat)).abs().mean().item<double>();
    RecordProperty("mean_abs_difference", std::to_string(mean));
    EXPECT_LE(mean, 0.05);
}

// Plans of method/: kept sets and plain factors, perplexity measured by really removing experts from the reference.
CompressionPlan planOf(const ModelShape& shape, const Json& kept, const Json& ranks)
{
    CompressionPlan plan = CompressionPlan::identity(shape);
    for (const auto& [layer, ids] : kept.items()) {
        auto next = plan.withKept(shape, std::stoi(layer), ids.get<std::vector<int>>());
        if (!next) throw std::runtime_error(next.error().describe());
        plan = std::move(next).value();
    }
    if (ranks.is_null()) return plan;
    for (const auto& [layer, values] : ranks.items()) {
        std::vector<RankTriple> triples;
        for (const Json& value : values)
            triples.push_back(value.is_array() ? RankTriple{value[0], value[1], value[2]} : RankTriple{value, value, value});
        auto next = plan.withRanks(shape, std::stoi(layer), triples);
        if (!next) throw std::runtime_error(next.error().describe());
        plan = std::move(next).value();
    }
    return plan.withFactors({"svd", {}});
}

class ParityPlans : public testing::TestWithParam<std::string>
{
};

TEST_P(ParityPlans, PerplexityUnderPlans)
{
    const c10::InferenceMode guard;
    const std::string name = GetParam();
    const fs::path methodPath = fixture("method/" + name + ".json");
    const auto model = openModel(name);
    ASSERT_TRUE(model);
    const Json ppl = readJsonFile(methodPath, "golden", {.maxBytes = 64u << 20, .maxDepth = 64})->at("ppl");
    const Golden golden = Golden::read(fixture("goldens/" + name + ".json").replace_extension());
    const Golden method = Golden::read(fs::path(methodPath).replace_extension());
    const at::Tensor stream = golden.tensor("stream_ids").to(at::kLong);

    for (const auto& [id, entry] : ppl.items()) {
        if (id == "dense" || id.find("whitened") != std::string::npos) continue;
        const Json& kept = entry.contains("plan") ? entry["plan"] : ppl["pruned_chain"]["plan"];
        const Json ranks = entry.contains("ranks")                ? entry["ranks"]
                           : entry.contains("ranks_gate_up_down") ? entry["ranks_gate_up_down"]
                                                                  : Json();
        // A rank at break-even saves nothing: plans refuse it, the reference happens to use one.
        const bool beyond = std::any_of(ranks.begin(), ranks.end(), [&](const Json& layer) {
            return std::any_of(layer.begin(), layer.end(), [&](const Json& rank) {
                const int highest = rank.is_array() ? rank.get<std::vector<int>>().at(0) : rank.get<int>();
                const int most = rank.is_array() ? std::max({highest, rank[1].get<int>(), rank[2].get<int>()}) : highest;
                return most > breakEvenRank(model->shape().layers.back().expertWidth, model->shape().hiddenSize);
            });
        });
        if (beyond) continue;
        const auto prepared = model->prepare(planOf(model->shape(), kept, ranks));
        ASSERT_TRUE(prepared) << id << ": " << prepared.error().describe();
        int index = 0;
        for (const int window : {64, 128}) {
            const std::int64_t rows = stream.numel() / window;
            const at::Tensor ids = stream.narrow(0, 0, rows * window).view({rows, window});
            const auto hidden = model->hiddenStates(ids, *prepared);
            ASSERT_TRUE(hidden) << hidden.error().describe();
            const auto nll = model->tokenNll(*hidden, ids);
            ASSERT_TRUE(nll);
            const double value = std::exp(nll->mean().item<double>());
            ASSERT_GE(entry["smallest_selection_margins"][static_cast<std::size_t>(index++)].get<double>(), 5e-5) << id;
            EXPECT_NEAR(value / entry["w" + std::to_string(window)].get<double>(), 1.0, 2e-5) << id << " " << window;
        }
        if (!method.has("logits." + id)) continue;
        const auto hidden = model->hiddenStates(golden.tensor("input_ids"), *prepared);
        ASSERT_TRUE(hidden);
        const auto normed = model->finalNorm((*hidden)[0]);
        const auto logits = model->logits(*normed);
        EXPECT_LE(maxDifference(*logits, method.tensor("logits." + id)), 2e-4) << id;
    }
}

INSTANTIATE_TEST_SUITE_P(Reference, ParityPlans, testing::Values("mixtral-tiny", "qwen2moe-tiny", "deepseekv2-lite-tiny"),
                         [](const auto& info) {
                             std::string name = info.param;
                             std::replace(name.begin(), name.end(), '-', '_');
                             return name;
                         });

}  // namespace

}  // namespace espalier::test
