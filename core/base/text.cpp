#include "base/text.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>

namespace espalier
{

Result<std::string> readTextFile(const std::filesystem::path& path, std::string_view area, std::size_t maxBytes)
{
    const std::string subject = path.filename().string();
    std::error_code failure;
    if (!std::filesystem::exists(path, failure))
        return badInput(fmt::format("{}.missing", area), subject,
                        {"{subject} does not exist ({path}).", {{"subject", subject}, {"path", path.string()}}}, "Check the path.");
    const auto unreadable = [&](int number) {
        return badInput(fmt::format("{}.unreadable", area), subject,
                        {"{path} cannot be read: {strerror}.", {{"path", path.string()}, {"strerror", std::strerror(number)}}},
                        number == EIO ? "Check the disk." : "Check that it is a file and that you may read it.");
    };
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return unreadable(errno);
    struct Closer {
        int descriptor;
        ~Closer() { ::close(descriptor); }
    } const closer{descriptor};
    struct stat info = {};
    if (::fstat(descriptor, &info) != 0) return unreadable(errno);
    const auto tooLarge = [&](std::size_t bytes) {
        return badInput(fmt::format("{}.too_large", area), subject,
                        {"{subject} has {format_bytes}, more than the {format_bytes2} that are read.",
                         {{"subject", subject},
                          {"format_bytes", formatBytes(static_cast<std::int64_t>(bytes))},
                          {"format_bytes2", formatBytes(static_cast<std::int64_t>(maxBytes))}}});
    };
    const auto size = S_ISREG(info.st_mode) ? static_cast<std::size_t>(info.st_size) : 0;
    if (size > maxBytes) return tooLarge(size);
    // No more than the file says it is; what is longer (a pipe, a file that grows) is followed piece by piece.
    std::string text(size + 1, '\0');
    constexpr std::size_t kPiece = 1u << 16;
    for (std::size_t done = 0;;) {
        if (done == text.size()) text.resize(done + kPiece);
        const ssize_t got = ::read(descriptor, text.data() + done, text.size() - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return unreadable(errno);
        done += static_cast<std::size_t>(got);
        if (done > maxBytes) return tooLarge(done);
        if (got > 0) continue;
        text.resize(done);
        return text;
    }
}

std::optional<std::size_t> invalidUtf8Offset(std::string_view text)
{
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    std::size_t i = 0;
    while (i < text.size()) {
        const unsigned char lead = byte(i);
        if (lead < 0x80) {
            ++i;
            continue;
        }
        std::size_t length = 0;
        unsigned char low = 0x80;
        unsigned char high = 0xBF;
        if (lead >= 0xC2 && lead <= 0xDF) {
            length = 2;
        } else if (lead >= 0xE0 && lead <= 0xEF) {
            length = 3;
            if (lead == 0xE0) low = 0xA0;
            if (lead == 0xED) high = 0x9F;
        } else if (lead >= 0xF0 && lead <= 0xF4) {
            length = 4;
            if (lead == 0xF0) low = 0x90;
            if (lead == 0xF4) high = 0x8F;
        } else {
            return i;
        }
        if (i + length > text.size()) return i;
        if (byte(i + 1) < low || byte(i + 1) > high) return i;
        for (std::size_t j = 2; j < length; ++j)
            if (byte(i + j) < 0x80 || byte(i + j) > 0xBF) return i;
        i += length;
    }
    return std::nullopt;
}

Result<std::int64_t> parseByteSize(std::string_view text)
{
    double number = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
    std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
    while (!unit.empty() && unit.front() == ' ')
        unit.remove_prefix(1);
    double factor = 0;
    if (unit.empty() || unit == "B")
        factor = 1;
    else if (unit == "kB" || unit == "KB")
        factor = 1e3;
    else if (unit == "MB")
        factor = 1e6;
    else if (unit == "GB")
        factor = 1e9;
    else if (unit == "TB")
        factor = 1e12;
    else if (unit == "KiB")
        factor = 1024.0;
    else if (unit == "MiB")
        factor = 1024.0 * 1024;
    else if (unit == "GiB")
        factor = 1024.0 * 1024 * 1024;
    else if (unit == "TiB")
        factor = 1024.0 * 1024 * 1024 * 1024;
    const double bytes = number * factor;
    if (failure != std::errc() || factor == 0 || !(bytes >= 0) || bytes > 9e18)
        return usageError({"\"{text}\" is not a size.", {{"text", text}}}, "Write for example 4GiB or 512MiB.");
    return static_cast<std::int64_t>(std::llround(bytes));
}

std::string formatBytes(std::int64_t bytes)
{
    constexpr double kMiB = 1024.0 * 1024;
    const auto value = static_cast<double>(bytes);
    if (value >= 1024 * kMiB) return fmt::format("{:.1f} GiB", value / (1024 * kMiB));
    if (value >= kMiB) return fmt::format("{:.1f} MiB", value / kMiB);
    if (value >= 1024) return fmt::format("{:.1f} KiB", value / 1024);
    return fmt::format("{} B", bytes);
}

std::string formatCount(std::int64_t count)
{
    const auto value = static_cast<double>(count);
    const auto threeDigits = [](double x) {
        return x >= 100 ? fmt::format("{:.0f}", x) : x >= 10 ? fmt::format("{:.1f}", x) : fmt::format("{:.2f}", x);
    };
    if (value >= 1e9) return threeDigits(value / 1e9) + " B";
    if (value >= 1e6) return threeDigits(value / 1e6) + " M";
    if (value >= 1e4) return threeDigits(value / 1e3) + " k";
    return fmt::format("{}", count);
}

std::string formatSeconds(double seconds)
{
    if (seconds < 10) return fmt::format("{:.1f} s", seconds);
    if (seconds < 60) return fmt::format("{:.0f} s", seconds);
    const auto whole = static_cast<long>(std::lround(seconds));
    if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
    return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

}  // namespace espalier
