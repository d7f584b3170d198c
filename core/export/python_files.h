// The Python files that go with exports, as they stand in resources/python.
#pragma once

#include <span>
#include <string_view>
#include <utility>

namespace espalier
{

// File name and content. The modelling code of factored exports.
std::span<const std::pair<std::string_view, std::string_view>> pythonFiles();
// Times an export in transformers beside its original; runs nothing of itself.
std::pair<std::string_view, std::string_view> timingFile();

}  // namespace espalier
