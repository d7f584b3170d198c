#include "recover/scratch.h"

#include "base/atomic_file.h"

#include <cerrno>
#include <string>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

namespace espalier
{

Result<at::Tensor> Scratch::empty(at::IntArrayRef shape, at::ScalarType type)
{
    const auto bytes = static_cast<std::int64_t>(c10::multiply_integers(shape) * static_cast<std::int64_t>(c10::elementSize(type)));
    if (bytes <= m_left || bytes == 0) {
        m_left -= bytes;
        return at::empty(shape, type);
    }
    std::string name = (m_folder / "scratch-XXXXXX").string();
    const int descriptor = ::mkostemp(name.data(), O_CLOEXEC);
    if (descriptor < 0) return writeError(m_folder, errno);
    ::unlink(name.c_str());
    const auto size = static_cast<std::size_t>(bytes);
    // The space is there, or this fails: a mapping has no other way to say that a disk is full.
    int number = ::posix_fallocate(descriptor, 0, bytes);
    void* mapping = MAP_FAILED;
    if (number == 0) {
        mapping = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
        if (mapping == MAP_FAILED) number = errno;
    }
    ::close(descriptor);
    if (number != 0) return writeError(m_folder, number);
    return at::from_blob(
        mapping, shape, [size](void* at) { ::munmap(at, size); }, at::TensorOptions(type));
}

Result<at::Tensor> Scratch::keep(const at::Tensor& tensor)
{
    ESPALIER_TRY(at::Tensor kept, empty(tensor.sizes(), tensor.scalar_type()));
    kept.copy_(tensor);
    return kept;
}

}  // namespace espalier
