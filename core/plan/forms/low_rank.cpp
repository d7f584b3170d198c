// Low rank: W ~ U V with U [out, r], V [r, in], in bands of the singular values.
#include "plan/forms/form_rules.h"

#include "plan/model_shape.h"

#include <fmt/format.h>

namespace espalier
{

namespace
{

Json write(const Structure& structure)
{
    const auto& low = std::get<LowRank>(structure);
    Json json = {{"bands", toJson(low.bands)}};
    if (low.bias) json["bias"] = true;
    return json;
}

Result<Structure> read(const Json& json)
{
    LowRank low;
    ESPALIER_TRY(low.bands, bandsFromJson(json, kLowRankRules.id));
    low.bias = json.value("bias", false);
    return Structure(low);
}

Status check(const SlotShape& slot, const MatrixForm& form, const std::string& where)
{
    const auto& low = std::get<LowRank>(form.structure);
    ESPALIER_CHECK_OK(checkBands(slot, low.bands, where));
    if (const int rank = form.plainRank(); rank > breakEvenRank(slot.out, slot.in))
        return badInput("plan.rank_beyond_break_even", where,
                        {"Rank {rank} of {where} is beyond {break_even_rank}, where factors save nothing.",
                         {{"rank", rank}, {"where", where}, {"break_even_rank", breakEvenRank(slot.out, slot.in)}}},
                        "Use 0 for a dense matrix.");
    return {};
}

Footprint footprint(const SlotShape& slot, const MatrixForm& form)
{
    const auto& low = std::get<LowRank>(form.structure);
    Footprint sum = bandNumbers(slot, low.bands);
    if (low.bias && !slot.ownBias) {
        sum.sourceNumbers += slot.out;
        sum.parameters += slot.out;
    }
    return sum;
}

FlavourSet fits(const MatrixForm& form)
{
    // Whole matrices of an expert have no bias to put b into.
    return {.stock = false, .factored = true, .reconstructed = !std::get<LowRank>(form.structure).bias};
}

}  // namespace

const FormRules kLowRankRules = {"low-rank", "low rank", &write, &read, {"bands", "bias"}, &check, &footprint, &fits};

}  // namespace espalier
