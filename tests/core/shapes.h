// Model shapes for tests, from the published config.json files; no files.
#pragma once

#include "plan/model_shape.h"

namespace espalier::test
{

inline ModelShape evenShape(int layers, int experts, int topK, int hidden = 2048, int width = 1408, RoutingRule rule = RoutingRule::Softmax)
{
    ModelShape shape;
    shape.modelType = "qwen2_moe";
    shape.architecture = "Qwen2MoeForCausalLM";
    shape.dtype = "BF16";
    shape.hiddenSize = hidden;
    shape.vocabularySize = 1000;
    shape.maxPositions = 1024;
    shape.embeddingParameters = 2000000;
    shape.embeddingBytes = 4000000;
    for (int i = 0; i < layers; ++i) {
        LayerShape layer;
        layer.index = i;
        layer.moe = true;
        layer.experts = experts;
        layer.router.rule = rule;
        layer.router.topK = topK;
        layer.expertWidth = width;
        layer.expertParameters = 3LL * hidden * width;
        layer.routerParametersPerExpert = hidden;
        layer.otherParameters = 4LL * hidden * hidden;
        layer.bytesPerExpert = 2 * layer.expertParameters;
        layer.routerBytesPerExpert = 2 * layer.routerParametersPerExpert;
        layer.otherBytes = 2 * layer.otherParameters;
        shape.layers.push_back(layer);
    }
    return shape;
}

}  // namespace espalier::test
