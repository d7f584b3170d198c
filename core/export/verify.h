// Proves an export: reopened, compared tensor by tensor with the source under the plan, then both are run on the
// same windows. Any difference means holds = false, which is a result, not an error.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/json.h"
#include "model/moe_model.h"
#include "plan/factor_source.h"
#include "rpc/protocol_export.h"
#include "tokenizer/windows.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct VerifyOptions {
    std::filesystem::path exported;
    std::filesystem::path source;               // empty: the path recorded in the export's plan, where it still matches
    std::optional<std::filesystem::path> plan;  // compared with the plan in the export; absent: the export's own
    FactorSources profiles;                     // that the plan's whitened factors may come from
    std::optional<TokenWindows> windows;        // absent: two windows of token ids drawn from a fixed seed
    ModelOptions model;
};

// Error only where there is nothing to compare (no export, no source, no profile for factors that need one, cancelled); a damaged export is
// a report that does not hold.
Result<VerifyReport> verifyExport(const VerifyOptions& options, JobContext& job);

}  // namespace espalier
