#include "profile/profile_pass.h"

#include "base/sha256.h"
#include "checkpoint/checkpoint.h"
#include "model/moe_model_torch.h"
#include "profile/factor_builder.h"
#include "profile/gradient_sweep.h"
#include "profile/hidden_states.h"
#include "profile/nll_probes.h"
#include "profile/pass_state.h"
#include "profile/profile_settings.h"
#include "profile/statistics/statistic_collector.h"
#include "profile/window_batches.h"
#include "rpc/protocol_profile.h"
#include "score/scorer.h"
#include "session/layer_factors.h"
#include "session/profile_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace espalier
{

namespace
{

constexpr const char* kPartialMethods[] = {"expert_frequency", "ean_mean", "reap", "leave-one-out"};
// Outputs of all list entries of a batch are held at once; so many bytes they may take.
constexpr std::int64_t kBatchBytes = std::int64_t{256} << 20;
constexpr std::int64_t kMostBatchTokens = 8192;
// Shards are made of whole batches. A text is cut into at least 16 of them, but batches below 1,024 tokens leave too few rows for an expert
// to be fast (S in bf16: a fifth slower at 512): short texts make 4.
constexpr std::size_t kManyBatches = 16;
constexpr std::size_t kFewBatches = 4;
constexpr std::size_t kLeastBatchTokens = 1024;

constexpr std::int64_t kLeastMomentBudget = std::int64_t{256} << 20;

std::size_t windowsPerBatch(std::size_t windows, std::size_t windowLength)
{
    const std::size_t many = (windows + kManyBatches - 1) / kManyBatches;
    const std::size_t fast = (kLeastBatchTokens + windowLength - 1) / windowLength;
    return std::max(many, std::min(fast, windows / kFewBatches));
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

// Runs one pass. The stages stand in the order in which run() calls them; each leaves what the next needs in the members.
class ProfilePass
{
public:
    ProfilePass(MoeModel& model, const TokenWindows& windows, const ProfileOptions& options, JobContext& job)
        : m_model(model), m_shape(model.shape()), m_windows(windows), m_options(options), m_job(job), m_plan(model.identity())
    {
    }

    Result<ProfileData> run()
    {
        ESPALIER_CHECK_OK(refuseExisting(m_options.out, m_options.force));
        ESPALIER_CHECK_OK(decide());
        ESPALIER_CHECK_OK(cutBatches());
        describe();
        ESPALIER_CHECK_OK(takeUp());
        countWork();
        while (m_data.layers.size() < m_end)
            ESPALIER_CHECK_OK(runLayer());
        if (m_probed) ESPALIER_CHECK_OK(takeProbes());
        if (m_settings.wants("gradients")) ESPALIER_CHECK_OK(sweep());
        if (!m_options.out.empty()) ESPALIER_CHECK_OK(write());
        return std::move(m_data);
    }

private:
    // What is collected, on which experts, with how much memory.
    Status decide();
    // This shard's part of the batches of the whole text.
    Status cutBatches();
    // What the numbers will belong to.
    void describe();
    // The state of an interrupted pass, or a new one; the hidden states before the first layer that is to run.
    Status takeUp();
    // What progress counts.
    void countWork();
    Status runLayer();
    Status takeProbes();
    Status sweep();
    Status write();

    struct LayerRun;
    // One run of the layer over all batches. The first one has the collectors, each has a part of the experts' moments.
    Status runBatches(LayerRun& run, std::size_t round);
    Result<std::vector<NllProbeSet>> newProbes(std::int64_t before);
    std::string stateKey() const;
    std::vector<std::vector<int>> rows() const;
    std::vector<std::filesystem::path> parts() const;
    bool wanted(std::size_t layer) const;
    void reportLayer(const LayerProfile& layer);
    void step(std::int64_t tokenLayers, std::int64_t most);
    // What a failure of the disk leaves to go on with.
    Status keptLayers(Status status) const;
    std::string layersKept() const;

    MoeModel& m_model;
    const ModelShape& m_shape;
    const TokenWindows& m_windows;
    const ProfileOptions& m_options;
    JobContext& m_job;

    ProfileSettings m_settings;
    PreparedPlan m_plan;
    std::int64_t m_textTokens = 0;
    std::int64_t m_momentBudget = 0;
    std::int64_t m_boundaryBudget = 0;
    std::vector<WindowBatch> m_batches;
    std::size_t m_firstWindow = 0;
    std::size_t m_end = 0;  // layers that run
    ProfileData m_data;
    std::optional<PassState> m_state;
    std::optional<HiddenStates> m_hidden;
    // The reverse sweep takes the states that the pass goes through, if they are all there and there is room for them: per batch the input
    // of every layer and the output of the last.
    bool m_keepStates = false;
    std::vector<std::vector<at::Tensor>> m_boundaries;
    bool m_probed = false;
    std::int64_t m_probing = 0;  // token-layers of the probes
    std::int64_t m_work = 0;
    std::int64_t m_done = 0;
};

// The first layer in which the plan cuts channels out of experts, or -1.
int firstCut(const CompressionPlan& plan)
{
    for (int l = 0; l < plan.layerCount(); ++l)
        for (const Body& body : plan.layer(l).content().bodies)
            if (const auto* expert = std::get_if<ExpertBody>(&body); expert && !expert->channels.empty()) return l;
    return -1;
}

Status ProfilePass::decide()
{
    for (const auto& row : m_windows.rows)
        m_textTokens += static_cast<std::int64_t>(row.size());
    ESPALIER_TRY(m_settings, profileSettings(m_options, m_shape, m_textTokens));
    if (m_options.plan) {
        ESPALIER_TRY(const CompressionPlan kept, withoutRanks(m_shape, *m_options.plan));
        for (const char* hidden : {"curves", "factors", "moments", "channels"})
            if (const int layer = m_settings.wants(hidden) ? firstCut(kept) : -1; layer >= 0)
                return usageError({"The plan cuts channels out of experts of layer {layer}: {hidden} are not collected under it.",
                                   {{"layer", layer}, {"hidden", hidden}}},
                                  "Leave them out of --collect, or take the channels out of the plan.");
        ESPALIER_TRY(m_plan, m_model.prepare(kept));
    }
    m_momentBudget = m_options.momentBudget > 0
                         ? m_options.momentBudget
                         : std::max(m_model.spareBytes() / 4, std::min(kLeastMomentBudget, m_model.options().memoryBudget / 16));
    m_boundaryBudget = m_options.boundaryBudget > 0 ? m_options.boundaryBudget : m_momentBudget;
    m_end = m_options.layers.empty() ? m_shape.layers.size()
                                     : static_cast<std::size_t>(*std::max_element(m_options.layers.begin(), m_options.layers.end())) + 1;
    return {};
}

Status ProfilePass::cutBatches()
{
    const std::size_t total = m_windows.rows.size();
    const auto shards = static_cast<std::size_t>(m_options.shards);
    if (total < shards)
        return badInput("text.too_short", m_windows.source,
                        {"The text has {total} windows, too few for {shards} shards.", {{"total", total}, {"shards", m_options.shards}}},
                        "Use fewer shards or more text.");
    int longest = 1;
    for (const int length : m_settings.listLength)
        longest = std::max(longest, length);
    BatchRule rule{.gram = m_settings.wants("gram"),
                   .gramTokens = m_settings.gramTokens,
                   .textTokens = m_textTokens,
                   .batchTokens = std::clamp<std::int64_t>(kBatchBytes / (static_cast<std::int64_t>(longest) * m_shape.hiddenSize * 4), 1,
                                                           kMostBatchTokens),
                   .mostWindows = windowsPerBatch(total, static_cast<std::size_t>(std::max(m_windows.windowLength, 1)))};
    m_batches = makeBatches(m_windows, rule);
    // More shards than batches: one window at a time. Sums then agree with those of a single pass to the rounding of the forward pass.
    if (m_batches.size() < shards) {
        rule.mostWindows = 1;
        m_batches = makeBatches(m_windows, rule);
    }
    const auto shard = static_cast<std::size_t>(m_options.shard);
    const auto boundary = [&](std::size_t i) { return static_cast<std::ptrdiff_t>(m_batches.size() * i / shards); };
    m_batches = std::vector<WindowBatch>(m_batches.begin() + boundary(shard), m_batches.begin() + boundary(shard + 1));
    m_firstWindow = m_batches.front().first;
    return {};
}

std::vector<std::vector<int>> ProfilePass::rows() const
{
    const auto first = m_windows.rows.begin() + static_cast<std::ptrdiff_t>(m_firstWindow);
    return {first, first + m_data.windows};
}

void ProfilePass::describe()
{
    m_data.shape = m_shape;
    m_data.fingerprint = m_model.checkpoint().fingerprint();
    m_data.configSha256 = m_model.checkpoint().configSha256();
    m_data.weightsSha256 = m_model.checkpoint().weightsSha256();
    m_data.numericMode = m_model.numericMode();
    m_data.windowLength = m_windows.windowLength;
    m_data.textSha256 = m_windows.textSha256;
    m_data.source = m_windows.source;
    m_data.tokenizerSha256 = m_windows.tokenizerSha256;
    m_data.bos = m_windows.bos;
    m_data.windows = static_cast<int>(m_batches.back().first + m_batches.back().count - m_firstWindow);
    m_data.collected = m_settings.collected;
    if (!m_plan.plan().isIdentity(m_shape))
        for (const LayerShape& layer : m_shape.layers)
            m_data.kept.push_back(layer.moe ? m_plan.plan().layer(layer.index).kept() : std::vector<int>());
    m_data.engineVersion = ESPALIER_VERSION;
    const std::vector<std::vector<int>> mine = rows();
    for (const auto& row : mine) {
        m_data.tokens += static_cast<std::int64_t>(row.size());
        m_data.windowIds.ids.insert(m_data.windowIds.ids.end(), row.begin(), row.end());
        m_data.windowIds.lengths.push_back(static_cast<std::int32_t>(row.size()));
    }
    m_data.ranges = {{.textSha256 = m_windows.textSha256,
                      .firstWindow = static_cast<int>(m_firstWindow),
                      .windowCount = m_data.windows,
                      .tokens = m_data.tokens,
                      .sha256 = hashOfRows(mine)}};
}

std::string ProfilePass::stateKey() const
{
    return sha256Hex(canonicalJson({{"fingerprint", m_data.fingerprint},
                                    {"windows", m_data.ranges.front().sha256},
                                    {"text", m_data.textSha256},
                                    {"first_window", m_firstWindow},
                                    {"mode", m_data.numericMode},
                                    {"threads", m_model.options().threads},
                                    {"collected", m_data.collected},
                                    {"plan", m_plan.plan().hash()},
                                    {"gram_tokens", m_settings.gramTokens},
                                    {"list_length", m_settings.listLength},
                                    {"batch_windows", m_batches.front().count},
                                    {"shard", m_options.shard},
                                    {"shards", m_options.shards},
                                    {"version", m_data.engineVersion}}));
}

Status ProfilePass::takeUp()
{
    m_state.emplace(m_options.out, stateKey());
    if (m_options.resume) {
        ESPALIER_TRY(auto done, m_state->load(m_shape));
        if (done) m_data.layers = std::move(*done);
    }
    const bool fresh = m_data.layers.empty();
    if (fresh) ESPALIER_CHECK_OK(m_state->clear());
    ESPALIER_CHECK_OK(m_state->prepare());
    m_hidden.emplace(m_batches, m_shape.hiddenSize, m_data.numericMode == "bf16" ? at::kBFloat16 : at::kFloat);
    if (m_state->active() && m_data.layers.size() < m_shape.layers.size())
        ESPALIER_CHECK_OK(m_hidden->useFiles(m_state->folder(), static_cast<int>(m_data.layers.size()), !fresh));
    for (std::size_t b = 0; fresh && b < m_batches.size(); ++b) {
        ESPALIER_TRY(const at::Tensor embedded, m_model.embed(idTensor(m_windows, m_batches[b])));
        m_hidden->setInput(b, embedded);
    }
    for (const LayerProfile& layer : m_data.layers)
        reportLayer(layer);
    return {};
}

void ProfilePass::countWork()
{
    const std::int64_t valueBytes = m_data.numericMode == "bf16" ? 2 : 4;
    const bool gradients = m_settings.wants("gradients");
    m_keepStates = gradients && m_data.layers.empty() && boundaryBytes(m_shape, m_data.tokens, valueBytes) <= m_boundaryBudget;
    m_boundaries.resize(m_keepStates ? m_batches.size() : 0);
    // What an already pruned model loses by further pruning says nothing about the whole one.
    m_probed = gradients && !m_options.out.empty() && m_data.kept.empty();
    m_probing = m_probed ? probeWork(m_shape, rows(), m_settings.factors.bases) : 0;
    m_work = m_data.tokens * static_cast<std::int64_t>(m_end) + m_probing;
    if (gradients) m_work += sweepWork(m_data.tokens, static_cast<int>(m_shape.layers.size()), m_settings.wants("curvature"), m_keepStates);
    m_done = m_data.tokens * static_cast<std::int64_t>(m_data.layers.size());
    m_job.progress(m_done, m_work, "token");
}

bool ProfilePass::wanted(std::size_t layer) const
{
    return m_options.layers.empty() ||
           std::find(m_options.layers.begin(), m_options.layers.end(), static_cast<int>(layer)) != m_options.layers.end();
}

std::string ProfilePass::layersKept() const
{
    return fmt::format("{} of {} layers are kept; --resume goes on from there.", m_data.layers.size(), m_shape.layers.size());
}

Status ProfilePass::keptLayers(Status status) const
{
    if (status.ok() || !m_state->active() || m_data.layers.empty()) return status;
    Error error = std::move(status).error();
    error.kept = layersKept();
    return error;
}

void ProfilePass::reportLayer(const LayerProfile& layer)
{
    if (layer.experts == 0) return;
    LayerScored scored{.layer = layer.layer, .scores = {}};
    for (const char* method : kPartialMethods)
        if (auto row = scoreLayer(layer, m_shape.layers[static_cast<std::size_t>(layer.layer)].router, method); row.ok())
            scored.scores[method] = *row;
    m_job.partial(toJson(scored));
}

void ProfilePass::step(std::int64_t tokenLayers, std::int64_t most)
{
    m_done = std::min(m_done + tokenLayers, most);
    m_job.progress(m_done, m_work, "token");
}

// The layer runs once, and once more for every further part of its experts whose moments do not fit the budget beside the others.
struct ProfilePass::LayerRun {
    const LayerShape& shape;
    LayerProfile profile = {};
    std::vector<std::vector<int>> chunks = {};
    std::size_t rounds = 1;
    std::optional<FactorBuilder> builder = {};
    int parts = 0;
};

Status ProfilePass::runLayer()
{
    if (m_job.stopRequested()) {
        Error error = cancelledError();
        if (m_state->active()) error.kept = layersKept();
        return error;
    }
    const std::size_t l = m_data.layers.size();
    LayerRun run{.shape = m_shape.layers[l]};
    run.profile.layer = run.shape.index;
    if (run.shape.moe && wanted(l)) run.profile.experts = run.shape.experts;
    if (run.shape.moe && m_settings.factors.any() && wanted(l)) {
        m_state->dropParts(run.shape.index);
        run.chunks = expertChunks(m_plan.plan().layer(run.shape.index).kept(), momentBytes(run.shape, m_shape.hiddenSize), m_momentBudget);
        run.rounds = std::max<std::size_t>(run.chunks.size(), 1);
    }
    for (std::size_t round = 0; round < run.rounds; ++round)
        ESPALIER_CHECK_OK(runBatches(run, round));
    if (run.builder) {
        ESPALIER_TRY(const std::vector<ExpertParts> built, run.builder->finish());
        ESPALIER_CHECK_OK(keptLayers(m_state->addParts(run.shape.index, run.parts++, built)));
    }
    if (l + 1 < m_shape.layers.size()) ESPALIER_CHECK_OK(keptLayers(m_hidden->advance()));
    ESPALIER_CHECK_OK(keptLayers(m_state->commit(run.profile)));
    m_data.layers.push_back(std::move(run.profile));
    reportLayer(m_data.layers.back());
    return m_options.onLayer ? m_options.onLayer(m_data.layers.back()) : Status();
}

Status ProfilePass::runBatches(LayerRun& run, std::size_t round)
{
    const auto l = static_cast<std::size_t>(run.shape.index);
    std::vector<std::unique_ptr<StatisticCollector>> collectors;
    if (round == 0 && wanted(l))
        collectors = makeCollectors({.model = m_model,
                                     .shape = run.shape,
                                     .hiddenSize = m_shape.hiddenSize,
                                     .listLength = m_settings.listLength[l],
                                     .wants = [&](std::string_view id) { return m_settings.wants(id); }});
    std::optional<MomentCollector> moments;
    if (!run.chunks.empty()) moments.emplace(m_model, run.shape, run.chunks[round]);
    ObserverGroup observers;
    for (const auto& collector : collectors)
        if (run.shape.moe) observers.add(collector.get());
    if (moments) observers.add(&*moments);
    for (std::size_t b = 0; b < m_batches.size(); ++b) {
        for (const auto& collector : collectors)
            collector->beginBatch(m_batches[b]);
        ESPALIER_TRY(const at::Tensor next,
                     m_model.layer(run.shape.index, m_hidden->input(b), m_plan, observers.empty() ? nullptr : &observers));
        for (const auto& collector : collectors) {
            collector->states(m_hidden->input(b), next);
            ESPALIER_CHECK_OK(collector->status());
        }
        if (moments) ESPALIER_CHECK_OK(moments->status());
        if (round + 1 == run.rounds) {
            if (m_keepStates && l == 0) m_boundaries[b].push_back(m_hidden->input(b).clone());
            if (m_keepStates) m_boundaries[b].push_back(next);
            m_hidden->setOutput(b, next);
        }
        if (round == 0) step(std::ssize(m_batches[b].positions), m_work);
    }
    for (const auto& collector : collectors)
        collector->finish(run.profile);
    if (!moments) return {};
    if (!run.builder)
        run.builder.emplace(m_model.checkpoint(), run.shape, m_shape.hiddenSize, m_settings.factors, m_momentBudget, run.profile);
    ESPALIER_TRY(const std::vector<ExpertParts> built, run.builder->add(moments->sums()));
    if (!m_settings.factors.bases && !m_settings.factors.moments) return {};
    return keptLayers(m_state->addParts(run.shape.index, run.parts++, built));
}

std::vector<std::filesystem::path> ProfilePass::parts() const
{
    std::vector<std::filesystem::path> all;
    for (const LayerProfile& layer : m_data.layers)
        for (std::filesystem::path& part : m_state->parts(layer.layer))
            all.push_back(std::move(part));
    return all;
}

// For the layers that are there by now, with the factors that the state keeps.
Result<std::vector<NllProbeSet>> ProfilePass::newProbes(std::int64_t before)
{
    std::vector<std::vector<double>> importance(m_shape.layers.size());
    for (const LayerProfile& layer : m_data.layers) {
        if (layer.experts == 0) continue;
        ESPALIER_TRY(importance[static_cast<std::size_t>(layer.layer)],
                     scoreLayer(layer, m_shape.layers[static_cast<std::size_t>(layer.layer)].router, "leave-one-out"));
    }
    std::shared_ptr<const FactorSource> source;
    if (m_data.has("factors")) {
        ESPALIER_TRY(source, openLayerFactors(parts(), m_data, sha256Hex("probes " + m_state->key())));
    }
    const std::vector<std::vector<int>> mine = rows();
    ESPALIER_TRY(NllProbeSet set, runProbes(m_model, {.rows = mine,
                                                      .importance = importance,
                                                      .source = source,
                                                      .memory = m_momentBudget,
                                                      .stopRequested = [&] { return m_job.stopRequested(); },
                                                      .step = [&](std::int64_t done) { step(done, before + m_probing); }}));
    std::vector<NllProbeSet> sets;
    if (!set.probes.empty()) sets.push_back(std::move(set));
    return sets;
}

Status ProfilePass::takeProbes()
{
    const std::int64_t before = m_done;
    if (std::optional<std::vector<NllProbeSet>> kept = m_state->probes()) {
        m_data.probes = std::move(*kept);
    } else {
        Result<std::vector<NllProbeSet>> taken = newProbes(before);
        if (!taken.ok()) {
            Error error = taken.error();
            error.kept = "All layers are kept; --resume goes on with the probes.";
            return error;
        }
        m_data.probes = std::move(taken).value();
        ESPALIER_CHECK_OK(keptLayers(m_state->keepProbes(m_data.probes)));
    }
    m_done = before + m_probing;
    m_job.progress(m_done, m_work, "token");
    return {};
}

Status ProfilePass::sweep()
{
    std::vector<SweepBatch> batches;
    batches.reserve(m_batches.size());
    for (const WindowBatch& batch : m_batches)
        batches.push_back({.ids = idTensor(m_windows, batch),
                           .sampledRows = batch.sampledRows,
                           .firstWindow = static_cast<int>(batch.first - m_firstWindow),
                           .textWindow = static_cast<std::int64_t>(batch.first)});
    const Status swept = runGradientSweep(
        m_model, m_plan, batches, std::move(m_boundaries), {.drawn = m_settings.wants("curvature"), .boundaryBudget = m_boundaryBudget},
        m_data.layers, [&] { return m_job.stopRequested(); },
        [&](std::int64_t tokenLayers) {
            m_done += tokenLayers;
            m_job.progress(m_done, m_work, "token");
        });
    if (swept.ok()) return {};
    Error error = swept.error();
    if (m_state->active()) error.kept = "All layers are kept; --resume runs the reverse sweep again.";
    return error;
}

Status ProfilePass::write()
{
    ESPALIER_CHECK_OK(keptLayers(writeProfile(m_options.out, m_data, parts())));
    return m_state->clear();
}

}  // namespace

Result<ProfileData> runProfile(MoeModel& model, const TokenWindows& windows, const ProfileOptions& options, JobContext& job)
{
    const c10::InferenceMode guard;
    return ProfilePass(model, windows, options, job).run();
}

}  // namespace espalier
