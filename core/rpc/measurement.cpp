#include "rpc/measurement.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

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

namespace
{

void addAccuracy(Json& json, const std::string& key, const Accuracy& accuracy)
{
    json[key] = accuracy.value;
    json[key + "_stderr"] = accuracy.error ? Json(*accuracy.error) : Json();
}

std::optional<Accuracy> accuracyField(const Json& object, const std::string& key)
{
    const std::optional<double> value = numberField(object, key.c_str());
    if (!value) return std::nullopt;
    return Accuracy{*value, numberField(object, (key + "_stderr").c_str())};
}

// Where there is a difference alone, the dense model's accuracy follows from it; its error does not.
std::optional<TaskMeasurement::Metric> metricField(const Json& object, const std::string& key)
{
    const std::optional<Accuracy> plan = accuracyField(object, key);
    if (!plan) return std::nullopt;
    TaskMeasurement::Metric metric{*plan, std::nullopt, std::nullopt};
    for (const char* part : {"dense", "delta"}) {
        const auto found = object.find(part);
        if (found == object.end() || !found->is_object()) continue;
        (part == std::string_view("dense") ? metric.dense : metric.delta) = accuracyField(*found, key);
    }
    if (metric.delta && !metric.dense) metric.dense = Accuracy{plan->value - metric.delta->value, std::nullopt};
    return metric;
}

Result<TaskMeasurement> parseTask(const std::string& name, const Json& object)
{
    if (!object.is_object()) return invalid(name + " is not an object");
    TaskMeasurement one;
    one.task = name;
    one.rules = textField(object, "rules");
    one.fileSha256 = textField(object, "sha256");
    const std::optional<int> questions = countField(object, "items");
    if (!questions || *questions < 1) return invalid(name + ": items is not a number of at least 1");
    one.questions = *questions;
    const auto acc = metricField(object, "acc");
    if (!acc) return invalid(name + ": acc is missing");
    one.acc = *acc;
    one.norm = metricField(object, "acc_norm");
    one.dtype = textField(object, "dtype");
    one.planHash = textField(object, "plan_hash");
    return one;
}

}  // namespace

bool holdsTasks(const Json& value)
{
    const auto tasks = value.is_object() ? value.find("tasks") : value.end();
    return value.is_object() && tasks != value.end() && tasks->is_object();
}

Result<std::vector<TaskMeasurement>> parseMeasuredTasks(const Json& value)
{
    std::vector<TaskMeasurement> result;
    if (value.is_null()) return result;
    if (holdsTasks(value)) {
        // A difference to another plan than the dense model says nothing of the dense model.
        const bool toDense = textField(value, "against") == "dense";
        for (const auto& [name, object] : value["tasks"].items()) {
            Json entry = object;
            if (!toDense && entry.is_object()) entry.erase("delta");
            ESPALIER_TRY(TaskMeasurement one, parseTask(name, entry));
            one.planHash = textField(value, "plan_hash");
            if (const auto model = value.find("model"); model != value.end() && model->is_object())
                one.modelFingerprint = textField(*model, "fingerprint");
            result.push_back(std::move(one));
        }
        return result;
    }
    if (!value.is_array()) return invalid("it is neither what tasks --json wrote nor a list of tasks");
    for (const Json& object : value) {
        const std::string name = object.is_object() ? textField(object, "task") : std::string();
        if (name.empty()) return invalid("task, the name of a task, is missing");
        ESPALIER_TRY(TaskMeasurement one, parseTask(name, object));
        result.push_back(std::move(one));
    }
    return result;
}

Json toJson(const TaskMeasurement& measurement)
{
    Json json = {{"task", measurement.task}, {"items", measurement.questions}};
    for (const auto& [key, text] : {std::pair("rules", &measurement.rules), std::pair("sha256", &measurement.fileSha256),
                                    std::pair("dtype", &measurement.dtype), std::pair("plan_hash", &measurement.planHash)})
        if (!text->empty()) json[key] = *text;
    const auto add = [&](const std::string& key, const TaskMeasurement::Metric& metric) {
        addAccuracy(json, key, metric.plan);
        if (metric.dense) addAccuracy(json["dense"], key, *metric.dense);
        if (metric.delta) addAccuracy(json["delta"], key, *metric.delta);
    };
    add("acc", measurement.acc);
    if (measurement.norm) add("acc_norm", *measurement.norm);
    return json;
}

}  // namespace espalier
