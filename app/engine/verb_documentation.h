// Manual page and shell completion, written from the same definitions that parse the command line.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <string_view>

namespace espalier
{

// `page` with the lines @VERBS@ and @COMMON@ replaced by what `app` defines (man macros).
std::string manualPage(const CLI::App& app, std::string_view page);

// A completion script for bash: verbs, options, values of options that have a fixed set, method ids, files and folders.
std::string bashCompletion(const CLI::App& app);

}  // namespace espalier
