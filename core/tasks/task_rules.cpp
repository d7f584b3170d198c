#include "tasks/task_rules.h"

#include "tasks/python_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <optional>

namespace espalier
{

namespace
{

Error invalid(std::string_view field, std::string_view what)
{
    return badInput("task.invalid", std::string(field), fmt::format("\"{}\" {}.", field, what), "Correct the file, or leave the line out.");
}

const Json* fieldOf(const Json& fields, std::string_view name)
{
    const auto found = fields.find(name);
    return found == fields.end() ? nullptr : &*found;
}

Result<std::string> textOf(const Json& fields, std::string_view name)
{
    const Json* value = fieldOf(fields, name);
    if (!value) return invalid(name, "is missing");
    if (!value->is_string()) return invalid(name, "is not a text");
    return value->get<std::string>();
}

// The first of several spellings that is there.
Result<std::string> textOf(const Json& fields, std::initializer_list<std::string_view> names)
{
    for (const std::string_view name : names)
        if (fieldOf(fields, name)) return textOf(fields, name);
    return textOf(fields, *names.begin());
}

// An index, as a number or as its digits. -1 says that it is not told.
Result<int> labelOf(const Json& fields, std::string_view name, int choices)
{
    const Json* value = fieldOf(fields, name);
    if (!value) return invalid(name, "is missing");
    std::optional<int> label;
    if (value->is_number_integer() || value->is_boolean()) label = value->get<int>();
    if (value->is_string()) {
        const std::string text(stripped(value->get<std::string>()));
        if (text == "-1" || (text.size() == 1 && text[0] >= '0' && text[0] <= '9')) label = std::stoi(text);
    }
    if (!label || *label < -1 || *label >= choices)
        return invalid(name, fmt::format("is not the number of a choice, 0 to {}", choices - 1));
    return *label;
}

// One context, and choices behind a space.
TaskItem continued(const std::string& context, const std::vector<std::string>& choices, int gold)
{
    TaskItem item;
    item.gold = gold;
    for (const std::string& choice : choices) {
        item.contexts.push_back(context);
        item.continuations.push_back(std::string(1, ' ').append(choice));
        item.lengths.push_back(codePoints(choice));
    }
    return item;
}

struct Labelled {
    std::vector<std::string> texts, labels;
};

// {"text": [...], "label": [...]}, or the list of {"text", "label"} of the original files.
Result<Labelled> labelledChoices(const Json& fields)
{
    const Json* choices = fieldOf(fields, "choices");
    if (!choices) return invalid("choices", "is missing");
    Labelled result;
    const auto take = [](const Json& value, std::vector<std::string>& into) {
        if (value.is_string()) into.push_back(value.get<std::string>());
        return value.is_string();
    };
    bool good = true;
    if (choices->is_array()) {
        for (const Json& choice : *choices)
            good = good && choice.is_object() && choice.contains("text") && choice.contains("label") &&
                   take(choice["text"], result.texts) && take(choice["label"], result.labels);
    } else if (choices->is_object() && choices->contains("text") && choices->contains("label")) {
        for (const auto& [name, into] : {std::pair{"text", &result.texts}, std::pair{"label", &result.labels}}) {
            const Json& list = (*choices)[name];
            good = good && list.is_array();
            for (const Json& value : list)
                good = good && take(value, *into);
        }
    } else {
        good = false;
    }
    if (!good || result.texts.size() != result.labels.size() || result.texts.empty())
        return invalid("choices", "is not a list of texts with as many labels");
    return result;
}

Result<int> answerIn(const Json& fields, const std::vector<std::string>& labels, bool stripsStart)
{
    ESPALIER_TRY(std::string answer, textOf(fields, "answerKey"));
    if (stripsStart)
        answer = answer.substr(static_cast<std::size_t>(
            std::find_if(answer.begin(), answer.end(), [](char c) { return c != ' ' && c != '\t' && c != '\n' && c != '\r'; }) -
            answer.begin()));
    const auto found = std::find(labels.begin(), labels.end(), answer);
    if (found == labels.end()) return invalid("answerKey", fmt::format("is \"{}\", which is no label of the choices", answer));
    return static_cast<int>(found - labels.begin());
}

// The original files of ARC and OpenBookQA keep stem and choices inside the question.
const Json& questionOf(const Json& fields)
{
    const Json* question = fieldOf(fields, "question");
    return question && question->is_object() ? *question : fields;
}

Result<TaskItem> readArc(const Json& fields)
{
    const Json& question = questionOf(fields);
    ESPALIER_TRY(const std::string text, textOf(question, &question == &fields ? "question" : "stem"));
    ESPALIER_TRY(const Labelled choices, labelledChoices(question));
    ESPALIER_TRY(const int gold, answerIn(fields, choices.labels, false));
    return continued(fmt::format("Question: {}\nAnswer:", text), choices.texts, gold);
}

Result<TaskItem> readOpenBook(const Json& fields)
{
    const Json& question = questionOf(fields);
    ESPALIER_TRY(const std::string text, textOf(question, &question == &fields ? "question_stem" : "stem"));
    ESPALIER_TRY(const Labelled choices, labelledChoices(question));
    ESPALIER_TRY(const int gold, answerIn(fields, choices.labels, true));
    return continued(text, choices.texts, gold);
}

void replaceAll(std::string& text, std::string_view from, std::string_view to)
{
    for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
        text.replace(at, from.size(), to);
}

// The marks that WikiHow's and ActivityNet's texts carry.
std::string withoutMarks(std::string_view given)
{
    std::string text(stripped(given));
    replaceAll(text, " [title]", ". ");
    // \[.*?\], not over a line break.
    for (std::size_t begin = text.find('['); begin != std::string::npos; begin = text.find('[', begin)) {
        const std::size_t end = text.find_first_of("]\n", begin + 1);
        if (end != std::string::npos && text[end] == ']')
            text.erase(begin, end - begin + 1);
        else
            ++begin;
    }
    replaceAll(text, "  ", " ");
    return text;
}

Result<TaskItem> readHellaSwag(const Json& fields)
{
    ESPALIER_TRY(const std::string activity, textOf(fields, "activity_label"));
    ESPALIER_TRY(const std::string first, textOf(fields, "ctx_a"));
    ESPALIER_TRY(const std::string second, textOf(fields, "ctx_b"));
    const Json* endings = fieldOf(fields, "endings");
    if (!endings) return invalid("endings", "is missing");
    std::vector<std::string> choices;
    if (endings->is_array())
        for (const Json& ending : *endings)
            if (ending.is_string()) choices.push_back(withoutMarks(ending.get<std::string>()));
    if (choices.empty() || choices.size() != endings->size()) return invalid("endings", "is not a list of texts");
    ESPALIER_TRY(const int gold, labelOf(fields, "label", static_cast<int>(choices.size())));
    return continued(withoutMarks(activity + ": " + first + " " + capitalized(second)), choices, gold);
}

Result<TaskItem> readPiqa(const Json& fields)
{
    ESPALIER_TRY(const std::string goal, textOf(fields, "goal"));
    ESPALIER_TRY(std::string first, textOf(fields, "sol1"));
    ESPALIER_TRY(std::string second, textOf(fields, "sol2"));
    ESPALIER_TRY(const int gold, labelOf(fields, "label", 2));
    return continued(fmt::format("Question: {}\nAnswer:", goal), {std::move(first), std::move(second)}, gold);
}

Result<TaskItem> readBoolQ(const Json& fields)
{
    ESPALIER_TRY(const std::string passage, textOf(fields, "passage"));
    ESPALIER_TRY(const std::string question, textOf(fields, "question"));
    // The original files call it "answer".
    ESPALIER_TRY(const int gold, labelOf(fields, !fields.contains("label") && fields.contains("answer") ? "answer" : "label", 2));
    return continued(fmt::format("{}\nQuestion: {}?\nAnswer:", passage, question), {"no", "yes"}, gold);
}

Result<TaskItem> readRte(const Json& fields)
{
    ESPALIER_TRY(const std::string premise, textOf(fields, {"sentence1", "premise"}));
    ESPALIER_TRY(const std::string hypothesis, textOf(fields, {"sentence2", "hypothesis"}));
    const Json* label = fieldOf(fields, "label");
    int gold = -1;
    if (label && *label == "entailment")
        gold = 0;
    else if (label && *label == "not_entailment")
        gold = 1;
    else {
        ESPALIER_TRY(gold, labelOf(fields, "label", 2));
    }
    return continued(fmt::format("{}\nQuestion: {} True or False?\nAnswer:", premise, hypothesis), {"True", "False"}, gold);
}

// What follows the gap is scored, after each of the two fillings.
Result<TaskItem> readWinoGrande(const Json& fields)
{
    ESPALIER_TRY(const std::string sentence, textOf(fields, "sentence"));
    const std::size_t gap = sentence.find('_');
    if (gap == std::string::npos) return invalid("sentence", "has no gap \"_\"");
    TaskItem item;
    for (const std::string_view name : {"option1", "option2"}) {
        ESPALIER_TRY(const std::string option, textOf(fields, name));
        item.contexts.push_back(sentence.substr(0, gap) + option);
        item.continuations.push_back(std::string(1, ' ').append(stripped(std::string_view(sentence).substr(gap + 1))));
        item.lengths.push_back(codePoints(item.contexts.back()));
    }
    ESPALIER_TRY(const int answer, labelOf(fields, "answer", 10));
    if (answer == 0 || answer > 2) return invalid("answer", "is neither 1 nor 2");
    item.gold = answer < 0 ? -1 : answer - 1;
    return item;
}

constexpr std::array kRules = {TaskRules{"arc_challenge", "ARC-challenge", true, readArc},
                               TaskRules{"arc_easy", "ARC-easy", true, readArc},
                               TaskRules{"boolq", "BoolQ", false, readBoolQ},
                               TaskRules{"hellaswag", "HellaSwag", true, readHellaSwag},
                               TaskRules{"openbookqa", "OpenBookQA", true, readOpenBook},
                               TaskRules{"rte", "RTE", false, readRte},
                               TaskRules{"winogrande", "WinoGrande", false, readWinoGrande},
                               TaskRules{"piqa", "PIQA", true, readPiqa}};

}  // namespace

std::span<const TaskRules> allTaskRules() { return kRules; }

const TaskRules* findTaskRules(std::string_view id)
{
    const auto found = std::find_if(kRules.begin(), kRules.end(), [&](const TaskRules& rules) { return rules.id == id; });
    return found == kRules.end() ? nullptr : &*found;
}

}  // namespace espalier
