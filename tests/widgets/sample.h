// Invented data in the shape of Qwen1.5-MoE-A2.7B: 24 layers, 60 experts, 4 per token. Deterministic, no files.
#pragma once

#include "base/statistics.h"
#include "plan/compression_plan.h"
#include "plan/expert_grid.h"
#include "plan/model_shape.h"
#include "plan/plan_history.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace espalier::test
{

inline ModelShape qwenShape(int layers = 24, int experts = 60)
{
    ModelShape shape;
    shape.modelType = "qwen2_moe";
    shape.architecture = "Qwen2MoeForCausalLM";
    shape.dtype = "BF16";
    shape.hiddenSize = 2048;
    shape.vocabularySize = 151936;
    shape.embeddingParameters = 2LL * 151936 * 2048;
    shape.embeddingBytes = 2 * shape.embeddingParameters;
    for (int i = 0; i < layers; ++i) {
        LayerShape layer;
        layer.index = i;
        layer.moe = true;
        layer.experts = experts;
        layer.router.rule = RoutingRule::Softmax;
        layer.router.topK = 4;
        layer.expertWidth = 1408;
        layer.expertParameters = 3LL * 2048 * 1408;
        layer.routerParametersPerExpert = 2048;
        layer.otherParameters = 4LL * 2048 * 2048 + 3LL * 2048 * 5632;
        layer.bytesPerExpert = 2 * layer.expertParameters;
        layer.routerBytesPerExpert = 2 * layer.routerParametersPerExpert;
        layer.otherBytes = 2 * layer.otherParameters;
        shape.layers.push_back(layer);
    }
    return shape;
}

inline ExpertScores reapScores(const ModelShape& shape, int layersDone = -1)
{
    ExpertScores scores;
    scores.method = "reap";
    scores.title = "REAP";
    std::mt19937 random(7);
    std::normal_distribution<double> noise(0, 0.55);
    const int n = static_cast<int>(shape.layers.size());
    for (int l = 0; l < n; ++l) {
        std::vector<double> row;
        const double depth = static_cast<double>(l) / std::max(1, n - 1);
        for (int e = 0; e < shape.layers[static_cast<std::size_t>(l)].experts; ++e)
            row.push_back(0.008 * std::exp(2.4 * depth + noise(random)));
        if (layersDone >= 0 && l >= layersDone) std::fill(row.begin(), row.end(), std::nan(""));
        scores.layerImportance.push_back(layersDone >= 0 && l >= layersDone ? std::nan("")
                                                                            : 0.35 + 1.3 * (depth - 0.45) * (depth - 0.45) * 2);
        scores.values.rows.push_back(std::move(row));
    }
    return scores;
}

inline ExpertGrid evenUsage(const ModelShape& shape)
{
    ExpertGrid usage;
    for (const LayerShape& layer : shape.layers)
        usage.rows.emplace_back(static_cast<std::size_t>(layer.experts), 1.0 / std::max(1, layer.experts));
    return usage;
}

inline CompressionPlan bestPlan(const ModelShape& shape, const ExpertScores& scores, const std::vector<int>& keep)
{
    CompressionPlan plan = CompressionPlan::identity(shape);
    for (std::size_t l = 0; l < keep.size(); ++l) {
        const auto& row = scores.values.rows[l];
        std::vector<int> order(row.size());
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(),
                         [&](int a, int b) { return row[static_cast<std::size_t>(a)] > row[static_cast<std::size_t>(b)]; });
        order.resize(static_cast<std::size_t>(keep[l]));
        std::sort(order.begin(), order.end());
        auto next = plan.withKept(shape, static_cast<int>(l), order);
        if (next.ok()) plan = *next;
    }
    return plan;
}

inline const std::vector<int> kMockKeep = {58, 56, 56, 46, 46, 42, 42, 43, 38, 35, 38, 36, 33, 36, 39, 42, 39, 43, 47, 47, 53, 53, 56, 56};

inline std::vector<WindowLoss> losses(double ppl, int count, unsigned seed = 3)
{
    std::mt19937 random(seed);
    std::normal_distribution<double> noise(0, 0.16);
    std::vector<WindowLoss> list;
    for (int i = 0; i < count; ++i)
        list.push_back({i, 2047 * (std::log(ppl) + noise(random)), 2047});
    return list;
}

inline std::vector<WindowLoss> shifted(const std::vector<WindowLoss>& base, double factor, unsigned seed = 5)
{
    std::mt19937 random(seed);
    std::normal_distribution<double> noise(0, 0.02);
    std::vector<WindowLoss> list = base;
    for (WindowLoss& w : list)
        w.nll += w.tokens * (std::log(factor) + noise(random));
    return list;
}

inline PlanHistory mockHistory(const ModelShape& shape, const CompressionPlan& last, const ExpertScores& scores)
{
    PlanHistory h(CompressionPlan::identity(shape), "Open Qwen1.5-MoE-A2.7B", 0);
    const auto with = [&](int keep) { return bestPlan(shape, scores, std::vector<int>(shape.layers.size(), keep)); };
    const int first = h.commit(with(45), "Uniform 75 %, reap", 0);
    h.commit(with(44), "OWL + REAP, 75 %", 0);
    h.jumpTo(first);
    h.commit(with(45).withLocked(0, true), "Lock layers 0 and 23", 0);
    h.commit(with(46), "Redistribute to 75 %, reap", 0);
    const int guard = h.commit(with(46).withProtected(1, 17, true), "Protect 6 super experts", 0);
    h.commit(with(36), "Layers 8–14: keep 36", 0);
    h.commit(with(35), "Layers 8–14: rank 512", 0);
    h.jumpTo(guard);
    h.commit(with(43), "Genetic search, blocks of 3 layers", 0);
    h.commit(last, "Layer 12: keep 39 → 33 of 60", 0);
    return h;
}

}  // namespace espalier::test
