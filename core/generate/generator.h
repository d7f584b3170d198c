// Completions: a prompt, and the tokens that a model under a plan says next.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "generate/sampler.h"
#include "plan/compression_plan.h"
#include "tokenizer/windows.h"

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

class MoeModel;
class Tokenizer;

struct GenerateOptions {
    int tokens = 64;  // at most
    Sampling sampling = {};
    std::vector<int> endIds = {};        // that end the sequence
    std::vector<std::string> stop = {};  // strings that do
    int alternatives = 0;                // of every token
};

struct GeneratedToken {
    int index = 0;
    TokenChoice choice;
    std::string text;                       // what it makes certain of the text
    std::vector<std::string> alternatives;  // what those of the choice would have added
};

enum class Finish { Length, End, Stop, Context };
// What is worth knowing before a plan is run token by token, for people; empty: nothing.
std::string slowPlanWarning(const MoeModel& model, const CompressionPlan& plan);
const char* finishName(Finish finish);  // "length", "end", "stop", "context"

struct Generated {
    std::vector<int> ids;  // an end token is the last one
    std::vector<double> logprobs;
    std::string text;
    Finish finish = Finish::Length;
    double prefillSeconds = 0;  // the prompt and the first token; without what ran in stop checks
    double decodeSeconds = 0;
};

// A prompt in tokens. `bos`: the token that begins a sequence before them; Auto: as the tokenizer says. Errors: generate.empty_prompt,
// tokenizer.no_bos (BadInput), those of Tokenizer::encode.
Result<std::vector<int>> promptIds(const Tokenizer& tokenizer, const std::string& prompt, Bos bos = Bos::Auto);

// `done` hears of every token as soon as it is known. Positions go as far as the model's context: a prompt beyond it is an error, and where
// the completion reaches it it ends. A stop is honoured between layers; an error then names what was generated. `tokenizer` may be null
// where there are no stop strings: no text then. On the compute thread. Errors: generate.empty_prompt, generate.prompt_too_long (BadInput),
// generate.no_tokenizer, model.token_out_of_range; those of MoeModel; job.cancelled.
Result<Generated> generate(MoeModel& model, const CompressionPlan& plan, std::span<const int> prompt, const GenerateOptions& options,
                           const Tokenizer* tokenizer, JobContext& job, const std::function<void(const GeneratedToken&)>& done = {});

}  // namespace espalier
