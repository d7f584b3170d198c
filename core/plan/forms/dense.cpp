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
        return badInput("plan.invalid", where, {"{where} is stored in {bits} bits.", {{"where", where}, {"bits", form.storage.bits}}},
                        "Use 1 to 16, or 0 for the checkpoint's own type.");
    return {};
}

// A checkpoint that stores factors itself keeps them.
Footprint footprint(const SlotShape& slot, const MatrixForm& form)
{
    if (slot.sourceRank > 0 && form.isSource())
        return storedNumbers(slot.sourceRank * (slot.out + slot.in) + (slot.sourceBias ? slot.out : 0), slot.out, form.storage);
    const std::int64_t numbers = slot.out * slot.in;
    return storedNumbers(numbers, slot.out, form.storage);
}

FlavourSet fits(const MatrixForm& form)
{
    // Fewer bits are written as the numbers they stand for, in the checkpoint's own type: they save nothing on disk.
    return {.stock = form.storage.bits == 0, .factored = true, .reconstructed = true};
}

}  // namespace

const FormRules kDenseRules = {"dense", "whole", &write, &read, {}, &check, &footprint, &fits};

}  // namespace espalier
