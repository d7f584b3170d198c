#include "plan/values_search.h"

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "base/sha256.h"
#include "plan/values.h"

#include <fcntl.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string_view>
#include <system_error>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

constexpr std::string_view kExtension = ".safetensors";
constexpr std::string_view kRecord = ".users";
constexpr std::string_view kMark = "\"espalier.values\"";
constexpr std::uint64_t kHeaderLooked = std::uint64_t{1} << 20;  // the metadata stand first

fs::path recordOf(const fs::path& valuesFile)
{
    fs::path record = valuesFile;
    record += kRecord;
    return record;
}

// Of the beginning of the file alone: weights lie in files of the same kind, and are not read for nothing.
bool isMarked(const fs::path& file)
{
    std::ifstream in(file, std::ios::binary);
    std::array<unsigned char, 8> length = {};
    if (!in.read(reinterpret_cast<char*>(length.data()), length.size())) return false;
    std::uint64_t size = 0;
    for (std::size_t i = 0; i < length.size(); ++i)
        size |= std::uint64_t{length[i]} << (8 * i);
    std::string header(std::min(size, kHeaderLooked), '\0');
    in.read(header.data(), static_cast<std::streamsize>(header.size()));
    header.resize(static_cast<std::size_t>(in.gcount()));
    return header.find(kMark) != std::string::npos;
}

std::vector<fs::path> filesIn(const fs::path& folder)
{
    std::vector<fs::path> files;
    std::error_code failure;
    for (fs::directory_iterator it(folder, failure), end; !failure && it != end; it.increment(failure))
        if (it->path().extension() == kExtension) files.push_back(it->path());
    std::sort(files.begin(), files.end());
    return files;
}

std::vector<fs::path> usersIn(const fs::path& record)
{
    std::vector<fs::path> users;
    std::ifstream in(record);
    for (std::string line; std::getline(in, line);)
        if (!line.empty()) users.emplace_back(line);
    return users;
}

// One write of one line: what two programs append does not mix.
Status append(const fs::path& record, const std::string& text, int flags)
{
    const int descriptor = ::open(record.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | flags, 0644);
    if (descriptor < 0) return writeError(record, errno);
    const bool written = ::write(descriptor, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    const int number = written ? 0 : errno;
    ::close(descriptor);
    return written ? Status() : Status(writeError(record, number));
}

bool isId(const std::string& name) { return name.size() == 64 && name.find_first_not_of("0123456789abcdef") == std::string::npos; }

}  // namespace

bool ValuesSearch::holds(const fs::path& file, const ValuesId& id)
{
    const auto [known, isNew] = m_content.try_emplace(file);
    if (isNew) {
        std::error_code failure;
        if (!fs::is_regular_file(file, failure) || !isMarked(file)) return false;
        const auto mapped = MappedFile::open(file, "values");
        if (!mapped.ok()) return false;
        Sha256 hash;
        hash.update(mapped->bytes());
        if (std::string content = hash.finish(); mapped->checkUnchanged().ok()) known->second = std::move(content);
    }
    return !known->second.empty() && known->second == id;
}

std::optional<fs::path> ValuesSearch::find(const ValuesInfo& values)
{
    std::error_code failure;
    if (!values.file.empty() && fs::is_regular_file(values.file, failure)) return fs::path(values.file);
    const std::string named = fs::path(values.file).filename().string();
    const std::string byContent = values.id + std::string(kExtension);
    for (const fs::path& beside : m_folders) {
        for (const fs::path& folder : {beside, beside / "values"}) {
            // The likely ones first: the content of any other may take long to read.
            for (const std::string& name : {named, byContent})
                if (!name.empty() && holds(folder / name, values.id)) return folder / name;
            for (const fs::path& file : filesIn(folder))
                if (holds(file, values.id)) return file;
        }
    }
    return std::nullopt;
}

std::vector<ValuesInfo> lostValues(const CompressionPlan& plan)
{
    std::vector<ValuesInfo> lost;
    if (plan.isPlain()) return lost;
    for (const ValuesId& id : valuesOf(plan)) {
        const auto known = std::find_if(plan.values().begin(), plan.values().end(), [&](const ValuesInfo& info) { return info.id == id; });
        std::error_code failure;
        if (known == plan.values().end())
            lost.push_back({id, {}, {}});
        else if (!fs::is_regular_file(known->file, failure))
            lost.push_back(*known);
    }
    return lost;
}

CompressionPlan withValuesAt(const CompressionPlan& plan, const std::map<ValuesId, std::string>& files)
{
    if (plan.isPlain() || files.empty()) return plan;
    std::vector<ValuesInfo> all = plan.values();
    bool changed = false;
    for (const ValuesId& id : valuesOf(plan)) {
        const auto found = files.find(id);
        if (found == files.end()) continue;
        auto known = std::find_if(all.begin(), all.end(), [&](const ValuesInfo& info) { return info.id == id; });
        if (known == all.end()) known = all.insert(all.end(), {id, {}, {}});
        changed = changed || known->file != found->second;
        known->file = found->second;
    }
    return changed ? plan.withValues(std::move(all)) : plan;
}

fs::path keptValuesFile(const fs::path& folder, const ValuesId& id) { return folder / (id + std::string(kExtension)); }

Status beginValuesRecord(const fs::path& valuesFile) { return append(recordOf(valuesFile), {}, O_CREAT); }

void noteValuesUser(const fs::path& valuesFile, const fs::path& user)
{
    const fs::path record = recordOf(valuesFile);
    std::error_code failure;
    if (!fs::is_regular_file(record, failure)) return;
    const fs::path named = fs::absolute(user, failure);
    const std::vector<fs::path> known = usersIn(record);
    if (std::find(known.begin(), known.end(), named) != known.end()) return;
    // A name with a line break would be two others.
    const bool oneLine = named.string().find('\n') == std::string::npos;
    if (!oneLine || !append(record, named.string() + "\n", 0).ok()) fs::remove(record, failure);
}

std::vector<fs::path> removeUnusedValues(const fs::path& folder, fs::file_time_type before,
                                         const std::function<bool(const ValuesId&)>& inUse,
                                         const std::function<bool(const fs::path& user, const ValuesId&)>& names)
{
    std::vector<fs::path> removed;
    for (const fs::path& file : filesIn(folder)) {
        const ValuesId id = file.stem().string();
        const fs::path record = recordOf(file);
        std::error_code failure;
        if (!isId(id) || !fs::is_regular_file(record, failure)) continue;
        if (const auto written = fs::last_write_time(file, failure); failure || written >= before) continue;
        const std::vector<fs::path> users = usersIn(record);
        if (inUse(id) || std::any_of(users.begin(), users.end(), [&](const fs::path& user) { return names(user, id); })) continue;
        if (!fs::remove(file, failure) || failure) continue;
        fs::remove(record, failure);
        removed.push_back(file);
    }
    return removed;
}

}  // namespace espalier
