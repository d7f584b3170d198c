// The weights of the routed experts, for scores that read them: MethodInfo::needs names "weights" then. Who holds a checkpoint implements
// it (pipeline/checkpoint_weights.h).
#pragma once

#include "base/error.h"

#include <vector>

namespace espalier
{

class ExpertMatrices
{
public:
    virtual ~ExpertMatrices() = default;
    // W [out,in] of one expert in fp32, row by row: matrix 0 gate and 1 up [I,H], 2 down [H,I]. Empty where the model holds a constant in
    // the expert's place. Any thread. Errors: those of reading.
    virtual Result<std::vector<float>> matrix(int layer, int expert, int matrix) const = 0;
};

}  // namespace espalier
