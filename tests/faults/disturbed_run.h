// Runs a program that writes files while something goes wrong, and says what a user would find afterwards.
#pragma once

#include "cli/engine_process.h"

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace espalier::testing
{

// A program's work on one folder.
struct Scenario {
    std::string name;
    // "{W}" stands for the folder.
    std::vector<std::string> arguments;
    // What the program is to make of it: files and folders below it that are either as they were or whole, whatever happens.
    std::vector<std::string> targets;
    // Added to the arguments to go on after a disturbance. --force is added as well where a target is there by then.
    std::vector<std::string> again = {};
    // Only where this file is there: a verb that refuses to go on with nothing. Empty: always.
    std::string againWith = {};
    // What is in the folder before.
    std::function<void(const std::filesystem::path&)> prepare = {};
    // What else may be left after a disturbance, as a regular expression of relative paths. What begins with a target's name and "." may
    // always be left: it says of what it is.
    std::string leftovers = {};
    // Below the folder and of no interest: caches and logs.
    std::vector<std::string> ignored = {"cache"};
};

struct Fault {
    long at = 0;  // number of the call, from 1; 0: none
    std::string kind = "EIO";
    bool reads = false;
};

// Words before a program that make it meet the fault in files below `folder`. `log`: of the calls counted; may be empty.
std::vector<std::string> faultLauncher(const std::filesystem::path& folder, const Fault& fault, const std::filesystem::path& log = {});

// Relative path -> SHA-256, or "folder". Without what is ignored.
using Content = std::map<std::string, std::string>;

class DisturbedRun
{
public:
    // Runs it twice undisturbed: how it has to end, and that this is the same each time.
    explicit DisturbedRun(Scenario scenario);

    // The calls it makes below its folder, in order: "name path".
    const std::vector<std::string>& calls() const { return m_calls; }
    std::vector<std::string> readCalls();
    double seconds() const { return m_seconds; }

    // Everything one of these can find wrong is a failed expectation.
    void withFault(const Fault& fault);
    // Killed after so many seconds, up to `times` times, each time gone on with, and then left alone.
    void withKills(const std::vector<double>& afterSeconds);

private:
    std::filesystem::path work() const { return m_scratch / "work"; }
    void begin();
    std::vector<std::string> words(bool again) const;
    Outcome run(const Fault& fault, bool again, const std::filesystem::path& log = {}) const;
    Content content() const;
    Content target(const Content& all, const std::string& name) const;
    // What holds after any end.
    void expectNothingHalf(const std::string& what) const;
    void expectWholeAfterGoingOn(const std::string& what);

    Scenario m_scenario;
    Scratch m_scratch;
    Content m_before;
    Content m_after;
    std::vector<std::string> m_calls;
    double m_seconds = 0;
};

// Numbers of the calls to disturb: every one, or an even sample of this many and the first of every kind of call on every kind of file.
std::vector<long> callsToDisturb(const std::vector<std::string>& calls, std::size_t sample);
// Whether every call is to be disturbed (ESPALIER_FAULT_ALL), which takes long.
bool disturbEverything();

}  // namespace espalier::testing
