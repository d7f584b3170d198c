// espalier-engine: answers at once what needs no libtorch, whose loading takes a third of a second, and becomes espalier-engine-compute for
// everything else: the same process, arguments and streams.
//
// It also says how long threads of OpenMP that wait for work spin before they sleep, which libgomp reads when it is loaded and offers no
// call for. Its default, some 300,000 turns, keeps every core busy between two parallel loops. Alone on a machine that is fine; beside one
// other busy process the spinning threads take the core from the thread they wait for. Seconds on the demo model, two cores, evaluate of
// 64 and profile of 24 windows alone; 32 and 8 windows beside one busy loop:
//
//   turns        alone        beside a loop
//   default      1.68  4.40   7.7 .. 53    11 .. 180
//   10,000       1.66  4.39   2.5 .. 3.5   10 .. 54
//   3,000        1.67  4.45   3.2 .. 5.2   19 .. 24
//   2,000        1.70  4.50   2.9 .. 5.2   12 .. 18
//   1,000        1.72  4.71   1.6 .. 4.2   5.9 .. 14.5
//   0            1.82  7.52   1.4 .. 3.5   4.1 .. 7.1
//
// Two thousand cost an idle machine 1.5 % of an evaluation and just under 3 % of a profile (medians of seven runs each, in turn). Whoever
// sets GOMP_SPINCOUNT or OMP_WAIT_POLICY has what they set.
//
// And how many generated kernels oneDNN keeps, which it also reads once. Plans with ranks have as many shapes of products as there are
// ranks; up to 1,024 kernels of some 0.3 MB stay in each of two caches. A search for a plan of the demo's size with ranks, peak anonymous
// memory: 1,752 MB; 943 with 128 in both caches, 793 with 64, in the same time within the noise of a busy machine (684 since freed pages
// go back between two evaluations; 32 and 16 kernels take 5 and 10 % longer). One evaluation costs
// 6 % more processor time with 128, so that only verbs that meet many plans have fewer, and profiles, which meet as many
// numbers of rows: the demo's took 1,375 MB, and takes some 600 with 64.
#include "engine_main.h"
#include "options.h"
#include "terminal.h"

#include <fmt/format.h>

#include <unistd.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <span>
#include <string_view>
#include <system_error>

namespace espalier
{

namespace
{

constexpr const char* kSpinCount = "2000";
constexpr const char* kKernelsKept = "64";

// `inspect` reads headers. A device is looked for by the other program, which knows them.
bool answersAlone(std::span<char*> arguments)
{
    if (arguments.size() == 2 && std::string_view(arguments[1]) == "--version") return true;
    if (arguments.size() < 2 || std::string_view(arguments[1]) != "inspect") return false;
    for (const std::string_view argument : arguments.subspan(2))
        if (argument.starts_with("--device")) return false;
    return true;
}

int becomeCompute(std::span<char*> arguments)
{
    if (!std::getenv("GOMP_SPINCOUNT") && !std::getenv("OMP_WAIT_POLICY")) setenv("GOMP_SPINCOUNT", kSpinCount, 1);
    const std::string_view verb = arguments.size() > 1 ? arguments[1] : "";
    if (verb == "plan" || verb == "compress" || verb == "profile" || verb == "serve")
        for (const char* cache : {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"})
            setenv(cache, kKernelsKept, 0);
    std::error_code failure;
    const std::filesystem::path own = std::filesystem::read_symlink("/proc/self/exe", failure);
    const std::filesystem::path program = own.parent_path() / "espalier-engine-compute";
    errno = failure.value();
    // Never from the current folder, which is what an unknown own path would come to.
    if (!failure) execv(program.c_str(), arguments.data());
    bool json = false;
    for (const std::string_view argument : arguments)
        json = json || argument == "--json";
    return reportFailure(
        resourceError("engine.missing_part", program.string(),
                      {"{program} cannot be started: {strerror}.", {{"program", program.string()}, {"strerror", std::strerror(errno)}}},
                      "Install Espalier again: the two belong beside each other."),
        json, STDOUT_FILENO);
}

}  // namespace

}  // namespace espalier

int main(int argc, char** argv)
{
    const std::span<char*> arguments(argv, static_cast<std::size_t>(argc));
    if (!espalier::answersAlone(arguments)) return espalier::becomeCompute(arguments);
    const int output = espalier::takeStandardOutput();
    espalier::installStopSignals();
    espalier::installReadFaultSignal(argc, argv, output);
    return espalier::runEngine(argc, argv, output, [](CLI::App&, espalier::Verbs& verbs) { espalier::addInspect(verbs); });
}
