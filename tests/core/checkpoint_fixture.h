// Folders and files for the checkpoint tests.
#pragma once

#include "base/json.h"
#include "base/sha256.h"
#include "checkpoint/adapter.h"
#include "checkpoint/checkpoint.h"

#include <unistd.h>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace espalier::test
{

namespace fs = std::filesystem;

inline const fs::path kFixtures = ESPALIER_TEST_FIXTURES;
inline const fs::path kModels = kFixtures / "model" / "checkpoints";

// Removed with everything in it.
class TempFolder
{
public:
    TempFolder()
    {
        std::string name = (fs::temp_directory_path() / "espalier-checkpoint-XXXXXX").string();
        m_path = ::mkdtemp(name.data());
    }
    ~TempFolder()
    {
        std::error_code failure;
        fs::remove_all(m_path, failure);
    }
    TempFolder(const TempFolder&) = delete;
    TempFolder& operator=(const TempFolder&) = delete;
    const fs::path& path() const { return m_path; }

private:
    fs::path m_path;
};

inline std::string readBytes(const fs::path& path)
{
    std::ifstream stream(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(stream), {});
}

inline void writeBytes(const fs::path& path, std::string_view bytes)
{
    std::ofstream stream(path, std::ios::binary | std::ios::trunc);
    stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// A file from a header as text and its data.
inline std::string rawFile(std::string header, std::size_t dataBytes)
{
    std::string file;
    for (std::size_t i = 0; i < 8; ++i)
        file += static_cast<char>(header.size() >> (8 * i) & 0xFF);
    return file + header + std::string(dataBytes, '\x01');
}

// The tensors a configuration asks for in the per-expert layout, ranks of a factored export included.
inline std::vector<TensorDeclaration> declarationsOf(const ModelConfig& config, DType dtype)
{
    const ArchitectureAdapter& adapter = adapterFor(config.architecture);
    std::vector<TensorDeclaration> list;
    const TensorSink add = [&](std::string_view name, std::span<const std::int64_t> shape) {
        list.push_back({std::string(name), dtype, {shape.begin(), shape.end()}});
        return true;
    };
    forEachTopTensor(config, config.tiedEmbeddings, add);
    for (int i = 0; i < config.layerCount; ++i) {
        forEachLayerTensor(adapter, config, i, adapter.names().block, add);
        const LayerConfig& layer = config.layers[static_cast<std::size_t>(i)];
        for (int e = 0; e < layer.experts; ++e)
            for (int m = 0; m < 3; ++m) {
                const std::int64_t rows = m == 2 ? config.hiddenSize : layer.expertWidth;
                const std::int64_t columns = m == 2 ? layer.expertWidth : config.hiddenSize;
                const std::int64_t rank = layer.ranks.empty() ? 0 : layer.ranks[static_cast<std::size_t>(e)][static_cast<std::size_t>(m)];
                const std::string base =
                    fmt::format("model.layers.{}.{}.experts.{}.{}", i, adapter.names().block, e, adapter.names().matrix[m]);
                if (rank == 0) {
                    list.push_back({base + ".weight", dtype, {rows, columns}});
                } else {
                    list.push_back({base + ".U", dtype, {rows, rank}});
                    list.push_back({base + ".V", dtype, {rank, columns}});
                }
            }
    }
    return list;
}

// Bytes that differ from tensor to tensor.
inline Status writeTensors(const fs::path& path, std::vector<TensorDeclaration> tensors)
{
    ESPALIER_TRY(SafetensorsWriter writer, SafetensorsWriter::create(path, std::move(tensors)));
    unsigned char next = 0;
    for (const TensorInfo& info : writer.order()) {
        const std::vector<std::byte> bytes(info.byteCount(), std::byte(++next));
        ESPALIER_CHECK_OK(writer.write(bytes));
    }
    return writer.finish();
}

// config.json and model.safetensors that fit each other.
inline Status writeModel(const fs::path& folder, const Json& config, DType dtype = DType::BF16)
{
    ESPALIER_TRY(const ModelConfig parsed, parseModelConfig(config));
    writeBytes(folder / "config.json", config.dump(2));
    return writeTensors(folder / "model.safetensors", declarationsOf(parsed, dtype));
}

}  // namespace espalier::test
