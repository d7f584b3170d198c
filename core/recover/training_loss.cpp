#include "recover/training_loss.h"

#include <algorithm>
#include <limits>

namespace espalier
{

namespace
{

// About 16 MB of logits, as the head's products elsewhere.
std::int64_t blockRows(std::int64_t vocabulary) { return std::clamp<std::int64_t>((std::int64_t{1} << 22) / vocabulary, 64, 1024); }

// One block after the other: logits -> their gradient in place, which goes back through the head.
template <typename Loss>
LossSum eachBlock(const at::Tensor& normed, const GlobalWeights& globals, bool wantGradient, Loss&& loss)
{
    LossSum result;
    if (wantGradient) result.gradient = at::empty(normed.sizes(), normed.options());
    const std::int64_t vocabulary = globals.vocabulary;
    const std::int64_t most = blockRows(vocabulary);
    const std::int64_t headBlock = headBlockRows(vocabulary, normed.size(1));
    for (std::int64_t begin = 0; begin < normed.size(0); begin += most) {
        const std::int64_t rows = std::min(most, normed.size(0) - begin);
        at::Tensor logits = headProduct(normed.narrow(0, begin, rows), globals);
        result.sum += loss(logits, begin, rows);
        if (!wantGradient) continue;
        at::Tensor gradient = result.gradient.narrow(0, begin, rows);
        for (std::int64_t first = 0; first < vocabulary; first += headBlock) {
            const at::Tensor head = globals.headRows(first, std::min(headBlock, vocabulary - first));
            const at::Tensor part = logits.narrow(1, first, head.size(0));
            if (first == 0)
                at::mm_out(gradient, part, head);
            else
                gradient.addmm_(part, head);
        }
    }
    return result;
}

}  // namespace

LossSum nllLoss(const at::Tensor& normed, const at::Tensor& targets, const GlobalWeights& globals, double weight, bool wantGradient)
{
    return eachBlock(normed, globals, wantGradient, [&](at::Tensor& logits, std::int64_t begin, std::int64_t rows) {
        const at::Tensor target = targets.narrow(0, begin, rows).unsqueeze(1);
        const at::Tensor sums = at::logsumexp(logits, {1}, true);
        const double nll = (sums - logits.gather(1, target)).sum(at::kDouble).item<double>();
        if (wantGradient) {
            logits.sub_(sums).exp_();
            logits.scatter_add_(1, target, at::full({rows, 1}, -1.0, logits.options()));
            logits.mul_(weight);
        }
        return nll;
    });
}

// With P over the teacher's tokens and the rest, and Q what the student gives them, -sum P ln Q has the gradient q_j - P_j for a token of
// the teacher's and q_j (1 - P_rest / Q_rest) for one of the rest.
LossSum divergenceLoss(const at::Tensor& normed, const TeacherRows& teacher, double temperature, const GlobalWeights& globals,
                       double weight, bool wantGradient)
{
    return eachBlock(normed, globals, wantGradient, [&](at::Tensor& logits, std::int64_t begin, std::int64_t rows) {
        const at::Tensor tokens = teacher.tokens.narrow(0, begin, rows);
        const at::Tensor logP = teacher.logProbability.narrow(0, begin, rows);
        const at::Tensor p = logP.exp();
        if (temperature != 1) logits.div_(temperature);
        const at::Tensor sums = at::logsumexp(logits, {1}, true);
        const at::Tensor known = logits.gather(1, tokens);
        const at::Tensor logQ = known - sums;
        double divergence = (p * (logP - logQ)).sum(at::kDouble).item<double>();
        at::Tensor ratio;
        if (tokens.size(1) < logits.size(1)) {
            const at::Tensor restP = teacher.rest.narrow(0, begin, rows).unsqueeze(1);
            const at::Tensor others = logits.scatter(1, tokens, -std::numeric_limits<float>::infinity());
            const at::Tensor restQ = at::logsumexp(others, {1}, true) - sums;
            divergence += (restP.exp() * (restP - restQ)).sum(at::kDouble).item<double>();
            ratio = (restP - restQ).exp();
        }
        if (wantGradient) {
            const at::Tensor q = logQ.exp();
            logits.sub_(sums).exp_();
            if (ratio.defined()) logits.mul_(1 - ratio);
            logits.scatter_(1, tokens, q - p);
            logits.mul_(weight * temperature);
        }
        return divergence * temperature * temperature;
    });
}

}  // namespace espalier
