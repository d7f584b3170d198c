#include "options.h"

#include "base/text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>

namespace espalier
{

CLI::App* Verbs::add(const std::string& name, const std::string& help, VerbFunction run, Processes processes)
{
    CLI::App* verb = m_app.add_subcommand(name, help);
    verb->set_help_flag("-h,--help", "Print this help and exit");
    verb->set_version_flag("--version", "espalier-engine " ESPALIER_VERSION);
    const std::string group = "Common options";
    verb->add_flag("--json", m_common.json, "Exactly one JSON object on standard output")->group(group);
    verb->add_option("--threads", m_common.threads, "Compute threads (default: all cores)")->check(CLI::Range(1, 4096))->group(group);
    verb->add_option("--device", m_common.device, "cpu, cuda or cuda:N")->group(group);
    verb->add_option("--dtype", m_common.dtype, "Compute type: fp32, bf16 or auto (bf16 where it is faster)")
        ->check(CLI::IsMember({"fp32", "bf16", "auto"}))
        ->group(group);
    verb->add_option("--memory-budget", m_common.memoryBudget, "Memory to stay within, for example 4GiB (default: half of the machine's)")
        ->group(group);
    verb->add_option("--seed", m_common.seed, "Seed of everything random")->group(group);
    CLI::Option* resident = verb->add_flag("--resident", m_common.resident, "Hold all layers in memory")->group(group);
    verb->add_flag("--stream", m_common.stream, "Read layers from the disk as they are needed")->excludes(resident)->group(group);
    CLI::Option* quiet = verb->add_flag("--quiet", m_common.quiet, "No progress and no warnings")->group(group);
    verb->add_flag("--verbose", m_common.verbose, "More on standard error")->excludes(quiet)->group(group);
    if (processes == Processes::One)
        run = [name, run = std::move(run)](Invocation& invocation) -> Result<Json> {
            if (!invocation.processes.alone())
                return usageError({"`{name}` runs in one process; mpirun started {processes}.",
                                   {{"name", name}, {"processes", invocation.processes.size()}}},
                                  "profile, plan, evaluate and export share their work.");
            return run(invocation);
        };
    m_verbs.emplace_back(verb, std::move(run));
    return verb;
}

std::optional<VerbFunction> Verbs::chosen() const
{
    for (const auto& entry : m_verbs)
        if (entry.first->parsed())
            return [this, &run = entry.second](Invocation& invocation) -> Result<Json> {
                if (m_before) ESPALIER_CHECK_OK(m_before(invocation.options));
                return run(invocation);
            };
    return std::nullopt;
}

Result<ModelOptions> modelOptions(const CommonOptions& options)
{
    ModelOptions model;
    model.device = options.device;
    model.compute = options.dtype == "bf16" ? ComputeType::Bf16 : ComputeType::Fp32;
    model.residency = options.resident ? Residency::Resident : options.stream ? Residency::Stream : Residency::Auto;
    model.threads = options.threads;
    if (!options.memoryBudget.empty()) {
        ESPALIER_TRY(model.memoryBudget, parseByteSize(options.memoryBudget));
    }
    return model;
}

Result<std::map<std::string, Params>> parseParams(const std::vector<std::string>& given, const std::vector<std::string>& slots)
{
    std::map<std::string, Params> params;
    for (const std::string& item : given) {
        const std::size_t equals = item.find('=');
        if (equals == std::string::npos || equals == 0)
            return usageError({"\"{item}\" is not a parameter.", {{"item", item}}},
                              slots.empty() ? "Write --param key=value." : "Write --param slot.key=value.");
        std::string key = item.substr(0, equals);
        const std::string text = item.substr(equals + 1);
        std::string slot;
        if (!slots.empty()) {
            const std::size_t dot = key.find('.');
            slot = key.substr(0, dot);
            if (dot == std::string::npos || std::find(slots.begin(), slots.end(), slot) == slots.end())
                return usageError({"\"{item}\" does not say which slot it belongs to.", {{"item", item}}},
                                  {"Write slot.key=value, slot one of {slots}.", {{"slots", fmt::format("{}", fmt::join(slots, ", "))}}});
            key = key.substr(dot + 1);
        }
        Json value = text;
        if (text == "true" || text == "false") value = text == "true";
        // People write .3 where JSON wants 0.3.
        else if (const Result<Json> number = parseJson(text.starts_with('.') ? "0" + text : text, "parameter", "usage");
                 number.ok() && number->is_number())
            value = *number;
        params[slot][key] = value;
    }
    return params;
}

}  // namespace espalier
