// The messages of the protocol: what one side writes the other reads, and a field that is missing, renamed or not known is named.
#include "rpc/plan_presets.h"
#include "rpc/protocol_engine.h"
#include "rpc/protocol_evaluation.h"
#include "rpc/protocol_export.h"
#include "rpc/protocol_generate.h"
#include "rpc/protocol_model.h"
#include "rpc/protocol_plan.h"
#include "rpc/protocol_profile.h"
#include "rpc/protocol_tasks.h"
#include "rpc/recipe_json.h"
#include "rpc/search_record.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

namespace espalier
{
namespace
{

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// `sample` has every field set. Fields in `maybe` may be absent, all others are missed.
template <typename T>
void everyField(const T& sample, const std::set<std::string>& maybe = {})
{
    const Json json = toJson(sample);
    const Result<T> back = fromJson<T>(json);
    ASSERT_TRUE(back.ok()) << back.error().message << "\n" << json;
    EXPECT_EQ(toJson(*back), json);
    ASSERT_TRUE(json.is_object());
    for (const auto& [key, value] : json.items()) {
        Json without = json;
        without.erase(key);
        const Result<T> missing = fromJson<T>(without);
        EXPECT_EQ(missing.ok(), maybe.contains(key)) << key;
        if (!missing.ok()) {
            EXPECT_EQ(missing.error().code, "rpc.field");
            EXPECT_EQ(missing.error().subject, key);
            EXPECT_EQ(missing.error().message, "\"" + key + "\" is missing.");
        }
        // A renamed one is missing or not known, whatever it may be.
        Json renamed = without;
        renamed[key + "_"] = value;
        EXPECT_FALSE(fromJson<T>(renamed).ok()) << key;
    }
    Json more = json;
    more["surprise"] = 1;
    const Result<T> unknown = fromJson<T>(more);
    ASSERT_FALSE(unknown.ok());
    EXPECT_EQ(unknown.error().message, "\"surprise\" is not known.");
    EXPECT_FALSE(fromJson<T>(Json::array()).ok());
}

ModelShape shape()
{
    ModelShape shape;
    shape.modelType = "qwen2_moe";
    shape.architecture = "Qwen2MoeForCausalLM";
    shape.dtype = "BF16";
    shape.hiddenSize = 8;
    shape.vocabularySize = 100;
    LayerShape layer;
    layer.moe = true;
    layer.experts = 4;
    layer.expertWidth = 4;
    layer.router.topK = 2;
    shape.layers.push_back(layer);
    return shape;
}

TextSelection text()
{
    return {.text = {"a.txt", "b.txt"}, .ids = "x.json", .firstWindow = 3, .windowLength = 64, .textField = "body", .bos = "yes"};
}
const std::set<std::string> kText = {"text", "ids", "first_window", "window_length", "text_field", "bos"};

std::set<std::string> with(std::set<std::string> names, const std::set<std::string>& more)
{
    names.insert(more.begin(), more.end());
    return names;
}

ExpertScores scores()
{
    return {.method = "reap",
            .title = "REAP",
            .unit = "nats",
            .better = Better::Lower,
            .values = {{{1, kNaN}, {}}},
            .layerImportance = {0.5, kNaN}};
}

PlanSearchStep step()
{
    return {.name = "experts 3 -> 1",
            .planHash = "ab",
            .nll = 2,
            .windows = 8,
            .change = -0.1,
            .changeError = 0.01,
            .rise = 0.2,
            .estimatedGain = 0.1,
            .passes = 2.5,
            .accepted = true};
}

TEST(Protocol, messagesAboutTasks)
{
    const TaskMarks marks{.name = "mine", .rules = "hellaswag", .sha256 = "ab", .hidden = 1, .acc = "10-", .norm = "01-"};
    everyField(marks, {"norm"});
    everyField(TasksAnswer{.planHash = "cd", .tasks = {marks}, .dtype = "fp32", .recovered = 2, .warnings = {"w"}, .seconds = 1.5});
    everyField(
        TasksRequest{
            .path = "model", .data = "folder", .only = {"mine"}, .limit = 5, .examples = 2, .plan = {{"version", 1}}, .profiles = {"p.h5"}},
        {"only", "limit", "examples", "plan", "profile"});
    Json odd = toJson(marks);
    odd["acc"] = "10?";
    EXPECT_EQ(fromJson<TaskMarks>(odd).error().subject, "acc");
    odd = toJson(marks);
    odd["norm"] = "01";
    EXPECT_EQ(fromJson<TaskMarks>(odd).error().subject, "norm");
}

TEST(Protocol, messagesAboutTheEngine)
{
    everyField(InitializeRequest{.clientVersion = "1.2", .protocol = 1}, {"client_version", "protocol"});
    InitializeAnswer hello{.name = "espalier-engine",
                           .version = "1",
                           .protocol = 1,
                           .pid = 7,
                           .threads = 2,
                           .device = "cpu",
                           .memoryBytes = 1 << 30,
                           .supportedArchitectures = {"mixtral"},
                           .methods = {}};
    MethodInfo method;
    method.id = "reap";
    method.title = "REAP";
    hello.methods.push_back(method);
    everyField(hello);
    everyField(PingAnswer{true, "plan"}, {"job"});
    everyField(ListFolderRequest{"/tmp"});
    everyField(ListFolderAnswer{"/tmp", {{"a", false, 3}, {"b", true, {}}}});
    EXPECT_TRUE(toJson(ShutdownAnswer{}).is_null());
    // Of another protocol the other fields may be any.
    EXPECT_EQ(*protocolOf({{"protocol", 2}, {"speaks", "otherwise"}}), 2);
    EXPECT_EQ(*protocolOf(Json::object()), kProtocolVersion);
    EXPECT_FALSE(protocolOf({{"protocol", "new"}}).ok());
}

TEST(Protocol, notesOfARunningJob)
{
    everyField(ProgressNote{.id = std::int64_t{4}, .done = 1, .total = 2, .phase = "window", .etaSeconds = 1.5});
    everyField(ProgressNote{.id = std::string("x"), .done = 1, .total = 2, .phase = "window", .etaSeconds = {}});
    everyField(PartialNote{.id = std::int64_t{4}, .value = {{"window", 1}}});
    everyField(CancelNote{.id = std::int64_t{4}});
    EXPECT_EQ(fromJson<CancelNote>({{"id", 1.5}}).error().message, "\"id\" must be an integer or a string.");
}

TEST(Protocol, tagAndLaneStandBesideTheFields)
{
    Json params = withJobTag({{"path", "m"}}, {"quick", Lane::Interactive});
    EXPECT_EQ(params, Json({{"path", "m"}, {"tag", "quick"}, {"lane", "interactive"}}));
    const Result<JobTag> tag = takeJobTag(params);
    ASSERT_TRUE(tag.ok());
    EXPECT_EQ(tag->tag, "quick");
    EXPECT_EQ(tag->lane, Lane::Interactive);
    EXPECT_EQ(params, Json({{"path", "m"}}));
    EXPECT_FALSE(takeJobTag(params)->lane);
    Json wrong = {{"lane", "fast"}};
    EXPECT_EQ(takeJobTag(wrong).error().message, "\"lane\" is none of \"interactive\", \"attended\", \"full\" and \"export\".");
}

TEST(Protocol, openingAndExporting)
{
    everyField(OpenModelRequest{"model"});
    everyField(OpenModelAnswer{.path = "model",
                               .fingerprint = "f",
                               .configSha256 = "c",
                               .weightsSha256 = "w",
                               .shape = shape(),
                               .inspection = {{"layers", 1}},
                               .warnings = {"careful"},
                               .tokenizer = TokenizerFacts{"t", 100, true},
                               .forwardSupported = true});
    const Json unknownModel = toJson(OpenModelAnswer{});
    EXPECT_TRUE(unknownModel["shape"].is_null() && unknownModel["tokenizer"].is_null());
    ExportRequest request;
    request.path = "model";
    request.plan = {{"version", 2}};
    request.out = "out";
    request.flavor = "stock";
    request.force = request.resume = request.dryRun = request.unfuse = true;
    request.shardSize = 1000;
    Measurement measured;
    measured.text = "t.txt";
    measured.windows = 8;
    measured.windowLength = 64;
    measured.ppl = 9;
    request.measured = {measured};
    request.measuredTasks = {{.task = "rte",
                              .rules = "rte",
                              .fileSha256 = "ab",
                              .questions = 60,
                              .acc = {{0.5, 0.1}, Accuracy{0.75, 0.2}, Accuracy{-0.25, std::nullopt}},
                              .norm = TaskMeasurement::Metric{{0.25, 0.1}, {}, {}},
                              .dtype = "fp32",
                              .planHash = "cd",
                              .modelFingerprint = {}}};
    request.measuredSpeed = SpeedMeasurement{.prefill = {512, 781.5, 562.25, 1.39, 1.37, 1.41},
                                             .decode = {32, 37, 32, 1.16, 0.98, 1.19},
                                             .rounds = 3,
                                             .threads = 2,
                                             .dtype = "bf16",
                                             .planHash = "cd",
                                             .modelFingerprint = {}};
    request.profiles = {"p.h5"};
    request.verify = false;
    request.text = text();
    request.windows = 4;
    request.spread = 2;
    everyField(request, with(kText, {"flavor", "force", "resume", "dry_run", "unfuse", "shard_size", "measured", "measured_tasks",
                                     "measured_speed", "profile", "verify", "windows", "spread"}));
    Json damaged = toJson(request);
    damaged["measured"].erase("ppl");
    EXPECT_EQ(fromJson<ExportRequest>(damaged).error().subject, "measured");
    ExportAnswer answer;
    answer.report = {.flavor = "stock",
                     .out = "out",
                     .files = {{"config.json", 5}},
                     .bytes = 5,
                     .tensorBytes = 4,
                     .planHash = "ab",
                     .resumedFiles = 1,
                     .dryRun = false,
                     .warnings = {"w"}};
    answer.verify = VerifyReport{.holds = true,
                                 .flavor = "stock",
                                 .planHash = "ab",
                                 .checks = {{"plan", true, "equal"}},
                                 .maxAbsLogitDifference = 0.5,
                                 .pplPreview = 9,
                                 .pplExport = 9.5,
                                 .windows = 2,
                                 .warnings = {}};
    everyField(answer);
    everyField(*answer.verify);
    answer.verify.reset();
    EXPECT_TRUE(toJson(answer)["verify"].is_null());
    answer.verify = VerifyReport();
    answer.verify->checks = {{"plan", true, "equal"}};
    Json nested = toJson(answer);
    nested["verify"]["checks"][0].erase("holds");
    EXPECT_EQ(fromJson<ExportAnswer>(nested).error().message, "\"verify.checks.0.holds\" is missing.");
}

TEST(Protocol, profiles)
{
    ProfileRequest request;
    request.path = "model";
    request.text = text();
    request.windows = 4;
    request.out = "p.h5";
    request.gramTokens = 100;
    request.collect = {"counts"};
    request.resume = true;
    request.force = false;
    request.memoryBudget = 1 << 20;
    everyField(request, with(kText, {"windows", "gram_tokens", "collect", "resume", "force", "memory_budget"}));
    ProfileAnswer answer;
    answer.facts = {.profile = "p.h5",
                    .tokens = 256,
                    .windows = 4,
                    .windowLength = 64,
                    .textSha256 = "t",
                    .fingerprint = "f",
                    .layersDone = 2,
                    .collected = {"counts"},
                    .uncoveredFraction = 0.1,
                    .gram = GramStoreNote{1, 2, 3, 4, "--gram-tokens", "note"},
                    .scores = {{"reap", scores()}},
                    .warnings = {"w"}};
    answer.windowsAsked = 9;
    answer.dtype = "fp32";
    everyField(answer);
    everyField(answer.facts);
    everyField(LoadProfileRequest{"p.h5"});
    everyField(LayerScored{1, {{"reap", {1, 2}}}});
    everyField(ScoreRequest{"p.h5", "reap", {{"alpha", 1}}, "model"}, {"profile", "params", "path"});
    everyField(scores());
    EXPECT_TRUE(std::isnan(fromJson<ExpertScores>(toJson(scores()))->values.rows[0][1]));
    everyField(RankCurvesRequest{"p.h5", 1, 2});
    const SpectrumPoints points{
        .rows = 4, .columns = 8, .fullRank = 4, .breakEven = 2, .error = {{0, 1.0}, {4, 0.0}}, .singular = {{1, 3.0}}};
    everyField(RankCurvesAnswer{1, 2, true, points, points, points});
    Json damaged = toJson(RankCurvesAnswer{1, 2, true, points, points, points});
    damaged["matrices"]["up"]["error"][1] = {4};
    EXPECT_EQ(fromJson<RankCurvesAnswer>(damaged).error().message, "\"matrices.up.error.1\" must be a list of two.");
}

TEST(Protocol, evaluations)
{
    EvaluateRequest request;
    request.path = "model";
    request.text = text();
    request.maxWindows = 8;
    request.plan = {{"version", 2}};
    request.profiles = {"p.h5"};
    request.tier = "full";
    request.windows = {WindowChoice::Kind::Listed, 0, {1, 5}};
    everyField(request, with(kText, {"max_windows", "plan", "profile", "tier", "windows"}));
    Json none = toJson(request);
    none.erase("text");
    none.erase("ids");
    EXPECT_EQ(fromJson<EvaluateRequest>(none).error().message, "\"text\" is missing.");
    const auto windows = [](const Json& json) { return toJson(*fromJson<WindowChoice>(json)); };
    EXPECT_EQ(windows(3), Json({{"first", 3}}));
    EXPECT_EQ(windows({{"spread", 3}}), Json({{"spread", 3}}));
    EXPECT_EQ(windows({{"all", true}}), Json({{"all", true}}));
    EXPECT_EQ(windows(Json::array()), Json::array());
    Json wrong = toJson(request);
    wrong["windows"] = {1, -5};
    EXPECT_EQ(fromJson<EvaluateRequest>(wrong).error().message,
              "\"windows\" is neither a list of windows nor {\"first\": n}, {\"spread\": n} or {\"all\": true}.");
    EvaluateAnswer answer;
    answer.planHash = "ab";
    answer.windows = {{3, 120.5, 63}};
    answer.windowsAsked = 8;
    answer.warnings = {"short"};
    everyField(answer);
    everyField(WindowLoss{3, 120.5, 63});
}

TEST(Protocol, estimates)
{
    EstimateRequest request;
    request.profile = "p.h5";
    request.plan = {{"version", 2}};
    request.denseNll = 2.5;
    request.pairs = {{0.1, 0.2, {}, 0.3}, {0.1, 0.2, 0.25, 0.3}};
    everyField(request, {"plan", "dense_nll", "pairs"});
    EXPECT_EQ(toJson(request)["pairs"], Json({{0.1, 0.2, 0.3}, {0.1, 0.2, 0.3, 0.25}}));
    // By name as well, and of profiles with probes without the expansion.
    const auto points = estimatePointsFromJson({{{"fitted", 0.25}, {"delta_nll", 0.3}, {"label", "estimate"}}});
    ASSERT_TRUE(points.ok());
    EXPECT_FALSE(points->front().e1);
    EXPECT_EQ(points->front().fitted, 0.25);
    EXPECT_FALSE(estimatePointsFromJson({{0.1, 0.2}}).ok());
    EstimateAnswer answer;
    answer.planHash = "ab";
    answer.ppl = 9;
    answer.estimate.deltaNll = 0.1;
    answer.estimate.layers = {{1, 0.1, 0.2, 0.0}};
    answer.estimate.calibration = Estimate::Calibration{true, 24, 8, 3, 0.1, {{1.0, 2.0}}, 0.9};
    everyField(answer);
    everyField(*answer.estimate.calibration, {"residual", "beta"});
    const Json nothing = toJson(Estimate());
    EXPECT_TRUE(nothing["delta_nll"].is_null() && nothing["calibration"].is_null());
}

TEST(Protocol, completionsAndTheirSpeed)
{
    GenerateRequest request;
    request.path = "model";
    request.prompt = "Once";
    request.promptIds = {1, 2};
    request.plan = {{"version", 2}};
    request.profiles = {"p.h5"};
    request.tokens = 8;
    request.temperature = 0.5;
    request.topP = 0.9;
    request.seed = 7;
    request.stop = {"\n"};
    request.alternatives = 3;
    request.ignoreEnd = true;
    everyField(request,
               {"prompt", "prompt_ids", "plan", "profile", "tokens", "temperature", "top_p", "seed", "stop", "alternatives", "ignore_end"});
    EXPECT_EQ(fromJson<GenerateRequest>({{"path", "m"}}).error().message, "\"prompt\" is missing.");
    for (const auto& [key, value] : {std::pair<std::string, Json>{"temperature", -1},
                                     {"temperature", nullptr},
                                     {"top_p", 0},
                                     {"top_p", 1.5},
                                     {"tokens", 0},
                                     {"alternatives", -1},
                                     {"stop", "\n"}}) {
        Json wrong = toJson(request);
        wrong[key] = value;
        const Result<GenerateRequest> read = fromJson<GenerateRequest>(wrong);
        if (value.is_null()) {
            EXPECT_EQ(read->temperature, 0);  // absent
            continue;
        }
        ASSERT_FALSE(read.ok()) << key;
        EXPECT_TRUE(read.error().subject.starts_with(key)) << read.error().message;
    }
    everyField(GeneratedTokenEvent{3, 7, "a", -0.5, {{7, "a", -0.5}, {8, "b", -1}}});
    everyField(GenerateAnswer{.planHash = "ab",
                              .promptIds = {1},
                              .ids = {7},
                              .text = "a",
                              .logprobs = {-0.5},
                              .finish = "length",
                              .prefillSeconds = 1,
                              .decodeSeconds = 2,
                              .dtype = "fp32",
                              .warnings = {"w"}});
    everyField(
        SpeedRequest{.path = "model", .plan = {{"version", 2}}, .profiles = {"p.h5"}, .prefill = 8, .decode = 4, .rounds = 3, .seed = 5},
        {"plan", "profile", "prefill", "decode", "rounds", "seed"});
    everyField(SpeedRound{1, 100, 10, 120, 12});
    SpeedAnswer answer;
    answer.planHash = "ab";
    answer.plan = SpeedSide{.prefillTokensPerSecond = 100, .bytesReadPerToken = 3};
    answer.ratio = SpeedRatio{1.3, 1.2, 1.1, 1.4, 1, 1.5};
    everyField(answer);
    everyField(*answer.plan, {"active_at_most"});
    everyField(*answer.ratio);
    answer.plan.reset();
    answer.ratio.reset();
    EXPECT_TRUE(toJson(answer)["plan"].is_null() && toJson(answer)["ratio"].is_null());
}

TEST(Protocol, plansAndWhatTheyStream)
{
    PlanRequest request;
    request.path = "model";
    request.profile = "p.h5";
    request.baseProfiles = {"q.h5"};
    request.plan = {{"version", 2}};
    request.recipe.keepTotal = 12;
    request.recipe.receptiveField = ReceptiveFieldChoice{3, 2};
    request.recipe.ranks = true;
    request.recipe.params = {{"select", {{"population", 40}}}};
    request.text = text();
    request.windows = 4;
    request.locked = {"l.txt"};
    request.state = "s.jsonl";
    request.resume = true;
    request.values = "values";
    request.recipe.recover = "least-squares";
    request.recipe.params["recover"] = {{"ridge", 0.1}};
    everyField(request, with(kText, {"base_profiles", "plan", "windows", "locked", "state", "resume", "values"}));
    Json wrong = toJson(request);
    wrong["recipe"]["keep"] = 3;
    EXPECT_EQ(fromJson<PlanRequest>(wrong).error().message, "\"recipe.keep\" is not known.");
    wrong = toJson(request);
    wrong["recipe"]["select"]["parameters"] = Json::object();
    EXPECT_EQ(fromJson<PlanRequest>(wrong).error().message, "\"recipe.select.parameters\" is not known.");
    PlanAnswer answer;
    answer.plan = {{"version", 2}};
    answer.keep = {3, 4};
    answer.stages = {{{"stage", "select"}}};
    answer.exchange = SearchSummary{};
    answer.exchange->againstGiven = PairedDifference{};
    answer.exchange->trace = {step()};
    answer.recovery = RecoverSummary{.method = "least-squares",
                                     .accepted = true,
                                     .changed = true,
                                     .windows = 12,
                                     .nllDense = 2,
                                     .nllBefore = 2.5,
                                     .nllAfter = 2.25,
                                     .change = {}};
    everyField(answer, {"recovery"});
    everyField(*answer.recovery);
    everyField(*answer.exchange);
    const std::vector<PlanEvent> events = {
        {"select", PlanFound{{{"version", 2}}, std::vector{3, 4}}},
        {"rank", PlanFound{{{"version", 2}}, {}}},
        {"allocate", CurveKnown{1, 2, {3, 2, 1}}},
        {"allocate", LayerAlone{1, 0.25}},
        {"allocate", PlanMeasured{step(), Json{{"version", 2}}}},
        {"select", LayerSearching{1, 4, 3, {}, true, {4, 3}}},
        {"select", LayerSearched{1, {0, 2}, 3, 4.5, 100, 400, {4, 3}}},
        {"receptive-field", BlockChosen{{{0, 1}, 0, 1, 5.0, {{{0, 0}, 5.0}}, {{0, 0}, 5.0}, 3, 2}, {{"version", 2}}}},
        {"finals", FinalistRecovered{"moe-i2", std::string(64, 'a'), 84, 12, 3.75, 3.5, -0.125, 0.0625, true, Json{{"version", 2}}}},
        {"recover", RecoverJudged{"before", 3.75, 12}},
        {"recover", RecoverPoint{.step = 3, .loss = 0.5, .layer = 1, .gateNll = 2.5}}};
    for (const PlanEvent& event : events) {
        const std::set<std::string> absent = event.what.index() == 0 ? std::set<std::string>{"keep"} : std::set<std::string>{"plan"};
        const Json json = toJson(event);
        const Result<PlanEvent> back = fromJson<PlanEvent>(json);
        ASSERT_TRUE(back.ok()) << back.error().message;
        EXPECT_EQ(back->what.index(), event.what.index());
        EXPECT_EQ(toJson(*back), json);
        for (const auto& [key, value] : json.items()) {
            Json renamed = json;
            renamed.erase(key);
            renamed[key + "_"] = value;
            EXPECT_FALSE(fromJson<PlanEvent>(renamed).ok()) << key << " of " << json;
        }
    }
}

TEST(Protocol, presets)
{
    for (const PlanPreset& preset : planPresets()) {
        everyField(preset);
        const Result<PlanPreset> back = fromJson<PlanPreset>(toJson(preset));
        ASSERT_TRUE(back.ok());
        EXPECT_EQ(toJson(back->recipe), toJson(preset.recipe));
        EXPECT_FALSE(back->recipe.keepTotal || back->recipe.bytes);
        Json wrong = toJson(preset);
        wrong["recipe"]["selec"] = 1;
        EXPECT_EQ(fromJson<PlanPreset>(wrong).error().message, "\"recipe.selec\" is not known.");
    }
}

// Sessions outlive versions.
TEST(Protocol, recordsOfSearchesAreReadAsFarAsTheyGo)
{
    SearchRecord record;
    record.title = "Verified plan";
    record.recipe = {{"seed", 3}};
    record.measured = {{"uniform", 2.5, 0, 0, 0.25, 4.5, 96, true}, {"moved", 2.4, -0.1, 0.01, {}, {}, 16, false}};
    record.alone = {{0, 0.16}};
    record.finished = false;
    record.ended = 1700000000;
    record.seconds = 9;
    const auto back = searchRecordFromJson(toJson(record));
    ASSERT_TRUE(back);
    EXPECT_EQ(toJson(*back), toJson(record));
    const auto old = searchRecordFromJson({{"measured", {{{"name", "uniform"}, {"nll", 2.5}}, {{"name", 3}}, 7}}, {"colour", "red"}});
    ASSERT_TRUE(old);
    ASSERT_EQ(old->measured.size(), 1u);
    EXPECT_EQ(old->measured[0].windows, 0);
    EXPECT_TRUE(old->finished);
    EXPECT_FALSE(searchRecordFromJson(nullptr));
}

}  // namespace
}  // namespace espalier
