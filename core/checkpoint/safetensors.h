// safetensors files: a reader that believes nothing it has not checked against the file, and a writer whose output
// is byte for byte what safetensors.torch.save_file writes.
#pragma once

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/mapped_file.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

// In the writer's order: tensors are laid out by dtype descending, then by name.
enum class DType {
    Bool,
    F4,
    F6E2M3,
    F6E3M2,
    U8,
    I8,
    F8E5M2,
    F8E4M3,
    F8E8M0,
    F8E4M3Fnuz,
    F8E5M2Fnuz,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
};

int dtypeBits(DType dtype) noexcept;
std::string_view dtypeName(DType dtype) noexcept;  // "BF16"
std::optional<DType> parseDType(std::string_view name) noexcept;
// F16, BF16, F32, F64: what weights may be stored in without a scale beside them.
bool isFloating(DType dtype) noexcept;

struct TensorInfo {
    std::string name;
    DType dtype = DType::F32;
    std::vector<std::int64_t> shape;
    std::uint64_t begin = 0;  // in the data buffer, which begins after the header
    std::uint64_t end = 0;

    std::uint64_t byteCount() const noexcept { return end - begin; }
    std::int64_t elementCount() const noexcept;  // 1 for rank 0
};

// "[2, 3]"
std::string shapeText(std::span<const std::int64_t> shape);

// An open file: header parsed and checked, data mapped and never touched. Immutable after open, any thread.
class SafetensorsFile
{
public:
    // The header is scanned as a stream of events: no document is built, memory stays proportional to the entries that are there.
    // NaN and infinities in the data are legal. Errors (bad input, subject = file name): checkpoint.missing, checkpoint.unreadable,
    // checkpoint.truncated, checkpoint.header_length, checkpoint.header_invalid, checkpoint.duplicate_tensor, checkpoint.tensor_entry,
    // checkpoint.dtype_unknown, checkpoint.tensor_size, checkpoint.tensor_offsets. Messages name file and tensor.
    static Result<SafetensorsFile> open(const std::filesystem::path& path);

    const std::vector<TensorInfo>& tensors() const noexcept { return m_tensors; }  // in offset order
    const TensorInfo* find(std::string_view name) const noexcept;                  // null: not there
    // The tensor's bytes in the mapping; no alignment is promised. `info` must be one of tensors().
    std::span<const std::byte> bytes(const TensorInfo& info) const noexcept;
    const std::map<std::string, std::string>& metadata() const noexcept { return m_metadata; }  // __metadata__

    const MappedFile& file() const noexcept { return m_file; }
    std::uint64_t dataOffset() const noexcept { return m_dataOffset; }  // of the data buffer in the file
    std::string_view header() const noexcept;                           // the JSON bytes, padding included

private:
    MappedFile m_file;
    std::uint64_t m_dataOffset = 0;
    std::vector<TensorInfo> m_tensors;
    std::vector<std::uint32_t> m_byName;  // indices into m_tensors
    std::map<std::string, std::string> m_metadata;
};

struct TensorDeclaration {
    std::string name;
    DType dtype = DType::F32;
    std::vector<std::int64_t> shape;
};

// Writes one file tensor by tensor: all are declared first, then their bytes follow in order(). Nothing appears under `path` before
// finish(); a writer that goes away earlier removes its temporary file.
class SafetensorsWriter
{
public:
    // Errors: checkpoint.duplicate_tensor, checkpoint.tensor_size (declaration that no file could hold), output.*.
    static Result<SafetensorsWriter> create(const std::filesystem::path& path, std::vector<TensorDeclaration> tensors,
                                            const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

    // The order in which the bytes must come, with their place in the file.
    const std::vector<TensorInfo>& order() const noexcept { return m_order; }
    std::uint64_t fileBytes() const noexcept { return m_headerBytes + m_dataBytes; }
    // The file while it is being written, and how much of it is there, header included.
    const std::filesystem::path& temporaryPath() const noexcept { return m_file.temporaryPath(); }
    std::uint64_t writtenBytes() const noexcept { return m_headerBytes + m_written; }

    // Bytes of the next tensor, whole or in pieces; a call may not reach into the tensor after it. Writing more than was declared is
    // a bug of the caller and gives internal.bug.
    Status write(std::span<const std::byte> bytes);
    // Index in order() of the tensor that the next byte belongs to; order().size() when all are written.
    std::size_t next() const noexcept { return m_next; }
    Status finish();

private:
    explicit SafetensorsWriter(AtomicFile file) : m_file(std::move(file)) {}
    void skipFinished() noexcept;

    AtomicFile m_file;
    std::vector<TensorInfo> m_order;
    std::uint64_t m_headerBytes = 0;
    std::uint64_t m_dataBytes = 0;
    std::uint64_t m_written = 0;  // of the data
    std::size_t m_next = 0;
};

// The length field and the padded JSON header for tensors in their final order: what precedes the data in a file.
std::string safetensorsHeader(std::span<const TensorInfo> order, const std::map<std::string, std::string>& metadata);

}  // namespace espalier
