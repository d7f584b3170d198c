// What a recovery method gets and gives. For the files of the methods and recover.cpp; callers include recover/recover.h. No ATen here, so
// that the stages of core/pipeline can name a request.
//
// A method changes numbers: it takes a plan whose forms are settled and answers the same plan with stored numbers (MatrixForm::values,
// LayerPlan::Content::router) that lie in values files. What shapes, columns and ranks there are stays.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/method_registry.h"
#include "base/work_share.h"
#include "checkpoint/values_file.h"
#include "plan/compression_plan.h"
#include "plan/factor_source.h"
#include "rpc/plan_event.h"
#include "tokenizer/tuning_text.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

class MoeModel;
struct ProfileData;

// One point of the trace; steps of methods that go layer by layer count over all layers.
using RecoverStep = RecoverPoint;

// What a method works with. Belongs to the thread of the model.
struct RecoverRun {
    MoeModel& model;
    CompressionPlan plan;   // checked, forms settled, profile and values files named
    FactorSources sources;  // of the plan; the model's own are set by whoever prepares a plan
    const TuningText& text;
    const ProfileData* profile = nullptr;  // may be null
    Params params;                         // complete and checked
    std::uint64_t seed = 0;
    WorkShare& share;
    // Exists, for what is finished: parts (below) and the method's own state. Processes of one run have the same folder.
    std::filesystem::path folder;
    bool resume = false;     // what lies in the folder was made by a run of the same settings
    bool bestSoFar = false;  // of a stop: RecoverRequest::bestSoFar
    // Mean NLL of a plan on the gate's text, nats per token: for best-so-far and live curves. The sources are the run's with `more`.
    std::function<Result<double>(const CompressionPlan&, const FactorSources& more)> gateNll;
    // Hands a point to the job and to the trace.
    std::function<void(const RecoverStep&)> report;
    std::vector<std::string>& warnings;
};

// What a method answers.
struct Recovered {
    CompressionPlan plan;    // names the parts; the plan given where nothing changed
    FactorSources parts;     // values files in the run's folder, not of the plan given
    bool cancelled = false;  // stopped early: what was finished, or the best so far
};

struct RecoverMethod {
    MethodInfo info;
    // Errors: the method's own, model.*, output.*; `cancelled` only where there is nothing to show.
    Result<Recovered> (*run)(RecoverRun& run, JobContext& job);
    // The dense model stays as it is under this method (its target is the dense model itself): the control needs no run.
    bool keepsDense = false;
};

Result<Recovered> runLeastSquares(RecoverRun& run, JobContext& job);
Result<Recovered> runLora(RecoverRun& run, JobContext& job);
Result<Recovered> runRouterKd(RecoverRun& run, JobContext& job);
Result<Recovered> runEntropyRouter(RecoverRun& run, JobContext& job);

// --- Values files of a run.

// Writes `folder`/ID.safetensors and opens it. The spans stay until the call returns.
Result<std::shared_ptr<const FactorSource>> writePart(const std::filesystem::path& folder, const std::vector<ValueToWrite>& values);

// The plan with every stored number that lies in `parts` in one values file, written into `folder`. A plan that reads none of the parts is
// answered as it is, without a file. Of processes that share a run the first writes.
struct JoinedValues {
    CompressionPlan plan;
    std::optional<ValuesInfo> file;
};
Result<JoinedValues> joinParts(const ModelShape& shape, const CompressionPlan& plan, const FactorSources& parts,
                               const std::filesystem::path& folder, const Json& madeBy, WorkShare& share = WorkShare::none());

}  // namespace espalier
