// From a profile to a plan.
#pragma once

#include "base/statistics.h"
#include "rpc/plan_event.h"
#include "rpc/plan_recipe.h"
#include "rpc/protocol.h"
#include "rpc/text_selection.h"
#include "rpc/values_json.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

// What the verified allocator did.
struct SearchSummary {
    int measured = 0;   // plans
    int moves = 0;      // accepted after the candidates
    double passes = 0;  // full passes of the model that all measurements are worth
    std::int64_t rankGivenBack = 0;
    std::string end;                               // "converged", "time-limit", "pass-limit", "move-limit", "cancelled"
    PairedDifference change;                       // plan - best candidate
    std::optional<PairedDifference> againstGiven;  // plan - first candidate
    std::optional<PairedDifference> lockedChange;  // plan - best candidate on the locked text
    std::vector<PlanSearchStep> trace;
};
ESPALIER_PROTOCOL_TYPE(SearchSummary);

// What a recovery did, on the text that judges.
struct RecoverSummary {
    std::string method;
    bool accepted = false;
    bool changed = false;    // any number
    bool cancelled = false;  // stopped early: the best until then
    int windows = 0;
    double nllDense = 0;  // nats per token
    double nllBefore = 0;
    double nllAfter = 0;
    PairedDifference change;  // after - before
};
ESPALIER_PROTOCOL_TYPE(RecoverSummary);

struct PlanAnswer {
    Json plan;  // as core/plan writes it
    std::string planHash;
    std::vector<int> keep;     // per decoder layer
    std::vector<Json> stages;  // {"stage", "seconds", ..}: as `plan --json` lists them
    std::vector<std::string> warnings;
    std::int64_t recovered = 0;  // finished parts taken from the journal
    std::optional<SearchSummary> exchange;
    std::optional<RecoverSummary> recovery;
    CostFacts cost;
    double seconds = 0;
};
ESPALIER_PROTOCOL_TYPE(PlanAnswer);

struct PlanRequest {
    static constexpr const char* kMethod = "plan";
    using Answer = PlanAnswer;
    using Partial = PlanEvent;
    std::string path;
    std::string profile;
    std::vector<std::filesystem::path> baseProfiles;  // of the plan it starts from, where they are others
    Json plan;                                        // it starts from; null: the whole model
    PlanRecipe recipe;
    TextSelection text;                         // calibration; none: the profile's own windows
    int windows = 0;                            // of it, at most; 0: all
    std::vector<std::filesystem::path> locked;  // text that no search sees
    std::string state;                          // file in which a search is kept while it runs; empty: nowhere
    bool resume = false;
    std::string values;        // folder in which the numbers of a recovered plan stay; empty: the program's cache
    bool recoverOnly = false;  // `plan` is what is recovered, as it is: no other stage of the recipe runs
};
ESPALIER_PROTOCOL_TYPE(PlanRequest);

}  // namespace espalier
