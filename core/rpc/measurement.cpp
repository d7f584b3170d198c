#include "rpc/measurement.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace espalier
{

namespace
{

Error invalid(const std::string& what)
{
    return badInput("export.measured_invalid", "measured", {"The measurement for the export: {what}.", {{"what", what}}},
                    "Give what evaluate --json wrote for this plan.");
}

std::string textField(const Json& object, const char* key)
{
    const auto it = object.find(key);
    return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

std::optional<double> numberField(const Json& object, const char* key)
{
    const auto it = object.find(key);
    if (it == object.end() || !it->is_number() || !std::isfinite(it->get<double>())) return std::nullopt;
    return it->get<double>();
}

// A number of things, or the things themselves.
std::optional<int> countField(const Json& object, const char* key)
{
    const auto it = object.find(key);
    if (it == object.end()) return std::nullopt;
    constexpr int kMost = std::numeric_limits<int>::max();
    if (it->is_array()) return it->size() <= kMost ? std::optional<int>(static_cast<int>(it->size())) : std::nullopt;
    if (!it->is_number_integer()) return std::nullopt;
    const bool fits = it->is_number_unsigned() ? it->get<std::uint64_t>() <= kMost : it->get<std::int64_t>() <= kMost;
    return fits && it->get<std::int64_t>() >= 0 ? std::optional<int>(it->get<int>()) : std::nullopt;
}

Result<Measurement> parseOne(const Json& object)
{
    if (!object.is_object()) return invalid("it is not an object");
    Measurement measurement;
    measurement.text = textField(object, "text");
    if (measurement.text.empty()) return invalid("text, the name of the text, is missing");
    const std::optional<int> windows = countField(object, "windows");
    if (!windows || *windows < 1) return invalid("windows is not a number of at least 1");
    measurement.windows = *windows;
    const std::optional<int> length = countField(object, "window_length");
    if (!length || *length < 2) return invalid("window_length is not a number of at least 2");
    measurement.windowLength = *length;
    const std::optional<double> ppl = numberField(object, "ppl");
    if (!ppl || *ppl <= 0) return invalid("ppl is not a positive number");
    measurement.ppl = *ppl;
    measurement.role = textField(object, "role");
    measurement.textSha256 = textField(object, "text_sha256");
    measurement.dtype = textField(object, "dtype");
    measurement.planHash = textField(object, "plan_hash");
    if (const auto model = object.find("model"); model != object.end() && model->is_object())
        measurement.modelFingerprint = textField(*model, "fingerprint");
    measurement.densePpl = numberField(object, "dense_ppl");
    measurement.deltaNll = numberField(object, "delta_nll");
    measurement.deltaNllError = numberField(object, "delta_nll_error");
    const bool againstDense = !object.contains("against") || object["against"] == "dense";
    const auto reference = object.find("reference");
    if (againstDense && reference != object.end() && reference->is_object()) {
        measurement.densePpl = numberField(*reference, "ppl");
        const auto delta = object.find("delta");
        if (delta != object.end() && delta->is_object()) {
            measurement.deltaNll = numberField(*delta, "nll");
            measurement.deltaNllError = numberField(*delta, "se");
        }
    }
    return measurement;
}

}  // namespace

Result<std::vector<Measurement>> parseMeasured(const Json& value)
{
    std::vector<Measurement> result;
    if (value.is_null()) return result;
    if (!value.is_array()) {
        ESPALIER_TRY(Measurement one, parseOne(value));
        result.push_back(std::move(one));
        return result;
    }
    for (const Json& object : value) {
        ESPALIER_TRY(Measurement one, parseOne(object));
        result.push_back(std::move(one));
    }
    return result;
}

Json toJson(const Measurement& measurement)
{
    Json json = {{"text", measurement.text},
                 {"windows", measurement.windows},
                 {"window_length", measurement.windowLength},
                 {"ppl", measurement.ppl}};
    const std::pair<const char*, const std::string*> texts[] = {{"role", &measurement.role},
                                                                {"text_sha256", &measurement.textSha256},
                                                                {"dtype", &measurement.dtype},
                                                                {"plan_hash", &measurement.planHash}};
    for (const auto& [key, text] : texts)
        if (!text->empty()) json[key] = *text;
    const std::pair<const char*, const std::optional<double>*> numbers[] = {
        {"dense_ppl", &measurement.densePpl}, {"delta_nll", &measurement.deltaNll}, {"delta_nll_error", &measurement.deltaNllError}};
    for (const auto& [key, number] : numbers)
        if (*number) json[key] = **number;
    return json;
}

}  // namespace espalier
