// recover by gradients: texts and records to tune on, the gate, what goes on after a kill, a stop or another command.
#include "cli/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

namespace espalier::testing
{
namespace
{

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string error(const Outcome& outcome) { return outcome.json()["error"]["code"].get<std::string>(); }

// The step of the last state that a run wrote; -1: none yet.
int stepOf(const fs::path& state)
{
    const std::string bytes = readFile(state);
    const std::string key = R"(\"step\":)";
    const std::size_t at = bytes.substr(0, std::size_t{1} << 16).find(key);
    return at == std::string::npos ? -1 : std::stoi(bytes.substr(at + key.size(), 8));
}

class CliTuning : public ::testing::Test
{
protected:
    // A model whose tokens are bytes and an end of sequence, beside the texts of a demo.
    void SetUp() override
    {
        fs::create_directories(model);
        for (const char* name : {"config.json", "model.safetensors"})
            fs::copy_file(fs::path(kModel) / name, fs::path(model) / name);
        Json tokens = Json::parse(readFile(fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers/qwen2-style/tokenizer.json"));
        Json& vocabulary = tokens["model"]["vocab"];
        for (auto it = vocabulary.begin(); it != vocabulary.end();)
            it = it->get<int>() < 256 ? std::next(it) : vocabulary.erase(it);
        tokens["model"]["merges"] = Json::array();
        Json end = tokens["added_tokens"][0];
        end["id"] = 256;
        tokens["added_tokens"] = Json::array({end});
        writeFile(fs::path(model) / "tokenizer.json", tokens.dump());
        writeFile(fs::path(model) / "tokenizer_config.json", Json{{"eos_token", end["content"]}, {"add_bos_token", false}}.dump());
        writeFile(at("calibration.txt"), prose(0, 4096));
        writeFile(at("validation.txt"), prose(5000, 1024));
        writeFile(at("test.txt"), prose(9000, 256));
        Json file = {{"version", 1}, {"layers", Json::array()}};
        for (int l = 0; l < 4; ++l)
            file["layers"].push_back({{"layer", l}, {"kept", {0, 1, 2, 3, 5, 8, 9, 11}}});
        writeFile(plan, file.dump());
    }
    static std::string prose(unsigned seed, std::size_t length)
    {
        std::string text;
        while (text.size() < length) {
            seed = seed * 1103515245u + 12345u;
            for (unsigned i = 0; i < 3 + (seed >> 16) % 5; ++i)
                text += static_cast<char>('a' + (seed >> (8 + i)) % 20);
            text += (seed >> 20) % 11 == 0 ? ".\n" : " ";
        }
        return text.substr(0, length);
    }
    std::vector<std::string> tuning(const std::string& to, std::vector<std::string> more = {}) const
    {
        std::vector<std::string> all = {"recover", model,     "--plan",    plan,        "--out",   to,       "--method", "lora",
                                        "--steps", "20",      "--param",   "batch=2",   "--param", "rank=2", "--param",  "evaluate-every=1",
                                        "--json",  "--param", "rate=0.01", "--threads", "1"};
        all.insert(all.end(), more.begin(), more.end());
        return all;
    }
    std::vector<std::string> onProse(const std::string& to, std::vector<std::string> more = {}) const
    {
        more.insert(more.end(), {"--text", at("calibration.txt"), "--gate", at("validation.txt"), "--window-length", "64"});
        return tuning(to, std::move(more));
    }
    std::string at(const std::string& name) const { return (scratch / name).string(); }
    // Starts, and sends the signal once the state of that step is written. On a busy machine a run may get to its end before the signal
    // does: then again.
    void interrupt(const std::vector<std::string>& arguments, const std::string& out, int step, int number, int code)
    {
        for (int trial = 0; trial < 10; ++trial) {
            EngineProcess engine(arguments);
            while (stepOf(out + ".recover/training.safetensors") < step && !engine.ended())
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            engine.signal(number);
            const int ended = engine.wait();
            if (ended == code) return;
            ASSERT_EQ(ended, 0) << engine.output() << engine.errors();
            fs::remove(out);
            fs::remove(fs::path(out).replace_extension(".values.safetensors"));
        }
        FAIL() << "it always got to its end first";
    }
    void expectSame(const std::string& one, const std::string& other)
    {
        Json a = Json::parse(readFile(at(one + ".json"))), b = Json::parse(readFile(at(other + ".json")));
        a["values"][0].erase("file");
        b["values"][0].erase("file");
        EXPECT_EQ(a, b);
        EXPECT_EQ(readFile(at(one + ".values.safetensors")), readFile(at(other + ".values.safetensors")));
    }

    const Scratch scratch;
    const std::string model = (scratch / "model").string();
    const std::string plan = (scratch / "plan.json").string();
};

TEST_F(CliTuning, KilledAtAnyStepItEndsWithTheSameBits)
{
    const Outcome whole = runEngine(onProse(at("whole.json")));
    ASSERT_EQ(whole.code, 0) << whole.output << whole.errors;
    EXPECT_TRUE(whole.json()["accepted"].get<bool>());
    for (const int step : {0, 1, 7, 14}) {
        SCOPED_TRACE(step);
        const std::string name = "killed" + std::to_string(step);
        const std::string out = at(name + ".json");
        interrupt(onProse(out), out, step, SIGKILL, 128 + SIGKILL);
        EXPECT_FALSE(fs::exists(out));
        const Outcome rest = runEngine(onProse(out, {"--resume"}));
        ASSERT_EQ(rest.code, 0) << rest.output << rest.errors;
        EXPECT_EQ(rest.json()["loss"], whole.json()["loss"]);
        expectSame(name, "whole");
        EXPECT_FALSE(fs::exists(out + ".recover"));
    }
}

TEST_F(CliTuning, StoppedItKeepsTheBestAndGoesOn)
{
    const std::vector<std::string> control = {"--control"};
    const Outcome whole = runEngine(onProse(at("whole.json"), control));
    ASSERT_EQ(whole.code, 0) << whole.output << whole.errors;
    EXPECT_TRUE(whole.json()["ppl_control"].is_number());
    EXPECT_EQ(whole.json()["made_by"], Json::parse(readFile(at("whole.json")))["values"][0]["made_by"]);
    EXPECT_TRUE(whole.json()["made_by"]["result"]["nll_control"].is_string());
    const std::string out = at("stopped.json");
    interrupt(onProse(out, control), out, 3, SIGINT, 130);
    EXPECT_TRUE(fs::exists(out));
    EXPECT_TRUE(fs::exists(out + ".recover"));
    EXPECT_EQ(error(runEngine(onProse(out, control))), "output.exists");
    // What does not belong together says so, and nothing is lost.
    for (const std::vector<std::string>& other :
         {std::vector<std::string>{"--seed", "9"}, {"--param", "dropout=0.2"}, {"--windows", "20"}}) {
        std::vector<std::string> more = {"--resume", "--control"};
        more.insert(more.end(), other.begin(), other.end());
        const Outcome refused = runEngine(onProse(out, more));
        EXPECT_EQ(refused.code, 3) << other[0];
        EXPECT_EQ(error(refused), "recover.other_run") << other[0];
        EXPECT_THAT(refused.json()["error"]["kept"].get<std::string>(), HasSubstr("still there"));
    }
    const Outcome rest = runEngine(onProse(out, {"--resume", "--control"}));
    ASSERT_EQ(rest.code, 0) << rest.output << rest.errors;
    expectSame("stopped", "whole");
}

TEST_F(CliTuning, RecordsOfInstructions)
{
    std::string lines;
    for (int i = 0; i < 8; ++i)
        lines +=
            Json{{"prompt", prose(static_cast<unsigned>(i), 20)}, {"completion", prose(static_cast<unsigned>(i) + 77, 30)}}.dump() + "\n";
    writeFile(at("tune.jsonl"), lines);
    // 51 tokens each: 8 windows of one, or 4 of two.
    const std::vector<std::string> gate = {"--text", at("tune.jsonl"), "--gate", at("validation.txt")};
    const auto with = [&](std::vector<std::string> more) {
        more.insert(more.end(), gate.begin(), gate.end());
        return more;
    };
    const Outcome made = runEngine(tuning(at("a.json"), with({"--window-length", "128", "--no-packing"})));
    ASSERT_TRUE(made.code == 0 || made.code == 5) << made.output << made.errors;
    EXPECT_EQ(made.json()["text_windows"], 8);
    EXPECT_EQ(made.json()["text"], "tune.jsonl");
    EXPECT_TRUE(made.json()["made_by"]["settings"]["scored_sha256"].is_string());
    const Outcome packed = runEngine(tuning(at("b.json"), with({"--window-length", "128"})));
    EXPECT_EQ(packed.json()["text_windows"], 4);
    const Outcome longer = runEngine(tuning(at("c.json"), with({"--window-length", "50"})));
    EXPECT_EQ(longer.code, 3);
    EXPECT_EQ(error(longer), "text.record_too_long");
    EXPECT_THAT(longer.json()["error"]["message"].get<std::string>(), HasSubstr("line 1"));
    writeFile(at("tune.jsonl"), lines + R"({"prompt": "a", "completion": ""})" + "\n");
    const Outcome empty = runEngine(tuning(at("c.json"), with({"--window-length", "128"})));
    EXPECT_EQ(empty.code, 3);
    EXPECT_EQ(error(empty), "text.empty_output");
    EXPECT_THAT(empty.json()["error"]["message"].get<std::string>(), HasSubstr("line 9"));
    EXPECT_FALSE(fs::exists(at("c.json")));
    EXPECT_FALSE(fs::exists(at("c.json.recover")));
    const Outcome without = runEngine(tuning(at("c.json"), with({"--window-length", "128", "--leave-out-bad"})));
    EXPECT_EQ(without.json()["text_windows"], 4);
    EXPECT_THAT(without.json()["warnings"].dump(), HasSubstr("1 records are left out"));
}

TEST_F(CliTuning, WhatIsNotBetterIsNotOffered)
{
    // A text of one letter that the live one has not: what is learned there takes from all others.
    writeFile(at("one.txt"), std::string(2048, 'Z'));
    const Outcome made = runEngine(tuning(
        at("a.json"), {"--text", at("one.txt"), "--gate", at("validation.txt"), "--window-length", "64", "--param", "evaluate-every=0"}));
    ASSERT_EQ(made.code, 5) << made.output << made.errors;
    EXPECT_FALSE(made.json()["accepted"].get<bool>());
    EXPECT_GT(made.json()["ppl_after"], made.json()["ppl_before"]);
    EXPECT_FALSE(fs::exists(at("a.values.safetensors")));
    EXPECT_EQ(Json::parse(readFile(at("a.json")))["layers"], Json::parse(readFile(plan))["layers"]);
}

TEST_F(CliTuning, OverlapIsSaid)
{
    const Outcome made =
        runEngine(tuning(at("a.json"), {"--text", at("validation.txt"), "--gate", at("validation.txt"), "--window-length", "64"}));
    ASSERT_EQ(made.code, 0) << made.output << made.errors;
    EXPECT_EQ(made.json()["text_overlap"]["gate"], made.json()["text_windows"]);
    EXPECT_THAT(made.json()["warnings"].dump(), HasSubstr("flatters"));
    const Outcome apart = runEngine(onProse(at("b.json")));
    EXPECT_EQ(apart.json()["text_overlap"]["gate"], 0);
    EXPECT_TRUE(apart.json()["text_overlap"]["calibration"].is_null());
}

// Nothing is named: what calibration leaves of its text, judged on the live one.
TEST_F(CliTuning, TheDemoTunesOnWhatCalibrationLeaves)
{
    const std::string profile = at("p.h5");
    const Outcome taken = runEngine({"profile", model, "--text", at("calibration.txt"), "--window-length", "64", "--windows", "10", "--out",
                                     profile, "--json", "--threads", "1"});
    ASSERT_EQ(taken.code, 0) << taken.output << taken.errors;
    const Outcome made = runEngine(tuning(at("a.json"), {"--profile", profile}));
    ASSERT_TRUE(made.code == 0 || made.code == 5) << made.output << made.errors;
    EXPECT_EQ(made.json()["text_windows"], 54);
    EXPECT_THAT(made.json()["text"].get<std::string>(), HasSubstr("calibration.txt, the part that calibration does not use"));
    EXPECT_EQ(made.json()["text_overlap"]["calibration"], 0);
    EXPECT_EQ(made.json()["gate"], "validation.txt");
    const Outcome all = runEngine(onProse(at("b.json"), {"--profile", profile}));
    EXPECT_GE(all.json()["text_overlap"]["calibration"].get<int>(), 10);
    // Another model has no such texts.
    fs::remove(at("test.txt"));
    EXPECT_EQ(error(runEngine(tuning(at("c.json"), {"--profile", profile}))), "usage.arguments");
}

}  // namespace
}  // namespace espalier::testing
