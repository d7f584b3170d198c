#include "plan/cost_model.h"

#include "plan/flavors.h"
#include "plan/plan_rules.h"
#include "plan/routing.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>
#include <vector>

namespace espalier
{

namespace
{

// Sums over a layer, in numbers stored at the source's dtype and bytes of everything else.
struct ExpertSums {
    Footprint footprint;
    std::int64_t columns = 0;
    std::int64_t behindColumns = 0;  // parameters, a body once for every column that leads to it
};

void add(Footprint& sum, const Footprint& part)
{
    sum.sourceNumbers += part.sourceNumbers;
    sum.packedBytes += part.packedBytes;
    sum.parameters += part.parameters;
    sum.multiplyAdds += part.multiplyAdds;
}

Footprint bodyFootprint(const LayerShape& shape, int hiddenSize, const Body& body)
{
    Footprint sum;
    const auto* expert = std::get_if<ExpertBody>(&body);
    if (!expert || shape.isSourceConstant(expert->sources.front())) {
        sum.sourceNumbers = hiddenSize;
        sum.parameters = hiddenSize;
        return sum;
    }
    // What an architecture's experts hold beside their three matrices (biases).
    const std::int64_t beside = shape.evenExperts() ? shape.expertParameters - std::int64_t{3} * hiddenSize * shape.expertWidth : 0;
    sum.sourceNumbers = sum.parameters = beside;
    for (int matrix = 0; matrix < 3; ++matrix) {
        const SlotShape slot = slotOf(shape, hiddenSize, *expert, matrix);
        const MatrixForm& form = expert->matrices[static_cast<std::size_t>(matrix)];
        add(sum, rulesOf(form).footprint(slot, form));
    }
    return sum;
}

// The expert that the body is, untouched; -1 where the plan does anything to it.
int wholeSource(const Body& body)
{
    const auto* expert = std::get_if<ExpertBody>(&body);
    const bool whole =
        expert && expert->sources.size() == 1 && expert->channels.empty() &&
        std::all_of(expert->matrices.begin(), expert->matrices.end(), [](const MatrixForm& form) { return form.isSource(); });
    return whole ? expert->sources.front() : -1;
}

// Bases that the body's matrices refer to, with the kind of matrix, and their numbers: stored once a layer.
std::vector<std::pair<std::pair<BaseId, int>, std::int64_t>> basesOf(const LayerShape& shape, int hiddenSize, const Body& body)
{
    std::vector<std::pair<std::pair<BaseId, int>, std::int64_t>> bases;
    const auto* expert = std::get_if<ExpertBody>(&body);
    for (int matrix = 0; expert && matrix < 3; ++matrix)
        if (const auto* delta = std::get_if<BaseDelta>(&expert->matrices[static_cast<std::size_t>(matrix)].structure))
            bases.push_back({{delta->base, matrix == 2 ? 1 : 0}, static_cast<std::int64_t>(hiddenSize) * shape.expertWidth});
    return bases;
}

ExpertSums expertSums(const LayerShape& shape, int hiddenSize, const LayerPlan& plan)
{
    ExpertSums sums;
    sums.columns = std::ssize(plan.columns());
    const LayerPlan::Content& content = plan.content();
    const bool shared = content.columns.size() != content.bodies.size();
    std::vector<std::int64_t> columnsOf(shared ? content.bodies.size() : 0, 0);
    if (shared)
        for (const RouterColumn& column : content.columns)
            ++columnsOf[static_cast<std::size_t>(column.body)];
    std::set<int> held;  // bodies of a checkpoint that merged experts itself
    std::set<std::pair<BaseId, int>> bases;
    for (std::size_t b = 0; b < content.bodies.size(); ++b) {
        const Body& body = content.bodies[b];
        const Footprint part = bodyFootprint(shape, hiddenSize, body);
        sums.behindColumns += part.parameters * (shared ? columnsOf[b] : 1);
        const int owner = shape.sourceBodies.empty() ? -1 : wholeSource(body);
        if (owner < 0 || held.insert(shape.sourceBodyOf(owner)).second) add(sums.footprint, part);
        for (const auto& [base, numbers] : basesOf(shape, hiddenSize, body))
            if (bases.insert(base).second) add(sums.footprint, {.sourceNumbers = numbers, .parameters = numbers});
    }
    return sums;
}

// Storage is uniform within a layer's experts, so bytes scale with numbers.
std::int64_t bytesOf(const LayerShape& shape, const Footprint& footprint)
{
    if (shape.expertParameters == 0) return footprint.packedBytes;
    if (!shape.evenExperts()) {
        const std::int64_t each = (shape.bytesPerExpert + shape.expertParameters / 2) / shape.expertParameters;
        return footprint.sourceNumbers * each + footprint.packedBytes;
    }
    return footprint.sourceNumbers * shape.bytesPerExpert / shape.expertParameters + footprint.packedBytes;
}

// Where experts differ in size the shape counts what their rounded-down mean leaves over among the rest of the layer.
std::int64_t leftOverParameters(const LayerShape& shape, int hiddenSize)
{
    return shape.allExpertParameters(hiddenSize) - shape.experts * shape.expertParameters;
}

std::int64_t leftOverBytes(const LayerShape& shape, int hiddenSize)
{
    if (shape.evenExperts()) return 0;
    Footprint all;
    all.sourceNumbers = shape.allExpertParameters(hiddenSize);
    return bytesOf(shape, all) - shape.experts * shape.bytesPerExpert;
}

// What forms of linear maps beside the experts add to what the checkpoint holds of them; negative where they are smaller.
struct LinearChange {
    std::int64_t bytes = 0;
    std::int64_t parameters = 0;
};

LinearChange linearChange(const LayerShape& shape, const LayerPlan& plan)
{
    LinearChange change;
    for (const auto& [name, form] : plan.content().linears) {
        const LinearShape* linear = shape.linear(name);
        if (linear == nullptr) continue;
        const SlotShape slot = slotOf(*linear);
        const Footprint before = rulesOf(MatrixForm{}).footprint(slot, MatrixForm{}), after = rulesOf(form).footprint(slot, form);
        change.parameters += after.parameters - before.parameters;
        change.bytes += (after.sourceNumbers - before.sourceNumbers) * linear->numberBytes + after.packedBytes;
    }
    return change;
}

// Numbers of the second half of a layer that are no routed expert and no router row: its norm, shared experts, dense MLP.
std::int64_t besideExperts(const LayerShape& shape, int hiddenSize)
{
    if (!shape.linears.empty()) {
        std::int64_t numbers = hiddenSize + (shape.sharedGate ? hiddenSize : 0);
        for (const LinearShape& linear : shape.linears)
            if (!isOfAttention(linear.name)) numbers += rulesOf(MatrixForm{}).footprint(slotOf(linear), MatrixForm{}).parameters;
        return numbers;
    }
    return std::int64_t{3} * hiddenSize * (shape.denseWidth + shape.sharedWidth) + (shape.sharedGate ? hiddenSize : 0) + hiddenSize;
}

// The layer without experts and router, as far as it runs, as the checkpoint has it.
std::int64_t runningParameters(const LayerShape& shape, int hiddenSize, const LayerPlan& plan)
{
    const std::int64_t all = shape.otherParameters - leftOverParameters(shape, hiddenSize);
    const std::int64_t second = besideExperts(shape, hiddenSize);
    return (plan.runsAttention() ? all - second : 0) + (plan.runsExperts() ? second : 0);
}

std::int64_t otherParameters(const LayerShape& shape, int hiddenSize, const LayerPlan& plan)
{
    return runningParameters(shape, hiddenSize, plan) + linearChange(shape, plan).parameters;
}

std::int64_t otherBytes(const LayerShape& shape, int hiddenSize, const LayerPlan& plan)
{
    const std::int64_t all = shape.otherBytes - leftOverBytes(shape, hiddenSize);
    const std::int64_t change = linearChange(shape, plan).bytes;
    if (plan.run() == LayerRun::Whole) return all + change;
    const std::int64_t numbers = std::max<std::int64_t>(shape.otherParameters - leftOverParameters(shape, hiddenSize), 1);
    return all * runningParameters(shape, hiddenSize, plan) / numbers + change;
}

}  // namespace

double PlanCost::expertParametersRemoved() const
{
    return expertParametersDense == 0 ? 0.0 : 1.0 - static_cast<double>(expertParameters) / static_cast<double>(expertParametersDense);
}

std::int64_t layerBytes(const LayerShape& shape, int hiddenSize, const LayerPlan& plan)
{
    const ExpertSums sums = expertSums(shape, hiddenSize, plan);
    return otherBytes(shape, hiddenSize, plan) + sums.columns * shape.routerBytesPerExpert + bytesOf(shape, sums.footprint);
}

std::int64_t layerParameters(const LayerShape& shape, int hiddenSize, const LayerPlan& plan)
{
    const ExpertSums sums = expertSums(shape, hiddenSize, plan);
    return otherParameters(shape, hiddenSize, plan) + sums.columns * shape.routerParametersPerExpert + sums.footprint.parameters;
}

std::int64_t bodyBytes(const LayerShape& shape, int hiddenSize, const Body& body)
{
    return bytesOf(shape, bodyFootprint(shape, hiddenSize, body));
}

PlanCost planCost(const ModelShape& shape, const CompressionPlan& plan)
{
    PlanCost cost;
    cost.bytes = shape.embeddingBytes;
    cost.parameters = shape.embeddingParameters;
    cost.activeParameters = shape.embeddingParameters;
    cost.activeAtMost = tokensSkip(shape, plan);
    for (std::size_t i = 0; i < shape.layers.size(); ++i) {
        const LayerShape& layer = shape.layers[i];
        const LayerPlan& layerPlan = plan.layer(static_cast<int>(i));
        const ExpertSums sums = expertSums(layer, shape.hiddenSize, layerPlan);
        const std::int64_t experts = sums.footprint.parameters;
        const std::int64_t always = otherParameters(layer, shape.hiddenSize, layerPlan) + sums.columns * layer.routerParametersPerExpert;
        cost.bytes +=
            otherBytes(layer, shape.hiddenSize, layerPlan) + sums.columns * layer.routerBytesPerExpert + bytesOf(layer, sums.footprint);
        cost.parameters += always + experts;
        const std::int64_t topK = std::min<std::int64_t>(layerPlan.topK().value_or(layer.router.topK), sums.columns);
        cost.activeParameters += always + (sums.columns > 0 ? sums.behindColumns * topK / sums.columns : 0);
        cost.expertParameters += experts;
        cost.expertParametersDense += layer.allExpertParameters(shape.hiddenSize);
    }
    return cost;
}

std::vector<FlavourChoice> flavoursFor(const ModelShape& shape, const CompressionPlan& plan)
{
    const auto choice = [&](ExportFlavor flavor, std::string loadsIn) {
        const Status fits = checkFlavor(shape, plan, flavor);
        return FlavourChoice{std::string(flavorName(flavor)), fits.ok(), std::move(loadsIn),
                             fits.ok() ? std::string() : fits.error().message};
    };
    return {choice(ExportFlavor::Stock, "unmodified transformers, vLLM, llama.cpp converters"),
            choice(ExportFlavor::Factored, "transformers with trust_remote_code, Espalier"),
            choice(ExportFlavor::Reconstructed,
                   "unmodified transformers, vLLM, llama.cpp converters. Factors are multiplied out again: ranks save nothing here"),
            choice(ExportFlavor::Plan, "Espalier, with the original model at hand")};
}

}  // namespace espalier
