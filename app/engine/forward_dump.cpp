#include "forward_dump.h"

#include "checkpoint/safetensors.h"
#include "model/moe_model_torch.h"

#include <fmt/format.h>

#include <map>

namespace espalier
{

namespace
{

class RoutingObserver final : public LayerObserver
{
public:
    void moe(const MoeBatch& batch) override
    {
        selected = batch.selected.to(at::kInt).clone();
        weights = batch.weights.to(at::kFloat).clone();
    }
    at::Tensor selected;
    at::Tensor weights;
};

DType storedType(const at::Tensor& tensor)
{
    switch (tensor.scalar_type()) {
        case at::kInt:
            return DType::I32;
        case at::kDouble:
            return DType::F64;
        default:
            return DType::F32;
    }
}

}  // namespace

Result<Json> forwardDump(MoeModel& model, const ForwardRequest& request, JobContext& job)
{
    const c10::InferenceMode inference;
    const auto rows = static_cast<std::int64_t>(request.ids.size());
    const auto length = static_cast<std::int64_t>(request.ids.front().size());
    at::Tensor ids = at::empty({rows, length}, at::kLong);
    for (std::int64_t b = 0; b < rows; ++b)
        for (std::int64_t t = 0; t < length; ++t)
            ids.data_ptr<std::int64_t>()[b * length + t] = request.ids[static_cast<std::size_t>(b)][static_cast<std::size_t>(t)];

    ESPALIER_TRY(const PreparedPlan plan, model.prepare(request.plan));
    std::map<std::string, at::Tensor> tensors;
    ESPALIER_TRY(at::Tensor hidden, model.embed(ids));
    for (int layer = 0; layer < model.layerCount(); ++layer) {
        if (job.stopRequested()) return cancelledError();
        RoutingObserver observer;
        ESPALIER_TRY(hidden, model.layer(layer, hidden, plan, request.routing ? &observer : nullptr));
        if (request.hidden) tensors[fmt::format("hidden.{}", layer)] = hidden.to(at::kFloat);
        if (observer.selected.defined()) {
            tensors[fmt::format("router.{}.ids", layer)] = observer.selected.view({rows, length, -1});
            tensors[fmt::format("router.{}.weights", layer)] = observer.weights.view({rows, length, -1});
        }
        job.progress(layer + 1, model.layerCount(), "layer");
    }
    if (length > 1) {
        ESPALIER_TRY(tensors["nll"], model.tokenNll(hidden, ids));
    }
    ESPALIER_TRY(const at::Tensor normed, model.finalNorm(hidden));
    ESPALIER_TRY(const at::Tensor logits, model.logits(normed.reshape({rows * length, -1})));
    tensors["logits"] = logits.view({rows, length, -1});

    std::vector<TensorDeclaration> declarations;
    Json written = Json::object();
    for (auto& [name, tensor] : tensors) {
        tensor = tensor.contiguous();
        declarations.push_back({name, storedType(tensor), tensor.sizes().vec()});
        written[name] = tensor.sizes().vec();
    }
    ESPALIER_TRY(SafetensorsWriter writer, SafetensorsWriter::create(request.out, std::move(declarations)));
    for (const TensorInfo& info : writer.order()) {
        const at::Tensor& tensor = tensors.at(info.name);
        ESPALIER_CHECK_OK(writer.write({static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()}));
    }
    ESPALIER_CHECK_OK(writer.finish());
    return Json{{"tensors", std::move(written)}, {"out", request.out.string()}, {"rows", rows}, {"length", length}};
}

}  // namespace espalier
