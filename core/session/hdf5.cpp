#include "session/hdf5.h"

#include "base/atomic_file.h"
#include "base/sha256.h"
#include "session/hdf5_writer.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>

namespace espalier::h5
{

namespace
{

constexpr std::size_t kUserBlock = 512;
constexpr std::uint64_t kMostJson = 256u << 20;

Handle propertyList(hid_t kind)
{
    Handle list(H5Pcreate(kind), H5Pclose, "property list");
    return list;
}

// No times in object headers: equal content gives equal bytes.
Handle objectList(hid_t kind)
{
    Handle list = propertyList(kind);
    if (H5Pset_obj_track_times(list.id(), false) < 0) throw Failure("property list");
    return list;
}

Handle fileAccess()
{
    Handle list = propertyList(H5P_FILE_ACCESS);
    H5Pset_file_locking(list.id(), false, true);
    H5Pset_libver_bounds(list.id(), H5F_LIBVER_V18, H5F_LIBVER_V110);
    H5Pset_fclose_degree(list.id(), H5F_CLOSE_STRONG);
    return list;
}

std::string firstLine(const Format& format, int major, int minor) { return fmt::format("espalier-{} {}.{}\n", format.name, major, minor); }

class Descriptor
{
public:
    Descriptor(const std::filesystem::path& path, int flags) : m_id(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
    ~Descriptor()
    {
        if (m_id >= 0) ::close(m_id);
    }
    Descriptor(const Descriptor&) = delete;
    int id() const { return m_id; }

private:
    int m_id;
};

bool readFully(int descriptor, void* data, std::size_t size, off_t offset)
{
    auto* target = static_cast<char*>(data);
    while (size > 0) {
        const ssize_t got = ::pread(descriptor, target, size, offset);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) errno = EIO;  // shorter than it was a moment ago
        if (got <= 0) return false;
        target += got;
        size -= static_cast<std::size_t>(got);
        offset += got;
    }
    return true;
}

// SHA-256 of the first line and of everything behind the user block.
std::optional<std::string> contentHash(int descriptor, const std::string& line, std::uint64_t length)
{
    Sha256 hash;
    hash.update(line);
    std::vector<std::byte> buffer(1u << 20);
    std::uint64_t offset = kUserBlock;
    while (length > 0) {
        const std::size_t part = static_cast<std::size_t>(std::min<std::uint64_t>(length, buffer.size()));
        if (!readFully(descriptor, buffer.data(), part, static_cast<off_t>(offset))) return std::nullopt;
        hash.update(std::span(buffer.data(), part));
        offset += part;
        length -= part;
    }
    return hash.finish();
}

struct Header {
    int major = 0;
    int minor = 0;
    std::uint64_t length = 0;
    std::string sha256;
};

bool takeNumber(std::string_view& text, auto& value, char end)
{
    const auto [stop, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failure != std::errc() || stop == text.data() + text.size() || *stop != end) return false;
    text.remove_prefix(static_cast<std::size_t>(stop - text.data()) + 1);
    return true;
}

bool take(std::string_view& text, std::string_view expected)
{
    if (!text.starts_with(expected)) return false;
    text.remove_prefix(expected.size());
    return true;
}

enum class HeaderState { Good, Foreign, Damaged };

HeaderState parseHeader(std::string_view text, const Format& format, Header& header)
{
    if (!take(text, fmt::format("espalier-{} ", format.name))) return HeaderState::Foreign;
    if (!takeNumber(text, header.major, '.') || !takeNumber(text, header.minor, '\n')) return HeaderState::Damaged;
    if (!take(text, "length ") || !takeNumber(text, header.length, '\n')) return HeaderState::Damaged;
    if (!take(text, "sha256 ") || text.size() < 65 || text[64] != '\n') return HeaderState::Damaged;
    header.sha256 = text.substr(0, 64);
    text.remove_prefix(65);
    return text.find_first_not_of('\0') == std::string_view::npos ? HeaderState::Good : HeaderState::Damaged;
}

Error readError(const Format& format, const std::filesystem::path& path, const char* what, const std::string& message,
                const std::string& action)
{
    Error error = badInput(fmt::format("{}.{}", format.area, what), path.string(), message, action);
    error.kept = "Nothing was loaded and the file was not changed.";
    return error;
}

// Not the disk's fault.
Error unwritten(const std::filesystem::path& path, const std::string& detail)
{
    Error error = resourceError("output.unwritable", path.string(),
                                {"{path} cannot be written: {detail}.", {{"path", path.string()}, {"detail", detail}}},
                                "Check that nothing else changes the files it is made of, and try again.");
    error.kept = "What was there before is unchanged.";
    return error;
}

std::string quoted(const std::string& name) { return fmt::format("\"{}\"", name); }

}  // namespace

std::unique_lock<std::recursive_mutex> exclusive()
{
    static std::recursive_mutex mutex;
    std::unique_lock lock(mutex);
    static const bool ready = [] {
        // Older libraries know the variable only; it has to be there before the library is used for the first time.
        ::setenv("HDF5_USE_FILE_LOCKING", "FALSE", 1);
        H5open();
        H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
        return true;
    }();
    (void)ready;
    return lock;
}

Handle::Handle(hid_t id, Closer closer, const char* what) : m_id(id), m_closer(closer)
{
    if (id < 0) throw Failure(fmt::format("HDF5 cannot open or create: {}", what));
}

Handle& Handle::operator=(Handle&& other) noexcept
{
    if (this != &other) {
        close();
        m_id = std::exchange(other.m_id, -1);
        m_closer = other.m_closer;
    }
    return *this;
}

void Handle::close() noexcept { (void)closeChecked(); }

bool Handle::closeChecked() noexcept
{
    if (m_id < 0) return true;
    const auto lock = exclusive();
    return m_closer(std::exchange(m_id, -1)) >= 0;
}

Group Group::create(const std::string& name) const
{
    const Handle list = objectList(H5P_GROUP_CREATE);
    return Group(Handle(H5Gcreate2(id(), name.c_str(), H5P_DEFAULT, list.id(), H5P_DEFAULT), H5Gclose, name.c_str()), m_writer);
}

Group Group::open(const std::string& name) const
{
    return Group(Handle(H5Gopen2(id(), name.c_str(), H5P_DEFAULT), H5Gclose, name.c_str()), m_writer);
}

void Group::checkDisk() const
{
    if (m_writer && m_writer->error() != 0) throw Failure(std::strerror(m_writer->error()));
}

bool Group::has(const std::string& name) const { return H5Lexists(id(), name.c_str(), H5P_DEFAULT) > 0; }

std::vector<std::string> Group::links() const
{
    H5G_info_t info = {};
    if (H5Gget_info(id(), &info) < 0) throw Failure("group cannot be listed");
    std::vector<std::string> names;
    for (hsize_t i = 0; i < info.nlinks; ++i) {
        const ssize_t size = H5Lget_name_by_idx(id(), ".", H5_INDEX_NAME, H5_ITER_INC, i, nullptr, 0, H5P_DEFAULT);
        if (size < 0) throw Failure("link name");
        std::string name(static_cast<std::size_t>(size), '\0');
        H5Lget_name_by_idx(id(), ".", H5_INDEX_NAME, H5_ITER_INC, i, name.data(), name.size() + 1, H5P_DEFAULT);
        names.push_back(std::move(name));
    }
    return names;
}

void Group::writeRaw(const std::string& name, hid_t type, const void* data, std::size_t count, const Shape& shape, bool compress) const
{
    std::uint64_t expected = 1;
    std::vector<hsize_t> extent;
    for (const std::uint64_t size : shape) {
        expected *= size;
        extent.push_back(size);
    }
    if (expected != count) throw Failure(fmt::format("array {} has {} elements, its shape says {}", quoted(name), count, expected));
    const Handle space(H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr), H5Sclose, "data space");
    const Handle list = objectList(H5P_DATASET_CREATE);
    H5Pset_fill_time(list.id(), H5D_FILL_TIME_NEVER);
    if (compress && count >= 256) {
        const hsize_t chunk = std::min<hsize_t>(count, 1u << 20);
        H5Pset_chunk(list.id(), 1, &chunk);
        H5Pset_deflate(list.id(), 4);
    }
    const Handle set(H5Dcreate2(id(), name.c_str(), type, space.id(), H5P_DEFAULT, list.id(), H5P_DEFAULT), H5Dclose, name.c_str());
    if (count > 0 && H5Dwrite(set.id(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        throw Failure(fmt::format("array {} cannot be written", quoted(name)));
    checkDisk();
}

std::uint64_t Group::prepareRead(const std::string& name, hid_t type, std::size_t elementSize, Shape* shape) const
{
    if (!has(name)) throw Failure(fmt::format("{} is missing", quoted(name)));
    const Handle set(H5Dopen2(id(), name.c_str(), H5P_DEFAULT), H5Dclose, name.c_str());
    const Handle space(H5Dget_space(set.id()), H5Sclose, "data space");
    const Handle stored(H5Dget_type(set.id()), H5Tclose, "data type");
    if (H5Tget_class(stored.id()) != H5Tget_class(type) || H5Tget_size(stored.id()) != elementSize)
        throw Failure(fmt::format("{} has an unexpected type", quoted(name)));
    const int rank = H5Sget_simple_extent_ndims(space.id());
    if (rank < 1 || (shape && static_cast<std::size_t>(rank) != shape->size() && !shape->empty()) || (!shape && rank != 1))
        throw Failure(fmt::format("{} has an unexpected rank", quoted(name)));
    std::vector<hsize_t> extent(static_cast<std::size_t>(rank));
    H5Sget_simple_extent_dims(space.id(), extent.data(), nullptr);
    // Compressed text may be larger than what is stored, arrays are exactly as large.
    const std::uint64_t storedBytes = H5Dget_storage_size(set.id());
    std::uint64_t most = storedBytes / elementSize;
    const Handle list(H5Dget_create_plist(set.id()), H5Pclose, "property list");
    if (H5Pget_layout(list.id()) == H5D_CHUNKED) most = kMostJson;
    std::uint64_t count = 1;
    for (const hsize_t size : extent) {
        if (size != 0 && count > most / size) throw Failure(fmt::format("{} claims to be larger than it can be", quoted(name)));
        count *= size;
    }
    if (shape) shape->assign(extent.begin(), extent.end());
    return count;
}

void Group::readRaw(const std::string& name, hid_t type, void* data) const
{
    const Handle set(H5Dopen2(id(), name.c_str(), H5P_DEFAULT), H5Dclose, name.c_str());
    if (H5Dread(set.id(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) throw Failure(fmt::format("{} cannot be read", quoted(name)));
}

void Group::writeJson(const std::string& name, const Json& value) const
{
    const std::string text = canonicalJson(value);
    writeRaw(name, H5T_NATIVE_UINT8, text.data(), text.size(), {text.size()}, true);
}

void Group::copyFrom(const Group& source, const std::string& name) const
{
    if (H5Ocopy(source.id(), name.c_str(), id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT) < 0)
        throw Failure(fmt::format("{} cannot be copied", quoted(name)));
    checkDisk();
}

Json Group::readJson(const std::string& name) const
{
    const std::vector<std::byte> bytes = read<std::byte>(name);
    auto value = parseJson(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()), name, "session",
                           {.maxBytes = kMostJson, .maxDepth = 64});
    if (!value.ok()) throw Failure(value.error().message);
    return std::move(value).value();
}

namespace
{

// Fills the user block in.
Status seal(const AtomicFile& output, const Format& format)
{
    struct stat info = {};
    if (::fstat(output.descriptor(), &info) != 0) return output.failure(errno);
    const std::string line = firstLine(format, format.major, format.minor);
    const std::uint64_t length = static_cast<std::uint64_t>(info.st_size) - kUserBlock;
    const auto hash = contentHash(output.descriptor(), line, length);
    if (!hash) return output.failure(errno);
    std::string block = fmt::format("{}length {}\nsha256 {}\n", line, length, *hash);
    block.resize(kUserBlock, '\0');
    std::size_t done = 0;
    while (done < block.size()) {
        const ssize_t written = ::pwrite(output.descriptor(), block.data() + done, block.size() - done, static_cast<off_t>(done));
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return output.failure(written < 0 ? errno : ENOSPC);
        done += static_cast<std::size_t>(written);
    }
    return {};
}

}  // namespace

Status writeContainer(const std::filesystem::path& path, const Format& format, std::int64_t estimate,
                      const std::function<void(const Group&)>& fill)
{
    const auto lock = exclusive();
    if (const auto free = freeDiskBytes(path); free.ok() && *free < estimate + (1 << 16)) {
        Error error = resourceError("output.disk_full", path.string(),
                                    {"{path} needs {estimate} MB, {free} MB are free.",
                                     {{"path", path.string()}, {"estimate", (estimate >> 20) + 1}, {"free", *free >> 20}}},
                                    "Free some space or choose another folder.");
        error.kept = "What was there before is unchanged.";
        return error;
    }
    ESPALIER_TRY(AtomicFile output, AtomicFile::create(path));
    std::shared_ptr<DeferredWriter> writer;
    std::optional<Error> failed;
    try {
        const Handle access = fileAccess();
        writer = DeferredWriter::attach(access.id(), output.descriptor());
        const Handle creation = objectList(H5P_FILE_CREATE);
        H5Pset_userblock(creation.id(), kUserBlock);
        Handle file(H5Fcreate(output.temporaryPath().c_str(), H5F_ACC_TRUNC, creation.id(), access.id()), H5Fclose, "file");
        {
            const Group root(Handle(H5Gopen2(file.id(), "/", H5P_DEFAULT), H5Gclose, "/"), writer.get());
            fill(root);
        }
        if (!file.closeChecked()) failed = unwritten(path, "the data could not be flushed");
    } catch (const std::exception& failure) {
        failed = unwritten(path, failure.what());
    }
    if (writer && writer->error() != 0) return output.failure(writer->error());
    if (failed) return *failed;
    if (const int number = writer->finish(); number != 0) return output.failure(number);
    ESPALIER_CHECK_OK(seal(output, format));
    return output.commit();
}

namespace
{

Result<Header> checkHeader(int descriptor, const std::filesystem::path& path, const Format& format, std::string& block)
{
    if (descriptor < 0) {
        const int number = errno;
        return readError(format, path, number == ENOENT ? "missing" : "unreadable",
                         fmt::format("{} cannot be opened: {}.", path.string(), std::strerror(number)),
                         "Check the path and its permissions.");
    }
    struct stat info = {};
    if (::fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode))
        return readError(format, path, "unreadable", fmt::format("{} is not a file.", path.string()), "Choose a file.");
    const std::string name = std::string("espalier-") + format.name;
    block.assign(kUserBlock, '\0');
    const std::size_t size = std::min(kUserBlock, static_cast<std::size_t>(info.st_size));
    if (!readFully(descriptor, block.data(), size, 0))
        return readError(format, path, "unreadable", fmt::format("{} cannot be read.", path.string()), "Check the disk.");
    Header header;
    const HeaderState state = parseHeader(block, format, header);
    const std::string what = std::string("not_a_") + format.name;
    if (state == HeaderState::Foreign)
        return readError(format, path, what.c_str(), fmt::format("{} is not an Espalier {} file.", path.string(), format.name),
                         fmt::format("Choose a file that Espalier wrote as a {}.", format.name));
    const std::uint64_t there =
        static_cast<std::uint64_t>(info.st_size) < kUserBlock ? 0 : static_cast<std::uint64_t>(info.st_size) - kUserBlock;
    if (state == HeaderState::Good && there < header.length)
        return readError(format, path, "truncated",
                         fmt::format("{} ends early: {} of {} bytes are there.", path.string(), there, header.length),
                         "Copy the file again, or open an older copy.");
    if (state == HeaderState::Damaged || there != header.length)
        return readError(format, path, size < kUserBlock ? "truncated" : "damaged",
                         fmt::format("{} is damaged: its header does not fit its content.", path.string()), "Open an older copy.");
    return header;
}

}  // namespace

Result<ContainerHeader> readContainerHeader(const std::filesystem::path& path, const Format& format)
{
    const Descriptor file(path, O_RDONLY);
    std::string block;
    ESPALIER_TRY(Header header, checkHeader(file.id(), path, format, block));
    return ContainerHeader{.major = header.major, .minor = header.minor, .sha256 = header.sha256};
}

Result<OpenedContainer> openContainer(const std::filesystem::path& path, const Format& format)
{
    const auto lock = exclusive();
    const Descriptor file(path, O_RDONLY);
    std::string block;
    ESPALIER_TRY(Header header, checkHeader(file.id(), path, format, block));
    const auto hash = contentHash(file.id(), block.substr(0, block.find('\n') + 1), header.length);
    if (!hash) return readError(format, path, "unreadable", fmt::format("{} cannot be read.", path.string()), "Check the disk.");
    if (*hash != header.sha256)
        return readError(format, path, "damaged", fmt::format("{} is damaged: its checksum does not match.", path.string()),
                         "Open an older copy.");
    try {
        const Handle access = fileAccess();
        Handle handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id()), H5Fclose, "file");
        Group root(Handle(H5Gopen2(handle.id(), "/", H5P_DEFAULT), H5Gclose, "/"));
        return OpenedContainer{std::move(handle), std::move(root), header.major, header.minor, header.sha256};
    } catch (const Failure& failure) {
        return readError(format, path, "damaged", fmt::format("{}: {}.", path.string(), failure.what()), "Open an older copy.");
    }
}

std::vector<std::byte> copyOut(const Group& root, const std::vector<std::string>& names)
{
    if (names.empty()) return {};
    const Handle access = fileAccess();
    H5Pset_fapl_core(access.id(), 1u << 16, false);
    // The image of an open file has its superblock changed without a new checksum (1.10.8); the oldest superblock has none.
    H5Pset_libver_bounds(access.id(), H5F_LIBVER_EARLIEST, H5F_LIBVER_V110);
    const Handle creation = objectList(H5P_FILE_CREATE);
    const Handle memory(H5Fcreate("unknown-parts", H5F_ACC_TRUNC, creation.id(), access.id()), H5Fclose, "file in memory");
    for (const std::string& name : names)
        if (H5Ocopy(root.id(), name.c_str(), memory.id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT) < 0)
            throw Failure(fmt::format("{} cannot be copied", quoted(name)));
    H5Fflush(memory.id(), H5F_SCOPE_GLOBAL);
    const ssize_t size = H5Fget_file_image(memory.id(), nullptr, 0);
    if (size < 0) throw Failure("file in memory");
    std::vector<std::byte> image(static_cast<std::size_t>(size));
    if (H5Fget_file_image(memory.id(), image.data(), image.size()) < 0) throw Failure("file in memory");
    return image;
}

void copyIn(const Group& root, std::span<const std::byte> image)
{
    if (image.empty()) return;
    const Handle access = fileAccess();
    H5Pset_fapl_core(access.id(), 1u << 16, false);
    // The library takes a pointer to non-const and copies from it.
    if (H5Pset_file_image(access.id(), const_cast<std::byte*>(image.data()), image.size()) < 0) throw Failure("file in memory");
    const Handle memory(H5Fopen("unknown-parts", H5F_ACC_RDONLY, access.id()), H5Fclose, "file in memory");
    const Group from(Handle(H5Gopen2(memory.id(), "/", H5P_DEFAULT), H5Gclose, "/"));
    for (const std::string& name : from.links())
        if (!root.has(name) && H5Ocopy(from.id(), name.c_str(), root.id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT) < 0)
            throw Failure(fmt::format("{} cannot be copied", quoted(name)));
}

}  // namespace espalier::h5
