// The frame of the command line: parses, runs the chosen verb and reports. No libtorch: espalier-engine itself answers what needs none, and
// espalier-engine-compute everything else.
#pragma once

#include "options.h"

#include "base/error.h"

#include <CLI/CLI.hpp>

#include <exception>
#include <functional>

namespace espalier
{

// Running out of memory is the world's fault, anything else ours. libtorch reports both by exceptions.
Error errorFromException(const std::exception& failure);

int resolvedThreads(int asked);  // 0 = all cores

// Prints it for people, and with `json` as the answer too. Returns the exit code.
int reportFailure(const Error& error, bool json, int output);

using AddVerbs = std::function<void(CLI::App&, Verbs&)>;
// `output`: descriptor of the real standard output. Returns the exit code.
int runEngine(int argc, char** argv, int output, const AddVerbs& addVerbs);

}  // namespace espalier
