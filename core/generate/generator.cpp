#include "generate/generator.h"

#include "checkpoint/checkpoint.h"
#include "generate/sequence.h"
#include "generate/text_stream.h"
#include "model/moe_model.h"
#include "tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace espalier
{

namespace
{

Error emptyPrompt()
{
    return badInput("generate.empty_prompt", "prompt", "The prompt is empty.",
                    "Give at least one character, or ids: the token that begins a sequence alone is a prompt.");
}

Status checkPrompt(const MoeModel& model, std::span<const int> prompt)
{
    if (prompt.empty()) return emptyPrompt();
    const ModelShape& shape = model.shape();
    if (shape.maxPositions > 0 && std::ssize(prompt) > shape.maxPositions)
        return badInput("generate.prompt_too_long", "prompt",
                        {"The prompt has {tokens} tokens, and the model was made for {positions}.",
                         {{"tokens", std::ssize(prompt)}, {"positions", shape.maxPositions}}},
                        "Shorten it.");
    const std::int64_t rows = model.checkpoint().embed().shape.front();
    for (const int id : prompt)
        if (id < 0 || id >= rows)
            return badInput("model.token_out_of_range", std::to_string(id),
                            {"Token {i} does not exist: the model has {rows} embedding rows.", {{"i", id}, {"rows", rows}}},
                            "Use ids of the model's own tokenizer.");
    return {};
}

// What is lost by stopping is said.
Error stopped(Error error, const Generated& result)
{
    if (error.kind == ErrorKind::Cancelled && !result.ids.empty()) {
        error.kept = fmt::format("{} tokens were generated", result.ids.size());
        error.kept += result.text.empty() ? "." : ": " + result.text;
    }
    return error;
}

}  // namespace

std::string slowPlanWarning(const MoeModel& model, const CompressionPlan& plan)
{
    if (!model.streamsWeights() || !plan.needsFactors()) return {};
    return "The memory budget does not hold the model, so factors of the plan are computed again whenever a token needs them, which is "
           "slow: "
           "export the plan and run the export, or raise the budget.";
}

const char* finishName(Finish finish)
{
    switch (finish) {
        case Finish::End:
            return "end";
        case Finish::Stop:
            return "stop";
        case Finish::Context:
            return "context";
        case Finish::Length:
            break;
    }
    return "length";
}

Result<std::vector<int>> promptIds(const Tokenizer& tokenizer, const std::string& prompt, Bos bos)
{
    if (prompt.empty()) return emptyPrompt();
    ESPALIER_TRY(std::vector<int> ids, tokenizer.encode(prompt, false));
    const bool wanted = bos == Bos::Yes || (bos == Bos::Auto && tokenizer.addsBos());
    if (wanted && !tokenizer.bosId())
        return badInput("tokenizer.no_bos", "tokenizer", "The tokenizer has no beginning-of-sequence token.", "Use --bos no.");
    if (wanted) {
        ESPALIER_CHECK_OK(tokenizer.checkId(*tokenizer.bosId()));
        ids.insert(ids.begin(), *tokenizer.bosId());
    }
    return ids;
}

Result<Generated> generate(MoeModel& model, const CompressionPlan& plan, std::span<const int> prompt, const GenerateOptions& options,
                           const Tokenizer* tokenizer, JobContext& outer, const std::function<void(const GeneratedToken&)>& done)
{
    const c10::InferenceMode guard;
    ESPALIER_CHECK_OK(checkPrompt(model, prompt));
    if (!tokenizer && !options.stop.empty())
        return badInput("generate.no_tokenizer", "tokenizer", "The model has no tokenizer, and stop strings are looked for in text.",
                        "Leave them out, or put the model's tokenizer.json into its folder.");
    ESPALIER_TRY(PreparedPlan prepared, model.prepare(plan));
    // The last token is not fed: it needs no position.
    const int positions = model.shape().maxPositions;
    const std::int64_t room = positions > 0 ? positions - std::ssize(prompt) + 1 : std::numeric_limits<int>::max();
    const std::int64_t most = std::min<std::int64_t>(options.tokens, room);
    ESPALIER_TRY(Sequence sequence, Sequence::begin(model, std::move(prepared), std::ssize(prompt) + most - 1));

    WorkClock job(outer);
    Generated result;
    TextStream text(tokenizer, prompt, options.stop);
    std::vector<int> fed(prompt.begin(), prompt.end());
    job.progress(0, most, "token");
    for (int index = 0; index < most; ++index) {
        Result<at::Tensor> logits = sequence.feed(fed, job);
        result.text = text.text();
        if (!logits.ok()) return stopped(std::move(logits).error(), result);
        GeneratedToken token{index, {}, {}, {}};
        token.choice = chooseToken({logits->const_data_ptr<float>(), static_cast<std::size_t>(logits->numel())}, options.sampling,
                                   static_cast<std::uint64_t>(index), options.alternatives);
        if (index == 0) result.prefillSeconds = job.seconds();
        const int id = token.choice.chosen.id;
        result.ids.push_back(id);
        result.logprobs.push_back(token.choice.chosen.logprob);
        for (const TokenChance& other : token.choice.alternatives)
            token.alternatives.push_back(text.peek(other.id));
        token.text = text.add(id);
        const bool end = std::find(options.endIds.begin(), options.endIds.end(), id) != options.endIds.end();
        if (end)
            result.finish = Finish::End;
        else if (text.stopped())
            result.finish = Finish::Stop;
        const bool last = end || text.stopped() || index + 1 == most;
        if (last) token.text += text.finish();
        if (done) done(token);
        job.progress(index + 1, most, "token");
        if (end || text.stopped()) break;
        if (last) result.finish = most < options.tokens ? Finish::Context : Finish::Length;
        fed.assign(1, id);
    }
    result.text = text.text();
    result.decodeSeconds = job.seconds() - result.prefillSeconds;
    return result;
}

}  // namespace espalier
