#include "tokenizer/text_file.h"

#include "base/json.h"
#include "base/text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

namespace espalier
{

namespace
{

constexpr std::size_t kMaxTextBytes = std::size_t(4) << 30;
constexpr JsonLimits kDocumentLimits{.maxBytes = kMaxTextBytes, .maxDepth = 64};
constexpr std::string_view kBlank = " \t\r\n";
constexpr std::string_view kBetween = "\n\n";

using namespace std::string_view_literals;

Error otherForm(const std::string& subject, std::string_view form, std::string action)
{
    return badInput("text.other_form", subject, {"{subject} is {form}, not a text.", {{"subject", subject}, {"form", form}}},
                    std::move(action));
}

struct Signature {
    std::string_view bytes;
    std::size_t offset;
    const char* form;
    const char* action;
    bool letters = false;  // a text may begin with them, too
};

constexpr const char* kDataSet = "Write its texts to a file of JSON lines, {\"text\": ...}, and use that.";
constexpr const char* kOther = "Choose a text file, or JSON lines of {\"text\": ...}.";

constexpr Signature kSignatures[] = {
    {"\x1F\x8B"sv, 0, "compressed by gzip", "Unpack it first: gunzip --keep FILE."},
    {"\x28\xB5\x2F\xFD"sv, 0, "compressed by zstd", "Unpack it first: zstd --decompress FILE."},
    {"\xFD"
     "7zXZ\0"sv,
     0, "compressed by xz", "Unpack it first: unxz --keep FILE."},
    {"BZh"sv, 0, "compressed by bzip2", "Unpack it first: bunzip2 --keep FILE.", true},
    {"\x04\x22\x4D\x18"sv, 0, "compressed by lz4", "Unpack it first: unlz4 FILE."},
    {"7z\xBC\xAF\x27\x1C"sv, 0, "a 7z archive", "Unpack it first."},
    {"PK\x03\x04"sv, 0, "a zip archive (or an office document, which is one)", "Unpack it, or save the document as plain text."},
    {"ustar"sv, 257, "a tar archive", "Unpack it first: tar xf FILE."},
    {"PAR1"sv, 0, "a Parquet file", kDataSet, true},
    {"ARROW1"sv, 0, "an Arrow file", kDataSet, true},
    {"\xFF\xFF\xFF\xFF"sv, 0, "an Arrow stream", kDataSet},
    {"FEA1"sv, 0, "a Feather file", kDataSet, true},
    {"ORC"sv, 0, "an ORC file", kDataSet, true},
    {"Obj\x01"sv, 0, "an Avro file", kDataSet, true},
    {"SQLite format 3\0"sv, 0, "an SQLite database", kDataSet},
    {"\x89HDF\r\n"sv, 0, "an HDF5 file", "A profile goes with --profile; a text is needed here."},
    {"%PDF-"sv, 0, "a PDF document", "Extract its text first: pdftotext FILE."},
    {"{\\rtf"sv, 0, "a rich text document", "Save it as plain text."},
    {"\xD0\xCF\x11\xE0"sv, 0, "an office document", "Save it as plain text."},
    {"GGUF"sv, 0, "a GGUF model", kOther, true},
    {"\x7F"
     "ELF"sv,
     0, "a program", kOther},
    {"\x89PNG"sv, 0, "a picture", kOther},
    {"\xFF\xD8\xFF"sv, 0, "a picture", kOther},
    {"\x93NUMPY"sv, 0, "a NumPy array", "Token ids go with --ids, as JSON or safetensors."},
    {"\xFF\xFE\0\0"sv, 0, "text in UTF-32", "Convert it: iconv -f UTF-32 -t UTF-8 FILE."},
    {"\0\0\xFE\xFF"sv, 0, "text in UTF-32", "Convert it: iconv -f UTF-32 -t UTF-8 FILE."},
    {"\xFF\xFE"sv, 0, "text in UTF-16", "Convert it: iconv -f UTF-16 -t UTF-8 FILE."},
    {"\xFE\xFF"sv, 0, "text in UTF-16", "Convert it: iconv -f UTF-16 -t UTF-8 FILE."},
};

// A few of these occur in texts; many are UTF-16 without a mark, or no text at all.
bool fullOfNulls(std::string_view bytes)
{
    const std::string_view head = bytes.substr(0, 4096);
    return static_cast<std::size_t>(std::count(head.begin(), head.end(), '\0')) * 10 > head.size();
}

Status checkForm(std::string_view bytes, const std::string& subject)
{
    const std::string_view head = bytes.substr(0, 4096);
    const bool binary = head.find('\0') != std::string_view::npos || invalidUtf8Offset(head).value_or(head.size()) + 4 < head.size();
    for (const Signature& signature : kSignatures) {
        if (bytes.substr(std::min(signature.offset, bytes.size()), signature.bytes.size()) != signature.bytes) continue;
        if (signature.letters && !binary && !(signature.bytes == "PAR1" && bytes.ends_with("PAR1"))) continue;
        return otherForm(subject, signature.form, signature.action);
    }
    // Eight bytes of length, then a JSON header.
    if (bytes.size() > 10 && bytes.substr(5, 3) == "\0\0\0"sv && bytes.substr(8, 2) == "{\"")
        return otherForm(subject, "a safetensors file", "Token ids go with --ids FILE[:NAME].");
    if (fullOfNulls(bytes)) return otherForm(subject, "full of NUL bytes: UTF-16 without a mark, or no text", "Convert it to UTF-8.");
    return {};
}

bool isOneOf(const std::string& extension, std::initializer_list<std::string_view> known)
{
    return std::find(known.begin(), known.end(), extension) != known.end();
}

std::string extensionOf(const std::string& subject)
{
    std::string extension = std::filesystem::path(subject).extension().string();
    std::transform(extension.begin(), extension.end(), extension.begin(), [](unsigned char c) { return std::tolower(c); });
    return extension;
}

std::vector<std::string> keysOf(const Json& object)
{
    std::vector<std::string> keys;
    for (const auto& [key, value] : object.items())
        keys.push_back(key);
    if (keys.size() > 12) keys.resize(12);
    return keys;
}

// The texts of JSON items, gathered one after the other.
class Gatherer
{
public:
    Gatherer(std::string subject, const TextFileOptions& options) : m_subject(std::move(subject)), m_field(options.field) {}

    // `where`: "line 3", "item 3".
    Status add(const Json& item, const std::string& where)
    {
        if (item.is_string()) return append(item.get_ref<const std::string&>());
        if (!item.is_object())
            return badInput("text.invalid_line", m_subject,
                            {"{subject}, {where}, is neither a text nor an object with one.", {{"subject", m_subject}, {"where", where}}},
                            item.is_array() || item.is_number() ? "Token ids go with --ids." : kOther);
        if (!m_chosen) ESPALIER_CHECK_OK(choose(item, where));
        const auto found = item.find(m_field);
        if (found != item.end() && !found->is_string())
            return badInput(
                "text.no_field", m_subject,
                {"{subject}, {where}, has {found} in \"{field}\" instead of a text.",
                 {{"subject", m_subject}, {"where", where}, {"found", found->is_null() ? "null" : found->type_name()}, {"field", m_field}}},
                "Choose the field with --text-field, or leave the line out.");
        if (found == item.end())
            return badInput("text.no_field", m_subject,
                            {"{subject}, {where}, has no text in \"{field}\"; it has {keys_of}.",
                             {{"subject", m_subject},
                              {"where", where},
                              {"field", m_field},
                              {"keys_of", fmt::format("{}", fmt::join(keysOf(item), ", "))}}},
                            "Choose the field with --text-field, or leave the line out.");
        return append(found->get_ref<const std::string&>());
    }

    Result<TextFile> finish() &&
    {
        if (m_file.texts == 0)
            return badInput("text.empty", m_subject, {"{subject} is JSON and holds no text.", {{"subject", m_subject}}},
                            "Choose another file.");
        if (m_chosen) m_file.field = m_field;
        return std::move(m_file);
    }

private:
    Status append(const std::string& text)
    {
        if (m_file.texts++ > 0) m_file.text += kBetween;
        m_file.text += text;
        return {};
    }

    // By the first object: "text", else another usual name, else the only string there is.
    Status choose(const Json& item, const std::string& where)
    {
        m_chosen = true;
        if (!m_field.empty()) return {};
        static constexpr std::string_view kUsual[] = {"content", "raw_content", "contents", "document", "body",
                                                      "article", "story",       "passage",  "code"};
        if (const auto it = item.find("text"); it != item.end() && it->is_string()) {
            m_field = "text";
            return {};
        }
        std::vector<std::string> usual;
        std::vector<std::string> strings;
        for (const auto& [key, value] : item.items()) {
            if (!value.is_string()) continue;
            strings.push_back(key);
            if (std::find(std::begin(kUsual), std::end(kUsual), key) != std::end(kUsual)) usual.push_back(key);
        }
        if (usual.size() == 1 || strings.size() == 1) {
            m_field = usual.size() == 1 ? usual.front() : strings.front();
            m_file.warnings.push_back(fmt::format("The texts of {} are taken from the field \"{}\".", m_subject, m_field));
            return {};
        }
        const bool turns = item.contains("messages") || item.contains("conversations");
        return badInput("text.no_field", m_subject,
                        {"{subject}, {where}, has no field \"text\", and it is not clear which of its fields is the text: {keys_of}.",
                         {{"subject", m_subject}, {"where", where}, {"keys_of", fmt::format("{}", fmt::join(keysOf(item), ", "))}}},
                        turns ? "These are turns of a conversation: write them out by the model's chat template first."
                              : "Choose the field with --text-field.");
    }

    std::string m_subject;
    std::string m_field;
    bool m_chosen = false;
    TextFile m_file;
};

// Lines that hold something, with their numbers from 1.
template <typename Visit>
Status eachLine(std::string_view bytes, Visit&& visit)
{
    std::int64_t number = 0;
    for (std::size_t begin = 0; begin < bytes.size();) {
        const std::size_t end = std::min(bytes.find('\n', begin), bytes.size());
        const std::string_view line = bytes.substr(begin, end - begin);
        begin = end + 1;
        ++number;
        if (line.find_first_not_of(kBlank) == std::string_view::npos) continue;
        ESPALIER_CHECK_OK(visit(line, number));
    }
    return {};
}

Result<TextFile> fromLines(std::string_view bytes, const std::string& subject, const TextFileOptions& options)
{
    Gatherer gatherer(subject, options);
    ESPALIER_CHECK_OK(eachLine(bytes, [&](std::string_view line, std::int64_t number) -> Status {
        const std::string where = fmt::format("line {}", number);
        const Result<Json> item = parseJson(line, fmt::format("{} {}", subject, where), "text", kDocumentLimits);
        if (!item.ok())
            return badInput("text.invalid_line", subject,
                            {"{subject} is read as JSON lines, and {where} is not JSON.", {{"subject", subject}, {"where", where}}},
                            "Mend the line, or use --text-format text to take the file as it stands.");
        return gatherer.add(*item, where);
    }));
    return std::move(gatherer).finish();
}

Result<TextFile> fromDocument(const Json& document, const std::string& subject, const TextFileOptions& options)
{
    Gatherer gatherer(subject, options);
    const auto addAll = [&](const Json& list) -> Status {
        std::int64_t number = 0;
        for (const Json& item : list)
            ESPALIER_CHECK_OK(gatherer.add(item, fmt::format("item {}", ++number)));
        return {};
    };
    if (document.is_array()) {
        ESPALIER_CHECK_OK(addAll(document));
        return std::move(gatherer).finish();
    }
    if (!document.is_object())
        return badInput("text.invalid_line", subject, {"{subject} is JSON, but neither a list nor an object.", {{"subject", subject}}},
                        kOther);
    // One object: a text, a column of texts, or the one list of rows in it.
    const std::string column = options.field.empty() ? "text" : options.field;
    if (const auto it = document.find(column); it != document.end() && it->is_array()) {
        ESPALIER_CHECK_OK(addAll(*it));
        return std::move(gatherer).finish();
    }
    if (!document.contains(column)) {
        const Json* rows = nullptr;
        int lists = 0;
        for (const Json& value : document)
            if (value.is_array() && !value.empty() && value.front().is_object() && value.front().contains(column)) {
                rows = &value;
                ++lists;
            }
        if (lists == 1) {
            ESPALIER_CHECK_OK(addAll(*rows));
            return std::move(gatherer).finish();
        }
    }
    ESPALIER_CHECK_OK(gatherer.add(document, "the document"));
    return std::move(gatherer).finish();
}

// Whether the first line that holds something is an object of JSON, and another such line follows.
bool beginsLikeLines(std::string_view bytes)
{
    int seen = 0;
    bool object = false;
    const Status scanned = eachLine(bytes, [&](std::string_view line, std::int64_t) -> Status {
        if (seen++ > 0) return internalError("enough");
        const Result<Json> item = parseJson(line, "line", "text", kDocumentLimits);
        object = item.ok() && item->is_object();
        return {};
    });
    return object && !scanned.ok();
}

// "HTML", "XML", or empty: markup, by the name of the file or its first characters.
std::string_view markupOf(std::string_view bytes, const std::string& extension)
{
    if (isOneOf(extension, {".html", ".htm", ".xhtml"})) return "HTML";
    if (isOneOf(extension, {".xml"})) return "XML";
    std::string begin;
    for (const char c : bytes.substr(std::min(bytes.find_first_not_of(kBlank), bytes.size())).substr(0, 15))
        begin += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    if (begin.starts_with("<!doctype html") || begin.starts_with("<html")) return "HTML";
    return begin.starts_with("<?xml") ? "XML" : "";
}

Result<TextFile> automatic(std::string_view bytes, const std::string& subject, const TextFileOptions& options, std::string& warning)
{
    const std::string extension = extensionOf(subject);
    const bool lines = isOneOf(extension, {".jsonl", ".ndjson", ".jsonlines"});
    const std::size_t start = bytes.find_first_not_of(kBlank);
    const char first = start == std::string_view::npos ? '\0' : bytes[start];
    if (lines && first != '\0') return fromLines(bytes, subject, options);
    if (isOneOf(extension, {".csv", ".tsv"}))
        return otherForm(subject, "a table", "Write its texts to a file of JSON lines, or use --text-format text to take it as it stands.");
    if (const std::string_view markup = first == '\0' ? "" : markupOf(bytes, extension); !markup.empty())
        warning = fmt::format("{} is {}, taken as it stands: its tags count as text.", subject, markup);
    if (first == '{') {
        if (beginsLikeLines(bytes)) {
            Result<TextFile> read = fromLines(bytes, subject, options);
            if (read.ok() || read.error().code != "text.invalid_line" || extension == ".json") return read;
            warning = fmt::format("{} begins like JSON lines and is taken as plain text, braces and keys included: {}", subject,
                                  read.error().message);
            return TextFile();
        }
    }
    if (first == '{' || first == '[') {
        const Result<Json> document = parseJson(bytes, subject, "text", kDocumentLimits);
        // A list of anything else may be prose in brackets; in a .json file it is not.
        const bool texts =
            document.ok() && (document->is_object() || extension == ".json" || (!document->empty() && !document->front().is_null()));
        if (texts) return fromDocument(*document, subject, options);
        if (extension == ".json" && !document.ok())
            return badInput("text.invalid_line", subject,
                            {"{subject} is not valid JSON: {message}", {{"subject", subject}, {"message", document.error().message}}},
                            "Mend the file, or use --text-format text to take it as it stands.");
    } else if (extension == ".json" && first != '\0') {
        return badInput("text.invalid_line", subject, {"{subject} is called JSON and is none.", {{"subject", subject}}},
                        "Rename it, or use --text-format text to take it as it stands.");
    }
    return TextFile();
}

}  // namespace

Result<TextForm> parseTextForm(std::string_view name)
{
    if (name == "auto" || name.empty()) return TextForm::Auto;
    if (name == "text") return TextForm::Plain;
    if (name == "jsonl") return TextForm::JsonLines;
    if (name == "json") return TextForm::Json;
    return usageError({"\"{name}\" is not one of auto, text, jsonl, json.", {{"name", name}}});
}

namespace
{

// A text in UTF-8, without its mark.
Status checkEncoding(std::string& bytes, const std::string& subject, std::vector<std::string>& warnings)
{
    ESPALIER_CHECK_OK(checkForm(bytes, subject));
    if (bytes.starts_with("\xEF\xBB\xBF")) {
        bytes.erase(0, 3);
        warnings.push_back(fmt::format("{} begins with a byte order mark, which is left out.", subject));
    }
    if (const auto offset = invalidUtf8Offset(bytes))
        return badInput("text.invalid_utf8", subject,
                        {"{subject} is not valid UTF-8: byte {empty} does not belong there.",
                         {{"subject", subject}, {"empty", *offset + (warnings.empty() ? 0 : 3)}}},
                        "Convert the file to UTF-8.");
    return {};
}

}  // namespace

Result<TextFile> textDocuments(std::string bytes, const std::string& subject, const TextFileOptions& options)
{
    std::vector<std::string> warnings;
    ESPALIER_CHECK_OK(checkEncoding(bytes, subject, warnings));
    TextFile file;
    std::string warning;
    switch (options.form) {
        case TextForm::Plain:
            break;
        case TextForm::JsonLines: {
            ESPALIER_TRY(file, fromLines(bytes, subject, options));
            break;
        }
        case TextForm::Json: {
            ESPALIER_TRY(const Json document, parseJson(bytes, subject, "text", kDocumentLimits));
            ESPALIER_TRY(file, fromDocument(document, subject, options));
            break;
        }
        case TextForm::Auto: {
            ESPALIER_TRY(file, automatic(bytes, subject, options, warning));
            break;
        }
    }
    if (!warning.empty()) warnings.push_back(std::move(warning));
    if (file.texts == 0) {
        file = {};
        file.text = std::move(bytes);
    }
    file.warnings.insert(file.warnings.begin(), warnings.begin(), warnings.end());
    return file;
}

Result<TextFile> readTextDocuments(const std::filesystem::path& path, const TextFileOptions& options)
{
    ESPALIER_TRY(std::string bytes, readTextFile(path, "text", kMaxTextBytes));
    return textDocuments(std::move(bytes), path.filename().string(), options);
}

Result<JsonRecords> readJsonRecords(const std::filesystem::path& path, TextForm form)
{
    JsonRecords result;
    if (form == TextForm::Plain) return result;
    ESPALIER_TRY(std::string bytes, readTextFile(path, "text", kMaxTextBytes));
    const std::string subject = path.filename().string();
    ESPALIER_CHECK_OK(checkEncoding(bytes, subject, result.warnings));
    const std::string extension = extensionOf(subject);
    const std::size_t start = bytes.find_first_not_of(kBlank);
    const char first = start == std::string::npos ? '\0' : bytes[start];
    const bool lines = form == TextForm::JsonLines || (form == TextForm::Auto && first == '{' &&
                                                       (isOneOf(extension, {".jsonl", ".ndjson", ".jsonlines"}) || beginsLikeLines(bytes)));
    if (lines) {
        ESPALIER_CHECK_OK(eachLine(bytes, [&](std::string_view line, std::int64_t number) -> Status {
            const std::string where = fmt::format("line {}", number);
            Result<Json> item = parseJson(line, fmt::format("{} {}", subject, where), "text", kDocumentLimits);
            if (!item.ok())
                return badInput("text.invalid_line", subject,
                                {"{subject} is read as JSON lines, and {where} is not JSON.", {{"subject", subject}, {"where", where}}},
                                "Mend the line, or use --text-format text to take the file as it stands.");
            result.records.push_back({std::move(item).value(), where});
            return {};
        }));
        return result;
    }
    if (first != '{' && first != '[') return result;
    Result<Json> document = parseJson(bytes, subject, "text", kDocumentLimits);
    if (!document.ok()) return result;  // whoever reads it as a text says so
    Json* list = document->is_array() ? &*document : nullptr;
    if (document->is_object()) {
        int lists = 0;
        for (auto& [key, value] : document->items())
            if (value.is_array() && !value.empty() && value.front().is_object()) {
                list = &value;
                ++lists;
            }
        // A conversation is one record.
        if (lists != 1 || document->contains("messages") || document->contains("conversations")) list = nullptr;
        if (list == nullptr) result.records.push_back({std::move(document).value(), "the document"});
    }
    if (list == nullptr) return result;
    std::int64_t number = 0;
    for (Json& item : *list)
        result.records.push_back({std::move(item), fmt::format("item {}", ++number)});
    return result;
}

}  // namespace espalier
