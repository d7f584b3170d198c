// Through what HDF5 writes. Private to core/session.
//
// The library does not survive a disk that fails: a flush that is refused leaves the file open inside it, and it writes through that file
// once more when the process ends (SIGSEGV in 1.10.8). So no call of it meets the disk's errors. It writes through a driver that always
// succeeds: raw data goes to the descriptor, metadata stays in memory until the library has closed the file, the first error is remembered
// and becomes ours to report.
#pragma once

#include "session/hdf5.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace espalier::h5
{

// One file being written. The library shares the ownership while it has the file open. Under exclusive().
class DeferredWriter
{
public:
    // Makes H5Fcreate with this access list write to `descriptor`, which is open for reading and writing, empty, and the caller's: it stays
    // open until finish(). Throws Failure.
    static std::shared_ptr<DeferredWriter> attach(hid_t accessList, int descriptor);

    // errno of the first operation that failed, 0 as long as none did. From then on raw data is dropped: whoever fills the file may stop.
    int error() const noexcept { return m_error; }
    // After H5Fclose: the metadata goes to the descriptor, which is not used any more. Returns error().
    int finish() noexcept;

private:
    friend struct Driver;
    explicit DeferredWriter(int descriptor) : m_descriptor(descriptor) {}
    void write(bool raw, std::uint64_t offset, const std::byte* bytes, std::size_t size) noexcept;
    void read(std::uint64_t offset, std::byte* bytes, std::size_t size) noexcept;
    void put(std::uint64_t offset, const std::byte* bytes, std::size_t size) noexcept;
    void forget(std::uint64_t begin, std::uint64_t end);

    int m_descriptor;
    int m_error = 0;
    std::uint64_t m_allocated = 0;                               // end of what the library has given addresses to
    std::uint64_t m_end = 0;                                     // end of the file as the library sees it
    std::map<std::uint64_t, std::vector<std::byte>> m_metadata;  // by offset, disjoint
};

}  // namespace espalier::h5
