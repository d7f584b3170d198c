#include "pipeline/method_catalog.h"

#include "allocate/allocator.h"
#include "allocate/rank_rule.h"
#include "score/scorer.h"
#include "search/plan_search.h"
#include "search/selector.h"

#include <utility>

namespace espalier
{

std::vector<MethodInfo> allMethods()
{
    std::vector<MethodInfo> methods = scorers();
    methods.insert(methods.end(), allocators().begin(), allocators().end());
    methods.push_back(verifiedInfo());
    methods.insert(methods.end(), selectorMethods().begin(), selectorMethods().end());
    methods.insert(methods.end(), rankRules().begin(), rankRules().end());
    MethodInfo svd;
    svd.id = "svd";
    svd.title = "Truncated SVD";
    svd.slot = Slot::Factors;
    svd.help = "Best approximation of the weights for each rank, without calibration data; singular values are shared by both factors.";
    svd.source = "Eckart and Young, Psychometrika 1936";
    methods.push_back(std::move(svd));
    MethodInfo whitened;
    whitened.id = "whitened-svd";
    whitened.title = "Whitened SVD";
    whitened.slot = Slot::Factors;
    whitened.needs = {"factors"};
    whitened.help =
        "Smallest output error on the calibration tokens of each expert, for each rank. Experts with fewer tokens than twice the rank lean "
        "more "
        "on the weights; those without tokens use the inputs of the whole layer.";
    whitened.source = "SVD-LLM, arXiv 2403.07378; MoE-I2, arXiv 2411.01016";
    methods.push_back(std::move(whitened));
    return methods;
}

}  // namespace espalier
