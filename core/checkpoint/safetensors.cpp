#include "checkpoint/safetensors.h"

#include "base/json.h"
#include "base/text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <numeric>

namespace espalier
{

namespace
{

struct DTypeRow {
    const char* name;
    int bits;
};

constexpr std::array<DTypeRow, 22> kDTypes = {{
    {"BOOL", 8},    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16}, {"F16", 16}, {"BF16", 16},   {"I32", 32},
    {"U32", 32},    {"F32", 32},        {"C64", 64},        {"F64", 64},    {"I64", 64}, {"U64", 64},
}};

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::uint64_t kMaxNumber = std::uint64_t(1) << 48;
constexpr std::size_t kMaxRank = 8;
constexpr std::size_t kMaxNameBytes = 1024;
constexpr const char* kMetadataKey = "__metadata__";
constexpr const char* kDamaged = "The file is damaged or incomplete: fetch it again.";

// For messages: control characters and overlong names must not reach a terminal.
std::string printable(std::string_view name)
{
    std::string text;
    for (const char c : name.substr(0, 120))
        text += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
    if (name.size() > 120) {
        while (!text.empty() && invalidUtf8Offset(text))
            text.pop_back();
        text += "...";
    }
    return text;
}

// Bytes of a tensor, or nothing when the product leaves 64 bits or is no whole number of bytes.
std::optional<std::uint64_t> tensorBytes(DType dtype, std::span<const std::int64_t> shape)
{
    std::uint64_t count = 1;
    for (const std::int64_t dimension : shape)
        if (dimension < 0 || __builtin_mul_overflow(count, static_cast<std::uint64_t>(dimension), &count)) return std::nullopt;
    std::uint64_t bits = 0;
    if (__builtin_mul_overflow(count, static_cast<std::uint64_t>(dtypeBits(dtype)), &bits) || bits % 8 != 0) return std::nullopt;
    return bits / 8;
}

// Turns the header's events into entries and refuses everything that is not exactly what the format allows, where it stands.
class HeaderReader : public nlohmann::json_sax<Json>
{
public:
    HeaderReader(std::string file, std::vector<TensorInfo>& tensors, std::map<std::string, std::string>& metadata)
        : m_file(std::move(file)), m_tensors(tensors), m_metadata(metadata)
    {
    }

    const std::optional<Error>& error() const { return m_error; }

    bool null() override
    {
        // The reference takes a null for an absent map.
        if (m_state == State::EntryValue && m_isMetadata) {
            m_state = State::Header;
            return true;
        }
        return value("null");
    }
    bool boolean(bool) override { return value("a boolean"); }
    bool number_float(number_float_t, const string_t& text) override { return value("the number " + printable(text)); }
    bool number_integer(number_integer_t number) override { return value(fmt::format("the number {}", number)); }
    bool binary(binary_t&) override { return value("binary data"); }

    bool number_unsigned(number_unsigned_t number) override
    {
        if (m_state != State::Shape && m_state != State::Offsets) return value(fmt::format("the number {}", number));
        if (number > kMaxNumber)
            return fail("tensor_entry", fmt::format("tensor {} has the number {} in {}, which no file can hold", name(), number, field()));
        if (m_state == State::Shape) {
            if (m_entry.shape.size() == kMaxRank)
                return fail("tensor_entry", fmt::format("tensor {} has more than {} dimensions", name(), kMaxRank));
            m_entry.shape.push_back(static_cast<std::int64_t>(number));
            return true;
        }
        if (m_offsets == 2) return fail("tensor_entry", fmt::format("tensor {} has more than two data_offsets", name()));
        (m_offsets++ == 0 ? m_entry.begin : m_entry.end) = number;
        return true;
    }

    bool string(string_t& text) override
    {
        if (m_state == State::MetadataValue) {
            if (!m_metadata.emplace(m_key, text).second)
                return fail("header_invalid", fmt::format("{} names the key \"{}\" twice", kMetadataKey, printable(m_key)));
            m_state = State::Metadata;
            return true;
        }
        if (m_state != State::DType) return value("a string");
        const auto dtype = parseDType(text);
        if (!dtype) return fail("dtype_unknown", fmt::format("tensor {} has the unknown dtype \"{}\"", name(), printable(text)));
        m_entry.dtype = *dtype;
        m_state = State::Entry;
        return true;
    }

    bool start_object(std::size_t) override
    {
        switch (m_state) {
            case State::Start:
                m_state = State::Header;
                return true;
            case State::EntryValue:
                m_state = m_isMetadata ? State::Metadata : State::Entry;
                return true;
            default:
                return value("an object");
        }
    }

    bool end_object() override
    {
        switch (m_state) {
            case State::Header:
                m_state = State::End;
                return true;
            case State::Metadata:
                m_state = State::Header;
                return true;
            default:
                return endEntry();
        }
    }

    bool start_array(std::size_t) override
    {
        if (m_state == State::ShapeValue)
            m_state = State::Shape;
        else if (m_state == State::OffsetsValue)
            m_state = State::Offsets;
        else
            return value("a list");
        return true;
    }

    bool end_array() override
    {
        if (m_state == State::Offsets && m_offsets != 2)
            return fail("tensor_entry", fmt::format("tensor {} has {} data_offsets instead of two", name(), m_offsets));
        m_state = State::Entry;
        return true;
    }

    bool key(string_t& text) override
    {
        switch (m_state) {
            case State::Header:
                return beginEntry(text);
            case State::Metadata:
                m_key = text;
                m_state = State::MetadataValue;
                return true;
            default:
                break;
        }
        // Only an entry is left: its three fields, each once.
        int bit = 0;
        if (text == "dtype")
            bit = 1, m_state = State::DType;
        else if (text == "shape")
            bit = 2, m_state = State::ShapeValue;
        else if (text == "data_offsets")
            bit = 4, m_state = State::OffsetsValue;
        else
            return fail("tensor_entry", fmt::format("tensor {} has the unknown field \"{}\"", name(), printable(text)));
        if ((m_fields & bit) != 0) return fail("tensor_entry", fmt::format("tensor {} has the field {} twice", name(), text));
        m_fields |= bit;
        return true;
    }

    bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override
    {
        return fail("header_invalid", fmt::format("the header is not valid JSON at byte {}", position));
    }

    bool fail(const char* code, const std::string& what)
    {
        if (!m_error)
            m_error =
                badInput(fmt::format("checkpoint.{}", code), m_file, {"{file}: {what}.", {{"file", m_file}, {"what", what}}}, kDamaged);
        return false;
    }

private:
    enum class State { Start, Header, EntryValue, Entry, DType, ShapeValue, Shape, OffsetsValue, Offsets, Metadata, MetadataValue, End };

    std::string name() const { return printable(m_entry.name); }
    const char* field() const
    {
        switch (m_state) {
            case State::DType:
                return "dtype";
            case State::ShapeValue:
            case State::Shape:
                return "shape";
            default:
                return "data_offsets";
        }
    }

    // A value of a kind that cannot stand here.
    bool value(const std::string& what)
    {
        switch (m_state) {
            case State::Start:
                return fail("header_invalid", fmt::format("the header is {} instead of a JSON object", what));
            case State::EntryValue:
                if (m_isMetadata) return fail("header_invalid", fmt::format("{} is {} instead of an object", kMetadataKey, what));
                return fail("tensor_entry", fmt::format("tensor {} is described by {} instead of an object", name(), what));
            case State::MetadataValue:
                return fail("header_invalid",
                            fmt::format("{}: the value of \"{}\" is {} instead of a string", kMetadataKey, printable(m_key), what));
            default:
                return fail("tensor_entry", fmt::format("tensor {} has {} in {}", name(), what, field()));
        }
    }

    bool beginEntry(string_t& text)
    {
        m_state = State::EntryValue;
        m_isMetadata = text == kMetadataKey;
        if (m_isMetadata) {
            if (m_metadataSeen) return fail("header_invalid", fmt::format("the header has {} twice", kMetadataKey));
            m_metadataSeen = true;
            return true;
        }
        m_entry = {};
        m_entry.name = std::move(text);
        m_fields = 0;
        m_offsets = 0;
        if (m_entry.name.size() > kMaxNameBytes)
            return fail("tensor_entry", fmt::format("a tensor name has {} bytes, more than {}", m_entry.name.size(), kMaxNameBytes));
        for (const char c : m_entry.name)
            if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F)
                return fail("tensor_entry", fmt::format("the tensor name {} holds a control character", name()));
        return true;
    }

    bool endEntry()
    {
        for (const auto& [bit, missing] : {std::pair{1, "dtype"}, {2, "shape"}, {4, "data_offsets"}})
            if ((m_fields & bit) == 0) return fail("tensor_entry", fmt::format("tensor {} has no {}", name(), missing));
        if (m_entry.begin > m_entry.end)
            return fail("tensor_offsets",
                        fmt::format("the data of tensor {} begins at {} and ends before, at {}", name(), m_entry.begin, m_entry.end));
        const auto bytes = tensorBytes(m_entry.dtype, m_entry.shape);
        if (!bytes)
            return fail("tensor_size", fmt::format("tensor {} of shape {} and dtype {} has no size that can be computed", name(),
                                                   shapeText(m_entry.shape), dtypeName(m_entry.dtype)));
        if (*bytes != m_entry.byteCount())
            return fail("tensor_size",
                        fmt::format("tensor {} of shape {} and dtype {} needs {} bytes, but its data_offsets give it {}", name(),
                                    shapeText(m_entry.shape), dtypeName(m_entry.dtype), *bytes, m_entry.byteCount()));
        m_tensors.push_back(std::move(m_entry));
        m_state = State::Header;
        return true;
    }

    std::string m_file;
    std::vector<TensorInfo>& m_tensors;
    std::map<std::string, std::string>& m_metadata;
    std::optional<Error> m_error;
    State m_state = State::Start;
    TensorInfo m_entry;
    std::string m_key;
    int m_fields = 0;
    int m_offsets = 0;
    bool m_isMetadata = false;
    bool m_metadataSeen = false;
};

// The tensors, sorted by offset, must tile [0, buffer) without gap or overlap.
Status checkCoverage(const std::string& file, const std::vector<TensorInfo>& tensors, std::uint64_t buffer)
{
    const auto offsets = [&](const std::string& what) {
        return badInput("checkpoint.tensor_offsets", file, {"{file}: {what}.", {{"file", file}, {"what", what}}}, kDamaged);
    };
    std::uint64_t expected = 0;
    for (const TensorInfo& tensor : tensors) {
        if (tensor.begin < expected)
            return offsets(fmt::format("tensor {} begins at byte {} of the data, inside its predecessor, which ends at {}",
                                       printable(tensor.name), tensor.begin, expected));
        if (tensor.begin > expected)
            return offsets(fmt::format("tensor {} begins at byte {} of the data, but the one before ends at {}{}", printable(tensor.name),
                                       tensor.begin, expected, tensor.end > buffer ? ", and the file ends earlier" : ""));
        expected = tensor.end;
    }
    if (expected > buffer)
        return badInput("checkpoint.truncated", file,
                        {"{file} ends {expected} bytes before the end of its last tensor, {name}.",
                         {{"file", file}, {"expected", expected - buffer}, {"name", printable(tensors.back().name)}}},
                        "The download or copy is incomplete: fetch the file again.");
    if (expected < buffer) return offsets(fmt::format("the last {} bytes belong to no tensor", buffer - expected));
    return {};
}

}  // namespace

int dtypeBits(DType dtype) noexcept { return kDTypes[static_cast<std::size_t>(dtype)].bits; }

std::string_view dtypeName(DType dtype) noexcept { return kDTypes[static_cast<std::size_t>(dtype)].name; }

std::optional<DType> parseDType(std::string_view name) noexcept
{
    for (std::size_t i = 0; i < kDTypes.size(); ++i)
        if (name == kDTypes[i].name) return static_cast<DType>(i);
    return std::nullopt;
}

bool isFloating(DType dtype) noexcept { return dtype == DType::F16 || dtype == DType::BF16 || dtype == DType::F32 || dtype == DType::F64; }

std::int64_t TensorInfo::elementCount() const noexcept
{
    std::int64_t count = 1;
    for (const std::int64_t dimension : shape)
        count *= dimension;
    return count;
}

std::string shapeText(std::span<const std::int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path)
{
    SafetensorsFile file;
    ESPALIER_TRY(file.m_file, MappedFile::open(path, "checkpoint"));
    const std::string name = path.filename().string();
    const std::span<const std::byte> bytes = file.m_file.bytes();
    if (bytes.size() < 8)
        return badInput("checkpoint.truncated", name,
                        {"{name} has {bytes} bytes, fewer than the 8 of the length field that a safetensors file begins with.",
                         {{"name", name}, {"bytes", bytes.size()}}},
                        kDamaged);
    std::uint64_t length = 0;
    for (int i = 7; i >= 0; --i)
        length = length << 8 | std::to_integer<std::uint64_t>(bytes[static_cast<std::size_t>(i)]);
    if (length > kMaxHeaderBytes)
        return badInput("checkpoint.header_length", name,
                        {"{name} claims a header of {value} bytes; more than {max_header_bytes} are not read.",
                         {{"name", name}, {"value", length}, {"max_header_bytes", kMaxHeaderBytes}}},
                        kDamaged);
    if (length > bytes.size() - 8)
        return badInput("checkpoint.truncated", name,
                        {"{name} ends inside its header: {value} bytes are announced, {bytes} are there.",
                         {{"name", name}, {"value", length}, {"bytes", bytes.size() - 8}}},
                        "The download or copy is incomplete: fetch the file again.");
    file.m_dataOffset = 8 + length;

    HeaderReader reader(name, file.m_tensors, file.m_metadata);
    const std::string_view header = file.header();
    if (header.empty() || header.front() != '{')
        reader.fail("header_invalid", "the header does not begin with \"{\", so this is not a safetensors file");
    else if (const auto at = invalidUtf8Offset(header))
        reader.fail("header_invalid", fmt::format("the header is not valid UTF-8 at byte {}", *at));
    else if (header.find('\0') != std::string_view::npos)  // the JSON scanner would take it for the end of the text
        reader.fail("header_invalid", fmt::format("the header holds a NUL at byte {}", header.find('\0')));
    else
        Json::sax_parse(header.begin(), header.end(), &reader);
    if (reader.error()) return *reader.error();

    std::vector<TensorInfo>& tensors = file.m_tensors;
    std::sort(tensors.begin(), tensors.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name); });
    file.m_byName.resize(tensors.size());
    std::iota(file.m_byName.begin(), file.m_byName.end(), 0u);
    std::sort(file.m_byName.begin(), file.m_byName.end(),
              [&](std::uint32_t a, std::uint32_t b) { return tensors[a].name < tensors[b].name; });
    const auto twice = std::adjacent_find(file.m_byName.begin(), file.m_byName.end(),
                                          [&](std::uint32_t a, std::uint32_t b) { return tensors[a].name == tensors[b].name; });
    if (twice != file.m_byName.end())
        return badInput(
            "checkpoint.duplicate_tensor", name,
            {"{name}: the header names tensor {printable} twice.", {{"name", name}, {"printable", printable(tensors[*twice].name)}}},
            "Readers disagree on which of the two counts: write the file again.");
    ESPALIER_CHECK_OK(checkCoverage(name, tensors, bytes.size() - file.m_dataOffset));
    return file;
}

std::string_view SafetensorsFile::header() const noexcept
{
    return {reinterpret_cast<const char*>(m_file.bytes().data()) + 8, static_cast<std::size_t>(m_dataOffset - 8)};
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const noexcept
{
    const auto it = std::lower_bound(m_byName.begin(), m_byName.end(), name,
                                     [&](std::uint32_t i, std::string_view wanted) { return m_tensors[i].name < wanted; });
    return it != m_byName.end() && m_tensors[*it].name == name ? &m_tensors[*it] : nullptr;
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorInfo& info) const noexcept
{
    return m_file.bytes().subspan(static_cast<std::size_t>(m_dataOffset + info.begin), static_cast<std::size_t>(info.byteCount()));
}

std::string safetensorsHeader(std::span<const TensorInfo> order, const std::map<std::string, std::string>& metadata)
{
    const auto quoted = [](const std::string& text) { return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace); };
    std::string json = "{";
    if (!metadata.empty()) {
        json += fmt::format("\"{}\":{{", kMetadataKey);
        for (const auto& [key, value] : metadata)
            json += fmt::format("{}:{},", quoted(key), quoted(value));
        json.back() = '}';
        json += ',';
    }
    for (const TensorInfo& tensor : order)
        json += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}},", quoted(tensor.name),
                            dtypeName(tensor.dtype), fmt::join(tensor.shape, ","), tensor.begin, tensor.end);
    if (json.back() == ',') json.pop_back();
    json += '}';
    json.resize((json.size() + 7) / 8 * 8, ' ');
    std::string header;
    for (std::size_t i = 0; i < 8; ++i)
        header += static_cast<char>(json.size() >> (8 * i) & 0xFF);
    return header + json;
}

Result<SafetensorsWriter> SafetensorsWriter::create(const std::filesystem::path& path, std::vector<TensorDeclaration> tensors,
                                                    const std::map<std::string, std::string>& metadata)
{
    const std::string file = path.filename().string();
    std::sort(tensors.begin(), tensors.end(), [](const TensorDeclaration& a, const TensorDeclaration& b) {
        return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
    });
    std::vector<TensorInfo> order;
    order.reserve(tensors.size());
    std::uint64_t offset = 0;
    std::vector<std::string_view> names;
    for (TensorDeclaration& tensor : tensors) {
        const auto bytes = tensorBytes(tensor.dtype, tensor.shape);
        if (!bytes || *bytes > kMaxNumber - offset || tensor.shape.size() > kMaxRank || tensor.name.size() > kMaxNameBytes ||
            tensor.name == kMetadataKey)
            return badInput("checkpoint.tensor_size", file,
                            {"Tensor {printable} of shape {shape_text} cannot be written to {file}.",
                             {{"printable", printable(tensor.name)}, {"shape_text", shapeText(tensor.shape)}, {"file", file}}});
        order.push_back({std::move(tensor.name), tensor.dtype, std::move(tensor.shape), offset, offset + *bytes});
        offset += *bytes;
    }
    names.reserve(order.size());
    for (const TensorInfo& tensor : order)
        names.push_back(tensor.name);
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end())
        return badInput("checkpoint.duplicate_tensor", file,
                        {"Tensor {printable} would be in {file} twice.", {{"printable", printable(*twice)}, {"file", file}}});

    ESPALIER_TRY(AtomicFile output, AtomicFile::create(path));
    SafetensorsWriter writer(std::move(output));
    const std::string header = safetensorsHeader(order, metadata);
    writer.m_order = std::move(order);
    writer.m_headerBytes = header.size();
    writer.m_dataBytes = offset;
    ESPALIER_CHECK_OK(writer.m_file.write(std::as_bytes(std::span(header))));
    writer.skipFinished();
    return writer;
}

void SafetensorsWriter::skipFinished() noexcept
{
    while (m_next < m_order.size() && m_written == m_order[m_next].end)
        ++m_next;
}

Status SafetensorsWriter::write(std::span<const std::byte> bytes)
{
    if (bytes.empty()) return {};
    if (m_next == m_order.size() || bytes.size() > m_order[m_next].end - m_written)
        return internalError(fmt::format("More bytes were written to {} than {} was declared with.", m_file.temporaryPath().string(),
                                         m_next < m_order.size() ? m_order[m_next].name : "the last tensor"));
    ESPALIER_CHECK_OK(m_file.write(bytes));
    m_written += bytes.size();
    skipFinished();
    return {};
}

Status SafetensorsWriter::finish()
{
    if (m_next != m_order.size())
        return internalError(
            fmt::format("{} was finished before the bytes of {} were written.", m_file.temporaryPath().string(), m_order[m_next].name));
    return m_file.commit();
}

}  // namespace espalier
