// Options that every verb has, and the registration of verbs.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/json.h"
#include "base/method_registry.h"
#include "model/moe_model.h"
#include "process_group.h"

#include <CLI/CLI.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

struct CommonOptions {
    bool json = false;
    bool quiet = false;
    bool verbose = false;
    bool resident = false;
    bool stream = false;
    int threads = 0;
    std::uint64_t seed = 0;
    std::string device = "cpu";
    std::string dtype = "auto";
    std::string memoryBudget;
};

// One run of one verb: its options and what it found out for the common fields of the answer.
struct Invocation {
    const CommonOptions& options;
    JobContext& job;
    Json model;                         // {"path", "fingerprint"} where there is one
    std::string dtype;                  // compute type that was used; empty where nothing was computed
    std::vector<std::string> warnings;  // for people and for "warnings"
    std::string text;                   // the answer for people
    int exitCode = 0;                   // of a result that does not hold
    ProcessGroup& processes;            // that run the same verb
};
using VerbFunction = std::function<Result<Json>(Invocation&)>;

enum class Processes { One, Many };  // whether a verb shares its work under mpirun

class Verbs
{
public:
    Verbs(CLI::App& app, CommonOptions& common) : m_app(app), m_common(common) {}
    // A subcommand with the common options; `run` is called when it was chosen.
    CLI::App* add(const std::string& name, const std::string& help, VerbFunction run, Processes processes = Processes::One);
    // What every verb is preceded by; fails in its stead.
    void before(std::function<Status(const CommonOptions&)> check) { m_before = std::move(check); }
    // The chosen one, after parsing.
    std::optional<VerbFunction> chosen() const;

private:
    CLI::App& m_app;
    CommonOptions& m_common;
    std::vector<std::pair<CLI::App*, VerbFunction>> m_verbs;
    std::function<Status(const CommonOptions&)> m_before;
};

// Errors: device.unavailable (exit 4), usage.arguments. `dtype` auto is left to computeTypeFor().
Result<ModelOptions> modelOptions(const CommonOptions& options);

// "k=v" -> a parameter; numbers and true/false are recognised, anything else is text. "slot.k=v" goes into that slot's parameters where
// `slots` names it. Error: usage.arguments.
Result<std::map<std::string, Params>> parseParams(const std::vector<std::string>& given, const std::vector<std::string>& slots);

void addInspect(Verbs& verbs);
void addTokenize(Verbs& verbs);
void addForward(Verbs& verbs);
void addMethods(Verbs& verbs);
void addProfile(Verbs& verbs);  // profile, merge, score
void addPlan(Verbs& verbs);
void addEstimate(Verbs& verbs);
void addEvaluate(Verbs& verbs);
void addTasks(Verbs& verbs);
void addGenerate(Verbs& verbs);
void addSpeed(Verbs& verbs);
void addExport(Verbs& verbs);  // export, verify
void addRecover(Verbs& verbs);
void addCompress(Verbs& verbs);
void addServe(Verbs& verbs, int protocolDescriptor);
void addDocumentation(Verbs& verbs, const CLI::App& app);  // for the build, not for people

}  // namespace espalier
