#include "terminal.h"

#include "base/peak_memory.h"
#include "base/text.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

namespace espalier
{

namespace
{

std::atomic<int> g_signals = 0;
int g_signalPipe[2] = {-1, -1};

extern "C" void onStopSignal(int)
{
    const int saved = errno;
    if (g_signals.fetch_add(1) > 0) _exit(130);
    const char byte = 1;
    [[maybe_unused]] const auto written = write(g_signalPipe[1], &byte, 1);
    errno = saved;
}

int g_faultOutput = -1;  // where the JSON object goes; -1: nowhere
constexpr std::string_view kFaultJson =
    R"({"error": {"code": "input.unreadable", "subject": "", "message": "A file that was being read has become shorter, or its disk failed.", )"
    R"("kept": "Finished outputs and what is kept for --resume are unharmed.", )"
    R"("action": "Check the disk, and that nothing else changes the files, and run it again."}})"
    "\n";
constexpr std::string_view kFaultText =
    "espalier-engine: A file that was being read has become shorter, or its disk failed. Finished outputs and what is kept for --resume "
    "are "
    "unharmed. Check the disk, and that nothing else changes the files, and run it again. [input.unreadable]\n";

extern "C" void onReadFault(int number, siginfo_t* info, void*)
{
    if (info->si_code != BUS_ADRERR) {
        std::signal(number, SIG_DFL);
        return;  // to the instruction that failed, which fails again
    }
    [[maybe_unused]] ssize_t written = g_faultOutput < 0 ? 0 : write(g_faultOutput, kFaultJson.data(), kFaultJson.size());
    written = write(2, kFaultText.data(), kFaultText.size());
    _exit(4);
}

// Width in columns of UTF-8 text without wide characters.
std::size_t columns(std::string_view text)
{
    return static_cast<std::size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

bool numeric(std::string_view text)
{
    return !text.empty() && (std::isdigit(static_cast<unsigned char>(text[0])) || text[0] == '-' || text[0] == '+');
}

}  // namespace

int takeStandardOutput()
{
    // Descriptors 0 to 2 exist from here on, so that nothing that is opened later takes their place.
    for (int opened = open("/dev/null", O_RDWR | O_CLOEXEC); opened >= 0; opened = open("/dev/null", O_RDWR | O_CLOEXEC))
        if (opened > 2) {
            close(opened);
            break;
        }
    const int real = fcntl(1, F_DUPFD_CLOEXEC, 3);
    std::fflush(stdout);
    dup2(2, 1);
    return real;
}

bool writeAll(int descriptor, std::string_view bytes)
{
    while (!bytes.empty()) {
        const ssize_t written = write(descriptor, bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
}

void installStopSignals()
{
    if (pipe2(g_signalPipe, O_CLOEXEC | O_NONBLOCK) != 0) g_signalPipe[0] = g_signalPipe[1] = -1;
    struct sigaction action = {};
    action.sa_handler = onStopSignal;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error of the write that meets it
}

void installReadFaultSignal(int argc, char** argv, int output)
{
    if (std::any_of(argv, argv + argc, [](const char* argument) { return std::strcmp(argument, "--json") == 0; })) g_faultOutput = output;
    struct sigaction action = {};
    action.sa_sigaction = onReadFault;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGBUS, &action, nullptr);
}

bool stopSignalled() noexcept { return g_signals.load(std::memory_order_relaxed) > 0; }
int stopSignalDescriptor() noexcept { return g_signalPipe[0]; }

std::int64_t peakResidentBytes() { return peakMemoryBytes(); }

Table::Table(std::vector<std::string> header) { m_rows.push_back(std::move(header)); }
void Table::row(std::vector<std::string> cells) { m_rows.push_back(std::move(cells)); }

std::string Table::text() const
{
    std::vector<std::size_t> widths;
    for (const auto& row : m_rows) {
        widths.resize(std::max(widths.size(), row.size()));
        for (std::size_t i = 0; i < row.size(); ++i)
            widths[i] = std::max(widths[i], columns(row[i]));
    }
    std::vector<bool> right(widths.size(), m_rows.size() > 1);
    for (std::size_t r = 1; r < m_rows.size(); ++r)
        for (std::size_t i = 0; i < m_rows[r].size(); ++i)
            if (!m_rows[r][i].empty() && !numeric(m_rows[r][i])) right[i] = false;
    std::string text;
    for (const auto& row : m_rows) {
        std::string line;
        for (std::size_t i = 0; i < row.size(); ++i) {
            const std::string padding(widths[i] - columns(row[i]), ' ');
            line += right[i] ? padding + row[i] : row[i] + padding;
            line += "  ";
        }
        line.erase(line.find_last_not_of(' ') + 1);
        text += line + "\n";
    }
    return text;
}

TerminalJob::TerminalJob(bool quiet) : m_quiet(quiet), m_terminal(isatty(2) == 1), m_started(Clock::now()), m_lastShown(m_started) {}

TerminalJob::~TerminalJob() { clearBar(); }

void TerminalJob::clearBar()
{
    if (m_barShown) writeAll(2, "\r\033[K");
    m_barShown = false;
}

void TerminalJob::progress(std::int64_t done, std::int64_t total, std::string_view phase)
{
    if (m_quiet || total <= 0) return;
    const auto now = Clock::now();
    if (phase != m_phase) {
        m_phase = phase;
        m_started = now;
        m_firstDone = done;
        if (!m_terminal) m_lastShown = now;
    }
    const auto interval = m_terminal ? std::chrono::milliseconds(100) : std::chrono::milliseconds(5000);
    if (now - m_lastShown < interval) return;
    m_lastShown = now;
    const double seconds = std::chrono::duration<double>(now - m_started).count();
    const double rate = seconds > 0 ? static_cast<double>(done - m_firstDone) / seconds : 0;
    const double share = static_cast<double>(done) / static_cast<double>(total);
    // A search tells a share of its limits, and may end before them: no number of things, no time that is left.
    const bool counts = phase != "search";
    std::string pace;
    if (counts && rate > 0)
        pace = fmt::format("  {}/s", phase == "byte"
                                         ? formatBytes(static_cast<std::int64_t>(rate))
                                         : fmt::format("{:.3g} {}", rate, phase == "matrix" ? "matrices" : std::string(phase) + "s"));
    if (counts && rate > 0 && done < total) pace += fmt::format("  about {} left", formatSeconds(static_cast<double>(total - done) / rate));
    if (m_terminal) {
        constexpr int kCells = 24;
        const int filled = static_cast<int>(share * kCells);
        std::string bar;
        for (int i = 0; i < kCells; ++i)
            bar += i < filled ? "█" : "░";
        writeAll(2, fmt::format("\r\033[K{} {:3.0f} %{}", bar, share * 100, pace));
        m_barShown = true;
    } else if (!counts) {
        writeAll(2, fmt::format("{:.0f} % ({})\n", share * 100, phase));
    } else {
        writeAll(2, fmt::format("{:.0f} % ({} of {}, {}){}\n", share * 100, done, total, phase, pace));
    }
}

}  // namespace espalier
