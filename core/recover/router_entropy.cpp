#include "recover/router_entropy.h"

namespace espalier
{

RouterEntropy routerEntropy(const RouterShape& router, const at::Tensor& logits)
{
    const at::Tensor z = logits.to(at::kDouble);
    const bool sigmoid = router.rule == RoutingRule::SigmoidBias;
    const at::Tensor scores = sigmoid ? at::log_sigmoid(z) : z;
    const at::Tensor logP = sigmoid ? scores - scores.logsumexp({1}, true) : at::log_softmax(z, 1);
    const at::Tensor p = logP.exp();
    // p ln p is 0 where p is: -infinity times 0 would not be.
    const at::Tensor finite = at::where(p > 0, logP, at::zeros({}, p.options()));
    const at::Tensor entropy = -(p * finite).sum({1}, true);
    at::Tensor gradient = -p * (finite + entropy);
    if (sigmoid) gradient = gradient * (1 - at::sigmoid(z));
    return {entropy.squeeze(1), gradient};
}

}  // namespace espalier
