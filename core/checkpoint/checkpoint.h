// A Hugging Face checkpoint folder, opened read-only: configuration, headers of all shards, data mapped. Opening checks everything
// that can be checked without reading weights and allocates nothing in proportion to what a file merely claims.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/model_config.h"
#include "checkpoint/safetensors.h"
#include "plan/model_shape.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

// A view into the mapping; valid as long as the checkpoint. Row-major, little-endian, possibly at an odd address.
struct TensorView {
    std::string name;  // of the tensor on disk; a slice of a fused tensor has that tensor's name
    DType dtype = DType::F32;
    std::vector<std::int64_t> shape;
    std::span<const std::byte> bytes;
};

enum class Matrix { Gate, Up, Down };

// A linear y = W x, [out, in]. Factored (our own exports): W = U V, u [out, r], v [r, in], and `dense` is empty; y = W x + bias [out] where
// `biased`.
struct LinearView {
    TensorView dense;
    bool factored = false;
    TensorView u, v;
    bool biased = false;
    TensorView bias;
};

struct TensorRole {
    enum class Kind {
        Other,           // embedding, head, norms, attention, shared expert, dense MLP
        Expert,          // one matrix of one routed expert; `factor` says whether it is W, U, V or a bias
        ExpertConstant,  // [H], in place of a routed expert (our own exports)
        FusedGateUp,     // [E, 2I, H], gate rows first
        FusedDown,       // [E, H, I]
        Router,          // [E, H]
        RouterBias,      // [E], selection bias
        Ignored,         // not part of the model as configured: rotary inv_freq, MTP layers
    };
    enum class Factor { None, U, V, Bias };
    Kind kind = Kind::Other;
    int layer = -1;
    int expert = -1;
    Matrix matrix = Matrix::Gate;  // Expert only
    Factor factor = Factor::None;
    std::string linear;  // Other: the map beside the experts that it belongs to ("self_attn.q_proj"), or empty; `factor` likewise
};

struct StoredTensor {
    TensorView view;
    std::string shard;  // file name
    TensorRole role;
};

class Checkpoint
{  // immutable after open, any thread
public:
    // `folder` holds config.json and model.safetensors or model.safetensors.index.json with its shards. config.json is read first.
    // Errors: config.* (model_config.h), checkpoint.* (safetensors.h), checkpoint.folder_missing, checkpoint.no_weights,
    // checkpoint.index_invalid, checkpoint.shard_name, checkpoint.shard_missing, checkpoint.tensor_in_two_shards,
    // checkpoint.tensor_not_in_shard, checkpoint.tensor_missing, checkpoint.tensor_unexpected, checkpoint.tensor_shape,
    // checkpoint.tensor_dtype; checkpoint.architecture_unsupported, checkpoint.quantization_unsupported (exit 6).
    static Result<std::shared_ptr<const Checkpoint>> open(const std::filesystem::path& folder);
    ~Checkpoint();
    Checkpoint(const Checkpoint&) = delete;
    Checkpoint& operator=(const Checkpoint&) = delete;

    const std::filesystem::path& folder() const noexcept;
    const ModelConfig& config() const noexcept;
    // Counts and bytes of the tensors that are there. In a factored export the experts of a layer differ: expertParameters and
    // bytesPerExpert are then rounded-down means and the remainder is counted in otherParameters and otherBytes, so totals are exact.
    const ModelShape& shape() const noexcept;
    const std::vector<std::string>& warnings() const noexcept;

    // SHA-256, hex. configSha256: bytes of config.json. weightsSha256: bytes of the index, or the header JSON of the single file
    // (safetensors' own). fingerprint: both, the headers of all shards, and 8 KiB of data per shard, so that a fine-tuned copy with
    // the same shapes is another model.
    const std::string& fingerprint() const noexcept;
    const std::string& configSha256() const noexcept;
    const std::string& weightsSha256() const noexcept;
    bool forwardSupported() const noexcept { return true; }  // what opens can be run
    // Files that hold the weights, in the order of tensorsInOrder().
    std::vector<std::string> shardNames() const;
    std::int64_t tensorCount() const noexcept;

    bool has(std::string_view name) const noexcept;
    Result<TensorView> tensor(std::string_view name) const;  // error: checkpoint.tensor_missing
    // "self_attn.q_proj.weight" of a layer.
    Result<TensorView> layerTensor(int layer, std::string_view suffix) const;

    // By role. Present and of the right shape, because open() checked; a layer of the wrong kind is the caller's mistake.
    TensorView embed() const;      // [V, H]
    TensorView lmHead() const;     // [V, H]; the embedding when tied
    TensorView finalNorm() const;  // [H]
    TensorView router(int layer) const;
    std::optional<TensorView> routerBias(int layer) const;
    // Gate, up [I, H]; down [H, I], whatever the layout on disk.
    LinearView expert(int layer, int expert, Matrix matrix) const;
    // Of a checkpoint that merged experts: those of the expert under which they are stored.
    // The vector [H] that this checkpoint holds in place of the expert, if it does; expert() may not be called then.
    std::optional<TensorView> expertConstant(int layer, int expert) const;
    // A map beside the experts, by its name in the shape. `biased`: of factors whose bias is theirs, and wherever the family has one.
    LinearView linear(int layer, std::string_view name) const;
    std::optional<LinearView> sharedExpert(int layer, Matrix matrix) const;
    std::optional<TensorView> sharedGate(int layer) const;  // [1, H]
    LinearView denseMlp(int layer, Matrix matrix) const;    // of a layer that is not MoE
    bool fusedExperts(int layer) const noexcept;
    // Name of one expert matrix in the per-expert layout, also for a fused source: what an un-fused export writes, with ".weight".
    std::string expertTensorName(int layer, int expert, Matrix matrix) const;
    std::string expertConstantName(int layer, int expert) const;
    std::string routerTensorName(int layer) const;  // per-expert layout

    // All tensors, by shard, then offset.
    std::vector<StoredTensor> tensorsInOrder() const;
    TensorRole roleOf(std::string_view name) const;

    // Whether the files of the weights are as they were when they were opened: to be asked after reading tensors and before anything made
    // of them is shown or kept. A call of the system for every file. Any thread. Error: input.unreadable.
    Status checkUnchanged() const;

    // Reads the pages of a layer from the disk and maps them, in the order of the file and piece by piece as long as `goOn` says so.
    // Any thread.
    void readLayer(int layer, const std::function<bool()>& goOn) const;
    // Hint to the kernel: the pages are not needed now. Any thread.
    void dontNeedLayer(int layer) const noexcept;
    // Of one matrix. willNeed starts reading its pages, and no others. Any thread.
    void willNeed(const LinearView& matrix) const noexcept;
    void dontNeed(const LinearView& matrix) const noexcept;

private:
    struct Data;
    explicit Checkpoint(std::unique_ptr<Data> data);
    std::unique_ptr<Data> m_data;
};

struct InspectedLayer {
    int index = 0;
    bool moe = false;
    int experts = 0;
    int topK = 0;
    std::int64_t expertParameters = 0;  // of one routed expert
    int shared = 0;                     // shared experts
    std::int64_t sharedParameters = 0;
    std::int64_t parameters = 0;  // of the whole layer
    std::int64_t bytes = 0;
};

struct InspectedTensor {
    std::string name;
    std::string dtype;
    std::vector<std::int64_t> shape;
    std::int64_t bytes = 0;
    std::string shard;
};

struct InspectedShard {
    std::string name;
    std::int64_t bytes = 0;  // of the file
    int tensors = 0;
};

struct Inspection {
    std::filesystem::path folder;
    std::string modelType;
    std::string architecture;  // architectures[0]
    std::vector<InspectedLayer> layers;
    std::int64_t parameters = 0;
    std::int64_t activeParameters = 0;
    std::int64_t bytes = 0;  // of the tensors
    std::string dtype;       // the one that most bytes are stored in
    int hiddenSize = 0;
    int vocabularySize = 0;
    int maxPositions = 0;
    bool tiedEmbeddings = false;
    bool forwardSupported = false;
    bool factored = false;
    std::string expertLayout;  // "per-expert", "fused", "mixed"; empty without experts
    std::string tokenizer;     // file name in the folder; empty: none
    std::string fingerprint;
    std::string configSha256;
    std::string weightsSha256;
    std::vector<InspectedShard> shards;
    std::vector<InspectedTensor> tensors;  // by shard, then offset
    std::vector<std::string> warnings;
};

// What a folder holds. A model_type that Espalier does not run is no error here: forwardSupported is false, the layers are read off
// the tensor names, and a warning names the model_type and lists what is supported. Other errors as Checkpoint::open.
Result<Inspection> inspect(const std::filesystem::path& folder);
Inspection inspect(const Checkpoint& checkpoint);
// What `inspect --json` answers; `tensors` adds tensors[] {name, dtype, shape, bytes, shard}.
Json toJson(const Inspection& inspection, bool tensors = false);

}  // namespace espalier
