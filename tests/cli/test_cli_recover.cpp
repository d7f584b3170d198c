// recover, and plans that are mended where they are made: files, fields, exit codes, what goes on after an interruption.
#include "cli/tiny_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

namespace espalier::testing
{
namespace
{

namespace fs = std::filesystem;

std::string error(const Outcome& outcome) { return outcome.json()["error"]["code"].get<std::string>(); }

class CliRecover : public ::testing::Test
{
protected:
    void SetUp() override
    {
        ASSERT_EQ(onText({"profile", kModel, "--out", profile}).code, 0);
        ASSERT_EQ(json({"plan", kModel, "--profile", profile, "--prune", "40%", "--out", plan}).code, 0);
    }
    Outcome recover(const std::string& from, const std::string& to, std::vector<std::string> more = {})
    {
        std::vector<std::string> all = {"recover", kModel, "--plan", from, "--out", to, "--profile", profile};
        all.insert(all.end(), more.begin(), more.end());
        return onText(all);
    }
    std::string at(const std::string& name) const { return (scratch / name).string(); }

    const Scratch scratch;
    const std::string profile = (scratch / "p.h5").string();
    const std::string plan = (scratch / "plan.json").string();
};

TEST_F(CliRecover, writesAPlanWithItsNumbersBeside)
{
    // Judged by what it learns from, so that it is accepted whatever text the fixture has.
    const Outcome made = recover(plan, at("mended.json"), {"--gate-ids", kIds});
    ASSERT_EQ(made.code, 0) << made.output;
    const Json answer = made.json();
    EXPECT_TRUE(answer["accepted"].get<bool>());
    EXPECT_LT(answer["ppl_after"], answer["ppl_before"]);
    EXPECT_EQ(answer["ppl_control"], answer["ppl_dense"]);
    ASSERT_TRUE(answer["loss"].is_array() && !answer["loss"].empty());
    EXPECT_LT(answer["loss"][1], answer["loss"][0]);
    EXPECT_TRUE(fs::exists(at("mended.values.safetensors")));
    EXPECT_FALSE(fs::exists(at("mended.json.recover")));
    const Json file = Json::parse(readFile(at("mended.json")));
    EXPECT_EQ(file["version"], 2);
    EXPECT_EQ(file["values"][0]["file"], "mended.values.safetensors");
    EXPECT_EQ(file["values"][0]["made_by"]["method"], "least-squares");
    EXPECT_EQ(file["method_settings"]["recover"]["method"], "least-squares");
    EXPECT_TRUE(file.contains("budget"));

    // Both files moved together: the same numbers, as stock too.
    fs::create_directories(scratch / "elsewhere");
    for (const char* name : {"mended.json", "mended.values.safetensors"})
        fs::rename(scratch / name, scratch / "elsewhere" / name);
    const std::string moved = at("elsewhere/mended.json");
    const Outcome evaluated = onText({"evaluate", kModel, "--plan", moved});
    ASSERT_EQ(evaluated.code, 0) << evaluated.output;
    EXPECT_EQ(evaluated.json()["ppl"], answer["ppl_after"]);
    EXPECT_EQ(evaluated.json()["plan_hash"], answer["plan_hash"]);
    const Outcome exported = json({"export", kModel, "--plan", moved, "--flavor", "factored", "--out", at("out")});
    ASSERT_EQ(exported.code, 0) << exported.output;
    const Outcome verified = json({"verify", at("out"), "--source", kModel});
    EXPECT_EQ(verified.code, 0) << verified.output;
    const Outcome reopened = onText({"evaluate", at("out")});
    EXPECT_EQ(reopened.json()["ppl"], answer["ppl_after"]);
}

TEST_F(CliRecover, refitsFactorsToo)
{
    const std::string ranked = at("ranked.json");
    ASSERT_EQ(json({"plan", kModel, "--profile", profile, "--prune", "20%", "--rank-average", "6", "--out", ranked}).code, 0);
    const Outcome made = recover(ranked, at("mended.json"), {"--gate-ids", kIds});
    ASSERT_EQ(made.code, 0) << made.output;
    EXPECT_LT(made.json()["ppl_after"], made.json()["ppl_before"]);
    const Outcome evaluated = onText({"evaluate", kModel, "--plan", at("mended.json"), "--profile", profile});
    ASSERT_EQ(evaluated.code, 0) << evaluated.output;
    EXPECT_EQ(evaluated.json()["ppl"], made.json()["ppl_after"]);
    const Outcome sizes = json({"estimate", kModel, "--plan", at("mended.json")}), before = json({"estimate", kModel, "--plan", ranked});
    EXPECT_EQ(sizes.json()["bytes"], before.json()["bytes"]);
}

TEST_F(CliRecover, whatIsNotBetterIsNotOffered)
{
    // Every row of the calibration repeats one token: what is learned there does not carry over.
    std::ofstream(at("one.json")) << Json(std::vector<std::vector<int>>(6, std::vector<int>(64, 5))).dump();
    const Outcome made = json({"recover", kModel, "--plan", plan, "--out", at("mended.json"), "--ids", at("one.json"), "--window-length",
                               "64", "--gate-ids", kIds, "--param", "ridge=1e-6"});
    ASSERT_EQ(made.code, 5) << made.output;
    EXPECT_FALSE(made.json()["accepted"].get<bool>());
    EXPECT_TRUE(made.json()["values"].is_null());
    EXPECT_FALSE(fs::exists(at("mended.values.safetensors")));
    EXPECT_EQ(Json::parse(readFile(at("mended.json"))), Json::parse(readFile(plan)));
}

TEST_F(CliRecover, badInputIsNamed)
{
    EXPECT_EQ(error(recover(at("nowhere.json"), at("a.json"))), "plan.missing");
    EXPECT_EQ(error(recover(plan, at("a.json"), {"--gate", at("nowhere.txt")})),
              error(json({"evaluate", kModel, "--text", at("nowhere.txt")})));
    EXPECT_EQ(error(recover(plan, at("a.json"), {"--method", "hope"})), "method.unknown");
    EXPECT_EQ(error(recover(plan, at("a.json"), {"--param", "ridge=-1"})), "method.bad_parameter");
    EXPECT_EQ(error(recover(plan, at("a.json"), {"--resume"})), "recover.nothing_to_resume");
    EXPECT_EQ(error(recover(plan, at("a.json"), {"--windows", "1"})), "recover.gate_needed");
    Json other = Json::parse(readFile(plan));
    other["model"]["config_sha256"] = std::string(64, '0');
    std::ofstream(at("other.json")) << other.dump();
    EXPECT_EQ(error(recover(at("other.json"), at("a.json"))), "plan.other_model");
    std::ofstream(at("empty.json")) << "[]";
    EXPECT_NE(json({"recover", kModel, "--plan", plan, "--out", at("a.json"), "--ids", at("empty.json")}).code, 0);
    EXPECT_FALSE(fs::exists(at("a.json")));
    ASSERT_EQ(recover(plan, at("a.json"), {"--gate-ids", kIds}).code, 0);
    EXPECT_EQ(error(recover(plan, at("a.json"))), "output.exists");
}

// Made in one go: the same numbers as in two steps, and without recovery the plan of before.
TEST_F(CliRecover, isAStageOfPlan)
{
    const Outcome in =
        onText({"plan", kModel, "--profile", profile, "--prune", "40%", "--recover", "least-squares", "--out", at("one.json")});
    ASSERT_EQ(in.code, 0) << in.output;
    const Json stages = in.json()["trace"]["stages"];
    EXPECT_EQ(stages.back()["stage"], "recover");
    const Outcome two = recover(plan, at("two.json"));
    EXPECT_EQ(stages.back()["accepted"], two.json()["accepted"]);
    EXPECT_EQ(stages.back()["ppl_after"], two.json()["ppl_after"]);
    const Outcome none = json({"plan", kModel, "--profile", profile, "--prune", "40%", "--recover", "none", "--out", at("none.json")});
    ASSERT_EQ(none.code, 0);
    EXPECT_EQ(readFile(at("none.json")), readFile(plan));
    // A recipe says it, and says it again.
    const Outcome again = onText({"plan", kModel, "--profile", profile, "--recipe", at("one.json"), "--out", at("again.json")});
    ASSERT_EQ(again.code, 0) << again.output;
    EXPECT_EQ(again.json()["plan_hash"], in.json()["plan_hash"]);
}

}  // namespace
}  // namespace espalier::testing
