#include "base/atomic_file.h"
#include "base/sha256.h"
#include "checkpoint/checkpoint.h"
#include "profile/factor_builder.h"
#include "profile/pass_state.h"
#include "profile/profile_pass.h"
#include "session/profile_file.h"
#include "session/profile_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

namespace espalier
{

namespace
{

constexpr std::int64_t kMergeBudget = std::int64_t{1} << 30;

constexpr const char* kKey = "merge";

// The folder for what is put together before the output is written: bulky parts, and what each layer's profile has become. Seen by all
// processes that share the work; made and removed by the first.
class PartsFolder
{
public:
    PartsFolder(std::filesystem::path out, bool owner) : m_path(std::move(out)), m_owner(owner) { m_path += ".state"; }
    ~PartsFolder()
    {
        std::error_code ignored;
        if (m_owner) std::filesystem::remove_all(m_path, ignored);
    }
    PartsFolder(const PartsFolder&) = delete;
    PartsFolder& operator=(const PartsFolder&) = delete;
    Status create()
    {
        if (!m_owner) return {};
        std::error_code failure;
        std::filesystem::remove_all(m_path, failure);
        return makeFolder(m_path);
    }
    std::filesystem::path part(int layer, int number) const { return m_path / fmt::format("parts-{:04}-{:03}.h5", layer, number); }
    std::filesystem::path layer(int layer) const { return m_path / fmt::format("layer-{:04}.h5", layer); }

private:
    std::filesystem::path m_path;
    bool m_owner;
};

// The shards' moments, in the order of the windows, as the sums of mergeProfiles: any order of the shards gives the same bytes.
class MomentSources
{
public:
    static Result<MomentSources> open(const std::vector<std::filesystem::path>& shards, const std::vector<ProfileData>& read)
    {
        std::vector<std::pair<std::pair<std::string, int>, std::size_t>> order;
        for (std::size_t i = 0; i < shards.size(); ++i) {
            const TokenRange first = read[i].ranges.empty() ? TokenRange() : read[i].ranges.front();
            order.push_back({{first.textSha256, first.firstWindow}, i});
        }
        std::sort(order.begin(), order.end());
        MomentSources sources;
        for (const auto& [key, shard] : order) {
            ESPALIER_TRY(auto source, ProfileParts::open(shards[shard]));
            sources.m_parts.push_back(std::move(source));
            sources.m_paths.push_back(shards[shard]);
        }
        return sources;
    }

    Result<MomentCollector::Sums> sums(const LayerShape& shape, int hiddenSize, const LayerProfile& layer, int expert) const
    {
        MomentCollector::Sums sums;
        sums.tokens = layer.count[static_cast<std::size_t>(expert)];
        for (std::size_t i = 0; i < m_parts.size(); ++i)
            for (const bool hidden : {false, true}) {
                ESPALIER_TRY(const std::vector<double> moment, m_parts[i]->moment(layer.layer, expert, hidden));
                std::vector<double>& target = hidden ? sums.hidden : sums.input;
                if (target.empty()) target.assign(moment.size(), 0.0);
                const auto side = static_cast<std::size_t>(hidden ? shape.expertWidth : hiddenSize);
                if (moment.size() != side * (side + 1) / 2 || target.size() != moment.size())
                    return badInput("profile.invalid", m_paths[i].string(),
                                    {"The second moments of layer {layer} do not fit.", {{"layer", layer.layer}}}, "Take the shard again.");
                for (std::size_t v = 0; v < moment.size(); ++v)
                    target[v] += moment[v];
            }
        return sums;
    }

private:
    std::vector<std::shared_ptr<const ProfileParts>> m_parts;
    std::vector<std::filesystem::path> m_paths;
};

// One layer's moments, and with `checkpoint` its curves and bases, into the folder.
Status mergeLayer(const MomentSources& sources, const ProfileData& sum, LayerProfile layer, const Checkpoint* checkpoint,
                  const PartsFolder& folder, JobContext& job)
{
    const LayerShape& shape = sum.shape.layers[static_cast<std::size_t>(layer.layer)];
    const int hiddenSize = sum.shape.hiddenSize;
    std::vector<int> experts(static_cast<std::size_t>(layer.experts));
    std::iota(experts.begin(), experts.end(), 0);
    if (!sum.kept.empty()) experts = sum.kept[static_cast<std::size_t>(layer.layer)];
    const FactorWishes wishes{.curves = checkpoint != nullptr, .bases = checkpoint != nullptr, .moments = true};
    std::optional<FactorBuilder> builder;
    if (checkpoint) builder.emplace(*checkpoint, shape, hiddenSize, wishes, kMergeBudget, layer);
    int number = 0;
    for (const auto& chunk : expertChunks(experts, momentBytes(shape, hiddenSize), kMergeBudget)) {
        if (job.stopRequested()) return cancelledError();
        std::map<int, MomentCollector::Sums> sums;
        for (const int expert : chunk) {
            ESPALIER_TRY(sums[expert], sources.sums(shape, hiddenSize, layer, expert));
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
        ESPALIER_CHECK_OK(writeLayerParts(folder.part(layer.layer, number++), kKey, layer.layer, built));
    }
    if (builder) {
        ESPALIER_TRY(const std::vector<ExpertParts> rest, builder->finish());
        if (!rest.empty()) ESPALIER_CHECK_OK(writeLayerParts(folder.part(layer.layer, number), kKey, layer.layer, rest));
    }
    return writeProfileState(folder.layer(layer.layer), {.key = kKey, .profile = layer});
}

}  // namespace

Result<ProfileData> mergeProfiles(const std::vector<std::filesystem::path>& shards, const std::filesystem::path& out, bool force,
                                  const Checkpoint* checkpoint, JobContext& job, WorkShare& share)
{
    const c10::InferenceMode guard;
    const bool first = share.first();
    if (first) ESPALIER_CHECK_OK(refuseExisting(out, force));
    std::vector<ProfileData> read;
    for (const std::filesystem::path& path : shards) {
        ESPALIER_TRY(ProfileData part, readProfile(path));
        read.push_back(std::move(part));
    }
    ESPALIER_TRY(ProfileData sum, mergeProfiles(read));
    if (checkpoint && checkpoint->fingerprint() != sum.fingerprint) {
        Error error = badInput("profile.other_model", checkpoint->folder().string(),
                               {"The profiles belong to another model than {checkpoint}.", {{"checkpoint", checkpoint->folder().string()}}},
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
        ESPALIER_CHECK_OK(share.meet(first ? writeProfile(out, sum) : Status()));
        return sum;
    }

    ESPALIER_TRY(const MomentSources sources, MomentSources::open(shards, read));
    read.clear();
    if (checkpoint) sum.collected.insert(sum.collected.end() - 1, {"curves", "factors"});
    std::vector<std::size_t> layers;
    for (std::size_t l = 0; l < sum.layers.size(); ++l)
        if (sum.layers[l].experts > 0) layers.push_back(l);
    PartsFolder folder(out, first);
    ESPALIER_CHECK_OK(share.meet(folder.create()));
    const auto makeMine = [&]() -> Status {
        for (std::size_t i = 0; i < layers.size(); ++i) {
            job.progress(static_cast<std::int64_t>(i), std::ssize(layers), "layer");
            if (!share.owns(i)) continue;
            // Everyone has the products of the outputs, which are the bulk of a layer: they stay out of its file.
            LayerProfile& layer = sum.layers[layers[i]];
            GramStore gram = std::exchange(layer.gram, {});
            GradientStore gradients = std::exchange(layer.gradients, {});
            const Status made = mergeLayer(sources, sum, layer, checkpoint, folder, job);
            layer.gram = std::move(gram);
            layer.gradients = std::move(gradients);
            ESPALIER_CHECK_OK(made);
        }
        return {};
    };
    ESPALIER_CHECK_OK(share.meet(makeMine()));
    job.progress(std::ssize(layers), std::ssize(layers), "layer");
    std::vector<std::filesystem::path> parts;
    for (const std::size_t l : layers) {
        const int index = sum.layers[l].layer;
        ESPALIER_TRY(ProfileState made, readProfileState(folder.layer(index)));
        made.profile.gram = std::move(sum.layers[l].gram);
        made.profile.gradients = std::move(sum.layers[l].gradients);
        sum.layers[l] = std::move(made.profile);
        for (int number = 0; std::filesystem::exists(folder.part(index, number)); ++number)
            parts.push_back(folder.part(index, number));
    }
    ESPALIER_CHECK_OK(share.meet(first ? writeProfile(out, sum, parts) : Status()));
    return sum;
}

Result<ProfileData> mergeProfiles(const std::vector<std::filesystem::path>& shards, const std::filesystem::path& out, bool force)
{
    SilentJob job;
    return mergeProfiles(shards, out, force, nullptr, job);
}

}  // namespace espalier
