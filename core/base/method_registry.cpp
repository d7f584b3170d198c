#include "base/method_registry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace espalier
{

namespace
{

constexpr std::pair<Slot, std::string_view> kSlots[] = {{Slot::Score, "score"},     {Slot::Allocate, "allocate"},  {Slot::Select, "select"},
                                                        {Slot::Factors, "factors"}, {Slot::RankRule, "rank-rule"}, {Slot::Layers, "layers"},
                                                        {Slot::Recover, "recover"}, {Slot::Skip, "skip"}};
constexpr std::pair<Answer, std::string_view> kAnswers[] = {{Answer::Counts, "counts"}, {Answer::Sets, "sets"},
                                                            {Answer::Ranks, "ranks"},   {Answer::Layers, "layers"},
                                                            {Answer::Forms, "forms"},   {Answer::Values, "values"}};
constexpr std::pair<ParamType, std::string_view> kTypes[] = {
    {ParamType::Number, "number"}, {ParamType::Integer, "integer"}, {ParamType::Choice, "choice"}, {ParamType::Switch, "switch"}};

Error badParameter(const MethodInfo& method, const std::string& key, std::string message)
{
    Error error = usageError(std::move(message), "See `espalier-engine methods`.");
    error.code = "method.bad_parameter";
    error.subject = fmt::format("{}.{}", method.id, key);
    return error;
}

}  // namespace

std::string_view slotName(Slot slot)
{
    for (const auto& [value, name] : kSlots)
        if (value == slot) return name;
    return "";
}

const std::vector<Slot>& allSlots()
{
    static const std::vector<Slot> slots = [] {
        std::vector<Slot> list;
        for (const auto& [slot, name] : kSlots)
            list.push_back(slot);
        return list;
    }();
    return slots;
}

std::string_view answerName(Answer answer)
{
    for (const auto& [value, name] : kAnswers)
        if (value == answer) return name;
    return "";
}

bool MethodInfo::answersFor(Answer answer) const { return std::find(answers.begin(), answers.end(), answer) != answers.end(); }

Result<Params> checkParams(const MethodInfo& method, const Params& given)
{
    Params checked;
    for (const ParamSpec& spec : method.params)
        checked[spec.key] = spec.defaultValue;
    for (const auto& [key, value] : given) {
        const auto spec =
            std::find_if(method.params.begin(), method.params.end(), [&name = key](const ParamSpec& s) { return s.key == name; });
        if (spec == method.params.end()) return badParameter(method, key, fmt::format("{} has no parameter \"{}\".", method.id, key));
        switch (spec->type) {
            case ParamType::Number:
            case ParamType::Integer: {
                if (!value.is_number() || (spec->type == ParamType::Integer && !value.is_number_integer()))
                    return badParameter(method, key,
                                        fmt::format("{} of {} takes {}.", key, method.id,
                                                    spec->type == ParamType::Integer ? "a whole number" : "a number"));
                const double number = value.get<double>();
                if (!(number >= spec->low && number <= spec->high))
                    return badParameter(
                        method, key,
                        fmt::format("{} of {} must lie between {} and {}, not {}.", key, method.id, spec->low, spec->high, number));
                break;
            }
            case ParamType::Choice:
                if (!value.is_string() ||
                    std::find(spec->choices.begin(), spec->choices.end(), value.get<std::string>()) == spec->choices.end())
                    return badParameter(method, key, fmt::format("{} of {} is one of {}.", key, method.id, fmt::join(spec->choices, ", ")));
                break;
            case ParamType::Switch:
                if (!value.is_boolean()) return badParameter(method, key, fmt::format("{} of {} is true or false.", key, method.id));
                break;
        }
        checked[key] = value;
    }
    return checked;
}

Json toJson(const MethodInfo& method)
{
    Json params = Json::array();
    for (const ParamSpec& spec : method.params) {
        Json item = {{"key", spec.key}, {"default", spec.defaultValue}, {"unit", spec.unit}, {"help", spec.help}};
        for (const auto& [value, name] : kTypes)
            if (value == spec.type) item["type"] = name;
        if (spec.type == ParamType::Number || spec.type == ParamType::Integer) item["range"] = {spec.low, spec.high};
        if (spec.type == ParamType::Choice) item["choices"] = spec.choices;
        params.push_back(std::move(item));
    }
    Json answers = Json::array();
    for (const Answer answer : method.answers)
        answers.push_back(answerName(answer));
    return {{"id", method.id},
            {"title", method.title},
            {"slot", slotName(method.slot)},
            {"help", method.help},
            {"parameters", params},
            {"needs", method.needs},
            {"stochastic", method.stochastic},
            {"source", method.source},
            {"runs_model", method.runsModel},
            {"needs_curves", method.needsCurves},
            {"searches", method.searches},
            {"baseline", method.baseline},
            {"answers", answers},
            {"solves_with", method.solvesWith}};
}

Result<MethodInfo> methodFromJson(const Json& value)
{
    try {
        MethodInfo method;
        method.id = value.at("id");
        method.title = value.at("title");
        method.help = value.value("help", "");
        method.needs = value.value("needs", std::vector<std::string>());
        method.stochastic = value.value("stochastic", false);
        method.source = value.value("source", "");
        method.runsModel = value.value("runs_model", false);
        method.needsCurves = value.value("needs_curves", false);
        method.searches = value.value("searches", false);
        method.baseline = value.value("baseline", false);
        method.solvesWith = value.value("solves_with", std::vector<std::string>());
        for (const std::string& text : value.value("answers", std::vector<std::string>()))
            for (const auto& [answer, name] : kAnswers)
                if (text == name) method.answers.push_back(answer);
        for (const auto& [slot, name] : kSlots)
            if (value.at("slot") == name) method.slot = slot;
        for (const Json& item : value.at("parameters")) {
            ParamSpec spec;
            spec.key = item.at("key");
            spec.defaultValue = item.at("default");
            spec.unit = item.value("unit", "");
            spec.help = item.value("help", "");
            for (const auto& [type, name] : kTypes)
                if (item.at("type") == name) spec.type = type;
            if (item.contains("range")) {
                spec.low = item.at("range").at(0);
                spec.high = item.at("range").at(1);
            }
            spec.choices = item.value("choices", std::vector<std::string>());
            method.params.push_back(std::move(spec));
        }
        return method;
    } catch (const Json::exception& failure) {
        return badInput("rpc.bad_message", "methods", {"A method in the registry is malformed: {what}", {{"what", failure.what()}}});
    }
}

}  // namespace espalier
