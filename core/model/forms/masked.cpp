// Masked: weights that are zero. Stored weights, or a stored mask on the checkpoint's, or neither: then the weights of largest magnitude
// stay (Han et al., arXiv 1506.02626), of each group of m neighbours along the input or of the whole matrix; ties to the lower place.
#include "model/form_builder.h"
#include "model/quantise.h"

#include <fmt/format.h>

namespace espalier
{

namespace
{

std::string key(const BuildContext&, const MatrixSlot& slot, const MatrixForm& form)
{
    const MaskPattern& pattern = std::get<Masked>(form.structure).pattern;
    return fmt::format("masked {} {} {} {} {} {} {}", pattern.kept, pattern.of, pattern.keptMillionths, form.storage.bits,
                       form.storage.group, static_cast<int>(form.storage.scheme), form.values) +
           slot.channelsKey();
}

// Rows of weights that a pattern counts in, and how many of each stay.
struct Counted {
    at::Tensor rows;
    std::int64_t kept = 0;
};

Counted counted(const at::Tensor& of, const MaskPattern& pattern)
{
    if (pattern.of > 0) return {of.reshape({-1, pattern.of}), pattern.kept};
    return {of.reshape({1, -1}), of.numel() * pattern.keptMillionths / 1'000'000};
}

at::Tensor largest(const at::Tensor& weight, const MaskPattern& pattern)
{
    const Counted all = counted(weight.abs(), pattern);
    const at::Tensor order = at::argsort(all.rows, /*stable=*/true, /*dim=*/1, /*descending=*/true);
    return at::zeros_like(all.rows).scatter_(1, order.narrow(1, 0, all.kept), 1.0).reshape(weight.sizes());
}

Result<FormBasis> basis(const BuildContext& context, const MatrixSlot& slot, const MatrixForm& form)
{
    const MaskPattern& pattern = std::get<Masked>(form.structure).pattern;
    const SlotType type = typeOf(context, slot);
    FormBasis result;
    result.stored = type.stored;
    const std::string maskName = slot.valueName("mask");
    const bool storedAsMask = !form.values.empty() && hasStored(context, form.values, maskName);
    ESPALIER_TRY(const at::Tensor weight, wholeMatrix(context, slot, storedAsMask ? MatrixForm{} : form));
    at::Tensor mask;
    if (form.values.empty()) {
        mask = largest(weight, pattern);
    } else {
        if (storedAsMask) {
            ESPALIER_TRY(mask, storedMask(context, form.values, maskName, {type.out, type.in}));
        } else {
            mask = weight.ne(0).to(at::kFloat);
        }
        const Counted all = counted(mask, pattern);
        if (all.rows.sum({1}, false, at::kDouble).max().item<double>() > static_cast<double>(all.kept))
            return badInput("plan.values_damaged", maskName,
                            {"More weights of {matrix} are stored than its mask keeps.", {{"matrix", slot.words()}}},
                            "Make the values file of this plan again, or the plan.");
    }
    result.of = (onGrid(weight * mask, form.storage) * mask).to(type.stored).contiguous();
    return result;
}

Result<FormTerms> terms(const BuildContext&, const MatrixSlot&, const MatrixForm&, const FormBasis& basis)
{
    FormTerms result;
    result.weight = std::get<at::Tensor>(basis.of);
    return result;
}

}  // namespace

const FormBuilder kMaskedBuilder = {false, &key, &basis, &terms};

}  // namespace espalier
