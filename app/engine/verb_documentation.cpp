#include "verb_documentation.h"

#include "options.h"
#include "pipeline/method_catalog.h"

#include "base/text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <vector>

namespace espalier
{

namespace
{

constexpr std::string_view kCommonGroup = "Common options";

// Verbs that --help lists.
std::vector<const CLI::App*> verbsOf(const CLI::App& app)
{
    std::vector<const CLI::App*> verbs = app.get_subcommands([](const CLI::App* verb) { return !verb->get_group().empty(); });
    return verbs;
}

std::vector<const CLI::Option*> namedOptions(const CLI::App& verb, bool common)
{
    return verb.get_options([common](const CLI::Option* option) {
        return !option->get_positional() && !option->get_lnames().empty() && (option->get_group() == kCommonGroup) == common &&
               option->get_lnames().front() != "help" && option->get_lnames().front() != "version";
    });
}

std::vector<const CLI::Option*> positionals(const CLI::App& verb)
{
    return verb.get_options([](const CLI::Option* option) { return option->get_positional(); });
}

// "FILE", "N", or "TEXT:{a,b}" where a fixed set of values is checked.
std::string valueName(const CLI::Option& option)
{
    const std::string type = option.get_type_name();
    return type.substr(0, type.find(':'));
}

std::vector<std::string> fixedValues(const CLI::Option& option)
{
    const std::string type = option.get_type_name();
    const std::size_t open = type.find(":{");
    if (open == std::string::npos || type.back() != '}') return {};
    std::vector<std::string> values;
    std::string value;
    for (const char c : type.substr(open + 2, type.size() - open - 3)) {
        if (c != ',') {
            value += c;
            continue;
        }
        values.push_back(std::move(value));
        value.clear();
    }
    values.push_back(std::move(value));
    return values;
}

bool takesValue(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

std::string roff(std::string_view text)
{
    std::string escaped;
    for (const char c : text) {
        if (c == '-')
            escaped += "\\-";
        else if (c == '\\')
            escaped += "\\e";
        else if ((c == '.' || c == '\'') && escaped.empty())
            escaped += std::string("\\&") + c;
        else
            escaped += c;
    }
    return escaped;
}

std::string manualOption(const CLI::Option& option)
{
    std::string text = fmt::format(".TP\n\\fB\\-\\-{}\\fR", roff(option.get_lnames().front()));
    if (takesValue(option)) {
        const std::vector<std::string> values = fixedValues(option);
        text += fmt::format(" \\fI{}\\fR", roff(values.empty() ? valueName(option) : fmt::format("{}", fmt::join(values, "|"))));
    }
    return text + "\n" + roff(option.get_description()) + ".\n";
}

// Files and folders are told apart by what an option calls its value.
std::string valueCompletion(const CLI::Option& option)
{
    const std::string& name = option.get_lnames().front();
    std::vector<std::string> values = fixedValues(option);
    if (values.empty()) {
        const std::string slot = name == "method" ? "score" : name;
        for (const MethodInfo& method : allMethods())
            if (slotName(method.slot) == slot) values.push_back(method.id);
    }
    if (name == "device") values = {"cpu", "cuda"};
    if (!values.empty()) return fmt::format("COMPREPLY=($(compgen -W \"{}\" -- \"$cur\"))", fmt::join(values, " "));
    const std::string type = valueName(option);
    if (type.find("DIR") != std::string::npos || type.find("MODEL") != std::string::npos) return "_espalier_engine_names -d";
    if (type.find("FILE") != std::string::npos || type.find('.') != std::string::npos || type.find("PLAN") != std::string::npos)
        return "_espalier_engine_names -f";
    return ":";
}

}  // namespace

std::string manualPage(const CLI::App& app, std::string_view page)
{
    std::string verbs;
    std::string common;
    for (const CLI::App* verb : verbsOf(app)) {
        std::string operands;
        for (const CLI::Option* operand : positionals(*verb))
            operands += fmt::format(" \\fI{}\\fR", roff(operand->get_name(true)));
        verbs += fmt::format(".SS \\fB{}\\fR{}\n{}.\n", roff(verb->get_name()), operands, roff(verb->get_description()));
        for (const CLI::Option* option : namedOptions(*verb, false))
            verbs += manualOption(*option);
        if (!common.empty()) continue;
        for (const CLI::Option* option : namedOptions(*verb, true))
            common += manualOption(*option);
    }
    std::string result(page);
    for (const auto& [mark, text] : {std::pair{std::string_view("@VERBS@\n"), &verbs}, std::pair{std::string_view("@COMMON@\n"), &common}})
        if (const std::size_t at = result.find(mark); at != std::string::npos) result.replace(at, mark.size(), *text);
    return result;
}

std::string bashCompletion(const CLI::App& app)
{
    std::string script = R"(# bash completion for espalier-engine(1)

# Files (-f) or folders (-d); `compopt` makes the shell treat the words as names.
_espalier_engine_names()
{
    compopt -o filenames 2>/dev/null
    local name
    while IFS= read -r name; do
        COMPREPLY+=("$name")
    done < <(compgen "$1" -- "$cur")
}

_espalier_engine()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb="" i
    COMPREPLY=()
)";
    std::vector<std::string> names;
    std::string values;
    std::string own;
    std::map<std::string, std::string> seen;
    for (const CLI::App* verb : verbsOf(app)) {
        names.push_back(verb->get_name());
        std::vector<std::string> options = {"--help", "--version"};
        for (const bool common : {false, true})
            for (const CLI::Option* option : namedOptions(*verb, common)) {
                const std::string flag = "--" + option->get_lnames().front();
                options.push_back(flag);
                if (!takesValue(*option)) continue;
                const std::string completion = valueCompletion(*option);
                values += fmt::format("        \"{} {}\") {}; return ;;\n", verb->get_name(), flag, completion);
            }
        own += fmt::format("        {}) own=\"{}\" ;;\n", verb->get_name(), fmt::join(options, " "));
    }
    script += fmt::format(R"(    local verbs="{0}"
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ " $verbs " == *" ${{COMP_WORDS[i]}} "* ]]; then
            verb=${{COMP_WORDS[i]}}
            break
        fi
    done
    if [[ -z $verb ]]; then
        COMPREPLY=($(compgen -W "$verbs --help --version" -- "$cur"))
        return
    fi
    case "$verb $prev" in
{1}    esac
    if [[ $cur == -* ]]; then
        local own=""
        case $verb in
{2}        esac
        COMPREPLY=($(compgen -W "$own" -- "$cur"))
        return
    fi
    _espalier_engine_names -f
}}

complete -F _espalier_engine espalier-engine
)",
                          fmt::join(names, " "), values, own);
    return script;
}

void addDocumentation(Verbs& verbs, const CLI::App& app)
{
    struct Options {
        std::string manual;
        bool completion = false;
    };
    auto options = std::make_shared<Options>();
    CLI::App* verb =
        verbs.add("documentation", "Manual page and shell completion", [options, &app](Invocation& invocation) -> Result<Json> {
            if (options->completion) invocation.text = bashCompletion(app);
            if (options->manual.empty()) return Json::object();
            ESPALIER_TRY(const std::string page, readTextFile(options->manual, "documentation", 1 << 20));
            invocation.text += manualPage(app, page);
            return Json::object();
        });
    verb->group("");
    verb->add_option("--manual", options->manual, "Template of the manual page");
    verb->add_flag("--bash", options->completion, "Completion script for bash");
}

}  // namespace espalier
