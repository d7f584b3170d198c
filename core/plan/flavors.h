// The ways a plan can be written to disk and which of them a given plan allows.
#pragma once

#include "base/error.h"
#include "plan/compression_plan.h"

#include <string_view>

namespace espalier
{

enum class ExportFlavor {
    Stock,          // same expert count everywhere, all dense: every runtime
    Factored,       // anything: transformers with trust_remote_code, Espalier
    Reconstructed,  // same expert count everywhere, factors multiplied back: every runtime, no saving from ranks
    Plan,           // the plan alone, for whoever has the original
};

std::string_view flavorName(ExportFlavor flavor);
// Error: usage.arguments, listing the names.
Result<ExportFlavor> parseFlavor(std::string_view name);

// Ok, or why the plan cannot be written that way: export.unequal_counts (names the layers and the ways out),
// export.ranks_not_dense, export.constants, export.nothing_factored, export.form, export.unsupported_architecture. The one rule: views
// (plan/cost_model.h), exporter and verification ask it.
Status checkFlavor(const ModelShape& shape, const CompressionPlan& plan, ExportFlavor flavor);
// The first that fits: stock, then factored, then plan.
ExportFlavor bestFlavor(const ModelShape& shape, const CompressionPlan& plan);

// "mixtral" of "espalier_mixtral": the architecture a factored export was made of.
std::string_view baseModelType(std::string_view modelType);

}  // namespace espalier
