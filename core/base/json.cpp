#include "base/json.h"

#include "base/text.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <optional>
#include <set>
#include <vector>

namespace espalier
{

namespace
{

// nlohmann keeps the last of two equal keys and recurses without limit in its DOM consumers: both are checked while the text is
// scanned, before a value is built.
class Checker : public nlohmann::json_sax<Json>
{
public:
    explicit Checker(int maxDepth) : m_maxDepth(maxDepth) {}

    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return true; }
    bool number_unsigned(number_unsigned_t) override { return true; }
    bool number_float(number_float_t, const string_t&) override { return true; }
    bool string(string_t&) override { return true; }
    bool binary(binary_t&) override { return true; }
    bool start_object(std::size_t) override { return push(); }
    bool end_object() override { return pop(); }
    bool start_array(std::size_t) override { return push(); }
    bool end_array() override { return pop(); }
    bool key(string_t& name) override
    {
        if (m_keys.back().insert(name).second) return true;
        duplicate = name;
        return false;
    }
    bool parse_error(std::size_t at, const std::string&, const nlohmann::detail::exception& error) override
    {
        position = at;
        what = error.what();
        return false;
    }

    std::optional<std::string> duplicate;
    bool tooDeep = false;
    std::size_t position = 0;
    std::string what;

private:
    bool push()
    {
        m_keys.emplace_back();
        tooDeep = static_cast<int>(m_keys.size()) > m_maxDepth;
        return !tooDeep;
    }
    bool pop()
    {
        m_keys.pop_back();
        return true;
    }

    int m_maxDepth;
    std::vector<std::set<std::string>> m_keys;
};

std::string lineAndColumn(std::string_view text, std::size_t position)
{
    std::size_t line = 1;
    std::size_t column = 1;
    for (std::size_t i = 0; i + 1 < position && i < text.size(); ++i) {
        if (text[i] == '\n') {
            ++line;
            column = 1;
        } else {
            ++column;
        }
    }
    return fmt::format("line {}, column {}", line, column);
}

std::string withArea(std::string_view area, std::string_view what) { return fmt::format("{}.{}", area, what); }

Json withoutNonFinite(const Json& value)
{
    if (value.is_number_float() && !std::isfinite(value.get<double>())) return nullptr;
    if (value.is_structured()) {
        Json copy = value;
        for (auto& item : copy)
            item = withoutNonFinite(item);
        return copy;
    }
    return value;
}

}  // namespace

Result<Json> parseJson(std::string_view text, std::string_view subject, std::string_view area, const JsonLimits& limits)
{
    if (text.size() > limits.maxBytes)
        return badInput(withArea(area, "too_large"), std::string(subject),
                        {"{subject} has {text} bytes of JSON, more than the {max_bytes} that are read.",
                         {{"subject", subject}, {"text", text.size()}, {"max_bytes", limits.maxBytes}}});
    // The parser takes a NUL byte for the end of the text.
    if (text.find('\0') != std::string_view::npos)
        return badInput(withArea(area, "invalid_json"), std::string(subject),
                        {"{subject} is not valid JSON: it contains a NUL byte.", {{"subject", subject}}},
                        "The file is damaged or incomplete: fetch it again.");
    Checker checker(limits.maxDepth);
    if (!Json::sax_parse(text, &checker)) {
        if (checker.duplicate)
            return badInput(withArea(area, "duplicate_key"), std::string(subject),
                            {"{subject} names the key \"{duplicate}\" twice.", {{"subject", subject}, {"duplicate", *checker.duplicate}}},
                            "Remove one of the two entries.");
        if (checker.tooDeep)
            return badInput(
                withArea(area, "invalid_json"), std::string(subject),
                {"{subject} is nested more than {max_depth} levels deep.", {{"subject", subject}, {"max_depth", limits.maxDepth}}});
        return badInput(withArea(area, "invalid_json"), std::string(subject),
                        {"{subject} is not valid JSON: {line_and_column}.",
                         {{"subject", subject}, {"line_and_column", lineAndColumn(text, checker.position)}}},
                        "The file is damaged or incomplete: fetch it again.");
    }
    return Json::parse(text);
}

Result<Json> readJsonFile(const std::filesystem::path& path, std::string_view area, const JsonLimits& limits)
{
    ESPALIER_TRY(const std::string text, readTextFile(path, area, limits.maxBytes));
    return parseJson(text, path.filename().string(), area, limits);
}

std::string canonicalJson(const Json& value) { return withoutNonFinite(value).dump(-1, ' ', false, Json::error_handler_t::replace); }

Json toJson(const Error& error)
{
    Json json = {{"code", error.code}, {"subject", error.subject}, {"message", error.message},
                 {"kept", error.kept}, {"action", error.action},   {"exit_code", error.exitCode()}};
    if (!error.messagePattern.empty()) json["message_pattern"] = error.messagePattern;
    if (!error.actionPattern.empty()) json["action_pattern"] = error.actionPattern;
    for (const Parameter& parameter : error.parameters)
        std::visit([&](const auto& value) { json["parameters"][parameter.name] = value; }, parameter.value);
    return json;
}

Error errorFromJson(const Json& value)
{
    const auto text = [&](const char* key) {
        const auto it = value.find(key);
        return it != value.end() && it->is_string() ? it->get<std::string>() : std::string();
    };
    Error error;
    error.code = text("code");
    error.subject = text("subject");
    error.message = text("message");
    error.kept = text("kept");
    error.action = text("action");
    error.messagePattern = text("message_pattern");
    error.actionPattern = text("action_pattern");
    if (const auto parameters = value.find("parameters"); parameters != value.end() && parameters->is_object())
        for (const auto& [name, held] : parameters->items()) {
            if (held.is_number_integer())
                error.parameters.emplace_back(name, held.get<std::int64_t>());
            else if (held.is_number())
                error.parameters.emplace_back(name, held.get<double>());
            else if (held.is_string())
                error.parameters.emplace_back(name, held.get<std::string>());
        }
    const auto it = value.find("exit_code");
    const int exitCode = it != value.end() && it->is_number_integer() ? it->get<int>() : 70;
    switch (exitCode) {
        case 2:
        case 3:
        case 4:
        case 5:
        case 6:
        case 130:
            error.kind = static_cast<ErrorKind>(exitCode);
            break;
        default:
            error.kind = ErrorKind::Internal;
    }
    return error;
}

}  // namespace espalier
