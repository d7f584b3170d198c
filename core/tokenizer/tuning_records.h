// Records of instructions as pieces of prompt and answer. Private to core/tokenizer.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "tokenizer/text_file.h"

#include <string>
#include <vector>

namespace espalier
{

struct TuningExchange {
    std::string prompt;
    std::string answer;  // counts
};

struct TuningRecord {
    std::vector<TuningExchange> exchanges;
    std::string where;  // "line 3"
};

enum class RecordForm { None, Instruction, Completion, Conversation };

// By its fields.
RecordForm recordForm(const Json& record);

// One record of a file. `chatMl`: of conversations, ChatML's tokens, of which <|im_end|> belongs to the answer. Errors: text.no_field,
// text.unknown_role, text.empty_output, each with file and place.
Result<TuningRecord> tuningRecord(const JsonRecord& record, RecordForm form, const std::string& subject, bool chatMl);

}  // namespace espalier
