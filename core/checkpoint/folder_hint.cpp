#include "checkpoint/folder_hint.h"

#include "base/text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

constexpr std::size_t kMaxListed = 1000;
constexpr std::size_t kMaxNamed = 3;

bool isFolder(const fs::path& path)
{
    std::error_code failure;
    return fs::is_directory(path, failure);
}

// "models--x--y", which holds snapshots/, refs/ and blobs/; empty where `folder` is neither that nor one of the three.
fs::path cacheRoot(const fs::path& given)
{
    std::error_code failure;
    fs::path folder = fs::absolute(given, failure).lexically_normal();
    if (folder.filename().empty()) folder = folder.parent_path();
    if (isFolder(folder / "snapshots")) return folder;
    const std::string name = folder.filename().string();
    if ((name == "snapshots" || name == "refs" || name == "blobs") && isFolder(folder.parent_path() / "snapshots"))
        return folder.parent_path();
    return {};
}

std::vector<fs::path> foldersIn(const fs::path& folder, std::string_view prefix)
{
    std::vector<fs::path> found;
    std::error_code failure;
    for (fs::directory_iterator it(folder, failure), end; !failure && it != end && found.size() < kMaxListed; it.increment(failure))
        if (it->path().filename().string().starts_with(prefix) && isFolder(it->path())) found.push_back(it->path());
    std::sort(found.begin(), found.end());
    return found;
}

std::string listed(const std::vector<fs::path>& folders)
{
    std::vector<std::string> names;
    for (std::size_t i = 0; i < std::min(kMaxNamed, folders.size()); ++i)
        names.push_back(folders[i].filename().string());
    return fmt::format("{}{}", fmt::join(names, ", "), folders.size() > kMaxNamed ? ", ..." : "");
}

}  // namespace

fs::path cacheSnapshot(const fs::path& folder)
{
    const fs::path root = cacheRoot(folder);
    if (root.empty()) return {};
    std::error_code failure;
    if (fs::is_regular_file(root / "refs" / "main", failure)) {
        if (auto text = readTextFile(root / "refs" / "main", "checkpoint", 1024)) {
            while (!text->empty() && static_cast<unsigned char>(text->back()) <= ' ')
                text->pop_back();
            const bool plain = !text->empty() && text->find('/') == std::string::npos && *text != "." && *text != "..";
            if (plain && isFolder(root / "snapshots" / *text)) return root / "snapshots" / *text;
        }
    }
    const std::vector<fs::path> snapshots = foldersIn(root / "snapshots", "");
    return snapshots.size() == 1 ? snapshots.front() : fs::path();
}

Status checkCacheFolder(const fs::path& folder)
{
    const auto refused = [&](const std::string& what, std::string action) {
        return badInput("config.missing", folder.string(), {"{folder} {what}.", {{"folder", folder.string()}, {"what", what}}},
                        std::move(action));
    };
    const fs::path root = cacheRoot(folder);
    if (root.empty()) {
        const std::vector<fs::path> models = foldersIn(folder, "models--");
        if (models.empty()) return {};
        const fs::path snapshot = models.size() == 1 ? cacheSnapshot(models.front()) : fs::path();
        return refused(fmt::format("is the cache of the Hugging Face hub ({}) and no model itself", listed(models)),
                       snapshot.empty() ? std::string("Open snapshots/<hash> in the folder of the model.")
                                        : fmt::format("Open {}.", snapshot.string()));
    }
    const fs::path snapshot = cacheSnapshot(folder);
    const std::string what = "belongs to the cache of the Hugging Face hub; the model lies in a folder below snapshots";
    if (!snapshot.empty()) return refused(what, fmt::format("Open {}.", snapshot.string()));
    const std::vector<fs::path> snapshots = foldersIn(root / "snapshots", "");
    if (snapshots.empty()) return refused("belongs to the cache of the Hugging Face hub, but holds no snapshot", "Fetch the model again.");
    return refused(what, fmt::format("Open one of the folders in {}: {}.", (root / "snapshots").string(), listed(snapshots)));
}

Status checkLink(const fs::path& path)
{
    std::error_code failure;
    if (!fs::is_symlink(fs::symlink_status(path, failure)) || fs::exists(path, failure)) return {};
    const fs::path target = fs::read_symlink(path, failure);
    return badInput("checkpoint.link_broken", path.filename().string(),
                    {"{path} is a link to {target}, which is not there.", {{"path", path.string()}, {"target", target.string()}}},
                    "The download is incomplete or the files behind the links were moved: fetch the model again.");
}

}  // namespace espalier
