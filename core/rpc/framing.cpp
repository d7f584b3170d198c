#include "rpc/framing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>

namespace espalier
{

namespace
{

bool equalsIgnoringCase(std::string_view a, std::string_view b)
{
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

std::string_view trimmed(std::string_view text)
{
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t'))
        text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t'))
        text.remove_suffix(1);
    return text;
}

// What went wrong is shown with the first bytes: an engine command that prints a greeting explains itself this way.
Error badHeader(std::string_view header)
{
    std::string shown;
    for (const char c : header.substr(0, 80))
        shown += c >= 0x20 && c < 0x7F ? c : '?';
    return badInput("rpc.bad_header", "message header", {"The other side did not send a message but \"{shown}\".", {{"shown", shown}}},
                    "Check the engine command: nothing else may print to its standard output.");
}

Result<std::size_t> contentLength(std::string_view header)
{
    std::optional<std::size_t> length;
    std::string_view rest = header;
    while (!rest.empty()) {
        const std::size_t end = rest.find("\r\n");
        const std::string_view line = rest.substr(0, end);
        rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 2);
        const std::size_t colon = line.find(':');
        if (colon == std::string_view::npos) return badHeader(line);
        if (!equalsIgnoringCase(trimmed(line.substr(0, colon)), "Content-Length")) continue;
        const std::string_view value = trimmed(line.substr(colon + 1));
        std::size_t number = 0;
        const auto [at, failure] = std::from_chars(value.data(), value.data() + value.size(), number);
        if (failure == std::errc::result_out_of_range)
            return badInput("rpc.body_too_long", "Content-Length",
                            {"A message of {value} bytes was announced.", {{"value", value.substr(0, 24)}}});
        if (failure != std::errc() || at != value.data() + value.size()) return badHeader(line);
        if (length && *length != number) return badHeader(line);
        length = number;
    }
    if (!length) return badHeader(header);
    return *length;
}

}  // namespace

void FrameDecoder::feed(std::string_view bytes)
{
    if (m_begin > (1u << 16) && m_begin > m_buffer.size() / 2) {
        m_buffer.erase(0, m_begin);
        m_begin = 0;
    }
    m_buffer.append(bytes);
}

Result<std::optional<std::string>> FrameDecoder::next()
{
    const std::string_view pending = std::string_view(m_buffer).substr(m_begin);
    if (!m_bodyBytes) {
        const std::size_t end = pending.find("\r\n\r\n");
        if (end == std::string_view::npos ? pending.size() > m_limits.headerBytes : end > m_limits.headerBytes) {
            if (pending.substr(0, 64).find(':') == std::string_view::npos) return badHeader(pending);
            return badInput("rpc.header_too_long", "message header",
                            {"A message header is longer than {header_bytes} bytes.", {{"header_bytes", m_limits.headerBytes}}},
                            "Check the engine command: nothing else may print to its standard output.");
        }
        if (end == std::string_view::npos) {
            // Rubbish is recognised at its first line, not after 4 KiB of it.
            const std::size_t line = pending.find('\n');
            if (line != std::string_view::npos && pending.substr(0, line).find(':') == std::string_view::npos)
                return badHeader(pending.substr(0, line));
            return std::optional<std::string>();
        }
        ESPALIER_TRY(const std::size_t length, contentLength(pending.substr(0, end)));
        if (length > m_limits.bodyBytes)
            return badInput("rpc.body_too_long", "Content-Length",
                            {"A message of {value} bytes was announced; at most {body_bytes} are accepted.",
                             {{"value", length}, {"body_bytes", m_limits.bodyBytes}}});
        m_bodyBytes = length;
        m_begin += end + 4;
    }
    if (pendingBytes() < *m_bodyBytes) return std::optional<std::string>();
    std::string body = m_buffer.substr(m_begin, *m_bodyBytes);
    m_begin += *m_bodyBytes;
    m_bodyBytes.reset();
    if (m_begin == m_buffer.size()) {
        m_buffer.clear();
        m_begin = 0;
    }
    return std::optional<std::string>(std::move(body));
}

std::string frameMessage(std::string_view body) { return fmt::format("Content-Length: {}\r\n\r\n{}", body.size(), body); }

}  // namespace espalier
