// What the command line prints, and where: results on the real standard output, everything else on standard error.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/json.h"

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

// Takes descriptor 1 away from the process: the real standard output lives on in the returned descriptor, and whatever a library
// prints goes to standard error. Called first thing in main.
int takeStandardOutput();

// Writes everything, through EINTR and short writes. False when the reader is gone.
bool writeAll(int descriptor, std::string_view bytes);

// SIGINT and SIGTERM ask for a stop; a second one ends the process at once with 130. stopSignalDescriptor() becomes readable with
// the first, for code that waits in poll().
void installStopSignals();
// A mapped file that is cut short, or whose disk fails, is told by SIGBUS. From here on that ends the process as an error does: a line for
// people, the JSON object on `output` where --json is among the arguments, exit code 4.
void installReadFaultSignal(int argc, char** argv, int output);
bool stopSignalled() noexcept;
int stopSignalDescriptor() noexcept;

std::int64_t peakResidentBytes();

// Columns aligned, numbers to the right.
class Table
{
public:
    explicit Table(std::vector<std::string> header);
    void row(std::vector<std::string> cells);
    std::string text() const;

private:
    std::vector<std::vector<std::string>> m_rows;
};

// JobContext of the command line: stop by signal, progress on standard error as a bar (terminal) or as a line every 5 s at most.
class TerminalJob : public JobContext
{
public:
    explicit TerminalJob(bool quiet);
    ~TerminalJob() override;
    bool stopRequested() const noexcept override { return stopSignalled(); }
    void progress(std::int64_t done, std::int64_t total, std::string_view phase) override;
    void partial(const Json&) override {}

private:
    using Clock = std::chrono::steady_clock;
    void clearBar();

    bool m_quiet;
    bool m_terminal;
    bool m_barShown = false;
    std::string m_phase;
    Clock::time_point m_started;
    Clock::time_point m_lastShown;
    std::int64_t m_firstDone = 0;
};

}  // namespace espalier
