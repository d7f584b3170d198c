// Files that people calibrate on, as one text: plain UTF-8, JSON lines, or one JSON document of texts. What is neither is refused by the
// name of its form, so that no other file is taken for prose.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

enum class TextForm { Auto, Plain, JsonLines, Json };

struct TextFileOptions {
    TextForm form = TextForm::Auto;  // Auto: by content; the extension decides only what content leaves open
    std::string field = {};          // of each JSON object; empty: "text", another usual name, or the only one that holds a string
};

struct TextFile {
    std::string text;        // valid UTF-8; JSON texts in order, joined by blank lines
    std::int64_t texts = 0;  // JSON texts; 0: plain
    std::string field;       // where they were taken from, empty for lists of strings
    std::vector<std::string> warnings;
};

// Errors: text.missing, text.unreadable, text.too_large, text.invalid_utf8, text.other_form (names the form and what to do),
// text.invalid_line (JSON that is not what it looked like), text.no_field (names the fields there are).
Result<TextFile> readTextDocuments(const std::filesystem::path& path, const TextFileOptions& options);
// The same for bytes from elsewhere; `subject` names them in errors.
Result<TextFile> textDocuments(std::string bytes, const std::string& subject, const TextFileOptions& options);

// The objects of JSON lines, of a JSON list, or of the one list of objects in a JSON document, with where they stand. Nothing where the
// content is no such thing (plain text, a list of strings) or the form is Plain. Errors: those of readTextDocuments up to
// text.invalid_line.
struct JsonRecord {
    Json value;
    std::string where;  // "line 3", "item 3"
};
struct JsonRecords {
    std::vector<JsonRecord> records;
    std::vector<std::string> warnings;
};
Result<JsonRecords> readJsonRecords(const std::filesystem::path& path, TextForm form);

// "auto", "text", "jsonl", "json". Error: usage.arguments.
Result<TextForm> parseTextForm(std::string_view name);

}  // namespace espalier
