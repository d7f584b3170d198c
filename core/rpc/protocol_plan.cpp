#include "rpc/protocol_plan.h"

#include "rpc/fields.h"
#include "rpc/recipe_json.h"

namespace espalier
{

template <typename Fields, Is<SearchSummary> Message>
void fields(Fields& f, Message& m)
{
    f.required("measured", m.measured);
    f.required("moves", m.moves);
    f.required("passes", m.passes);
    f.required("rank_given_back", m.rankGivenBack);
    f.required("end", m.end);
    f.required("change", m.change);
    f.nullable("against_given", m.againstGiven);
    f.nullable("locked_change", m.lockedChange);
    f.required("trace", m.trace);
}
ESPALIER_PROTOCOL_JSON(SearchSummary);

template <typename Fields, Is<RecoverSummary> Message>
void fields(Fields& f, Message& m)
{
    f.required("method", m.method);
    f.required("accepted", m.accepted);
    f.required("changed", m.changed);
    f.optional("cancelled", m.cancelled);
    f.required("windows", m.windows);
    f.required("nll_dense", m.nllDense);
    f.required("nll_before", m.nllBefore);
    f.required("nll_after", m.nllAfter);
    f.required("change", m.change);
}
ESPALIER_PROTOCOL_JSON(RecoverSummary);

template <typename Fields, Is<PlanAnswer> Message>
void fields(Fields& f, Message& m)
{
    f.required("plan", m.plan);
    f.required("plan_hash", m.planHash);
    f.required("keep", m.keep);
    f.required("stages", m.stages);
    f.required("warnings", m.warnings);
    f.required("recovered", m.recovered);
    f.nullable("exchange", m.exchange);
    f.maybe("recovery", m.recovery);
    f.required("cost", m.cost);
    f.required("seconds", m.seconds);
}
ESPALIER_PROTOCOL_JSON(PlanAnswer);

template <typename Fields, Is<PlanRequest> Message>
void fields(Fields& f, Message& m)
{
    f.required("path", m.path);
    f.required("profile", m.profile);
    f.paths("base_profiles", m.baseProfiles);
    f.document("plan", m.plan, false);
    if constexpr (Fields::kReads)
        m.recipe = recipeFromRequest(f.object("recipe", true));
    else
        f.set("recipe", requestJson(m.recipe));
    fields(f, m.text);
    f.optional("windows", m.windows, 0, 0);
    f.paths("locked", m.locked);
    f.optional("state", m.state);
    f.optional("resume", m.resume);
    f.optional("values", m.values);
    f.optional("recover_only", m.recoverOnly);
}
ESPALIER_PROTOCOL_JSON(PlanRequest);

}  // namespace espalier
