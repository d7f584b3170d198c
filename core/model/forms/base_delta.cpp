// Base and delta: B + U V, all three stored; B is one for the experts of the layer that name it.
#include "model/form_builder.h"

#include <fmt/format.h>

namespace espalier
{

namespace
{

std::string key(const BuildContext&, const MatrixSlot& slot, const MatrixForm& form)
{
    return "stored delta " + form.values + slot.channelsKey();
}

Result<FormBasis> basis(const BuildContext& context, const MatrixSlot& slot, const MatrixForm&)
{
    FormBasis result;
    result.stored = typeOf(context, slot).stored;
    return result;
}

Result<FormTerms> terms(const BuildContext& context, const MatrixSlot& slot, const MatrixForm& form, const FormBasis& basis)
{
    const auto& delta = std::get<BaseDelta>(form.structure);
    const SlotType type = typeOf(context, slot);
    // The same factors without the base.
    MatrixForm low{.structure = LowRank{.bands = delta.bands, .bias = false}, .storage = {}, .values = form.values};
    ESPALIER_TRY(FormTerms result, kLowRankBuilder.terms(context, slot, low, basis));
    ESPALIER_TRY(const at::Tensor base, storedNumbers(context, form.values, baseValueName(slot.layer, delta.base), {type.out, type.in}));
    result.weight = base.to(basis.stored).contiguous();
    result.sharedAs = fmt::format("{} {} {}{}", slot.layer, delta.base, form.values, slot.channelsKey());
    return result;
}

}  // namespace

const FormBuilder kBaseDeltaBuilder = {true, &key, &basis, &terms};

}  // namespace espalier
