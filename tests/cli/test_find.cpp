// A plan for a size, found on the demo with the real engine: where the search starts does not decide where it ends, and no start is better.
#include "cli/engine_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>

namespace espalier::testing
{
namespace
{

const std::string kDemo = std::string(ESPALIER_RESOURCES) + "/demo/espalier-demo-moe";
const std::string kText = std::string(ESPALIER_RESOURCES) + "/demo/calibration.txt";
const std::vector<std::string> kWindows = {"--text", kText, "--window-length", "128", "--windows", "32"};

std::vector<std::string> operator+(std::vector<std::string> a, const std::vector<std::string>& b)
{
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

// The first value of this name, wherever it stands.
const Json* find(const Json& value, const std::string& name)
{
    if (value.is_object() && value.contains(name)) return &value[name];
    if (value.is_structured())
        for (const auto& inner : value)
            if (const Json* found = find(inner, name)) return found;
    return nullptr;
}

class Find : public ::testing::Test
{
protected:
    std::string path(const std::string& name) const { return (scratch / name).string(); }
    Json run(const std::vector<std::string>& arguments) const
    {
        const Outcome outcome = runEngine(arguments + std::vector<std::string>{"--json"});
        EXPECT_EQ(outcome.code, 0) << outcome.errors << outcome.output;
        return outcome.code == 0 ? outcome.json() : Json::object();
    }
    // Nine experts of sixteen in every layer, picked by number: what somebody might have clicked together.
    void planByHand(const std::string& file) const
    {
        Json layers = Json::array();
        for (int layer = 0; layer < 6; ++layer) {
            Json kept = Json::array();
            for (int expert = 0; expert < 9; ++expert)
                kept.push_back(expert + (expert + layer) / 3);
            layers.push_back({{"layer", layer}, {"kept", kept}});
        }
        std::ofstream(path(file)) << Json{{"version", 1}, {"layers", layers}}.dump();
    }
    // Change of NLL per token from `other` to `plan`, on the windows that the searches saw.
    Json difference(const std::string& plan, const std::string& other) const
    {
        return run(std::vector<std::string>{"evaluate", kDemo, "--plan", path(plan), "--against", other == "dense" ? other : path(other),
                                            "--profile", path("p.h5")} +
                   kWindows)["delta"];
    }
    Scratch scratch;
};

TEST_F(Find, ThreeStartsEndAlikeAndNeverBelowTheirStart)
{
    run(std::vector<std::string>{"profile", kDemo, "--collect", "counts,reap,gram,curves,factors", "--out", path("p.h5")} + kWindows);
    planByHand("hand.json");
    // As large as the plan by hand, so that it is a candidate.
    const Json hand = run({"export", kDemo, "--plan", path("hand.json"), "--out", path("out"), "--dry-run"});
    ASSERT_TRUE(hand.contains("bytes")) << hand.dump();
    const std::string size = std::to_string(hand["bytes"].get<std::int64_t>());
    const std::vector<std::string> target = {"plan", kDemo, "--profile", path("p.h5"), "--size", size};
    run(target + std::vector<std::string>{"--allocate", "uniform", "--score", "reap", "--out", path("preset.json")});
    const std::map<std::string, std::vector<std::string>> starts = {
        {"dense", {}}, {"hand", {"--from", path("hand.json")}}, {"preset", {"--from", path("preset.json")}}};
    for (const auto& [name, from] : starts) {
        SCOPED_TRACE(name);
        const Json answer = run(target + std::vector<std::string>{"--allocate", "verified", "--out", path(name + "-found.json")} + from);
        const Json* end = find(answer, "end");
        ASSERT_TRUE(end) << answer.dump();
        EXPECT_NE(*end, "time-limit") << "nothing here depends on the clock";
        if (name == "dense") continue;
        const Json change = difference(name + "-found.json", name + ".json");
        EXPECT_LE(change["nll"].get<double>(), 0) << "the plan it was given was the first candidate: " << change.dump();
    }
    for (const auto& [name, from] : starts)
        for (const auto& [other, otherFrom] : starts) {
            if (other <= name) continue;
            const Json change = difference(name + "-found.json", other + "-found.json");
            EXPECT_LE(std::abs(change["nll"].get<double>()), 2 * change["se"].get<double>())
                << name << " and " << other << ": " << change.dump();
            std::printf("[   Find   ] %s to %s: %+.4f ± %.4f nats\n", other.c_str(), name.c_str(), change["nll"].get<double>(),
                        change["se"].get<double>());
        }
}

}  // namespace
}  // namespace espalier::testing
