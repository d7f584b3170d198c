// How the weights of a model are held within a memory budget. Private to core/model.
#pragma once

#include "model/moe_model.h"
#include "model/weight_store.h"
#include "plan/model_shape.h"

#include <cstdint>
#include <string>
#include <vector>

namespace espalier
{

struct Residence {
    WeightStore::Holding holding;
    std::int64_t spare = 0;     // bytes beside the weights, for caches and sums
    std::int64_t streamed = 0;  // bytes that layers take which come and go; 0: all stay
    std::vector<std::string> warnings;
};

// Everything stays if it fits beside room to compute in. Else layers are streamed, two at a time if both fit, and what is left holds as
// many as it can for the next pass. Where one layer does not fit beside the output head, the head is converted block by block; where it
// does not fit then either, so are its experts: as many are held as fit, the others are converted each time they are used. Where not even
// one expert fits, it is used all the same, and said. `valueBytes`: of the compute type. `blocks`: whether the head and experts can be
// converted piece by piece (not on a device).
Residence residenceOf(const ModelShape& shape, std::int64_t valueBytes, const ModelOptions& options, bool blocks);

}  // namespace espalier
