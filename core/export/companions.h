// What travels with the weights from the folder of the source: tokenizer and its vocabulary, chat templates, processor and generation
// settings, licences. Code found there is neither run nor passed on; JSON that names it is written without the names, and what is left
// behind is said.
#pragma once

#include "base/error.h"
#include "plan/flavors.h"

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

struct Companions {
    std::vector<std::pair<std::string, std::filesystem::path>> copies;  // name in the export, file; byte for byte
    std::vector<std::pair<std::string, std::string>>
        edited;                              // name in the export, content without names of code, or without a byte order mark
    std::vector<std::string> code;           // Python files that config.json and the JSON files name, or that lie in the folder
    std::vector<std::string> tokenizerCode;  // those of them that the tokenizer is made of
    bool tokenizerFile = false;              // tokenizer.json is among the copies
    std::vector<std::string> warnings;
};

// Errors: checkpoint.unreadable, those of readTextFile.
Result<Companions> companionsOf(const std::filesystem::path& source);

}  // namespace espalier
