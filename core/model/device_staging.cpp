#include "model/device_staging.h"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace espalier
{

DeviceStaging::DeviceStaging(c10::Device device) : m_device(device)
{
    if (device.is_cpu()) return;
    m_stream = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device, false);
    for (Slab& slab : m_slabs)
        slab.copied.emplace(device.type());
}

DeviceStaging::~DeviceStaging()
{
    try {
        finish();
    } catch (const std::exception&) {
        // A device that failed was reported by the call that used it; its memory goes with the process.
        m_stream.reset();
    }
}

at::Tensor DeviceStaging::buffer(at::IntArrayRef shape, at::ScalarType type)
{
    Slab& slab = m_slabs[m_current];
    if (slab.copied) slab.copied->synchronize();
    const std::int64_t bytes = c10::multiply_integers(shape) * static_cast<std::int64_t>(c10::elementSize(type));
    if (!slab.bytes.defined() || slab.bytes.numel() < bytes)
        slab.bytes = at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(m_stream.has_value()));
    return slab.bytes.narrow(0, 0, bytes).view(type).view(shape);
}

at::Tensor DeviceStaging::send(const at::Tensor& buffer)
{
    if (!m_stream) return buffer.clone();
    const c10::StreamGuard guard(*m_stream);
    at::Tensor copy = at::empty(buffer.sizes(), at::TensorOptions(buffer.scalar_type()).device(m_device));
    copy.copy_(buffer, /*non_blocking=*/true);
    m_slabs[m_current].copied->record(*m_stream);
    m_current = 1 - m_current;
    return copy;
}

void DeviceStaging::finish()
{
    for (Slab& slab : m_slabs)
        if (slab.copied) slab.copied->synchronize();
}

}  // namespace espalier
