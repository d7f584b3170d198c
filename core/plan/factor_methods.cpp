#include "plan/factor_methods.h"

#include <algorithm>

namespace espalier
{

namespace
{

constexpr const char* kFactors = "factors";  // the statistic with the bases

MethodInfo svdInfo()
{
    MethodInfo svd;
    svd.id = "svd";
    svd.title = "Truncated SVD";
    svd.slot = Slot::Factors;
    svd.help = "Best approximation of the weights for each rank, without calibration data; singular values are shared by both factors.";
    svd.source = "Eckart and Young, Psychometrika 1936";
    svd.answers = {Answer::Values};
    return svd;
}

MethodInfo whitenedInfo()
{
    MethodInfo whitened;
    whitened.id = "whitened-svd";
    whitened.title = "Whitened SVD";
    whitened.slot = Slot::Factors;
    whitened.needs = {kFactors};
    whitened.help =
        "Smallest output error on the calibration tokens of each expert, for each rank. Experts with fewer tokens than twice the rank lean "
        "more "
        "on the weights; those without tokens use the inputs of the whole layer.";
    whitened.source = "SVD-LLM, arXiv 2403.07378; MoE-I2, arXiv 2411.01016";
    whitened.answers = {Answer::Values};
    return whitened;
}

bool needsProfile(const MethodInfo& method) { return std::find(method.needs.begin(), method.needs.end(), kFactors) != method.needs.end(); }

}  // namespace

const std::vector<MethodInfo>& factorMethods()
{
    static const std::vector<MethodInfo> methods = {svdInfo(), whitenedInfo()};
    return methods;
}

const MethodInfo* factorMethod(const std::string& id)
{
    for (const MethodInfo& method : factorMethods())
        if (method.id == id) return &method;
    return nullptr;
}

bool factorsNeedProfile(const FactorSettings& factors)
{
    const MethodInfo* method = factorMethod(factors.method);
    return method && needsProfile(*method);
}

bool factorsNeedProfile(const CompressionPlan& plan) { return plan.needsFactors() && factorsNeedProfile(plan.factors()); }

const std::string& bestFactorMethod(bool profileHasFactors)
{
    for (auto method = factorMethods().rbegin(); method != factorMethods().rend(); ++method)
        if (profileHasFactors || !needsProfile(*method)) return method->id;
    return factorMethods().front().id;
}

}  // namespace espalier
