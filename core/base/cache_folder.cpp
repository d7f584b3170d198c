#include "base/cache_folder.h"

#include <cstdlib>

namespace espalier
{

std::filesystem::path cacheFolder()
{
    std::filesystem::path base;
    if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache == '/')
        base = cache;
    else if (const char* home = std::getenv("HOME"); home && *home)
        base = std::filesystem::path(home) / ".cache";
    else
        base = std::filesystem::temp_directory_path();
    return base / "espalier";
}

}  // namespace espalier
