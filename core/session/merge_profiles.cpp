#include "session/profile_file.h"

#include "base/sha256.h"

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

template <typename T>
void add(std::vector<T>& sum, const std::vector<T>& part)
{
    for (std::size_t i = 0; i < sum.size(); ++i)
        sum[i] += part[i];
}

// `offset` moves the token positions of the part's text behind those of the texts before it; `windows` were in the parts before.
void addLayer(LayerProfile& sum, const LayerProfile& part, std::int64_t offset, int windows)
{
    sum.tokens += part.tokens;
    add(sum.count, part.count);
    add(sum.softMass, part.softMass);
    add(sum.routedMassRaw, part.routedMassRaw);
    add(sum.routedMassRenormalised, part.routedMassRenormalised);
    add(sum.routedMassApplied, part.routedMassApplied);
    add(sum.norm, part.norm);
    add(sum.normSquared, part.normSquared);
    add(sum.weightedNormRaw, part.weightedNormRaw);
    add(sum.weightedNormRenormalised, part.weightedNormRenormalised);
    add(sum.weightedNormApplied, part.weightedNormApplied);
    for (std::size_t i = 0; i < sum.maxActivation.size(); ++i)
        sum.maxActivation[i] = std::max(sum.maxActivation[i], part.maxActivation[i]);
    add(sum.weightSquared, part.weightSquared);
    add(sum.gateGain, part.gateGain);
    add(sum.upGain, part.upGain);
    add(sum.gainTokens, part.gainTokens);
    sum.outputs.add(part.outputs);
    sum.similarity.add(part.similarity);
    sum.outputEnergy += part.outputEnergy;
    sum.routedEnergy += part.routedEnergy;
    for (const std::int64_t token : part.gram.tokens)
        sum.gram.tokens.push_back(token + offset);
    sum.gram.list.insert(sum.gram.list.end(), part.gram.list.begin(), part.gram.list.end());
    sum.gram.products.insert(sum.gram.products.end(), part.gram.products.begin(), part.gram.products.end());
    sum.gram.logits.insert(sum.gram.logits.end(), part.gram.logits.begin(), part.gram.logits.end());
    sum.gram.outputEnergy += part.gram.outputEnergy;
    GradientStore& gradients = sum.gradients;
    gradients.products.insert(gradients.products.end(), part.gradients.products.begin(), part.gradients.products.end());
    gradients.drawnProducts.insert(gradients.drawnProducts.end(), part.gradients.drawnProducts.begin(), part.gradients.drawnProducts.end());
    for (const std::int32_t window : part.gradients.window)
        gradients.window.push_back(window + windows);
    gradients.squared += part.gradients.squared;
    gradients.drawnSquared += part.gradients.drawnSquared;
    gradients.tokens += part.gradients.tokens;
}

bool sameArrays(const LayerProfile& a, const LayerProfile& b)
{
    return a.experts == b.experts && a.softMass.size() == b.softMass.size() && a.norm.size() == b.norm.size() &&
           a.weightedNormRaw.size() == b.weightedNormRaw.size() && a.weightSquared.size() == b.weightSquared.size() &&
           a.outputs.width == b.outputs.width && a.similarity.empty() == b.similarity.empty() && a.gram.listLength == b.gram.listLength &&
           a.gradients.products.empty() == b.gradients.products.empty() &&
           a.gradients.drawnProducts.empty() == b.gradients.drawnProducts.empty();
}

// What adds up. Spectra do not: they are eigenvalues.
std::vector<std::string> summable(const std::vector<std::string>& collected)
{
    std::vector<std::string> result;
    for (const std::string& name : collected)
        if (name != "curves" && name != "factors") result.push_back(name);
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
        if (shard.fingerprint != first.fingerprint || toJson(shard.shape) != toJson(first.shape))
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
            same = sameArrays(shard.layers[i], first.layers[i]);
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
    for (LayerProfile& layer : sum.layers) {
        layer.spectrumLength = 0;
        layer.spectra.clear();
    }
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
            addLayer(sum.layers[l], part.layers[l], offset, sum.windows);
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
