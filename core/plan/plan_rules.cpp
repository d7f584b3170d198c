#include "plan/plan_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

namespace espalier
{

namespace
{

Error invalid(std::string_view what, int layer, std::string message, std::string action = {})
{
    return badInput(fmt::format("plan.{}", what), fmt::format("layer {}", layer), std::move(message), std::move(action));
}

std::string fewerHint(int topK)
{
    return fmt::format("let the layer's router pick fewer: \"top_k\": {} beside \"kept\" in the plan file.", topK);
}

Status checkColumns(int index, const LayerShape& shape, const ExpertSet& columns)
{
    int previous = -1;
    for (const int expert : columns) {
        if (expert < 0 || expert >= shape.experts)
            return invalid("unknown_expert", index,
                           fmt::format("Layer {} has experts 0 to {}; the plan keeps expert {}.", index, shape.experts - 1, expert));
        if (expert <= previous)
            return invalid(
                "invalid", index,
                fmt::format("The kept experts of layer {} must be ascending and distinct ({} after {}).", index, expert, previous));
        previous = expert;
    }
    return {};
}

Status checkRouter(int index, const LayerShape& shape, const LayerPlan& plan)
{
    const ExpertSet& columns = plan.columns();
    const int topK = plan.topK().value_or(shape.router.topK);
    if (topK < 1 || topK > shape.router.topK)
        return invalid("invalid", index, fmt::format("top_k {} of layer {} must lie between 1 and {}.", topK, index, shape.router.topK));
    if (static_cast<int>(columns.size()) < topK)
        return invalid("kept_below_top_k", index,
                       fmt::format("Layer {} would keep {} experts, but the router picks {}.", index, columns.size(), topK),
                       columns.empty() ? fmt::format("Keep at least one, better {}.", topK)
                                       : fmt::format("Keep at least {}, or {}", topK, fewerHint(static_cast<int>(columns.size()))));
    if (plan.kept().empty())
        return invalid("invalid", index, fmt::format("Layer {} would have constants only.", index), "Keep at least one expert.");
    if (shape.router.groups <= 1) return {};
    const int size = shape.experts / shape.router.groups;
    std::vector<int> perGroup(static_cast<std::size_t>(shape.router.groups), 0);
    for (const int expert : columns)
        ++perGroup[static_cast<std::size_t>(expert / size)];
    if (std::any_of(perGroup.begin(), perGroup.end(), [&](int count) { return count != perGroup[0]; }))
        return invalid("groups", index,
                       fmt::format("Layer {} routes in {} groups: each must keep the same number of experts.", index, shape.router.groups));
    const int reach = shape.router.topGroups * perGroup[0];
    if (topK > reach)
        return invalid(
            "groups", index,
            fmt::format("Layer {}: {} groups of {} kept experts cannot serve top-k {}.", index, shape.router.topGroups, perGroup[0], topK),
            perGroup[0] == 0 ? std::string() : fmt::format("Keep more, or {}", fewerHint(reach)));
    return {};
}

// Columns and bodies refer to each other as LayerPlan::Content says.
Status checkCanonical(int index, const LayerPlan::Content& content)
{
    int next = 0;
    for (const RouterColumn& column : content.columns) {
        if (column.body < 0 || column.body > next || column.body >= static_cast<int>(content.bodies.size()))
            return invalid("invalid", index,
                           fmt::format("Expert {} of layer {} leads to body {}; bodies are numbered as experts first lead to them.",
                                       column.expert, index, column.body));
        next = std::max(next, column.body + 1);
    }
    if (next != static_cast<int>(content.bodies.size()))
        return invalid("invalid", index, fmt::format("Layer {} lists a body that no expert leads to.", index));
    return {};
}

// What stands behind several columns. A constant has one: which of the experts' outputs would it be the mean of? And stored numbers of a
// merged expert are named by its first source, which therefore names no other.
Status checkSharing(int index, const LayerPlan::Content& content)
{
    if (content.columns.size() != content.bodies.size()) {
        std::vector<int> columns(content.bodies.size(), 0);
        for (const RouterColumn& column : content.columns)
            if (++columns[static_cast<std::size_t>(column.body)] > 1 &&
                std::holds_alternative<ConstantBody>(content.bodies[static_cast<std::size_t>(column.body)]))
                return invalid("invalid", index,
                               fmt::format("The constant of expert {} in layer {} stands for others too.", column.expert, index),
                               "Give each expert a constant of its own.");
    }
    std::set<std::pair<ValuesId, int>> named;
    for (const Body& body : content.bodies) {
        const auto* expert = std::get_if<ExpertBody>(&body);
        if (!expert || expert->sources.empty()) continue;
        std::set<std::pair<ValuesId, int>> own;
        for (const MatrixForm& form : expert->matrices)
            if (!form.values.empty()) own.emplace(form.values, expert->sources.front());
        for (const auto& name : own)
            if (!named.insert(name).second)
                return invalid(
                    "invalid", index,
                    fmt::format("Two bodies of layer {} begin with expert {} and have stored values in one file.", index, name.second),
                    "Order the sources so that each body begins with an expert of its own.");
    }
    return {};
}

Status checkBodies(int index, const ModelShape& model, const LayerPlan& plan)
{
    const LayerShape& shape = model.layers[static_cast<std::size_t>(index)];
    ESPALIER_CHECK_OK(checkSharing(index, plan.content()));
    for (const RouterColumn& column : plan.content().columns) {
        const auto* body = std::get_if<ExpertBody>(&plan.content().bodies[static_cast<std::size_t>(column.body)]);
        if (!body) continue;
        ESPALIER_CHECK_OK(checkColumns(index, shape, body->sources));
        if (body->sources.empty())
            return invalid("invalid", index, fmt::format("Expert {} of layer {} has no source.", column.expert, index));
        int width = shape.expertWidth;
        for (const int source : body->sources)
            width = std::min(width, shape.widthOf(source));
        if (body->channels.empty() &&
            std::any_of(body->sources.begin(), body->sources.end(), [&](int e) { return shape.widthOf(e) != width; }))
            return invalid("invalid", index,
                           fmt::format("Experts that expert {} of layer {} is merged of differ in width.", column.expert, index),
                           "List the channels that stay.");
        for (std::size_t i = 0; i < body->channels.size(); ++i)
            if (body->channels[i] < 0 || body->channels[i] >= width || (i > 0 && body->channels[i] <= body->channels[i - 1]))
                return invalid(
                    "invalid", index,
                    fmt::format("Channels of expert {} of layer {} must be ascending, 0 to {}.", column.expert, index, width - 1));
        if (!body->channels.empty() &&
            std::any_of(body->sources.begin(), body->sources.end(), [&](int e) { return shape.isSourceConstant(e); }))
            return invalid("invalid", index,
                           fmt::format("Expert {} of layer {} is a constant in the checkpoint: it has no channels.", column.expert, index));
        if (static_cast<int>(body->channels.size()) == width)
            return invalid("invalid", index, fmt::format("Expert {} of layer {} lists all its channels.", column.expert, index),
                           "Leave them out.");
        for (int matrix = 0; matrix < 3; ++matrix) {
            const MatrixForm& form = body->matrices[static_cast<std::size_t>(matrix)];
            if (form.isSource()) continue;
            if (std::any_of(body->sources.begin(), body->sources.end(), [&](int source) { return shape.isSourceConstant(source); }))
                return invalid(
                    "invalid", index,
                    fmt::format("Expert {} of layer {} is a constant in the checkpoint: it has no matrices.", column.expert, index));
            const SlotShape slot = slotOf(shape, model.hiddenSize, *body, matrix);
            if (slot.sourceBias && form.values.empty())
                return invalid(
                    "invalid", index,
                    fmt::format("The checkpoint stores a matrix of expert {} in layer {} as factors with a bias.", column.expert, index),
                    "Leave it as it is, or give it stored values.");
            ESPALIER_CHECK_OK(rulesOf(form).check(
                slot, form, fmt::format("layer {}, expert {}, {}", index, column.expert, kMatrixNames[static_cast<std::size_t>(matrix)])));
        }
    }
    return {};
}

// Ascending, none twice, none as the checkpoint has it, none in a half that does not run. Names and shapes where the shape knows them.
Status checkLinears(int index, const LayerShape& shape, const LayerPlan& plan)
{
    const auto& linears = plan.content().linears;
    for (std::size_t i = 0; i < linears.size(); ++i) {
        const auto& [name, form] = linears[i];
        if (i > 0 && linears[i - 1].first >= name)
            return invalid("invalid", index, fmt::format("The linear maps of layer {} must be ascending and distinct.", index));
        if (form.isSource())
            return invalid("invalid", index, fmt::format("Layer {} lists {}, which is as the checkpoint has it.", index, name));
        const bool attention = isOfAttention(name);
        if (attention && !plan.runsAttention())
            return invalid("invalid", index, fmt::format("The attention of layer {} does not run and has forms.", index));
        if (!attention && !plan.runsExperts())
            return invalid("invalid", index, fmt::format("{} of layer {} does not run and has a form.", name, index));
        if (shape.linears.empty()) continue;
        const LinearShape* linear = shape.linear(name);
        if (linear == nullptr) {
            std::string names;
            for (const LinearShape& known : shape.linears)
                names += (names.empty() ? "" : ", ") + known.name;
            return invalid("unknown_linear", index, fmt::format("Layer {} has no linear map {}.", index, name),
                           fmt::format("It has {}.", names));
        }
        if (linear->sourceBias && form.values.empty())
            return invalid("invalid", index, fmt::format("The checkpoint stores {} of layer {} as factors with a bias.", name, index),
                           "Leave it as it is, or give it stored values.");
        ESPALIER_CHECK_OK(rulesOf(form).check(slotOf(*linear), form, fmt::format("layer {}, {}", index, name)));
    }
    return {};
}

bool alike(const LayerShape& a, const LayerShape& b)
{
    const auto linears = [](const LayerShape& layer) {
        return std::all_of(layer.linears.begin(), layer.linears.end(), [](const LinearShape& linear) { return linear.sourceRank == 0; });
    };
    const bool same =
        std::equal(a.linears.begin(), a.linears.end(), b.linears.begin(), b.linears.end(),
                   [](const LinearShape& x, const LinearShape& y) { return x.name == y.name && x.out == y.out && x.in == y.in; });
    return a.moe == b.moe && a.experts == b.experts && a.expertWidth == b.expertWidth && a.sharedWidth == b.sharedWidth &&
           a.denseWidth == b.denseWidth && a.evenExperts() && b.evenExperts() && linears(a) && linears(b) && same;
}

Status checkMerge(int index, const ModelShape& model, const LayerPlan& plan)
{
    const auto& merge = plan.content().mergedFrom;
    if (!merge) return {};
    if (merge->layer < 0 || merge->layer >= static_cast<int>(model.layers.size()) || merge->layer == index)
        return invalid("unknown_layer", index,
                       fmt::format("Layer {} is merged with layer {}, which is no other layer of the model.", index, merge->layer));
    if (merge->alphaMillionths < 0 || merge->alphaMillionths > 1'000'000)
        return invalid("invalid", index, fmt::format("The share of its own weights in layer {} must lie between 0 and 1.", index));
    if (!alike(model.layers[static_cast<std::size_t>(index)], model.layers[static_cast<std::size_t>(merge->layer)]))
        return invalid("invalid", index,
                       fmt::format("Layers {} and {} are not of one shape, or hold factors: they have no mean.", index, merge->layer),
                       "Merge layers of one kind.");
    return {};
}

Status checkSkipRule(int index, const LayerPlan& plan)
{
    const auto& skip = plan.content().skip;
    if (skip && (skip->thresholdMillionths < 0 || skip->thresholdMillionths > 1'000'000))
        return invalid("invalid", index, fmt::format("The skip threshold of layer {} must lie between 0 and 1.", index));
    return {};
}

}  // namespace

Status checkRankTriples(const ModelShape& model, int index, std::size_t kept, const std::vector<RankTriple>& ranks)
{
    const LayerShape& shape = model.layers[static_cast<std::size_t>(index)];
    if (!ranks.empty() && ranks.size() != kept)
        return invalid("invalid", index, fmt::format("Layer {} keeps {} experts and lists ranks for {}.", index, kept, ranks.size()));
    const int breakEven = breakEvenRank(model.hiddenSize, shape.expertWidth);
    for (const RankTriple& triple : ranks)
        for (const int rank : triple)
            if (rank < 0 || rank > breakEven)
                return invalid(
                    "rank_beyond_break_even", index,
                    fmt::format("Rank {} in layer {} is not between 1 and {}, beyond which factors save nothing.", rank, index, breakEven),
                    "Use 0 for a dense matrix.");
    return {};
}

Status checkLayerPlan(const ModelShape& model, int index, const LayerPlan& plan)
{
    const LayerShape& shape = model.layers[static_cast<std::size_t>(index)];
    const LayerPlan::Content& content = plan.content();
    ESPALIER_CHECK_OK(checkCanonical(index, content));
    ESPALIER_CHECK_OK(checkLinears(index, shape, plan));
    ESPALIER_CHECK_OK(checkMerge(index, model, plan));
    if (!shape.moe || !plan.runsExperts()) {
        if (content.columns.empty()) return {};
        return shape.moe ? invalid("invalid", index, fmt::format("The experts of layer {} do not run; the plan lists some.", index))
                         : invalid("unknown_layer", index, fmt::format("Layer {} is dense and has no experts to keep.", index));
    }
    ESPALIER_CHECK_OK(checkColumns(index, shape, plan.columns()));
    ESPALIER_CHECK_OK(checkRouter(index, shape, plan));
    ESPALIER_CHECK_OK(checkSkipRule(index, plan));
    return checkBodies(index, model, plan);
}

int fewestExperts(const LayerShape& shape, const LayerPlan& plan, const ExpertSet& pinned)
{
    if (!shape.moe || !plan.runsExperts()) return 0;
    const int topK = plan.topK().value_or(shape.router.topK);
    const int groups = shape.router.groups;
    if (groups <= 1) return std::max({1, topK, static_cast<int>(pinned.size())});
    const int size = shape.experts / groups;
    const int topGroups = std::max(1, shape.router.topGroups);
    int perGroup = std::max(1, (topK + topGroups - 1) / topGroups);
    // The group score of a sigmoid router is the sum of its two best.
    if (shape.router.rule == RoutingRule::SigmoidBias) perGroup = std::max(perGroup, std::min(2, size));
    std::vector<int> held(static_cast<std::size_t>(groups), 0);
    for (const int expert : pinned)
        perGroup = std::max(perGroup, ++held[static_cast<std::size_t>(expert / size)]);
    return perGroup * groups;
}

SlotShape slotOf(const LayerShape& shape, int hiddenSize, const ExpertBody& body, int matrix)
{
    SlotShape slot = slotOf(shape, hiddenSize, body.sources.front(), matrix);
    if (!body.channels.empty()) (matrix == 2 ? slot.in : slot.out) = std::ssize(body.channels);
    return slot;
}

SlotShape slotOf(const LinearShape& linear)
{
    return {.out = linear.out, .in = linear.in, .sourceRank = linear.sourceRank, .sourceBias = linear.sourceBias, .ownBias = linear.bias};
}

SlotShape slotOf(const LayerShape& shape, int hiddenSize, int expert, int matrix)
{
    SlotShape slot = {.out = shape.widthOf(expert), .in = hiddenSize, .sourceRank = 0, .sourceBias = false, .ownBias = false};
    if (matrix == 2) std::swap(slot.out, slot.in);
    if (static_cast<std::size_t>(expert) < shape.sourceRanks.size())
        slot.sourceRank = shape.sourceRanks[static_cast<std::size_t>(expert)][static_cast<std::size_t>(matrix)];
    slot.sourceBias = !shape.sourceBiases.empty() && shape.sourceBiases[static_cast<std::size_t>(expert)][static_cast<std::size_t>(matrix)];
    return slot;
}

}  // namespace espalier
