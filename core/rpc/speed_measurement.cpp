#include "rpc/speed_measurement.h"

#include "rpc/protocol_generate.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

namespace espalier
{

namespace
{

Error invalid(const std::string& what)
{
    return badInput("export.measured_invalid", "measured", {"The measured speed for the export: {what}.", {{"what", what}}},
                    "Give what speed --json wrote for this plan.");
}

std::string textField(const Json& object, const char* key)
{
    const auto it = object.find(key);
    return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

Result<double> positive(const Json& object, const char* owner, const std::string& key)
{
    const auto of = object.find(owner);
    const Json value = of != object.end() && of->is_object() ? of->value(key, Json()) : Json();
    if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() <= 0)
        return invalid(fmt::format("{}.{} is not a positive number", owner, key));
    return value.get<double>();
}

Result<int> count(const Json& object, const char* key)
{
    const Json value = object.value(key, Json());
    if (value.is_array() && !value.empty()) return static_cast<int>(value.size());
    if (!value.is_number_integer() || value.get<std::int64_t>() < 1 || value.get<std::int64_t>() > (1 << 30))
        return invalid(fmt::format("{} is not a number of at least 1", key));
    return value.get<int>();
}

Result<SpeedMeasurement::Phase> phaseOf(const Json& value, const char* name, const char* low, const char* high)
{
    SpeedMeasurement::Phase phase;
    ESPALIER_TRY(phase.tokens, count(value, name));
    const std::string rate = fmt::format("{}_tokens_per_second", name);
    ESPALIER_TRY(phase.plan, positive(value, "plan", rate));
    ESPALIER_TRY(phase.dense, positive(value, "dense", rate));
    ESPALIER_TRY(phase.ratio, positive(value, "ratio", name));
    ESPALIER_TRY(phase.low, positive(value, "ratio", low));
    ESPALIER_TRY(phase.high, positive(value, "ratio", high));
    return phase;
}

}  // namespace

std::optional<SpeedMeasurement> speedMeasurementOf(const SpeedAnswer& answer)
{
    if (!answer.plan || !answer.ratio || !(answer.ratio->prefill > 0) || !(answer.ratio->decode > 0)) return std::nullopt;
    const SpeedRatio& ratio = *answer.ratio;
    return SpeedMeasurement{.prefill = {.tokens = answer.prefill,
                                        .plan = answer.plan->prefillTokensPerSecond,
                                        .dense = answer.dense.prefillTokensPerSecond,
                                        .ratio = ratio.prefill,
                                        .low = ratio.low,
                                        .high = ratio.high},
                            .decode = {.tokens = answer.decode,
                                       .plan = answer.plan->decodeTokensPerSecond,
                                       .dense = answer.dense.decodeTokensPerSecond,
                                       .ratio = ratio.decode,
                                       .low = ratio.decodeLow,
                                       .high = ratio.decodeHigh},
                            .rounds = answer.rounds,
                            .threads = answer.threads,
                            .dtype = answer.dtype,
                            .planHash = answer.planHash,
                            .modelFingerprint = {}};
}

bool holdsSpeed(const Json& value) { return value.is_object() && value.contains("ratio") && value.contains("prefill"); }

Result<SpeedMeasurement> parseMeasuredSpeed(const Json& value)
{
    if (!holdsSpeed(value)) return invalid("it is not what speed --json wrote");
    if (!value["ratio"].is_object()) return invalid("it is that of the dense model alone");
    SpeedMeasurement measurement;
    ESPALIER_TRY(measurement.prefill, phaseOf(value, "prefill", "low", "high"));
    ESPALIER_TRY(measurement.decode, phaseOf(value, "decode", "decode_low", "decode_high"));
    ESPALIER_TRY(measurement.rounds, count(value, "rounds"));
    ESPALIER_TRY(measurement.threads, count(value, "threads"));
    measurement.dtype = textField(value, "dtype");
    measurement.planHash = textField(value, "plan_hash");
    if (const auto model = value.find("model"); model != value.end() && model->is_object())
        measurement.modelFingerprint = textField(*model, "fingerprint");
    return measurement;
}

Json toJson(const SpeedMeasurement& measurement)
{
    const SpeedMeasurement::Phase& prefill = measurement.prefill;
    const SpeedMeasurement::Phase& decode = measurement.decode;
    Json json = {{"prefill", prefill.tokens}, {"decode", decode.tokens}, {"rounds", measurement.rounds}, {"threads", measurement.threads}};
    for (const auto& [side, rates] :
         {std::pair("plan", std::pair(prefill.plan, decode.plan)), std::pair("dense", std::pair(prefill.dense, decode.dense))})
        json[side] = {{"prefill_tokens_per_second", rates.first}, {"decode_tokens_per_second", rates.second}};
    json["ratio"] = {{"prefill", prefill.ratio}, {"low", prefill.low},       {"high", prefill.high},
                     {"decode", decode.ratio},   {"decode_low", decode.low}, {"decode_high", decode.high}};
    if (!measurement.dtype.empty()) json["dtype"] = measurement.dtype;
    if (!measurement.planHash.empty()) json["plan_hash"] = measurement.planHash;
    return json;
}

std::string speedWords(const SpeedMeasurement::Phase& phase)
{
    if (phase.low <= 1 && phase.high >= 1) return "as fast";
    return phase.ratio > 1 ? fmt::format("{:.2f}x faster", phase.ratio) : fmt::format("{:.2f}x slower", 1 / phase.ratio);
}

}  // namespace espalier
