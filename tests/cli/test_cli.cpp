// The command line as a script sees it: exit codes, exactly one JSON object, the promised fields, damaged input, interruption.
#include "base/text.h"
#include "cli/engine_process.h"
#include "session/profile_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <set>
#include <sstream>
#include <thread>

namespace espalier::testing
{
namespace
{

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kDemo = std::string(ESPALIER_RESOURCES) + "/demo/espalier-demo-moe";
const std::string kText = std::string(ESPALIER_RESOURCES) + "/demo/validation.txt";
const char* const kPlan =
    R"({"version": 1, "layers": [{"layer": 0, "kept": [0,1,2,3,4,5,6,7,8,9,10,11]}, {"layer": 2, "kept": [1,2,3,5,8,13]}]})";

Outcome json(std::vector<std::string> arguments)
{
    arguments.push_back("--json");
    return runEngine(arguments);
}

void expectCommonFields(const Json& result)
{
    for (const char* field : {"espalier", "seconds", "peak_rss_bytes", "threads", "device", "dtype", "seed", "warnings"})
        EXPECT_TRUE(result.contains(field)) << field;
    EXPECT_TRUE(result["warnings"].is_array());
}

void expectError(const Outcome& outcome, int code, const std::string& name)
{
    EXPECT_EQ(outcome.code, code) << outcome.output << outcome.errors;
    const Json result = outcome.json();
    ASSERT_TRUE(result.contains("error")) << outcome.output;
    EXPECT_EQ(result.size(), 1u);
    for (const char* field : {"code", "subject", "message", "kept", "action"})
        EXPECT_TRUE(result["error"].contains(field)) << field;
    EXPECT_EQ(result["error"]["code"], name);
}

TEST(Cli, helpAndVersionOnEveryVerb)
{
    const std::string all = runEngine({"--help"}).output;
    EXPECT_THAT(runEngine({"plan", "--version"}).output, HasSubstr(ESPALIER_VERSION));
    for (const char* verb : {"inspect", "tokenize", "forward", "methods", "profile", "merge", "score", "plan", "estimate", "evaluate",
                             "export", "verify", "serve"}) {
        const Outcome help = runEngine({verb, "--help"});
        EXPECT_EQ(help.code, 0) << verb;
        EXPECT_THAT(help.output, HasSubstr("--json")) << verb;
        EXPECT_THAT(all, HasSubstr(verb));
        EXPECT_EQ(runEngine({"help", verb}).output, help.output);
    }
    EXPECT_EQ(runEngine({"help"}).output, all);
    EXPECT_EQ(runEngine({"help"}).code, 0);
    const Outcome unknown = runEngine({"help", "bake"});
    EXPECT_EQ(unknown.code, 2);
    EXPECT_THAT(unknown.errors, HasSubstr("There is no verb \"bake\""));
}

// One test over the verbs that take a text: what was asked for and what was given, in text and in JSON.
TEST(Cli, textsThatAreNotWhatWasAskedForAreSaid)
{
    Scratch scratch;
    const std::string text = (scratch / "a.txt").string();
    const std::string lines = (scratch / "a.jsonl").string();
    const std::string first = "The old wall was warm and the pear trees stood against it.";
    const std::string second = "In the evening the gardener came.";
    writeFile(text, first + "\n\n" + second);
    writeFile(lines, Json{{"text", first}}.dump() + "\n" + Json{{"text", second}}.dump() + "\n");
    const Outcome plain = json({"evaluate", kDemo, "--text", text, "--window-length", "8", "--windows", "77"});
    ASSERT_EQ(plain.code, 0) << plain.errors;
    ASSERT_EQ(plain.json()["warnings"].size(), 1u);
    EXPECT_THAT(plain.json()["warnings"][0].get<std::string>(), HasSubstr("77 windows were asked for"));
    EXPECT_THAT(plain.errors, HasSubstr("warning: 77 windows were asked for"));
    EXPECT_EQ(plain.json()["windows_asked"], 77);
    const Outcome fromLines = json({"evaluate", kDemo, "--text", lines, "--window-length", "8"});
    EXPECT_EQ(fromLines.json()["ppl"], plain.json()["ppl"]);
    EXPECT_EQ(fromLines.json()["text_sha256"], plain.json()["text_sha256"]);
    EXPECT_TRUE(fromLines.json()["warnings"].empty());
    EXPECT_EQ(fromLines.json()["windows_asked"], nullptr);
    const std::string packed = (scratch / "a.gz").string();
    writeFile(packed, "\x1F\x8B\x08 packed");
    for (const char* verb : {"evaluate", "profile", "tokenize"}) {
        std::vector<std::string> arguments = {verb, kDemo, "--text", packed};
        if (std::string(verb) == "profile") arguments.insert(arguments.end(), {"--out", (scratch / "p.h5").string()});
        expectError(json(arguments), 3, "text.other_form");
    }
    const Outcome tokens = json({"tokenize", kDemo, "--text", lines});
    EXPECT_EQ(tokens.json()["ids"], json({"tokenize", kDemo, "--text", text}).json()["ids"]);
    const std::string ids = (scratch / "ids.json").string();
    const std::string out = (scratch / "p.h5").string();
    writeFile(ids, "[[1,2,3,4],[5,6,7,8]]");
    const Outcome profile = json({"profile", kDemo, "--ids", ids, "--windows", "3", "--window-length", "6", "--out", out});
    ASSERT_EQ(profile.code, 0) << profile.errors;
    // Those about the text come first; a text of eight tokens gives others.
    ASSERT_GE(profile.json()["warnings"].size(), 2u) << profile.output;
    EXPECT_EQ(profile.json()["warnings"][0], "3 windows were asked for, and ids.json has 2 of 6 tokens.");
    EXPECT_THAT(profile.json()["warnings"][1].get<std::string>(), HasSubstr("rows of 4"));
    const Outcome planned =
        json({"plan", kDemo, "--profile", out, "--prune", "25%", "--windows", "9", "--out", (scratch / "plan.json").string()});
    ASSERT_EQ(planned.code, 0) << planned.errors;
    EXPECT_THAT(planned.output, HasSubstr("9 windows were asked for, and ids.json has 2"));
}

// A manual or a completion that lacks an option, or offers one that is gone, misleads whoever relies on it.
TEST(Cli, manualAndCompletionListWhatHelpLists)
{
    const std::string manual = runEngine({"documentation", "--manual", ESPALIER_MANUAL_TEMPLATE}).output;
    const std::string completion = runEngine({"documentation", "--bash"}).output;
    EXPECT_THAT(manual, Not(HasSubstr("@VERBS@")));
    for (const char* verb : {"inspect", "profile", "plan", "evaluate", "export", "verify"}) {
        std::istringstream help(runEngine({verb, "--help"}).output);
        std::string line;
        std::set<std::string> options;
        while (std::getline(help, line))
            if (line.rfind("  --", 0) == 0) options.insert(line.substr(2, line.find_first_of(" =", 2) - 2));
        EXPECT_GT(options.size(), 8u) << verb;
        const std::size_t at = completion.find(std::string(verb) + ") own=\"");
        ASSERT_NE(at, std::string::npos) << verb;
        const std::string own = completion.substr(at, completion.find('\n', at) - at);
        for (const std::string& option : options) {
            EXPECT_THAT(own, HasSubstr(option)) << verb;
            std::string escaped;
            for (const char c : option)
                escaped += c == '-' ? std::string("\\-") : std::string(1, c);
            if (option == "--version") continue;
            EXPECT_THAT(manual, HasSubstr("\\fB" + escaped + "\\fR")) << verb;
        }
    }
    EXPECT_THAT(completion, HasSubstr("\"plan --score\") COMPREPLY=($(compgen -W \"leave-one-out"));
}

TEST(Cli, usageErrors)
{
    expectError(json({"no-such-verb"}), 2, "usage.arguments");
    expectError(json({}), 2, "usage.arguments");
    expectError(json({"inspect"}), 2, "usage.arguments");
    expectError(json({"inspect", kDemo, "--no-such-option"}), 2, "usage.arguments");
    expectError(json({"evaluate", kDemo}), 2, "usage.arguments");
    expectError(json({"evaluate", kDemo, "--text", kText, "--dtype", "fp8"}), 2, "usage.arguments");
    const Outcome people = runEngine({"inspect"});
    EXPECT_EQ(people.code, 2);
    EXPECT_TRUE(people.output.empty());
    expectError(json({"evaluate", kDemo, "--text", kText, "--device", "cuda", "--windows", "1"}), 4, "device.unavailable");
}

// Loading libtorch takes longer than reading headers: what is started does not need the program that has it for that, and says so where it
// does and the other one is gone.
TEST(Cli, inspectNeedsNoLibtorch)
{
    const Scratch scratch;
    const std::filesystem::path lone = scratch / "espalier-engine";
    std::filesystem::copy_file(ESPALIER_ENGINE, lone);
    const auto run = [&](const std::vector<std::string>& arguments) {
        std::string command = lone.string();
        for (const std::string& argument : arguments)
            command.append(" ").append(argument);
        FILE* pipe = popen(command.append(" --json 2>/dev/null").c_str(), "r");
        std::string output;
        for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe))
            output += static_cast<char>(c);
        pclose(pipe);
        return Json::parse(output);
    };
    EXPECT_EQ(run({"inspect", kDemo})["model_type"], "qwen2_moe");
    EXPECT_EQ(run({"methods"})["error"]["code"], "engine.missing_part");
}

TEST(Cli, inspect)
{
    const Outcome outcome = json({"inspect", kDemo});
    ASSERT_EQ(outcome.code, 0) << outcome.errors;
    const Json result = outcome.json();
    expectCommonFields(result);
    EXPECT_EQ(result["model_type"], "qwen2_moe");
    EXPECT_EQ(result["forward_supported"], true);
    EXPECT_TRUE(result["model"]["fingerprint"].is_string());
    for (const char* field : {"parameters", "active_parameters", "bytes"})
        EXPECT_TRUE(result[field].is_number_integer()) << field;
    for (const char* field : {"index", "kind", "experts", "top_k", "expert_parameters", "shared"})
        EXPECT_TRUE(result["layers"][0].contains(field)) << field;
    EXPECT_FALSE(result.contains("tensors"));
    EXPECT_GT(json({"inspect", kDemo, "--tensors"}).json()["tensors"].size(), 300u);
    EXPECT_THAT(runEngine({"inspect", kDemo}).output, HasSubstr("qwen2_moe"));
}

TEST(Cli, tokenize)
{
    const Json result = json({"tokenize", kDemo, "--string", "Hello world"}).json();
    expectCommonFields(result);
    EXPECT_EQ(result["text"], "Hello world");
    EXPECT_EQ(result["count"], result["ids"].size());
    std::string list;
    for (const Json& id : result["ids"]) {
        if (!list.empty()) list += ',';
        list += id.dump();
    }
    EXPECT_EQ(json({"tokenize", kDemo, "--ids", list}).json()["text"], "Hello world");
    EXPECT_EQ(Json::parse(runEngine({"tokenize", kDemo, "--text", "-", "--json"}, "Hello world").output)["ids"], result["ids"]);
    Scratch scratch;
    writeFile(scratch / "lines.jsonl", "{\"text\": \"Hello world\"}\n\n{\"text\": \"\"}\n");
    const Json many = json({"tokenize", kDemo + "/tokenizer.json", "--jsonl", (scratch / "lines.jsonl").string()}).json();
    ASSERT_EQ(many["results"].size(), 2u);
    EXPECT_EQ(many["results"][0]["ids"], result["ids"]);
    EXPECT_EQ(json({"tokenize", kDemo, "--string", ""}).json()["count"], 0);
    expectError(json({"tokenize", kDemo}), 2, "usage.arguments");
}

TEST(Cli, methods)
{
    const Json result = json({"methods"}).json();
    expectCommonFields(result);
    bool importance = false;
    for (const Json& method : result["methods"]) {
        for (const char* field : {"id", "title", "slot", "parameters"})
            EXPECT_TRUE(method.contains(field)) << field;
        importance = importance || method["id"] == "importance";
        // A paper or a sentence that stands by itself: files that a reader does not have say nothing.
        const std::string source = method.value("source", "");
        EXPECT_FALSE(source.empty()) << method["id"];
        EXPECT_EQ(source.find(".md"), std::string::npos) << method["id"] << ": " << source;
    }
    EXPECT_TRUE(importance);
    // The table for people has it too.
    EXPECT_THAT(runEngine({"methods", "--slot", "rank-rule"}).output, HasSubstr("arXiv 2411.01016, eq. 5"));
    const Json allocate = json({"methods", "--slot", "allocate"}).json();
    for (const Json& method : allocate["methods"])
        EXPECT_EQ(method["slot"], "allocate");
}

TEST(Cli, forward)
{
    Scratch scratch;
    writeFile(scratch / "ids.json", "[[1,2,3,4,5],[5,4,3,2,1]]");
    const std::string out = (scratch / "out.safetensors").string();
    const std::vector<std::string> arguments = {"forward", kDemo, "--ids",    (scratch / "ids.json").string(),
                                                "--out",   out,   "--hidden", "--routing"};
    const Outcome outcome = json(arguments);
    ASSERT_EQ(outcome.code, 0) << outcome.errors;
    const Json tensors = outcome.json()["tensors"];
    EXPECT_EQ(tensors["logits"], Json({2, 5, 4096}));
    EXPECT_EQ(tensors["nll"], Json({2, 4}));
    EXPECT_EQ(tensors["hidden.0"], Json({2, 5, 192}));
    EXPECT_EQ(tensors["router.0.ids"], Json({2, 5, 4}));
    EXPECT_TRUE(std::filesystem::exists(out));
    expectError(json(arguments), 2, "output.exists");
    writeFile(scratch / "uneven.json", "[[1,2,3],[5,4]]");
    expectError(json({"forward", kDemo, "--ids", (scratch / "uneven.json").string(), "--out", (scratch / "x").string()}), 3,
                "ids.unequal_rows");
}

// Registered a second time without AVX-512.
TEST(Cli, computesInBf16)
{
    const std::vector<std::string> arguments = {"evaluate", kDemo, "--text", kText, "--window-length", "64", "--windows", "8", "--dtype"};
    const auto perplexity = [&](const char* dtype) {
        std::vector<std::string> all = arguments;
        all.emplace_back(dtype);
        const Outcome outcome = json(all);
        EXPECT_EQ(outcome.code, 0) << outcome.errors;
        return outcome.json()["ppl"].get<double>();
    };
    EXPECT_NEAR(perplexity("bf16") / perplexity("fp32"), 1.0, 0.01);
}

// What the window calls quick windows, and the part of a shared text, can be asked for here too.
TEST(Cli, evaluateChoosesWindows)
{
    const auto evaluate = [](std::vector<std::string> which) {
        std::vector<std::string> arguments = {"evaluate", kDemo, "--text", kText, "--window-length", "64"};
        arguments.insert(arguments.end(), which.begin(), which.end());
        return json(arguments);
    };
    const Json all = evaluate({"--windows", "64"}).json();
    ASSERT_EQ(all["windows"].size(), 64u) << all.dump();
    const Json spread = evaluate({"--windows", "64", "--spread", "16"}).json();
    ASSERT_EQ(spread["windows"].size(), 16u) << spread.dump();
    // The middles of sixteen equal parts, to the last digit: they run together either way.
    for (std::size_t i = 0; i < 16; ++i)
        EXPECT_EQ(spread["windows"][i]["nll"], all["windows"][4 * i + 2]["nll"]) << i;
    EXPECT_NE(spread["text_sha256"], all["text_sha256"]);
    EXPECT_EQ(spread["spread"], 16);
    // Other windows ran beside these: equal as far as single precision goes.
    const Json rest = evaluate({"--first-window", "40", "--windows", "8"}).json();
    ASSERT_EQ(rest["windows"].size(), 8u) << rest.dump();
    for (std::size_t i = 0; i < 8; ++i)
        EXPECT_NEAR(rest["windows"][i]["nll"].get<double>(), all["windows"][40 + i]["nll"].get<double>(), 1e-3) << i;
    EXPECT_THAT(runEngine({"evaluate", kDemo, "--text", kText, "--window-length", "64", "--windows", "64", "--spread", "4"}).output,
                HasSubstr("on validation.txt: 252 tokens in 4 windows of 64 (spread over 64)"));
    expectError(evaluate({"--first-window", "1000000"}), 3, "text.too_short");
}

TEST(Cli, evaluateExportVerify)
{
    Scratch scratch;
    const std::string plan = (scratch / "plan.json").string();
    writeFile(plan, kPlan);
    const Outcome outcome = json({"evaluate", kDemo, "--text", kText, "--window-length", "64", "--windows", "4", "--plan", plan});
    ASSERT_EQ(outcome.code, 0) << outcome.errors;
    const Json result = outcome.json();
    expectCommonFields(result);
    EXPECT_EQ(result["scored_tokens"], 4 * 63);
    ASSERT_EQ(result["windows"].size(), 4u);
    double sum = 0;
    for (const Json& window : result["windows"])
        sum += window["nll"].get<double>();
    EXPECT_NEAR(result["nll"].get<double>(), sum / (4 * 63), 1e-12);
    for (const char* field : {"nll", "se", "ppl_ratio", "low", "high"})
        EXPECT_TRUE(result["delta"][field].is_number()) << field;
    EXPECT_EQ(result["dtype"], "fp32");
    EXPECT_TRUE(json({"evaluate", kDemo, "--text", kText, "--window-length", "64", "--windows", "2"}).json()["delta"].is_null());
    // What was measured is used again, and gives the same number.
    const Json again =
        json({"evaluate", kDemo, "--text", kText, "--window-length", "64", "--windows", "4", "--plan", plan, "--resume"}).json();
    EXPECT_EQ(again["windows"], result["windows"]);

    const Json estimate = json({"estimate", kDemo, "--plan", plan}).json();
    EXPECT_TRUE(estimate["delta_nll"].is_null());
    EXPECT_EQ(estimate["label"], "estimate");
    EXPECT_LT(estimate["bytes"].get<std::int64_t>(), estimate["dense"]["bytes"].get<std::int64_t>());

    const std::string out = (scratch / "smaller").string();
    const Json dry = json({"export", kDemo, "--plan", plan, "--out", out, "--dry-run"}).json();
    EXPECT_FALSE(std::filesystem::exists(out));
    const Outcome exported = json({"export", kDemo, "--plan", plan, "--out", out, "--flavor", "factored"});
    ASSERT_EQ(exported.code, 0) << exported.errors;
    EXPECT_EQ(exported.json()["flavor"], "factored");
    EXPECT_EQ(exported.json()["plan_hash"], result["plan_hash"]);
    EXPECT_GT(exported.json()["files"].size(), 3u);
    EXPECT_EQ(dry["tensor_bytes"], exported.json()["tensor_bytes"]);
    expectError(json({"export", kDemo, "--plan", plan, "--out", out}), 2, "output.exists");
    expectError(json({"export", kDemo, "--plan", plan, "--out", out + "2", "--flavor", "stock"}), 3, "export.unequal_counts");

    const Outcome verified = json({"verify", out, "--source", kDemo, "--plan", plan});
    EXPECT_EQ(verified.code, 0) << verified.errors;
    EXPECT_EQ(verified.json()["holds"], true);
    EXPECT_TRUE(verified.json()["max_abs_logit_difference"].is_number());
    // One changed byte is found, and the exit code says so.
    {
        const int bytes = static_cast<int>(std::filesystem::file_size(out + "/model.safetensors"));
        FILE* file = std::fopen((out + "/model.safetensors").c_str(), "r+b");
        ASSERT_NE(file, nullptr);
        std::fseek(file, bytes - 100, SEEK_SET);
        const int old = std::fgetc(file);
        std::fseek(file, bytes - 100, SEEK_SET);
        std::fputc(old ^ 1, file);
        std::fclose(file);
    }
    const Outcome damaged = json({"verify", out, "--source", kDemo});
    EXPECT_EQ(damaged.code, 5);
    EXPECT_EQ(damaged.json()["holds"], false);
}

TEST(Cli, plansOfOtherModelsAndBadPlans)
{
    Scratch scratch;
    const std::string plan = (scratch / "plan.json").string();
    writeFile(plan, R"({"version":1,"layers":[],"model":{"model_type":"mixtral"}})");
    expectError(json({"estimate", kDemo, "--plan", plan}), 3, "plan.other_model");
    EXPECT_EQ(json({"estimate", kDemo, "--plan", plan, "--allow-other-model"}).code, 0);
    writeFile(plan, R"({"version":1,"layers":[{"layer":0,"kept":[0,99]}]})");
    EXPECT_EQ(json({"estimate", kDemo, "--plan", plan}).code, 3);
    writeFile(plan, "{");
    EXPECT_EQ(json({"estimate", kDemo, "--plan", plan}).code, 3);
    EXPECT_EQ(json({"estimate", kDemo, "--plan", plan + ".missing"}).code, 3);
}

// Every damaged folder, by its manifest, through the real program: refused with a name, never a crash.
TEST(Cli, damagedFolders)
{
    Scratch scratch;
    writeFile(scratch / "ids.json", "[[1,2,3,4,5,6,7,8]]");
    const Json manifest = *readJsonFile(fixture("bad/manifest.json"), "test");
    for (const Json& item : manifest["cases"]) {
        const std::string name = item["folder"];
        const std::string folder = fixture("bad/" + name);
        SCOPED_TRACE(name);
        ASSERT_TRUE(std::filesystem::is_directory(folder));
        Outcome outcome;
        if (item["stage"] == "tokenize") {
            outcome = json({"tokenize", folder, "--string", "hello"});
        } else if (item["stage"] == "open") {
            outcome = json({"inspect", folder});
        } else {
            outcome = json({"evaluate", folder, "--ids", (scratch / "ids.json").string(), "--window-length", "8"});
        }
        std::string said;
        const Json result = outcome.json();
        if (item["outcome"] == "error") {
            // A model that is merely unknown here can still be looked at.
            if (outcome.code == 0) {
                EXPECT_EQ(result["forward_supported"], false);
                said = result["warnings"].dump();
            } else {
                EXPECT_THAT(outcome.code, ::testing::AnyOf(3, 6));
                ASSERT_TRUE(result.contains("error"));
                said = result["error"].dump();
            }
        } else {
            EXPECT_EQ(outcome.code, 0) << outcome.errors;
            said = result["warnings"].dump();
            if (item["outcome"] == "ok") {
                EXPECT_EQ(said, "[]");
            }
        }
        for (const Json& text : item["must_name"]) {
            const std::string choices = text;
            bool named = false;
            for (std::size_t begin = 0; begin <= choices.size();) {
                const std::size_t end = std::min(choices.find('|', begin), choices.size());
                named = named || said.find(choices.substr(begin, end - begin)) != std::string::npos;
                begin = end + 1;
            }
            EXPECT_TRUE(named) << choices << " is not named in " << said;
        }
    }
}

TEST(Cli, interruptedEvaluationStopsAndResumes)
{
    Scratch scratch;
    const std::vector<std::string> arguments = {"evaluate", kDemo, "--text", kText, "--window-length", "256", "--windows", "64", "--json"};
    EngineProcess engine(arguments);
    // The engine is inside the evaluation as soon as its file of measured windows is there.
    const auto started = [&] {
        std::error_code ignored;
        return std::filesystem::exists(scratch / "cache/espalier/evaluations", ignored);
    };
    while (!started() && !engine.ended())
        std::this_thread::yield();
    engine.signal(SIGINT);
    EXPECT_EQ(engine.wait(), 130);
    EXPECT_EQ(Json::parse(engine.output())["error"]["code"], "job.cancelled");
}

// Profile, score, plan, in one go; a pass that was killed goes on and ends with the same bytes.
// Both stages in one go: every stage is reported, the export holds, a second run is refused or goes on, never both at once.
TEST(Cli, compress)
{
    Scratch scratch;
    const std::string out = (scratch / "small").string();
    const std::string report = (scratch / "report.html").string();
    std::vector<std::string> arguments = {
        "compress", kDemo, "--preset",  "moe-i2", "--prune",         "25%", "--rank-average", "auto",
        "--text",   kText, "--windows", "4",      "--window-length", "64",  "--param",        "select.generations=3",
        "--out",    out,   "--report",  report,   "--json"};
    const Outcome outcome = runEngine(arguments);
    ASSERT_EQ(outcome.code, 0) << outcome.output << outcome.errors;
    const Json result = outcome.json();
    expectCommonFields(result);
    for (const char* stage : {"profile", "plan", "evaluate", "export", "verify"})
        EXPECT_TRUE(result["stages"][stage]["seconds"].is_number()) << stage;
    EXPECT_EQ(result["kept_experts"], 72);
    EXPECT_GT(result["expert_parameters_removed"], 0.4);  // a quarter by pruning, the rest by ranks
    EXPECT_EQ(result["stages"]["verify"]["holds"], true);
    std::set<std::string> made;
    for (const Json& stage : result["stages"]["plan"]["stages"])
        made.insert(stage["stage"].get<std::string>());
    EXPECT_EQ(made, (std::set<std::string>{"allocate", "select", "receptive-field", "rank", "recover"}));
    const std::string html = *readTextFile(report, "test", 1 << 24);
    EXPECT_THAT(html, HasSubstr(result["plan_hash"].get<std::string>().substr(0, 12)));
    EXPECT_THAT(html, Not(HasSubstr("nan")));

    expectError(runEngine(arguments), 2, "output.exists");
    std::filesystem::remove_all(out);
    expectError(runEngine(arguments), 2, "output.exists");  // the work of the first run
    arguments.push_back("--resume");
    const Outcome resumed = runEngine(arguments);
    ASSERT_EQ(resumed.code, 0) << resumed.output << resumed.errors;
    EXPECT_EQ(resumed.json()["plan_hash"], result["plan_hash"]);
    EXPECT_EQ(resumed.json()["stages"]["evaluate"]["ppl"], result["stages"]["evaluate"]["ppl"]);
}

// One profile of the demo, and a plan that drops a quarter of its experts by it.
class CliProfiled : public ::testing::Test
{
protected:
    static void SetUpTestSuite()
    {
        s_made = new Made;
        const Outcome profiled = runEngine(profileInto(whole()));
        ASSERT_EQ(profiled.code, 0) << profiled.errors;
        s_made->profiled = profiled.json();
        const Outcome planned = json({"plan", kDemo, "--profile", whole(), "--prune", "25%", "--allocate", "importance", "--out", plan()});
        ASSERT_EQ(planned.code, 0) << planned.errors;
        s_made->planned = planned.json();
    }
    static void TearDownTestSuite()
    {
        delete s_made;
        s_made = nullptr;
    }

    static std::string at(const std::string& name) { return (s_made->scratch / name).string(); }
    static std::string whole() { return at("p.h5"); }
    static std::string plan() { return at("plan.json"); }
    static const Json& profiled() { return s_made->profiled; }
    static const Json& planned() { return s_made->planned; }
    static std::vector<std::string> profileInto(const std::string& file)
    {
        return {"profile", kDemo, "--text", kText, "--window-length", "64", "--windows", "8", "--json", "--out", file};
    }
    static Json estimateOf(const std::string& profile, const std::string& of, std::vector<std::string> more = {})
    {
        std::vector<std::string> arguments = {"estimate", kDemo, "--profile", profile, "--plan", of};
        arguments.insert(arguments.end(), more.begin(), more.end());
        return json(arguments).json();
    }
    // Without the measured plans that later versions keep in it.
    static std::string profileOfEarlierVersion()
    {
        Result<ProfileData> data = readProfile(whole());
        EXPECT_TRUE(data.ok());
        data->probes.clear();
        EXPECT_TRUE(writeProfile(at("old.h5"), *data).ok());
        return at("old.h5");
    }

private:
    struct Made {
        Scratch scratch;
        Json profiled;
        Json planned;
    };
    static inline Made* s_made = nullptr;
};

TEST_F(CliProfiled, profileAndScores)
{
    EXPECT_EQ(profiled()["tokens"], 8 * 64);
    for (const char* field : {"tokens_per_second", "layers_done", "uncovered_fraction"})
        EXPECT_TRUE(profiled()[field].is_number()) << field;
    expectError(runEngine(profileInto(whole())), 2, "output.exists");

    const Json scores = json({"score", whole(), "--method", "leave-one-out"}).json();
    EXPECT_EQ(scores["values"].size(), 6u);
    EXPECT_EQ(scores["values"][0].size(), 16u);
    EXPECT_EQ(scores["layer_importance"].size(), 6u);
    for (const char* field : {"unit", "better"})
        EXPECT_TRUE(scores[field].is_string()) << field;
    EXPECT_EQ(json({"score", whole(), "--method", "nonsense"}).code, 2);
}

TEST_F(CliProfiled, plansByPartsCountsAndSizes)
{
    const Json& result = planned();
    int kept = 0;
    for (const Json& layer : result["kept"])
        kept += static_cast<int>(layer.size());
    EXPECT_EQ(kept, 72);
    for (const char* field : {"plan_hash", "ranks", "parameters", "bytes", "expert_parameters_removed", "losses", "trace"})
        EXPECT_TRUE(result.contains(field)) << field;
    EXPECT_NEAR(result["expert_parameters_removed"].get<double>(), 0.25, 1e-9);
    const std::string other = at("other.json");
    const Json keep = json({"plan", kDemo, "--profile", whole(), "--keep", "72/96", "--out", other, "--force"}).json();
    EXPECT_EQ(keep["plan_hash"], result["plan_hash"]);
    const Json even = json({"plan", kDemo, "--profile", whole(), "--keep", "75%", "--uniform", "--lock", "1", "--protect", "0:3", "--out",
                            other, "--force"})
                          .json();
    EXPECT_TRUE(even.contains("error") || even["kept"][0].size() == even["kept"][2].size());
    const std::int64_t budget = result["bytes"].get<std::int64_t>();
    const Json sized = json({"plan", kDemo, "--profile", whole(), "--size", std::to_string(budget), "--out", other, "--force"}).json();
    EXPECT_LE(sized["bytes"].get<std::int64_t>(), budget);
    EXPECT_EQ(sized["kept_experts"], 72);
    expectError(json({"plan", kDemo, "--profile", whole(), "--out", other, "--force"}), 2, "usage.arguments");
}

TEST_F(CliProfiled, estimateHoldsWhatTheModelShows)
{
    const Json estimate = estimateOf(whole(), plan());
    EXPECT_EQ(estimate["plan_hash"], planned()["plan_hash"]);
    EXPECT_GT(estimate["delta_nll"].get<double>(), 0);
    EXPECT_GT(estimate["e1_error"].get<double>(), 0);
    EXPECT_EQ(estimate["label"], "estimate");
    EXPECT_EQ(estimate["calibration"]["probes"], profiled()["probes"]);
    EXPECT_EQ(estimate["calibration"]["probes"], 3 * 6 + 6) << "every layer alone three times, all together six times";
    EXPECT_LT(estimate["low"].get<double>(), estimate["delta_nll"].get<double>());
    EXPECT_GT(estimate["high"].get<double>(), estimate["delta_nll"].get<double>());
    EXPECT_GE(estimate["band"].get<double>(), estimate["high"].get<double>() - estimate["delta_nll"].get<double>());
    // The real change on the profile's own windows lies where the estimate says.
    const Json exact =
        json({"evaluate", kDemo, "--text", kText, "--window-length", "64", "--windows", "8", "--plan", plan(), "--against", "dense"})
            .json();
    EXPECT_LT(estimate["low"].get<double>(), exact["delta"]["nll"].get<double>());
    EXPECT_GT(estimate["high"].get<double>(), exact["delta"]["nll"].get<double>());
    EXPECT_NEAR(std::log(estimate["delta_nll"].get<double>() / exact["delta"]["nll"].get<double>()), 0, std::log(1.5));
    EXPECT_EQ(estimate["estimate_layers"].size(), 6u);
    // Fewer experts per token move the output although all of them are kept: losses are against the model as it is.
    const std::string fewer = at("fewer.json");
    writeFile(fewer, R"({"version": 1, "layers": [{"layer": 1, "kept": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15], "top_k": 1}]})");
    const Json fewerLosses = estimateOf(whole(), fewer)["losses"];
    EXPECT_EQ(fewerLosses[0]["loss"], 0.0);
    EXPECT_GT(fewerLosses[1]["loss"].get<double>(), 0);
}

TEST_F(CliProfiled, measuredPlansRefineTheEstimate)
{
    const Json estimate = estimateOf(whole(), plan());
    // Eight measured plans that came out twice as high.
    const std::string pairs = at("pairs.json");
    Json measured = Json::array();
    for (int i = 1; i <= 8; ++i)
        measured.push_back({{"e1", 0.01 * (i % 3 - 1)}, {"e2", 0.02 * i}, {"fitted", 0.05 * i}, {"delta_nll", 0.1 * i}});
    writeFile(pairs, measured.dump());
    const Json refined = estimateOf(whole(), plan(), {"--pairs", pairs});
    EXPECT_EQ(refined["calibration"]["pairs"], 8);
    EXPECT_EQ(refined["fitted"], estimate["fitted"]);
    EXPECT_NEAR(refined["delta_nll"].get<double>() / estimate["delta_nll"].get<double>(), std::pow(2, 8.0 / 9.0), 1e-9)
        << "the ratio 1 weighs as much as one pair";
}

TEST_F(CliProfiled, profileOfAnEarlierVersionGivesTheExpansion)
{
    // A profile of an earlier version holds no measured plans: the expansion at the dense model, and it says so.
    const std::string old = profileOfEarlierVersion();
    const Json expansion = estimateOf(old, plan());
    EXPECT_NEAR(expansion["delta_nll"].get<double>(), expansion["e1"].get<double>() + expansion["e2"].get<double>(), 1e-12);
    EXPECT_TRUE(expansion["band"].is_null());
    EXPECT_EQ(expansion["label"], "estimate, uncalibrated");
    EXPECT_NE(expansion["warnings"].dump().find("measured plans"), std::string::npos);
    const std::string pairs = at("old-pairs.json");
    Json measured = Json::array();
    for (int i = 1; i <= 8; ++i)
        measured.push_back({{"e1", 0.01 * (i % 3 - 1)}, {"e2", 0.02 * i}, {"delta_nll", 0.01 * (i % 3 - 1) + 0.04 * i}});
    writeFile(pairs, measured.dump());
    const Json calibrated = estimateOf(old, plan(), {"--pairs", pairs});
    EXPECT_EQ(calibrated["label"], "estimate");
    EXPECT_EQ(calibrated["calibration"]["pairs"], 8);
    EXPECT_NEAR(calibrated["calibration"]["rank_correlation"].get<double>(), 1, 1e-12);
    EXPECT_NEAR(calibrated["calibration"]["beta"][1].get<double>(), 17.0 / 9.0, 0.01) << "a ridge as heavy as one pair";
    EXPECT_TRUE(calibrated["band"].is_number());
    EXPECT_GT(calibrated["delta_nll"].get<double>(), expansion["delta_nll"].get<double>());
    const Json unused = estimateOf(whole(), plan(), {"--pairs", pairs});
    EXPECT_EQ(unused["delta_nll"], estimateOf(whole(), plan())["delta_nll"]);
    EXPECT_NE(unused["warnings"].dump().find("fitted"), std::string::npos);
    writeFile(pairs, "[[1,2]]");
    expectError(json({"estimate", kDemo, "--profile", whole(), "--plan", plan(), "--pairs", pairs}), 2, "estimate.pairs");
}

TEST_F(CliProfiled, withoutGradientsTheEstimateSaysWhatToDo)
{
    const std::string bare = at("bare.h5");
    ASSERT_EQ(json({"profile", kDemo, "--text", kText, "--window-length", "64", "--windows", "2", "--collect", "gram", "--out", bare}).code,
              0);
    const Json without = estimateOf(bare, plan());
    EXPECT_TRUE(without["delta_nll"].is_null());
    EXPECT_EQ(without["losses"].size(), 6u);
    EXPECT_NE(without["warnings"].dump().find("--collect +gradients"), std::string::npos);
}

TEST_F(CliProfiled, shardsAddUpAndStagesRunOnTheProfilesOwnWindows)
{
    for (const auto& [file, part] : {std::pair("s1.h5", "1/2"), std::pair("s2.h5", "2/2")}) {
        std::vector<std::string> shard = profileInto(at(file));
        shard.insert(shard.end(), {"--shard", part});
        ASSERT_EQ(runEngine(shard).code, 0);
    }
    const Json merged = json({"merge", at("m.h5"), at("s1.h5"), at("s2.h5")}).json();
    EXPECT_EQ(merged["tokens"], 8 * 64);
    EXPECT_EQ(merged["shards"], 2);

    // Stages that run the model do so on the profile's own windows, and a text that is given wins.
    const auto byBlocks = [&](const std::string& profile, std::vector<std::string> more) {
        std::vector<std::string> arguments = {"plan", kDemo, "--profile", profile,           "--prune", "25%",
                                              "--kt", "2,3", "--out",     at("blocks.json"), "--force"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        return json(arguments);
    };
    const Json given = byBlocks(whole(), {"--text", kText, "--window-length", "64", "--windows", "8"}).json();
    const Json own = byBlocks(whole(), {}).json();
    ASSERT_TRUE(own.contains("plan_hash")) << own.dump();
    EXPECT_EQ(own["plan_hash"], given["plan_hash"]);
    const auto trialsOf = [](const Json& planned) {
        for (const Json& stage : planned["trace"]["stages"])
            if (stage["stage"] == "receptive-field") return stage["blocks"];
        return Json();
    };
    EXPECT_TRUE(trialsOf(own).is_array());
    EXPECT_EQ(trialsOf(own), trialsOf(given));
    EXPECT_NE(trialsOf(byBlocks(whole(), {"--text", kText, "--window-length", "64", "--windows", "3"}).json()), trialsOf(given));
    expectError(byBlocks(whole(), {"--window-length", "32"}), 2, "usage.arguments");
    EXPECT_EQ(byBlocks(at("m.h5"), {}).json()["warnings"], own["warnings"]);
    EXPECT_THAT(byBlocks(at("s2.h5"), {}).json()["warnings"].dump(), HasSubstr("the windows 0 to 3 are missing"));
}

TEST_F(CliProfiled, killedProfileGoesOn)
{
    // Without warning, after its first layer.
    const std::string killed = at("k.h5");
    std::vector<std::string> again = profileInto(killed);
    {
        EngineProcess engine(again);
        std::error_code ignored;
        while (!std::filesystem::exists(killed + ".state", ignored) && !std::filesystem::exists(killed, ignored) && !engine.ended())
            std::this_thread::yield();
        engine.signal(SIGKILL);
        engine.wait();
    }
    if (!std::filesystem::exists(killed)) {
        again.push_back("--resume");
        const Outcome resumed = runEngine(again);
        ASSERT_EQ(resumed.code, 0) << resumed.errors;
    }
    EXPECT_EQ(json({"score", killed}).json()["values"], json({"score", whole()}).json()["values"]);
}

}  // namespace
}  // namespace espalier::testing
