// The registry of methods: what the command line lists, the JSON messages accept and the window's choosers show.
// A new method is one file in its slot's folder, one line in that slot's table, one test.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

enum class Slot { Score, Allocate, Select, Factors, RankRule };
std::string_view slotName(Slot slot);  // "score", "allocate", "select", "factors", "rank-rule"

enum class ParamType { Number, Integer, Choice, Switch };

struct ParamSpec {
    std::string key;
    ParamType type = ParamType::Number;
    Json defaultValue;
    double low = 0;
    double high = 0;
    std::vector<std::string> choices;  // Choice only
    std::string unit;
    std::string help;
};

struct MethodInfo {
    std::string id;  // stable: in recipes, sessions and files
    std::string title;
    Slot slot = Slot::Score;
    std::string help;
    std::vector<ParamSpec> params;
    std::vector<std::string> needs;  // profile statistics: "counts", "ean", "reap", "gram"
    bool stochastic = false;
    std::string source;  // paper or equation
};

// Values for one method's parameters. Checked against the specs by checkParams.
using Params = std::map<std::string, Json>;

// Fills in defaults; refuses unknown keys, wrong types and values outside the range. Error: method.bad_parameter (exit 2).
Result<Params> checkParams(const MethodInfo& method, const Params& given);

Json toJson(const MethodInfo& method);
Result<MethodInfo> methodFromJson(const Json& value);

}  // namespace espalier
