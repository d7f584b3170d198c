#include "options.h"
#include "pipeline/method_catalog.h"
#include "terminal.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace espalier
{

namespace
{

std::string defaultsText(const MethodInfo& method)
{
    std::string text;
    for (const ParamSpec& spec : method.params)
        text += fmt::format("{}{}={}", text.empty() ? "" : " ", spec.key, spec.defaultValue.dump());
    return text;
}

Result<Json> listMethods(const std::string& slot, Invocation& invocation)
{
    Json list = Json::array();
    Table table({"slot", "method", "title", "parameters", "source"});
    for (const MethodInfo& method : allMethods()) {
        if (!slot.empty() && slotName(method.slot) != slot) continue;
        list.push_back(toJson(method));
        table.row({std::string(slotName(method.slot)), method.id, method.title, defaultsText(method), method.source});
    }
    invocation.text = table.text();
    return Json{{"methods", std::move(list)}};
}

}  // namespace

void addMethods(Verbs& verbs)
{
    auto slot = std::make_shared<std::string>();
    CLI::App* verb = verbs.add("methods", "The methods of every slot, with their parameters",
                               [slot](Invocation& invocation) { return listMethods(*slot, invocation); });
    std::vector<std::string> names;
    for (const Slot each : allSlots())
        names.emplace_back(slotName(each));
    verb->add_option("--slot", *slot, fmt::format("Only this slot: {}", fmt::join(names, ", ")))->check(CLI::IsMember(names));
}

}  // namespace espalier
