// README.md of an export: what was removed, what it costs in perplexity, how to load it, what is not supported.
#pragma once

#include "base/json.h"
#include "export/flavors.h"
#include "plan/compression_plan.h"

#include <string>

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
    Json evaluation;          // ExportOptions::evaluation
};

std::string exportReadme(const ModelShape& shape, const CompressionPlan& plan, const ReadmeFacts& facts);

}  // namespace espalier
