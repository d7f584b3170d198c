#include "profile/profile_pass.h"

#include "base/sha256.h"
#include "checkpoint/checkpoint.h"
#include "model/moe_model_torch.h"
#include "profile/factor_builder.h"
#include "profile/gradient_sweep.h"
#include "profile/hidden_states.h"
#include "profile/nll_probes.h"
#include "profile/pass_state.h"
#include "profile/profile_collector.h"
#include "profile/statistics/statistic_collector.h"
#include "profile/window_batches.h"
#include "score/scorer.h"
#include "session/layer_factors.h"
#include "session/profile_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace espalier
{

namespace
{

constexpr const char* kStatistics[] = {"counts",    "ean",       "reap",   "gram",    "outputs", "similarity",
                                       "gradients", "curvature", "curves", "factors", "moments"};
constexpr const char* kPartialMethods[] = {"expert_frequency", "ean_mean", "reap", "leave-one-out"};
// Outputs of all list entries of a batch are held at once; so many bytes they may take.
constexpr std::int64_t kBatchBytes = std::int64_t{256} << 20;
constexpr std::int64_t kMostBatchTokens = 8192;
// Shards are made of whole batches. A text is cut into at least 16 of them, but batches below 1,024 tokens leave too few rows for an expert
// to be fast (S in bf16: a fifth slower at 512): short texts make 4.
constexpr std::size_t kManyBatches = 16;
constexpr std::size_t kFewBatches = 4;
constexpr std::size_t kLeastBatchTokens = 1024;

std::size_t windowsPerBatch(std::size_t windows, std::size_t windowLength)
{
    const std::size_t many = (windows + kManyBatches - 1) / kManyBatches;
    const std::size_t fast = (kLeastBatchTokens + windowLength - 1) / windowLength;
    return std::max(many, std::min(fast, windows / kFewBatches));
}

// Below this many experts every subset may be wanted (exhaustive search), and the dense store costs little.
constexpr int kDenseExperts = 10;

Error badOption(const std::string& message, const std::string& action)
{
    Error error = usageError(message, action);
    error.code = "profile.bad_option";
    return error;
}

struct Settings {
    bool norms = false;
    bool weighted = false;
    bool gram = false;
    bool outputs = false;
    bool similarity = false;
    bool gradients = false;
    bool drawnGradients = false;
    FactorWishes factors;
    std::vector<std::string> collected;
    std::int64_t gramTokens = 0;  // of the whole text
    std::vector<int> listLength;  // per decoder layer, 0 = none
};

int listLength(const LayerShape& layer, int extra)
{
    const int n = layer.experts;
    const int k = layer.router.topK;
    if (extra >= 0) return std::min(n, k + extra);
    return n <= kDenseExperts ? n : std::min(n, 2 * k + 1);
}

Result<Settings> resolve(const ProfileOptions& options, const ModelShape& shape, std::int64_t textTokens)
{
    if (!options.out.empty() && (!options.layers.empty() || options.onLayer))
        return badOption("A profile of some layers alone is not written.", "Leave the output out.");
    for (const int layer : options.layers)
        if (layer < 0 || layer >= static_cast<int>(shape.layers.size()))
            return badOption(fmt::format("There is no layer {}.", layer), "Layers count from 0.");
    if (options.shards < 1 || options.shard < 0 || options.shard >= options.shards)
        return badOption(fmt::format("There is no shard {} of {}.", options.shard + 1, options.shards),
                         "Write --shard i/n with 1 <= i <= n.");
    if (options.gramTokens < -1 || options.gramExtra < -1)
        return badOption("Numbers of tokens and experts are not negative.", "Leave the option out for the default.");
    Settings settings;
    std::vector<std::string> wanted;
    bool defaults = options.collect.empty();
    for (const std::string& item : options.collect) {
        const bool more = item.starts_with('+');
        const std::string name = more ? item.substr(1) : item;
        if (std::find(std::begin(kStatistics), std::end(kStatistics), name) == std::end(kStatistics))
            return badOption(fmt::format("\"{}\" is not a statistic.", name),
                             "Use counts, ean, reap, gram, outputs, similarity, gradients, curvature, curves, factors, moments.");
        if (options.out.empty() && (name == "factors" || name == "moments"))
            return badOption(fmt::format("\"{}\" are kept in a file, and none was named.", name), "Name an output file.");
        defaults |= more;
        wanted.push_back(name);
    }
    if (defaults) {
        wanted.insert(wanted.end(), {"counts", "ean", "reap", "gram", "similarity"});
        if (outputBytes(shape) <= kOutputBytes) wanted.push_back("outputs");
        if (!options.out.empty() && options.gramTokens != 0 && shape.parameters() <= kGradientParameters &&
            boundaryBytes(shape, textTokens, sizeof(float)) <= kBoundaryBytes)
            wanted.push_back("gradients");
        for (std::string& name : defaultFactors(shape, options))
            wanted.push_back(std::move(name));
    }
    const auto wants = [&](const char* name) { return std::find(wanted.begin(), wanted.end(), name) != wanted.end(); };
    settings.factors.bases = wants("factors");
    settings.factors.curves = wants("curves") || settings.factors.bases;
    settings.factors.moments = wants("moments");
    settings.norms = wants("ean");
    settings.weighted = wants("reap");
    settings.gram = wants("gram") && options.gramTokens != 0;
    settings.outputs = wants("outputs");
    settings.similarity = wants("similarity");
    settings.drawnGradients = wants("curvature");
    settings.gradients = wants("gradients") || settings.drawnGradients;
    if (settings.gradients && !settings.gram)
        return badOption("Gradients are kept for the tokens of the Gram store, and there is none.", "Collect gram too.");

    std::int64_t tokenBytes = 0;
    for (const LayerShape& layer : shape.layers) {
        const int length = layer.moe ? listLength(layer, options.gramExtra) : 0;
        settings.listLength.push_back(length);
        if (layer.moe) tokenBytes += gramTokenBytes(layer.experts, length, true);
    }
    if (settings.gram) {
        const std::int64_t most =
            options.gramTokens > 0 ? options.gramTokens : gramBytes(shape, textTokens) / std::max<std::int64_t>(tokenBytes, 1);
        settings.gramTokens = std::min(most, textTokens);
    }
    settings.collected = {"counts"};
    if (settings.norms) settings.collected.push_back("ean");
    if (settings.weighted) settings.collected.push_back("reap");
    if (settings.gram) settings.collected.push_back("gram");
    if (settings.outputs) settings.collected.push_back("outputs");
    if (settings.similarity) settings.collected.push_back("similarity");
    if (settings.gradients) settings.collected.push_back("gradients");
    if (settings.drawnGradients) settings.collected.push_back("curvature");
    if (settings.factors.curves) settings.collected.push_back("curves");
    if (settings.factors.bases) settings.collected.push_back("factors");
    if (settings.factors.moments) settings.collected.push_back("moments");
    return settings;
}

void reportLayer(const LayerProfile& layer, const ModelShape& shape, JobContext& job)
{
    if (layer.experts == 0) return;
    Json scores = Json::object();
    for (const char* method : kPartialMethods)
        if (auto row = scoreLayer(layer, shape.layers[static_cast<std::size_t>(layer.layer)].router, method); row.ok())
            scores[method] = *row;
    job.partial({{"layer", layer.layer}, {"scores", scores}});
}

// The plan as far as it decides which experts exist.
Result<CompressionPlan> withoutRanks(const ModelShape& shape, CompressionPlan plan)
{
    for (const LayerShape& layer : shape.layers)
        if (layer.moe && layer.index < plan.layerCount() && !plan.layer(layer.index).ranks().empty()) {
            ESPALIER_TRY(plan, plan.withRanks(shape, layer.index, {}));
        }
    return plan;
}

constexpr std::int64_t kLeastMomentBudget = std::int64_t{256} << 20;

std::vector<std::vector<int>> rowsOf(const WindowIds& ids)
{
    std::vector<std::vector<int>> rows;
    auto at = ids.ids.begin();
    for (const std::int32_t length : ids.lengths) {
        rows.emplace_back(at, at + length);
        at += length;
    }
    return rows;
}

// Probes for the layers that `data` holds by now, with the factors that `state` keeps.
Result<std::vector<NllProbeSet>> takeProbes(MoeModel& model, const ProfileData& data, const PassState& state, std::int64_t memory,
                                            const std::function<bool()>& stopRequested, const std::function<void(std::int64_t)>& step)
{
    std::vector<std::vector<double>> importance(data.shape.layers.size());
    for (const LayerProfile& layer : data.layers) {
        if (layer.experts == 0) continue;
        ESPALIER_TRY(importance[static_cast<std::size_t>(layer.layer)],
                     scoreLayer(layer, data.shape.layers[static_cast<std::size_t>(layer.layer)].router, "leave-one-out"));
    }
    std::shared_ptr<const FactorSource> source;
    if (data.has("factors")) {
        std::vector<std::filesystem::path> parts;
        for (const LayerProfile& layer : data.layers)
            for (std::filesystem::path& part : state.parts(layer.layer))
                parts.push_back(std::move(part));
        ESPALIER_TRY(source, openLayerFactors(parts, data, sha256Hex("probes " + state.key())));
    }
    const std::vector<std::vector<int>> rows = rowsOf(data.windowIds);
    ESPALIER_TRY(
        NllProbeSet set,
        runProbes(
            model,
            {.rows = rows, .importance = importance, .source = source, .memory = memory, .stopRequested = stopRequested, .step = step}));
    std::vector<NllProbeSet> sets;
    if (!set.probes.empty()) sets.push_back(std::move(set));
    return sets;
}

}  // namespace

std::int64_t gramBytes(const ModelShape& shape, std::int64_t textTokens)
{
    constexpr std::int64_t kTimesModel = 4;
    constexpr std::int64_t kLeast = std::int64_t{16} << 20;
    constexpr std::int64_t kMost = std::int64_t{1} << 30;
    constexpr std::int64_t kSums = std::int64_t{1} << 20;  // and headers
    const std::int64_t bases = factorBytes(shape) <= kFactorBytes ? factorBytes(shape) : 0;
    return std::clamp(kTimesModel * shape.bytes() - bases - kSums - textTokens * static_cast<std::int64_t>(sizeof(std::int32_t)), kLeast,
                      kMost);
}

std::int64_t gramTokenBytes(int experts, int length, bool gradients)
{
    const std::int64_t k = length;
    // Products and logits, list and place in the text; gradients and their window.
    return k * (k + 1) / 2 * 8 + experts * std::int64_t{4} + k * 2 + 8 + (gradients ? k * 4 + 4 : 0);
}

std::int64_t factorBytes(const ModelShape& shape)
{
    std::int64_t bytes = 0;
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        const std::int64_t rank = breakEvenRank(shape.hiddenSize, layer.expertWidth);
        bytes += layer.experts * rank * (2 * layer.expertWidth + shape.hiddenSize) * static_cast<std::int64_t>(sizeof(float));
    }
    return bytes;
}

std::int64_t outputBytes(const ModelShape& shape)
{
    constexpr auto kWeights = static_cast<std::int64_t>(kOutputWeights.size());
    std::int64_t bytes = 0;
    for (const LayerShape& layer : shape.layers)
        if (layer.moe) bytes += kWeights * layer.experts * (shape.hiddenSize + 2) * static_cast<std::int64_t>(sizeof(double));
    return bytes;
}

std::int64_t momentBytes(const ModelShape& shape)
{
    std::int64_t bytes = 0;
    for (const LayerShape& layer : shape.layers)
        if (layer.moe) bytes += layer.experts * momentBytes(layer, shape.hiddenSize);
    return bytes;
}

std::vector<std::string> defaultFactors(const ModelShape& shape, const ProfileOptions& options)
{
    if (options.out.empty()) return {};
    if (options.shards > 1) return momentBytes(shape) <= kFactorBytes ? std::vector<std::string>{"moments"} : std::vector<std::string>{};
    return factorBytes(shape) <= kFactorBytes ? std::vector<std::string>{"curves", "factors"} : std::vector<std::string>{};
}

Result<ProfileData> runProfile(MoeModel& model, const TokenWindows& windows, const ProfileOptions& options, JobContext& job)
{
    const c10::InferenceMode guard;
    const ModelShape& shape = model.shape();
    ESPALIER_CHECK_OK(refuseExisting(options.out, options.force));
    std::int64_t textTokens = 0;
    for (const auto& row : windows.rows)
        textTokens += static_cast<std::int64_t>(row.size());
    ESPALIER_TRY(const Settings settings, resolve(options, shape, textTokens));
    PreparedPlan plan = model.identity();
    if (options.plan) {
        ESPALIER_TRY(const CompressionPlan kept, withoutRanks(shape, *options.plan));
        ESPALIER_TRY(plan, model.prepare(kept));
    }
    const std::int64_t momentBudget =
        options.momentBudget > 0 ? options.momentBudget
                                 : std::max(model.spareBytes() / 4, std::min(kLeastMomentBudget, model.options().memoryBudget / 16));

    int longest = 1;
    for (const int length : settings.listLength)
        longest = std::max(longest, length);
    const std::int64_t batchTokens =
        std::clamp<std::int64_t>(kBatchBytes / (static_cast<std::int64_t>(longest) * shape.hiddenSize * 4), 1, kMostBatchTokens);
    const std::size_t total = windows.rows.size();
    const auto shards = static_cast<std::size_t>(options.shards);
    if (total < shards)
        return badInput("text.too_short", windows.source,
                        fmt::format("The text has {} windows, too few for {} shards.", total, options.shards),
                        "Use fewer shards or more text.");
    BatchRule rule{.gram = settings.gram,
                   .gramTokens = settings.gramTokens,
                   .textTokens = textTokens,
                   .batchTokens = batchTokens,
                   .mostWindows = windowsPerBatch(total, static_cast<std::size_t>(std::max(windows.windowLength, 1)))};
    std::vector<WindowBatch> batches = makeBatches(windows, rule);
    // More shards than batches: one window at a time. Sums then agree with those of a single pass to the rounding of the forward pass.
    if (batches.size() < shards) {
        rule.mostWindows = 1;
        batches = makeBatches(windows, rule);
    }
    const auto shard = static_cast<std::size_t>(options.shard);
    const auto boundary = [&](std::size_t i) { return static_cast<std::ptrdiff_t>(batches.size() * i / shards); };
    batches = std::vector<WindowBatch>(batches.begin() + boundary(shard), batches.begin() + boundary(shard + 1));
    const std::size_t first = batches.front().first;
    const std::size_t last = batches.back().first + batches.back().count;

    ProfileData data;
    data.shape = shape;
    data.fingerprint = model.checkpoint().fingerprint();
    data.configSha256 = model.checkpoint().configSha256();
    data.weightsSha256 = model.checkpoint().weightsSha256();
    data.numericMode = model.numericMode();
    data.windowLength = windows.windowLength;
    data.textSha256 = windows.textSha256;
    data.source = windows.source;
    data.tokenizerSha256 = windows.tokenizerSha256;
    data.bos = windows.bos;
    data.windows = static_cast<int>(last - first);
    data.collected = settings.collected;
    if (!plan.plan().isIdentity(shape))
        for (const LayerShape& layer : shape.layers)
            data.kept.push_back(layer.moe ? plan.plan().layer(layer.index).kept() : std::vector<int>());
    data.engineVersion = ESPALIER_VERSION;
    const std::vector<std::vector<int>> rows(windows.rows.begin() + static_cast<std::ptrdiff_t>(first),
                                             windows.rows.begin() + static_cast<std::ptrdiff_t>(last));
    for (const auto& row : rows) {
        data.tokens += static_cast<std::int64_t>(row.size());
        data.windowIds.ids.insert(data.windowIds.ids.end(), row.begin(), row.end());
        data.windowIds.lengths.push_back(static_cast<std::int32_t>(row.size()));
    }
    data.ranges = {{.textSha256 = windows.textSha256,
                    .firstWindow = static_cast<int>(first),
                    .windowCount = data.windows,
                    .tokens = data.tokens,
                    .sha256 = hashOfRows(rows)}};

    PassState state(options.out, sha256Hex(canonicalJson({{"fingerprint", data.fingerprint},
                                                          {"windows", data.ranges.front().sha256},
                                                          {"text", data.textSha256},
                                                          {"first_window", first},
                                                          {"mode", data.numericMode},
                                                          {"threads", model.options().threads},
                                                          {"collected", data.collected},
                                                          {"plan", plan.plan().hash()},
                                                          {"gram_tokens", settings.gramTokens},
                                                          {"list_length", settings.listLength},
                                                          {"batch_windows", batches.front().count},
                                                          {"shard", options.shard},
                                                          {"shards", options.shards},
                                                          {"version", data.engineVersion}})));
    if (options.resume) {
        ESPALIER_TRY(auto done, state.load(shape));
        if (done) data.layers = std::move(*done);
    }
    if (data.layers.empty()) ESPALIER_CHECK_OK(state.clear());
    ESPALIER_CHECK_OK(state.prepare());
    HiddenStates hidden(batches, shape.hiddenSize, data.numericMode == "bf16" ? at::kBFloat16 : at::kFloat);
    if (state.active() && data.layers.size() < shape.layers.size())
        ESPALIER_CHECK_OK(hidden.useFiles(state.folder(), static_cast<int>(data.layers.size()), !data.layers.empty()));
    if (data.layers.empty())
        for (std::size_t b = 0; b < batches.size(); ++b) {
            ESPALIER_TRY(const at::Tensor embedded, model.embed(idTensor(windows, batches[b])));
            hidden.setInput(b, embedded);
        }
    for (const LayerProfile& layer : data.layers)
        reportLayer(layer, shape, job);

    // The reverse sweep takes the states that the pass goes through, if they are all there and there is room for them.
    const std::int64_t boundaryBudget = options.boundaryBudget > 0 ? options.boundaryBudget : momentBudget;
    const std::int64_t valueBytes = data.numericMode == "bf16" ? 2 : 4;
    const bool keepStates = settings.gradients && data.layers.empty() && boundaryBytes(shape, data.tokens, valueBytes) <= boundaryBudget;
    std::vector<std::vector<at::Tensor>> states(keepStates ? batches.size() : 0);
    const auto layerCount = static_cast<int>(shape.layers.size());
    const auto wanted = [&](std::size_t l) {
        return options.layers.empty() ||
               std::find(options.layers.begin(), options.layers.end(), static_cast<int>(l)) != options.layers.end();
    };
    const std::size_t end = options.layers.empty()
                                ? shape.layers.size()
                                : static_cast<std::size_t>(*std::max_element(options.layers.begin(), options.layers.end())) + 1;
    // What an already pruned model loses by further pruning says nothing about the whole one.
    const bool probed = settings.gradients && !options.out.empty() && data.kept.empty();
    const std::int64_t probing = probed ? probeWork(shape, rows, settings.factors.bases) : 0;
    const std::int64_t work = data.tokens * static_cast<std::int64_t>(end) + probing +
                              (settings.gradients ? sweepWork(data.tokens, layerCount, settings.drawnGradients, keepStates) : 0);
    std::int64_t done = data.tokens * static_cast<std::int64_t>(data.layers.size());
    job.progress(done, work, "token");
    // What a failure of the disk leaves to go on with.
    const auto keptLayers = [&](Status status) -> Status {
        if (status.ok() || !state.active() || data.layers.empty()) return status;
        Error error = std::move(status).error();
        error.kept = fmt::format("{} of {} layers are kept; --resume goes on from there.", data.layers.size(), shape.layers.size());
        return error;
    };
    while (data.layers.size() < end) {
        if (job.stopRequested()) {
            Error error = cancelledError();
            if (state.active())
                error.kept = fmt::format("{} of {} layers are kept; --resume goes on from there.", data.layers.size(), shape.layers.size());
            return error;
        }
        const auto l = data.layers.size();
        const LayerShape& layer = shape.layers[l];
        LayerProfile profile;
        profile.layer = layer.index;
        std::vector<std::vector<int>> chunks;
        if (layer.moe && settings.factors.any() && wanted(l)) {
            state.dropParts(layer.index);
            chunks = expertChunks(plan.plan().layer(layer.index).kept(), momentBytes(layer, shape.hiddenSize), momentBudget);
        }
        // The layer runs once, and once more for every further part of its experts whose moments do not fit the budget beside the others.
        const std::size_t rounds = std::max<std::size_t>(chunks.size(), 1);
        std::optional<FactorBuilder> builder;
        int parts = 0;
        for (std::size_t round = 0; round < rounds; ++round) {
            std::optional<MomentCollector> moments;
            if (!chunks.empty()) moments.emplace(model, layer, chunks[round]);
            ObserverGroup observers;
            std::vector<std::unique_ptr<StatisticCollector>> statistics;
            if (round == 0 && wanted(l)) {
                if (layer.moe && settings.outputs) statistics.push_back(outputMomentsCollector(layer, shape.hiddenSize));
                if (settings.similarity) statistics.push_back(layerSimilarityCollector());
            }
            std::optional<ProfileCollector> collector;
            if (layer.moe && round == 0 && wanted(l))
                collector.emplace(model, layer,
                                  CollectorSettings{.norms = settings.norms,
                                                    .weighted = settings.weighted,
                                                    .gram = settings.gram,
                                                    .listLength = settings.listLength[l]});
            if (collector) observers.add(&*collector);
            if (moments) observers.add(&*moments);
            for (const auto& statistic : statistics)
                if (layer.moe) observers.add(statistic.get());
            LayerObserver* observer = observers.empty() ? nullptr : &observers;
            for (std::size_t b = 0; b < batches.size(); ++b) {
                if (collector) collector->beginBatch(batches[b].positions, batches[b].sampledRows);
                ESPALIER_TRY(const at::Tensor next, model.layer(static_cast<int>(l), hidden.input(b), plan, observer));
                for (const auto& statistic : statistics)
                    statistic->states(hidden.input(b), next);
                if (collector) ESPALIER_CHECK_OK(collector->status());
                if (moments) ESPALIER_CHECK_OK(moments->status());
                if (round + 1 == rounds) {
                    if (keepStates && l == 0) states[b].push_back(hidden.input(b).clone());
                    if (keepStates) states[b].push_back(next);
                    hidden.setOutput(b, next);
                }
                if (round == 0) {
                    done += static_cast<std::int64_t>(batches[b].positions.size());
                    job.progress(done, work, "token");
                }
            }
            if (collector) profile = collector->takeResult();
            for (const auto& statistic : statistics)
                statistic->finish(profile);
            if (!moments) continue;
            if (!builder) builder.emplace(model.checkpoint(), layer, shape.hiddenSize, settings.factors, momentBudget, profile);
            ESPALIER_TRY(const std::vector<ExpertParts> built, builder->add(moments->sums()));
            if (settings.factors.bases || settings.factors.moments)
                ESPALIER_CHECK_OK(keptLayers(state.addParts(layer.index, parts++, built)));
        }
        if (builder) {
            ESPALIER_TRY(const std::vector<ExpertParts> built, builder->finish());
            ESPALIER_CHECK_OK(keptLayers(state.addParts(layer.index, parts++, built)));
        }
        if (l + 1 < shape.layers.size()) ESPALIER_CHECK_OK(keptLayers(hidden.advance()));
        ESPALIER_CHECK_OK(keptLayers(state.commit(profile)));
        data.layers.push_back(std::move(profile));
        reportLayer(data.layers.back(), shape, job);
        if (options.onLayer) ESPALIER_CHECK_OK(options.onLayer(data.layers.back()));
    }

    if (probed) {
        const std::int64_t before = done;
        if (std::optional<std::vector<NllProbeSet>> kept = state.probes()) {
            data.probes = std::move(*kept);
        } else {
            Result<std::vector<NllProbeSet>> taken = takeProbes(
                model, data, state, momentBudget, [&] { return job.stopRequested(); },
                [&](std::int64_t tokenLayers) {
                    done = std::min(done + tokenLayers, before + probing);
                    job.progress(done, work, "token");
                });
            if (!taken.ok()) {
                Error error = taken.error();
                error.kept = "All layers are kept; --resume goes on with the probes.";
                return error;
            }
            data.probes = std::move(taken).value();
            ESPALIER_CHECK_OK(keptLayers(state.keepProbes(data.probes)));
        }
        done = before + probing;
        job.progress(done, work, "token");
    }

    if (settings.gradients) {
        std::vector<SweepBatch> sweep;
        sweep.reserve(batches.size());
        for (const WindowBatch& batch : batches)
            sweep.push_back({.ids = idTensor(windows, batch),
                             .sampledRows = batch.sampledRows,
                             .firstWindow = static_cast<int>(batch.first - first),
                             .textWindow = static_cast<std::int64_t>(batch.first)});
        const Status swept = runGradientSweep(
            model, plan, sweep, std::move(states), {.drawn = settings.drawnGradients, .boundaryBudget = boundaryBudget}, data.layers,
            [&] { return job.stopRequested(); },
            [&](std::int64_t tokenLayers) {
                done += tokenLayers;
                job.progress(done, work, "token");
            });
        if (!swept.ok()) {
            Error error = swept.error();
            if (state.active()) error.kept = "All layers are kept; --resume runs the reverse sweep again.";
            return error;
        }
    }

    if (!options.out.empty()) {
        std::vector<std::filesystem::path> parts;
        for (const LayerProfile& layer : data.layers)
            for (std::filesystem::path& part : state.parts(layer.layer))
                parts.push_back(std::move(part));
        ESPALIER_CHECK_OK(keptLayers(writeProfile(options.out, data, parts)));
        ESPALIER_CHECK_OK(state.clear());
    }
    return data;
}

}  // namespace espalier
