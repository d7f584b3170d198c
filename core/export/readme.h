// README.md of an export: what was removed, what it costs in perplexity, how to load it, what is not supported.
#pragma once

#include "plan/compression_plan.h"
#include "plan/flavors.h"
#include "rpc/measurement.h"
#include "rpc/speed_measurement.h"

#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct ReadmeFacts {
    std::string sourceName;  // folder name of the source
    ExportFlavor flavor = ExportFlavor::Stock;
    std::int64_t sourceBytes = 0;  // of tensors
    std::int64_t bytes = 0;
    std::string planHash;
    std::string fingerprint;  // of the source
    bool fused = false;       // experts stored in 3-D tensors
    std::vector<Measurement> measured;
    std::vector<TaskMeasurement> tasks;
    std::optional<SpeedMeasurement> speed;
    // Plan alone: where the bases of whitened factors are.
    enum class Factors { None, Brought, OfProfile };
    Factors factors = Factors::None;
    std::string profileSha256;               // of that profile
    std::string sourcePath;                  // the source, as seen from the export
    std::vector<std::string> leftOut;        // tensors of the source that are no part of the model
    std::vector<std::string> code;           // Python files that were not passed on
    std::vector<std::string> tokenizerCode;  // those the tokenizer is made of
    bool tokenizerFile = false;              // tokenizer.json is there
};

std::string exportReadme(const ModelShape& shape, const CompressionPlan& plan, const ReadmeFacts& facts);

}  // namespace espalier
