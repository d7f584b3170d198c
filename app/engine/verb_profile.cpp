#include "checkpoint/values_file.h"
#include "gram_store_note.h"
#include "pipeline/checkpoint_weights.h"
#include "pipeline/model_match.h"
#include "pipeline/result_json.h"
#include "profile/profile_pass.h"
#include "score/scorer.h"
#include "session/profile_file.h"
#include "statistics/statistic.h"
#include "terminal.h"
#include "text_options.h"
#include "verb_inputs.h"

#include "base/text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <chrono>

namespace espalier
{

namespace
{

struct ProfileVerbOptions {
    std::filesystem::path model;
    TextOptions text;
    ProfileOptions profile;
    std::string shard;
    std::filesystem::path plan;
    bool allowOther = false;
};

Status parseShard(const std::string& text, ProfileOptions& options)
{
    const std::size_t slash = text.find('/');
    const auto number = [](std::string_view part, int& value) {
        const auto [end, failure] = std::from_chars(part.data(), part.data() + part.size(), value);
        return failure == std::errc() && end == part.data() + part.size();
    };
    int shard = 0;
    int shards = 0;
    if (slash == std::string::npos || !number(std::string_view(text).substr(0, slash), shard) ||
        !number(std::string_view(text).substr(slash + 1), shards) || shard < 1 || shards < 1 || shard > shards)
        return usageError({"\"{text}\" is not a shard.", {{"text", text}}}, "Write --shard i/n with 1 <= i <= n.");
    options.shard = shard - 1;
    options.shards = shards;
    return {};
}

// A shard that an earlier run under mpirun finished, where it is one of these windows.
Result<bool> shardIsFinished(const ProfileOptions& options, const Checkpoint& checkpoint, const TokenWindows& windows)
{
    std::error_code ignored;
    if (!options.resume || !std::filesystem::exists(options.out, ignored)) return false;
    ESPALIER_TRY(const ProfileData found, readProfile(options.out));
    if (found.fingerprint == checkpoint.fingerprint() && found.textSha256 == windows.textSha256 &&
        found.windowLength == windows.windowLength)
        return true;
    return badInput("output.exists", options.out.string(), {"{out} is a shard of another profile.", {{"out", options.out.string()}}},
                    "Remove it, or use --force.");
}

// Every process measures its part of the windows into a file of its own beside the output; then they share the layers of the sum. Where no
// curves were wanted (or none by default, because of their size), the shards hold no moments and the sum has none.
Result<ProfileData> profileTogether(MoeModel& model, const TokenWindows& windows, ProfileOptions options, Invocation& invocation)
{
    ProcessGroup& processes = invocation.processes;
    const std::filesystem::path out = options.out;
    std::vector<std::filesystem::path> parts;
    for (int i = 1; i <= processes.size(); ++i) {
        parts.push_back(out);
        parts.back() += fmt::format(".{}-of-{}", i, processes.size());
    }
    options.out = parts[static_cast<std::size_t>(processes.rank())];
    options.shard = processes.rank();
    options.shards = processes.size();
    // Curves and factors belong to the sum: they are made of its second moments.
    for (std::string& name : options.collect)
        for (const char* sign : {"", "+"})
            for (const char* made : {"curves", "factors"})
                if (name == std::string(sign) + made) name = std::string(sign) + "moments";
    ESPALIER_TRY(const bool finished, shardIsFinished(options, model.checkpoint(), windows));
    if (!finished) {
        ESPALIER_TRY(const ProfileData part, runProfile(model, windows, options, invocation.job));
    }
    ESPALIER_CHECK_OK(processes.meet({}));
    ESPALIER_TRY(const ProfileData own, readProfile(options.out));
    ESPALIER_TRY(const ProfileData sum,
                 mergeProfiles(parts, out, options.force, own.has("moments") ? &model.checkpoint() : nullptr, invocation.job, processes));
    std::error_code ignored;
    std::filesystem::remove(options.out, ignored);
    return sum;
}

std::size_t probeCount(const ProfileData& data)
{
    std::size_t count = 0;
    for (const NllProbeSet& set : data.probes)
        count += set.probes.size();
    return count;
}

Result<Json> profile(ProfileVerbOptions& options, Invocation& invocation)
{
    const bool together = !invocation.processes.alone();
    if (together && !options.shard.empty())
        return usageError("--shard is for processes that know nothing of each other; mpirun shares the windows itself.",
                          "Leave --shard out.");
    if (!options.shard.empty()) ESPALIER_CHECK_OK(parseShard(options.shard, options.profile));
    ESPALIER_CHECK_OK(checkOutput(options.profile.out, options.profile.force));
    ESPALIER_TRY(const auto checkpoint, openCheckpoint(options.model, invocation));
    if (!options.plan.empty()) {
        ESPALIER_TRY(options.profile.plan, readPlan(options.plan, *checkpoint, options.allowOther));
    }
    ESPALIER_TRY(const TokenWindows windows, openText(options.text, *checkpoint, invocation.warnings));
    ESPALIER_TRY(const auto model, createModel(checkpoint, invocation));
    if (options.profile.plan) {
        FactorSources values;
        ESPALIER_CHECK_OK(addValuesFiles(*options.profile.plan, options.plan, values));
        model->setFactorSources(std::move(values));
    }
    const auto started = std::chrono::steady_clock::now();
    ESPALIER_TRY(const ProfileData data, together ? profileTogether(*model, windows, options.profile, invocation)
                                                  : runProfile(*model, windows, options.profile, invocation.job));
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    for (std::string& warning : profileWarnings(data))
        invocation.warnings.push_back(std::move(warning));
    // What was left out for its size alone is said; what was left out on purpose is not.
    const bool whole = options.profile.collect.empty();
    if (whole && options.profile.shards == 1 && !data.has("factors"))
        invocation.warnings.push_back(fmt::format(
            "Rank curves and whitened factors were not collected: their bases would take {}. Ranks can be set with plain factors "
            "(\"svd\"); --collect +factors takes the bases too, --collect +curves the curves alone.",
            formatBytes(factorBytes(checkpoint->shape()))));
    if (whole && options.profile.shards > 1 && !data.has("moments"))
        invocation.warnings.push_back(
            fmt::format("Second moments were not collected: they would take {} per shard. Without them the merged profile has no rank "
                        "curves and no whitened factors; --collect +moments takes them.",
                        formatBytes(momentBytes(checkpoint->shape()))));
    if (whole && data.has("gram") && !data.has("gradients"))
        invocation.warnings.push_back(
            "No reverse sweep was made, for its states would need much room: there will be no instant estimate of a plan's change of NLL. "
            "--collect +gradients makes it, at the cost of about four forward passes.");
    const double uncovered = uncoveredFraction(data);
    invocation.text = fmt::format("{}: {} tokens in {} windows, {}, {:.0f} tokens/s\n", options.profile.out.string(), data.tokens,
                                  data.windows, formatSeconds(seconds), static_cast<double>(data.tokens) / seconds);
    const std::optional<GramStoreNote> gram = gramStoreNote(data);
    if (gram) invocation.text += gram->note + "\n";
    return Json{{"profile", options.profile.out.string()},
                {"tokens", data.tokens},
                {"windows", data.windows},
                {"window_length", data.windowLength},
                {"tokens_per_second", numberJson(static_cast<double>(data.tokens) / seconds)},
                {"layers_done", data.layers.size()},
                {"uncovered_fraction", numberJson(uncovered)},
                {"collected", data.collected},
                {"probes", probeCount(data)},
                {"gram", gram ? toJson(*gram) : Json()},
                {"factor_bytes", factorBytes(checkpoint->shape())},
                {"moment_bytes", momentBytes(checkpoint->shape())},
                {"text_sha256", data.textSha256},
                {"dropped_tokens", windows.droppedTokens}};
}

struct MergeOptions {
    std::filesystem::path out;
    std::vector<std::filesystem::path> inputs;
    std::filesystem::path model;
    bool force = false;
};

Result<Json> merge(const MergeOptions& options, Invocation& invocation)
{
    ESPALIER_CHECK_OK(checkOutput(options.out, options.force));
    std::shared_ptr<const Checkpoint> checkpoint;
    if (!options.model.empty()) {
        ESPALIER_TRY(checkpoint, openCheckpoint(options.model, invocation));
    }
    ESPALIER_TRY(const ProfileData data, mergeProfiles(options.inputs, options.out, options.force, checkpoint.get(), invocation.job));
    if (!checkpoint && data.has("moments"))
        invocation.warnings.push_back(
            fmt::format("Rank curves and factors are not made yet: `merge OUT {} --model MODEL` makes them of the "
                        "second moments that were added up.",
                        options.out.string()));
    else if (!data.has("moments"))
        invocation.warnings.push_back("The shards hold no second moments: the sum has no rank curves and no whitened factors.");
    invocation.text = fmt::format("{}: {} tokens of {} shards\n", options.out.string(), data.tokens, options.inputs.size());
    return Json{{"profile", options.out.string()},
                {"tokens", data.tokens},
                {"windows", data.windows},
                {"shards", options.inputs.size()},
                {"collected", data.collected}};
}

struct ScoreOptions {
    std::filesystem::path profile;
    std::filesystem::path model;
    std::string method = "leave-one-out";
    std::vector<std::string> params;
    bool channels = false;
};

std::string scoresText(const ExpertScores& scores)
{
    std::string text =
        fmt::format("{}, {} ({} is better)\n", scores.title, scores.unit, scores.better == Better::Higher ? "higher" : "lower");
    for (std::size_t layer = 0; layer < scores.values.rows.size(); ++layer) {
        if (scores.values.rows[layer].empty()) continue;
        text += fmt::format("layer {:>3} ", layer);
        for (const double value : scores.values.rows[layer])
            text += fmt::format(" {:>9.4g}", value);
        text += "\n";
    }
    return text;
}

Result<Json> scoreVerb(const ScoreOptions& options, Invocation& invocation)
{
    ESPALIER_TRY(auto params, parseParams(options.params, {}));
    ESPALIER_TRY(const ProfileData data, readProfile(options.profile));
    std::optional<CheckpointWeights> weights;
    if (!options.model.empty()) {
        ESPALIER_TRY(auto checkpoint, openCheckpoint(options.model, invocation));
        if (checkpoint->fingerprint() != data.fingerprint)
            return badInput("profile.other_model", options.profile.string(),
                            {"{profile} belongs to another model than {model}.",
                             {{"profile", options.profile.string()}, {"model", options.model.string()}}},
                            "Name the model the profile was taken of.");
        weights.emplace(std::move(checkpoint));
    }
    ESPALIER_TRY(const ExpertScores scores, score(data, options.method, params[""], weights ? &*weights : nullptr));
    Json result = toJson(scores);
    if (options.channels) {
        ESPALIER_TRY(result["channels"], channelScores(data, options.method, params[""], weights ? &*weights : nullptr));
    }
    invocation.warnings = profileWarnings(data);
    invocation.text = scoresText(scores);
    result["profile"] = options.profile.string();
    result["tokens"] = data.tokens;
    return result;
}

}  // namespace

void addProfile(Verbs& verbs)
{
    auto options = std::make_shared<ProfileVerbOptions>();
    std::vector<std::string_view> names;
    for (const StatisticInfo& statistic : statistics())
        names.push_back(statistic.id);
    CLI::App* verb = verbs.add(
        "profile", "One pass over the calibration text: what every expert does",
        [options](Invocation& invocation) { return profile(*options, invocation); }, Processes::Many);
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    addTextOptions(verb, options->text);
    verb->add_option("--out", options->profile.out, "Profile to write")->required()->type_name("P.h5");
    verb->add_option(
            "--collect", options->profile.collect,
            fmt::format("Statistics, of {}; +NAME adds to the default (the first six, and gradients, curves and factors where they "
                        "are small)",
                        fmt::join(names, ", ")))
        ->delimiter(',')
        ->type_name("NAMES");
    verb->add_option("--plan", options->plan, "Run with the experts that this plan keeps, to measure an already pruned model")
        ->type_name("FILE");
    verb->add_option("--gram-tokens", options->profile.gramTokens,
                     "Tokens whose expert outputs are compared, the Gram store (default: all, as far as the profile stays within four "
                     "times the model; more "
                     "make scores and searches less noisy)")
        ->type_name("N");
    verb->add_option("--gram-extra", options->profile.gramExtra, "Experts beyond the router's choice that are evaluated for them")
        ->type_name("M");
    verb->add_option("--shard", options->shard, "Only part i of n of the windows, for merge")->type_name("I/N");
    verb->add_flag("--resume", options->profile.resume, "Go on with an interrupted profile");
    verb->add_flag("--force", options->profile.force, "Replace an existing output");
    verb->add_flag("--allow-other-model", options->allowOther, "Accept a plan made for another model");

    auto mergeOptions = std::make_shared<MergeOptions>();
    CLI::App* mergeVerb = verbs.add("merge", "Adds up profiles of disjoint shards",
                                    [mergeOptions](Invocation& invocation) { return merge(*mergeOptions, invocation); });
    mergeVerb->add_option("OUT", mergeOptions->out, "Profile to write")->required();
    mergeVerb->add_option("IN", mergeOptions->inputs, "Profiles of the shards")->required()->expected(1, -1);
    mergeVerb
        ->add_option("--model", mergeOptions->model,
                     "Make rank curves and factors of the second moments, with the weights of this model (one input is enough)")
        ->type_name("MODEL");
    mergeVerb->add_flag("--force", mergeOptions->force, "Replace an existing output");

    auto scoreOptions = std::make_shared<ScoreOptions>();
    CLI::App* scoreApp = verbs.add("score", "Importance of every expert, from a profile",
                                   [scoreOptions](Invocation& invocation) { return scoreVerb(*scoreOptions, invocation); });
    scoreApp->add_option("PROFILE", scoreOptions->profile, "Profile file")->required();
    scoreApp->add_option("--model", scoreOptions->model, "Checkpoint folder, for scores that read the weights")->type_name("FOLDER");
    scoreApp->add_option("--method", scoreOptions->method, "Scoring method (see `methods --slot score`)");
    scoreApp->add_flag("--channels", scoreOptions->channels, "In the JSON also the value of every channel of every expert (camera)");
    scoreApp->add_option("--param", scoreOptions->params, "Parameter of the method, key=value")->type_name("K=V");
}

}  // namespace espalier
