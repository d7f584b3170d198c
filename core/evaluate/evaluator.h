// Perplexity of a plan on a fixed set of windows, with as much of earlier work reused as is exact.
//
// What enters the MoE module of layer l, attention done, depends only on what the plan does below l. The evaluator keeps the residual
// streams there under (prefix hash of the plan, group of windows), so an edit at layer l re-runs that module and the layers above only,
// and it keeps every measured (plan hash, window) loss for ever. Windows run in fixed groups chosen by index and length alone, never by
// what was asked for: a matrix product may round a row differently beside other rows, so this is what makes cached == uncached and quick ==
// full bit for bit. Windows spread evenly over the text share groups (evaluationGroups), so that measuring those costs no others.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/statistics.h"
#include "plan/compression_plan.h"
#include "tokenizer/windows.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

class MoeModel;

struct EvaluatorUsage {
    std::int64_t cacheBytes = 0;     // residual streams held for this evaluator
    std::int64_t boundaries = 0;     // how many
    std::int64_t layersRun = 0;      // (layer, group) pairs computed since construction, as a whole or from the MoE module on
    std::int64_t layersSkipped = 0;  // ... and taken from the cache
};

// Residual streams of one or several evaluators of a model under one bound; those that were least recently used go first, whoever they
// belong to. Belongs to the thread of the model.
class StreamCache;
std::shared_ptr<StreamCache> makeStreamCache(std::int64_t bytes);

// Belongs to the thread that owns the model. The model must outlive it.
class Evaluator
{
public:
    // cacheBytes bounds the residual streams; 0 turns the cache off. No more are kept than two evaluations of all windows leave, which
    // is as much as the next one can use. Losses are not counted.
    Evaluator(MoeModel& model, TokenWindows windows, std::int64_t cacheBytes);
    // With the cache of others.
    Evaluator(MoeModel& model, TokenWindows windows, std::shared_ptr<StreamCache> cache);
    ~Evaluator();
    Evaluator(Evaluator&&) noexcept;
    Evaluator& operator=(Evaluator&&) noexcept;

    // Losses of the windows asked for, in that order: NLL in nats summed over the scored tokens (all but the first of a window), fp64
    // from fp32 log-softmax. `known`: losses of the same plan, text, model and mode measured earlier (a resumed run), used as they
    // are. Progress counts (layer, group) steps; each finished window is handed to job.partial as {"window","nll","tokens"}, known
    // ones first. A stop is honoured between layers: error cancelled; what was finished by then stays in measured().
    // Errors: evaluate.window_out_of_range, model.not_finite, whatever the model reports.
    Result<std::vector<WindowLoss>> run(const CompressionPlan& plan, std::span<const int> windowIndices,
                                        const std::vector<WindowLoss>& known, JobContext& job);

    // Every loss measured (or given as known) so far under this plan hash, by ascending window.
    std::vector<WindowLoss> measured(const std::string& planHash) const;

    const TokenWindows& windows() const;
    int windowCount() const;
    EvaluatorUsage usage() const;
    void clearCache();  // drops residual streams, keeps losses

    // Windows that run together: evaluationGroups of the text.
    const std::vector<std::vector<int>>& groups() const;

private:
    struct State;
    std::unique_ptr<State> m_state;
};

// Index ranges of windows that run together. At most 8 windows and at most about 2048 tokens of one length (at least one window).
std::vector<std::pair<int, int>> windowGroups(const std::vector<std::vector<int>>& rows);

// Windows per block that stand for it.
inline constexpr int kSpreadWindows = 16;

// The groups that an evaluator runs, as lists of windows. Of every 128 windows of one length the 16 that are spread evenly over them
// (base/window_spread.h) form groups of their own, first, each of them spread too; the others follow in order. A text of the first
// 128 windows alone, and one of the 16 alone, is cut in the same way. Sizes as in windowGroups.
std::vector<std::vector<int>> evaluationGroups(const std::vector<std::vector<int>>& rows);

// 0, 1, .. count - 1.
std::vector<int> firstWindows(int count);

}  // namespace espalier
