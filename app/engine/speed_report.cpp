#include "speed_report.h"

#include "base/text.h"
#include "pipeline/result_json.h"
#include "terminal.h"

#include <fmt/format.h>

namespace espalier
{

namespace
{

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

}  // namespace

Json speedJson(const SpeedResult& result, const SpeedOptions& asked, const CompressionPlan* plan)
{
    Json json = {{"dense", sideJson(result.dense)},
                 {"plan", result.plan ? sideJson(*result.plan) : Json()},
                 {"ratio", nullptr},
                 {"flops_per_token", {{"dense", result.dense.flopsPerToken}, {"plan", nullptr}}},
                 {"active_parameters", {{"dense", result.dense.activeParameters}, {"plan", nullptr}}},
                 {"prefill", asked.prefill},
                 {"decode", asked.decode},
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
    return json;
}

std::string speedText(const SpeedResult& result, const SpeedOptions& asked, const std::string& dtype, int threads)
{
    return tableOf(result) +
           fmt::format("{} prompt tokens and {} behind them, rounds of {}: {}, {}, threads: {}; medians, least and most.\n", asked.prefill,
                       asked.decode, result.plan ? "both in turn" : "the dense model", asked.rounds, dtype, threads);
}

}  // namespace espalier
