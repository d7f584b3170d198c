// The registry of methods: what the command line lists, the JSON messages accept and the window's choosers show. What a method can and
// what it needs is said in its entry; nobody recognises a method by its id.
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

// What a plan is made in, in order: which experts matter, how many a layer keeps, which they are, how ranks become factors, which rank each
// matrix gets, which decoder layers stay, how what was lost is tuned back, which experts a token may skip.
enum class Slot { Score, Allocate, Select, Factors, RankRule, Layers, Recover, Skip };
// "score", "allocate", "select", "factors", "rank-rule", "layers", "recover", "skip"
std::string_view slotName(Slot slot);
const std::vector<Slot>& allSlots();

// What a method decides of a plan.
enum class Answer { Counts, Sets, Ranks, Layers, Forms, Values };
std::string_view answerName(Answer answer);  // "counts", "sets", "ranks", "layers", "forms", "values"

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

    bool runsModel = false;                    // measures on the calibration text: needs the model and the text's windows
    bool needsCurves = false;                  // needs what every layer loses at every count, which is found from the profile's products
    bool searches = false;                     // tries many candidates: takes time, and has something to show meanwhile
    bool baseline = false;                     // what every search for better answers is compared with
    std::vector<Answer> answers = {};          // what it decides
    std::vector<std::string> solvesWith = {};  // ids of methods of other slots with which it takes one decision over both, for a size

    bool answersFor(Answer answer) const;
};

// Values for one method's parameters. Checked against the specs by checkParams.
using Params = std::map<std::string, Json>;

// Fills in defaults; refuses unknown keys, wrong types and values outside the range. Error: method.bad_parameter (exit 2).
Result<Params> checkParams(const MethodInfo& method, const Params& given);

Json toJson(const MethodInfo& method);
Result<MethodInfo> methodFromJson(const Json& value);

}  // namespace espalier
