// A library for LD_PRELOAD: makes one call of a program fail that changes (or reads) files below a folder.
//
//   ESPALIER_FAULT_BELOW   the folder, as realpath gives it
//   ESPALIER_FAULT_CALLS   "write" (default): write, sync, truncate, allocate, rename, link, make a folder, create, close; or "read"
//   ESPALIER_FAULT_AT      number of the call, from 1; 0 or nothing: all succeed
//   ESPALIER_FAULT_KIND    "EIO": that call fails. "ENOSPC": the disk is full from that call on: half of what it writes still fits.
//                          "KILL": the process is killed before that call. With "read": "CUT": half of the mapped file is gone before it is
//                          mapped, by the size that was known; "CLIP": its last byte is gone, "WRITTEN": a byte in its middle is another
//                          one, both as soon as it is mapped or its pages are asked for.
//   ESPALIER_FAULT_LOG     each counted call is appended to this file, which lies elsewhere: "name path"
//
// Calls that the C library makes inside itself (fwrite to write) do not come by here; the programs use none of them for files.
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace
{

enum class Kind { None, Eio, Full, Kill, Cut, Clip, Written };

struct Settings {
    char below[PATH_MAX] = {};
    std::size_t belowSize = 0;
    bool reads = false;
    long at = 0;
    Kind kind = Kind::None;
    int log = -1;
};

const Settings& settings()
{
    static const Settings made = [] {
        Settings s;
        const char* below = std::getenv("ESPALIER_FAULT_BELOW");
        if (!below || !*below) return s;
        std::snprintf(s.below, sizeof s.below, "%s", below);
        s.belowSize = std::strlen(s.below);
        const char* calls = std::getenv("ESPALIER_FAULT_CALLS");
        s.reads = calls && std::strcmp(calls, "read") == 0;
        const char* at = std::getenv("ESPALIER_FAULT_AT");
        s.at = at ? std::atol(at) : 0;
        const char* kind = std::getenv("ESPALIER_FAULT_KIND");
        const struct {
            const char* name;
            Kind kind;
        } kinds[] = {{"EIO", Kind::Eio}, {"ENOSPC", Kind::Full}, {"KILL", Kind::Kill},
                     {"CUT", Kind::Cut}, {"CLIP", Kind::Clip},   {"WRITTEN", Kind::Written}};
        for (const auto& known : kinds)
            if (kind && std::strcmp(kind, known.name) == 0) s.kind = known.kind;
        if (const char* log = std::getenv("ESPALIER_FAULT_LOG"); log && *log)
            s.log = static_cast<int>(syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
        return s;
    }();
    return made;
}

bool isBelow(const char* path)
{
    const Settings& s = settings();
    return s.belowSize > 0 && std::strncmp(path, s.below, s.belowSize) == 0 && (path[s.belowSize] == '/' || path[s.belowSize] == '\0');
}

bool pathOf(int descriptor, char (&path)[PATH_MAX])
{
    char link[64];
    std::snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    const long size = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (size <= 0) return false;
    path[size] = '\0';
    return true;
}

// Absolute, but not resolved: what is tested has no links in its paths.
bool absolute(int folder, const char* name, char (&path)[PATH_MAX])
{
    if (!name) return false;
    if (name[0] == '/') {
        std::snprintf(path, sizeof path, "%s", name);
        return true;
    }
    char base[PATH_MAX];
    if (folder == AT_FDCWD ? syscall(SYS_getcwd, base, sizeof base) <= 0 : !pathOf(folder, base)) return false;
    std::snprintf(path, sizeof path, "%.2000s/%.2000s", base, name);
    return true;
}

std::atomic<long> g_calls = 0;

enum class Outcome { Go, Fail, Half };

// Counts a call below the folder. `needsSpace`: fails on a full disk; the others do not.
Outcome counted(const char* name, const char* path, bool reads, bool needsSpace)
{
    const Settings& s = settings();
    if (reads != s.reads || !isBelow(path)) return Outcome::Go;
    const long number = ++g_calls;
    if (s.log >= 0) {
        char line[PATH_MAX + 64];
        const int size = std::snprintf(line, sizeof line, "%s %s\n", name, path);
        syscall(SYS_write, s.log, line, static_cast<std::size_t>(size));
    }
    if (s.at <= 0 || number < s.at) return Outcome::Go;
    switch (s.kind) {
        case Kind::Eio:
            if (number > s.at) return Outcome::Go;
            errno = EIO;
            return Outcome::Fail;
        case Kind::Full:
            if (!needsSpace) return Outcome::Go;
            errno = ENOSPC;
            return number == s.at ? Outcome::Half : Outcome::Fail;
        case Kind::Kill:
            syscall(SYS_kill, getpid(), SIGKILL);
            for (;;)
                pause();
        default:
            return Outcome::Go;
    }
}

Outcome counted(const char* name, int descriptor, bool reads, bool needsSpace)
{
    const int before = errno;
    char path[PATH_MAX];
    const Outcome outcome = pathOf(descriptor, path) ? counted(name, path, reads, needsSpace) : Outcome::Go;
    if (outcome == Outcome::Go) errno = before;
    return outcome;
}

Outcome countedAt(const char* name, int folder, const char* file, bool needsSpace)
{
    const int before = errno;
    char path[PATH_MAX];
    const Outcome outcome = absolute(folder, file, path) ? counted(name, path, false, needsSpace) : Outcome::Go;
    if (outcome == Outcome::Go) errno = before;
    return outcome;
}

template <typename Function>
Function real(Function, const char* name)
{
    return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

// Files that are mapped: msync and madvise give an address only.
struct Mapping {
    std::atomic<char*> begin = nullptr;
    std::size_t size = 0;
    char path[PATH_MAX] = {};
};
Mapping g_mappings[64];
std::atomic<unsigned> g_mappingCount = 0;

void remember(void* begin, std::size_t size, const char* path)
{
    const unsigned slot = g_mappingCount++ % 64;
    std::snprintf(g_mappings[slot].path, PATH_MAX, "%s", path);
    g_mappings[slot].size = size;
    g_mappings[slot].begin = static_cast<char*>(begin);
}

// Another byte there, in the same file.
void overwrite(const char* path, off_t at)
{
    const int other = static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC));
    unsigned char byte = 0;
    if (other < 0 || syscall(SYS_pread64, other, &byte, 1, at) != 1) abort();
    byte ^= 1U;
    if (syscall(SYS_pwrite64, other, &byte, 1, at) != 1) abort();
    syscall(SYS_close, other);
}

void change(const char* path, size_t size)
{
    if (settings().kind == Kind::Clip && truncate(path, static_cast<off_t>(size - 1)) != 0) abort();
    if (settings().kind == Kind::Written) overwrite(path, static_cast<off_t>(size / 2));
}

}  // namespace

#define REAL(name) static const auto original = real(static_cast<decltype(&::name)>(nullptr), #name)

extern "C" {

ssize_t write(int descriptor, const void* bytes, size_t size)
{
    REAL(write);
    const Outcome outcome = counted("write", descriptor, false, true);
    if (outcome == Outcome::Go) return original(descriptor, bytes, size);
    if (outcome == Outcome::Half && size > 1) return original(descriptor, bytes, size / 2);
    return -1;
}

ssize_t pwrite(int descriptor, const void* bytes, size_t size, off_t offset)
{
    REAL(pwrite);
    const Outcome outcome = counted("pwrite", descriptor, false, true);
    if (outcome == Outcome::Go) return original(descriptor, bytes, size, offset);
    if (outcome == Outcome::Half && size > 1) return original(descriptor, bytes, size / 2, offset);
    return -1;
}

ssize_t pwrite64(int descriptor, const void* bytes, size_t size, off64_t offset)
{
    REAL(pwrite64);
    const Outcome outcome = counted("pwrite", descriptor, false, true);
    if (outcome == Outcome::Go) return original(descriptor, bytes, size, offset);
    if (outcome == Outcome::Half && size > 1) return original(descriptor, bytes, size / 2, offset);
    return -1;
}

ssize_t writev(int descriptor, const struct iovec* pieces, int count)
{
    REAL(writev);
    return counted("writev", descriptor, false, true) == Outcome::Go ? original(descriptor, pieces, count) : -1;
}

ssize_t pwritev(int descriptor, const struct iovec* pieces, int count, off_t offset)
{
    REAL(pwritev);
    return counted("pwritev", descriptor, false, true) == Outcome::Go ? original(descriptor, pieces, count, offset) : -1;
}

ssize_t copy_file_range(int from, off64_t* fromOffset, int to, off64_t* toOffset, size_t size, unsigned flags)
{
    REAL(copy_file_range);
    return counted("copy_file_range", to, false, true) == Outcome::Go ? original(from, fromOffset, to, toOffset, size, flags) : -1;
}

int fsync(int descriptor)
{
    REAL(fsync);
    return counted("fsync", descriptor, false, false) == Outcome::Go ? original(descriptor) : -1;
}

int fdatasync(int descriptor)
{
    REAL(fdatasync);
    return counted("fdatasync", descriptor, false, false) == Outcome::Go ? original(descriptor) : -1;
}

int msync(void* begin, size_t size, int flags)
{
    REAL(msync);
    for (const Mapping& mapping : g_mappings) {
        const char* start = mapping.begin;
        if (start && begin >= start && begin < start + mapping.size && counted("msync", mapping.path, false, false) != Outcome::Go)
            return -1;
    }
    return original(begin, size, flags);
}

// Counted among the reads where it asks for pages of a file.
int madvise(void* begin, size_t size, int advice) noexcept
{
    REAL(madvise);
#ifdef MADV_POPULATE_READ
    for (const Mapping& mapping : g_mappings) {
        const char* start = mapping.begin;
        if (advice != MADV_POPULATE_READ || !start || begin < start || begin >= start + mapping.size) continue;
        if (counted("populate", mapping.path, true, false) != Outcome::Go) return -1;
        if (g_calls.load() == settings().at) change(mapping.path, mapping.size);
        break;
    }
#endif
    return original(begin, size, advice);
}

int ftruncate(int descriptor, off_t size) noexcept
{
    REAL(ftruncate);
    return counted("ftruncate", descriptor, false, size > 0) == Outcome::Go ? original(descriptor, size) : -1;
}

int ftruncate64(int descriptor, off64_t size) noexcept
{
    REAL(ftruncate64);
    return counted("ftruncate", descriptor, false, size > 0) == Outcome::Go ? original(descriptor, size) : -1;
}

int posix_fallocate(int descriptor, off_t offset, off_t size)
{
    REAL(posix_fallocate);
    return counted("posix_fallocate", descriptor, false, true) == Outcome::Go ? original(descriptor, offset, size) : errno;
}

int posix_fallocate64(int descriptor, off64_t offset, off64_t size)
{
    REAL(posix_fallocate64);
    return counted("posix_fallocate", descriptor, false, true) == Outcome::Go ? original(descriptor, offset, size) : errno;
}

int fallocate(int descriptor, int mode, off_t offset, off_t size)
{
    REAL(fallocate);
    return counted("fallocate", descriptor, false, true) == Outcome::Go ? original(descriptor, mode, offset, size) : -1;
}

int rename(const char* from, const char* to) noexcept
{
    REAL(rename);
    return countedAt("rename", AT_FDCWD, to, false) == Outcome::Go ? original(from, to) : -1;
}

int renameat(int fromFolder, const char* from, int toFolder, const char* to) noexcept
{
    REAL(renameat);
    return countedAt("renameat", toFolder, to, false) == Outcome::Go ? original(fromFolder, from, toFolder, to) : -1;
}

int renameat2(int fromFolder, const char* from, int toFolder, const char* to, unsigned flags) noexcept
{
    REAL(renameat2);
    return countedAt("renameat2", toFolder, to, false) == Outcome::Go ? original(fromFolder, from, toFolder, to, flags) : -1;
}

int link(const char* from, const char* to) noexcept
{
    REAL(link);
    return countedAt("link", AT_FDCWD, to, true) == Outcome::Go ? original(from, to) : -1;
}

int symlink(const char* from, const char* to) noexcept
{
    REAL(symlink);
    return countedAt("symlink", AT_FDCWD, to, true) == Outcome::Go ? original(from, to) : -1;
}

int mkdir(const char* path, mode_t mode) noexcept
{
    REAL(mkdir);
    return countedAt("mkdir", AT_FDCWD, path, true) == Outcome::Go ? original(path, mode) : -1;
}

int mkdirat(int folder, const char* path, mode_t mode) noexcept
{
    REAL(mkdirat);
    return countedAt("mkdirat", folder, path, true) == Outcome::Go ? original(folder, path, mode) : -1;
}

int open(const char* path, int flags, ...)
{
    REAL(open);
    va_list rest;
    va_start(rest, flags);
    const auto mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if ((flags & O_CREAT) != 0 && countedAt("open", AT_FDCWD, path, true) != Outcome::Go) return -1;
    return original(path, flags, mode);
}

int open64(const char* path, int flags, ...)
{
    REAL(open64);
    va_list rest;
    va_start(rest, flags);
    const auto mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if ((flags & O_CREAT) != 0 && countedAt("open", AT_FDCWD, path, true) != Outcome::Go) return -1;
    return original(path, flags, mode);
}

int close(int descriptor)
{
    REAL(close);
    // Counted only where something was written: the flags say so.
    const int flags = fcntl(descriptor, F_GETFL);
    const bool writes = flags >= 0 && (flags & O_ACCMODE) != O_RDONLY;
    const Outcome outcome = writes ? counted("close", descriptor, false, false) : Outcome::Go;
    const int result = original(descriptor);
    if (outcome == Outcome::Go) return result;
    errno = EIO;
    return -1;
}

ssize_t read(int descriptor, void* bytes, size_t size)
{
    REAL(read);
    return counted("read", descriptor, true, false) == Outcome::Go ? original(descriptor, bytes, size) : -1;
}

ssize_t pread(int descriptor, void* bytes, size_t size, off_t offset)
{
    REAL(pread);
    return counted("pread", descriptor, true, false) == Outcome::Go ? original(descriptor, bytes, size, offset) : -1;
}

ssize_t pread64(int descriptor, void* bytes, size_t size, off64_t offset)
{
    REAL(pread64);
    return counted("pread", descriptor, true, false) == Outcome::Go ? original(descriptor, bytes, size, offset) : -1;
}

static void* mapped(void* (*original)(void*, size_t, int, int, int, off_t), void* hint, size_t size, int protection, int flags,
                    int descriptor, off_t offset)
{
    char path[PATH_MAX];
    const bool file = descriptor >= 0 && (flags & MAP_ANONYMOUS) == 0 && pathOf(descriptor, path) && isBelow(path);
    const bool writes = file && (flags & MAP_SHARED) != 0 && (protection & PROT_WRITE) != 0;
    const Settings& s = settings();
    if (file && counted("mmap", path, !writes, false) != Outcome::Go) return MAP_FAILED;
    if (file && !writes && s.kind == Kind::Cut && g_calls.load() == s.at && truncate(path, static_cast<off_t>(size / 2)) != 0)
        return MAP_FAILED;
    void* result = original(hint, size, protection, flags, descriptor, offset);
    if (writes && result != MAP_FAILED) remember(result, size, path);
    if (file && !writes && result != MAP_FAILED) {
        remember(result, size, path);
        if (g_calls.load() == s.at) change(path, size);
    }
    return result;
}

void* mmap(void* hint, size_t size, int protection, int flags, int descriptor, off_t offset) noexcept
{
    REAL(mmap);
    return mapped(original, hint, size, protection, flags, descriptor, offset);
}

void* mmap64(void* hint, size_t size, int protection, int flags, int descriptor, off64_t offset) noexcept
{
    REAL(mmap64);
    return mapped(original, hint, size, protection, flags, descriptor, offset);
}

}  // extern "C"
