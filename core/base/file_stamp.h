// The identity of a file's content for caches.
#pragma once

#include <filesystem>
#include <string>

namespace espalier
{

// Path, size and time of the last change: another content has another size or time. Any thread; a file that is not there has a stamp too.
std::string fileStamp(const std::filesystem::path& path);

}  // namespace espalier
