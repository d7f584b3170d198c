#include "recover/recover_methods.h"

#include <algorithm>

namespace espalier
{

const std::vector<MethodInfo>& recoverMethods()
{
    static const std::vector<MethodInfo> all = {leastSquaresInfo(), loraInfo(), routerKdInfo(), entropyRouterInfo()};
    return all;
}

bool takesSteps(const MethodInfo& method)
{
    return std::any_of(method.params.begin(), method.params.end(), [](const ParamSpec& param) { return param.key == "steps"; });
}

}  // namespace espalier
