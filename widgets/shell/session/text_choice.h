// The three texts of a model, with a folder of tasks beside them, and which windows of them each is for. Scores and searches are fitted to
// the calibration text, so that a perplexity on it flatters; the live text is measured while editing, which in time fits plans to it too;
// the locked text is opened on request only, and every opening is counted. No two of them share a window.
#pragma once

#include "rpc/text_selection.h"

#include <QString>

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

// Windows of one text, as engine requests name them.
struct EvaluationText {
    std::vector<std::string> paths;
    int firstWindow = 0;  // windows of the file before these
    int windowLength = 256;
    int quickWindows = 16;  // spread evenly over the full ones
    int fullWindows = 128;  // at most
    bool part = false;      // others of its windows are another text's
    bool operator==(const EvaluationText&) const = default;
};

// What every request says of it in the same words.
TextSelection selectionOf(const EvaluationText& text);
// "notes.txt", or "notes.txt from window 96" where the file is shared.
QString textName(const EvaluationText& text);

struct TextChoice {
    QString calibration;
    QString live;    // empty: other windows of the calibration text
    QString locked;  // empty: other windows of the live text
    QString tasks;   // folder of multiple-choice tasks
    bool operator==(const TextChoice&) const = default;
};

struct TextShares {
    EvaluationText calibration;
    EvaluationText live;
    EvaluationText locked;
};

inline constexpr int kCalibrationWindows = 96;

// Files that stand for more than one text: how many windows they have must be known to share them out.
std::vector<QString> sharedFiles(const TextChoice& choice);
// A shared file is cut in the order calibration, live, locked, in the proportions of what each wants. Nothing where it has fewer windows
// than texts. `windows`: of every shared file, whole.
std::optional<TextShares> shareTexts(const TextChoice& choice, int windowLength, const std::map<QString, int>& windows);

}  // namespace espalier
