// How long threads of OpenMP that wait for work spin before they sleep.
//
// libgomp's default, some 300,000 turns, keeps every core busy between two parallel loops. Alone on a machine that is fine; beside one
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
// Two thousand cost an idle machine 1.5 % of an evaluation and just under 3 % of a profile (medians of seven runs each, in turn).
//
// libgomp reads GOMP_SPINCOUNT in its constructor and never again, and offers no call for it. So the program sets it and executes itself
// again, before the constructor of any library has run: what is lost is the time of loading, some 15 ms. Whoever sets GOMP_SPINCOUNT or
// OMP_WAIT_POLICY has what they set.
#include <alloca.h>
#include <unistd.h>
#include <cstddef>
#include <cstring>

namespace
{

char g_spinCount[] = "GOMP_SPINCOUNT=2000";

// libc is not ready yet: system calls and the stack only, and `environment` instead of environ.
void limitSpinning(int, char** argv, char** environment)
{
    const auto sets = [](const char* entry, const char* name) { return std::strncmp(entry, name, std::strlen(name)) == 0; };
    std::size_t count = 0;
    for (; environment[count]; ++count)
        if (sets(environment[count], "GOMP_SPINCOUNT=") || sets(environment[count], "OMP_WAIT_POLICY=")) return;
    char path[4096];  // by its name, so that the process keeps it
    const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0) return;
    path[length] = '\0';
    auto** extended = static_cast<char**>(alloca((count + 2) * sizeof(char*)));
    std::memcpy(extended, environment, count * sizeof(char*));
    extended[count] = g_spinCount;
    extended[count + 1] = nullptr;
    execve(path, argv, extended);  // returns where that is not allowed: the default works too
}

}  // namespace

[[gnu::section(".preinit_array"), gnu::used]] static void (*const g_beforeConstructors)(int, char**, char**) = limitSpinning;
