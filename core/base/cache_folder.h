// Where results that can be made again are kept between runs.
#pragma once

#include <filesystem>

namespace espalier
{

// $XDG_CACHE_HOME/espalier, ~/.cache/espalier, or in the folder of temporary files where there is no home. Not made here.
std::filesystem::path cacheFolder();

}  // namespace espalier
