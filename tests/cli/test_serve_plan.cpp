// The pipeline as the window runs it, through the real program: partial plans, an evaluation in between, cancelling, refusals.
#include "base/statistics.h"
#include "base/text.h"
#include "cli/engine_process.h"
#include "session/profile_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <functional>
#include <set>

namespace espalier::testing
{
namespace
{

using ::testing::HasSubstr;

const std::string kDemo = std::string(ESPALIER_RESOURCES) + "/demo/espalier-demo-moe";
const std::string kText = std::string(ESPALIER_RESOURCES) + "/demo/calibration.txt";
constexpr int kLayers = 6;
constexpr int kExperts = 16;

Request ask(std::int64_t id, const std::string& method, Json params = Json::object()) { return {RequestId(id), method, std::move(params)}; }

int keptIn(const Json& plan)
{
    int kept = kLayers * kExperts;
    for (const Json& layer : plan["layers"])
        if (layer.contains("kept")) kept += static_cast<int>(layer["kept"].size()) - kExperts;
    return kept;
}

class ServePlan : public ::testing::Test
{
protected:
    static void SetUpTestSuite()
    {
        s_scratch = new Scratch;
        const Outcome outcome = runEngine({"profile", kDemo, "--text", kText, "--window-length", "64", "--windows", "8", "--collect",
                                           "counts,gram,curves,factors", "--out", profile(), "--json"});
        ASSERT_EQ(outcome.code, 0) << outcome.output << outcome.errors;
    }
    static void TearDownTestSuite()
    {
        delete s_scratch;
        s_scratch = nullptr;
    }
    static std::string profile() { return (*s_scratch / "p.h5").string(); }

    // 72 of 96 experts, sets by a search.
    static Json planRequest()
    {
        return {{"path", kDemo},
                {"profile", profile()},
                {"plan", nullptr},
                {"text", {kText}},
                {"window_length", 64},
                {"windows", 8},
                {"tag", "plan"},
                {"lane", "full"},
                {"recipe",
                 {{"target", {{"experts", 72}}},
                  {"uniform_count", false},
                  {"score", {{"method", "leave-one-out"}, {"params", Json::object()}}},
                  {"allocate", {{"method", "importance"}, {"params", Json::object()}}},
                  {"select", {{"method", "genetic"}, {"params", Json::object()}}},
                  {"receptive_field", nullptr},
                  {"rank", nullptr},
                  {"factors", ""},
                  {"seed", 3}}}};
    }
    // A search that does not end by itself while a test lasts.
    static Json endless()
    {
        Json request = planRequest();
        request["recipe"]["select"]["params"] = {{"generations", 5000}, {"population", 1800}, {"enumerate_below", 0}};
        return request;
    }
    static Json quickEvaluation(const Json& plan)
    {
        return {{"path", kDemo}, {"plan", plan}, {"text", {kText}}, {"window_length", 64}, {"max_windows", 8}, {"windows", {{"first", 2}}}};
    }
    // The value of the next partial result that is asked for; null when the stream ends or an answer comes.
    static Json nextPartial(EngineProcess& engine, const std::function<bool(const Json&)>& wanted)
    {
        while (const auto message = engine.next()) {
            if (message->contains("id")) return *message;
            if ((*message)["method"] == "$/partial" && wanted((*message)["params"]["value"])) return (*message)["params"]["value"];
        }
        return nullptr;
    }
    static std::vector<Json> partialsOf(const std::vector<Json>& notes, const std::string& stage)
    {
        std::vector<Json> found;
        for (const Json& note : notes)
            if (note["method"] == "$/partial" && note["params"]["value"]["stage"] == stage) found.push_back(note["params"]["value"]);
        return found;
    }

    inline static Scratch* s_scratch = nullptr;
};

TEST_F(ServePlan, searchBlocksAndRanksWithPartialPlans)
{
    Json request = planRequest();
    request["recipe"]["receptive_field"] = {{"sets", 2}, {"block_size", 2}};
    request["recipe"]["rank"] = {{"method", "moe-i2"}, {"params", Json::object()}, {"average", nullptr}, {"share", nullptr}};
    request["recipe"]["factors"] = "whitened-svd";
    EngineProcess engine({"serve"});
    engine.send(ask(1, "plan", request));
    std::vector<Json> notes;
    const Json answer = engine.answer(1, &notes);
    ASSERT_TRUE(answer.contains("result")) << answer.dump();
    const Json& result = answer["result"];
    for (const char* field : {"plan", "plan_hash", "keep", "stages", "warnings", "exchange", "cost", "seconds"})
        EXPECT_TRUE(result.contains(field)) << field;
    EXPECT_TRUE(result["exchange"].is_null());
    EXPECT_EQ(keptIn(result["plan"]), 72);
    EXPECT_LT(result["cost"]["bytes"], result["cost"]["dense"]["bytes"]);

    // The start: a whole plan, once, before anything was searched.
    const std::vector<Json> select = partialsOf(notes, "select");
    ASSERT_FALSE(select.empty());
    EXPECT_EQ(keptIn(select.front()["plan"]), 72);
    EXPECT_EQ(select.front()["keep"], result["keep"]);
    EXPECT_EQ(std::count_if(select.begin(), select.end(), [](const Json& value) { return value.contains("plan"); }), 1);
    std::set<int> finished;
    for (const Json& value : select) {
        if (!value.contains("finished")) continue;
        const int layer = value["layer"];
        finished.insert(layer);
        EXPECT_EQ(static_cast<int>(value["kept"].size()), result["keep"][static_cast<std::size_t>(layer)].get<int>());
        EXPECT_LE(value["best_loss"].get<double>(), value["reference_loss"].get<double>() * (1 + 1e-9)) << layer;
        EXPECT_GT(value["output_norm"].get<double>(), 0);
        EXPECT_GT(value["evaluated"].get<int>(), 0);
        EXPECT_EQ(value["trace"].back(), value["best_loss"]);
    }
    EXPECT_EQ(finished.size(), static_cast<std::size_t>(kLayers));

    const std::vector<Json> blocks = partialsOf(notes, "receptive-field");
    ASSERT_EQ(blocks.size(), 3u);
    for (const Json& block : blocks) {
        EXPECT_EQ(keptIn(block["plan"]), 72);
        EXPECT_EQ(block["trials"].size(), 4u);
    }
    const std::vector<Json> rank = partialsOf(notes, "rank");
    ASSERT_EQ(rank.size(), 1u);
    EXPECT_EQ(rank[0]["plan"], result["plan"]);

    // The profile is at hand, and so is the plan: the same again, then measured.
    engine.send(ask(2, "plan", request));
    EXPECT_EQ(engine.answer(2)["result"]["plan_hash"], result["plan_hash"]);
    Json evaluation = quickEvaluation(result["plan"]);
    evaluation["profile"] = profile();
    engine.send(ask(3, "evaluate", evaluation));
    const Json evaluated = engine.answer(3);
    ASSERT_TRUE(evaluated.contains("result")) << evaluated.dump();
    EXPECT_EQ(evaluated["result"]["plan_hash"], result["plan_hash"]);
}

TEST_F(ServePlan, verifiedExchangeStreamsItsPlans)
{
    Json request = planRequest();
    request["recipe"]["allocate"] = {{"method", "verified"}, {"params", {{"moves", 2}}}};
    request["recipe"]["select"]["method"] = "ranking";
    request["locked"] = {std::string(ESPALIER_RESOURCES) + "/demo/validation.txt"};
    EngineProcess engine({"serve"});
    engine.send(ask(1, "plan", request));
    std::vector<Json> notes;
    const Json answer = engine.answer(1, &notes);
    ASSERT_TRUE(answer.contains("result")) << answer.dump();
    const Json& result = answer["result"];
    int curves = 0;
    int alone = 0;
    int measured = 0;
    double best = INFINITY;
    Json bestPlan;
    for (const Json& value : partialsOf(notes, "allocate")) {
        curves += value.contains("curve") ? 1 : 0;
        alone += value.contains("alone") ? 1 : 0;
        if (!value.contains("nll")) continue;
        ++measured;
        EXPECT_EQ(value["plan_hash"].get<std::string>().size(), 64u);
        EXPECT_EQ(value.contains("plan"), value["accepted"].get<bool>());
        if (!value["accepted"].get<bool>()) continue;
        EXPECT_LT(value["nll"].get<double>(), best);
        best = value["nll"].get<double>();
        bestPlan = value["plan"];
        EXPECT_EQ(keptIn(bestPlan), 72);
    }
    EXPECT_EQ(curves, kLayers);
    EXPECT_EQ(alone, kLayers);
    EXPECT_EQ(measured, result["exchange"]["measured"].get<int>());
    for (const char* field : {"moves", "end", "change", "locked_change"})
        EXPECT_TRUE(result["exchange"].contains(field)) << field;
    EXPECT_TRUE(result["exchange"]["locked_change"].is_object());
    // The score's sets lose to the measured ones or are measured better themselves.
    Json evaluation = quickEvaluation(result["plan"]);
    evaluation["windows"] = {{"all", true}};
    engine.send(ask(2, "evaluate", evaluation));
    EXPECT_LE(engine.answer(2)["result"]["nll"].get<double>(), best + 1e-9);
}

// Kept experts of which no matrix has a rank.
int denseIn(const Json& plan)
{
    int dense = 0;
    for (const Json& layer : plan["layers"])
        for (std::size_t i = 0; i < layer["kept"].size(); ++i)
            dense += layer.contains("ranks") && layer["ranks"][i] != Json({0, 0, 0}) ? 0 : 1;
    return dense;
}

// The answer to `request` with ranks by the paper's rule; `request` then starts from that plan, without a rule.
Json planWithRanks(EngineProcess& engine, Json& request)
{
    request["recipe"]["select"]["method"] = "ranking";
    request["recipe"]["rank"] = {{"method", "moe-i2"}, {"average", nullptr}, {"share", nullptr}};
    engine.send(ask(1, "plan", request));
    Json start = engine.answer(1);
    request["plan"] = start["result"]["plan"];
    request["recipe"]["rank"] = nullptr;
    return start;
}

TEST_F(ServePlan, verifiedExchangeHoldsTheBytesOfAPlanWithRanks)
{
    Json request = planRequest();
    EngineProcess engine({"serve"});
    const Json start = planWithRanks(engine, request);
    ASSERT_TRUE(start.contains("result")) << start.dump();
    request["recipe"]["allocate"] = {{"method", "verified"}, {"params", {{"moves", 2}}}};
    request["recipe"]["select"]["method"] = "genetic";
    std::int64_t id = 1;
    for (const int experts : {72, 60}) {
        request["recipe"]["target"] = {{"experts", experts}};
        engine.send(ask(++id, "plan", request));
        const Json answer = engine.answer(id);
        ASSERT_TRUE(answer.contains("result")) << answer.dump();
        const Json& result = answer["result"];
        EXPECT_EQ(keptIn(result["plan"]), experts);
        EXPECT_NE(result["plan_hash"], start["result"]["plan_hash"]);
        EXPECT_LE(result["cost"]["bytes"].get<std::int64_t>(), start["result"]["cost"]["bytes"].get<std::int64_t>());
        EXPECT_TRUE(result["exchange"]["rank_given_back"].is_number_integer());
        EXPECT_LE(denseIn(result["plan"]), denseIn(start["result"]["plan"])) << "an expert came in without the ranks of one that left";
    }
}

// Counts and ranks for 10.4 MiB, on so little text that a test can wait for it.
Json sizeRequest(Json request)
{
    request["recipe"]["target"] = {{"bytes", 10905190}};
    request["recipe"]["allocate"] = {{"method", "verified"}, {"params", {{"passes", 25}}}};
    request["recipe"]["select"]["method"] = "ranking";
    request["recipe"]["score"]["method"] = "leave-one-out";
    request["window_length"] = 32;
    request["windows"] = 48;
    return request;
}

std::vector<WindowLoss> lossesOf(const Json& evaluation)
{
    std::vector<WindowLoss> losses;
    for (const Json& window : evaluation["windows"])
        losses.push_back({static_cast<int>(losses.size()), window["nll"].get<double>(), window["tokens"].get<int>()});
    return losses;
}

TEST_F(ServePlan, aPlanForASizeIsNeverWorseThanItsStartOrAPreset)
{
    const Json request = sizeRequest(planRequest());
    EngineProcess engine({"serve"});
    // The dense model, a plan made by hand, and the answer of the paper's preset.
    Json byHand = {{"version", 1}, {"layers", Json::array()}};
    const std::vector<int> counts = {14, 9, 8, 8, 8, 8};
    for (int layer = 0; layer < kLayers; ++layer) {
        std::vector<int> kept;
        for (int e = 0; e < counts[static_cast<std::size_t>(layer)]; ++e)
            kept.push_back(e);
        byHand["layers"].push_back({{"layer", layer}, {"kept", kept}});
    }
    Json preset = request;
    preset["recipe"]["allocate"] = {{"method", "importance"}, {"params", Json::object()}};
    preset["recipe"]["rank"] = {{"method", "moe-i2"}, {"average", nullptr}, {"share", nullptr}};
    engine.send(ask(1, "plan", preset));
    const Json byPreset = engine.answer(1)["result"]["plan"];
    std::int64_t id = 1;
    const auto evaluated = [&](const Json& plan) {
        Json evaluation = {{"path", kDemo}, {"plan", plan}, {"text", {kText}}, {"window_length", 32}, {"max_windows", 48}};
        evaluation["profile"] = profile();
        evaluation["windows"] = {{"all", true}};
        engine.send(ask(++id, "evaluate", evaluation));
        const Json answer = engine.answer(id);
        EXPECT_TRUE(answer.contains("result")) << answer.dump();
        return lossesOf(answer["result"]);
    };
    const std::vector<WindowLoss> presetLosses = evaluated(byPreset);
    ASSERT_EQ(presetLosses.size(), 48u);
    for (const Json& start : {Json(), byHand, byPreset}) {
        Json search = request;
        search["plan"] = start;
        engine.send(ask(++id, "plan", search));
        std::vector<Json> notes;
        const Json answer = engine.answer(id, &notes);
        ASSERT_TRUE(answer.contains("result")) << answer.dump();
        const Json& result = answer["result"];
        EXPECT_LE(result["cost"]["bytes"].get<std::int64_t>(), 10905190);
        EXPECT_LT(denseIn(result["plan"]), keptIn(result["plan"])) << "ranks belong to the answer";
        EXPECT_LE(result["exchange"]["passes"].get<double>(), 28);
        EXPECT_EQ(result["exchange"]["trace"].size(), result["exchange"]["measured"].get<std::size_t>());
        // One count of the whole job, that never goes back and is not full before the end.
        std::int64_t told = 0;
        for (const Json& note : notes) {
            if (note["method"] != "$/progress") continue;
            EXPECT_EQ(note["params"]["total"], 1000);
            EXPECT_GE(note["params"]["done"].get<std::int64_t>(), told);
            told = note["params"]["done"].get<std::int64_t>();
            EXPECT_LT(told, 1000);
        }
        const std::vector<WindowLoss> found = evaluated(result["plan"]);
        EXPECT_LE(pairedDifference(found, presetLosses).nll, 1e-9);
        if (start.is_null()) {
            EXPECT_TRUE(result["exchange"]["against_given"].is_null());
            continue;
        }
        EXPECT_LE(result["exchange"]["against_given"]["nll"].get<double>(), 1e-12);
        EXPECT_LE(pairedDifference(found, evaluated(start)).nll, 1e-9);
    }
}

TEST_F(ServePlan, aSearchGoesOnAfterTheEngineWasKilled)
{
    Json request = sizeRequest(planRequest());
    request["state"] = (*s_scratch / "search.jsonl").string();
    {
        EngineProcess engine({"serve"});
        engine.send(ask(1, "plan", request));
        // In the middle of the exchanges.
        int steps = 0;
        (void)nextPartial(engine, [&](const Json& value) { return value.contains("nll") && ++steps == 14; });
        engine.signal(SIGKILL);
        engine.wait();
    }
    request["resume"] = true;
    EngineProcess engine({"serve"});
    engine.send(ask(1, "plan", request));
    const Json resumed = engine.answer(1);
    ASSERT_TRUE(resumed.contains("result")) << resumed.dump();
    EXPECT_GE(resumed["result"]["recovered"].get<int>(), 14);
    EXPECT_FALSE(std::filesystem::exists(request["state"].get<std::string>()));
    request.erase("state");
    EngineProcess other({"serve"});
    other.send(ask(1, "plan", request));
    const Json whole = other.answer(1);
    EXPECT_EQ(resumed["result"]["plan_hash"], whole["result"]["plan_hash"]);
    EXPECT_EQ(resumed["result"]["exchange"], whole["result"]["exchange"]);
    // A file that cannot be written costs the chance to go on, not the search.
    Json unwritable = request;
    unwritable["state"] = "/nowhere/search.jsonl";
    unwritable["recipe"]["allocate"] = {{"method", "uniform"}};
    other.send(ask(2, "plan", unwritable));
    const Json warned = other.answer(2);
    ASSERT_TRUE(warned.contains("result")) << warned.dump();
    EXPECT_THAT(warned["result"]["warnings"].dump(), HasSubstr("/nowhere"));
}

TEST_F(ServePlan, layersWithUncoveredTokensAreSearchedOnAllProducts)
{
    // The same text twice: lists of the router's choice alone, and of all experts.
    const auto profiled = [&](const std::string& name, const std::string& extra) {
        std::string path = (*s_scratch / name).string();
        const Outcome outcome = runEngine({"profile", kDemo, "--text", kText, "--window-length", "64", "--windows", "8", "--collect",
                                           "counts,gram", "--gram-extra", extra, "--out", path});
        EXPECT_EQ(outcome.code, 0) << outcome.errors;
        return path;
    };
    Json request = planRequest();
    // Three of sixteen go in every layer, so that all sets are tried and there is one best.
    request["recipe"]["target"] = {{"experts", 78}};
    request["recipe"]["allocate"]["method"] = "uniform";
    request["recipe"]["select"]["method"] = "exhaustive";
    EngineProcess engine({"serve"});
    request["profile"] = profiled("short.h5", "0");
    engine.send(ask(1, "plan", request));
    const Json again = engine.answer(1);
    ASSERT_TRUE(again.contains("result")) << again.dump();
    EXPECT_THAT(again["result"]["warnings"].dump(), HasSubstr("searched again on the products of all experts"));
    request["profile"] = profiled("all.h5", "12");
    engine.send(ask(2, "plan", request));
    const Json direct = engine.answer(2);
    ASSERT_TRUE(direct.contains("result")) << direct.dump();
    EXPECT_EQ(direct["result"]["warnings"].dump().find("searched again"), std::string::npos);
    EXPECT_EQ(again["result"]["plan"]["layers"], direct["result"]["plan"]["layers"]);
}

TEST_F(ServePlan, expertsThatComeBackIntoAPlanWithRanksHaveRanks)
{
    Json request = planRequest();
    request["recipe"]["target"] = {{"experts", 60}};
    EngineProcess engine({"serve"});
    const Json start = planWithRanks(engine, request);
    ASSERT_TRUE(start.contains("result")) << start.dump();
    request["recipe"]["target"] = {{"experts", 72}};
    std::int64_t id = 1;
    for (const char* allocator : {"uniform", "inverse", "global"}) {
        request["recipe"]["allocate"]["method"] = allocator;
        engine.send(ask(++id, "plan", request));
        const Json answer = engine.answer(id);
        ASSERT_TRUE(answer.contains("result")) << answer.dump();
        EXPECT_EQ(keptIn(answer["result"]["plan"]), 72);
        EXPECT_LE(denseIn(answer["result"]["plan"]), denseIn(start["result"]["plan"])) << allocator;
    }
}

TEST_F(ServePlan, runsOnTheProfilesWindowsWithoutAText)
{
    Json request = planRequest();
    request["recipe"]["allocate"] = {{"method", "verified"}, {"params", {{"moves", 1}}}};
    request["recipe"]["select"]["method"] = "ranking";
    request["locked"] = {std::string(ESPALIER_RESOURCES) + "/demo/validation.txt"};
    EngineProcess engine({"serve"});
    engine.send(ask(1, "plan", request));
    const Json given = engine.answer(1);
    ASSERT_TRUE(given.contains("result")) << given.dump();
    for (const char* field : {"text", "window_length", "windows"})
        request.erase(field);
    engine.send(ask(2, "plan", request));
    const Json own = engine.answer(2);
    ASSERT_TRUE(own.contains("result")) << own.dump();
    EXPECT_EQ(own["result"]["plan_hash"], given["result"]["plan_hash"]);
    EXPECT_EQ(own["result"]["exchange"]["change"], given["result"]["exchange"]["change"]);
    EXPECT_EQ(own["result"]["exchange"]["locked_change"]["nll"].is_number(), true);
}

TEST_F(ServePlan, evaluatesInBetweenAndIsCancelled)
{
    EngineProcess engine({"serve"});
    engine.send(ask(1, "plan", endless()));
    const auto running = [](const Json& value) { return value.contains("generation"); };
    const Json before = nextPartial(engine, running);
    ASSERT_TRUE(before.contains("trace")) << before.dump();
    EXPECT_TRUE(before["reference_loss"].is_number()) << "what the search is measured against: " << before.dump();
    engine.send(ask(2, "evaluate", quickEvaluation(nullptr)));
    const Json evaluated = engine.answer(2);
    EXPECT_EQ(evaluated["result"]["windows"].size(), 2u) << evaluated.dump();
    engine.send(ask(3, "ping"));
    EXPECT_EQ(engine.answer(3)["result"]["job"], "plan");
    // The search goes on where it was.
    const Json after = nextPartial(engine, [&](const Json& value) {
        return value.contains("generation") &&
               (value["layer"] != before["layer"] || value["generation"].get<int>() > before["generation"].get<int>());
    });
    EXPECT_TRUE(after.contains("trace")) << after.dump();
    engine.send(Notification{"$/cancelRequest", {{"id", 1}}});
    EXPECT_EQ(engine.answer(1)["error"]["code"], rpc::kCancelled);
    engine.send(ask(4, "ping"));
    EXPECT_EQ(engine.answer(4)["result"]["busy"], false);
}

TEST_F(ServePlan, verifiedExchangeGivesWayToo)
{
    Json request = planRequest();
    request["recipe"]["allocate"]["method"] = "verified";
    request["windows"] = 64;
    EngineProcess engine({"serve"});
    engine.send(ask(1, "plan", request));
    const Json first = nextPartial(engine, [](const Json& value) { return value.contains("nll") && value.contains("plan"); });
    ASSERT_TRUE(first.contains("plan")) << first.dump();
    engine.send(ask(2, "evaluate", quickEvaluation(first["plan"])));
    EXPECT_EQ(engine.answer(2)["result"]["plan_hash"], first["plan_hash"]);
    engine.send(Notification{"$/cancelRequest", {{"id", 1}}});
    EXPECT_EQ(engine.answer(1)["error"]["code"], rpc::kCancelled);
    // A newer plan replaces one that runs.
    engine.send(ask(3, "plan", endless()));
    (void)nextPartial(engine, [](const Json& value) { return value.contains("generation"); });
    Json quick = planRequest();
    quick["recipe"]["select"]["method"] = "ranking";
    engine.send(ask(4, "plan", quick));
    EXPECT_EQ(engine.answer(3)["error"]["code"], rpc::kSuperseded);
    EXPECT_EQ(keptIn(engine.answer(4)["result"]["plan"]), 72);
}

TEST_F(ServePlan, locksAndProtectionOfTheStartPlanHold)
{
    Json request = planRequest();
    request["recipe"]["select"]["method"] = "ranking";
    request["plan"] = Json::parse(R"({"version": 1, "layers": [{"layer": 1, "kept": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}], "locks": [1],
                                      "protected": [{"layer": 2, "experts": [15]}]})");
    EngineProcess engine({"serve"});
    engine.send(ask(1, "plan", request));
    const Json answer = engine.answer(1);
    ASSERT_TRUE(answer.contains("result")) << answer.dump();
    for (const Json& layer : answer["result"]["plan"]["layers"]) {
        if (layer["layer"] == 1) {
            EXPECT_EQ(layer["kept"].size(), 10u);
        }
        if (layer["layer"] == 2) {
            EXPECT_THAT(layer["kept"].get<std::vector<int>>(), ::testing::Contains(15));
        }
    }
    EXPECT_EQ(keptIn(answer["result"]["plan"]), 72);
}

TEST_F(ServePlan, refusalsNameWhatIsWrong)
{
    EngineProcess engine({"serve"});
    std::int64_t id = 0;
    const auto error = [&](const std::function<void(Json&)>& change) {
        Json request = planRequest();
        change(request);
        engine.send(ask(++id, "plan", request));
        const Json answer = engine.answer(id);
        return answer.contains("error") ? answer["error"] : answer;
    };
    const auto expectData = [&](const char* code, const char* named, const std::function<void(Json&)>& change) {
        const Json refused = error(change);
        EXPECT_EQ(refused["data"]["code"], code) << refused.dump();
        EXPECT_THAT(refused["data"].dump(), HasSubstr(named));
        EXPECT_NE(refused["data"]["action"], "") << code;
    };
    expectData("method.unknown", "magic", [](Json& r) { r["recipe"]["select"]["method"] = "magic"; });
    expectData("method.unknown", "qr", [](Json& r) { r["recipe"]["factors"] = "qr"; });
    expectData("method.bad_parameter", "genetic.population", [](Json& r) { r["recipe"]["select"]["params"] = {{"population", 1}}; });
    expectData("method.bad_parameter", "verified.pace", [](Json& r) {
        r["recipe"]["allocate"] = {{"method", "verified"}, {"params", {{"pace", 1}}}};
    });
    expectData("search.bad_option", "kt", [](Json& r) { r["recipe"]["receptive_field"] = {{"sets", 99}, {"block_size", 2}}; });
    const std::string old = (*s_scratch / "old.h5").string();
    auto data = readProfile(profile());
    ASSERT_TRUE(data.ok());
    data->windowIds = {};  // as older engines left it
    ASSERT_TRUE(writeProfile(old, *data).ok());
    expectData("plan.text_needed", "calibration text", [&](Json& r) {
        r["recipe"]["allocate"]["method"] = "verified";
        r["profile"] = old;
        r.erase("text");
    });
    expectData("allocate.infeasible", "experts", [](Json& r) { r["recipe"]["target"] = {{"experts", 3}}; });
    expectData("profile.missing_statistics", "reap", [](Json& r) { r["recipe"]["score"]["method"] = "reap"; });
    expectData("profile.missing", "none.h5", [](Json& r) { r["profile"] = (*s_scratch / "none.h5").string(); });
    const auto expectField = [&](const char* named, const std::function<void(Json&)>& change) {
        const Json refused = error(change);
        EXPECT_EQ(refused["code"], rpc::kInvalidParams) << refused.dump();
        EXPECT_THAT(refused["message"].get<std::string>(), HasSubstr(named));
    };
    expectField("\"recipe\"", [](Json& r) { r.erase("recipe"); });
    expectField("recipe.target", [](Json& r) { r["recipe"]["target"] = Json::object(); });
    expectField("recipe.select.method", [](Json& r) { r["recipe"]["select"]["method"] = 5; });
    expectField("recipe.allocate.params", [](Json& r) { r["recipe"]["allocate"]["params"] = 5; });
    expectField("recipe.rank.average", [](Json& r) { r["recipe"]["rank"] = {{"method", "uniform"}, {"average", "much"}}; });
    // And it still works.
    EXPECT_EQ(error([](Json& r) { r["recipe"]["select"]["method"] = "ranking"; })["result"]["keep"].size(),
              static_cast<std::size_t>(kLayers));
}

TEST_F(ServePlan, rankCurvesOfAnExpert)
{
    EngineProcess engine({"serve"});
    // While a search runs, and before the profile is held.
    engine.send(ask(1, "rank_curves", {{"profile", profile()}, {"layer", 2}, {"expert", 5}}));
    const Json curves = engine.answer(1)["result"];
    ASSERT_TRUE(curves.is_object());
    EXPECT_EQ(curves["layer"], 2);
    EXPECT_EQ(curves["expert"], 5);
    EXPECT_EQ(curves["whitened"], true);
    for (const char* matrix : {"gate", "up", "down"}) {
        const Json& one = curves["matrices"][matrix];
        const int rows = one["rows"];
        const int columns = one["columns"];
        const int full = one["full_rank"];
        EXPECT_EQ(full, std::min(rows, columns));
        EXPECT_EQ(one["break_even"], (rows * columns - 1) / (rows + columns));  // equal would not be smaller
        const Json& error = one["error"];
        ASSERT_GE(error.size(), 2u);
        EXPECT_LE(error.size(), 256u);
        EXPECT_EQ(error.front(), Json({0, 1.0}));
        EXPECT_EQ(error.back()[0], full);
        EXPECT_NEAR(error.back()[1].get<double>(), 0, 1e-12);
        for (std::size_t i = 1; i < error.size(); ++i) {
            EXPECT_LT(error[i - 1][0], error[i][0]);
            EXPECT_GE(error[i - 1][1].get<double>(), error[i][1].get<double>());
        }
        const Json& singular = one["singular"];
        EXPECT_EQ(singular.front()[0], 1);
        EXPECT_EQ(singular.back()[0], full);
        // The largest singular value is what rank 1 wins.
        double energy = 0;
        if (singular.size() == static_cast<std::size_t>(full)) {
            for (const Json& value : singular)
                energy += value[1].get<double>() * value[1].get<double>();
            const double first = singular.front()[1].get<double>();
            EXPECT_NEAR(first * first / energy, 1 - error[1][1].get<double>(), 1e-9);
        }
    }
    EXPECT_EQ(curves["matrices"]["gate"]["rows"], curves["matrices"]["down"]["columns"]);
    const auto refused = [&](std::int64_t id, const Json& params) {
        engine.send(ask(id, "rank_curves", params));
        return engine.answer(id)["error"];
    };
    EXPECT_EQ(refused(2, {{"profile", profile()}, {"layer", 9}, {"expert", 0}})["data"]["code"], "plan.unknown_layer");
    EXPECT_EQ(refused(3, {{"profile", profile()}, {"layer", 0}, {"expert", 16}})["data"]["code"], "plan.unknown_expert");
    EXPECT_EQ(refused(4, {{"profile", profile()}, {"layer", 0}})["code"], rpc::kInvalidParams);
    const std::string bare = (*s_scratch / "bare.h5").string();
    ASSERT_EQ(
        runEngine({"profile", kDemo, "--text", kText, "--window-length", "64", "--windows", "2", "--collect", "counts", "--out", bare})
            .code,
        0);
    const Json without = refused(5, {{"profile", bare}, {"layer", 0}, {"expert", 0}});
    EXPECT_EQ(without["data"]["code"], "profile.missing_statistics");
    EXPECT_THAT(without["data"]["action"].get<std::string>(), HasSubstr("curves"));
}

}  // namespace
}  // namespace espalier::testing
