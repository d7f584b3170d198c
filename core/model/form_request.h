// A matrix that is wanted in the form a plan gives it.
#pragma once

#include "plan/layer_plan.h"
#include "plan/matrix_form.h"

namespace espalier
{

struct FormRequest {
    int expert = 0;  // original id, first source of the body
    int matrix = 0;  // 0 gate, 1 up, 2 down
    const MatrixForm* form = nullptr;
    const ChannelSet* channels = nullptr;  // of the body; null or empty: all
    LinearId linear = {};                  // where it is a linear map beside the experts: its name, and no expert
};

}  // namespace espalier
