// What another program makes of an export: reads config.json, the JSON files beside it and the headers of the weights as transformers
// does, without Espalier's own reading of them, and compares what they promise with what is there.
#pragma once

#include "base/error.h"

#include <filesystem>
#include <string>
#include <vector>

namespace espalier
{

// One sentence for each thing a loader would do otherwise than the export means; empty: none was found. Errors: config.*, checkpoint.*
// where the folder cannot be read at all.
Result<std::vector<std::string>> runtimeObjections(const std::filesystem::path& folder);

}  // namespace espalier
