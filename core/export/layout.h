// Which tensors an export holds, where each comes from, and in which shard it lies (README.md here). The exporter writes what
// is planned here, verification reads it again: both see one list.
#pragma once

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "export/form_tensors.h"
#include "plan/compression_plan.h"
#include "plan/factor_source.h"
#include "plan/flavors.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

struct OutputTensor {
    enum class Origin {
        Copy,      // the bytes of `source`
        Rows,      // rows `rows` of dimension 0 of `source`
        Matrix,    // one matrix of one expert, out of a fused tensor
        Form,      // `part` of a matrix in another form
        Constant,  // in place of an expert
        Router,    // rows `rows` of stored router rows
    };
    std::string name;
    DType dtype = DType::F32;
    std::vector<std::int64_t> shape;
    std::uint64_t bytes = 0;
    Origin origin = Origin::Copy;
    TensorView source;      // Copy, Rows, Matrix
    std::vector<int> rows;  // Rows, Router
    int layer = -1;         // Form, Constant, Router, merged
    int expert = -1;        // Form: first source of the body; Constant: whose place it takes
    int number = -1;        // Form: column of the export
    Matrix matrix = Matrix::Gate;
    LinearId linear;      // Form: the linear map beside the experts, in place of expert and matrix
    ChannelSet channels;  // Form: of the body; empty: all
    MatrixForm form;      // the source's own in a Product: of the factors that the source holds
    FormPart part = FormPart::Weight;
    ConstantBody constant;
    std::optional<LayerMerge> merge;  // Copy, Rows, Matrix: numbers of `source` mixed with those of another layer (model/layer_mix.h)
    ValuesId values;                  // Router
};

struct ExportLayout {
    ExportFlavor flavor = ExportFlavor::Plan;
    std::vector<OutputTensor> tensors;             // in the order of the source
    std::vector<std::vector<std::size_t>> shards;  // indices into tensors
    std::map<std::string, std::string> metadata;   // of every shard
    std::uint64_t bytes = 0;                       // of all tensors
    bool fused = false;                            // experts stay in fused tensors
    std::vector<std::string> dropped;              // source tensors that are no part of the model

    std::string shardName(std::size_t shard) const;  // model-00001-of-00003.safetensors; model.safetensors for a single one
};

// Of the "espalier" object of a factored export: 1; 2 where it holds constants, merged experts or biases; 3 where linear maps beside the
// experts are factors.
int exportVersion(const Checkpoint& checkpoint, const CompressionPlan& plan);

// `plan` must be valid for the checkpoint and fit the flavour (checkFlavor). Flavor Plan has no tensors.
// Errors: export.ranks_not_dense (the source itself is factored and the flavour is stock).
Result<ExportLayout> layoutExport(const Checkpoint& checkpoint, const CompressionPlan& plan, ExportFlavor flavor, bool unfuse,
                                  std::int64_t shardSize);

// Produces the bytes of output tensors. One thread calls it; decompositions run ahead on the compute pool, one matrix per thread as in
// the model's preview (so both round alike), and U and V of a matrix share one.
class TensorProducer
{
public:
    // `factors`: where the factors come from, null for plain ones; `constants`: where constants come from, null where there are none;
    // `given`: values files are found among them (plan/factor_source.h). All must outlive the producer.
    TensorProducer(const Checkpoint& checkpoint, const FactorSource* factors, const FactorSource* constants, const FactorSources& given);
    ~TensorProducer();
    TensorProducer(const TensorProducer&) = delete;
    TensorProducer& operator=(const TensorProducer&) = delete;

    // The tensors that will be asked for next, in order: what may be decomposed ahead. They must outlive the calls.
    void expect(std::vector<const OutputTensor*> upcoming);

    using Sink = std::function<Status(std::span<const std::byte>)>;
    // Hands the tensor's bytes to `sink` in pieces of at most 16 MiB (an error from it stops and is returned).
    // Errors: lowrank.*, checkpoint.*, plan.profile_without_factors, plan.values_*, profile.*.
    Status produce(const OutputTensor& tensor, const Sink& sink);

private:
    struct State;
    std::unique_ptr<State> m_state;
};

// Serialised index of the shards: JSON, indent 2, sorted keys, trailing newline.
std::string indexJson(const ExportLayout& layout);

}  // namespace espalier
