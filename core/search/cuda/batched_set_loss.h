// Losses of many kept sets of one layer at once: what SetLoss says of each (search/set_loss.h), for searches that
// know a whole batch of candidates before they need the first loss. Two implementations with one interface: CUDA, and a CPU twin that runs
// the same arithmetic token by token and is what the tests compare with. The twin has none of SetLoss's short cuts: use SetLoss on a CPU.
//
// Goals: fp64, the same answer in every run, out of memory and a missing device are errors. Non-goals: routers that leave groups of experts
// out, losses by difference, more than one device.
#pragma once

#include "base/error.h"
#include "search/expert_bits.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace espalier
{

class GramEvaluator;

// One layer as flat arrays, T tokens, n experts, lists of K (statistics/profile_data.h). Views: whoever made them keeps the arrays.
struct SetLossTables {
    std::int64_t tokens = 0;    // T
    int experts = 0;            // n
    int listLength = 0;         // K
    int modelTopK = 0;          // of the unpruned layer: the first so many of a list are its selection
    int topK = 0;               // of the candidates, at most modelTopK
    bool renormalised = false;  // weights are divided by the sum over the selection (A and C), not over all that is kept (B and D)
    double scale = 1;           // of the weights
    std::span<const std::uint16_t> list;   // [T][K]
    std::span<const double> products;      // [T][K(K+1)/2], squares of the unit of the expert outputs
    std::span<const double> probability;   // [T][n]
    std::span<const double> routedEnergy;  // [T] what an uncovered token is charged
};

// Views into the evaluator and its store, both of which must outlive them.
// Errors: search.batch_router (Unsupported): the router leaves groups of experts out or has no fixed order, or uses more than 24 experts
// per token, or the lists are shorter than its top-k.
Result<SetLossTables> setLossTables(const GramEvaluator& evaluator);

struct BatchedLoss {
    double squared = 0;          // || Z - Z(kept) ||_F^2, charge of the uncovered tokens included
    std::int64_t uncovered = 0;  // tokens

    bool operator==(const BatchedLoss&) const = default;
};

// One thread at a time. A set's answer does not depend on the sets beside it.
class BatchedSetLoss
{
public:
    virtual ~BatchedSetLoss() = default;
    // One per set, in their order. Any number of sets; a set with fewer than top-k experts leaves every token uncovered.
    // Errors: those of the device (below); nothing is known then of any of the sets.
    virtual Result<std::vector<BatchedLoss>> evaluate(std::span<const ExpertBits> kept) = 0;
};

// The twin. Keeps the views. Error: search.batch_tables (BadInput): arrays that do not fit the sizes, or expert ids out of range.
Result<std::unique_ptr<BatchedSetLoss>> makeCpuSetLoss(const SetLossTables& tables);

struct CudaSetLossOptions {
    int device = 0;
    std::size_t workspaceBytes = std::size_t{64} << 20;  // on the device, for the terms of one pass; at least one token's are held
    int candidatesPerPass = 4096;
};

// Copies the tables to the device; nothing of them is needed afterwards. In library espalier::search_cuda (ESPALIER_WITH_CUDA).
// Errors: search.batch_tables; device.unavailable (no driver, no such device), device.architecture (Unsupported: built for other
// devices), device.out_of_memory, device.failed (the driver's own words).
Result<std::unique_ptr<BatchedSetLoss>> makeCudaSetLoss(const SetLossTables& tables, const CudaSetLossOptions& options = {});

}  // namespace espalier
