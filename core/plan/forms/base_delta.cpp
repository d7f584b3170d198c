// Base and delta: W_e ~ B + U_e V_e, one B for the experts of a layer and kind of matrix. The base is counted where it is listed, once a
// layer; a form counts its delta.
#include "plan/forms/form_rules.h"

namespace espalier
{

namespace
{

Json write(const Structure& structure)
{
    const auto& delta = std::get<BaseDelta>(structure);
    return {{"base", delta.base}, {"bands", toJson(delta.bands)}};
}

Result<Structure> read(const Json& json)
{
    BaseDelta delta;
    delta.base = json.at("base").get<std::string>();
    ESPALIER_TRY(delta.bands, bandsFromJson(json, kBaseDeltaRules.id));
    return Structure(delta);
}

Status check(const SlotShape& slot, const MatrixForm& form, const std::string& where)
{
    return checkBands(slot, std::get<BaseDelta>(form.structure).bands, where);
}

// The product with the base is a whole one.
Footprint footprint(const SlotShape& slot, const MatrixForm& form)
{
    Footprint sum = bandNumbers(slot, std::get<BaseDelta>(form.structure).bands);
    sum.multiplyAdds += slot.out * slot.in;
    return sum;
}

// No layout for a base yet: what is written is the sum.
FlavourSet fits(const MatrixForm&) { return {.stock = false, .factored = false, .reconstructed = true}; }

}  // namespace

const FormRules kBaseDeltaRules = {"base-delta", "shared base and delta", &write, &read, {"base", "bands"}, &check, &footprint, &fits};

}  // namespace espalier
