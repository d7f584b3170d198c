#include "base/text.h"
#include "factor_profiles.h"
#include "generate/generator.h"
#include "generate/speed.h"
#include "pipeline/model_match.h"
#include "pipeline/result_json.h"
#include "terminal.h"
#include "text_options.h"
#include "tokenizer/text_windows.h"
#include "verb_inputs.h"

#include <fmt/format.h>

namespace espalier
{

namespace
{

struct SpeedVerbOptions {
    std::filesystem::path model;
    std::filesystem::path plan;
    std::vector<std::filesystem::path> profiles;
    std::string ids;
    int prefill = 512;
    int decode = 32;
    int rounds = 5;
    bool allowOther = false;
};

Json sideJson(const SpeedOf& side)
{
    return {{"prefill_tokens_per_second", numberJson(side.prefill.median)},
            {"prefill_low", numberJson(side.prefill.low)},
            {"prefill_high", numberJson(side.prefill.high)},
            {"decode_tokens_per_second", numberJson(side.decode.median)},
            {"decode_low", numberJson(side.decode.low)},
            {"decode_high", numberJson(side.decode.high)},
            {"bytes_read_per_token", side.bytesReadPerToken},
            {"file_bytes_read_per_token", side.fileBytesReadPerToken},
            {"peak_rss_bytes", side.peakRssBytes},
            {"weight_bytes", side.weightBytes},
            {"flops_per_token", side.flopsPerToken},
            {"active_parameters", side.activeParameters},
            {"active_at_most", side.atMost}};
}

std::string rate(const Spread& spread) { return fmt::format("{:.1f} ({:.1f} to {:.1f})", spread.median, spread.low, spread.high); }
std::string times(const Spread& spread) { return fmt::format("{:.2f}x ({:.2f} to {:.2f})", spread.median, spread.low, spread.high); }

std::string tableOf(const SpeedResult& result)
{
    Table table(result.plan ? std::vector<std::string>{"", "dense", "plan", "plan / dense"} : std::vector<std::string>{"", "dense"});
    const auto row = [&](const std::string& name, const std::string& dense, const std::string& plan, const std::string& ratio) {
        table.row(result.plan ? std::vector<std::string>{name, dense, plan, ratio} : std::vector<std::string>{name, dense});
    };
    const SpeedOf& dense = result.dense;
    const SpeedOf plan = result.plan.value_or(SpeedOf());
    const SpeedRatios ratio = result.ratio.value_or(SpeedRatios());
    const auto share = [](std::int64_t part, std::int64_t whole) {
        return whole > 0 ? fmt::format("{:.2f}x", static_cast<double>(part) / static_cast<double>(whole)) : std::string();
    };
    row("prefill, tokens/s", rate(dense.prefill), rate(plan.prefill), times(ratio.prefill));
    row("decode, tokens/s", rate(dense.decode), rate(plan.decode), times(ratio.decode));
    const std::string most = dense.atMost || plan.atMost ? ", at most" : "";
    row("MFLOP per token" + most, fmt::format("{:.2f}", static_cast<double>(dense.flopsPerToken) * 1e-6),
        fmt::format("{:.2f}", static_cast<double>(plan.flopsPerToken) * 1e-6), share(plan.flopsPerToken, dense.flopsPerToken));
    row("active parameters" + most, formatCount(dense.activeParameters), formatCount(plan.activeParameters),
        share(plan.activeParameters, dense.activeParameters));
    row("weights read per token", formatBytes(dense.bytesReadPerToken), formatBytes(plan.bytesReadPerToken),
        share(plan.bytesReadPerToken, dense.bytesReadPerToken));
    row("of them from files", formatBytes(dense.fileBytesReadPerToken), formatBytes(plan.fileBytesReadPerToken), "");
    row("all weights, exported", formatBytes(dense.weightBytes), formatBytes(plan.weightBytes), share(plan.weightBytes, dense.weightBytes));
    row("peak memory here", formatBytes(dense.peakRssBytes), formatBytes(plan.peakRssBytes), "");
    return table.text();
}

Result<Json> speed(const SpeedVerbOptions& options, Invocation& invocation)
{
    ESPALIER_TRY(const auto checkpoint, openCheckpoint(options.model, invocation));
    SpeedOptions how{
        .prefill = options.prefill, .decode = options.decode, .rounds = options.rounds, .seed = invocation.options.seed, .prompt = {}};
    if (!options.ids.empty()) {
        const TextRequest whole{
            .window = {.windowLength = 1 << 24, .bos = Bos::No}, .countAsked = false, .lengthAsked = false, .modelPositions = 0};
        ESPALIER_TRY(const RequestedWindows opened, openIdWindows(options.ids, whole, checkpoint->shape().vocabularySize));
        for (const auto& ids : opened.windows.rows)
            how.prompt.insert(how.prompt.end(), ids.begin(), ids.end());
    }
    std::optional<CompressionPlan> plan;
    ESPALIER_TRY(FactorSources profiles, openProfiles(options.profiles));
    if (!options.plan.empty()) {
        ESPALIER_TRY(plan, readPlan(options.plan, *checkpoint, options.allowOther));
        ESPALIER_CHECK_OK(bindProfile(*plan, options.plan, profiles, checkpoint->fingerprint(), invocation.warnings));
    }
    ESPALIER_TRY(const auto model, createModel(checkpoint, invocation));
    model->setFactorSources(profiles);
    if (const std::string slow = slowPlanWarning(*model, plan.value_or(CompressionPlan::identity(checkpoint->shape()))); !slow.empty())
        invocation.warnings.push_back(slow);
    ESPALIER_TRY(const SpeedResult result, measureSpeed(*model, plan ? &*plan : nullptr, how, invocation.job));
    if (std::string again = madeAgainWarning(result, *model); !again.empty()) invocation.warnings.push_back(std::move(again));
    Json json = {{"dense", sideJson(result.dense)},
                 {"plan", result.plan ? sideJson(*result.plan) : Json()},
                 {"ratio", nullptr},
                 {"flops_per_token", {{"dense", result.dense.flopsPerToken}, {"plan", nullptr}}},
                 {"active_parameters", {{"dense", result.dense.activeParameters}, {"plan", nullptr}}},
                 {"prefill", options.prefill},
                 {"decode", options.decode},
                 {"rounds", Json::array()},
                 {"plan_hash", plan ? Json(plan->hash()) : Json()}};
    if (result.plan) {
        json["flops_per_token"]["plan"] = result.plan->flopsPerToken;
        json["active_parameters"]["plan"] = result.plan->activeParameters;
    }
    if (result.ratio)
        json["ratio"] = {{"prefill", numberJson(result.ratio->prefill.median)}, {"decode", numberJson(result.ratio->decode.median)},
                         {"low", numberJson(result.ratio->prefill.low)},        {"high", numberJson(result.ratio->prefill.high)},
                         {"decode_low", numberJson(result.ratio->decode.low)},  {"decode_high", numberJson(result.ratio->decode.high)}};
    for (const RoundSpeed& round : result.rounds)
        json["rounds"].push_back({{"dense_prefill", numberJson(round.densePrefill)},
                                  {"dense_decode", numberJson(round.denseDecode)},
                                  {"plan_prefill", round.planPrefill ? numberJson(*round.planPrefill) : Json()},
                                  {"plan_decode", round.planDecode ? numberJson(*round.planDecode) : Json()}});
    invocation.text = tableOf(result);
    invocation.text +=
        fmt::format("{} prompt tokens and {} behind them, rounds of {}: {}, {}, threads: {}; medians, least and most.\n", options.prefill,
                    options.decode, plan ? "both in turn" : "the dense model", options.rounds, invocation.dtype, model->options().threads);
    return json;
}

}  // namespace

void addSpeed(Verbs& verbs)
{
    auto options = std::make_shared<SpeedVerbOptions>();
    CLI::App* verb = verbs.add("speed", "Tokens per second of a plan beside the dense model, measured here",
                               [options](Invocation& invocation) { return speed(*options, invocation); });
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    verb->add_option("--plan", options->plan, "Plan file (default: the dense model alone)")->type_name("FILE");
    addProfileOption(verb, options->profiles);
    verb->add_option("--prefill", options->prefill, "Tokens of the prompt (default: 512)")->check(CLI::Range(1, 1 << 30))->type_name("N");
    verb->add_option("--decode", options->decode, "Tokens to generate behind it (default: 32)")
        ->check(CLI::Range(1, 1 << 30))
        ->type_name("N");
    verb->add_option("--rounds", options->rounds, "Rounds that are counted; one more goes before them (default: 5)")
        ->check(CLI::Range(1, 1 << 30))
        ->type_name("N");
    verb->add_option("--ids", options->ids, "Token ids of the prompt, JSON or safetensors (default: drawn by --seed)")->type_name("FILE");
    verb->add_flag("--allow-other-model", options->allowOther, "Accept a plan made for another model");
    verb->footer(
        "Dense and plan run in turn. FLOPs, active parameters and the size of all weights follow from shapes; the rest is measured.");
}

}  // namespace espalier
