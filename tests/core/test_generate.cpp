// Completions: the tokens of transformers, sampling, ends, text, cancelling; and what is measured of speed.
#include "core/compression_fixture.h"
#include "generate/end_tokens.h"
#include "generate/generator.h"
#include "generate/speed.h"
#include "generate/text_stream.h"
#include "model/moe_model_torch.h"
#include "plan/cost_model.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <cmath>
#include <fstream>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;
using test::modelOf;
using test::openTiny;
using test::take;

const fs::path kDemo = fs::path(ESPALIER_RESOURCES) / "demo" / "espalier-demo-moe";

Json greedyGoldens() { return take(readJsonFile(fs::path(ESPALIER_TEST_FIXTURES) / "generate" / "greedy.json", "fixture")); }

Generated run(MoeModel& model, const CompressionPlan& plan, const std::vector<int>& prompt, const GenerateOptions& options)
{
    SilentJob job;
    return take(generate(model, plan, prompt, options, nullptr, job));
}

// 64 tokens after each of two prompts (tests/interop/make_greedy.py), from memory and streamed, and by the device's way.
TEST(Greedy, TokensOfTransformersInEveryArchitecture)
{
    const Json goldens = greedyGoldens();
    ASSERT_EQ(goldens.size(), 14u);
    for (const auto& [name, cases] : goldens.items()) {
        const auto checkpoint = openTiny(name);
        const CompressionPlan dense = CompressionPlan::identity(checkpoint->shape());
        for (const auto& [device, residency] :
             {std::pair{"cpu", Residency::Resident}, {"cpu", Residency::Stream}, {"portable", Residency::Resident}}) {
            SCOPED_TRACE(name + " on " + device + (residency == Residency::Stream ? ", streamed" : ""));
            ModelOptions how;
            how.residency = residency;
            how.device = device;
            how.threads = 1;
            auto model = take(MoeModel::create(checkpoint, how));
            for (const Json& one : cases) {
                const Generated result = run(*model, dense, one["prompt"], {.tokens = 64});
                EXPECT_EQ(result.ids, one["ids"].get<std::vector<int>>());
                EXPECT_EQ(result.finish, Finish::Length);
                for (std::size_t i = 0; i < result.logprobs.size(); ++i)
                    EXPECT_NEAR(result.logprobs[i], one["logprobs"][i].get<double>(), 2e-4);
            }
        }
    }
}

TEST(Sampler, GreedyTakesTheFirstOfTheLargest)
{
    const std::vector<float> logits = {1, 3, 2, 3};
    const TokenChoice choice = chooseToken(logits, {}, 0, 3);
    EXPECT_EQ(choice.chosen.id, 1);
    const double sum = std::exp(1.0) + 2 * std::exp(3.0) + std::exp(2.0);
    EXPECT_NEAR(choice.chosen.logprob, 3 - std::log(sum), 1e-12);
    ASSERT_EQ(choice.alternatives.size(), 3u);
    EXPECT_EQ(choice.alternatives[0].id, 1);
    EXPECT_EQ(choice.alternatives[1].id, 3);
    EXPECT_EQ(choice.alternatives[2].id, 2);
    EXPECT_NEAR(choice.alternatives[2].logprob, 2 - std::log(sum), 1e-12);
}

// Frequencies of many draws against the distribution by hand.
TEST(Sampler, DrawsByTemperatureAndTopP)
{
    const std::vector<float> logits = {0, std::log(2.0f), std::log(5.0f), std::log(2.0f)};
    const auto frequencies = [&](const Sampling& sampling) {
        constexpr int kDraws = 40000;
        std::vector<double> share(logits.size(), 0);
        for (std::uint64_t i = 0; i < kDraws; ++i)
            share[static_cast<std::size_t>(chooseToken(logits, sampling, i).chosen.id)] += 1.0 / kDraws;
        return share;
    };
    const auto expectNear = [](const std::vector<double>& share, const std::vector<double>& expected) {
        for (std::size_t i = 0; i < share.size(); ++i)
            EXPECT_NEAR(share[i], expected[i], 0.012) << i;
    };
    expectNear(frequencies({1, 1, 7}), {.1, .2, .5, .2});
    // softmax(2 z): squares.
    expectNear(frequencies({.5, 1, 7}), {1.0 / 34, 4.0 / 34, 25.0 / 34, 4.0 / 34});
    // The fewest that have .6: 5/10 and the first of the two with 2/10.
    expectNear(frequencies({1, .6, 7}), {0, 2.0 / 7, 5.0 / 7, 0});
    expectNear(frequencies({1, .5, 7}), {0, 0, 1, 0});
    expectNear(frequencies({1, .75, 7}), {0, 2.0 / 9, 5.0 / 9, 2.0 / 9});
    // The probability that is told is the model's own.
    EXPECT_NEAR(chooseToken(logits, {.5, .5, 7}, 0).chosen.logprob, std::log(.5), 1e-6);
}

TEST(Sampler, SeedsDecide)
{
    std::vector<float> logits(1000);
    for (std::size_t i = 0; i < logits.size(); ++i)
        logits[i] = std::sin(static_cast<float>(i));
    const auto tokens = [&](std::uint64_t seed) {
        std::vector<int> ids;
        for (std::uint64_t i = 0; i < 20; ++i)
            ids.push_back(chooseToken(logits, {1, .95, seed}, i).chosen.id);
        return ids;
    };
    EXPECT_EQ(tokens(3), tokens(3));
    EXPECT_NE(tokens(3), tokens(4));
    // A wide nucleus: among the most probable ones alone.
    for (const int id : tokens(5))
        EXPECT_GT(std::sin(static_cast<float>(id)), -0.99f);
}

class DemoText : public ::testing::Test
{
protected:
    const Tokenizer tokenizer = take(Tokenizer::load(kDemo));
    std::vector<int> ids(const std::string& text) const { return take(tokenizer.encode(text, false)); }
};

TEST_F(DemoText, PiecesAreTheText)
{
    const std::string text = "Once upon a time, é and 漢字 and \xF0\x9F\x98\x80 met.  Twice.";
    const std::vector<int> all = ids(text);
    const std::vector<int> prompt(all.begin(), all.begin() + 3);
    TextStream stream(&tokenizer, prompt, {});
    std::string pieces;
    for (std::size_t i = 3; i < all.size(); ++i) {
        const std::string piece = stream.add(all[i]);
        EXPECT_EQ(piece.find("\xEF\xBF\xBD"), std::string::npos) << "a piece ends inside a character";
        pieces += piece;
    }
    pieces += stream.finish();
    EXPECT_EQ(tokenizer.decode(prompt) + pieces, tokenizer.decode(all));
    EXPECT_EQ(stream.text(), pieces);
    EXPECT_FALSE(stream.stopped());
}

TEST_F(DemoText, WhatIsIncompleteAtTheEndIsSaid)
{
    const std::vector<int> all = ids("a \xF0\x9F\x98\x80");
    TextStream stream(&tokenizer, {}, {});
    std::string text;
    for (std::size_t i = 0; i + 1 < all.size(); ++i)
        text += stream.add(all[i]);
    EXPECT_EQ(text.find("\xEF\xBF\xBD"), std::string::npos);
    EXPECT_NE(stream.finish().find("\xEF\xBF\xBD"), std::string::npos);
}

TEST_F(DemoText, AStopStringEndsTheTextBeforeItAndNoneOfItIsGiven)
{
    const std::vector<int> all = ids("The cat sat on the mat. Then it slept.");
    for (const std::string stop : {"sat on", "mat", ".", "T", "it slept."}) {
        SCOPED_TRACE(stop);
        TextStream stream(&tokenizer, {}, {"not in it", stop, ""});
        std::string pieces;
        for (const int id : all) {
            pieces += stream.add(id);
            if (stream.stopped()) break;
        }
        pieces += stream.finish();
        const std::string whole = tokenizer.decode(all);
        EXPECT_TRUE(stream.stopped());
        EXPECT_EQ(pieces, whole.substr(0, whole.find(stop)));
        EXPECT_EQ(stream.text(), pieces);
    }
}

// What began like a stop string and was none comes in the end.
TEST_F(DemoText, HeldBackTextIsNotLost)
{
    const std::vector<int> all = ids("one two three");
    TextStream stream(&tokenizer, {}, {"three four"});
    std::string pieces;
    for (const int id : all)
        pieces += stream.add(id);
    EXPECT_EQ(pieces.find("three"), std::string::npos);
    EXPECT_EQ(pieces + stream.finish(), tokenizer.decode(all));
}

TEST_F(DemoText, PeekingAddsNothing)
{
    const std::vector<int> all = ids("Hello world");
    TextStream stream(&tokenizer, {}, {});
    stream.add(all[0]);
    const std::string next = stream.peek(all[1]);
    EXPECT_EQ(next, stream.peek(all[1]));
    EXPECT_EQ(stream.add(all[1]), next);
}

class Folder
{
public:
    Folder() : path(fs::temp_directory_path() / ("espalier-ends-" + std::to_string(::getpid())))
    {
        fs::remove_all(path);
        fs::create_directories(path);
    }
    ~Folder() { fs::remove_all(path); }
    void write(const std::string& name, const std::string& content) const { std::ofstream(path / name) << content; }
    fs::path path;
};

TEST(EndTokens, AsTransformersHasThem)
{
    const Folder folder;
    const auto ends = [&] { return take(endTokens(folder.path, 9)); };
    EXPECT_EQ(ends(), std::vector<int>{9});
    folder.write("config.json", R"({"eos_token_id": null})");
    EXPECT_EQ(ends(), std::vector<int>{9});
    folder.write("config.json", R"({"eos_token_id": 3})");
    EXPECT_EQ(ends(), std::vector<int>{3});
    folder.write("generation_config.json", R"({"temperature": 1})");
    EXPECT_EQ(ends(), std::vector<int>{3});
    folder.write("generation_config.json", R"({"eos_token_id": [4, 5]})");
    EXPECT_EQ(ends(), (std::vector<int>{4, 5}));
    for (const char* wrong : {R"({"eos_token_id": "</s>"})", R"({"eos_token_id": [1, -2]})", "[]", R"({"eos_token_id": 1e99})"}) {
        folder.write("generation_config.json", wrong);
        const auto read = endTokens(folder.path, {});
        ASSERT_FALSE(read.ok()) << wrong;
        EXPECT_EQ(read.error().code, "generate.end_token");
        EXPECT_NE(read.error().subject.find("generation_config.json"), std::string::npos);
    }
    folder.write("generation_config.json", "{");
    EXPECT_FALSE(endTokens(folder.path, {}).ok());
}

class Completion : public ::testing::Test
{
protected:
    const std::shared_ptr<const Checkpoint> checkpoint = openTiny("qwen2moe-tiny");
    const std::unique_ptr<MoeModel> model = modelOf(checkpoint);
    const CompressionPlan dense = CompressionPlan::identity(checkpoint->shape());
    const Json golden = greedyGoldens()["qwen2moe-tiny"][0];
    const std::vector<int> prompt = golden["prompt"];
    const std::vector<int> tokens = golden["ids"];
};

TEST_F(Completion, AnEndTokenIsTheLastOne)
{
    const int end = tokens[7];
    const auto first = std::find(tokens.begin(), tokens.end(), end);
    const Generated result = run(*model, dense, prompt, {.tokens = 64, .endIds = {99999, end}});
    EXPECT_EQ(result.ids, std::vector<int>(tokens.begin(), first + 1));
    EXPECT_EQ(result.finish, Finish::End);
    EXPECT_EQ(result.logprobs.size(), result.ids.size());
}

TEST_F(Completion, TokensAreToldOneByOneAndACancelKeepsThem)
{
    class StopsAfter final : public JobContext
    {
    public:
        bool stopRequested() const noexcept override { return heard >= 5; }
        void progress(std::int64_t done, std::int64_t, std::string_view) override { last = done; }
        void partial(const Json&) override {}
        int heard = 0;
        std::int64_t last = 0;
    } job;
    std::vector<int> ids;
    const auto result = generate(*model, dense, prompt, {.tokens = 64}, nullptr, job, [&](const GeneratedToken& token) {
        EXPECT_EQ(token.index, job.heard);
        ids.push_back(token.choice.chosen.id);
        ++job.heard;
    });
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().kind, ErrorKind::Cancelled);
    EXPECT_NE(result.error().kept.find("5 tokens"), std::string::npos) << result.error().kept;
    EXPECT_EQ(ids, std::vector<int>(tokens.begin(), tokens.begin() + 5));
    EXPECT_EQ(job.last, 5);
}

TEST_F(Completion, SampledOnesFollowTheirSeed)
{
    const GenerateOptions options{.tokens = 20, .sampling = {.temperature = 1, .topP = .9, .seed = 5}, .alternatives = 2};
    const Generated one = run(*model, dense, prompt, options);
    EXPECT_EQ(one.ids, run(*model, dense, prompt, options).ids);
    GenerateOptions other = options;
    other.sampling.seed = 6;
    EXPECT_NE(one.ids, run(*model, dense, prompt, other).ids);
}

TEST_F(Completion, BadInputIsNamedBeforeAnythingRuns)
{
    SilentJob job;
    const auto code = [&](const std::vector<int>& ids, const GenerateOptions& options = {}) {
        const auto result = generate(*model, dense, ids, options, nullptr, job);
        return result.ok() ? std::string("ok") : result.error().code;
    };
    EXPECT_EQ(code({}), "generate.empty_prompt");
    EXPECT_EQ(code({1, 1 << 28}), "model.token_out_of_range");
    EXPECT_EQ(code({1, -1}), "model.token_out_of_range");
    EXPECT_EQ(code({1, checkpoint->shape().vocabularySize}), "model.token_out_of_range");
    EXPECT_EQ(code(std::vector<int>(static_cast<std::size_t>(checkpoint->shape().maxPositions) + 1, 1)), "generate.prompt_too_long");
    EXPECT_EQ(code({1}, {.tokens = 2, .stop = {"x"}}), "generate.no_tokenizer");
    EXPECT_EQ(code({1}, {.tokens = 2}), "ok");
}

// As far as the context goes: the last token needs no position of its own.
TEST_F(Completion, TheContextEndsIt)
{
    const int positions = checkpoint->shape().maxPositions;
    std::vector<int> ids;
    for (int i = 0; i < positions - 2; ++i)
        ids.push_back(tokens[static_cast<std::size_t>(i) % tokens.size()]);
    const Generated result = run(*model, dense, ids, {.tokens = 10});
    EXPECT_EQ(result.ids.size(), 3u);
    EXPECT_EQ(result.finish, Finish::Context);
    ids.resize(static_cast<std::size_t>(positions), 1);
    EXPECT_EQ(run(*model, dense, ids, {.tokens = 1}).finish, Finish::Length);
}

TEST(Prompts, TextBecomesIdsWithTheBeginningThatTheTokenizerAdds)
{
    const Tokenizer tokenizer = take(Tokenizer::load(kDemo));
    const std::vector<int> plain = take(tokenizer.encode("Once", false));
    std::vector<int> begun = plain;
    if (tokenizer.bosId()) begun.insert(begun.begin(), *tokenizer.bosId());
    EXPECT_EQ(take(promptIds(tokenizer, "Once", Bos::No)), plain);
    EXPECT_EQ(take(promptIds(tokenizer, "Once")), tokenizer.addsBos() ? begun : plain);
    if (tokenizer.bosId()) {
        EXPECT_EQ(take(promptIds(tokenizer, "Once", Bos::Yes)), begun);
    } else {
        EXPECT_EQ(promptIds(tokenizer, "Once", Bos::Yes).error().code, "tokenizer.no_bos");
    }
    EXPECT_EQ(promptIds(tokenizer, "").error().code, "generate.empty_prompt");
    EXPECT_EQ(promptIds(tokenizer, "\xff").error().code, "text.invalid_utf8");
}

TEST(Speed, SpreadIsMedianLeastAndMost)
{
    const Spread odd = spreadOf({3, 1, 2});
    EXPECT_EQ(odd.median, 2);
    EXPECT_EQ(odd.low, 1);
    EXPECT_EQ(odd.high, 3);
    EXPECT_EQ(spreadOf({4, 1, 2, 3}).median, 2.5);
    EXPECT_EQ(spreadOf({4}).median, 4);
}

TEST(Speed, BothSidesAreMeasuredInTurnAndSizesAreThoseOfTheShapes)
{
    const auto checkpoint = openTiny("qwen2moe-tiny");
    const ModelShape& shape = checkpoint->shape();
    auto model = modelOf(checkpoint);
    const CompressionPlan plan = test::planOf(test::method("qwen2moe-tiny"), "pruned_chain_plain_rank", shape);
    SilentJob job;
    std::vector<RoundSpeed> told;
    const SpeedResult result = take(measureSpeed(*model, &plan, {.prefill = 16, .decode = 4, .rounds = 3}, job,
                                                 [&](const RoundSpeed& round) { told.push_back(round); }));
    ASSERT_EQ(result.rounds.size(), 3u);
    ASSERT_EQ(told.size(), 3u);
    for (int i = 0; i < 3; ++i)
        EXPECT_EQ(told[static_cast<std::size_t>(i)].round, i);
    ASSERT_TRUE(result.plan && result.ratio);
    std::vector<double> ratios;
    for (const RoundSpeed& round : result.rounds)
        ratios.push_back(*round.planPrefill / round.densePrefill);
    EXPECT_EQ(result.ratio->prefill.median, spreadOf(ratios).median);
    const PlanCost cost = planCost(shape, plan);
    EXPECT_EQ(result.plan->activeParameters, cost.activeParameters);
    EXPECT_EQ(result.plan->weightBytes, cost.parameters * 4);
    EXPECT_EQ(result.dense.activeParameters, shape.activeParameters());
    EXPECT_EQ(result.dense.flopsPerToken,
              2 * (shape.activeParameters() - (shape.tiedEmbeddings ? 0 : std::int64_t{shape.vocabularySize} * shape.hiddenSize)));
    // All experts of a token, the head; factors are read instead of what they stand for.
    EXPECT_LT(result.plan->bytesReadPerToken, result.dense.bytesReadPerToken);
    EXPECT_NEAR(static_cast<double>(result.dense.bytesReadPerToken), 2.0 * static_cast<double>(result.dense.flopsPerToken),
                0.1 * 2.0 * static_cast<double>(result.dense.flopsPerToken));
    EXPECT_EQ(result.dense.fileBytesReadPerToken, 0);
    EXPECT_GT(result.dense.peakRssBytes, 0);

    const SpeedResult alone = take(measureSpeed(*model, nullptr, {.prefill = 4, .decode = 1, .rounds = 1}, job));
    EXPECT_FALSE(alone.plan || alone.ratio || alone.rounds[0].planPrefill);
    EXPECT_EQ(measureSpeed(*model, nullptr, {.prefill = shape.maxPositions, .decode = 1, .rounds = 1}, job).error().code,
              "generate.prompt_too_long");
    SilentJob stopped;
    stopped.stop = true;
    EXPECT_EQ(measureSpeed(*model, &plan, {.prefill = 4, .decode = 1, .rounds = 1}, stopped).error().kind, ErrorKind::Cancelled);
}

}  // namespace

}  // namespace espalier
