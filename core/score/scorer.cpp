#include "score/scorer.h"

#include "score/gram_loss.h"
#include "score/score_method.h"
#include "statistics/statistic.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace espalier
{

namespace
{

// One line per scorer, in the order of the choosers.
const std::vector<ScoreMethod>& methods()
{
    static const std::vector<ScoreMethod> table = {
        leaveOneOutMethod(),   expertFrequencyMethod(), eanMeanMethod(),         reapMethod(),   moneMethod(), aimerMethod(),
        cameraMethod(),        softCountMethod(),       routedSoftCountMethod(), eanSumMethod(), msanMethod(), weightedEanSumMethod(),
        maxActivationMethod(),
    };
    return table;
}

Result<const ScoreMethod*> findMethod(const std::string& id)
{
    for (const ScoreMethod& method : methods())
        if (method.info.id == id) return &method;
    std::vector<std::string> known;
    for (const ScoreMethod& method : methods())
        known.push_back(method.info.id);
    return Error{.kind = ErrorKind::Usage,
                 .code = "method.unknown",
                 .subject = id,
                 .message = fmt::format("There is no score called \"{}\".", id),
                 .kept = "Nothing was computed.",
                 .action = fmt::format("Use one of {}.", fmt::join(known, ", "))};
}

bool hasStatistic(const LayerProfile& layer, const std::string& need)
{
    const StatisticInfo* info = findStatistic(need);
    return info && info->there(layer);
}

bool readsWeights(const ScoreMethod& method)
{
    return std::find(method.info.needs.begin(), method.info.needs.end(), "weights") != method.info.needs.end();
}

// Statistics it needs: all but the weights.
bool readsProfile(const ScoreMethod& method) { return method.info.needs.size() > (readsWeights(method) ? 1u : 0u); }

Status checkNeeds(const LayerProfile* layer, const ScoreMethod& method, const ExpertMatrices* weights)
{
    if (readsWeights(method) && !weights) {
        Error error = usageError({"The score \"{id}\" reads the weights of the model, and no model was named.", {{"id", method.info.id}}},
                                 "Name it with --model, or use a score that reads the profile alone.");
        error.code = "score.no_weights";
        return error;
    }
    for (const std::string& need : method.info.needs)
        if (need != "weights" && (!layer || !hasStatistic(*layer, need)))
            return badInput(
                "profile.missing_statistics", need,
                {"The profile was taken without \"{need}\", which the score \"{id}\" needs.", {{"need", need}, {"id", method.info.id}}},
                {"Take the profile with --collect +{need}.", {{"need", need}}});
    return {};
}

// Of one MoE layer whose needs are there.
Result<std::vector<double>> rowOf(const ScoreMethod& method, const ScoreInput& input)
{
    if (method.row) return method.row(*input.profile, input.shape.router, input.params);
    if (method.experts) return method.experts(input);
    ESPALIER_TRY(const auto channels, method.channels(input));
    std::vector<double> row;
    row.reserve(channels.size());
    for (const std::vector<double>& values : channels)
        row.push_back(std::accumulate(values.begin(), values.end(), 0.0));
    return row;
}

ExpertScores describedBy(const ScoreMethod& method, const Params& complete)
{
    ExpertScores scores;
    scores.method = method.info.id;
    scores.title = method.info.title;
    scores.unit = method.unit(complete);
    scores.better = method.better;
    return scores;
}

}  // namespace

std::vector<double> meanPerToken(const std::vector<double>& sum, const std::vector<std::int64_t>& count)
{
    std::vector<double> mean(sum.size(), 0.0);
    for (std::size_t i = 0; i < sum.size(); ++i)
        if (count[i] > 0) mean[i] = sum[i] / static_cast<double>(count[i]);
    return mean;
}

ParamSpec weightsParameter(const char* fallback)
{
    return {.key = "weights",
            .type = ParamType::Choice,
            .defaultValue = fallback,
            .choices = {"renormalised", "raw", "applied"},
            .unit = "",
            .help =
                "raw: the router's probability; renormalised: divided by the sum over the token's chosen experts; applied: what the "
                "model multiplies with."};
}

const std::vector<double>& chosenWeights(const Params& params, const std::vector<double>& raw, const std::vector<double>& renormalised,
                                         const std::vector<double>& applied)
{
    const Json& choice = params.at("weights");
    return choice == "raw" ? raw : choice == "applied" ? applied : renormalised;
}

const std::vector<MethodInfo>& scorers()
{
    static const std::vector<MethodInfo> infos = [] {
        std::vector<MethodInfo> list;
        for (const ScoreMethod& method : methods())
            list.push_back(method.info);
        return list;
    }();
    return infos;
}

Result<ExpertScores> score(const ProfileData& profile, const std::string& id, const Params& params, const ExpertMatrices* weights)
{
    ESPALIER_TRY(const ScoreMethod* method, findMethod(id));
    ESPALIER_TRY(const Params complete, checkParams(method->info, params));
    ExpertScores scores = describedBy(*method, complete);
    for (const LayerProfile& layer : profile.layers) {
        std::vector<double> row;
        if (layer.experts > 0) {
            const LayerShape& shape = profile.shape.layers[static_cast<std::size_t>(layer.layer)];
            ESPALIER_CHECK_OK(checkNeeds(&layer, *method, weights));
            ESPALIER_TRY(row, rowOf(*method, {.shape = shape, .params = complete, .profile = &layer, .weights = weights}));
        }
        if (method->sumIsLayerImportance)
            scores.layerImportance.push_back(layer.experts > 0 ? std::accumulate(row.begin(), row.end(), 0.0)
                                                               : std::numeric_limits<double>::quiet_NaN());
        scores.values.rows.push_back(std::move(row));
    }
    return scores;
}

Result<ExpertScores> scoreWeights(const ModelShape& shape, const std::string& id, const Params& params, const ExpertMatrices& weights)
{
    ESPALIER_TRY(const ScoreMethod* method, findMethod(id));
    ESPALIER_TRY(const Params complete, checkParams(method->info, params));
    if (readsProfile(*method)) {
        Error error = usageError(fmt::format("The score \"{}\" is computed from a profile, and none was named.", id), "Name a profile.");
        error.code = "score.reads_profile";
        return error;
    }
    ExpertScores scores = describedBy(*method, complete);
    for (const LayerShape& layer : shape.layers) {
        std::vector<double> row;
        if (layer.moe) {
            ESPALIER_TRY(row, rowOf(*method, {.shape = layer, .params = complete, .profile = nullptr, .weights = &weights}));
        }
        scores.values.rows.push_back(std::move(row));
    }
    return scores;
}

Result<ChannelScores> channelScores(const ProfileData& profile, const std::string& id, const Params& params, const ExpertMatrices* weights)
{
    ESPALIER_TRY(const ScoreMethod* method, findMethod(id));
    ESPALIER_TRY(const Params complete, checkParams(method->info, params));
    if (!method->channels) {
        std::vector<std::string> able;
        for (const ScoreMethod& other : methods())
            if (other.channels) able.push_back(other.info.id);
        Error error = usageError({"The score \"{id}\" values experts, not their channels.", {{"id", id}}},
                                 {"Use one of {able}.", {{"able", fmt::format("{}", fmt::join(able, ", "))}}});
        error.code = "score.no_channels";
        return error;
    }
    ChannelScores scores;
    for (const LayerProfile& layer : profile.layers) {
        std::vector<std::vector<double>> values;
        if (layer.experts > 0) {
            const LayerShape& shape = profile.shape.layers[static_cast<std::size_t>(layer.layer)];
            ESPALIER_CHECK_OK(checkNeeds(&layer, *method, weights));
            ESPALIER_TRY(values, method->channels({.shape = shape, .params = complete, .profile = &layer, .weights = weights}));
        }
        scores.push_back(std::move(values));
    }
    return scores;
}

Result<std::vector<double>> scoreLayer(const LayerProfile& layer, const RouterShape& router, const std::string& id, const Params& params)
{
    ESPALIER_TRY(const ScoreMethod* method, findMethod(id));
    ESPALIER_TRY(const Params complete, checkParams(method->info, params));
    if (layer.experts == 0) return std::vector<double>();
    ESPALIER_CHECK_OK(checkNeeds(&layer, *method, nullptr));
    return method->row(layer, router, complete);
}

std::vector<std::string> profileWarnings(const ProfileData& profile)
{
    std::vector<std::string> warnings;
    for (const LayerProfile& layer : profile.layers) {
        std::vector<int> silent;
        for (int e = 0; e < layer.experts; ++e)
            if (layer.count[static_cast<std::size_t>(e)] == 0) silent.push_back(e);
        if (!silent.empty())
            warnings.push_back(fmt::format("Layer {}: the text never reaches expert{} {}; {} mean scores are 0.", layer.layer,
                                           silent.size() == 1 ? "" : "s", fmt::join(silent, ", "), silent.size() == 1 ? "its" : "their"));
        if (layer.experts == 0 || layer.gram.listLength == 0) continue;
        const RouterShape& router = profile.shape.layers[static_cast<std::size_t>(layer.layer)].router;
        if (layer.gram.listLength <= router.topK && layer.experts > router.topK)
            warnings.push_back(
                fmt::format("Layer {}: the lists hold only the {} chosen experts; losses charge a token's whole output when "
                            "one of them is removed.",
                            layer.layer, router.topK));
    }
    return warnings;
}

double uncoveredFraction(const ProfileData& profile)
{
    std::int64_t uncovered = 0;
    std::int64_t tokens = 0;
    for (const LayerProfile& layer : profile.layers) {
        if (layer.experts == 0 || layer.gram.listLength == 0) continue;
        const RouterShape& router = profile.shape.layers[static_cast<std::size_t>(layer.layer)].router;
        const GramEvaluator evaluator(layer, router);
        const std::vector<GramLoss> losses = evaluator.leaveOneOut();
        std::vector<int> order(static_cast<std::size_t>(layer.experts));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
            return losses[static_cast<std::size_t>(a)].squared > losses[static_cast<std::size_t>(b)].squared;
        });
        const int keep = std::max(router.topK, layer.experts - layer.experts / 4);
        std::vector<int> kept(order.begin(), order.begin() + keep);
        std::sort(kept.begin(), kept.end());
        const GramLoss loss = evaluator.evaluate(kept);
        uncovered += loss.uncovered;
        tokens += loss.tokens;
    }
    return tokens > 0 ? static_cast<double>(uncovered) / static_cast<double>(tokens) : 0.0;
}

}  // namespace espalier
