// What verbs and `serve` open and write: models, search journals, outputs. No ATen here.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "model/moe_model.h"
#include "options.h"
#include "pipeline/make_plan.h"
#include "pipeline/search_journal.h"

#include <filesystem>
#include <memory>
#include <string>

namespace espalier
{

// auto: bf16 where the checkpoint is stored in it and the processor multiplies it natively, which is twice as fast at any number of rows
// (model/weight_matrix.h), if the model is wide enough for that to count.
ComputeType computeTypeFor(const std::string& dtype, const Checkpoint& checkpoint);

Json modelJson(const Checkpoint& checkpoint);
// Opens, and fills in model and warnings of the invocation.
Result<std::shared_ptr<const Checkpoint>> openCheckpoint(const std::filesystem::path& folder, Invocation& invocation);
Result<std::unique_ptr<MoeModel>> createModel(std::shared_ptr<const Checkpoint> checkpoint, Invocation& invocation);

// For a verb: opens, and warns where there was nothing to go on with. Errors: those of SearchJournal::open.
Result<SearchJournal> openSearchJournal(const std::filesystem::path& path, bool resume, const PlanInputs& inputs, const PlanRecipe& recipe,
                                        Invocation& invocation);
// The error of an interrupted search, saying what was kept.
Error withSearchKept(Error error, const SearchJournal& journal);

// Error: output.exists (usage) unless forced.
Status checkOutput(const std::filesystem::path& path, bool force);

}  // namespace espalier
