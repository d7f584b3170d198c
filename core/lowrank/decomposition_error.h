// What a decomposition that threw is reported as. Private to core/lowrank.
#pragma once

#include "base/error.h"

#include <exception>

namespace espalier
{

// LAPACK gave up, or a second moment is not positive: lowrank.no_convergence, the matrix is at fault. Memory ran out:
// lowrank.out_of_memory. Anything else is a fault of ours.
Error decompositionError(const std::exception& failure);

}  // namespace espalier
