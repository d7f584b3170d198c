#include "evaluate/divergence.h"

#include "base/exception.h"
#include "base/statistics.h"
#include "evaluate/divergence_torch.h"
#include "evaluate/evaluator.h"
#include "model/moe_model_torch.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

// Logits of a block: about 16 MB for each plan.
constexpr std::int64_t kBlockElements = std::int64_t{1} << 22;
// At most so much for the residual streams of windows that go through the layers together, so that streamed weights are read once for all
// of them; and half of what the budget leaves.
constexpr std::int64_t kWaveBytes = std::int64_t{512} << 20;

struct Run {
    std::pair<int, int> windows;  // [first, last)
    at::Tensor reference;
    at::Tensor plan;  // undefined while it is the reference's
};

at::Tensor idsOf(const TokenWindows& windows, std::pair<int, int> group)
{
    const auto length = static_cast<std::int64_t>(windows.rows[static_cast<std::size_t>(group.first)].size());
    at::Tensor ids = at::empty({group.second - group.first, length}, at::kLong);
    auto* out = ids.mutable_data_ptr<std::int64_t>();
    for (int w = group.first; w < group.second; ++w)
        for (const int id : windows.rows[static_cast<std::size_t>(w)])
            *out++ = id;
    return ids;
}

// The last position of a window predicts nothing that is known.
Result<at::Tensor> scoredStates(MoeModel& model, const at::Tensor& hidden)
{
    const std::int64_t scored = hidden.size(1) - 1;
    return model.finalNorm(hidden.narrow(1, 0, scored).reshape({hidden.size(0) * scored, hidden.size(2)}));
}

Result<std::vector<WindowDivergence>> compare(MoeModel& model, const Run& run)
{
    const std::int64_t scored = run.reference.size(1) - 1;
    std::vector<WindowDivergence> result;
    for (int w = run.windows.first; w < run.windows.second; ++w)
        result.push_back({w, 0, 0, 0, static_cast<int>(std::max<std::int64_t>(scored, 0))});
    if (scored <= 0) return result;
    ESPALIER_TRY(const at::Tensor reference, scoredStates(model, run.reference));
    ESPALIER_TRY(const at::Tensor plan, scoredStates(model, run.plan.defined() ? run.plan : run.reference));
    const std::int64_t block = std::clamp<std::int64_t>(kBlockElements / model.shape().vocabularySize, 16, 1024);
    for (std::int64_t begin = 0; begin < reference.size(0); begin += block) {
        const std::int64_t rows = std::min(block, reference.size(0) - begin);
        ESPALIER_TRY(const at::Tensor p, model.logits(reference.narrow(0, begin, rows)));
        ESPALIER_TRY(const at::Tensor q, model.logits(plan.narrow(0, begin, rows)));
        const at::Tensor values = rowDivergences(p, q).contiguous();
        const auto* value = values.const_data_ptr<double>();
        for (std::int64_t row = begin; row < begin + rows; ++row, value += 3) {
            WindowDivergence& sums = result[static_cast<std::size_t>(row / scored)];
            sums.kl += value[0];
            sums.esap += value[1];
            sums.agreement += value[2];
        }
    }
    return result;
}

Result<std::vector<WindowDivergence>> measure(MoeModel& model, const TokenWindows& windows, const CompressionPlan& plan,
                                              const CompressionPlan& reference, JobContext& job, const WorkShare& share)
{
    const c10::InferenceMode inference;
    ESPALIER_TRY(const PreparedPlan prepared, model.prepare(plan));
    ESPALIER_TRY(const PreparedPlan preparedReference, model.prepare(reference));
    using Half = CompressionPlan::Half;
    const int layers = model.layerCount();
    int shared = 0;  // layers at the bottom that do the same under both
    while (shared < layers && plan.entryDigest(shared + 1, Half::Attention) == reference.entryDigest(shared + 1, Half::Attention))
        ++shared;

    std::vector<std::pair<int, int>> groups;
    const std::vector<std::pair<int, int>> all = windowGroups(windows.rows);
    for (auto g = static_cast<std::size_t>(share.rank()); g < all.size(); g += static_cast<std::size_t>(share.size()))
        groups.push_back(all[g]);
    const auto total = static_cast<std::int64_t>(groups.size()) * layers;
    std::int64_t done = 0;
    std::vector<WindowDivergence> result;
    job.progress(done, total, "layer");
    for (std::size_t next = 0; next < groups.size();) {
        std::vector<Run> wave;
        std::int64_t bytes = 0;
        while (next < groups.size() && (wave.empty() || bytes < std::min(kWaveBytes, model.spareBytes() / 2))) {
            Run run{groups[next++], {}, {}};
            ESPALIER_TRY(run.reference, model.embed(idsOf(windows, run.windows)));
            bytes += 2 * static_cast<std::int64_t>(run.reference.nbytes());
            wave.push_back(std::move(run));
        }
        for (int l = 0; l < layers; ++l)
            for (Run& run : wave) {
                if (job.stopRequested()) return cancelledError();
                at::Tensor planInput = run.plan.defined() ? run.plan : run.reference;
                if (l >= shared) {
                    ESPALIER_TRY(run.plan, model.layer(l, planInput, prepared));
                }
                ESPALIER_TRY(run.reference, model.layer(l, run.reference, preparedReference));
                job.progress(++done, total, "layer");
            }
        for (Run& run : wave) {
            if (job.stopRequested()) return cancelledError();
            ESPALIER_TRY(const std::vector<WindowDivergence> found, compare(model, run));
            for (const WindowDivergence& window : found) {
                job.partial({{"window", window.window},
                             {"kl", window.kl},
                             {"esap", window.esap},
                             {"agreement", window.agreement},
                             {"tokens", window.tokens}});
                result.push_back(window);
            }
            run = {};
        }
    }
    return result;
}

}  // namespace

at::Tensor rowDivergences(const at::Tensor& referenceLogits, const at::Tensor& planLogits)
{
    const at::Tensor p = at::log_softmax(referenceLogits.to(at::kFloat), -1);
    const at::Tensor q = at::log_softmax(planLogits.to(at::kFloat), -1);
    const at::Tensor probability = p.exp();
    // A sum of single precision roundings may come out below zero by some 1e-8 where both are nearly the same.
    const at::Tensor kl = (probability * (p - q)).sum(-1, false, at::kDouble).clamp_min(0);
    const at::Tensor esap = at::minimum(probability, q.exp()).sum(-1, false, at::kDouble).clamp_max(1);
    const at::Tensor same = p.argmax(-1).eq(q.argmax(-1)).to(at::kDouble);
    return at::stack({kl, esap, same}, -1);
}

Result<std::vector<WindowDivergence>> measureDivergence(MoeModel& model, const TokenWindows& windows, const CompressionPlan& plan,
                                                        const CompressionPlan& reference, JobContext& job, const WorkShare& share)
{
    try {
        return measure(model, windows, plan, reference, job, share);
    } catch (const std::exception& failure) {
        return errorOf(failure,
                       resourceError("evaluate.out_of_memory", "memory", "There was not enough memory to run the model under both plans.",
                                     "Set a smaller memory budget, or use fewer or shorter windows."),
                       "The forward pass");
    }
}

DivergenceEstimate divergence(std::span<const WindowDivergence> windows)
{
    // Each is a sum over a window's tokens like a loss, so its mean and error follow the same formula.
    std::vector<WindowLoss> kl;
    std::vector<WindowLoss> esap;
    std::vector<WindowLoss> agreement;
    for (const WindowDivergence& window : windows) {
        kl.push_back({window.window, window.kl, window.tokens});
        esap.push_back({window.window, window.esap, window.tokens});
        agreement.push_back({window.window, window.agreement, window.tokens});
    }
    const PerplexityEstimate klMean = perplexity(kl);
    const PerplexityEstimate esapMean = perplexity(esap);
    const PerplexityEstimate agreementMean = perplexity(agreement);
    return {klMean.nll,        klMean.nllError,        esapMean.nll,  esapMean.nllError,
            agreementMean.nll, agreementMean.nllError, klMean.tokens, klMean.windows};
}

}  // namespace espalier
