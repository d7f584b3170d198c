// A text or ids as somebody asked for them: the windows, and what is worth saying where they are not what was asked for.
#pragma once

#include "base/error.h"
#include "tokenizer/text_file.h"
#include "tokenizer/windows.h"

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

struct TextRequest {
    WindowOptions window = {};
    bool countAsked = true;     // maxWindows and windowLength are what somebody asked for, not a default:
    bool lengthAsked = true;    // a text that gives less is worth a warning
    int modelPositions = 0;     // that the model was made for: longer windows are worth a warning; 0 = unknown
    TextFileOptions file = {};  // how the files of a text are read
};

struct RequestedWindows {
    TokenWindows windows;
    std::vector<std::string> warnings;  // for people; those of the tokenizer and of the files among them
};

// As windowsFromText and windowsFromIds, which are these without the warnings. Errors: those of readTextDocuments, text.empty,
// text.too_short, text.no_bos, tokenizer.id_out_of_range, and of windowsFromIds.
Result<RequestedWindows> openTextWindows(const Tokenizer& tokenizer, std::span<const std::filesystem::path> files,
                                         const TextRequest& request);
Result<RequestedWindows> openIdWindows(const std::string& spec, const TextRequest& request, std::int64_t vocabulary);

// "128 windows were asked for, and a.txt has 9 of 256 tokens."; empty where there are as many.
std::string fewerWindows(int asked, const TokenWindows& given);

}  // namespace espalier
