// Which text a request runs the model on, in the words of all of them: "text" or "ids", "first_window", "window_length", "text_field",
// "bos". How many windows it takes has another name in every request.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace espalier
{

struct TextSelection {
    std::vector<std::filesystem::path> text;  // one path or a list; tokenised as one sequence
    std::string ids;                          // FILE[:NAME] of token ids instead of text
    int firstWindow = 0;                      // windows of the text that are left out before them
    int windowLength = 0;                     // 0: min(2048, the model's positions)
    std::string textField;                    // of JSON texts; empty: "text", or the only one
    std::string bos = "auto";                 // or "yes", "no"; true and false are read as well

    bool empty() const { return text.empty() && ids.empty(); }
};

}  // namespace espalier
