#include "export/companions.h"

#include "base/json.h"
#include "base/text.h"
#include "checkpoint/departures.h"
#include "export/export_files.h"
#include "export/python_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <set>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr std::size_t kMaxSettings = 16u << 20;
constexpr const char* kTemplates = "additional_chat_templates";

bool isFile(const fs::path& path)
{
    std::error_code failure;
    return fs::is_regular_file(path, failure);
}

// JSON that can name code or other files; the others are vocabularies.
bool isSettings(const std::string& name)
{
    return name == "config.json" || name.ends_with("_config.json") || name == "special_tokens_map.json";
}

// Plain names of files that a JSON object's strings give ("vocab_file": "words.bin").
void namedFiles(const Json& value, std::set<std::string>& names)
{
    if (value.is_string()) {
        const auto& text = value.get_ref<const std::string&>();
        if (text.size() <= 255 && text.find('/') == std::string::npos && text.find('\0') == std::string::npos && text != "." &&
            text != "..")
            names.insert(text);
    } else if (value.is_object()) {
        for (const auto& [key, inner] : value.items())
            namedFiles(inner, names);
    }
}

// Whether code of the folder or of another repository is named: then the text without it.
std::optional<std::string> withoutCode(const std::string& text)
{
    OrderedJson json = OrderedJson::parse(text, nullptr, false);
    if (!json.is_object()) return std::nullopt;
    const std::size_t removed = json.erase("auto_map") + json.erase("custom_pipelines");
    if (removed == 0) return std::nullopt;
    return json.dump(2) + "\n";
}

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::size_t kMaxMarked = 256u << 20;

bool beginsWithMark(const fs::path& path)
{
    std::ifstream stream(path, std::ios::binary);
    std::string first(kByteOrderMark.size(), '\0');
    return stream.read(first.data(), static_cast<std::streamsize>(first.size())) && first == kByteOrderMark;
}

struct Collector {
    fs::path source;
    Companions found = {};
    std::set<std::string> code = {};
    std::set<std::string> tokenizerCode = {};
    std::set<std::string> names = {};

    void take(const std::string& name)
    {
        if (!names.insert(name).second) return;
        found.copies.emplace_back(name, source / name);
        if (name == "tokenizer.json") found.tokenizerFile = true;
    }

    void edit(const std::string& name, std::string content);
    Status settings(const std::string& name);
    Status withoutMark(const std::string& name);
    Status folder();
};

// Instead of a copy, this.
void Collector::edit(const std::string& name, std::string content)
{
    names.insert(name);
    std::erase_if(found.copies, [&](const auto& copy) { return copy.first == name; });
    const auto before = std::find_if(found.edited.begin(), found.edited.end(), [&](const auto& file) { return file.first == name; });
    if (before != found.edited.end())
        before->second = std::move(content);
    else
        found.edited.emplace_back(name, std::move(content));
}

// A byte order mark before JSON is what some editors leave; the libraries that read an export stop there.
Status Collector::withoutMark(const std::string& name)
{
    if (!name.ends_with(".json") || !beginsWithMark(source / name)) return {};
    ESPALIER_TRY(std::string text, readTextFile(source / name, "checkpoint", kMaxMarked));
    edit(name, text.substr(kByteOrderMark.size()));
    return {};
}

// A JSON file of the tokenizer, the processor or the generation: what it names goes along or is left out of it.
Status Collector::settings(const std::string& name)
{
    std::error_code failure;
    if (fs::file_size(source / name, failure) > kMaxSettings || failure) return {};
    ESPALIER_TRY(const std::string text, readTextFile(source / name, "checkpoint", kMaxSettings));
    const Json json = Json::parse(text, nullptr, false);
    if (!json.is_object()) return {};
    const std::vector<std::string> python = pythonFilesNamedBy(json);
    code.insert(python.begin(), python.end());
    if (name == "tokenizer_config.json") tokenizerCode.insert(python.begin(), python.end());
    if (name == "config.json") {
        const auto map = json.find("auto_map");
        if (map != json.end() && map->is_object() && map->contains("AutoTokenizer"))
            for (std::string& file : pythonFilesNamedBy({{"auto_map", {{"AutoTokenizer", (*map)["AutoTokenizer"]}}}}))
                tokenizerCode.insert(std::move(file));
        return {};  // edited with the rest of it
    }
    std::set<std::string> others;
    namedFiles(json, others);
    for (const std::string& other : others)
        if (isFile(source / other) && maybeCompanionFile(other)) take(other);
    if (auto edited = withoutCode(text)) edit(name, std::move(*edited));
    return {};
}

Status Collector::folder()
{
    std::vector<std::string> entries;
    std::error_code failure;
    for (fs::directory_iterator it(source, failure), end; !failure && it != end; it.increment(failure))
        entries.push_back(it->path().filename().string());
    if (failure) return badInput("checkpoint.unreadable", source.string(), {"{source} cannot be listed.", {{"source", source.string()}}});
    std::sort(entries.begin(), entries.end());
    for (const std::string& name : entries) {
        if (name.ends_with(".py")) code.insert(name);
        if (isCompanionFile(name) && isFile(source / name)) take(name);
        std::error_code ignored;
        if (isCompanionFile(name) && fs::is_symlink(source / name, ignored) && !fs::exists(source / name, ignored))
            found.warnings.push_back(fmt::format("{} of the source is a link to a file that is not there; the export lacks it.", name));
    }
    for (const auto& [name, path] : std::vector(found.copies))
        ESPALIER_CHECK_OK(withoutMark(name));
    for (const std::string& name : entries)
        if (isSettings(name) && (name == "config.json" || isCompanionFile(name)) && isFile(source / name))
            ESPALIER_CHECK_OK(settings(name));
    std::vector<std::string> templates;
    for (fs::directory_iterator it(source / kTemplates, failure), end; !failure && it != end; it.increment(failure))
        if (it->path().extension() == ".jinja" && isFile(it->path())) templates.push_back(it->path().filename().string());
    for (const std::string& name : templates)
        take(fmt::format("{}/{}", kTemplates, name));
    return {};
}

}  // namespace

Result<Companions> companionsOf(const fs::path& source)
{
    Collector collector{source};
    ESPALIER_CHECK_OK(collector.folder());
    Companions found = std::move(collector.found);
    std::sort(found.copies.begin(), found.copies.end());
    std::sort(found.edited.begin(), found.edited.end());
    // Of a source that is a factored export: what is written anew, or not needed any more.
    for (const auto& [name, content] : pythonFiles())
        collector.code.erase(std::string(name));
    collector.code.erase(std::string(timingFile().first));
    found.code.assign(collector.code.begin(), collector.code.end());
    found.tokenizerCode.assign(collector.tokenizerCode.begin(), collector.tokenizerCode.end());
    if (!found.code.empty())
        found.warnings.push_back(fmt::format("Python code of the source is not passed on ({}); JSON files that named it no longer do.",
                                             fmt::join(found.code, ", ")));
    if (!found.tokenizerCode.empty() && !found.tokenizerFile)
        found.warnings.push_back(
            fmt::format("The source's tokenizer is Python code ({}): the export holds its vocabulary, but not the tokenizer. The README of "
                        "the export says how to add it.",
                        fmt::join(found.tokenizerCode, ", ")));
    return found;
}

}  // namespace espalier
