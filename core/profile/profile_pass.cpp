#include "profile/profile_pass.h"

#include "base/random.h"
#include "base/sha256.h"
#include "checkpoint/checkpoint.h"
#include "model/moe_model_torch.h"
#include "profile/factor_builder.h"
#include "profile/gradient_sweep.h"
#include "profile/profile_collector.h"
#include "score/scorer.h"
#include "session/profile_file.h"
#include "session/profile_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>

namespace espalier
{

namespace
{

constexpr const char* kStatistics[] = {"counts", "ean", "reap", "gram", "gradients", "curvature", "curves", "factors", "moments"};
constexpr const char* kPartialMethods[] = {"expert_frequency", "ean_mean", "reap", "leave-one-out"};
// Outputs of all list entries of a batch are held at once; so many bytes they may take.
constexpr std::int64_t kBatchBytes = std::int64_t{256} << 20;
constexpr std::int64_t kMostBatchTokens = 8192;
// A text is cut into at least so many batches (if it has the windows): shards are made of whole ones.
constexpr std::size_t kFewestBatches = 16;
// Below this many experts every subset may be wanted (exhaustive search), and the dense store costs little.
constexpr int kDenseExperts = 10;

Error badOption(const std::string& message, const std::string& action)
{
    Error error = usageError(message, action);
    error.code = "profile.bad_option";
    return error;
}

struct WindowBatch {
    std::size_t first = 0;  // index into the run's windows
    std::size_t count = 0;
    int length = 0;
    std::vector<std::int64_t> positions;    // [count * length] in the text
    std::vector<std::int64_t> sampledRows;  // ascending
};

struct Settings {
    bool norms = false;
    bool weighted = false;
    bool gram = false;
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
                             "Use counts, ean, reap, gram, gradients, curvature, curves, factors, moments.");
        if (options.out.empty() && (name == "factors" || name == "moments"))
            return badOption(fmt::format("\"{}\" are kept in a file, and none was named.", name), "Name an output file.");
        defaults |= more;
        wanted.push_back(name);
    }
    if (defaults) {
        wanted.insert(wanted.end(), {"counts", "ean", "reap", "gram"});
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
    settings.drawnGradients = wants("curvature");
    settings.gradients = wants("gradients") || settings.drawnGradients;
    if (settings.gradients && !settings.gram)
        return badOption("Gradients are kept for the tokens of the Gram store, and there is none.", "Collect gram too.");

    std::int64_t bytesPerToken = 0;
    for (const LayerShape& layer : shape.layers) {
        const std::int64_t length = layer.moe ? listLength(layer, options.gramExtra) : 0;
        settings.listLength.push_back(static_cast<int>(length));
        if (layer.moe) bytesPerToken += length * (length + 1) / 2 * 8 + length * 2 + layer.experts * 4 + 8;
    }
    if (settings.gram) {
        const std::int64_t most = options.gramTokens > 0 ? options.gramTokens : kGramBytes / std::max<std::int64_t>(bytesPerToken, 1);
        settings.gramTokens = std::min(most, textTokens);
    }
    settings.collected = {"counts"};
    if (settings.norms) settings.collected.push_back("ean");
    if (settings.weighted) settings.collected.push_back("reap");
    if (settings.gram) settings.collected.push_back("gram");
    if (settings.gradients) settings.collected.push_back("gradients");
    if (settings.drawnGradients) settings.collected.push_back("curvature");
    if (settings.factors.curves) settings.collected.push_back("curves");
    if (settings.factors.bases) settings.collected.push_back("factors");
    if (settings.factors.moments) settings.collected.push_back("moments");
    return settings;
}

// Positions of one window that enter the Gram store. Depends on the window's index in the text alone, so that shards and a single
// pass sample the same tokens.
std::vector<std::int64_t> samplePositions(int window, int windows, int length, std::int64_t gramTokens, bool all)
{
    std::vector<std::int64_t> positions(static_cast<std::size_t>(length));
    std::iota(positions.begin(), positions.end(), 0);
    if (all) return positions;
    const std::int64_t share = (window + 1) * gramTokens / windows - window * gramTokens / windows;
    const auto count = static_cast<std::size_t>(std::min<std::int64_t>(share, length));
    Random random = Random::forPurpose(0, "gram-sample", static_cast<std::uint64_t>(window));
    for (std::size_t i = 0; i < count; ++i)
        std::swap(positions[i], positions[i + random.below(positions.size() - i)]);
    positions.resize(count);
    std::sort(positions.begin(), positions.end());
    return positions;
}

// Batches of the whole text. They depend on the text and the model alone: shards are made of whole batches, so that every window is
// computed in the same company, and with the same bits, as in a single pass.
std::vector<WindowBatch> makeBatches(const TokenWindows& windows, const Settings& settings, std::int64_t textTokens,
                                     std::int64_t batchTokens, std::size_t mostWindows)
{
    const bool all = settings.gramTokens >= textTokens;
    std::int64_t position = 0;
    std::vector<WindowBatch> batches;
    for (std::size_t w = 0; w < windows.rows.size(); ++w) {
        const auto length = static_cast<int>(windows.rows[w].size());
        if (batches.empty() || batches.back().length != length || batches.back().count >= mostWindows ||
            static_cast<std::int64_t>(batches.back().count + 1) * length > batchTokens)
            batches.push_back({.first = w, .count = 0, .length = length, .positions = {}, .sampledRows = {}});
        WindowBatch& batch = batches.back();
        const auto row = static_cast<std::int64_t>(batch.count) * length;
        for (int i = 0; i < length; ++i)
            batch.positions.push_back(position + i);
        if (settings.gram)
            for (const std::int64_t i :
                 samplePositions(static_cast<int>(w), static_cast<int>(windows.rows.size()), length, settings.gramTokens, all))
                batch.sampledRows.push_back(row + i);
        ++batch.count;
        position += length;
    }
    return batches;
}

at::Tensor idTensor(const TokenWindows& windows, const WindowBatch& batch)
{
    at::Tensor ids = at::empty({static_cast<std::int64_t>(batch.count), batch.length}, at::kLong);
    auto* to = ids.data_ptr<std::int64_t>();
    for (std::size_t w = batch.first; w < batch.first + batch.count; ++w)
        to = std::copy(windows.rows[w].begin(), windows.rows[w].end(), to);
    return ids;
}

// The state of an unfinished pass on disk: one file per finished layer, and the hidden states behind the last of them, which are
// written last and so decide how far the pass has come.
class StateFolder
{
public:
    StateFolder(const std::filesystem::path& out, std::string key) : m_key(std::move(key))
    {
        if (out.empty()) return;
        m_folder = out;
        m_folder += ".state";
    }
    bool active() const { return !m_folder.empty(); }

    Status clear()
    {
        if (!active()) return {};
        std::error_code failure;
        std::filesystem::remove_all(m_folder, failure);
        return {};
    }

    Status prepare()
    {
        if (!active()) return {};
        std::error_code failure;
        std::filesystem::create_directories(m_folder, failure);
        if (failure)
            return resourceError("output.unwritable", m_folder.string(),
                                 fmt::format("{} cannot be created: {}.", m_folder.string(), failure.message()),
                                 "Check the folder and its permissions.");
        return {};
    }

    Status commit(const LayerProfile& profile, const std::vector<at::Tensor>& hidden, bool last)
    {
        if (!active()) return {};
        if (profile.experts > 0)
            ESPALIER_CHECK_OK(
                writeProfileState(layerFile(profile.layer), {.key = m_key, .profile = profile, .hiddenType = "", .hidden = {}}));
        ProfileState state{.key = m_key, .profile = {}, .hiddenType = "", .hidden = {}};
        state.profile.layer = profile.layer;
        if (!last) {
            state.hiddenType = hidden.front().scalar_type() == at::kBFloat16 ? "BF16" : "F32";
            for (const at::Tensor& part : hidden) {
                const at::Tensor rows = part.contiguous();
                const auto* bytes = static_cast<const std::byte*>(rows.const_data_ptr());
                state.hidden.insert(state.hidden.end(), bytes, bytes + rows.nbytes());
            }
        }
        return writeProfileState(hiddenFile(), state);
    }

    // Bulky parts of a layer, before it is committed.
    Status addParts(int layer, int number, const std::vector<ExpertParts>& experts)
    {
        if (experts.empty() || !active()) return {};
        return writeLayerParts(partsFile(layer, number), m_key, layer, experts);
    }
    // What an interrupted run left of a layer that was not committed.
    void dropParts(int layer)
    {
        std::error_code ignored;
        for (const std::filesystem::path& part : parts(layer))
            std::filesystem::remove(part, ignored);
    }
    std::vector<std::filesystem::path> parts(int layer) const
    {
        std::vector<std::filesystem::path> files;
        std::error_code ignored;
        for (int number = 0; active() && std::filesystem::exists(partsFile(layer, number), ignored); ++number)
            files.push_back(partsFile(layer, number));
        return files;
    }

    // Layers done, in order, and the hidden states; nothing when there is no state. Error: profile.other_run.
    Result<std::optional<std::vector<LayerProfile>>> load(const ModelShape& shape, const std::vector<WindowBatch>& batches,
                                                          at::ScalarType type, std::vector<at::Tensor>& hidden)
    {
        std::optional<std::vector<LayerProfile>> none;
        if (!active() || !std::filesystem::exists(hiddenFile())) return none;
        ESPALIER_TRY(const ProfileState state, readProfileState(hiddenFile()));
        if (state.key != m_key) return otherRun();
        std::vector<LayerProfile> layers;
        const int done = state.profile.layer;
        if (done < 0 || done >= static_cast<int>(shape.layers.size())) return otherRun();
        for (int l = 0; l <= done; ++l) {
            LayerProfile profile;
            profile.layer = l;
            if (shape.layers[static_cast<std::size_t>(l)].moe) {
                for (const std::filesystem::path& part : parts(l)) {
                    ESPALIER_TRY(const std::string key, readLayerPartsKey(part));
                    if (key != m_key) return otherRun();
                }
                ESPALIER_TRY(ProfileState layer, readProfileState(layerFile(l)));
                if (layer.key != m_key || layer.profile.layer != l) return otherRun();
                profile = std::move(layer.profile);
            }
            layers.push_back(std::move(profile));
        }
        if (done + 1 == static_cast<int>(shape.layers.size())) return std::optional(std::move(layers));
        std::size_t offset = 0;
        for (const WindowBatch& batch : batches) {
            at::Tensor part = at::empty({static_cast<std::int64_t>(batch.count), batch.length, shape.hiddenSize}, type);
            if (offset + part.nbytes() > state.hidden.size()) return otherRun();
            std::memcpy(part.mutable_data_ptr(), state.hidden.data() + offset, part.nbytes());
            offset += part.nbytes();
            hidden.push_back(std::move(part));
        }
        if (offset != state.hidden.size()) return otherRun();
        return std::optional(std::move(layers));
    }

private:
    Error otherRun() const
    {
        Error error = badInput("profile.other_run", m_folder.string(),
                               fmt::format("{} belongs to a pass over other windows, another model or other options.", m_folder.string()),
                               "Start without --resume, or give the same options as before.");
        error.kept = "The interrupted pass is unchanged.";
        return error;
    }
    std::filesystem::path layerFile(int layer) const { return m_folder / fmt::format("layer-{:04}.h5", layer); }
    std::filesystem::path partsFile(int layer, int number) const { return m_folder / fmt::format("parts-{:04}-{:03}.h5", layer, number); }
    std::filesystem::path hiddenFile() const { return m_folder / "hidden.h5"; }

    std::filesystem::path m_folder;
    std::string m_key;
};

void reportLayer(const LayerProfile& layer, const ModelShape& shape, JobContext& job)
{
    if (layer.experts == 0) return;
    Json scores = Json::object();
    for (const char* method : kPartialMethods)
        if (auto row = scoreLayer(layer, shape.layers[static_cast<std::size_t>(layer.layer)].router, method); row.ok())
            scores[method] = *row;
    job.partial({{"layer", layer.layer}, {"scores", scores}});
}

Status refuseExisting(const std::filesystem::path& out, bool force)
{
    std::error_code failure;
    if (out.empty() || force || !std::filesystem::exists(out, failure)) return {};
    Error error = usageError(fmt::format("{} exists already.", out.string()), "Use --force to replace it, or another name.");
    error.code = "output.exists";
    error.subject = out.string();
    error.kept = "It was not touched.";
    return error;
}

// The plan as far as it decides which experts exist.
Result<CompressionPlan> withoutRanks(const ModelShape& shape, CompressionPlan plan)
{
    for (const LayerShape& layer : shape.layers)
        if (layer.moe && layer.index < plan.layerCount() && !plan.layer(layer.index).ranks.empty()) {
            ESPALIER_TRY(plan, plan.withRanks(shape, layer.index, {}));
        }
    return plan;
}

// Experts whose moments are summed at a time.
std::vector<std::vector<int>> expertChunks(const std::vector<int>& experts, std::int64_t bytesPerExpert, std::int64_t budget)
{
    const auto size = static_cast<std::size_t>(std::clamp<std::int64_t>(
        budget / std::max<std::int64_t>(bytesPerExpert, 1), 1, std::max<std::int64_t>(static_cast<std::int64_t>(experts.size()), 1)));
    std::vector<std::vector<int>> chunks;
    for (std::size_t first = 0; first < experts.size(); first += size)
        chunks.emplace_back(experts.begin() + static_cast<std::ptrdiff_t>(first),
                            experts.begin() + static_cast<std::ptrdiff_t>(std::min(first + size, experts.size())));
    return chunks;
}

constexpr std::int64_t kLeastMomentBudget = std::int64_t{256} << 20;
constexpr std::int64_t kMergeBudget = std::int64_t{1} << 30;

}  // namespace

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
        options.momentBudget > 0 ? options.momentBudget : std::max(model.spareBytes() / 4, kLeastMomentBudget);

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
    std::vector<WindowBatch> batches =
        makeBatches(windows, settings, textTokens, batchTokens, (total + kFewestBatches - 1) / kFewestBatches);
    // More shards than batches: one window at a time. Sums then agree with those of a single pass to the rounding of the forward pass.
    if (batches.size() < shards) batches = makeBatches(windows, settings, textTokens, batchTokens, 1);
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
            data.kept.push_back(layer.moe ? plan.plan().layer(layer.index).kept : std::vector<int>());
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

    StateFolder state(options.out, sha256Hex(canonicalJson({{"fingerprint", data.fingerprint},
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
    std::vector<at::Tensor> hidden;
    if (options.resume) {
        const at::ScalarType type = data.numericMode == "bf16" ? at::kBFloat16 : at::kFloat;
        ESPALIER_TRY(auto done, state.load(shape, batches, type, hidden));
        if (done) data.layers = std::move(*done);
    }
    if (data.layers.empty()) {
        hidden.clear();
        ESPALIER_CHECK_OK(state.clear());
        for (const WindowBatch& batch : batches) {
            ESPALIER_TRY(at::Tensor embedded, model.embed(idTensor(windows, batch)));
            hidden.push_back(std::move(embedded));
        }
    }
    ESPALIER_CHECK_OK(state.prepare());
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
    const std::int64_t work = data.tokens * static_cast<std::int64_t>(end) +
                              (settings.gradients ? sweepWork(data.tokens, layerCount, settings.drawnGradients, keepStates) : 0);
    std::int64_t done = data.tokens * static_cast<std::int64_t>(data.layers.size());
    job.progress(done, work, "token");
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
            chunks = expertChunks(plan.plan().layer(layer.index).kept, momentBytes(layer, shape.hiddenSize), momentBudget);
        }
        // The layer runs once, and once more for every further part of its experts whose moments do not fit the budget beside the others.
        const std::size_t rounds = std::max<std::size_t>(chunks.size(), 1);
        std::optional<FactorBuilder> builder;
        int parts = 0;
        for (std::size_t round = 0; round < rounds; ++round) {
            std::optional<MomentCollector> moments;
            if (!chunks.empty()) moments.emplace(model, layer, chunks[round]);
            std::optional<ProfileCollector> collector;
            if (layer.moe && round == 0 && wanted(l))
                collector.emplace(model, layer,
                                  CollectorSettings{.norms = settings.norms,
                                                    .weighted = settings.weighted,
                                                    .gram = settings.gram,
                                                    .listLength = settings.listLength[l],
                                                    .also = moments ? &*moments : nullptr});
            LayerObserver* observer = collector ? static_cast<LayerObserver*>(&*collector) : moments ? &*moments : nullptr;
            for (std::size_t b = 0; b < batches.size(); ++b) {
                if (collector) collector->beginBatch(batches[b].positions, batches[b].sampledRows);
                ESPALIER_TRY(at::Tensor next, model.layer(static_cast<int>(l), hidden[b], plan, observer));
                if (collector) ESPALIER_CHECK_OK(collector->status());
                if (moments) ESPALIER_CHECK_OK(moments->status());
                if (round + 1 == rounds) {
                    if (keepStates) states[b].push_back(hidden[b]);
                    hidden[b] = std::move(next);
                }
                if (round == 0) {
                    done += static_cast<std::int64_t>(batches[b].positions.size());
                    job.progress(done, work, "token");
                }
            }
            if (collector) profile = collector->takeResult();
            if (!moments) continue;
            if (!builder) builder.emplace(model.checkpoint(), layer, shape.hiddenSize, settings.factors, momentBudget, profile);
            ESPALIER_TRY(const std::vector<ExpertParts> built, builder->add(moments->sums()));
            if (settings.factors.bases || settings.factors.moments) ESPALIER_CHECK_OK(state.addParts(layer.index, parts++, built));
        }
        if (builder) {
            ESPALIER_TRY(const std::vector<ExpertParts> built, builder->finish());
            ESPALIER_CHECK_OK(state.addParts(layer.index, parts++, built));
        }
        ESPALIER_CHECK_OK(state.commit(profile, hidden, l + 1 == shape.layers.size()));
        data.layers.push_back(std::move(profile));
        reportLayer(data.layers.back(), shape, job);
        if (options.onLayer) ESPALIER_CHECK_OK(options.onLayer(data.layers.back()));
    }

    if (settings.gradients) {
        for (std::size_t b = 0; b < states.size(); ++b)
            states[b].push_back(std::move(hidden[b]));
        hidden.clear();
        std::vector<SweepBatch> sweep;
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
        ESPALIER_CHECK_OK(writeProfile(options.out, data, parts));
        ESPALIER_CHECK_OK(state.clear());
    }
    return data;
}

namespace
{

// A folder for what is put together before the output is written.
class PartsFolder
{
public:
    explicit PartsFolder(std::filesystem::path out) : m_path(std::move(out)) { m_path += ".state"; }
    ~PartsFolder()
    {
        std::error_code ignored;
        std::filesystem::remove_all(m_path, ignored);
    }
    PartsFolder(const PartsFolder&) = delete;
    PartsFolder& operator=(const PartsFolder&) = delete;
    Status create()
    {
        std::error_code failure;
        std::filesystem::remove_all(m_path, failure);
        std::filesystem::create_directories(m_path, failure);
        if (failure)
            return resourceError("output.unwritable", m_path.string(),
                                 fmt::format("{} cannot be created: {}.", m_path.string(), failure.message()),
                                 "Check the folder and its permissions.");
        return {};
    }
    std::filesystem::path next() { return m_path / fmt::format("parts-{:06}.h5", m_count++); }

private:
    std::filesystem::path m_path;
    int m_count = 0;
};

}  // namespace

Result<ProfileData> mergeProfiles(const std::vector<std::filesystem::path>& shards, const std::filesystem::path& out, bool force,
                                  const Checkpoint* checkpoint, JobContext& job)
{
    const c10::InferenceMode guard;
    ESPALIER_CHECK_OK(refuseExisting(out, force));
    std::vector<ProfileData> read;
    for (const std::filesystem::path& path : shards) {
        ESPALIER_TRY(ProfileData part, readProfile(path));
        read.push_back(std::move(part));
    }
    ESPALIER_TRY(ProfileData sum, mergeProfiles(read));
    read.clear();
    if (checkpoint && checkpoint->fingerprint() != sum.fingerprint) {
        Error error = badInput("profile.other_model", checkpoint->folder().string(),
                               fmt::format("The profiles belong to another model than {}.", checkpoint->folder().string()),
                               "Name the model the profiles were taken of.");
        error.kept = "Nothing was written.";
        return error;
    }
    if (!sum.has("moments")) {
        if (checkpoint) {
            Error error = badInput("profile.missing_statistics", shards.front().string(),
                                   "Curves and factors of merged profiles are made of second moments, which these profiles do not hold.",
                                   "Take the shards with --collect +moments.");
            error.kept = "Nothing was written.";
            return error;
        }
        ESPALIER_CHECK_OK(writeProfile(out, sum));
        return sum;
    }

    std::vector<std::shared_ptr<const ProfileParts>> sources;
    for (const std::filesystem::path& path : shards) {
        ESPALIER_TRY(auto source, ProfileParts::open(path));
        sources.push_back(std::move(source));
    }
    // The order of the windows, as the sums of mergeProfiles: any order of the shards gives the same bytes.
    std::vector<std::pair<std::pair<std::string, int>, std::size_t>> order;
    for (std::size_t i = 0; i < shards.size(); ++i) {
        ESPALIER_TRY(const ProfileData part, readProfile(shards[i]));
        const TokenRange first = part.ranges.empty() ? TokenRange() : part.ranges.front();
        order.push_back({{first.textSha256, first.firstWindow}, i});
    }
    std::sort(order.begin(), order.end());
    const FactorWishes wishes{.curves = checkpoint != nullptr, .bases = checkpoint != nullptr, .moments = true};
    if (checkpoint) {
        sum.collected.insert(sum.collected.end() - 1, {"curves", "factors"});
    }
    PartsFolder folder(out);
    ESPALIER_CHECK_OK(folder.create());
    std::vector<std::filesystem::path> parts;
    std::int64_t done = 0;
    const auto work = static_cast<std::int64_t>(sum.layers.size());
    for (LayerProfile& layer : sum.layers) {
        job.progress(done++, work, "layer");
        if (layer.experts == 0) continue;
        const LayerShape& shape = sum.shape.layers[static_cast<std::size_t>(layer.layer)];
        std::vector<int> experts(static_cast<std::size_t>(layer.experts));
        std::iota(experts.begin(), experts.end(), 0);
        if (!sum.kept.empty()) experts = sum.kept[static_cast<std::size_t>(layer.layer)];
        std::optional<FactorBuilder> builder;
        if (checkpoint) builder.emplace(*checkpoint, shape, sum.shape.hiddenSize, wishes, kMergeBudget, layer);
        for (const auto& chunk : expertChunks(experts, momentBytes(shape, sum.shape.hiddenSize), kMergeBudget)) {
            if (job.stopRequested()) return cancelledError();
            std::map<int, MomentCollector::Sums> sums;
            for (const int expert : chunk) {
                MomentCollector::Sums& mine = sums[expert];
                mine.tokens = layer.count[static_cast<std::size_t>(expert)];
                for (const auto& [key, shard] : order)
                    for (const bool hidden : {false, true}) {
                        ESPALIER_TRY(const std::vector<double> moment, sources[shard]->moment(layer.layer, expert, hidden));
                        std::vector<double>& target = hidden ? mine.hidden : mine.input;
                        if (target.empty()) target.assign(moment.size(), 0.0);
                        const auto side = static_cast<std::size_t>(hidden ? shape.expertWidth : sum.shape.hiddenSize);
                        if (moment.size() != side * (side + 1) / 2 || target.size() != moment.size())
                            return badInput("profile.invalid", shards[shard].string(),
                                            fmt::format("The second moments of layer {} do not fit.", layer.layer),
                                            "Take the shard again.");
                        for (std::size_t i = 0; i < moment.size(); ++i)
                            target[i] += moment[i];
                    }
            }
            std::vector<ExpertParts> built;
            if (builder) {
                ESPALIER_TRY(built, builder->add(sums));
            } else {
                for (auto& [expert, mine] : sums)
                    built.push_back({.expert = expert,
                                     .own = {},
                                     .thin = {},
                                     .inputMoment = std::move(mine.input),
                                     .hiddenMoment = std::move(mine.hidden)});
            }
            parts.push_back(folder.next());
            ESPALIER_CHECK_OK(writeLayerParts(parts.back(), "merge", layer.layer, built));
        }
        if (!builder) continue;
        ESPALIER_TRY(const std::vector<ExpertParts> rest, builder->finish());
        if (rest.empty()) continue;
        parts.push_back(folder.next());
        ESPALIER_CHECK_OK(writeLayerParts(parts.back(), "merge", layer.layer, rest));
    }
    job.progress(work, work, "layer");
    ESPALIER_CHECK_OK(writeProfile(out, sum, parts));
    return sum;
}

Result<ProfileData> mergeProfiles(const std::vector<std::filesystem::path>& shards, const std::filesystem::path& out, bool force)
{
    SilentJob job;
    return mergeProfiles(shards, out, force, nullptr, job);
}

}  // namespace espalier
