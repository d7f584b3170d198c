// The verified allocator (methods.md 6.11): answers of other allocators are candidates, each is measured exactly, and from the best one
// experts and rank are exchanged between layers as long as that measurably lowers the loss. Estimates only decide what is tried first.
// By construction the answer is never worse than the best candidate on the windows it is measured on.
//
// An algorithm over callbacks: it runs no model and knows no profile. Everything happens on the calling thread and is deterministic.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/method_registry.h"
#include "base/statistics.h"
#include "plan/compression_plan.h"
#include "plan/model_shape.h"
#include "search/rank_budget.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct ExchangeCandidate {
    std::string name;  // for people: the allocator it came from
    CompressionPlan plan;
};

// One unit leaves layer `from` and goes to layer `to`.
struct ExchangeMove {
    enum class Kind { Experts, Rank };
    Kind kind = Kind::Experts;
    int from = 0;
    int to = 0;
    int amount = 1;  // experts; or rank units (one of one matrix) in all

    bool operator==(const ExchangeMove&) const = default;
};

struct ExchangeProblem {
    ModelShape shape;
    std::vector<ExchangeCandidate> candidates;  // same budget; not empty
    // Loss of every window under a plan; always the same windows. Callers answer from memory what they have measured before.
    std::function<Result<std::vector<WindowLoss>>(const CompressionPlan&)> measure;
    // The best set of exactly `count` experts of a layer.
    std::function<Result<ExpertSet>(int layer, int count)> bestSet;
    // Expected fall of the loss by a move, any unit; only the order counts. Empty: deepest pairs first, as they are the cheapest.
    std::function<double(const CompressionPlan& current, const ExchangeMove& move)> estimatedGain;
    // Must not change by a move. Empty: experts kept and rank units, which is exact where all experts have one size.
    std::function<std::int64_t(const CompressionPlan&)> cost;
    // Losses on text that no search has seen, for the start and the answer, once at the end. May be empty.
    std::function<Result<std::vector<WindowLoss>>(const CompressionPlan&)> measureLocked;
    std::int64_t budget = 0;  // no candidate may cost more; 0 = not checked
    // Bytes (planCost) that no candidate may exceed. Then `cost` is free to change, and a move whose plan would take more bytes than the
    // start candidate gives back rank, the least valuable by `rankValue` first. 0 = bytes are not looked at.
    std::int64_t bytes = 0;
    RankValue rankValue = {};      // empty: all ranks by the same share
    std::vector<int> lowestCount;  // per decoder layer, beside top-k and protection; empty: none
};

struct ExchangeOptions {
    std::vector<int> units = {1};        // experts per move: exchange by the first until nothing helps, then by the next
    int rankUnits = 0;                   // rank units per rank move; 0 = ranks stay where they are
    bool allWindows = true;              // the windows are all there are: any gain counts. Otherwise it must exceed two standard errors
    double seconds = 0;                  // time limit; 0 = none
    int maxMoves = 0;                    // accepted moves; 0 = no limit
    int pairsPerRound = 0;               // moves tried before giving up; 0 = twice the number of MoE layers
    std::function<double()> clock = {};  // seconds; empty: a steady clock
};

struct ExchangeStep {
    std::string name;  // candidate's name, or "experts 3 -> 1"
    std::string planHash;
    double nll = 0;     // per token
    double change = 0;  // against the plan that was best then; 0 for the first candidate
    double changeError = 0;
    double estimatedGain = 0;
    std::int64_t rankGivenBack = 0;  // units, to stay within the bytes
    bool accepted = false;
};

enum class ExchangeEnd { Converged, TimeLimit, MoveLimit, Cancelled };

struct ExchangeResult {
    CompressionPlan plan;
    std::vector<WindowLoss> losses;                // of the plan
    int startCandidate = 0;                        // the best candidate
    std::vector<ExchangeStep> trace;               // everything that was measured, in order
    PairedDifference change;                       // plan - start candidate on the measured windows
    std::optional<PairedDifference> lockedChange;  // the same on the locked text
    ExchangeEnd end = ExchangeEnd::Converged;
    int measured = 0;
    int moves = 0;                   // accepted
    std::int64_t rankGivenBack = 0;  // units, by the accepted moves
};

// Each measured plan is handed to job.partial as {"name","plan_hash","nll","change","error","estimate","accepted"}, with "plan", the whole
// plan, when it was accepted. A stop, and the time limit, end the search with the best plan so far; a stop before anything was measured is
// the error cancelled. Errors: search.no_candidates, search.shape, search.budget (a candidate costs more than the budget, or takes more
// bytes), and those of the callbacks.
Result<ExchangeResult> exchangeVerified(const ExchangeProblem& problem, const ExchangeOptions& options, JobContext& job);

// The plan after a move: every layer has its best set at the new count; ranks of experts that stay are kept, those of experts that leave
// go to experts that enter (the move takes the smallest with it), so that the bytes do not change. nullopt: not possible.
Result<std::optional<CompressionPlan>> applyMove(const ExchangeProblem& problem, const CompressionPlan& plan, const ExchangeMove& move);

// The registry entry "verified" of the allocators' slot.
const MethodInfo& verifiedExchangeInfo();
// Parameters of that entry, checked, as options.
ExchangeOptions exchangeOptions(const Params& params);

Json toJson(const ExchangeStep& step);
const char* exchangeEndName(ExchangeEnd end);  // "converged", "time-limit", "move-limit", "cancelled"

}  // namespace espalier
