// The modelling code written into factored exports, as it stands in resources/python.
#pragma once

#include <span>
#include <string_view>
#include <utility>

namespace espalier
{

// File name and content.
std::span<const std::pair<std::string_view, std::string_view>> pythonFiles();

}  // namespace espalier
