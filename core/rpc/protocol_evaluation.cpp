#include "rpc/protocol_evaluation.h"

#include "rpc/fields.h"

#include <algorithm>

namespace espalier
{

Json toJson(const WindowChoice& choice)
{
    switch (choice.kind) {
        case WindowChoice::Kind::All:
            break;
        case WindowChoice::Kind::First:
            return {{"first", choice.count}};
        case WindowChoice::Kind::Spread:
            return {{"spread", choice.count}};
        case WindowChoice::Kind::Listed:
            return choice.indices;
    }
    return {{"all", true}};
}

template <>
Result<WindowChoice> fromJson<WindowChoice>(const Json& json)
{
    const auto count = [](const Json& value) {
        return value.is_number_integer() && value.get<std::int64_t>() >= 0 && value.get<std::int64_t>() < (1 << 30)
                   ? std::optional(value.get<int>())
                   : std::nullopt;
    };
    const auto named = [&](const char* key) {
        return json.is_object() && json.size() == 1 ? count(json.value(key, Json())) : std::nullopt;
    };
    WindowChoice choice;
    if (json.is_array() && std::all_of(json.begin(), json.end(), [&](const Json& window) { return count(window).has_value(); })) {
        choice.kind = WindowChoice::Kind::Listed;
        choice.indices = json.get<std::vector<int>>();
        return choice;
    }
    if (json.is_object() && json.size() == 1 && json.contains("all")) return choice;
    if (const auto spread = named("spread")) return WindowChoice{WindowChoice::Kind::Spread, *spread, {}};
    if (const auto first = json.is_object() ? named("first") : count(json)) return WindowChoice{WindowChoice::Kind::First, *first, {}};
    const Json whole = Json::object();
    RequestParams problem(whole);
    problem.fail("", "is neither a list of windows nor {\"first\": n}, {\"spread\": n} or {\"all\": true}");
    return problem.status().error();
}

template <typename Fields, Is<EvaluateAnswer> Message>
void fields(Fields& f, Message& m)
{
    f.required("plan_hash", m.planHash);
    f.required("windows", m.windows);
    f.required("ppl", m.ppl);
    f.required("nll", m.nll);
    f.required("nll_error", m.nllError);
    f.required("scored_tokens", m.scoredTokens);
    f.required("window_count_total", m.windowCountTotal, 0);
    f.nullable("windows_asked", m.windowsAsked);
    f.required("warnings", m.warnings);
    f.required("window_length", m.windowLength);
    f.required("text", m.text);
    f.required("text_sha256", m.textSha256);
    f.required("tokenizer_sha256", m.tokenizerSha256);
    f.required("dtype", m.dtype);
    f.required("seconds", m.seconds);
}
ESPALIER_PROTOCOL_JSON(EvaluateAnswer);

template <typename Fields, Is<EvaluateRequest> Message>
void fields(Fields& f, Message& m)
{
    f.required("path", m.path);
    fields(f, m.text);
    f.optional("max_windows", m.maxWindows, 0, 0);
    if constexpr (Fields::kReads)
        if (m.text.empty()) f.fail("text", "is missing");
    f.document("plan", m.plan, false);
    f.paths("profile", m.profiles);
    f.optional("tier", m.tier);
    f.always("windows", m.windows);
    // An older way to say {"first": n}.
    if constexpr (Fields::kReads) {
        const int first = f.count("first", 0, 0);
        if (first > 0 && m.windows.kind == WindowChoice::Kind::All) m.windows = {WindowChoice::Kind::First, first, {}};
    }
}
ESPALIER_PROTOCOL_JSON(EvaluateRequest);

Json toJson(const EstimatePoint& point)
{
    Json list = {numberJson(point.e1.value_or(Estimate::kUnknown)), numberJson(point.e2.value_or(Estimate::kUnknown)),
                 numberJson(point.deltaNll)};
    if (point.fitted) list.push_back(numberJson(*point.fitted));
    return list;
}

template <>
Result<EstimatePoint> fromJson<EstimatePoint>(const Json& json)
{
    Json values[4];
    if (json.is_array() && (json.size() == 3 || json.size() == 4))
        std::copy(json.begin(), json.end(), values);
    else if (json.is_object())
        for (const auto& [slot, key] : {std::pair{0, "e1"}, {1, "e2"}, {2, "delta_nll"}, {3, "fitted"}})
            values[slot] = json.value(key, Json());
    const bool expansion = values[0].is_number() && values[1].is_number();
    if (!values[2].is_number() || !(expansion || values[3].is_number())) {
        const Json whole = Json::object();
        RequestParams problem(whole);
        problem.fail("", "is not an estimate beside an exact change");
        return problem.status().error();
    }
    EstimatePoint point;
    point.deltaNll = values[2].get<double>();
    if (expansion) {
        point.e1 = values[0].get<double>();
        point.e2 = values[1].get<double>();
    }
    if (values[3].is_number()) point.fitted = values[3].get<double>();
    return point;
}

Result<std::vector<EstimatePoint>> estimatePointsFromJson(const Json& json)
{
    std::vector<EstimatePoint> points;
    const Json message = {{"pairs", json}};
    FieldReader reader(message);
    reader.required("pairs", points);
    const Status status = reader.status();
    if (!status.ok()) return status.error();
    return points;
}

template <typename Fields, Is<Estimate::Layer> Message>
void fields(Fields& f, Message& m)
{
    f.required("layer", m.layer);
    f.required("e1", m.e1);
    f.required("e2", m.e2);
    f.required("uncovered_fraction", m.uncoveredFraction);
}
ESPALIER_PROTOCOL_JSON(Estimate::Layer);

template <typename Fields, Is<Estimate::Calibration> Message>
void fields(Fields& f, Message& m)
{
    f.required("calibrated", m.calibrated);
    f.required("probes", m.probes);
    f.required("windows", m.windows);
    f.required("pairs", m.pairs);
    f.maybe("residual", m.residual);
    f.maybe("beta", m.beta);
    f.required("rank_correlation", m.rankCorrelation);
}
ESPALIER_PROTOCOL_JSON(Estimate::Calibration);

template <typename Fields, Is<Estimate> Message>
void fields(Fields& f, Message& m)
{
    f.required("delta_nll", m.deltaNll);
    f.required("ppl_ratio", m.pplRatio);
    f.required("band", m.band);
    f.required("low", m.low);
    f.required("high", m.high);
    f.required("spread", m.spread);
    f.required("fitted", m.fitted);
    f.required("label", m.label);
    f.required("e1", m.e1);
    f.required("e2", m.e2);
    f.required("e1_error", m.e1Error);
    f.required("ranks", m.ranks);
    f.required("uncovered_fraction", m.uncoveredFraction);
    f.required("estimate_layers", m.layers);
    f.nullable("calibration", m.calibration);
}
ESPALIER_PROTOCOL_JSON(Estimate);

template <typename Fields, Is<EstimateAnswer> Message>
void fields(Fields& f, Message& m)
{
    fields(f, m.estimate);
    f.required("plan_hash", m.planHash);
    f.required("ppl", m.ppl);
}
ESPALIER_PROTOCOL_JSON(EstimateAnswer);

template <typename Fields, Is<EstimateRequest> Message>
void fields(Fields& f, Message& m)
{
    f.required("profile", m.profile);
    // The profile says which model it is about; scripts that give it in every request may go on doing so.
    if constexpr (Fields::kReads) f.know({"path"});
    f.document("plan", m.plan, false);
    f.maybe("dense_nll", m.denseNll);
    if constexpr (Fields::kReads) {
        if (const Json* pairs = f.find("pairs")) {
            Result<std::vector<EstimatePoint>> points = estimatePointsFromJson(*pairs);
            if (points.ok())
                m.pairs = std::move(points).value();
            else
                f.fail("pairs", "is not a list of estimates beside exact changes");
        }
    } else {
        f.always("pairs", m.pairs);
    }
}
ESPALIER_PROTOCOL_JSON(EstimateRequest);

}  // namespace espalier
