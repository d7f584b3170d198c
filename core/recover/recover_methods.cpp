#include "recover/recover_methods.h"

namespace espalier
{

const std::vector<MethodInfo>& recoverMethods()
{
    static const std::vector<MethodInfo> all = {leastSquaresInfo(), loraInfo(), routerKdInfo(), entropyRouterInfo()};
    return all;
}

}  // namespace espalier
