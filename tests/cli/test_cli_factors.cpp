// Whitened factors on the command line and over JSON-RPC: profile, plan, evaluate, forward, export, verify, merged shards.
#include "cli/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace espalier::testing
{
namespace
{

using ::testing::Contains;
using ::testing::HasSubstr;

std::string error(const Outcome& outcome)
{
    return outcome.json()["error"]["code"].get<std::string>() + " " + std::to_string(outcome.code);
}

TEST(CliFactors, fromProfileToProof)
{
    const Scratch scratch;
    const std::string profile = (scratch / "p.h5").string();
    const std::string plan = (scratch / "plan.json").string();
    const std::string out = (scratch / "out").string();
    const Json taken = onText({"profile", kModel, "--out", profile}).json();
    EXPECT_THAT(taken["collected"].get<std::vector<std::string>>(), Contains("factors"));
    EXPECT_GT(taken["factor_bytes"].get<int>(), 0);
    writeFile(plan, R"({"version": 1, "factors": {"method": "whitened-svd"},
                        "layers": [{"layer": 1, "kept": [0, 1, 3, 4, 5], "ranks": [[6, 6, 6], [0, 7, 0], [5, 5, 5], [4, 4, 4], [9, 1, 2]]}]})");
    EXPECT_EQ(error(onText({"evaluate", kModel, "--plan", plan})), "plan.profile_needed 3");
    const Outcome evaluated = onText({"evaluate", kModel, "--plan", plan, "--profile", profile});
    ASSERT_EQ(evaluated.code, 0) << evaluated.output;
    EXPECT_TRUE(evaluated.json()["delta"].is_object());

    // A plan that names its profile is the same plan, and takes no other.
    const Json bound = {
        {"version", 1},
        {"factors", {{"method", "whitened-svd"}, {"profile_sha256", std::string(64, '0')}}},
        {"layers", Json::parse(R"([{"layer": 1, "kept": [0, 1, 3, 4], "ranks": [[6, 6, 6], [0, 7, 0], [5, 5, 5], [4, 4, 4]]}])")}};
    const std::string other = (scratch / "other.json").string();
    writeFile(other, bound.dump());
    EXPECT_EQ(error(onText({"evaluate", kModel, "--plan", other, "--profile", profile})), "plan.other_profile 3");
    EXPECT_EQ(error(onText({"evaluate", kModel, "--plan", plan, "--profile", (scratch / "none.h5").string()})), "profile.missing 3");

    EXPECT_EQ(
        json({"forward", kModel, "--ids", kIds, "--plan", plan, "--profile", profile, "--out", (scratch / "f.safetensors").string()}).code,
        0);
    EXPECT_EQ(error(json({"export", kModel, "--plan", plan, "--out", out})), "plan.profile_needed 3");
    EXPECT_FALSE(std::filesystem::exists(out));
    const Outcome exported = json({"export", kModel, "--plan", plan, "--profile", profile, "--out", out});
    ASSERT_EQ(exported.code, 0) << exported.output;
    EXPECT_EQ(exported.json()["plan_hash"], evaluated.json()["plan_hash"]);
    EXPECT_EQ(error(json({"verify", out, "--source", kModel})), "plan.profile_needed 3");
    const Outcome verified = json({"verify", out, "--source", kModel, "--plan", plan, "--profile", profile});
    EXPECT_EQ(verified.code, 0) << verified.output;
    EXPECT_EQ(verified.json()["max_abs_logit_difference"], 0);
    // What was exported needs no profile any more.
    const Outcome reopened = onText({"evaluate", out});
    ASSERT_EQ(reopened.code, 0) << reopened.output;
    EXPECT_EQ(reopened.json()["ppl"], evaluated.json()["ppl"]);

    bool listed = false;
    const Json methods = json({"methods", "--slot", "factors"}).json();
    for (const Json& method : methods["methods"])
        listed = listed || method["id"] == "whitened-svd";
    EXPECT_TRUE(listed);
}

// The commands in the README of a plan that was exported alone, as they stand there, in its folder.
TEST(CliFactors, aPlanAloneBringsWhatItsRanksNeed)
{
    const Scratch scratch;
    const std::string profile = (scratch / "p.h5").string();
    const std::string plan = (scratch / "plan.json").string();
    const std::filesystem::path out = scratch / "the plan";
    ASSERT_EQ(onText({"profile", kModel, "--out", profile}).code, 0);
    writeFile(plan, R"({"version": 1, "factors": {"method": "whitened-svd"},
                        "layers": [{"layer": 1, "kept": [0, 1, 3, 4, 5], "ranks": [[6, 6, 6], [0, 7, 0], [5, 5, 5], [4, 4, 4], [9, 1, 2]]}]})");
    const Outcome evaluated = onText({"evaluate", kModel, "--plan", plan, "--profile", profile});
    ASSERT_EQ(evaluated.code, 0) << evaluated.output;
    writeFile(scratch / "measured.json", evaluated.output);
    const Outcome exported = json({"export", kModel, "--plan", plan, "--profile", profile, "--flavor", "plan", "--measured",
                                   (scratch / "measured.json").string(), "--out", out.string()});
    ASSERT_EQ(exported.code, 0) << exported.output;
    EXPECT_LT(exported.json()["bytes"].get<std::int64_t>(), 40'000);
    EXPECT_EQ(json({"verify", out.string(), "--source", kModel}).code, 0);

    const std::string readme = readFile(out / "README.md");
    EXPECT_THAT(readme, ::testing::Not(HasSubstr("not measured")));
    const std::size_t begin = readme.find("```sh\n") + 6;
    std::string commands = readme.substr(begin, readme.find("```", begin) - begin);
    const auto replace = [&](const std::string& from, const std::string& to) {
        const std::size_t at = commands.find(from);
        ASSERT_NE(at, std::string::npos) << commands;
        commands.replace(at, from.size(), to);
    };
    // The tiny model has no tokenizer.
    replace("--text FILE", "--ids '" + kIds + "' --window-length 64 --threads 1 --json > ../evaluated.json");
    replace("FOLDER", "../weights --threads 1");
    std::filesystem::remove(profile);
    const std::string line = "cd '" + out.string() + "' && PATH='" + std::filesystem::path(ESPALIER_ENGINE).parent_path().string() +
                             "':\"$PATH\" && set -e\n" + commands;
    ASSERT_EQ(std::system(line.c_str()), 0) << line;
    const Json again = Json::parse(readFile(scratch / "evaluated.json"));
    EXPECT_EQ(again["plan_hash"], evaluated.json()["plan_hash"]);
    EXPECT_NEAR(again["ppl"].get<double>() / evaluated.json()["ppl"].get<double>(), 1.0, 1e-6);
    const Outcome weights = onText({"evaluate", (scratch / "weights").string()});
    ASSERT_EQ(weights.code, 0) << weights.output;
    EXPECT_NEAR(weights.json()["ppl"].get<double>() / again["ppl"].get<double>(), 1.0, 1e-6);
    // For this plan only: a higher rank needs the profile.
    const std::string factors = (out / "espalier_factors.safetensors").string();
    writeFile(plan, R"({"version": 1, "factors": {"method": "whitened-svd"},
                        "layers": [{"layer": 1, "kept": [0, 1, 2, 3], "ranks": [[7, 6, 6], [0, 7, 0], [5, 5, 5], [4, 4, 4]]}]})");
    EXPECT_EQ(error(onText({"evaluate", kModel, "--plan", plan, "--profile", factors})), "plan.profile_without_factors 3");
    EXPECT_EQ(error(onText({"evaluate", kModel, "--plan", plan, "--profile", kModel + "/model.safetensors"})), "profile.invalid 3");
}

TEST(CliFactors, mergedShardsAndPrunedModels)
{
    const Scratch scratch;
    const auto path = [&](const char* name) { return (scratch / name).string(); };
    for (const char* shard : {"1/2", "2/2"}) {
        const Outcome part = onText({"profile", kModel, "--shard", shard, "--out", path(shard[0] == '1' ? "a.h5" : "b.h5")});
        ASSERT_EQ(part.code, 0) << part.output;
        EXPECT_THAT(part.json()["collected"].get<std::vector<std::string>>(), Contains("moments"));
    }
    const Outcome sums = json({"merge", path("sums.h5"), path("a.h5"), path("b.h5")});
    ASSERT_EQ(sums.code, 0) << sums.output;
    EXPECT_THAT(sums.json()["warnings"].dump(), HasSubstr("--model"));
    const Outcome whole = json({"merge", path("whole.h5"), path("sums.h5"), "--model", kModel});
    ASSERT_EQ(whole.code, 0) << whole.output;
    EXPECT_EQ(whole.json()["tokens"], 1024);
    EXPECT_THAT(whole.json()["collected"].get<std::vector<std::string>>(), Contains("factors"));

    writeFile(scratch / "plan.json", R"({"version": 1, "factors": {"method": "whitened-svd"},
                                         "layers": [{"layer": 2, "kept": [0, 1, 2, 3, 4, 5], "ranks": [[6, 6, 6], [6, 6, 6], [6, 6, 6],
                                                     [6, 6, 6], [6, 6, 6], [6, 6, 6]]}]})");
    EXPECT_EQ(onText({"evaluate", kModel, "--plan", path("plan.json"), "--profile", path("whole.h5")}).code, 0);
    EXPECT_EQ(error(onText({"evaluate", kModel, "--plan", path("plan.json"), "--profile", path("sums.h5")})),
              "plan.profile_without_factors 3");
    // The moments of the model as the plan prunes it.
    const Outcome pruned = onText({"profile", kModel, "--plan", path("plan.json"), "--out", path("pruned.h5")});
    ASSERT_EQ(pruned.code, 0) << pruned.output;
    EXPECT_EQ(onText({"evaluate", kModel, "--plan", path("plan.json"), "--profile", path("pruned.h5")}).code, 0);
}

TEST(CliFactors, serveTakesTheProfileOfAPlan)
{
    const Scratch scratch;
    const std::string profile = (scratch / "p.h5").string();
    ASSERT_EQ(onText({"profile", kModel, "--out", profile}).code, 0);
    const Json plan = Json::parse(R"({"version": 1, "factors": {"method": "whitened-svd"},
                                      "layers": [{"layer": 1, "kept": [0, 1, 2, 3], "ranks": [[6, 6, 6], [0, 7, 0], [5, 5, 5], [4, 4, 4]]}]})");
    EngineProcess engine({"serve", "--threads", "1"});
    Json evaluation = {{"path", kModel}, {"plan", plan}, {"ids", kIds}, {"window_length", 64}, {"windows", {{"first", 2}}}};
    const auto ask = [&](std::int64_t id, const char* method, const Json& params) {
        engine.send(Request{RequestId(id), method, params});
        return engine.answer(id);
    };
    EXPECT_EQ(ask(1, "evaluate", evaluation)["error"]["data"]["code"], "plan.profile_needed");
    evaluation["profile"] = profile;
    const Json first = ask(2, "evaluate", evaluation);
    ASSERT_TRUE(first.contains("result")) << first.dump();
    EXPECT_EQ(ask(3, "evaluate", evaluation)["result"]["nll"], first["result"]["nll"]);
    const Json exported = ask(
        4, "export", {{"path", kModel}, {"plan", plan}, {"profile", profile}, {"out", (scratch / "out").string()}, {"flavor", "factored"}});
    ASSERT_TRUE(exported.contains("result")) << exported.dump();
    EXPECT_EQ(exported["result"]["verify"]["holds"], true) << exported.dump();
    engine.closeInput();
    engine.wait();
}

}  // namespace
}  // namespace espalier::testing
