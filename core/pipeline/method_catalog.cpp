#include "pipeline/method_catalog.h"

#include "allocate/allocator.h"
#include "allocate/rank_rule.h"
#include "pipeline/drop_layers.h"
#include "pipeline/skip_rules.h"
#include "plan/factor_methods.h"
#include "recover/recover_methods.h"
#include "score/scorer.h"
#include "search/plan_search.h"
#include "search/selector.h"

namespace espalier
{

namespace
{

// Those that count by arithmetic, and the one that measures.
const std::vector<MethodInfo>& allAllocators()
{
    static const std::vector<MethodInfo> all = [] {
        std::vector<MethodInfo> list = allocators();
        list.push_back(verifiedInfo());
        return list;
    }();
    return all;
}

}  // namespace

const std::vector<MethodInfo>& methodsOf(Slot slot)
{
    static const std::vector<MethodInfo> none;
    switch (slot) {
        case Slot::Score:
            return scorers();
        case Slot::Allocate:
            return allAllocators();
        case Slot::Select:
            return selectorMethods();
        case Slot::RankRule:
            return rankRules();
        case Slot::Factors:
            return factorMethods();
        case Slot::Layers:
            return layerMethods();
        case Slot::Recover:
            return recoverMethods();
        case Slot::Skip:
            return skipMethods();
    }
    return none;
}

std::vector<MethodInfo> allMethods()
{
    std::vector<MethodInfo> methods;
    // People look for the rule before they look for how factors are made.
    for (const Slot slot :
         {Slot::Score, Slot::Allocate, Slot::Select, Slot::RankRule, Slot::Factors, Slot::Layers, Slot::Recover, Slot::Skip})
        methods.insert(methods.end(), methodsOf(slot).begin(), methodsOf(slot).end());
    return methods;
}

const MethodInfo* findMethod(Slot slot, const std::string& id)
{
    for (const MethodInfo& method : methodsOf(slot))
        if (method.id == id) return &method;
    return nullptr;
}

}  // namespace espalier
