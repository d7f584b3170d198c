#include "lowrank/decomposition_error.h"

#include "base/exception.h"

#include <c10/util/Exception.h>

#include <stdexcept>

namespace espalier
{

Error decompositionError(const std::exception& failure)
{
    const bool gaveUp =
        dynamic_cast<const c10::LinAlgError*>(&failure) != nullptr || dynamic_cast<const std::runtime_error*>(&failure) != nullptr;
    if (gaveUp && !isOutOfMemory(failure))
        return badInput("lowrank.no_convergence", "weight", "The decomposition failed: " + causeOf(failure) + ".");
    return errorOf(failure,
                   resourceError("lowrank.out_of_memory", "weight", "There was not enough memory to decompose a matrix.",
                                 "Close other programs, or use fewer threads."),
                   "The decomposition");
}

}  // namespace espalier
