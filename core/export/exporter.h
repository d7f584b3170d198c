// Writes a plan as a checkpoint (layouts: README.md here). The result stands complete under its name or not at all: everything goes to
// `<out>.partial`, is flushed, and the folder is renamed. The source is only ever read.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/json.h"
#include "base/work_share.h"
#include "plan/compression_plan.h"
#include "plan/factor_source.h"
#include "plan/flavors.h"
#include "rpc/protocol_export.h"
#include "rpc/speed_measurement.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

class Checkpoint;

struct ExportOptions {
    std::string flavor;                      // "stock", "factored", "reconstructed", "plan"; empty or "auto": bestFlavor()
    std::filesystem::path out;               // a folder that does not exist yet
    std::int64_t shardSize = 5'000'000'000;  // bytes of tensor data per shard; a larger tensor gets its own
    bool force = false;                      // replace an existing output, and a leftover of another export
    bool resume = false;                     // go on with `<out>.partial` where it belongs to the same export
    bool dryRun = false;                     // report files and bytes, write nothing
    FactorSources profiles;                  // that the plan's whitened factors may come from
    bool unfuse = false;                     // stock and reconstructed: per-expert tensors from a fused source
    // Several processes can write an export together: each the shard files that are its own; the first prepares the folder and finishes
    // it. All call alike. Null: one.
    WorkShare* share = nullptr;
    std::vector<Measurement> measured;  // for README.md and espalier_plan.json
    std::vector<TaskMeasurement> measuredTasks;
    std::optional<SpeedMeasurement> measuredSpeed;
};

// Progress counts bytes ("byte"). A stop is honoured between tensors: finished shards stay in `<out>.partial` for a resumed run
// (with none finished the folder goes), `out` never appears.
// Errors: export.measured_other_plan (a measurement of another plan or model), export.unequal_counts, export.ranks_not_dense,
// export.unsupported_architecture (the plan or the model does not fit), output.exists, export.into_source, export.partial_in_the_way,
// export.nothing_to_resume (bad input), output.disk_full (checked before the first byte), output.unwritable, plan.other_model, those of
// factorSourceFor (not for a dry run and not for the plan alone).
Result<ExportReport> exportCheckpoint(const Checkpoint& checkpoint, const CompressionPlan& plan, const ExportOptions& options,
                                      JobContext& job);

}  // namespace espalier
