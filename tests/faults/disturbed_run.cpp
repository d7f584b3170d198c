#include "faults/disturbed_run.h"

#include "base/sha256.h"

#include <gtest/gtest.h>

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>

namespace espalier::testing
{

namespace
{

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::string bytesOf(const fs::path& path)
{
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> linesOf(const fs::path& path)
{
    std::ifstream file(path);
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);)
        lines.push_back(line);
    return lines;
}

bool isOrIsBelow(const std::string& path, const std::string& folder)
{
    return path == folder || (path.starts_with(folder) && path[folder.size()] == '/');
}

// A crash, and not a code of ours.
bool endedBySignal(int code) { return code > 128 && code != static_cast<int>(ErrorKind::Cancelled); }

std::string shown(const Content& content)
{
    std::string text;
    for (const auto& [path, sha256] : content)
        text += path + " " + sha256.substr(0, 12) + "\n";
    return text;
}

// False when it has not ended by then.
bool endsWithin(pid_t pid, double seconds)
{
    const int descriptor = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (descriptor < 0) return true;
    pollfd waiting = {descriptor, POLLIN, 0};
    const int found = poll(&waiting, 1, static_cast<int>(seconds * 1000));
    close(descriptor);
    return found > 0;
}

}  // namespace

std::vector<std::string> faultLauncher(const fs::path& folder, const Fault& fault, const fs::path& log)
{
    return {"env",
            std::string("LD_PRELOAD=") + ESPALIER_FAULT_LIBRARY,
            std::string("ESPALIER_FAULT_BELOW=") + fs::canonical(folder).string(),
            std::string("ESPALIER_FAULT_AT=") + std::to_string(fault.at),
            std::string("ESPALIER_FAULT_KIND=") + fault.kind,
            std::string("ESPALIER_FAULT_CALLS=") + (fault.reads ? "read" : "write"),
            std::string("ESPALIER_FAULT_LOG=") + log.string()};
}

DisturbedRun::DisturbedRun(Scenario scenario) : m_scenario(std::move(scenario))
{
    const fs::path log = m_scratch / "calls.txt";
    for (int round = 0; round < 2; ++round) {
        begin();
        m_before = content();
        fs::remove(log);
        const auto started = Clock::now();
        const Outcome outcome = run({}, false, log);
        m_seconds = std::chrono::duration<double>(Clock::now() - started).count();
        EXPECT_EQ(outcome.code, 0) << m_scenario.name << ", undisturbed: " << outcome.output << outcome.errors;
        if (round > 0) {
            EXPECT_EQ(shown(m_after), shown(content())) << m_scenario.name << " does not end the same way each time";
        }
        m_after = content();
    }
    m_calls = linesOf(log);
    for (const std::string& target : m_scenario.targets)
        EXPECT_TRUE(m_after.contains(target)) << m_scenario.name << " makes no " << target;
    EXPECT_GT(m_calls.size(), 2u) << m_scenario.name << ": nothing was counted";
}

std::vector<std::string> DisturbedRun::readCalls()
{
    begin();
    const fs::path log = m_scratch / "reads.txt";
    fs::remove(log);
    run({.reads = true}, false, log);
    return linesOf(log);
}

void DisturbedRun::begin()
{
    fs::remove_all(work());
    fs::create_directories(work());
    if (m_scenario.prepare) m_scenario.prepare(work());
}

std::vector<std::string> DisturbedRun::words(bool again) const
{
    std::vector<std::string> words;
    for (std::string word : m_scenario.arguments) {
        if (const std::size_t at = word.find("{W}"); at != std::string::npos) word.replace(at, 3, work().string());
        words.push_back(std::move(word));
    }
    if (!again) return words;
    if (m_scenario.againWith.empty() || fs::exists(work() / m_scenario.againWith))
        words.insert(words.end(), m_scenario.again.begin(), m_scenario.again.end());
    for (const std::string& target : m_scenario.targets)
        if (fs::exists(work() / target) && std::find(words.begin(), words.end(), "--force") == words.end()) words.emplace_back("--force");
    return words;
}

Outcome DisturbedRun::run(const Fault& fault, bool again, const fs::path& log) const
{
    std::vector<std::string> launcher = faultLauncher(work(), fault, log);
    launcher.push_back(std::string("XDG_CACHE_HOME=") + (work() / "cache").string());
    return runEngine(words(again), {}, launcher);
}

Content DisturbedRun::content() const
{
    Content content;
    for (const auto& entry : fs::recursive_directory_iterator(work())) {
        const std::string path = entry.path().lexically_relative(work()).string();
        const bool ignored = std::any_of(m_scenario.ignored.begin(), m_scenario.ignored.end(),
                                         [&](const std::string& name) { return isOrIsBelow(path, name); });
        if (!ignored) content[path] = entry.is_directory() ? "folder" : sha256Hex(bytesOf(entry.path()));
    }
    return content;
}

Content DisturbedRun::target(const Content& all, const std::string& name) const
{
    Content found;
    for (const auto& [path, sha256] : all)
        if (isOrIsBelow(path, name)) found[path] = sha256;
    return found;
}

void DisturbedRun::expectNothingHalf(const std::string& what) const
{
    const Content now = content();
    for (const std::string& name : m_scenario.targets) {
        const Content found = target(now, name);
        EXPECT_TRUE(found == target(m_before, name) || found == target(m_after, name)) << what << ": " << name << " is half there:\n"
                                                                                       << shown(found);
    }
    // What else is left belongs to a target by its name.
    for (const auto& entry : now) {
        const std::string& path = entry.first;
        if (m_before.contains(path)) continue;
        const bool known = std::any_of(m_scenario.targets.begin(), m_scenario.targets.end(), [&](const std::string& name) {
            return isOrIsBelow(path, name) || (path.starts_with(name) && path[name.size()] == '.');
        });
        EXPECT_TRUE(known || m_after.contains(path) || std::regex_match(path, std::regex(m_scenario.leftovers)))
            << what << ": " << path << " was left, and nothing says of what";
    }
}

void DisturbedRun::expectWholeAfterGoingOn(const std::string& what)
{
    const Outcome outcome = run({}, true);
    ASSERT_EQ(outcome.code, 0) << what << ", once more: " << outcome.output << outcome.errors << shown(content());
    EXPECT_EQ(shown(content()), shown(m_after)) << what << ", once more";
}

void DisturbedRun::withFault(const Fault& fault)
{
    begin();
    const Outcome outcome = run(fault, false);
    std::string what = m_scenario.name + ", " + fault.kind + (fault.reads ? " at read " : " at call ") + std::to_string(fault.at);
    if (!fault.reads && fault.at <= std::ssize(m_calls)) what += ", " + m_calls[static_cast<std::size_t>(fault.at - 1)];
    if (fault.kind == "KILL") {
        EXPECT_TRUE(outcome.code == 128 + SIGKILL || outcome.code == 0) << what << ": " << outcome.code;
    } else {
        EXPECT_FALSE(endedBySignal(outcome.code)) << what << " crashed, signal " << outcome.code - 128 << "\n" << outcome.errors;
        if (outcome.code != 0) {
            const auto answer = Json::parse(outcome.output, nullptr, false);
            ASSERT_TRUE(answer.is_object() && answer.contains("error")) << what << ": " << outcome.code << outcome.output << outcome.errors;
            const Json& error = answer["error"];
            EXPECT_TRUE(std::regex_match(error.value("code", ""), std::regex("[a-z_]+\\.[-a-z_]+"))) << what << answer;
            EXPECT_NE(error.value("message", ""), "") << what << answer;
            EXPECT_NE(error.value("action", ""), "") << what << answer;
            // Of a full disk it says that; in any case the fault is not ours.
            const bool full = fault.kind == "ENOSPC";
            EXPECT_TRUE(!full || error.value("code", "") == "output.disk_full" ||
                        error.value("message", "").find(std::strerror(ENOSPC)) != std::string::npos)
                << what << answer;
            EXPECT_TRUE(outcome.code == 4 || (fault.reads && outcome.code == 3)) << what << ": " << outcome.code << answer;
        }
    }
    expectNothingHalf(what);
    if (outcome.code == 0) {
        for (const std::string& name : m_scenario.targets)
            EXPECT_EQ(shown(target(content(), name)), shown(target(m_after, name))) << what << ": done, it says";
    }
    if (!::testing::Test::HasFatalFailure()) expectWholeAfterGoingOn(what);
}

void DisturbedRun::withKills(const std::vector<double>& afterSeconds)
{
    begin();
    std::string what = m_scenario.name + ", killed after";
    bool again = false;
    for (const double seconds : afterSeconds) {
        what.append(" ").append(std::to_string(seconds));
        EngineProcess engine(words(again));
        engine.closeInput();
        const bool ended = endsWithin(engine.pid(), seconds);
        if (!ended) engine.signal(SIGKILL);
        const int code = engine.wait();
        EXPECT_TRUE(code == 128 + SIGKILL || code == 0) << what << ": " << code << engine.output() << engine.errors();
        expectNothingHalf(what);
        if (code == 0) break;
        again = true;
    }
    expectWholeAfterGoingOn(what);
}

std::vector<long> callsToDisturb(const std::vector<std::string>& calls, std::size_t sample)
{
    std::set<long> chosen;
    if (disturbEverything()) sample = calls.size();
    for (std::size_t i = 0; i < std::min(sample, calls.size()); ++i)
        chosen.insert(static_cast<long>(i * calls.size() / std::min(sample, calls.size())) + 1);
    // "pwrite .../layer-0001.h5.partial-123-4" is of the same kind as the next layer's: the call, and what follows the name.
    std::set<std::string> seen;
    for (std::size_t i = 0; i < calls.size(); ++i) {
        const std::size_t name = calls[i].find_last_of('/');
        const std::string kind =
            calls[i].substr(0, calls[i].find(' ')) + calls[i].substr(std::min(calls[i].find('.', name), calls[i].size()));
        if (seen.insert(std::regex_replace(kind, std::regex("[0-9]+"), "#")).second) chosen.insert(static_cast<long>(i) + 1);
    }
    return {chosen.begin(), chosen.end()};
}

bool disturbEverything()
{
    const char* all = std::getenv("ESPALIER_FAULT_ALL");
    return all && *all;
}

}  // namespace espalier::testing
