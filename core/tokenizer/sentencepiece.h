// A SentencePiece BPE model (`tokenizer.model`) as the tokenizer.json it stands for: for checkpoints that come without
// one.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <string_view>

namespace espalier
{

// Ids equal those of the converted file on any text. Errors: tokenizer.invalid (not a SentencePiece file, or cut off),
// tokenizer.unsupported (unigram models, normalisation other than identity).
Result<Json> tokenizerJsonFromSentencePiece(std::string_view model);

}  // namespace espalier
