// Constants in place of dropped experts and left-out layers, from the profile to the proof.
#include "base/sha256.h"
#include "cli/tiny_model.h"
#include "session/profile_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace espalier::testing
{
namespace
{

std::string error(const Outcome& outcome) { return outcome.json()["error"]["code"].get<std::string>(); }

class CliForms : public ::testing::Test
{
protected:
    void SetUp() override { ASSERT_EQ(onText({"profile", kModel, "--out", profile}).code, 0); }

    // A plan made with these options, its perplexity, and that of its export, which must be the same.
    Json follow(const std::string& name, std::vector<std::string> options, const std::string& flavor)
    {
        const std::string plan = (scratch / (name + ".json")).string();
        const std::string out = (scratch / name).string();
        std::vector<std::string> make = {"plan", kModel, "--profile", profile, "--out", plan};
        make.insert(make.end(), options.begin(), options.end());
        const Outcome made = json(make);
        EXPECT_EQ(made.code, 0) << made.output;
        const Outcome evaluated = onText({"evaluate", kModel, "--plan", plan, "--profile", profile});
        EXPECT_EQ(evaluated.code, 0) << evaluated.output;
        const Outcome exported = json({"export", kModel, "--plan", plan, "--profile", profile, "--flavor", flavor, "--out", out});
        EXPECT_EQ(exported.code, 0) << exported.output;
        const Outcome verified = json({"verify", out, "--source", kModel, "--profile", profile});
        EXPECT_EQ(verified.code, 0) << verified.output;
        const Outcome reopened = onText({"evaluate", out});
        EXPECT_EQ(reopened.code, 0) << reopened.output;
        EXPECT_EQ(reopened.json()["ppl"], evaluated.json()["ppl"]);
        const Outcome sizes = json({"estimate", kModel, "--plan", plan});
        EXPECT_EQ(sizes.code, 0) << sizes.output;
        return {{"ppl", evaluated.json()["ppl"]}, {"plan", Json::parse(readFile(plan))}, {"sizes", sizes.json()}, {"file", plan}};
    }

    const Scratch scratch;
    const std::string profile = (scratch / "p.h5").string();
};

TEST_F(CliForms, droppedExpertsBecomeConstants)
{
    const Json dropped = follow("dropped", {"--prune", "40%"}, "factored");
    const Json mean = follow("mean", {"--prune", "40%", "--dropped", "constant"}, "factored");
    const Json weighted = follow("weighted", {"--prune", "40%", "--dropped", "weighted-constant"}, "factored");
    EXPECT_NE(mean["ppl"], dropped["ppl"]);
    EXPECT_NE(mean["ppl"], weighted["ppl"]);
    EXPECT_EQ(dropped["plan"]["version"], 1);
    EXPECT_EQ(mean["plan"]["version"], 2);
    // The plan names its profile, and is asked for it.
    const std::string plan = mean["file"];
    EXPECT_EQ(error(onText({"evaluate", kModel, "--plan", plan})), "plan.profile_needed");
    EXPECT_EQ(
        error(json({"export", kModel, "--plan", plan, "--profile", profile, "--flavor", "stock", "--out", (scratch / "no").string()})),
        "export.constants");
}

// The router goes on choosing among all columns, so that fewer experts than it picks may compute.
TEST_F(CliForms, constantsGoBelowTopK)
{
    EXPECT_EQ(error(json({"plan", kModel, "--profile", profile, "--keep", "1%", "--out", (scratch / "a.json").string()})),
              "allocate.infeasible");
    const Json few = follow("few", {"--keep", "4", "--dropped", "constant", "--score", "mone"}, "factored");
    EXPECT_EQ(few["plan"]["version"], 2);
}

TEST_F(CliForms, layersAreLeftOut)
{
    const Json one = follow("one", {"--drop-layers", "1"}, "stock");
    EXPECT_EQ(one["plan"]["layers"], Json::parse(R"([{"layer": 1, "run": "skipped"}])"));
    const Json similar = follow("similar", {"--drop-similar-layers", "1", "--prune", "50%"}, "factored");
    EXPECT_EQ(similar["plan"]["version"], 2);
    EXPECT_EQ(error(json({"plan", kModel, "--profile", profile, "--drop-layers", "9", "--out", (scratch / "a.json").string()})),
              "plan.unknown_layer");
}

// Fewer experts a token: by itself, and as what lets a layer keep fewer than its router picked.
TEST_F(CliForms, routersPickFewer)
{
    const Json fewer = follow("fewer", {"--top-k", "1"}, "stock");
    const Json config = Json::parse(readFile(scratch / "fewer" / "config.json"));
    EXPECT_EQ(config["num_experts_per_tok"], 1);
    EXPECT_LT(fewer["sizes"]["active_parameters"], follow("whole", {"--keep", "100%"}, "stock")["sizes"]["active_parameters"]);
    const Json one = follow("one-layer", {"--top-k", "1:1", "--prune", "40%", "--select", "genetic"}, "factored");
    for (const Json& layer : one["plan"]["layers"])
        EXPECT_EQ(layer.contains("top_k"), layer["layer"] == 1) << layer;
    follow("few", {"--top-k", "1", "--keep", "4"}, "factored");
    EXPECT_EQ(error(json({"plan", kModel, "--profile", profile, "--top-k", "9", "--out", (scratch / "a.json").string()})), "plan.invalid");
}

// Chosen experts that a token skips, by a threshold that is given.
TEST_F(CliForms, tokensSkipExperts)
{
    const Json skip = follow("skip", {"--skip", "ratio", "--param", "skip.threshold=.3"}, "factored");
    ASSERT_FALSE(skip["plan"]["layers"].empty());
    for (const Json& layer : skip["plan"]["layers"])
        EXPECT_EQ(layer["skip"], Json::parse(R"({"rule": "ratio", "threshold_millionths": 300000})")) << layer;
    const Json config = Json::parse(readFile(scratch / "skip" / "config.json"));
    EXPECT_EQ(config["espalier"]["version"], 3);
    // What a token runs is an upper bound then, in every answer and in the words.
    const Json whole = follow("every", {"--keep", "100%"}, "stock");
    EXPECT_EQ(whole["sizes"]["active_at_most"], false);
    EXPECT_EQ(skip["sizes"]["active_at_most"], true);
    EXPECT_EQ(skip["sizes"]["active_parameters"], whole["sizes"]["active_parameters"]);
    const std::string planFile = skip["file"];
    const Json again = json({"plan", kModel, "--profile", profile, "--skip", "ratio", "--param", "skip.threshold=.3", "--out",
                             (scratch / "again.json").string()})
                           .json();
    EXPECT_EQ(again["active_at_most"], true) << again;
    const Json speed = json({"speed", kModel, "--plan", planFile, "--prefill", "8", "--decode", "2", "--rounds", "1"}).json();
    EXPECT_EQ(speed["plan"]["active_at_most"], true) << speed;
    EXPECT_EQ(speed["dense"]["active_at_most"], false);
    EXPECT_NE(runEngine({"speed", kModel, "--plan", planFile, "--prefill", "8", "--decode", "2", "--rounds", "1"})
                  .output.find("MFLOP per token, at most"),
              std::string::npos);
    EXPECT_NE(runEngine({"estimate", kModel, "--plan", planFile}).output.find("at most"), std::string::npos);
    EXPECT_EQ(runEngine({"estimate", kModel, "--plan", whole["file"].get<std::string>()}).output.find("at most"), std::string::npos);
    follow("some", {"--skip", "cumulative", "--param", "skip.threshold=0.8", "--prune", "25%"}, "factored");
    EXPECT_EQ(follow("nothing", {"--skip", "ratio", "--param", "skip.threshold=0"}, "stock")["plan"]["version"], 2);
    const auto refused = [&](const std::vector<std::string>& options) {
        std::vector<std::string> all = {"plan", kModel, "--profile", profile, "--out", (scratch / "a.json").string()};
        all.insert(all.end(), options.begin(), options.end());
        return error(json(all));
    };
    EXPECT_EQ(refused({"--skip", "cleverly"}), "method.unknown");
    EXPECT_EQ(refused({"--skip", "ratio", "--param", "skip.threshold=2"}), "method.bad_parameter");
}

TEST_F(CliForms, aPlanAloneBringsItsConstants)
{
    const std::string plan = (scratch / "plan.json").string();
    const std::string out = (scratch / "alone").string();
    ASSERT_EQ(json({"plan", kModel, "--profile", profile, "--prune", "40%", "--dropped", "constant", "--out", plan}).code, 0);
    const Outcome before = onText({"evaluate", kModel, "--plan", plan, "--profile", profile});
    ASSERT_EQ(json({"export", kModel, "--plan", plan, "--profile", profile, "--flavor", "plan", "--out", out}).code, 0);
    const Outcome after =
        onText({"evaluate", kModel, "--plan", out + "/espalier_plan.json", "--profile", out + "/espalier_factors.safetensors"});
    ASSERT_EQ(after.code, 0) << after.output;
    EXPECT_EQ(after.json()["ppl"], before.json()["ppl"]);
}

// A safetensors file with one fp32 tensor, as any program writes it.
std::string valuesFile(const std::string& name, const std::vector<float>& numbers)
{
    const Json header = {{"__metadata__", {{"espalier.values", "1"}, {"made_by", R"({"method":"by hand"})"}}},
                         {name, {{"dtype", "F32"}, {"shape", {numbers.size()}}, {"data_offsets", {0, numbers.size() * sizeof(float)}}}}};
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    std::string bytes;
    for (int i = 0; i < 8; ++i)
        bytes += static_cast<char>((text.size() >> (8 * i)) & 255);
    return bytes + text + std::string(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float));
}

// A constant whose numbers are stored: beside the plan, in its exports, gone, and changed.
TEST_F(CliForms, storedNumbersLieBesideThePlan)
{
    const Json config = Json::parse(readFile(kModel + "/config.json"));
    const std::string values =
        valuesFile("layers.1.experts.0.constant", std::vector<float>(config["hidden_size"].get<std::size_t>(), 0.25F));
    const std::string id = sha256Hex(values);
    const std::string file = (scratch / "stored.values.safetensors").string(), plan = (scratch / "stored.json").string();
    Json layer = {{"layer", 1}, {"bodies", {{{"constant", "mean"}, {"values", id}}}}, {"columns", {{0, 0}}}};
    for (int e = 1; e < config["num_experts"].get<int>(); ++e) {
        layer["columns"].push_back({e, e});
        layer["bodies"].push_back({{"sources", {e}}});
    }
    writeFile(plan, Json({{"version", 2}, {"layers", {layer}}}).dump());
    writeFile(file, values);
    const Outcome evaluated = onText({"evaluate", kModel, "--plan", plan});
    ASSERT_EQ(evaluated.code, 0) << evaluated.output;
    EXPECT_NE(evaluated.json()["ppl"], onText({"evaluate", kModel}).json()["ppl"]);
    const std::string out = (scratch / "out").string(), alone = (scratch / "alone").string();
    ASSERT_EQ(json({"export", kModel, "--plan", plan, "--flavor", "factored", "--out", out}).code, 0);
    ASSERT_EQ(json({"export", kModel, "--plan", plan, "--flavor", "plan", "--out", alone}).code, 0);
    const Outcome verified = json({"verify", out});
    EXPECT_EQ(verified.code, 0) << verified.output;
    EXPECT_EQ(onText({"evaluate", out}).json()["ppl"], evaluated.json()["ppl"]);
    // The statistics of what the plan computes are those of its export.
    const auto profiled = [&](const std::string& model, std::vector<std::string> options) {
        const std::string to = (scratch / "of.h5").string();
        std::vector<std::string> words = {"profile", model, "--out", to, "--force", "--collect", "counts,ean"};
        words.insert(words.end(), options.begin(), options.end());
        const Outcome outcome = onText(words);
        EXPECT_EQ(outcome.code, 0) << outcome.output;
        return readProfile(to).value().layers;
    };
    const auto planned = profiled(kModel, {"--plan", plan}), ofExport = profiled(out, {}), dense = profiled(kModel, {});
    ASSERT_EQ(planned.size(), ofExport.size());
    for (std::size_t l = 0; l < planned.size(); ++l) {
        EXPECT_EQ(planned[l].count, ofExport[l].count) << l;
        ASSERT_EQ(planned[l].norm.size(), ofExport[l].norm.size());
        for (std::size_t e = 0; e < planned[l].norm.size(); ++e)
            EXPECT_NEAR(planned[l].norm[e], ofExport[l].norm[e], 1e-6 * ofExport[l].norm[e]) << l << " " << e;
    }
    EXPECT_EQ(planned[1].count, dense[1].count);
    EXPECT_NE(planned[2].norm, dense[2].norm);

    // By its content it is found under any name, and not where it is not looked for.
    std::filesystem::rename(file, scratch / "renamed.safetensors");
    EXPECT_EQ(onText({"evaluate", kModel, "--plan", plan}).json()["ppl"], evaluated.json()["ppl"]);
    std::filesystem::create_directory(scratch / "away");
    std::filesystem::rename(scratch / "renamed.safetensors", scratch / "away" / "elsewhere.safetensors");
    EXPECT_EQ(error(onText({"profile", kModel, "--plan", plan, "--out", (scratch / "no.h5").string()})), "plan.values_missing");
    EXPECT_FALSE(std::filesystem::exists(scratch / "no.h5"));
    EXPECT_EQ(error(onText({"evaluate", kModel, "--plan", plan})), "plan.values_missing");
    EXPECT_EQ(error(json({"export", kModel, "--plan", plan, "--out", (scratch / "no").string()})), "plan.values_missing");
    EXPECT_EQ(onText({"evaluate", kModel, "--plan", plan, "--profile", (scratch / "away/elsewhere.safetensors").string()}).json()["ppl"],
              evaluated.json()["ppl"]);
    EXPECT_EQ(onText({"evaluate", kModel, "--plan", alone + "/espalier_plan.json"}).json()["ppl"], evaluated.json()["ppl"]);
    // The window sends where the file lies.
    Json located = Json::parse(readFile(plan));
    located["values"] = {{{"id", id}, {"file", (scratch / "away/elsewhere.safetensors").string()}}};
    EngineProcess engine({"serve", "--threads", "1"});
    std::int64_t last = 0;
    const auto evaluate = [&](const Json& which) {
        engine.send(Request{RequestId(++last),
                            "evaluate",
                            {{"path", kModel}, {"plan", which}, {"ids", kIds}, {"window_length", 64}, {"windows", {{"all", true}}}}});
        return engine.answer(last);
    };
    EXPECT_EQ(evaluate(Json::parse(readFile(plan)))["error"]["data"]["code"], "plan.values_missing");
    const Json served = evaluate(located);
    ASSERT_TRUE(served.contains("result")) << served.dump();
    EXPECT_EQ(served["result"]["ppl"], evaluated.json()["ppl"]);
    engine.closeInput();
    engine.wait();

    std::string changed = values;
    changed.back() ^= 1;
    writeFile(file, changed);
    EXPECT_EQ(error(onText({"evaluate", kModel, "--plan", plan})), "plan.values_changed");
}

TEST_F(CliForms, whatThisProgramDoesNotKnowIsRefused)
{
    const std::string plan = (scratch / "newer.json").string();
    for (const char* text :
         {R"({"version":1,"layers":[],"constants":{"1":[0]}})", R"({"version":1,"layers":[{"layer":1,"kept":[0,1,2],"bits":4}]})",
          R"({"version":2,"layers":[{"layer":1,"run":"skipped","lora":"x"}]})"}) {
        writeFile(plan, text);
        for (const char* verb : {"evaluate", "estimate", "export"}) {
            std::vector<std::string> arguments = {verb, kModel, "--plan", plan};
            if (std::string(verb) == "export") arguments.insert(arguments.end(), {"--out", (scratch / "out").string()});
            const Outcome outcome = std::string(verb) == "evaluate" ? onText(arguments) : json(arguments);
            EXPECT_EQ(outcome.code, 6) << verb << " " << text;
            EXPECT_EQ(error(outcome), "plan.unknown_content") << verb << " " << text;
        }
    }
}

}  // namespace
}  // namespace espalier::testing
