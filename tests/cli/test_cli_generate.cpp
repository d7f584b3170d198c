// Completions and their speed, end to end: the tokens of transformers, plans and their exports, bad input; the requests of the window.
#include "cli/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>

namespace espalier::testing
{
namespace
{

const std::string kDemo = std::string(ESPALIER_RESOURCES) + "/demo/espalier-demo-moe";
const std::string kCheckpoints = std::string(ESPALIER_TEST_FIXTURES) + "/model/checkpoints/";

Json goldens() { return Json::parse(readFile(std::string(ESPALIER_TEST_FIXTURES) + "/generate/greedy.json")); }

std::string listed(const Json& ids)
{
    std::string list;
    for (const Json& id : ids)
        list += (list.empty() ? "" : ",") + std::to_string(id.get<int>());
    return list;
}

class CliGenerate : public ::testing::Test
{
protected:
    static Outcome generate(std::vector<std::string> arguments)
    {
        arguments.insert(arguments.begin(), "generate");
        return json(std::move(arguments));
    }
    static std::string code(std::vector<std::string> arguments, int exit)
    {
        const Outcome outcome = generate(std::move(arguments));
        EXPECT_EQ(outcome.code, exit) << outcome.output << outcome.errors;
        return outcome.json().value("error", Json::object()).value("code", "");
    }
    std::string write(const std::string& name, const std::string& content) const
    {
        std::ofstream(scratch / name) << content;
        return (scratch / name).string();
    }
    const Scratch scratch;
};

TEST_F(CliGenerate, tokensOfTransformersByIds)
{
    const Json golden = goldens()["deepseekv2-lite-tiny"][0];
    const std::string file = write("prompt.json", Json::array({golden["prompt"]}).dump());
    for (const std::string& ids : {listed(golden["prompt"]), file}) {
        const Outcome outcome = generate({kCheckpoints + "deepseekv2-lite-tiny", "--ids", ids, "--tokens", "64", "--ignore-end"});
        ASSERT_EQ(outcome.code, 0) << outcome.output << outcome.errors;
        const Json answer = outcome.json();
        EXPECT_EQ(answer["ids"], golden["ids"]);
        EXPECT_EQ(answer["prompt_ids"], golden["prompt"]);
        EXPECT_TRUE(answer["text"].is_null()) << "no tokenizer, no text";
        EXPECT_EQ(answer["finish"], "length");
        ASSERT_EQ(answer["logprobs"].size(), 64u);
        EXPECT_NEAR(answer["logprobs"][40].get<double>(), golden["logprobs"][40].get<double>(), 2e-4);
        for (const char* field : {"espalier", "model", "seconds", "peak_rss_bytes", "threads", "dtype", "seed", "warnings", "plan_hash"})
            EXPECT_TRUE(answer.contains(field)) << field;
    }
}

TEST_F(CliGenerate, textOfTheDemo)
{
    const auto answerOf = [](const std::vector<std::string>& more) {
        std::vector<std::string> arguments = {kDemo, "--prompt", "The history of", "--tokens", "24"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        const Outcome outcome = generate(arguments);
        EXPECT_EQ(outcome.code, 0) << outcome.output << outcome.errors;
        return outcome.json();
    };
    const Json greedy = answerOf({});
    const std::string text = greedy["text"];
    EXPECT_FALSE(text.empty());
    EXPECT_EQ(answerOf({"--stream"})["ids"], greedy["ids"]);
    // What stands before a stop string, and no token behind it.
    const std::string stop = text.substr(text.size() / 2, 3);
    const Json stopped = answerOf({"--stop", stop, "--stop", "\x01"});
    EXPECT_EQ(stopped["text"], text.substr(0, text.find(stop)));
    EXPECT_EQ(stopped["finish"], "stop");
    EXPECT_LT(stopped["ids"].size(), greedy["ids"].size());
    // Seeds decide; the log-probabilities are the model's own.
    const Json sampled = answerOf({"--temperature", "1.2", "--top-p", "0.95", "--seed", "3", "--alternatives", "2"});
    EXPECT_EQ(answerOf({"--temperature", "1.2", "--top-p", "0.95", "--seed", "3"})["ids"], sampled["ids"]);
    EXPECT_NE(answerOf({"--temperature", "1.2", "--top-p", "0.95", "--seed", "4"})["ids"], sampled["ids"]);
    ASSERT_EQ(sampled["alternatives"].size(), sampled["ids"].size());
    for (std::size_t i = 0; i < sampled["ids"].size(); ++i)
        EXPECT_LE(sampled["logprobs"][i].get<double>(), sampled["alternatives"][i][0]["logprob"].get<double>() + 1e-9);
    // For people: the prompt and what follows.
    const Outcome read = runEngine({"generate", kDemo, "--prompt", "The history of", "--tokens", "24", "--quiet"});
    EXPECT_EQ(read.output, "The history of" + text + "\n");
}

// A plan says what the checkpoint that is exported with it says.
TEST_F(CliGenerate, aPlanSaysWhatItsExportSays)
{
    const std::string plan = write("plan.json", R"({"version": 1, "layers": [{"layer": 1, "kept": [0, 2, 3, 5, 6]},
        {"layer": 2, "kept": [1, 2, 4, 5], "ranks": [[6, 0, 5], [0, 0, 0], [3, 3, 3], [0, 4, 0]]}]})");
    const Json golden = goldens()["qwen2moe-tiny"][0];
    const auto idsOf = [&](const std::string& model, const std::vector<std::string>& more) {
        std::vector<std::string> arguments = {model, "--ids", listed(golden["prompt"]), "--tokens", "40", "--ignore-end"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        const Outcome outcome = generate(arguments);
        EXPECT_EQ(outcome.code, 0) << outcome.output << outcome.errors;
        return outcome.json()["ids"];
    };
    const Json planned = idsOf(kModel, {"--plan", plan});
    EXPECT_NE(planned, idsOf(kModel, {}));
    const std::string out = (scratch / "out").string();
    ASSERT_EQ(json({"export", kModel, "--plan", plan, "--out", out, "--flavor", "factored"}).code, 0);
    EXPECT_EQ(idsOf(out, {}), planned);
    EXPECT_EQ(idsOf(kModel, {"--plan", plan, "--stream"}), planned);
}

TEST_F(CliGenerate, badInputIsNamed)
{
    EXPECT_EQ(code({kModel}, 2), "usage.arguments");
    EXPECT_EQ(code({kModel, "--prompt", "a", "--ids", "1"}, 2), "usage.arguments");
    EXPECT_EQ(code({kModel, "--prompt", "a"}, 3), "tokenizer.missing");
    EXPECT_EQ(code({kDemo, "--prompt", ""}, 3), "generate.empty_prompt");
    EXPECT_EQ(code({kDemo, "--prompt", "\xff\xfe"}, 3), "text.invalid_utf8");
    EXPECT_EQ(code({kModel, "--ids", "1,99999"}, 3), "model.token_out_of_range");
    EXPECT_EQ(code({kModel, "--ids", "1,x"}, 3), "ids.missing");
    EXPECT_EQ(code({kModel, "--ids", write("two.json", "[[1, 2], [3, 4]]")}, 3), "generate.one_prompt");
    EXPECT_EQ(code({kModel, "--ids", "1", "--stop", "x"}, 3), "generate.no_tokenizer");
    EXPECT_EQ(code({kModel, "--ids", "1", "--tokens", "0"}, 2), "usage.arguments");
    EXPECT_EQ(code({kModel, "--ids", "1", "--temperature", "-1"}, 2), "usage.arguments");
    EXPECT_EQ(code({kModel, "--ids", "1", "--top-p", "0"}, 2), "usage.arguments");
    EXPECT_EQ(code({kModel, "--ids", "1", "--plan", (scratch / "none.json").string()}, 3), "plan.missing");
    std::vector<int> many(9000, 1);
    EXPECT_EQ(code({kModel, "--ids", write("long.json", Json::array({many}).dump())}, 3), "generate.prompt_too_long");
    // One token is a prompt.
    for (const char* one : {"[[5]]", "[5]"})
        EXPECT_EQ(code({kModel, "--ids", write("one.json", one), "--tokens", "2"}, 0), "");
    for (const char* wrong : {"[]", "[[]]", "{}", "[1, \"a\"]", "[[1.5]]", "[1, [2]]"})
        EXPECT_THAT(code({kModel, "--ids", write("wrong.json", wrong)}, 3), ::testing::AnyOf("ids.invalid", "generate.empty_prompt"))
            << wrong;
}

TEST_F(CliGenerate, speedOfAPlanBesideTheDenseModel)
{
    const std::string plan = write("plan.json", R"({"version": 1, "layers": [{"layer": 1, "kept": [0, 2, 3], "top_k": 1}]})");
    const Outcome outcome = json({"speed", kModel, "--plan", plan, "--prefill", "24", "--decode", "4", "--rounds", "2"});
    ASSERT_EQ(outcome.code, 0) << outcome.output << outcome.errors;
    const Json answer = outcome.json();
    for (const char* side : {"dense", "plan"})
        for (const char* field : {"prefill_tokens_per_second", "decode_tokens_per_second", "bytes_read_per_token", "peak_rss_bytes",
                                  "flops_per_token", "active_parameters", "weight_bytes"})
            EXPECT_GT(answer[side][field].get<double>(), 0) << side << field;
    for (const char* field : {"prefill", "decode", "low", "high"})
        EXPECT_GT(answer["ratio"][field].get<double>(), 0) << field;
    EXPECT_LE(answer["ratio"]["low"], answer["ratio"]["prefill"]);
    EXPECT_LE(answer["ratio"]["prefill"], answer["ratio"]["high"]);
    EXPECT_LT(answer["flops_per_token"]["plan"], answer["flops_per_token"]["dense"]);
    EXPECT_LT(answer["plan"]["bytes_read_per_token"], answer["dense"]["bytes_read_per_token"]);
    EXPECT_EQ(answer["rounds"].size(), 2u);
    const Json alone = json({"speed", kModel, "--prefill", "8", "--decode", "2", "--rounds", "1"}).json();
    EXPECT_TRUE(alone["plan"].is_null() && alone["ratio"].is_null());
    EXPECT_EQ(json({"speed", kModel, "--prefill", "9000"}).json()["error"]["code"], "generate.prompt_too_long");
    EXPECT_THAT(runEngine({"speed", kModel, "--plan", plan, "--prefill", "8", "--decode", "2", "--rounds", "1", "--quiet"}).output,
                ::testing::HasSubstr("plan / dense"));
}

Request ask(std::int64_t id, const std::string& method, Json params) { return {RequestId(id), method, std::move(params)}; }

Json completion(int tokens, const Json& more = Json::object())
{
    Json params = {{"path", kDemo}, {"prompt", "The history of"}, {"tokens", tokens}, {"ignore_end", true}};
    params.update(more);
    return params;
}

// Words for a request as the window asks it.
TEST(ServeGenerate, tokensOneByOneAndAlternatives)
{
    EngineProcess engine({"serve"});
    engine.send(ask(1, "generate", completion(12, {{"alternatives", 3}})));
    std::vector<Json> notes;
    const Json answer = engine.answer(1, &notes)["result"];
    ASSERT_TRUE(answer.is_object());
    EXPECT_EQ(answer["finish"], "length");
    std::string text;
    std::vector<int> ids;
    for (const Json& note : notes)
        if (note["method"] == "$/partial") {
            const Json& token = note["params"]["value"];
            EXPECT_EQ(token["index"], ids.size());
            ids.push_back(token["id"]);
            text += token["text"].get<std::string>();
            ASSERT_EQ(token["alternatives"].size(), 3u);
            EXPECT_EQ(token["alternatives"][0]["id"], token["id"]) << "greedy";
            EXPECT_EQ(token["alternatives"][0]["logprob"], token["logprob"]);
        }
    EXPECT_EQ(answer["ids"], Json(ids));
    EXPECT_EQ(answer["text"], text);
    const Json whole = json({"generate", kDemo, "--prompt", "The history of", "--tokens", "12", "--ignore-end"}).json();
    EXPECT_EQ(whole["ids"], answer["ids"]);
    engine.send(ask(2, "generate", completion(4, {{"prompt", ""}})));
    EXPECT_EQ(engine.answer(2)["error"]["data"]["code"], "generate.empty_prompt");
    engine.send(ask(3, "generate", {{"path", kDemo}}));
    EXPECT_EQ(engine.answer(3)["error"]["code"], rpc::kInvalidParams);
}

// The latest of a tag wins, a cancel ends it at any token, and an edit does not wait for it.
TEST(ServeGenerate, latestWinsCancelsAndLetsEditsPass)
{
    EngineProcess engine({"serve"});
    engine.send(ask(1, "generate", completion(1000, {{"tag", "try"}})));
    // It runs: a token came.
    for (;;) {
        const auto message = engine.next();
        ASSERT_TRUE(message.has_value());
        if (message->value("method", "") == "$/partial") break;
    }
    const Json evaluation = {{"path", kDemo},
                             {"text", {std::string(ESPALIER_RESOURCES) + "/demo/validation.txt"}},
                             {"window_length", 64},
                             {"max_windows", 4},
                             {"windows", {{"first", 2}}},
                             {"tag", "quick"}};
    engine.send(ask(2, "evaluate", evaluation));
    std::map<std::int64_t, Json> answers;
    const auto until = [&](std::int64_t id) {
        while (!answers.contains(id)) {
            const auto message = engine.next();
            ASSERT_TRUE(message.has_value());
            if (message->contains("id") && !message->contains("method")) answers[(*message)["id"]] = *message;
        }
    };
    until(2);
    EXPECT_FALSE(answers.contains(1)) << "the evaluation went first";
    EXPECT_EQ(answers[2]["result"]["windows"].size(), 2u);
    engine.send(ask(3, "generate", completion(1000, {{"tag", "try"}})));
    until(1);
    EXPECT_EQ(answers[1]["error"]["code"], rpc::kSuperseded);
    engine.send(Notification{"$/cancelRequest", {{"id", 3}}});
    until(3);
    EXPECT_EQ(answers[3]["error"]["code"], rpc::kCancelled);
}

TEST(ServeGenerate, speedByRounds)
{
    EngineProcess engine({"serve"});
    const Json plan = {{"version", 1}, {"layers", {{{"layer", 3}, {"kept", {0, 1, 2, 3, 4, 5, 6, 7}}}}}};
    engine.send(ask(1, "speed", {{"path", kDemo}, {"plan", plan}, {"prefill", 16}, {"decode", 2}, {"rounds", 2}}));
    std::vector<Json> notes;
    const Json answer = engine.answer(1, &notes)["result"];
    ASSERT_TRUE(answer.is_object());
    EXPECT_GT(answer["ratio"]["prefill"].get<double>(), 0);
    EXPECT_GT(answer["plan"]["decode_tokens_per_second"].get<double>(), 0);
    EXPECT_EQ(std::count_if(notes.begin(), notes.end(), [](const Json& note) { return note["method"] == "$/partial"; }), 2);
}

}  // namespace
}  // namespace espalier::testing
