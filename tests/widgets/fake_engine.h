// The scripted engine of the window's tests: an engine without a model. It speaks the protocol on stdio with made-up but deterministic
// numbers, and fails in every way that a test asks for; the switches stand in fake_engine.cpp. One thread; a request is answered before
// the next is read.
#pragma once

#include "plan/compression_plan.h"
#include "rpc/framing.h"
#include "rpc/messages.h"
#include "rpc/protocol_engine.h"
#include "rpc/protocol_evaluation.h"
#include "rpc/protocol_export.h"
#include "rpc/protocol_generate.h"
#include "rpc/protocol_model.h"
#include "rpc/protocol_plan.h"
#include "rpc/protocol_profile.h"
#include "rpc/protocol_tasks.h"

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace espalier
{

constexpr int kTotalWindows = 128;  // that one of the three texts takes at most
constexpr int kShortText = 9;

struct Script {
    std::set<std::string> switches;
    std::string dieOn;
    std::string hold;
    std::string once;
    std::string log;
    std::string fail;
    bool has(const char* name) const { return switches.contains(name); }
};

void put(const std::string& bytes);  // to standard output, at once

// What it says of itself (fake_model.cpp).
ModelShape shapeOfModel(bool large);
const std::vector<std::string>& methodIds();  // of the scores in a profile
double scoreOf(const std::string& method, int layer, int expert, int experts);
std::vector<MethodInfo> registry();

class FakeEngine
{
public:
    explicit FakeEngine(Script script) : m_script(std::move(script)), m_shape(shapeOfModel(m_script.has("--large"))) {}

    int run();  // until its input ends; the exit status

private:
    template <typename Answer>
    void reply(const RequestId& id, const Answer& answer)
    {
        put(frameMessage(serialise(Response{id, toJson(answer)})));
    }
    void fail(const RequestId& id, const Error& error) { put(frameMessage(serialise(Response{id, rpcErrorFrom(error)}))); }
    template <typename Value>
    void partial(const RequestId& id, const Value& value)
    {
        put(frameMessage(serialise(Notification{PartialNote::kMethod, toJson(PartialNote{id, toJson(value)})})));
    }
    void progress(const RequestId& id, int done, int total, const char* phase)
    {
        put(frameMessage(serialise(Notification{ProgressNote::kMethod, toJson(ProgressNote{id, done, total, phase, {}})})));
    }
    // As strict as the real one.
    template <typename T>
    std::optional<T> read(const Request& request)
    {
        Json params = request.params;
        const Result<JobTag> tag = takeJobTag(params);
        Result<T> read = tag.ok() ? fromJson<T>(params) : Result<T>(tag.error());
        if (read.ok()) return std::move(read).value();
        put(frameMessage(serialise(Response{request.id, RpcError{rpc::kInvalidParams, request.method + ": " + read.error().message, {}}})));
        return std::nullopt;
    }

    // fake_engine.cpp
    bool strikes(const std::string& wanted, const std::string& method) const;
    void log(const std::string& line) const;
    static std::string tagOf(const Request& request);
    bool handle(const std::string& body);
    void answer(const Request& request);
    std::string scriptName(const Request& request);
    void note(const Request& request, const std::string& method);
    void answerBy(const Request& request, const std::string& method, bool held);

    // fake_model.cpp
    void openModel(const Request& request);
    void loadProfile(const Request& request);
    LoadProfileAnswer profileFacts(const std::filesystem::path& file, const std::vector<std::string>& collected) const;
    void profile(const Request& request, bool held, bool deep);
    std::vector<std::string> textWarnings() const;
    void scoreOfWeights(const Request& request);
    void rankCurves(const Request& request);

    // fake_measures.cpp
    void estimate(const Request& request);
    double lostByRank(const CompressionPlan& plan) const;
    double lossOf(const CompressionPlan& plan, int window, int tokens) const;
    void evaluate(const Request& request, bool held);
    TaskMarks marksOf(const CompressionPlan& plan, const std::string& name, const std::string& rules, int questions) const;
    void tasks(const Request& request, bool held);
    void generate(const Request& request, bool held);
    void speed(const Request& request);
    void exportModel(const Request& request);
    static int lengthOf(const TextSelection& text) { return text.windowLength > 0 ? text.windowLength : 256; }

    // fake_plans.cpp
    void plan(const Request& request, bool held);
    void recover(const Request& request, const PlanRequest& asked, const CompressionPlan& base, bool held);
    void recovered(const RequestId& id, const PlanRequest& asked, const CompressionPlan& base, bool cancelled);
    Result<std::vector<int>> shared(const PlanRecipe& recipe, const CompressionPlan& base) const;
    void verify(const RequestId& id, const CompressionPlan& found);
    bool search(const RequestId& id, CompressionPlan& found, bool verified, bool held);
    ExpertSet exchanged(const CompressionPlan& found, int layer) const;
    void chooseBlocks(const RequestId& id, const CompressionPlan& found, int size);
    template <typename Event>
    void planStage(const RequestId& id, const char* stage, Event event)
    {
        partial(id, PlanEvent{stage, std::move(event)});
    }

    Script m_script;
    ModelShape m_shape;
    int m_layers = static_cast<int>(m_shape.layers.size());
    int m_experts = m_shape.maxExperts();
    std::optional<RequestId> m_held;
    std::optional<PlanRequest> m_recovering;  // that is held
    std::string m_heldTag;
    std::vector<std::string> m_waiting;  // bodies behind the held job
};

}  // namespace espalier
