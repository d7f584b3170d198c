#include "tokenizer/windows.h"

#include "base/json.h"
#include "base/sha256.h"
#include "checkpoint/safetensors.h"
#include "tokenizer/text_windows.h"
#include "tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace espalier
{

namespace
{

Error inputError(std::string code, const std::string& subject, std::string message, std::string action = {})
{
    return badInput(std::move(code), subject, std::move(message), std::move(action));
}

// Full windows of one sequence, appended up to the limit; counts what is left over.
void cut(const std::vector<int>& ids, const WindowOptions& options, TokenWindows& out)
{
    const auto length = static_cast<std::size_t>(options.windowLength);
    std::size_t at = 0;
    for (; at + length <= ids.size(); at += length) {
        if (options.maxWindows > 0 && static_cast<int>(out.rows.size()) >= options.maxWindows) break;
        out.rows.emplace_back(ids.begin() + static_cast<std::ptrdiff_t>(at), ids.begin() + static_cast<std::ptrdiff_t>(at + length));
    }
    out.droppedTokens += static_cast<std::int64_t>(ids.size() - at);
}

// What was asked and what was given, where they differ.
void compareWithAsked(const TextRequest& request, RequestedWindows& out)
{
    const WindowOptions& options = request.window;
    const TokenWindows& windows = out.windows;
    if (std::string fewer = fewerWindows(request.countAsked ? options.maxWindows : 0, windows); !fewer.empty())
        out.warnings.push_back(std::move(fewer));
    std::size_t longest = 0;
    std::size_t shortest = windows.rows.front().size();
    for (const std::vector<int>& row : windows.rows) {
        longest = std::max(longest, row.size());
        shortest = std::min(shortest, row.size());
    }
    if (request.lengthAsked && shortest < static_cast<std::size_t>(options.windowLength))
        out.warnings.push_back(fmt::format("Windows of {} tokens were asked for, and {} has rows of {}, which are used as they are.",
                                           options.windowLength, windows.source,
                                           shortest == longest ? fmt::to_string(shortest) : fmt::format("{} to {}", shortest, longest)));
    if (request.modelPositions > 0 && longest > static_cast<std::size_t>(request.modelPositions))
        out.warnings.push_back(fmt::format("Windows of {} tokens are longer than the {} positions that the model was made for.", longest,
                                           request.modelPositions));
}

Status checkOptions(const WindowOptions& options)
{
    if (options.windowLength < 2 || options.windowLength > (1 << 24))
        return usageError({"A window has at least 2 tokens, not {window_length}.", {{"window_length", options.windowLength}}});
    return {};
}

template <typename T>
std::vector<std::int64_t> integers(std::span<const std::byte> bytes)
{
    std::vector<std::int64_t> values(bytes.size() / sizeof(T));
    for (std::size_t i = 0; i < values.size(); ++i) {
        T value;
        std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
        values[i] = static_cast<std::int64_t>(value);
    }
    return values;
}

using Rows = std::vector<std::vector<std::int64_t>>;

Result<Rows> rowsFromJson(const std::filesystem::path& path)
{
    const std::string subject = path.filename().string();
    ESPALIER_TRY(const Json json, readJsonFile(path, "ids", {.maxBytes = 1u << 30, .maxDepth = 8}));
    Rows rows;
    const auto invalid = [&] {
        return inputError("ids.invalid", subject, fmt::format("{} is not a JSON list of lists of token ids.", subject));
    };
    if (!json.is_array()) return invalid();
    const bool flat = !json.empty() && std::all_of(json.begin(), json.end(), [](const Json& x) { return x.is_number_integer(); });
    for (const Json& row : flat ? Json::array({json}) : json) {
        if (!row.is_array()) return invalid();
        std::vector<std::int64_t> ids;
        for (const Json& id : row) {
            if (!id.is_number_integer()) return invalid();
            ids.push_back(id.get<std::int64_t>());
        }
        rows.push_back(std::move(ids));
    }
    return rows;
}

Result<Rows> rowsFromTensor(const std::filesystem::path& path, const std::string& name)
{
    const std::string subject = path.filename().string();
    ESPALIER_TRY(const SafetensorsFile file, SafetensorsFile::open(path));
    const TensorInfo* info = nullptr;
    if (!name.empty()) {
        info = file.find(name);
    } else {
        for (const char* usual : {"input_ids", "calibration_ids", "stream_ids"})
            if (info == nullptr) info = file.find(usual);
        if (info == nullptr && file.tensors().size() == 1) info = &file.tensors().front();
    }
    if (info == nullptr)
        return inputError("ids.no_tensor", subject, fmt::format("{} has no tensor \"{}\".", subject, name.empty() ? "input_ids" : name),
                          "Name the tensor: --ids FILE:NAME.");
    if (info->shape.empty() || info->shape.size() > 2)
        return inputError("ids.invalid", subject,
                          fmt::format("The tensor {} of {} has the shape {}; ids are rows of a matrix or one list.", info->name, subject,
                                      shapeText(info->shape)));
    std::vector<std::int64_t> values;
    const std::span<const std::byte> bytes = file.bytes(*info);
    switch (info->dtype) {
        case DType::I64:
            values = integers<std::int64_t>(bytes);
            break;
        case DType::U64:  // beyond 2^63 turns negative: out of range below
            values = integers<std::uint64_t>(bytes);
            break;
        case DType::I32:
            values = integers<std::int32_t>(bytes);
            break;
        case DType::I16:
            values = integers<std::int16_t>(bytes);
            break;
        case DType::U16:
            values = integers<std::uint16_t>(bytes);
            break;
        case DType::U32:
            values = integers<std::uint32_t>(bytes);
            break;
        case DType::U8:
            values = integers<std::uint8_t>(bytes);
            break;
        default:
            return inputError(
                "ids.invalid", subject,
                fmt::format("The tensor {} of {} has dtype {}, which holds no ids.", info->name, subject, dtypeName(info->dtype)));
    }
    const auto rowCount = static_cast<std::size_t>(info->shape.size() == 2 ? info->shape[0] : 1);
    const std::size_t length = rowCount == 0 ? 0 : values.size() / rowCount;
    Rows rows;
    for (std::size_t r = 0; r < rowCount; ++r)
        rows.emplace_back(values.begin() + static_cast<std::ptrdiff_t>(r * length),
                          values.begin() + static_cast<std::ptrdiff_t>((r + 1) * length));
    return rows;
}

}  // namespace

std::string hashOfRows(const std::vector<std::vector<int>>& rows)
{
    Sha256 hash;
    const auto add = [&](const std::vector<std::uint32_t>& words) { hash.update(std::as_bytes(std::span(words))); };
    for (const std::vector<int>& row : rows) {
        std::vector<std::uint32_t> words = {static_cast<std::uint32_t>(row.size())};
        words.insert(words.end(), row.begin(), row.end());
        add(words);
    }
    return hash.finish();
}

std::string fewerWindows(int asked, const TokenWindows& given)
{
    if (static_cast<std::int64_t>(given.rows.size()) >= asked) return {};
    return fmt::format("{} windows were asked for, and {} has {} of {} tokens.", asked, given.source, given.rows.size(),
                       given.windowLength);
}

Result<RequestedWindows> openTextWindows(const Tokenizer& tokenizer, std::span<const std::filesystem::path> files,
                                         const TextRequest& request)
{
    const WindowOptions& options = request.window;
    ESPALIER_CHECK_OK(checkOptions(options));
    RequestedWindows result;
    TokenWindows& windows = result.windows;
    windows.windowLength = options.windowLength;
    windows.tokenizerSha256 = tokenizer.sha256();
    result.warnings = tokenizer.warnings();
    windows.bos = options.bos == Bos::Yes || (options.bos == Bos::Auto && tokenizer.addsBos());
    std::vector<int> ids;
    if (windows.bos) {
        if (!tokenizer.bosId())
            return inputError("text.no_bos", "tokenizer.json", "The tokenizer has no beginning-of-sequence token to put before the text.",
                              "Use --bos no.");
        ESPALIER_CHECK_OK(tokenizer.checkId(*tokenizer.bosId()));
        ids.push_back(*tokenizer.bosId());
    }
    const std::size_t before = ids.size();
    for (const std::filesystem::path& path : files) {
        const std::string subject = path.filename().string();
        ESPALIER_TRY(TextFile file, readTextDocuments(path, request.file));
        result.warnings.insert(result.warnings.end(), file.warnings.begin(), file.warnings.end());
        ESPALIER_TRY(const std::vector<int> part, tokenizer.encode(file.text, false));
        ids.insert(ids.end(), part.begin(), part.end());
        windows.source += (windows.source.empty() ? "" : ", ") + subject;
    }
    if (ids.size() == before)
        return inputError("text.empty", windows.source, fmt::format("{} holds no text.", windows.source), "Choose another file.");
    cut(ids, options, windows);
    if (windows.rows.empty()) {
        const bool beyond = request.modelPositions > 0 && options.windowLength > request.modelPositions;
        return inputError(
            "text.too_short", windows.source,
            fmt::format("{} has {} tokens, less than one window of {}{}.", windows.source, ids.size(), options.windowLength,
                        request.countAsked && options.maxWindows > 0 ? fmt::format(" ({} windows were asked for)", options.maxWindows)
                                                                     : std::string()),
            beyond ? fmt::format("Use a longer text or a shorter window: the model was made for {} positions.", request.modelPositions)
                   : std::string("Use a longer text or a shorter window."));
    }
    compareWithAsked(request, result);
    windows.textSha256 = hashOfRows(windows.rows);
    return result;
}

Result<RequestedWindows> openIdWindows(const std::string& spec, const TextRequest& request, std::int64_t vocabulary)
{
    const WindowOptions& options = request.window;
    ESPALIER_CHECK_OK(checkOptions(options));
    std::filesystem::path path = spec;
    std::string name;
    std::error_code failure;
    if (const std::size_t colon = spec.rfind(':'); colon != std::string::npos && !std::filesystem::exists(path, failure)) {
        path = spec.substr(0, colon);
        name = spec.substr(colon + 1);
    }
    const std::string subject = path.filename().string();
    if (!std::filesystem::exists(path, failure))
        return inputError("ids.missing", subject, fmt::format("{} does not exist.", path.string()), "Check the path.");
    ESPALIER_TRY(const Rows rows, path.extension() == ".safetensors" ? rowsFromTensor(path, name) : rowsFromJson(path));

    RequestedWindows result;
    TokenWindows& windows = result.windows;
    windows.windowLength = options.windowLength;
    windows.source = subject;
    std::int64_t unscorable = 0;
    for (std::size_t r = 0; r < rows.size(); ++r) {
        std::vector<int> ids;
        for (const std::int64_t id : rows[r]) {
            if (id < 0 || id >= vocabulary)
                return inputError(
                    "ids.out_of_range", subject,
                    fmt::format("Row {} of {} has the id {}; the model's vocabulary has {} rows.", r, subject, id, vocabulary),
                    "Use ids made with this model's tokenizer.");
            ids.push_back(static_cast<int>(id));
        }
        const bool full = options.maxWindows > 0 && static_cast<int>(windows.rows.size()) >= options.maxWindows;
        if (ids.size() > static_cast<std::size_t>(options.windowLength)) {
            cut(ids, options, windows);
        } else if (full || ids.size() < 2) {
            windows.droppedTokens += static_cast<std::int64_t>(ids.size());
            unscorable += ids.size() < 2 && !full;
        } else {
            windows.rows.push_back(std::move(ids));
        }
    }
    if (windows.rows.empty())
        return inputError("ids.empty", subject, fmt::format("{} holds no row with at least two ids.", subject),
                          "Nothing could be scored: use longer rows.");
    if (unscorable > 0)
        result.warnings.push_back(
            fmt::format("{} of the {} rows of {} have fewer than two ids and are left out.", unscorable, rows.size(), subject));
    compareWithAsked(request, result);
    windows.textSha256 = hashOfRows(windows.rows);
    return result;
}

Result<TokenWindows> windowsFromText(const Tokenizer& tokenizer, std::span<const std::filesystem::path> files, const WindowOptions& options)
{
    ESPALIER_TRY(RequestedWindows opened, openTextWindows(tokenizer, files, {.window = options}));
    return std::move(opened.windows);
}

Result<TokenWindows> windowsFromIds(const std::string& spec, const WindowOptions& options, std::int64_t vocabulary)
{
    ESPALIER_TRY(RequestedWindows opened, openIdWindows(spec, {.window = options}, vocabulary));
    return std::move(opened.windows);
}

}  // namespace espalier
