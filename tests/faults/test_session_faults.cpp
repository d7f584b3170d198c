// Sessions, recovery copies, profiles and their parts: calls that write them fail, in both ways, and are the last one of a killed process;
// calls that read them fail. An even sample of all, or every one.
#include "faults/disturbed_run.h"

#include <gtest/gtest.h>

namespace espalier::testing
{
namespace
{

namespace fs = std::filesystem;

const Scenario kSession = {.name = "session", .arguments = {"session", "{W}"}, .targets = {"a.espalier"}};
// Copies have names of time and process.
const Scenario kRecovery = {.name = "recovery",
                            .arguments = {"recovery", "{W}"},
                            .targets = {"a.espalier"},
                            .leftovers = "[-0-9]+\\.espalier-recovery(\\.lock|\\.taken|\\.partial-[-0-9]+)?"};
const Scenario kProfile = {.name = "profile", .arguments = {"profile", "{W}"}, .targets = {"p.h5"}};

constexpr std::size_t kSample = 12;

void disturb(const Scenario& scenario)
{
    DisturbedRun run(scenario);
    for (const long at : callsToDisturb(run.calls(), kSample))
        for (const char* kind : {"EIO", "ENOSPC", "KILL"})
            run.withFault({.at = at, .kind = kind});
}

TEST(SessionFaults, session) { disturb(kSession); }
TEST(SessionFaults, profile) { disturb(kProfile); }

TEST(SessionFaults, recovery) { disturb(kRecovery); }

// The file that is replaced stays until the new one is whole.
TEST(SessionFaults, replaced)
{
    Scenario session = kSession;
    session.prepare = [](const fs::path& folder) { writeFile(folder / "a.espalier", "what was there"); };
    disturb(session);
    Scenario profile = kProfile;
    profile.prepare = [](const fs::path& folder) { writeFile(folder / "p.h5", "what was there"); };
    disturb(profile);
}

TEST(SessionFaults, reading)
{
    Scenario scenario = {.name = "reading", .arguments = {"reading", "{W}"}, .targets = {"copy.h5"}};
    scenario.prepare = [](const fs::path& folder) {
        ASSERT_EQ(runEngine({"profile", folder.string()}).code, 0);
        ASSERT_EQ(runEngine({"session", folder.string()}).code, 0);
    };
    DisturbedRun run(scenario);
    const std::vector<std::string> calls = run.readCalls();
    EXPECT_GT(calls.size(), 20u);
    for (const long at : callsToDisturb(calls, 4 * kSample))
        run.withFault({.at = at, .kind = "EIO", .reads = true});
}

}  // namespace
}  // namespace espalier::testing
