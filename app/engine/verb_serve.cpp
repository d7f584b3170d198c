// Transport of `serve`: Content-Length frames on standard input and on the descriptor that was standard output.
#include "server.h"
#include "terminal.h"

#include "rpc/framing.h"

#include <fmt/format.h>

#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>

namespace espalier
{

namespace
{

// Until the other side exits, closes its end, sends rubbish, or a signal comes. What runs then finishes its layer step.
Result<Json> serve(int output, Invocation& invocation)
{
    // The window stays smooth on a machine that is busy with its own engine.
    setpriority(PRIO_PROCESS, 0, 5);
    std::atomic<bool> reachable = true;
    Status broken;
    {
        Server server(invocation.options, [&](std::string_view body) {
            if (reachable && !writeAll(output, frameMessage(body))) reachable = false;
        });
        FrameDecoder decoder;
        std::string buffer(1 << 16, '\0');
        bool open = true;
        while (open && reachable) {
            pollfd waiting[2] = {{0, POLLIN, 0}, {stopSignalDescriptor(), POLLIN, 0}};
            if (poll(waiting, 2, -1) < 0) {
                if (errno == EINTR) continue;
                break;
            }
            if (waiting[1].revents != 0) break;
            const ssize_t got = read(0, buffer.data(), buffer.size());
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) break;
            decoder.feed(std::string_view(buffer.data(), static_cast<std::size_t>(got)));
            while (open) {
                Result<std::optional<std::string>> body = decoder.next();
                if (!body.ok()) {
                    // The stream cannot be trusted any more: say so once, and end.
                    writeAll(output,
                             frameMessage(serialise(BadMessage{{}, {rpc::kParseError, body.error().message, toJson(body.error())}})));
                    broken = std::move(body).error();
                    open = false;
                    break;
                }
                if (!body->has_value()) break;
                open = server.handle(**body);
            }
        }
    }
    if (!broken.ok()) return std::move(broken).error();
    if (stopSignalled()) return cancelledError();
    return Json(nullptr);
}

}  // namespace

void addServe(Verbs& verbs, int protocolDescriptor)
{
    verbs.add("serve", "JSON-RPC 2.0 on standard input and output, for the window",
              [protocolDescriptor](Invocation& invocation) { return serve(protocolDescriptor, invocation); });
}

}  // namespace espalier
