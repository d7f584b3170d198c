// Dense: the stored matrix, or the checkpoint's own on a grid of few points.
#include "model/form_builder.h"
#include "model/quantise.h"

#include <fmt/format.h>

namespace espalier
{

namespace
{

std::string key(const BuildContext&, const MatrixSlot& slot, const MatrixForm& form)
{
    return fmt::format("dense {} {} {} {}", form.storage.bits, form.storage.group, static_cast<int>(form.storage.scheme), form.values) +
           slot.channelsKey();
}

Result<FormBasis> basis(const BuildContext& context, const MatrixSlot& slot, const MatrixForm& form)
{
    FormBasis result;
    result.stored = typeOf(context, slot).stored;
    ESPALIER_TRY(const at::Tensor whole, wholeMatrix(context, slot, form));
    result.of = onGrid(whole, form.storage).to(result.stored).contiguous();
    return result;
}

Result<FormTerms> terms(const BuildContext&, const MatrixSlot&, const MatrixForm&, const FormBasis& basis)
{
    FormTerms result;
    result.weight = std::get<at::Tensor>(basis.of);
    return result;
}

}  // namespace

const FormBuilder kDenseBuilder = {false, &key, &basis, &terms};

}  // namespace espalier
