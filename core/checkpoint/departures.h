// Where a checkpoint is read otherwise than its config.json says: the files decide what is there, and code in the folder is not run.
// Each departure is an edit that makes config.json say what was read; the exporter writes them, so that every other program reads an
// export as Espalier read its source.
#pragma once

#include "base/json.h"
#include "checkpoint/checkpoint.h"

#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

struct ConfigDeparture {
    std::string key;
    Json value;  // null: the key goes
};

// In a fixed order; empty where config.json says what is read.
std::vector<ConfigDeparture> configDepartures(const Checkpoint& checkpoint);

// What of it the one who opens the checkpoint should know, as sentences. Takes what configDepartures takes from an open checkpoint.
struct StoredFacts {
    bool tied = false;             // the output layer is the embedding
    bool head = false;             // a tensor lm_head.weight is there
    std::string dtype;             // the one most bytes are stored in: "BF16"
    std::size_t layersBeyond = 0;  // tensors of layers beyond the last
};
std::vector<std::string> departureWarnings(const ModelConfig& config, const StoredFacts& facts);

// Whether config.json promises layers for multi-token prediction behind the last one.
bool promisesPrediction(const ModelConfig& config);

// "Qwen2MoeForCausalLM": the class of transformers that computes what Espalier computes.
std::string stockClassName(Architecture architecture);
// Why the weights of a checkpoint whose config.json states a quantisation cannot be read; ok where they are not quantised, whatever
// config.json says. `names` and `dtypes` are parallel. Error: checkpoint.quantization_unsupported.
Status checkNotQuantised(const ModelConfig& config, std::span<const TensorInfo> tensors, std::string_view file);

// Python files that a JSON file of a model folder names classes in ("auto_map", "custom_pipelines"): "tokenization_x.py".
// Classes in another repository ("name/repository--module.Class") have its name in front: "name/repository--module.py".
std::vector<std::string> pythonFilesNamedBy(const Json& object);

}  // namespace espalier
