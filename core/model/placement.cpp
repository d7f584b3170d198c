#include "model/placement.h"

#include "model/moe_model.h"

#include <ATen/DeviceAccelerator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <fmt/format.h>

#include <charconv>

namespace espalier
{

namespace
{

thread_local bool portableHere = false;

constexpr const char* kOnProcessor = "Use --device cpu.";

Error unavailable(const std::string& device, const std::string& why)
{
    return resourceError("device.unavailable", device, {"The device {device} is not available: {why}.", {{"device", device}, {"why", why}}},
                         kOnProcessor);
}

}  // namespace

Result<Placement> placementFor(const std::string& device)
{
    if (device == "cpu") return Placement{};
    if (device == "portable") return Placement{c10::kCPU, true};
    int index = 0;
    bool known = device == "cuda";
    if (!known && device.starts_with("cuda:")) {
        const char* end = device.data() + device.size();
        const auto parsed = std::from_chars(device.data() + 5, end, index);
        known = parsed.ec == std::errc() && parsed.ptr == end && index >= 0 && index < 128;
    }
    if (!known) return usageError({"\"{device}\" is not a device.", {{"device", device}}}, "Use --device cpu, cuda or cuda:N.");
    if (!c10::impl::hasDeviceGuardImpl(c10::kCUDA)) return unavailable(device, "this engine was built for the CPU");
    const int count = static_cast<unsigned char>(c10::impl::getDeviceGuardImpl(c10::kCUDA)->deviceCount());
    if (count == 0) return unavailable(device, "this machine has no NVIDIA GPU, or no driver for it");
    if (index >= count) return unavailable(device, fmt::format("the last one here is cuda:{}", count - 1));
    return Placement{c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index)), true};
}

Status checkDevice(const std::string& device)
{
    if (device == "portable") return usageError("\"portable\" is not a device.", "Use --device cpu, cuda or cuda:N.");
    const auto placement = placementFor(device);
    return placement.ok() ? Status() : Status(placement.error());
}

std::int64_t freeDeviceMemory(const Placement& placement)
{
    if (placement.device.is_cpu()) return 0;
    return static_cast<std::int64_t>(at::accelerator::getMemoryInfo(placement.device.index()).first);
}

PortableScope::PortableScope(bool on) : m_before(portableHere) { portableHere = on || portableHere; }

PortableScope::~PortableScope() { portableHere = m_before; }

bool takesPortableWay(const at::Tensor& x) { return portableHere || x.requires_grad() || !x.is_cpu(); }

}  // namespace espalier
