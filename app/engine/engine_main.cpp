#include "engine_main.h"

#include "terminal.h"

#include "base/exception.h"
#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace espalier
{

namespace
{

std::string dump(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"; }

Result<Json> guarded(const VerbFunction& verb, Invocation& invocation)
{
    try {
        return verb(invocation);
    } catch (const std::exception& failure) {
        return errorFromException(failure);
    }
}

int runVerb(const VerbFunction& verb, const CommonOptions& options, int output)
{
    const auto started = std::chrono::steady_clock::now();
    Result<Json> result = internalError("The verb did not run.");
    int code = 0;
    std::string text;
    Result<ProcessGroup> joined = ProcessGroup::join();
    if (!joined.ok()) return reportFailure(joined.error(), options.json, output);
    ProcessGroup processes = std::move(joined).value();
    const bool quiet = options.quiet || !processes.first();
    {
        TerminalJob job(quiet);
        Invocation invocation{options, job, nullptr, {}, {}, {}, 0, processes};
        result = guarded(verb, invocation);
        // Nobody goes before all are done: what fails on one fails on all.
        if (!processes.alone() && !processes.over()) {
            const Status all = processes.meet(result.ok() ? Status() : Status(result.error()));
            if (!all.ok()) result = all.error();
        }
        if (result.ok() && result->is_object()) {
            Json& body = *result;
            body["espalier"] = ESPALIER_VERSION;
            if (!invocation.model.is_null()) body["model"] = invocation.model;
            body["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
            body["peak_rss_bytes"] = peakResidentBytes();
            body["threads"] = resolvedThreads(options.threads);
            if (!processes.alone()) body["processes"] = processes.size();
            body["device"] = options.device;
            body["dtype"] = invocation.dtype.empty() ? Json() : Json(invocation.dtype);
            body["seed"] = options.seed;
            body["warnings"] = invocation.warnings;
        }
        code = invocation.exitCode;
        text = std::move(invocation.text);
        if (!quiet)
            for (const std::string& warning : invocation.warnings)
                writeAll(2, fmt::format("warning: {}\n", warning));
    }
    if (!result.ok()) return processes.first() ? reportFailure(result.error(), options.json, output) : result.error().exitCode();
    if (!processes.first()) return code;
    if (options.json)
        writeAll(output, dump(*result));
    else
        writeAll(output, text);
    return code;
}

}  // namespace

Error errorFromException(const std::exception& failure)
{
    return errorOf(failure,
                   resourceError("engine.out_of_memory", {}, "The engine ran out of memory.",
                                 "Lower --memory-budget, or use fewer or shorter windows."),
                   "The verb");
}

int resolvedThreads(int asked) { return asked > 0 ? asked : std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

int reportFailure(const Error& error, bool json, int output)
{
    if (json) {
        Json body = toJson(error);
        for (const char* field : {"code", "subject", "message", "kept", "action"})
            if (!body.contains(field)) body[field] = "";
        writeAll(output, dump({{"error", std::move(body)}}));
    }
    writeAll(2, fmt::format("espalier-engine: {} [{}]\n", error.describe(), error.code));
    return error.exitCode();
}

int runEngine(int argc, char** argv, int output, const AddVerbs& addVerbs)
{
    CLI::App app{"Compresses Mixture-of-Experts language models.", "espalier-engine"};
    app.set_help_flag("-h,--help", "Print this help and exit");
    app.set_version_flag("--version", "espalier-engine " ESPALIER_VERSION);
    app.require_subcommand(1);
    app.footer("`espalier-engine help VERB` (or VERB --help) explains a verb.");
    app.get_formatter()->column_width(34);

    CommonOptions common;
    Verbs verbs(app, common);
    addVerbs(app, verbs);
    const auto isVerb = [&](const std::string& name) {
        const std::vector<CLI::App*> known = app.get_subcommands([](CLI::App*) { return true; });
        return std::any_of(known.begin(), known.end(), [&](const CLI::App* verb) { return verb->get_name() == name; });
    };
    const auto noSuchVerb = [](const std::string& name) { return fmt::format("There is no verb \"{}\".", name); };
    // `help` and `help VERB` are `--help` and `VERB --help`.
    std::vector<std::string> arguments(argv + 1, argv + argc);
    if (!arguments.empty() && arguments.front() == "help") {
        arguments.erase(arguments.begin());
        if (!arguments.empty() && (arguments.front() == "help" || arguments.front().starts_with('-'))) arguments.clear();
        arguments.resize(std::min<std::size_t>(arguments.size(), 1));
        if (!arguments.empty() && !isVerb(arguments.front()))
            return reportFailure(usageError(noSuchVerb(arguments.front()), "See `espalier-engine --help`."), false, output);
        arguments.push_back("--help");
    }
    try {
        app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
    } catch (const CLI::ParseError& outcome) {
        std::ostringstream out;
        std::ostringstream err;
        if (outcome.get_exit_code() == 0) {  // --help, --version
            app.exit(outcome, out, err);
            writeAll(output, out.str());
            return 0;
        }
        bool json = false;
        for (int i = 1; i < argc; ++i)
            json = json || std::strcmp(argv[i], "--json") == 0;
        std::string message = outcome.what();
        if (!arguments.empty() && !arguments.front().starts_with('-') && !isVerb(arguments.front()))
            message = noSuchVerb(arguments.front());
        if (!message.empty() && message.back() != '.') message += '.';
        return reportFailure(usageError(std::move(message), "See `espalier-engine --help`."), json, output);
    }
    if (const auto verb = verbs.chosen()) return runVerb(*verb, common, output);
    return reportFailure(internalError("No verb was chosen."), common.json, output);
}

}  // namespace espalier
