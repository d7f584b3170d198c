#include "session/hdf5_writer.h"

#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

namespace espalier::h5
{

namespace
{

constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 62;

using Shared = std::shared_ptr<DeferredWriter>;

// What the library holds of an open file: its own part, and ours.
struct DriverFile : H5FD_t {
    Shared writer;
};

}  // namespace

// The driver's functions, which the library calls. None of them fails for the disk's sake and no exception leaves one.
struct Driver {
    static DeferredWriter& of(H5FD_t* file) { return *static_cast<DriverFile*>(file)->writer; }
    static const DeferredWriter& of(const H5FD_t* file) { return *static_cast<const DriverFile*>(file)->writer; }

    static void* copyInfo(const void* info) { return new (std::nothrow) Shared(*static_cast<const Shared*>(info)); }
    static herr_t freeInfo(void* info)
    {
        delete static_cast<Shared*>(info);
        return 0;
    }
    static H5FD_t* open(const char* /*name*/, unsigned /*flags*/, hid_t list, haddr_t /*most*/)
    {
        const auto* info = static_cast<const Shared*>(H5Pget_driver_info(list));
        return info ? new (std::nothrow) DriverFile{{}, *info} : nullptr;
    }
    static herr_t close(H5FD_t* file)
    {
        delete static_cast<DriverFile*>(file);
        return 0;
    }
    static herr_t query(const H5FD_t* /*file*/, unsigned long* flags)
    {
        // Those of the library's own driver for files, so that it lays the file out in the same way.
        if (flags)
            *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE | H5FD_FEAT_AGGREGATE_SMALLDATA |
                     H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
        return 0;
    }
    static haddr_t allocated(const H5FD_t* file, H5FD_mem_t /*type*/) { return of(file).m_allocated; }
    static herr_t allocate(H5FD_t* file, H5FD_mem_t /*type*/, haddr_t end)
    {
        of(file).m_allocated = end;
        return 0;
    }
    static haddr_t end(const H5FD_t* file, H5FD_mem_t /*type*/) { return of(file).m_end; }
    static herr_t read(H5FD_t* file, H5FD_mem_t /*type*/, hid_t /*list*/, haddr_t offset, std::size_t size, void* bytes)
    {
        of(file).read(offset, static_cast<std::byte*>(bytes), size);
        return 0;
    }
    static herr_t write(H5FD_t* file, H5FD_mem_t type, hid_t /*list*/, haddr_t offset, std::size_t size, const void* bytes)
    {
        of(file).write(type == H5FD_MEM_DRAW, offset, static_cast<const std::byte*>(bytes), size);
        return 0;
    }
    static herr_t truncate(H5FD_t* file, hid_t /*list*/, hbool_t /*closing*/)
    {
        of(file).m_end = of(file).m_allocated;
        return 0;
    }

    static H5FD_class_t describe()
    {
        H5FD_class_t driver = {};
#if H5_VERSION_GE(1, 13, 0)
        driver.version = H5FD_CLASS_VERSION;
        driver.value = static_cast<H5FD_class_value_t>(600);  // 256 to 511 are given out by the HDF Group
#endif
        driver.name = "espalier-deferred";
        driver.maxaddr = kMostBytes;
        driver.fc_degree = H5F_CLOSE_STRONG;
        driver.fapl_size = sizeof(Shared);
        driver.fapl_copy = copyInfo;
        driver.fapl_free = freeInfo;
        driver.open = open;
        driver.close = close;
        driver.query = query;
        driver.get_eoa = allocated;
        driver.set_eoa = allocate;
        driver.get_eof = end;
        driver.read = read;
        driver.write = write;
        driver.truncate = truncate;
        const H5FD_mem_t lists[] = H5FD_FLMAP_DICHOTOMY;
        std::copy(std::begin(lists), std::end(lists), driver.fl_map);
        return driver;
    }
};

std::shared_ptr<DeferredWriter> DeferredWriter::attach(hid_t accessList, int descriptor)
{
    static const H5FD_class_t description = Driver::describe();
    static const hid_t driver = H5FDregister(&description);
    Shared writer(new DeferredWriter(descriptor));
    if (driver < 0 || H5Pset_driver(accessList, driver, &writer) < 0) throw Failure("the driver for writing cannot be set up");
    return writer;
}

void DeferredWriter::put(std::uint64_t offset, const std::byte* bytes, std::size_t size) noexcept
{
    while (size > 0 && m_error == 0) {
        const ssize_t written = ::pwrite(m_descriptor, bytes, size, static_cast<off_t>(offset));
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) {
            m_error = written < 0 ? errno : ENOSPC;
            return;
        }
        bytes += written;
        size -= static_cast<std::size_t>(written);
        offset += static_cast<std::uint64_t>(written);
    }
}

// What was kept of [begin, end) is overwritten.
void DeferredWriter::forget(std::uint64_t begin, std::uint64_t end)
{
    auto it = m_metadata.lower_bound(begin);
    if (it != m_metadata.begin()) {
        const auto before = std::prev(it);
        const std::uint64_t stop = before->first + before->second.size();
        if (stop > end) {
            const auto cut = static_cast<std::ptrdiff_t>(end - before->first);
            m_metadata.emplace(end, std::vector<std::byte>(before->second.begin() + cut, before->second.end()));
        }
        if (stop > begin) before->second.resize(begin - before->first);
    }
    while (it != m_metadata.end() && it->first < end) {
        const std::uint64_t stop = it->first + it->second.size();
        if (stop > end) {
            const auto cut = static_cast<std::ptrdiff_t>(end - it->first);
            m_metadata.emplace(end, std::vector<std::byte>(it->second.begin() + cut, it->second.end()));
        }
        it = m_metadata.erase(it);
    }
}

void DeferredWriter::write(bool raw, std::uint64_t offset, const std::byte* bytes, std::size_t size) noexcept
{
    try {
        forget(offset, offset + size);
        if (raw)
            put(offset, bytes, size);
        else if (size > 0)
            m_metadata.emplace(offset, std::vector<std::byte>(bytes, bytes + size));
    } catch (const std::bad_alloc&) {
        if (m_error == 0) m_error = ENOMEM;
    }
    m_end = std::max(m_end, offset + size);
}

void DeferredWriter::read(std::uint64_t offset, std::byte* bytes, std::size_t size) noexcept
{
    std::fill_n(bytes, size, std::byte{0});
    const std::uint64_t end = offset + size;
    auto it = m_metadata.upper_bound(offset);
    if (it != m_metadata.begin()) --it;
    // Metadata is asked for as it was written, in one piece: the disk is needed for raw data only.
    const bool kept = it != m_metadata.end() && it->first <= offset && it->first + it->second.size() >= end;
    for (std::size_t at = 0; !kept && at < size && m_error == 0;) {
        const ssize_t got = ::pread(m_descriptor, bytes + at, size - at, static_cast<off_t>(offset + at));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) m_error = errno;
        if (got <= 0) break;
        at += static_cast<std::size_t>(got);
    }
    for (; it != m_metadata.end() && it->first < end; ++it) {
        const std::uint64_t begin = std::max(it->first, offset);
        const std::uint64_t stop = std::min(it->first + it->second.size(), end);
        if (begin < stop) std::copy_n(it->second.data() + (begin - it->first), stop - begin, bytes + (begin - offset));
    }
}

int DeferredWriter::finish() noexcept
{
    while (m_error == 0 && ::ftruncate(m_descriptor, static_cast<off_t>(m_end)) != 0)
        if (errno != EINTR) m_error = errno;
    for (const auto& [offset, bytes] : m_metadata)
        put(offset, bytes.data(), bytes.size());
    m_metadata.clear();
    m_descriptor = -1;
    return m_error;
}

}  // namespace espalier::h5
