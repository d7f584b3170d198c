// The residual streams of all batches of a profile pass between two layers. With a folder they lie in two files there, mapped, one for the
// inputs of the layer that runs and one for its outputs: a long text takes page cache instead of memory, and a killed pass goes on from
// the file that was finished last. Without a folder they lie in memory.
#pragma once

#include "base/error.h"
#include "profile/window_batches.h"

#include <ATen/core/Tensor.h>

#include <array>
#include <cstddef>
#include <filesystem>
#include <vector>

namespace espalier
{

// Belongs to the thread of the pass. Tensors are [count, length, hidden size] of the batch.
class HiddenStates
{
public:
    HiddenStates(const std::vector<WindowBatch>& batches, std::int64_t hiddenSize, at::ScalarType type);
    ~HiddenStates();
    HiddenStates(const HiddenStates&) = delete;
    HiddenStates& operator=(const HiddenStates&) = delete;

    // Before anything is stored. A fresh run makes the files, at their whole size; one that is resumed at the input of `layer` wants
    // those of the earlier run. Errors: output.unwritable, output.disk_full, profile.other_run (no such files).
    Status useFiles(const std::filesystem::path& folder, int layer, bool resumed);

    // Of the first layer: the embedding.
    void setInput(std::size_t batch, const at::Tensor& states);
    // What the layer that runs gets. Valid until the second advance() from now; copy what is to stay.
    at::Tensor input(std::size_t batch) const;
    void setOutput(std::size_t batch, const at::Tensor& states);
    // All outputs are there, and on the disk when this returns: they are inputs of the next layer now.
    Status advance();

private:
    struct Half {
        std::vector<at::Tensor> states;  // in memory, or views of the mapping
        std::filesystem::path path;
        void* mapping = nullptr;
    };
    Half& half(int layer) { return m_halves[static_cast<std::size_t>(layer % 2)]; }
    const Half& half(int layer) const { return m_halves[static_cast<std::size_t>(layer % 2)]; }
    void store(Half& half, std::size_t batch, const at::Tensor& states);

    std::vector<std::array<std::int64_t, 3>> m_shapes;  // by batch
    at::ScalarType m_type;
    std::size_t m_bytes = 0;  // of a half
    int m_layer = 0;          // whose inputs are there
    bool m_files = false;
    std::array<Half, 2> m_halves;
};

}  // namespace espalier
