#include "options.h"
#include "terminal.h"

#include "base/text.h"
#include "checkpoint/checkpoint.h"

#include <fmt/format.h>

namespace espalier
{

namespace
{

std::string inspectionText(const Inspection& inspection, bool tensors)
{
    std::string text =
        fmt::format("{}  {} parameters, {} active per token, {} in {}\n", inspection.modelType, formatCount(inspection.parameters),
                    formatCount(inspection.activeParameters), formatBytes(inspection.bytes), inspection.dtype);
    text += fmt::format("hidden {}, vocabulary {}, positions {}, tokenizer {}, forward pass {}\n\n", inspection.hiddenSize,
                        inspection.vocabularySize, inspection.maxPositions, inspection.tokenizer.empty() ? "none" : inspection.tokenizer,
                        inspection.forwardSupported ? "supported" : "not supported");
    Table layers({"layer", "kind", "experts", "top-k", "per expert", "shared", "size"});
    for (const InspectedLayer& layer : inspection.layers)
        layers.row({std::to_string(layer.index), layer.moe ? "moe" : "dense", layer.moe ? std::to_string(layer.experts) : "",
                    layer.moe ? std::to_string(layer.topK) : "", layer.moe ? formatCount(layer.expertParameters) : "",
                    layer.shared > 0 ? std::to_string(layer.shared) : "", formatBytes(layer.bytes)});
    text += layers.text();
    if (tensors) {
        Table table({"tensor", "dtype", "shape", "size", "file"});
        for (const InspectedTensor& tensor : inspection.tensors)
            table.row({tensor.name, tensor.dtype, shapeText(tensor.shape), formatBytes(tensor.bytes), tensor.shard});
        text += "\n" + table.text();
    }
    return text;
}

}  // namespace

void addInspect(Verbs& verbs)
{
    struct Options {
        std::filesystem::path model;
        bool tensors = false;
    };
    auto options = std::make_shared<Options>();
    CLI::App* verb = verbs.add("inspect", "Architecture, shapes, sizes, and what is possible with a model",
                               [options](Invocation& invocation) -> Result<Json> {
                                   ESPALIER_TRY(const Inspection inspection, inspect(options->model));
                                   invocation.model = {{"path", options->model.string()}, {"fingerprint", inspection.fingerprint}};
                                   invocation.warnings = inspection.warnings;
                                   if (!invocation.options.json) invocation.text = inspectionText(inspection, options->tensors);
                                   return toJson(inspection, options->tensors);
                               });
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    verb->add_flag("--tensors", options->tensors, "List every tensor");
}

}  // namespace espalier
