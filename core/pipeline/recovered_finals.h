// The last round of a search whose answer is going to be recovered: its finalists are compared after recovery, since what a plan loses and
// what can be won back of it are two things. On the model's compute thread.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/json.h"
#include "base/work_share.h"
#include "pipeline/plan_journal.h"
#include "pipeline/recover_stage.h"
#include "plan/compression_plan.h"

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace espalier
{

struct Finalist {
    std::string name;
    CompressionPlan plan;  // as it would be the answer: ranks, constants, skip rules included
};

struct FinalsRequest {
    std::vector<Finalist> finalists;  // at least one, different; the first is the answer where nothing is compared
    std::filesystem::path folder;     // a folder of it for each
    std::function<double()> clock;    // seconds; the same for all processes
    double until = 0;                 // on the clock: nothing begins that is not expected to end by then; 0: no limit
    WorkShare& share;
    JournalKeeper& journal;
};

struct FinalsAnswer {
    std::size_t winner = 0;
    std::filesystem::path folder;  // of the winner's recovery; empty: nothing was compared
    // {"plans": [{"finalist","plan_hash",..}, ..], "not_recovered": [{"finalist","plan_hash","nll_before"}, ..]}
    Json detail;
};

// In order, each but the first only where four fifths of its loss, won back, would put it ahead: the one with the lowest loss afterwards on
// the windows that judge. A result that is not accepted counts as the plan as it was. Partial results: a FinalistRecovered for each. A
// stop: error cancelled; what was finished is in the journal and the folders. Errors: those of RecoverStage::run.
Result<FinalsAnswer> recoveredFinals(const FinalsRequest& request, RecoverStage& stage, JobContext& job);

}  // namespace espalier
