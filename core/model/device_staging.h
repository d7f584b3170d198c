// Brings weights to a device: two buffers of pinned memory by turns, so that one is filled from the file while the other is copied. The
// copies run on a stream of their own, beside what the device computes.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <array>
#include <cstddef>
#include <optional>

namespace espalier
{

// Belongs to one thread. For the processor (tests) a copy is a copy: nothing is pinned and nothing runs beside.
class DeviceStaging
{
public:
    explicit DeviceStaging(c10::Device device);
    ~DeviceStaging();
    DeviceStaging(const DeviceStaging&) = delete;
    DeviceStaging& operator=(const DeviceStaging&) = delete;

    // Row-major memory on the host to fill; waits for the copy that used it two buffers ago. Valid until it was sent.
    at::Tensor buffer(at::IntArrayRef shape, at::ScalarType type);
    // Begins to copy the buffer handed out last, and returns its copy on the device, which is whole after finish().
    at::Tensor send(const at::Tensor& buffer);
    // Waits for all copies.
    void finish();

private:
    struct Slab {
        at::Tensor bytes;
        std::optional<c10::Event> copied;
    };
    c10::Device m_device;
    std::optional<c10::Stream> m_stream;
    std::array<Slab, 2> m_slabs;
    std::size_t m_current = 0;
};

}  // namespace espalier
