// Verbs on a tiny model of the fixtures: seconds instead of minutes.
#pragma once

#include "cli/engine_process.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

namespace espalier::testing
{

inline const std::string kModel = std::string(ESPALIER_TEST_FIXTURES) + "/model/checkpoints/qwen2moe-tiny";
inline const std::string kIds = std::string(ESPALIER_TEST_FIXTURES) + "/profile/qwen2moe-tiny.json";

inline Outcome json(std::vector<std::string> arguments)
{
    arguments.insert(arguments.end(), {"--json", "--threads", "1"});
    return runEngine(arguments);
}

inline Outcome onText(std::vector<std::string> arguments)
{
    arguments.insert(arguments.end(), {"--ids", kIds, "--window-length", "64"});
    return json(std::move(arguments));
}

inline std::string readFile(const std::filesystem::path& path)
{
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
}

}  // namespace espalier::testing
