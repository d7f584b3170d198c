// One choice as token ids, joined as lm-evaluation-harness joins context and continuation.
#pragma once

#include "base/error.h"
#include "tokenizer/tokenizer.h"

#include <string_view>
#include <vector>

namespace espalier
{

struct ChoiceRequest {
    std::vector<int> ids;   // what the model sees, and behind it the last token; at most `positions` + 1
    int scored = 0;         // of these the last so many are the continuation: their log-likelihoods are summed
    int contextTokens = 0;  // before anything was cut off
};

// White space at the end of the context goes to the continuation. The context is encoded alone and together with the continuation; what the
// longer list has more is the continuation, whether or not the lists begin alike. An empty context is the beginning-of-sequence token (else
// the end-of-sequence token). Of more than `positions` + 1 ids the first go. Errors: task.no_tokens (the continuation has no ids of its
// own, or nothing stands before it), task.too_long (it is longer than the model's positions); those of encode.
Result<ChoiceRequest> encodeChoice(const Tokenizer& tokenizer, std::string_view context, std::string_view continuation, int positions);

}  // namespace espalier
