// Where a model computes: on the processor with the kernels of this folder, or on an accelerator with ATen's operations alone. The second
// way is written once for every device; tests run it on the processor and hold it against the first.
#pragma once

#include "base/error.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <string>

namespace espalier
{

struct Placement {
    c10::Device device = c10::kCPU;
    bool portable = false;  // ATen's operations alone; always so on an accelerator
};

// "cpu", "cuda", "cuda:N", or "portable": the accelerator's way on the processor, for tests. Errors: device.unavailable (Resource: this
// build has none, no driver, no such device), usage (not a device).
Result<Placement> placementFor(const std::string& device);

// Bytes of the device's memory that are free now. 0 for the processor.
std::int64_t freeDeviceMemory(const Placement& placement);

// While it lives, what this thread computes takes the portable way wherever it lies.
class PortableScope
{
public:
    explicit PortableScope(bool on);
    ~PortableScope();
    PortableScope(const PortableScope&) = delete;
    PortableScope& operator=(const PortableScope&) = delete;

private:
    bool m_before;
};

// Whether x has to be computed with by ATen's operations: autograd follows them only, a device knows nothing else.
bool takesPortableWay(const at::Tensor& x);

}  // namespace espalier
