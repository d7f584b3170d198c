#include "tasks/task_files.h"

#include "base/json.h"
#include "base/sha256.h"
#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

namespace espalier
{

namespace
{

constexpr std::size_t kMostBytes = std::size_t{1} << 30;
// The split that the harness reads comes first.
constexpr const char* kSplits[] = {"test", "validation", "val", "dev", "valid"};
constexpr const char* kSplitsOfValidation[] = {"validation", "val", "dev", "valid", "test"};

// ARC and OpenBookQA are judged on their test split, the others on validation: their test labels are not public.
std::filesystem::path fileOf(const std::filesystem::path& folder, const TaskRules& rules)
{
    std::error_code ignored;
    std::filesystem::path plain = folder / (std::string(rules.id) + ".jsonl");
    if (std::filesystem::is_regular_file(plain, ignored)) return plain;
    const bool onTest = rules.id.starts_with("arc_") || rules.id == "openbookqa";
    for (const char* split : onTest ? kSplits : kSplitsOfValidation) {
        std::filesystem::path inside = folder / std::string(rules.id) / (std::string(split) + ".jsonl");
        if (std::filesystem::is_regular_file(inside, ignored)) return inside;
    }
    return {};
}

Error atLine(Error error, const std::filesystem::path& path, std::size_t line)
{
    error.subject = fmt::format("{}:{}", path.string(), line);
    error.message = fmt::format("{}, line {}: {}", path.filename().string(), line, error.message);
    return error;
}

Result<std::vector<TaskFile>> namedTasks(const std::filesystem::path& folder)
{
    std::vector<TaskFile> files;
    const std::filesystem::path list = folder / "tasks.json";
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(list, ignored)) return files;
    ESPALIER_TRY(const std::string text, readTextFile(list, "task", std::size_t{1} << 20));
    const Json json = Json::parse(text, nullptr, false);
    if (!json.is_object())
        return badInput("task.invalid_json", list.string(), fmt::format("{} is not a JSON object of tasks.", list.string()),
                        "Write {\"name\": {\"file\": \"name.jsonl\", \"rules\": \"hellaswag\"}}.");
    for (const auto& [name, entry] : json.items()) {
        const TaskRules* rules =
            entry.is_object() && entry.value("rules", Json()).is_string() ? findTaskRules(entry["rules"].get<std::string>()) : nullptr;
        const Json file = entry.is_object() ? entry.value("file", Json()) : Json();
        const std::filesystem::path relative = file.is_string() ? file.get<std::string>() : std::string();
        const bool inside = !relative.empty() && relative.is_relative() &&
                            std::find(relative.begin(), relative.end(), std::filesystem::path("..")) == relative.end();
        if (!rules || !inside)
            return badInput("task.invalid_json", list.string(),
                            fmt::format("{}: task \"{}\" names no file of its folder or no rules that are known.", list.string(), name),
                            "Write {\"name\": {\"file\": \"name.jsonl\", \"rules\": \"hellaswag\"}}.");
        files.push_back({name, rules, folder / relative});
    }
    return files;
}

}  // namespace

Result<std::vector<TaskFile>> findTaskFiles(const std::filesystem::path& folder)
{
    std::error_code ignored;
    if (!std::filesystem::is_directory(folder, ignored))
        return badInput("task.folder_missing", folder.string(), fmt::format("{} is not a folder.", folder.string()),
                        "Name the folder that holds the task files, for example hellaswag.jsonl.");
    std::vector<TaskFile> files;
    for (const TaskRules& rules : allTaskRules())
        if (std::filesystem::path path = fileOf(folder, rules); !path.empty())
            files.push_back({std::string(rules.id), &rules, std::move(path)});
    ESPALIER_TRY(const std::vector<TaskFile> named, namedTasks(folder));
    for (const TaskFile& file : named)
        if (std::none_of(files.begin(), files.end(), [&](const TaskFile& other) { return other.name == file.name; })) files.push_back(file);
    return files;
}

Result<Task> readTask(const TaskFile& file, int limit, int examples)
{
    ESPALIER_TRY(const std::string text, readTextFile(file.path, "task", kMostBytes));
    if (const auto bad = invalidUtf8Offset(text))
        return badInput("task.invalid", file.path.string(), fmt::format("{} is not UTF-8 at byte {}.", file.path.string(), *bad),
                        "Convert the file to UTF-8.");
    Task task;
    task.file = file;
    task.sha256 = sha256Hex(text);
    const auto needed = limit > 0 ? static_cast<std::size_t>(std::max(limit, examples + 1)) : std::string::npos;
    std::size_t number = 1;
    for (std::size_t begin = 0; begin < text.size() && task.items.size() < needed; ++number) {
        std::size_t end = text.find('\n', begin);
        if (end == std::string::npos) end = text.size();
        std::string_view line(text.data() + begin, end - begin);
        begin = end + 1;
        if (number == 1 && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
        if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
        const Json fields = Json::parse(line, nullptr, false);
        if (!fields.is_object())
            return atLine(badInput("task.invalid", "", "This is not a JSON object.", "Task files hold one JSON object a line."), file.path,
                          number);
        Result<TaskItem> item = file.rules->read(fields);
        if (!item.ok()) return atLine(std::move(item).error(), file.path, number);
        task.items.push_back(std::move(item).value());
    }
    if (task.items.empty())
        return badInput("task.empty", file.path.string(), fmt::format("{} holds no questions.", file.path.string()),
                        "Choose another file.");
    const std::vector<TaskItem> plain = examples > 0 ? task.items : std::vector<TaskItem>();
    const auto asked = limit > 0 ? std::min(task.items.size(), static_cast<std::size_t>(limit)) : task.items.size();
    task.items.resize(asked);
    for (std::size_t i = 0; i < task.items.size() && examples > 0; ++i) {
        std::vector<const TaskItem*> shown;
        for (std::size_t j = 0; j < plain.size() && static_cast<int>(shown.size()) < examples; ++j)
            if (j != i && plain[j].gold >= 0) shown.push_back(&plain[j]);
        if (static_cast<int>(shown.size()) < examples)
            return badInput("task.few_items", file.path.string(),
                            fmt::format("{} has too few answered questions for {} examples.", file.path.string(), examples),
                            "Ask for fewer examples.");
        task.items[i] = withExamples(std::move(task.items[i]), shown);
    }
    task.hidden = static_cast<int>(std::count_if(task.items.begin(), task.items.end(), [](const TaskItem& item) { return item.gold < 0; }));
    return task;
}

}  // namespace espalier
