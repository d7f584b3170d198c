// The text that a verb or a request runs the model on.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "rpc/text_selection.h"
#include "statistics/profile_data.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/windows.h"

#include <CLI/CLI.hpp>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

// The text that a verb runs on: --text FILE.. or --ids FILE[:NAME], which windows of it, their length, BOS.
struct TextOptions {
    std::vector<std::filesystem::path> text;
    std::string ids;
    int windows = 0;                // at most; 0 = all
    bool windowsByDefault = false;  // nobody asked for that many
    int firstWindow = 0;            // windows of the text that are left out before them
    int spread = 0;                 // so many of them, spread evenly; 0 = all
    int windowLength = 0;           // 0 = min(2048, the model's positions)
    std::string bos = "auto";
    std::string format = "auto";  // of the files: text, jsonl, json
    std::string field;            // of JSON texts
};
// Of a request; the number of windows has another name in every one.
TextOptions textOptionsOf(const TextSelection& selection);
void addTextOptions(CLI::App* verb, TextOptions& options);
// Below the help of the verbs that measure a text: no session keeps count of it.
inline constexpr const char* kOpeningsNotCounted =
    "The command line knows no sessions: measuring a text that a session of the window keeps locked is not counted there as an opening.";
Result<TokenWindows> openText(const TextOptions& options, const Checkpoint& checkpoint);
// The same; what is worth saying about the text and its windows is added to `warnings` (tokenizer/text_windows.h).
Result<TokenWindows> openText(const TextOptions& options, const Checkpoint& checkpoint, std::vector<std::string>& warnings);
// The number of windows that somebody asked for.
std::optional<int> windowsAsked(const TextOptions& options);
Result<Bos> parseBos(const std::string& text);
// "1,2,3", brackets and spaces allowed. Error: usage.arguments.
Result<std::vector<int>> parseIdList(const std::string& list);
// Cut as the profile's text was: what a second text is opened with where the profile's own windows stand in for the first.
TextOptions cutAsProfile(TextOptions options, const ProfileData& profile);

}  // namespace espalier
