// Where a search evaluates its candidates: on the processor, or on a GPU (core/search/cuda) in builds that have its kernels.
#pragma once

#include "search/selector.h"

#include <string>

namespace espalier
{

// For SelectOptions::batch. Empty for the processor. Layers that the kernels do not cover are searched on the processor.
BatchFactory batchFactoryFor(const std::string& device);

}  // namespace espalier
