// What the selectors share: the search space of one layer, memoised losses, the best sets over everything evaluated, the trace.
#pragma once

#include "base/error.h"
#include "base/method_registry.h"
#include "base/random.h"
#include "search/cuda/batched_set_loss.h"
#include "search/selector.h"
#include "search/set_loss.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

namespace espalier
{

struct SelectRequest {
    int layer = 0;
    int keep = 0;
    int bestSets = 3;
    std::uint64_t seed = 1;
    ExpertSet protectedExperts;
    // Per expert, higher = worth more; empty: leave-one-out importance. Used by ranking only.
    std::vector<double> worth;
};

// One thread. Sets handed to loss() have `keep` experts, hold the protected ones and keep equally many experts of each group.
class LayerSearch
{
public:
    // `report(generation)` is called after each generation and returns false when the search is to stop.
    using Report = std::function<bool(const LayerSearch&)>;

    // `batch`: evaluates many sets at once, up to rounding; made when it is first needed.
    LayerSearch(SetLoss& loss, SelectRequest request, Report report, BatchFactory batch = {});
    // Errors: search.keep_out_of_range, search.protected, search.groups.
    Status check() const;

    const SelectRequest& request() const noexcept { return m_request; }
    SetLoss& setLoss() noexcept { return m_loss; }
    int experts() const noexcept { return m_loss.experts(); }
    int removed() const noexcept { return experts() - m_request.keep; }
    int groups() const noexcept { return m_groups; }
    int removedPerGroup() const noexcept { return removed() / m_groups; }
    int groupOf(int expert) const { return expert / (experts() / m_groups); }
    // Experts that may be removed, by group, ascending.
    const std::vector<std::vector<int>>& removable() const noexcept { return m_removable; }
    double combinations() const;  // how many sets there are

    // Squared loss; every set is evaluated once and may enter the best ones.
    double loss(const ExpertBits& kept);
    // The same of many sets. With a batch, losses that are worse than the best ones are known up to kRounding only: whoever orders sets
    // by them asks loss() where it matters. Errors: those of the batch.
    Result<std::vector<double>> losses(std::span<const ExpertBits> sets);
    static constexpr double kRounding = 1e-9;  // relative, of a loss that loss() did not compute
    // A squared loss known up to rounding: the set is evaluated if it may belong to the best ones.
    void consider(const ExpertBits& kept, double squared);
    // The set that lacks the experts of least worth; ties: the lower id stays.
    ExpertBits ranked(std::span<const double> worth) const;
    std::vector<double> leaveOneOutWorth() const;
    // What a search has to beat: the choice by leave-one-out, and that by the worth that was given.
    std::vector<ExpertBits> rankedSets() const;
    Random random(const char* purpose) const
    {
        return Random::forPurpose(m_request.seed, purpose, static_cast<std::uint64_t>(m_request.layer));
    }

    // Ends a generation or step: the best loss enters the trace. False: stop now.
    bool endStep();
    bool stopped() const noexcept { return m_stopped; }
    void setEnumerated() noexcept { m_enumerated = true; }
    bool enumerated() const noexcept { return m_enumerated; }

    double bestSquared() const;
    const ExpertBits& bestSet() const { return m_best.front().bits; }
    const std::vector<double>& trace() const noexcept { return m_trace; }
    Selection selection() const;

private:
    struct Entry {
        ExpertBits bits;
        ExpertSet set;
        GramLoss loss;
    };
    bool mayBeAmongBest(double squared) const;
    void collect(const ExpertBits& kept, const GramLoss& loss);

    SetLoss& m_loss;
    SelectRequest m_request;
    Report m_report;
    int m_groups = 1;
    std::vector<std::vector<int>> m_removable;
    BatchFactory m_makeBatch;
    std::unique_ptr<BatchedSetLoss> m_batch;
    std::unordered_map<ExpertBits, double, ExpertBits::Hash> m_memo;
    std::unordered_map<ExpertBits, double, ExpertBits::Hash> m_rounded;  // by the batch, and not in the memo
    std::vector<Entry> m_best;                                           // ascending (loss, set)
    std::vector<double> m_trace;
    std::int64_t m_neighbours = 0;  // evaluated by difference only
    bool m_stopped = false;
    bool m_enumerated = false;  // every set is tried, in steps
};

struct SelectMethod {
    MethodInfo info;
    // Params are checked and complete. Returns early when search.stopped().
    std::function<Status(LayerSearch&, const Params&)> run;
    bool needsGram = true;
};

SelectMethod rankingMethod();
SelectMethod exhaustiveMethod();
SelectMethod greedyMethod();
SelectMethod geneticMethod();

// Evaluates every set of the search space. Errors: those of the batch.
Status enumerate(LayerSearch& search);
// Backward elimination: drops the expert whose loss hurts least until `keep` are left.
void eliminate(LayerSearch& search);
// One expert of every group leaves at once, for grouped routers; `last`: the sets reached have `keep` experts.
void eliminateRound(LayerSearch& search, ExpertBits& kept, bool last);
// From `start`: exchanges one kept for one removed expert as long as that lowers the loss, first improvement.
ExpertBits improveBySwaps(LayerSearch& search, ExpertBits start);
ParamSpec swapParameter();

}  // namespace espalier
