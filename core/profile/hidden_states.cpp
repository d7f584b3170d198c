#include "profile/hidden_states.h"

#include "base/atomic_file.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cerrno>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace espalier
{

namespace
{

// Of a whole file that can be written through. The space is there, or this fails: a mapping has no other way to say that a disk is full.
Result<void*> mapWhole(const std::filesystem::path& path, std::size_t bytes, bool existing)
{
    const int descriptor = ::open(path.c_str(), existing ? O_RDWR | O_CLOEXEC : O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    struct stat info = {};
    if (existing && (descriptor < 0 || ::fstat(descriptor, &info) != 0 || static_cast<std::size_t>(info.st_size) != bytes)) {
        if (descriptor >= 0) ::close(descriptor);
        return badInput("profile.other_run", path.string(), {"{path} is not what an interrupted pass leaves.", {{"path", path.string()}}},
                        "Start without --resume.");
    }
    if (descriptor < 0) return writeError(path, errno);
    int number = existing ? 0 : ::posix_fallocate(descriptor, 0, static_cast<off_t>(bytes));
    void* mapping = MAP_FAILED;
    if (number == 0) {
        mapping = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
        if (mapping == MAP_FAILED) number = errno;
    }
    ::close(descriptor);
    if (number != 0) return writeError(path, number);
    return mapping;
}

}  // namespace

HiddenStates::HiddenStates(const std::vector<WindowBatch>& batches, std::int64_t hiddenSize, at::ScalarType type) : m_type(type)
{
    for (const WindowBatch& batch : batches) {
        m_shapes.push_back({static_cast<std::int64_t>(batch.count), batch.length, hiddenSize});
        m_bytes += static_cast<std::size_t>(c10::multiply_integers(m_shapes.back())) * c10::elementSize(type);
    }
    for (Half& half : m_halves)
        half.states.resize(m_shapes.size());
}

HiddenStates::~HiddenStates()
{
    for (Half& half : m_halves)
        if (half.mapping) ::munmap(half.mapping, m_bytes);
}

Status HiddenStates::useFiles(const std::filesystem::path& folder, int layer, bool resumed)
{
    m_layer = layer;
    m_files = true;
    for (int i = 0; i < 2; ++i) {
        Half& half = m_halves[static_cast<std::size_t>(i)];
        half.path = folder / fmt::format("hidden-{}.bin", i);
        ESPALIER_TRY(half.mapping, mapWhole(half.path, m_bytes, resumed));
        auto* at = static_cast<std::byte*>(half.mapping);
        for (std::size_t b = 0; b < m_shapes.size(); ++b) {
            half.states[b] = at::from_blob(at, m_shapes[b], m_type);
            at += half.states[b].nbytes();
        }
    }
    return {};
}

void HiddenStates::store(Half& half, std::size_t batch, const at::Tensor& states)
{
    if (m_files)
        half.states[batch].copy_(states);
    else
        half.states[batch] = states;
}

void HiddenStates::setInput(std::size_t batch, const at::Tensor& states) { store(half(m_layer), batch, states); }

at::Tensor HiddenStates::input(std::size_t batch) const { return half(m_layer).states[batch]; }

void HiddenStates::setOutput(std::size_t batch, const at::Tensor& states) { store(half(m_layer + 1), batch, states); }

Status HiddenStates::advance()
{
    if (m_files) {
        const Half& outputs = half(m_layer + 1);
        if (::msync(outputs.mapping, m_bytes, MS_SYNC) != 0) return writeError(outputs.path, errno);
    } else {
        for (at::Tensor& states : half(m_layer).states)
            states.reset();
    }
    ++m_layer;
    return {};
}

}  // namespace espalier
