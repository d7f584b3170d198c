// Content-Length framing, as language servers use it: "Content-Length: N\r\n\r\n" and N bytes of JSON. No I/O: bytes in, bodies out,
// so that a pipe, a test and a fuzzer drive the same code.
#pragma once

#include "base/error.h"

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace espalier
{

struct FrameLimits {
    std::size_t headerBytes = 4u << 10;
    std::size_t bodyBytes = 64u << 20;  // refused before anything of that size is allocated
};

class FrameDecoder
{
public:
    explicit FrameDecoder(FrameLimits limits = {}) : m_limits(limits) {}

    void feed(std::string_view bytes);
    // The next complete body, nothing when more bytes are needed, or an error after which the stream cannot be trusted any more
    // (rpc.bad_header, rpc.header_too_long, rpc.body_too_long). Unknown headers are ignored; a second Content-Length must agree.
    Result<std::optional<std::string>> next();
    // Bytes fed and not yet handed out; not empty at the end of the stream means a torn message.
    std::size_t pendingBytes() const noexcept { return m_buffer.size() - m_begin; }

private:
    FrameLimits m_limits;
    std::string m_buffer;
    std::size_t m_begin = 0;                 // consumed prefix
    std::optional<std::size_t> m_bodyBytes;  // set once the header is complete
};

std::string frameMessage(std::string_view body);

}  // namespace espalier
