#include "base/file_stamp.h"

#include <fmt/format.h>

#include <system_error>

namespace espalier
{

std::string fileStamp(const std::filesystem::path& path)
{
    std::error_code failure;
    const auto size = std::filesystem::file_size(path, failure);
    const auto time = std::filesystem::last_write_time(path, failure);
    return fmt::format("{}|{}|{}", path.string(), size, time.time_since_epoch().count());
}

}  // namespace espalier
