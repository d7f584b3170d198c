#include "profile/profile_settings.h"

#include "profile/gradient_sweep.h"
#include "statistics/statistic.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

namespace espalier
{

namespace
{

// Below this many experts every subset may be wanted (exhaustive search), and the dense store costs little.
constexpr int kDenseExperts = 10;

Error badOption(const std::string& message, const std::string& action)
{
    Error error = usageError(message, action);
    error.code = "profile.bad_option";
    return error;
}

int listLength(const LayerShape& layer, int extra)
{
    const int n = layer.experts;
    const int k = layer.router.topK;
    if (extra >= 0) return std::min(n, k + extra);
    return n <= kDenseExperts ? n : std::min(n, 2 * k + 1);
}

Status checkNumbers(const ProfileOptions& options, const ModelShape& shape)
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
    return {};
}

// The first layer with experts of different widths, whose hidden activations have no common layout.
std::optional<int> narrowLayer(const ModelShape& shape)
{
    for (const LayerShape& layer : shape.layers)
        if (!layer.sourceWidths.empty()) return layer.index;
    return std::nullopt;
}

// What an empty list asks for.
void addDefaults(std::vector<std::string>& wanted, const ProfileOptions& options, const ModelShape& shape, std::int64_t textTokens)
{
    wanted.insert(wanted.end(), {"counts", "ean", "reap", "gram", "similarity"});
    if (outputBytes(shape) <= kOutputBytes) wanted.push_back("outputs");
    if (!options.out.empty() && options.gramTokens != 0 && shape.parameters() <= kGradientParameters &&
        boundaryBytes(shape, textTokens, sizeof(float)) <= kBoundaryBytes)
        wanted.push_back("gradients");
    for (std::string& name : defaultFactors(shape, options))
        wanted.push_back(std::move(name));
}

// The names that are collected, in the order of statistics().
Result<std::vector<std::string>> chosenStatistics(const ProfileOptions& options, const ModelShape& shape, std::int64_t textTokens)
{
    std::vector<std::string> wanted = {"counts"};
    bool defaults = options.collect.empty();
    for (const std::string& item : options.collect) {
        const bool more = item.starts_with('+');
        const std::string name = more ? item.substr(1) : item;
        const StatisticInfo* info = findStatistic(name);
        if (!info) {
            std::vector<std::string_view> known;
            for (const StatisticInfo& statistic : statistics())
                known.push_back(statistic.id);
            return badOption(fmt::format("\"{}\" is not a statistic.", name), fmt::format("Use {}.", fmt::join(known, ", ")));
        }
        if (options.out.empty() && info->file)
            return badOption(fmt::format("\"{}\" are kept in a file, and none was named.", name), "Name an output file.");
        defaults |= more;
        wanted.push_back(name);
    }
    if (defaults) addDefaults(wanted, options, shape, textTokens);
    std::vector<std::string> chosen;
    // Backwards: what is taken along stands before what wants it.
    for (auto info = statistics().rbegin(); info != statistics().rend(); ++info) {
        if (std::find(wanted.begin(), wanted.end(), info->id) == wanted.end()) continue;
        if (info->id == "gram" && options.gramTokens == 0) continue;
        for (const std::string_view with : info->with)
            wanted.emplace_back(with);
        chosen.emplace(chosen.begin(), info->id);
    }
    return chosen;
}

}  // namespace

bool ProfileSettings::wants(std::string_view statistic) const
{
    return std::find(collected.begin(), collected.end(), statistic) != collected.end();
}

Result<ProfileSettings> profileSettings(const ProfileOptions& options, const ModelShape& shape, std::int64_t textTokens)
{
    ESPALIER_CHECK_OK(checkNumbers(options, shape));
    ProfileSettings settings;
    ESPALIER_TRY(settings.collected, chosenStatistics(options, shape, textTokens));
    settings.factors = {.curves = settings.wants("curves"), .bases = settings.wants("factors"), .moments = settings.wants("moments")};
    for (const char* hidden : {"curves", "factors", "moments", "channels"})
        if (const std::optional<int> layer = narrowLayer(shape); layer && settings.wants(hidden))
            return badOption(
                fmt::format("Experts of layer {} have different numbers of channels in this checkpoint: {} are not collected of them.",
                            *layer, hidden),
                "Leave them out of --collect, or profile the original.");
    if (settings.wants("gradients") && !settings.wants("gram"))
        return badOption("Gradients are kept for the tokens of the Gram store, and there is none.", "Collect gram too.");
    std::int64_t tokenBytes = 0;
    for (const LayerShape& layer : shape.layers) {
        const int length = layer.moe ? listLength(layer, options.gramExtra) : 0;
        settings.listLength.push_back(length);
        if (layer.moe) tokenBytes += gramTokenBytes(layer.experts, length, true);
    }
    if (settings.wants("gram")) {
        const std::int64_t most =
            options.gramTokens > 0 ? options.gramTokens : gramBytes(shape, textTokens) / std::max<std::int64_t>(tokenBytes, 1);
        settings.gramTokens = std::min(most, textTokens);
    }
    return settings;
}

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
    if (options.out.empty() || narrowLayer(shape)) return {};
    if (options.shards > 1) return momentBytes(shape) <= kFactorBytes ? std::vector<std::string>{"moments"} : std::vector<std::string>{};
    return factorBytes(shape) <= kFactorBytes ? std::vector<std::string>{"curves", "factors"} : std::vector<std::string>{};
}

}  // namespace espalier
