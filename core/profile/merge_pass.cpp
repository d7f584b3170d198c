#include "base/sha256.h"
#include "checkpoint/checkpoint.h"
#include "profile/factor_builder.h"
#include "profile/pass_state.h"
#include "profile/profile_pass.h"
#include "session/profile_file.h"
#include "session/profile_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace espalier
{

namespace
{

constexpr std::int64_t kMergeBudget = std::int64_t{1} << 30;

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
