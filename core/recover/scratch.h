// Large tensors of one layer's fit: in memory up to a bound, beyond it in unnamed files that are mapped, so that what does not fit is page
// cache and not the program's. Private to core/recover.
#pragma once

#include "base/error.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>

namespace espalier
{

// One thread. A tensor keeps its file as long as it lives; nothing is left behind by a kill.
class Scratch
{
public:
    Scratch(std::filesystem::path folder, std::int64_t bytesInMemory) : m_folder(std::move(folder)), m_left(bytesInMemory) {}

    // Contiguous, on the host; not initialised. Errors: output.unwritable, output.disk_full.
    Result<at::Tensor> empty(at::IntArrayRef shape, at::ScalarType type);
    // The same numbers where empty() puts them.
    Result<at::Tensor> keep(const at::Tensor& tensor);

private:
    std::filesystem::path m_folder;
    std::int64_t m_left;
};

}  // namespace espalier
