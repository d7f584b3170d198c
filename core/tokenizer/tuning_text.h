// Texts to tune on: windows of token ids, and which of their tokens count. Plain text and JSON lines of {"text"} as everywhere
// (text_windows.h); records of an instruction and an answer with the instruction masked. Three forms of records, by the fields of a file's
// first one:
//   "instruction", "input" (may be missing or empty), "output": the prompt of Stanford Alpaca, https://github.com/tatsu-lab/stanford_alpaca
//   "prompt", "completion": one behind the other, as they are
//   "messages": turns {"role","content"} of system, user and assistant; every answer of the assistant counts. "conversations" of
//       {"from","value"} with system, human and gpt are the same. Written as ChatML where the tokenizer has its tokens <|im_start|> and
//       <|im_end|>, else under "### User:" and "### Assistant:".
// An answer ends with the end-of-sequence token (ChatML: <|im_end|>), which counts; a record begins with BOS where texts do.
#pragma once

#include "base/error.h"
#include "tokenizer/text_windows.h"
#include "tokenizer/windows.h"

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

class Tokenizer;

// Text to tune on, apart from the one that judges.
struct TuningText {
    TokenWindows windows;
    // Per window and token: whether the loss of predicting this token counts (prompts of instructions do not). Empty: all but the first
    // token of a window.
    std::vector<std::vector<bool>> scored = {};
};

struct RecordOptions {
    bool pack = true;          // whole records share a window as far as they fit; else each has one
    bool leaveOutBad = false;  // records that would be an error (below) are left out, and a warning says how many
};

struct RequestedTuning {
    TuningText text;
    std::int64_t records = 0;  // of instructions; 0: none of the files has any
    std::vector<std::string> warnings;
};

// Files of records and others may be mixed: windows of the others come first. Tokens behind the prompt count, the one that a tokenizer
// makes of the end of a prompt and the beginning of its answer among them.
// Errors: those of openTextWindows; text.invalid_line (no JSON object), text.no_field (names what is missing or no text),
// text.unknown_role, text.empty_output (an answer of nothing), text.record_too_short (nothing to predict), text.record_too_long (longer
// than a window). Those of records name the file and the line. Nothing runs before all of them are read.
Result<RequestedTuning> openTuningWindows(const Tokenizer& tokenizer, std::span<const std::filesystem::path> files,
                                          const TextRequest& request, const RecordOptions& options);

// Windows of `text` of which a part is in `others`, too: the same row, or 32 tokens in sequence (so 63 in common at most go unseen). Of
// masked windows what counts is compared, so that a prompt's words are none.
int sharedWindows(const TuningText& text, const TokenWindows& others);

}  // namespace espalier
