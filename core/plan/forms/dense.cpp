// Dense: the whole matrix, at the source's dtype or quantised.
#include "plan/forms/form_rules.h"

#include <fmt/format.h>

namespace espalier
{

namespace
{

Json write(const Structure&) { return Json::object(); }
Result<Structure> read(const Json&) { return Structure(Dense{}); }

Status check(const SlotShape&, const MatrixForm& form, const std::string& where)
{
    if (form.storage.bits < 0 || form.storage.bits > 16)
        return badInput("plan.invalid", where, fmt::format("{} is stored in {} bits.", where, form.storage.bits),
                        "Use 1 to 16, or 0 for the checkpoint's own type.");
    return {};
}

// A checkpoint that stores factors itself keeps them.
Footprint footprint(const SlotShape& slot, const MatrixForm& form)
{
    const std::int64_t numbers =
        slot.sourceRank > 0 && form.storage.bits == 0 ? slot.sourceRank * (slot.out + slot.in) : slot.out * slot.in;
    return storedNumbers(numbers, slot.out, form.storage);
}

FlavourSet fits(const MatrixForm& form)
{
    const bool source = form.storage.bits == 0;
    return {.stock = source, .factored = source, .reconstructed = source};
}

}  // namespace

const FormRules kDenseRules = {"dense", "whole", &write, &read, {}, &check, &footprint, &fits};

}  // namespace espalier
