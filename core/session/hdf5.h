// The only place that speaks HDF5: a thin RAII layer over the C API, and the container that all our .h5 and .espalier files are.
// Private to core/session. Inside this folder failures are the exception Failure; public functions turn it into an Error.
//
// Container: a 512-byte user block of text lines
//     espalier-session 1.0
//     length <bytes after the block>
//     sha256 <of the first line and everything after the block>
// then an ordinary HDF5 file, which h5dump and h5py open as it is. Damage is therefore found before HDF5 parses anything; a
// bit flip inside metadata can crash the library otherwise.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <hdf5.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace espalier::h5
{

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Held around every sequence of HDF5 calls, the closing of handles included: a thread-safe build of the library protects single
// calls only. The first lock also switches HDF5's own file locking off, which fails on some network disks.
std::unique_lock<std::recursive_mutex> exclusive();

// Owns one identifier of any kind.
class Handle
{
public:
    using Closer = herr_t (*)(hid_t);
    Handle() = default;
    Handle(hid_t id, Closer closer, const char* what);  // throws when id < 0
    Handle(Handle&& other) noexcept : m_id(std::exchange(other.m_id, -1)), m_closer(other.m_closer) {}
    Handle& operator=(Handle&& other) noexcept;
    ~Handle() { close(); }
    void close() noexcept;
    bool closeChecked() noexcept;  // false: the library could not
    hid_t id() const noexcept { return m_id; }

private:
    hid_t m_id = -1;
    Closer m_closer = nullptr;
};

template <typename T>
hid_t nativeType();
template <>
inline hid_t nativeType<double>()
{
    return H5T_NATIVE_DOUBLE;
}
template <>
inline hid_t nativeType<float>()
{
    return H5T_NATIVE_FLOAT;
}
template <>
inline hid_t nativeType<std::int64_t>()
{
    return H5T_NATIVE_INT64;
}
template <>
inline hid_t nativeType<std::int32_t>()
{
    return H5T_NATIVE_INT32;
}
template <>
inline hid_t nativeType<std::uint16_t>()
{
    return H5T_NATIVE_UINT16;
}
template <>
inline hid_t nativeType<std::byte>()
{
    return H5T_NATIVE_UINT8;
}

using Shape = std::vector<std::uint64_t>;

class DeferredWriter;

class Group
{
public:
    // `writer`: of the file, where it is being written; it lives as long as the group. What is written ends with a Failure once the disk
    // has failed.
    explicit Group(Handle handle, const DeferredWriter* writer = nullptr) : m_handle(std::move(handle)), m_writer(writer) {}
    hid_t id() const noexcept { return m_handle.id(); }

    Group create(const std::string& name) const;
    Group open(const std::string& name) const;
    bool has(const std::string& name) const;
    std::vector<std::string> links() const;  // by name

    // Row-major, stored little-endian. Contiguous; `compress` for text and other things that are read as a whole.
    template <typename T>
    void write(const std::string& name, std::span<const T> values, const Shape& shape) const
    {
        writeRaw(name, nativeType<T>(), values.data(), values.size(), shape, false);
    }
    template <typename T>
    void write(const std::string& name, const std::vector<T>& values) const
    {
        write(name, std::span<const T>(values), {values.size()});
    }
    // Throws when the rank or the type class differs, or when the dataset claims more than the file can hold.
    template <typename T>
    std::vector<T> read(const std::string& name, Shape* shape = nullptr) const
    {
        const std::uint64_t count = prepareRead(name, nativeType<T>(), sizeof(T), shape);
        std::vector<T> values(count);
        readRaw(name, nativeType<T>(), values.data());
        return values;
    }
    void writeJson(const std::string& name, const Json& value) const;   // canonical text, compressed
    void copyFrom(const Group& source, const std::string& name) const;  // with everything below it; may be of another file
    Json readJson(const std::string& name) const;

private:
    void writeRaw(const std::string& name, hid_t type, const void* data, std::size_t count, const Shape& shape, bool compress) const;
    std::uint64_t prepareRead(const std::string& name, hid_t type, std::size_t elementSize, Shape* shape) const;
    void readRaw(const std::string& name, hid_t type, void* data) const;
    void checkDisk() const;

    Handle m_handle;
    const DeferredWriter* m_writer;
};

struct Format {
    const char* name;  // "session"
    const char* area;  // prefix of error codes
    int major;
    int minor;
};

// Writes `path` as a whole: `fill` gets the root group of a temporary sibling, which is completed, flushed and renamed. The library never
// sees an error of the disk (hdf5_writer.h). `estimate`: bytes that will be needed at least. Errors: output.unwritable, output.disk_full.
Status writeContainer(const std::filesystem::path& path, const Format& format, std::int64_t estimate,
                      const std::function<void(const Group&)>& fill);

struct OpenedContainer {
    Handle file;  // first, so that it is closed last: closing it closes what is open in it
    Group root;
    int major = 0;
    int minor = 0;
    std::string sha256;
};
// Errors: <area>.missing, .unreadable, .not_a_<name>, .truncated, .damaged. The version is the caller's to judge.
Result<OpenedContainer> openContainer(const std::filesystem::path& path, const Format& format);
// The header alone: no checksum is computed.
struct ContainerHeader {
    int major = 0;
    int minor = 0;
    std::string sha256;
};
Result<ContainerHeader> readContainerHeader(const std::filesystem::path& path, const Format& format);

// A file in memory with copies of the root's links named in `names`; and back. Empty when there are none.
std::vector<std::byte> copyOut(const Group& root, const std::vector<std::string>& names);
void copyIn(const Group& root, std::span<const std::byte> image);

}  // namespace espalier::h5
