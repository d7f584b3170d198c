// `serve` as the window uses it, over real pipes: requests, partial results, supersession, rubbish, the end of the input.
#include "cli/engine_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>

namespace espalier::testing
{
namespace
{

const std::string kDemo = std::string(ESPALIER_RESOURCES) + "/demo/espalier-demo-moe";
const std::string kText = std::string(ESPALIER_RESOURCES) + "/demo/validation.txt";

Request ask(std::int64_t id, const std::string& method, Json params = Json::object()) { return {RequestId(id), method, std::move(params)}; }

Json evaluation(const Json& plan, const std::string& tier, Json windows)
{
    return {{"path", kDemo}, {"plan", plan}, {"text", {kText}}, {"window_length", 64}, {"max_windows", 32}, {"windows", std::move(windows)},
            {"tier", tier},  {"tag", tier}};
}

const Json kPlan = {{"version", 1}, {"layers", {{{"layer", 3}, {"kept", {0, 1, 2, 3, 4, 5, 6, 7}}}}}};
const Json kDense = {{"version", 1}, {"layers", Json::array()}};

TEST(Serve, helloModelAndFolders)
{
    EngineProcess engine({"serve"});
    engine.send(ask(1, "initialize", {{"client_version", "x"}, {"protocol", 2}}));
    const Json hello = engine.answer(1)["result"];
    EXPECT_EQ(hello["name"], "espalier-engine");
    EXPECT_EQ(hello["protocol"], 2);
    EXPECT_EQ(hello["pid"], engine.pid());
    for (const char* field : {"version", "threads", "device", "memory_bytes", "supported_architectures", "methods"})
        EXPECT_TRUE(hello.contains(field)) << field;
    const auto architectures = hello["supported_architectures"].get<std::vector<std::string>>();
    EXPECT_THAT(architectures, ::testing::IsSupersetOf({"deepseek_v2", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"}));
    engine.send(ask(2, "initialize", {{"protocol", 3}}));
    EXPECT_EQ(engine.answer(2)["error"]["data"]["code"], "rpc.protocol");
    engine.send(ask(3, "ping"));
    EXPECT_EQ(engine.answer(3)["result"]["busy"], false);
    engine.send(ask(4, "open_model", {{"path", kDemo}}));
    const Json model = engine.answer(4)["result"];
    for (const char* field :
         {"path", "fingerprint", "config_sha256", "weights_sha256", "shape", "inspection", "warnings", "tokenizer", "forward_supported"})
        EXPECT_TRUE(model.contains(field)) << field;
    EXPECT_EQ(model["tokenizer"]["vocabulary"], 4096);
    engine.send(ask(5, "open_model", {{"path", "/no/such/folder"}}));
    const Json missing = engine.answer(5)["error"];
    EXPECT_EQ(missing["code"], rpc::kFailed);
    EXPECT_EQ(missing["data"]["code"], "checkpoint.folder_missing");
    engine.send(ask(6, "list_folder", {{"path", kDemo}}));
    bool config = false;
    const Json folder = engine.answer(6)["result"];
    for (const Json& entry : folder["entries"])
        config = config || (entry["name"] == "config.json" && entry["folder"] == false && entry["bytes"].get<int>() > 0);
    EXPECT_TRUE(config);
    engine.send(ask(7, "shutdown"));
    EXPECT_TRUE(engine.answer(7)["result"].is_null());
    engine.send(Notification{"exit", Json::object()});
    EXPECT_EQ(engine.wait(), 0);
}

TEST(Serve, evaluatesAndStreamsWindows)
{
    EngineProcess engine({"serve"});
    engine.send(ask(1, "evaluate", evaluation(kDense, "quick", {{"first", 8}})));
    std::vector<Json> notes;
    const Json dense = engine.answer(1, &notes)["result"];
    ASSERT_EQ(dense["windows"].size(), 8u) << dense.dump();
    EXPECT_EQ(dense["window_count_total"], 32);
    int partials = 0;
    for (const Json& note : notes)
        if (note["method"] == "$/partial") {
            EXPECT_EQ(note["params"]["id"], 1);
            ++partials;
        }
    EXPECT_EQ(partials, 8);
    for (const char* field : {"plan_hash", "ppl", "nll", "scored_tokens", "text_sha256", "tokenizer_sha256", "dtype", "seconds"})
        EXPECT_TRUE(dense.contains(field)) << field;

    // An edit, then the full set: the windows both have are the same numbers.
    engine.send(ask(2, "evaluate", evaluation(kPlan, "quick", {1, 3})));
    const Json quick = engine.answer(2)["result"];
    engine.send(ask(3, "evaluate", evaluation(kPlan, "full", {{"all", true}})));
    const Json full = engine.answer(3)["result"];
    ASSERT_EQ(full["windows"].size(), 32u);
    EXPECT_EQ(full["windows"][1], quick["windows"][0]);
    EXPECT_EQ(full["windows"][3], quick["windows"][1]);
    EXPECT_NE(quick["plan_hash"], dense["plan_hash"]);

    // What was asked for and cannot be given is said.
    EXPECT_TRUE(full["warnings"].empty()) << full["warnings"];
    engine.send(ask(4, "evaluate", evaluation(kPlan, "quick", {{"first", 99}})));
    const Json fewer = engine.answer(4)["result"];
    EXPECT_EQ(fewer["windows"].size(), 32u);
    EXPECT_EQ(fewer["windows_asked"], 99);
    ASSERT_EQ(fewer["warnings"].size(), 1u);
    EXPECT_NE(fewer["warnings"][0].get<std::string>().find("99 windows were asked for"), std::string::npos);
}

// The demo's tasks under a plan: streamed whole, an evaluation goes before them, answers of before are not asked again.
TEST(Serve, tasksAreStreamedAndGiveWay)
{
    const Scratch scratch;  // no answers of another run
    EngineProcess engine({"serve"});
    const std::string folder = std::string(ESPALIER_RESOURCES) + "/demo/tasks";
    const Json tasks = {{"path", kDemo}, {"data", folder}, {"plan", kPlan}, {"limit", 30}, {"tag", "tasks"}};
    engine.send(ask(1, "tasks", tasks));
    engine.send(ask(2, "evaluate", evaluation(kDense, "quick", {{"first", 2}})));
    std::map<std::int64_t, Json> answers;
    std::vector<std::int64_t> order;
    std::map<std::string, Json> streamed;
    while (answers.size() < 2) {
        const auto message = engine.next();
        ASSERT_TRUE(message.has_value());
        if (message->contains("result") || message->contains("error")) {
            order.push_back((*message)["id"].get<std::int64_t>());
            answers[order.back()] = *message;
        } else if ((*message)["method"] == "$/partial" && (*message)["params"]["id"] == 1) {
            const Json value = (*message)["params"]["value"];
            streamed[value["name"].get<std::string>()] = value;
        }
    }
    EXPECT_EQ(order, (std::vector<std::int64_t>{2, 1}));
    ASSERT_TRUE(answers[1].contains("result")) << answers[1];
    const Json result = answers[1]["result"];
    ASSERT_EQ(result["tasks"].size(), 2u);
    for (const Json& task : result["tasks"]) {
        EXPECT_EQ(task["acc"].get<std::string>().size(), 30u);
        EXPECT_EQ(task["acc"].get<std::string>().find('-'), std::string::npos);
        EXPECT_EQ(task["norm"].get<std::string>().size(), 30u);
        EXPECT_EQ(streamed[task["name"].get<std::string>()], task);
    }
    // Again: the same marks, and no question is computed.
    engine.send(ask(3, "tasks", tasks));
    const Json again = engine.answer(3)["result"];
    EXPECT_EQ(again["tasks"], result["tasks"]);
    EXPECT_EQ(again["recovered"], 60);
    engine.send(ask(4, "tasks", {{"path", kDemo}, {"data", kDemo}}));
    EXPECT_EQ(engine.answer(4)["error"]["data"]["code"], "task.none");
    engine.send(ask(5, "tasks", {{"path", kDemo}, {"data", "/no/such/folder"}}));
    EXPECT_EQ(engine.answer(5)["error"]["data"]["code"], "task.folder_missing");
    engine.send(ask(6, "tasks", {{"path", kDemo}, {"data", folder}, {"only", {"rte"}}}));
    EXPECT_EQ(engine.answer(6)["error"]["data"]["code"], "task.unknown");
}

TEST(Serve, interactiveOvertakesAndEveryRequestIsAnsweredOnce)
{
    EngineProcess engine({"serve"});
    engine.send(ask(1, "evaluate", evaluation(kDense, "full", {{"all", true}})));
    for (std::int64_t id = 2; id <= 6; ++id)
        engine.send(ask(id, "evaluate", evaluation(id % 2 ? kPlan : kDense, "quick", {{"first", 2}})));
    engine.send(ask(7, "ping"));
    std::map<std::int64_t, int> answers;
    std::map<std::int64_t, Json> last;
    while (answers.size() < 7) {
        const auto message = engine.next();
        ASSERT_TRUE(message.has_value());
        if (!message->contains("id")) continue;
        const auto id = (*message)["id"].get<std::int64_t>();
        ++answers[id];
        last[id] = *message;
    }
    for (const auto& [id, count] : answers)
        EXPECT_EQ(count, 1) << id;
    EXPECT_TRUE(last[1].contains("result"));
    EXPECT_TRUE(last[6].contains("result"));
    for (std::int64_t id = 2; id <= 5; ++id)
        if (last[id].contains("error")) {
            EXPECT_EQ(last[id]["error"]["code"], rpc::kSuperseded);
            EXPECT_EQ(last[id]["error"]["data"]["reason"], "superseded");
        }
}

// A score of the weights needs no profile: the model is read, and the numbers are those of the command line.
TEST(Serve, scoresWeights)
{
    Scratch scratch;
    const std::string profile = (scratch / "p.h5").string();
    EngineProcess engine({"serve"});
    engine.send(ask(1, "score", {{"path", kDemo}, {"method", "aimer"}}));
    std::vector<Json> notes;
    const Json answer = engine.answer(1, &notes);
    ASSERT_TRUE(answer.contains("result")) << answer.dump();
    const Json values = answer["result"]["values"];
    EXPECT_EQ(answer["result"]["method"], "aimer");
    EXPECT_FALSE(notes.empty());
    for (const Json& row : values)
        for (const Json& value : row)
            EXPECT_TRUE(value.get<double>() > 1.0 && value.get<double>() < 10.0) << value;

    // A score of a profile still names one, and one of the weights names the model.
    engine.send(ask(2, "score", {{"path", kDemo}, {"method", "reap"}}));
    EXPECT_TRUE(engine.answer(2).contains("error"));
    engine.send(ask(3, "score", {{"profile", profile}, {"method", "aimer"}}));
    EXPECT_TRUE(engine.answer(3).contains("error"));
    engine.send(ask(4, "score", {{"path", "/no/such/folder"}, {"method", "aimer"}}));
    EXPECT_EQ(engine.answer(4)["error"]["data"]["code"], "checkpoint.folder_missing");

    ASSERT_EQ(runEngine({"profile", kDemo, "--text", kText, "--window-length", "64", "--windows", "1", "--out", profile}).code, 0);
    const Outcome printed = runEngine({"score", profile, "--model", kDemo, "--method", "aimer", "--json"});
    ASSERT_EQ(printed.code, 0) << printed.errors;
    EXPECT_EQ(printed.json()["values"], values);
}

// One that reads both gets both, and values every channel.
TEST(Serve, scoresChannels)
{
    Scratch scratch;
    const std::string profile = (scratch / "p.h5").string();
    ASSERT_EQ(runEngine({"profile", kDemo, "--text", kText, "--window-length", "64", "--windows", "2", "--collect", "counts,channels",
                         "--out", profile})
                  .code,
              0);
    const Outcome printed = runEngine({"score", profile, "--model", kDemo, "--method", "camera", "--channels", "--json"});
    ASSERT_EQ(printed.code, 0) << printed.errors;
    const Json channels = printed.json()["channels"];
    const Json values = printed.json()["values"];
    for (std::size_t layer = 0; layer < values.size(); ++layer)
        for (std::size_t expert = 0; expert < values[layer].size(); ++expert) {
            double sum = 0;
            for (const Json& value : channels[layer][expert])
                sum += value.get<double>();
            EXPECT_NEAR(sum, values[layer][expert].get<double>(), 1e-9 * sum);
        }
    EngineProcess engine({"serve"});
    engine.send(ask(1, "score", {{"path", kDemo}, {"profile", profile}, {"method", "camera"}}));
    EXPECT_EQ(engine.answer(1)["result"]["values"], values);
    engine.send(ask(2, "score", {{"path", kDemo}, {"method", "camera"}}));
    EXPECT_TRUE(engine.answer(2).contains("error"));
    EXPECT_EQ(runEngine({"score", profile, "--model", kDemo, "--method", "aimer", "--channels"}).code, 2);
}

// The instant tier: answered by the reader thread while the compute thread is busy.
TEST(Serve, estimatesWhileItComputes)
{
    Scratch scratch;
    const std::string profile = (scratch / "p.h5").string();
    EngineProcess engine({"serve"});
    engine.send(ask(1, "profile", {{"path", kDemo}, {"text", {kText}}, {"window_length", 64}, {"windows", 4}, {"out", profile}}));
    const Json profiled = engine.answer(1);
    ASSERT_TRUE(profiled.contains("result")) << profiled.dump();
    EXPECT_NE(profiled["result"]["collected"].dump().find("gradients"), std::string::npos);

    engine.send(ask(2, "evaluate", evaluation(kDense, "full", {{"all", true}})));
    const Json question = {{"path", kDemo}, {"profile", profile}, {"plan", kPlan}, {"dense_nll", 4.0}};
    engine.send(ask(3, "estimate", question));
    engine.send(ask(4, "estimate", {{"profile", profile}, {"plan", kDense}}));
    std::map<std::int64_t, Json> answers;
    std::vector<std::int64_t> order;
    while (answers.size() < 3) {
        const auto message = engine.next();
        ASSERT_TRUE(message.has_value());
        if (!message->contains("id")) continue;
        order.push_back((*message)["id"].get<std::int64_t>());
        answers[order.back()] = *message;
    }
    EXPECT_EQ(order, (std::vector<std::int64_t>{3, 4, 2}));
    const Json estimate = answers[3]["result"];
    ASSERT_TRUE(estimate["delta_nll"].is_number()) << answers[3].dump();
    EXPECT_GT(estimate["e2"].get<double>(), 0);
    EXPECT_NEAR(estimate["ppl"].get<double>(), std::exp(4.0 + estimate["delta_nll"].get<double>()), 1e-9);
    for (const char* field : {"e1", "e2", "e1_error", "uncovered_fraction", "ppl_ratio"})
        EXPECT_TRUE(estimate[field].is_number()) << field;
    EXPECT_GT(estimate["band"].get<double>(), 0);
    EXPECT_EQ(estimate["label"], "estimate");
    EXPECT_GT(estimate["calibration"]["probes"].get<int>(), 18);
    EXPECT_EQ(answers[4]["result"]["delta_nll"], 0);
    EXPECT_EQ(answers[4]["result"]["band"], 0);
    EXPECT_TRUE(answers[4]["result"]["ppl"].is_null());

    // Another engine reads the profile first, and says the same.
    EngineProcess other({"serve"});
    Json calibrated = question;
    calibrated["pairs"] = Json::array();
    for (int i = 1; i <= 8; ++i)
        calibrated["pairs"].push_back({0.0, 0.1 * i, 0.2 * i + 0.01 * (i % 2), 0.1 * i});
    other.send(ask(1, "estimate", question));
    EXPECT_EQ(other.answer(1)["result"], estimate);
    other.send(ask(2, "estimate", calibrated));
    const Json banded = other.answer(2)["result"];
    EXPECT_EQ(banded["label"], "estimate");
    EXPECT_GT(banded["delta_nll"].get<double>(), 1.5 * estimate["delta_nll"].get<double>());
    EXPECT_EQ(banded["fitted"], estimate["fitted"]);
    EXPECT_EQ(banded["e2"], estimate["e2"]);
    other.send(ask(3, "estimate", {{"profile", profile}, {"plan", {{"version", 1}, {"layers", {{{"layer", 9}, {"kept", {0}}}}}}}}));
    EXPECT_EQ(other.answer(3)["error"]["code"], rpc::kFailed);
    other.send(ask(4, "estimate", {{"profile", (scratch / "none.h5").string()}, {"plan", kPlan}}));
    EXPECT_EQ(other.answer(4)["error"]["data"]["code"], "profile.missing");
    other.send(ask(5, "estimate", {{"profile", profile}, {"pairs", {1, 2}}}));
    EXPECT_EQ(other.answer(5)["error"]["code"], rpc::kInvalidParams);
}

// On a busy machine spinning threads make a pass many times slower; whoever runs the program does not know how to stop them.
TEST(Serve, limitsSpinningUnlessTold)
{
    const auto environmentOf = [](const EngineProcess& engine) {
        std::ifstream file("/proc/" + std::to_string(engine.pid()) + "/environ", std::ios::binary);
        return std::string(std::istreambuf_iterator<char>(file), {});
    };
    unsetenv("OMP_WAIT_POLICY");
    EngineProcess engine({"serve"}, EngineProcess::Spin::AsShipped);
    engine.send(ask(1, "ping"));
    EXPECT_EQ(engine.answer(1)["result"]["busy"], false);
    EXPECT_THAT(environmentOf(engine), ::testing::HasSubstr("GOMP_SPINCOUNT=2000"));
    std::string name;
    std::getline(std::ifstream("/proc/" + std::to_string(engine.pid()) + "/comm"), name);
    EXPECT_EQ(name, "espalier-engine");
    EngineProcess told({"serve"}, EngineProcess::Spin::Never);
    told.send(ask(1, "ping"));
    EXPECT_EQ(told.answer(1)["result"]["busy"], false);
    EXPECT_THAT(environmentOf(told), ::testing::HasSubstr(std::string("GOMP_SPINCOUNT=0") + '\0'));
}

TEST(Serve, cancelAndEndOfInput)
{
    EngineProcess engine({"serve"});
    engine.send(ask(1, "evaluate", evaluation(kDense, "full", {{"all", true}})));
    engine.send(Notification{"$/cancelRequest", {{"id", 1}}});
    const Json answer = engine.answer(1);
    EXPECT_EQ(answer["error"]["code"], rpc::kCancelled) << answer.dump();
    // The window dies in the middle of a job: the engine ends by itself, and still answers what was open.
    engine.send(ask(2, "evaluate", evaluation(kDense, "full", {{"all", true}})));
    engine.closeInput();
    EXPECT_EQ(engine.answer(2)["error"]["code"], rpc::kCancelled);
    EXPECT_EQ(engine.wait(), 0);
}

TEST(Serve, refusesMalformedMessagesAndGoesOn)
{
    EngineProcess engine({"serve"});
    const auto refused = [&](const std::string& body) {
        engine.write(frameMessage(body));
        const auto message = engine.next();
        return message ? (*message)["error"]["code"].get<int>() : 0;
    };
    EXPECT_EQ(refused("{"), rpc::kParseError);
    EXPECT_EQ(refused("[]"), rpc::kInvalidRequest);
    EXPECT_EQ(refused("{\"id\":1,\"method\":\"ping\"}"), rpc::kInvalidRequest);
    EXPECT_EQ(refused(serialise(ask(1, "no_such_method"))), rpc::kMethodNotFound);
    EXPECT_EQ(refused(serialise(ask(2, "evaluate", {{"path", 5}}))), rpc::kInvalidParams);
    EXPECT_EQ(refused(serialise(ask(3, "open_model"))), rpc::kInvalidParams);
    EXPECT_EQ(refused(serialise(ask(4, "evaluate", {{"path", kDemo}, {"text", {kText}}, {"windows", "x"}}))), rpc::kInvalidParams);
    engine.send(ask(5, "evaluate", {{"path", kDemo}, {"text", {kText}}, {"window_length", 64}, {"plan", {{"version", 99}}}}));
    EXPECT_EQ(engine.answer(5)["error"]["code"], rpc::kFailed);
    engine.send(ask(6, "ping"));
    EXPECT_EQ(engine.answer(6)["result"]["busy"], false);
}

TEST(Serve, endsOnAStreamThatIsNotOne)
{
    for (const char* rubbish : {"hello\nworld\n", "Content-Length: 9999999999999999\r\n\r\n", "Content-Length: x\r\n\r\n"}) {
        EngineProcess engine({"serve"});
        engine.write(rubbish);
        const auto message = engine.next();
        ASSERT_TRUE(message.has_value());
        EXPECT_EQ((*message)["error"]["code"], rpc::kParseError);
        EXPECT_EQ(engine.wait(), 3) << rubbish;
    }
    EngineProcess torn({"serve"});
    torn.write("Content-Length: 100\r\n\r\n{\"jsonrpc\"");
    torn.closeInput();
    EXPECT_EQ(torn.wait(), 0);
    EngineProcess terminated({"serve"});
    terminated.send(ask(1, "ping"));
    (void)terminated.answer(1);
    terminated.signal(SIGTERM);
    EXPECT_EQ(terminated.wait(), 130);
}

}  // namespace
}  // namespace espalier::testing
