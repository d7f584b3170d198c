// Proves an export: reopened, compared tensor by tensor with the source under the plan, then both are run on the
// same windows. Any difference means holds = false, which is a result, not an error.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/json.h"
#include "model/moe_model.h"
#include "plan/factor_source.h"
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

struct VerifyCheck {
    std::string name;  // "plan", "files", "config", "runtime", "tensor-list", "untouched-tensors", "sliced-tensors", "factors", "forward"
    bool holds = false;
    std::string detail;  // what was compared, or the first difference and how many there are
};

struct VerifyReport {
    bool holds = false;
    std::string flavor;
    std::string planHash;
    std::vector<VerifyCheck> checks;
    std::optional<double> maxAbsLogitDifference;  // absent where the model cannot be run (or a check before it failed to open)
    std::optional<double> pplPreview;             // source under the plan
    std::optional<double> pplExport;
    int windows = 0;
    std::vector<std::string> warnings;
};

// Error only where there is nothing to compare (no export, no source, no profile for factors that need one, cancelled); a damaged export is
// a report that does not hold.
Result<VerifyReport> verifyExport(const VerifyOptions& options, JobContext& job);

Json toJson(const VerifyReport& report);

}  // namespace espalier
