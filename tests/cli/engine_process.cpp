#include "cli/engine_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <stdexcept>

extern char** environ;

namespace espalier::testing
{

EngineProcess::EngineProcess(const std::vector<std::string>& arguments, Spin spin, const std::vector<std::string>& launcher)
{
    std::signal(SIGPIPE, SIG_IGN);
    int in[2];
    int out[2];
    int err[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, err[1], 2);
    std::vector<std::string> words = launcher;
    words.emplace_back(ESPALIER_ENGINE);
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words)
        argv.push_back(word.data());
    argv.push_back(nullptr);
    if (spin == Spin::Never)
        setenv("GOMP_SPINCOUNT", "0", 1);
    else
        unsetenv("GOMP_SPINCOUNT");
    if (posix_spawnp(&m_pid, argv.front(), &actions, nullptr, argv.data(), environ) != 0) throw std::runtime_error("posix_spawn");
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    close(err[1]);
    m_in = in[1];
    m_out = out[0];
    m_err = err[0];
}

EngineProcess::~EngineProcess()
{
    closeInput();
    if (m_pid > 0) {
        kill(m_pid, SIGKILL);
        waitpid(m_pid, nullptr, 0);
    }
    for (const int descriptor : {m_out, m_err})
        if (descriptor >= 0) close(descriptor);
}

bool EngineProcess::write(std::string_view bytes)
{
    while (!bytes.empty()) {
        const ssize_t written = ::write(m_in, bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
}

void EngineProcess::closeInput()
{
    if (m_in >= 0) close(m_in);
    m_in = -1;
}

void EngineProcess::signal(int number) { kill(m_pid, number); }

bool EngineProcess::ended() const
{
    siginfo_t info = {};
    return waitid(P_PID, static_cast<id_t>(m_pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != 0;
}

bool EngineProcess::pump()
{
    for (;;) {
        pollfd waiting[2] = {{m_out, POLLIN, 0}, {m_err, POLLIN, 0}};  // negative descriptors are ignored
        if (m_out < 0 && m_err < 0) return false;
        if (poll(waiting, 2, -1) < 0) continue;
        bool got = false;
        for (int i = 0; i < 2; ++i) {
            if (waiting[i].revents == 0) continue;
            char buffer[4096];
            const ssize_t bytes = read(waiting[i].fd, buffer, sizeof buffer);
            int& descriptor = i == 0 ? m_out : m_err;
            if (bytes > 0) {
                (i == 0 ? m_output : m_errors).append(buffer, static_cast<std::size_t>(bytes));
                got = true;
            } else if (bytes == 0 || errno != EINTR) {
                close(descriptor);
                descriptor = -1;
            }
        }
        if (got) return true;
    }
}

int EngineProcess::wait()
{
    while (pump()) {
    }
    int status = 0;
    while (waitpid(m_pid, &status, 0) < 0 && errno == EINTR) {
    }
    m_pid = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::optional<Json> EngineProcess::next()
{
    for (;;) {
        m_decoder.feed(std::string_view(m_output).substr(m_decoded));
        m_decoded = m_output.size();
        const auto body = m_decoder.next();
        if (!body.ok()) throw std::runtime_error(body.error().message);
        if (body->has_value()) return Json::parse(**body);
        if (!pump()) return std::nullopt;
    }
}

Json EngineProcess::answer(std::int64_t id, std::vector<Json>* notes)
{
    while (const auto message = next()) {
        if (message->contains("id") && (*message)["id"] == id) return *message;
        if (notes) notes->push_back(*message);
    }
    return nullptr;
}

Outcome runEngine(const std::vector<std::string>& arguments, std::string_view input, const std::vector<std::string>& launcher)
{
    EngineProcess engine(arguments, EngineProcess::Spin::Never, launcher);
    engine.write(input);
    engine.closeInput();
    Outcome outcome;
    outcome.code = engine.wait();
    outcome.output = engine.output();
    outcome.errors = engine.errors();
    return outcome;
}

Scratch::Scratch()
{
    std::string name = (std::filesystem::temp_directory_path() / "espalier-cli-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("mkdtemp");
    m_path = name;
    // Measured windows of other runs must not be found.
    setenv("XDG_CACHE_HOME", (m_path / "cache").c_str(), 1);
}

Scratch::~Scratch()
{
    std::error_code ignored;
    std::filesystem::remove_all(m_path, ignored);
}

std::string fixture(const std::string& name) { return std::string(ESPALIER_TEST_FIXTURES) + "/" + name; }

void writeFile(const std::filesystem::path& path, std::string_view text)
{
    std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
}

}  // namespace espalier::testing
