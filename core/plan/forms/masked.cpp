// Masked: some weights are zero, n of m neighbours along the input or a share of all. Sizes are those of sparse storage, values and one bit
// a weight; runtimes that know nothing of it store the zeros.
#include "plan/forms/form_rules.h"

#include <fmt/format.h>

namespace espalier
{

namespace
{

Json write(const Structure& structure)
{
    const MaskPattern& pattern = std::get<Masked>(structure).pattern;
    if (pattern.of > 0) return {{"kept", pattern.kept}, {"of", pattern.of}};
    return {{"kept_millionths", pattern.keptMillionths}};
}

Result<Structure> read(const Json& json)
{
    Masked masked;
    masked.pattern.kept = json.value("kept", 0);
    masked.pattern.of = json.value("of", 0);
    masked.pattern.keptMillionths = json.value("kept_millionths", 0);
    return Structure(masked);
}

Status check(const SlotShape& slot, const MatrixForm& form, const std::string& where)
{
    const MaskPattern& pattern = std::get<Masked>(form.structure).pattern;
    const bool grouped =
        pattern.of > 0 && pattern.kept > 0 && pattern.kept <= pattern.of && pattern.keptMillionths == 0 && slot.in % pattern.of == 0;
    const bool free = pattern.of == 0 && pattern.kept == 0 && pattern.keptMillionths > 0 && pattern.keptMillionths <= 1'000'000;
    if (!grouped && !free)
        return badInput("plan.invalid", where,
                        {"The mask of {where} keeps {kept} of {of}.", {{"where", where}, {"kept", pattern.kept}, {"of", pattern.of}}},
                        {"Keep 1 to m of m neighbours, m a divisor of {in}, or 1 to 1,000,000 millionths.", {{"in", slot.in}}});
    return {};
}

Footprint footprint(const SlotShape& slot, const MatrixForm& form)
{
    const MaskPattern& pattern = std::get<Masked>(form.structure).pattern;
    const std::int64_t all = slot.out * slot.in;
    const std::int64_t kept = pattern.of > 0 ? all / pattern.of * pattern.kept : all * pattern.keptMillionths / 1'000'000;
    Footprint sum = storedNumbers(kept, slot.out, form.storage);
    sum.packedBytes += (all + 7) / 8;
    sum.multiplyAdds = all;  // dense products: a runtime for sparse ones may do fewer
    return sum;
}

// The zeros are stored: any runtime computes with them.
FlavourSet fits(const MatrixForm& form) { return {.stock = form.storage.bits == 0, .factored = true, .reconstructed = true}; }

}  // namespace

const FormRules kMaskedRules = {"masked", "masked", &write, &read, {"kept", "of", "kept_millionths"}, &check, &footprint, &fits};

}  // namespace espalier
