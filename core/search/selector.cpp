#include "search/selector.h"

#include "rpc/plan_event.h"
#include "search/layer_pool.h"
#include "search/layer_search.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace espalier
{

namespace
{

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// One line per selector, in the order of the choosers.
const std::vector<SelectMethod>& methods()
{
    static const std::vector<SelectMethod> table = {rankingMethod(), exhaustiveMethod(), greedyMethod(), geneticMethod()};
    return table;
}

Result<const SelectMethod*> findMethod(const std::string& id)
{
    std::vector<std::string> known;
    for (const SelectMethod& method : methods()) {
        if (method.info.id == id) return &method;
        known.push_back(method.info.id);
    }
    return Error{.kind = ErrorKind::Usage,
                 .code = "method.unknown",
                 .subject = id,
                 .message = fmt::format("There is no selector called \"{}\".", id),
                 .kept = "Nothing was computed.",
                 .action = fmt::format("Use one of {}.", fmt::join(known, ", "))};
}

// A loss that was not measured has no value in JSON.
double numberOrNaN(const Json& value) { return value.is_number() ? value.get<double>() : kNaN; }
Json jsonNumber(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Result<std::vector<double>> worthOf(const ExpertScores& scores, const LayerShape& layer)
{
    const auto l = static_cast<std::size_t>(layer.index);
    if (l >= scores.values.rows.size() || static_cast<int>(scores.values.rows[l].size()) != layer.experts)
        return badInput(
            "score.shape", fmt::format("layer {}", layer.index),
            {"The scores have no values for the {experts} experts of layer {layer}.", {{"experts", layer.experts}, {"layer", layer.index}}},
            "Use scores of this model's profile.");
    std::vector<double> worth = scores.values.rows[l];
    if (scores.better == Better::Lower)
        for (double& value : worth)
            value = -value;
    return worth;
}

Status checkProfile(const ProfileData& profile, const CompressionPlan& base, std::size_t counts)
{
    if (profile.layers.size() != profile.shape.layers.size() || static_cast<std::size_t>(base.layerCount()) != profile.layers.size() ||
        counts != profile.layers.size())
        return badInput("search.shape", "profile",
                        {"The profile has {layers} layers, the plan {layer_count}, the counts {counts}.",
                         {{"layers", profile.layers.size()}, {"layer_count", base.layerCount()}, {"counts", counts}}},
                        "Use a profile and a plan of the same model.");
    return {};
}

}  // namespace

Json toJson(const Selection& selection)
{
    Json best = Json::array();
    for (const KeptSet& set : selection.best)
        best.push_back({{"kept", set.kept}, {"loss", jsonNumber(set.loss)}, {"uncovered", set.uncoveredShare}});
    Json trace = Json::array();
    for (const double value : selection.trace)
        trace.push_back(jsonNumber(value));
    Json json = {{"layer", selection.layer},
                 {"best", std::move(best)},
                 {"trace", std::move(trace)},
                 {"evaluated", selection.evaluated},
                 {"output_norm", selection.outputNorm},
                 {"uncovered", selection.uncoveredShare},
                 {"reference_loss", selection.referenceLoss ? jsonNumber(*selection.referenceLoss) : Json()}};
    if (!selection.warning.empty()) json["warning"] = selection.warning;
    return json;
}

Result<Selection> selectionFromJson(const Json& value)
{
    try {
        Selection selection;
        selection.layer = value.at("layer").get<int>();
        for (const Json& item : value.at("best")) {
            KeptSet set{item.at("kept").get<ExpertSet>(), numberOrNaN(item.at("loss")), item.at("uncovered").get<double>()};
            if (!std::is_sorted(set.kept.begin(), set.kept.end(), std::less_equal<>()) || (!set.kept.empty() && set.kept.front() < 0))
                return badInput("search.invalid", fmt::format("layer {}", selection.layer),
                                "A stored search result lists experts that are not ascending.", "Run the search again.");
            selection.best.push_back(std::move(set));
        }
        for (const Json& item : value.at("trace"))
            selection.trace.push_back(numberOrNaN(item));
        selection.evaluated = value.at("evaluated").get<std::int64_t>();
        selection.outputNorm = value.at("output_norm").get<double>();
        selection.uncoveredShare = value.at("uncovered").get<double>();
        selection.warning = value.value("warning", std::string());
        if (const Json reference = value.value("reference_loss", Json()); reference.is_number())
            selection.referenceLoss = reference.get<double>();
        return selection;
    } catch (const Json::exception& failure) {
        return badInput("search.invalid", "search result", {"A stored search result cannot be read: {what}.", {{"what", failure.what()}}},
                        "Run the search again.");
    }
}

const std::vector<MethodInfo>& selectorMethods()
{
    static const std::vector<MethodInfo> infos = [] {
        std::vector<MethodInfo> list;
        for (const SelectMethod& method : methods()) {
            list.push_back(method.info);
            list.back().answers = {Answer::Sets};
            // What compares losses of sets tries many of them.
            list.back().searches = method.needsGram;
        }
        return list;
    }();
    return infos;
}

Result<std::vector<Selection>> selectLayers(const ProfileData& profile, const std::string& id, const Params& params,
                                            const std::vector<int>& keepPerLayer, const CompressionPlan& base, const SelectOptions& options,
                                            JobContext& job)
{
    ESPALIER_TRY(const SelectMethod* method, findMethod(id));
    ESPALIER_TRY(const Params complete, checkParams(method->info, params));
    ESPALIER_CHECK_OK(checkProfile(profile, base, keepPerLayer.size()));

    std::vector<Selection> selections(profile.layers.size());
    std::vector<int> open;
    std::vector<std::vector<double>> worth(profile.layers.size());
    std::int64_t already = 0;
    for (const LayerShape& shape : profile.shape.layers) {
        const auto l = static_cast<std::size_t>(shape.index);
        selections[l].layer = shape.index;
        if (!shape.moe || !base.layer(shape.index).runsExperts()) continue;
        if (const auto it = options.finished.find(shape.index); it != options.finished.end()) {
            selections[l] = it->second;
            ++already;
            continue;
        }
        const bool ranks = !method->needsGram;
        if (profile.layers[l].gram.listLength == 0 && !(ranks && options.scores))
            return badInput("profile.missing_statistics", fmt::format("layer {}", shape.index),
                            {"The profile has no products of expert outputs for layer {shape}, which \"{id}\" needs.",
                             {{"shape", shape.index}, {"id", id}}},
                            "Take the profile with --collect +gram.");
        if (options.scores && !base.isFixed(shape.index)) {
            ESPALIER_TRY(worth[l], worthOf(*options.scores, shape));
        }
        open.push_back(shape.index);
    }

    const auto work = [&](int layer, LayerPool::Handle& handle) -> Status {
        const auto l = static_cast<std::size_t>(layer);
        const LayerPlan& plan = base.layer(layer);
        const GramEvaluator evaluator(profile.layers[l], profile.shape.layers[l].router, plan.topK());
        SetLoss loss(evaluator);
        SelectRequest request;
        request.layer = layer;
        request.keep = base.isFixed(layer) ? static_cast<int>(plan.kept().size()) : keepPerLayer[l];
        request.bestSets = options.bestSets;
        request.seed = options.seed;
        request.protectedExperts = base.protectedExperts(layer);
        request.worth = worth[l];
        std::optional<double> reference;
        const auto report = [&](const LayerSearch& s) {
            if (!s.trace().empty())
                handle.report(toJson(LayerSearching{.layer = layer,
                                                    .generation = static_cast<std::int64_t>(s.trace().size()) - 1,
                                                    .bestLoss = s.trace().back(),
                                                    .referenceLoss = reference,
                                                    .enumerated = s.enumerated(),
                                                    .trace = s.trace()}));
            return !handle.stopRequested();
        };
        LayerSearch search(loss, std::move(request), report, options.batch);
        if (base.isFixed(layer)) {
            search.loss(ExpertBits::of(plan.kept()));
            search.endStep();
        } else {
            ESPALIER_CHECK_OK(search.check());
            if (options.scores && profile.layers[l].gram.listLength > 0)
                reference = loss.evaluate(search.ranked(search.request().worth)).loss();
            ESPALIER_CHECK_OK(method->run(search, complete));
            if (search.stopped()) return cancelledError();
        }
        selections[l] = search.selection();
        selections[l].referenceLoss = reference;
        if (profile.layers[l].gram.listLength == 0) {
            for (KeptSet& set : selections[l].best)
                set.loss = kNaN;
            selections[l].trace.clear();
        }
        return {};
    };
    ESPALIER_CHECK_OK(LayerPool::run(open, options.threads, already, job, work, [&](int layer) {
        if (options.onLayer) options.onLayer(selections[static_cast<std::size_t>(layer)]);
    }));
    return selections;
}

Result<CompressionPlan> applySelections(const ModelShape& shape, const CompressionPlan& base, const std::vector<Selection>& selections,
                                        const std::vector<int>& choice)
{
    CompressionPlan plan = base;
    for (const Selection& selection : selections) {
        const auto l = static_cast<std::size_t>(selection.layer);
        if (selection.best.empty() || base.isFixed(selection.layer)) continue;
        const int wanted = l < choice.size() ? choice[l] : 0;
        const std::size_t at = std::min(static_cast<std::size_t>(std::max(wanted, 0)), selection.best.size() - 1);
        ESPALIER_TRY(plan, plan.withKept(shape, selection.layer, selection.best[at].kept));
    }
    return plan;
}

}  // namespace espalier
