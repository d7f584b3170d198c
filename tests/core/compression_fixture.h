// The tiny models, their token streams, and the plans whose perplexities the reference computed.
#pragma once

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "model/moe_model.h"
#include "plan/compression_plan.h"
#include "tokenizer/windows.h"

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace espalier::test
{

inline const std::filesystem::path kFixtures = std::filesystem::path(ESPALIER_TEST_FIXTURES) / "model";

template <typename T>
T take(Result<T> result)
{
    if (!result.ok()) throw std::runtime_error(result.error().code + ": " + result.error().describe());
    return std::move(result).value();
}

inline std::filesystem::path tiny(const std::string& name) { return kFixtures / "checkpoints" / name; }

inline std::shared_ptr<const Checkpoint> openTiny(const std::string& name) { return take(Checkpoint::open(tiny(name))); }

inline std::unique_ptr<MoeModel> modelOf(std::shared_ptr<const Checkpoint> checkpoint, Residency residency = Residency::Resident)
{
    ModelOptions options;
    options.residency = residency;
    options.threads = 1;  // tiny matrices: a second thread only waits
    return take(MoeModel::create(std::move(checkpoint), options));
}

// The stream that the reference's perplexities belong to.
inline TokenWindows stream(const std::string& name, int windowLength)
{
    WindowOptions options;
    options.windowLength = windowLength;
    return take(windowsFromIds((kFixtures / "goldens" / (name + ".safetensors")).string() + ":stream_ids", options, 1 << 20));
}

inline Json method(const std::string& name) { return take(readJsonFile(kFixtures / "method" / (name + ".json"), "fixture")); }

// The entry `key` of method/<name>.json "ppl" as a plan. Entries without a plan of their own belong to the pruned chain; one number
// per expert means the same rank for its three matrices.
inline CompressionPlan planOf(const Json& method, const std::string& key, const ModelShape& shape)
{
    const Json& entry = method["ppl"][key];
    const Json& kept = entry.contains("plan") ? entry["plan"] : method["ppl"]["pruned_chain"]["plan"];
    Json layers = Json::array();
    for (const auto& [layer, ids] : kept.items()) {
        Json item = {{"layer", std::stoi(layer)}, {"kept", ids}};
        if (entry.contains("ranks_gate_up_down")) item["ranks"] = entry["ranks_gate_up_down"][layer];
        if (entry.contains("ranks"))
            for (const Json& rank : entry["ranks"][layer])
                item["ranks"].push_back({rank, rank, rank});
        layers.push_back(std::move(item));
    }
    return take(planFromJson({{"version", 1}, {"layers", layers}}, shape));
}

}  // namespace espalier::test
