// The ways a plan can be written to disk (formats.md 9), and which of them a given plan allows.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "plan/compression_plan.h"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

enum class ExportFlavor {
    Stock,          // same expert count everywhere, all dense: every runtime
    Factored,       // anything: transformers with trust_remote_code, Espalier
    Reconstructed,  // same expert count everywhere, factors multiplied back: every runtime, no saving from ranks
    Plan,           // the plan alone, for whoever has the original
};

std::string_view flavorName(ExportFlavor flavor);
// Error: export.unknown_flavor, listing the names.
Result<ExportFlavor> parseFlavor(std::string_view name);

struct FlavorFit {
    ExportFlavor flavor = ExportFlavor::Plan;
    bool fits = false;
    std::optional<Error> reason;  // why it does not: export.unequal_counts, export.ranks_not_dense, export.unsupported_architecture
};

// All flavours in the order they should be offered, simplest for the recipient first.
std::vector<FlavorFit> exportFlavors(const ModelShape& shape, const CompressionPlan& plan);
// Ok, or the reason above.
Status checkFlavor(const ModelShape& shape, const CompressionPlan& plan, ExportFlavor flavor);
// The first that fits: stock, then factored, then plan.
ExportFlavor bestFlavor(const ModelShape& shape, const CompressionPlan& plan);

Json toJson(const FlavorFit& fit);

}  // namespace espalier
