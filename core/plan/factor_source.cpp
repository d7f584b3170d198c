#include "plan/factor_source.h"

namespace espalier
{

std::string_view factorRuleName(FactorRule rule)
{
    switch (rule) {
        case FactorRule::Own:
            return "own";
        case FactorRule::Ridge:
            return "ridge";
        case FactorRule::Pooled:
            return "pooled";
        case FactorRule::Plain:
            return "plain";
    }
    return "own";
}

FactorRule factorRule(std::int64_t tokens, int rank, int matrix)
{
    if (tokens <= 0) return matrix == 2 ? FactorRule::Plain : FactorRule::Pooled;
    return tokens < 2 * static_cast<std::int64_t>(rank) ? FactorRule::Ridge : FactorRule::Own;
}

}  // namespace espalier
