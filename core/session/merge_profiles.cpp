#include "session/profile_file.h"

#include "base/sha256.h"
#include "statistics/statistic.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace espalier
{

namespace
{

Error cannotMerge(const char* code, const std::string& subject, const std::string& message, const std::string& action)
{
    Error error = badInput(code, subject, message, action);
    error.kept = "Nothing was written.";
    return error;
}

std::string describeShard(const ProfileData& data)
{
    if (data.ranges.empty()) return data.source;
    return fmt::format("{} (windows {} to {})", data.source, data.ranges.front().firstWindow,
                       data.ranges.back().firstWindow + data.ranges.back().windowCount - 1);
}

bool sameForm(const LayerProfile& a, const LayerProfile& b)
{
    const std::vector<StatisticStore>& stores = statisticStores();
    return std::all_of(stores.begin(), stores.end(), [&](const StatisticStore& store) { return store.sameForm(a, b); });
}

std::vector<std::string> summable(const std::vector<std::string>& collected)
{
    std::vector<std::string> result;
    for (const std::string& name : collected)
        if (const StatisticInfo* info = findStatistic(name); !info || info->sums) result.push_back(name);
    return result;
}

bool overlap(const TokenRange& a, const TokenRange& b)
{
    if (a.textSha256 != b.textSha256) return a.sha256 == b.sha256;
    return a.firstWindow < b.firstWindow + b.windowCount && b.firstWindow < a.firstWindow + a.windowCount;
}

}  // namespace

Result<ProfileData> mergeProfiles(const std::vector<ProfileData>& shards)
{
    if (shards.empty())
        return cannotMerge("profile.nothing_to_merge", "profiles", "There are no profiles to merge.", "Name at least one profile.");
    const ProfileData& first = shards.front();
    for (const ProfileData& shard : shards) {
        const std::string name = describeShard(shard);
        if (shard.fingerprint != first.fingerprint || toJson(shard.shape, false) != toJson(first.shape, false))
            return cannotMerge("profile.other_model", name,
                               fmt::format("The profile of {} belongs to another model than the one of {}.", name, describeShard(first)),
                               "Merge profiles of one model only.");
        if (shard.numericMode != first.numericMode)
            return cannotMerge(
                "profile.other_mode", name,
                fmt::format("The profile of {} was computed in {}, the first one in {}.", name, shard.numericMode, first.numericMode),
                "Take all shards with the same --dtype.");
        if (shard.windowLength != first.windowLength)
            return cannotMerge("profile.other_window_length", name,
                               fmt::format("The profile of {} has windows of {} tokens, the first one of {}.", name, shard.windowLength,
                                           first.windowLength),
                               "Take all shards with the same --window-length.");
        bool same = summable(shard.collected) == summable(first.collected) && shard.kept == first.kept &&
                    shard.layers.size() == first.layers.size();
        for (std::size_t i = 0; same && i < shard.layers.size(); ++i)
            same = sameForm(shard.layers[i], first.layers[i]);
        if (!same)
            return cannotMerge("profile.other_statistics", name,
                               fmt::format("The profile of {} holds other statistics than the first one.", name),
                               "Take all shards with the same --collect and list length.");
    }

    // Text after text in the order given, windows ascending within a text: the order of a single pass.
    std::vector<std::string> texts;
    struct Part {
        const ProfileData* shard;
        std::size_t text;
        int firstWindow;
    };
    std::vector<Part> parts;
    std::vector<std::pair<TokenRange, const ProfileData*>> ranges;
    for (const ProfileData& shard : shards) {
        const auto it = std::find(texts.begin(), texts.end(), shard.textSha256);
        const auto text = static_cast<std::size_t>(it - texts.begin());
        if (it == texts.end()) texts.push_back(shard.textSha256);
        parts.push_back({&shard, text, shard.ranges.empty() ? 0 : shard.ranges.front().firstWindow});
        for (const TokenRange& range : shard.ranges) {
            for (const auto& [other, owner] : ranges)
                if (overlap(range, other))
                    return cannotMerge("profile.overlap", describeShard(shard),
                                       fmt::format("{} and {} hold the same windows; adding them up would count those twice.",
                                                   describeShard(*owner), describeShard(shard)),
                                       "Leave one of them out.");
            ranges.emplace_back(range, &shard);
        }
    }
    std::stable_sort(parts.begin(), parts.end(),
                     [](const Part& a, const Part& b) { return std::pair(a.text, a.firstWindow) < std::pair(b.text, b.firstWindow); });

    ProfileData sum = *parts.front().shard;
    sum.collected = summable(sum.collected);
    for (LayerProfile& layer : sum.layers)
        for (const StatisticStore& store : statisticStores())
            if (store.beginSum) store.beginSum(layer);
    // An estimate fitted to the probes of some shards would stand for their windows alone.
    const bool probed = std::all_of(shards.begin(), shards.end(), [](const ProfileData& shard) { return !shard.probes.empty(); });
    if (!probed) sum.probes.clear();
    std::int64_t offset = 0;
    for (std::size_t i = 1; i < parts.size(); ++i) {
        const ProfileData& part = *parts[i].shard;
        if (parts[i].text != parts[i - 1].text)
            for (const LayerProfile& layer : sum.layers)
                if (!layer.gram.tokens.empty()) offset = std::max(offset, layer.gram.tokens.back() + 1);
        for (std::size_t l = 0; l < sum.layers.size(); ++l)
            for (const StatisticStore& store : statisticStores())
                store.add(sum.layers[l], part.layers[l], {.tokens = offset, .windows = sum.windows});
        for (NllProbeSet set : probed ? part.probes : std::vector<NllProbeSet>()) {
            for (std::int32_t& window : set.windows)
                window += sum.windows;
            sum.probes.push_back(std::move(set));
        }
        sum.windows += part.windows;
        sum.tokens += part.tokens;
        sum.ranges.insert(sum.ranges.end(), part.ranges.begin(), part.ranges.end());
        WindowIds& ids = sum.windowIds;
        ids.ids.insert(ids.ids.end(), part.windowIds.ids.begin(), part.windowIds.ids.end());
        ids.lengths.insert(ids.lengths.end(), part.windowIds.lengths.begin(), part.windowIds.lengths.end());
        if (sum.source.find(part.source) == std::string::npos) sum.source += ", " + part.source;
    }
    if (std::any_of(shards.begin(), shards.end(), [](const ProfileData& shard) { return shard.windowIds.empty(); })) sum.windowIds = {};
    // Neighbours of one text stay apart: each has the hash of its own windows.
    if (texts.size() > 1) {
        Sha256 hash;
        for (const std::string& text : texts)
            hash.update(text);
        sum.textSha256 = hash.finish();
    }
    return sum;
}

}  // namespace espalier
