// Runs espalier-engine as a child process.
#pragma once

#include "base/json.h"
#include "rpc/framing.h"
#include "rpc/messages.h"

#include <sys/types.h>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace espalier::testing
{

class EngineProcess
{
public:
    // Waiting threads of OpenMP do not spin, unless the program is to decide by itself: there are as many engines as test programs.
    enum class Spin { Never, AsShipped };
    // `launcher`: words before the program, such as {"mpirun", "-n", "2"}.
    explicit EngineProcess(const std::vector<std::string>& arguments, Spin spin = Spin::Never,
                           const std::vector<std::string>& launcher = {});
    ~EngineProcess();  // kills what is left
    EngineProcess(const EngineProcess&) = delete;
    EngineProcess& operator=(const EngineProcess&) = delete;

    pid_t pid() const { return m_pid; }
    bool write(std::string_view bytes);
    void closeInput();
    void signal(int number);
    bool ended() const;  // and waits to be waited for
    // Reads standard output and error until one more piece came; false at the end of both.
    bool pump();
    const std::string& output() const { return m_output; }
    const std::string& errors() const { return m_errors; }
    // Exit code, or 128 + signal.
    int wait();

    // JSON-RPC.
    void send(const Request& request) { write(frameMessage(serialise(request))); }
    void send(const Notification& notification) { write(frameMessage(serialise(notification))); }
    // The next message; nothing at the end of the output.
    std::optional<Json> next();
    // The answer to `id`; notifications on the way go to `notes`.
    Json answer(std::int64_t id, std::vector<Json>* notes = nullptr);

private:
    pid_t m_pid = -1;
    int m_in = -1;
    int m_out = -1;
    int m_err = -1;
    std::string m_output;
    std::string m_errors;
    std::size_t m_decoded = 0;
    FrameDecoder m_decoder;
};

struct Outcome {
    int code = -1;
    std::string output;
    std::string errors;
    Json json() const { return Json::parse(output); }  // throws unless the output is exactly one document
};
Outcome runEngine(const std::vector<std::string>& arguments, std::string_view input = {}, const std::vector<std::string>& launcher = {});

// A folder that goes with the object.
class Scratch
{
public:
    Scratch();
    ~Scratch();
    std::filesystem::path operator/(const std::string& name) const { return m_path / name; }
    const std::filesystem::path& path() const { return m_path; }

private:
    std::filesystem::path m_path;
};

std::string fixture(const std::string& name);
void writeFile(const std::filesystem::path& path, std::string_view text);

}  // namespace espalier::testing
