#include "base/text.h"
#include "factor_profiles.h"
#include "generate/end_tokens.h"
#include "generate/generator.h"
#include "pipeline/model_match.h"
#include "pipeline/result_json.h"
#include "text_options.h"
#include "tokenizer/text_windows.h"
#include "tokenizer/tokenizer.h"
#include "verb_inputs.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

struct CompletionOptions {
    std::filesystem::path model;
    std::string prompt;
    bool hasPrompt = false;
    std::string ids;
    std::string bos = "auto";
    std::filesystem::path plan;
    std::vector<std::filesystem::path> profiles;
    int tokens = 64;
    double temperature = 0;
    double topP = 1;
    std::vector<std::string> stop;
    int alternatives = 0;
    bool ignoreEnd = false;
    bool allowOther = false;
};

struct Prompt {
    std::vector<int> ids;
    std::optional<Tokenizer> tokenizer;
};

Error manyPrompts(const std::string& file, std::size_t rows)
{
    return badInput("generate.one_prompt", file,
                    {"{file} holds {rows} rows of ids, and a prompt is one.", {{"file", file}, {"rows", rows}}},
                    "Give a file with one row.");
}

// A JSON file with a list of ids, or a list with one such list: a prompt may be a single token, which windows are not.
Result<std::vector<int>> idsOfJson(const std::string& file)
{
    ESPALIER_TRY(Json json, readJsonFile(file, "ids"));
    if (json.is_array() && !json.empty() && json.front().is_array()) {
        if (json.size() != 1) return manyPrompts(file, json.size());
        json = Json(json.front());
    }
    std::vector<int> ids;
    bool valid = json.is_array();
    for (std::size_t i = 0; valid && i < json.size(); ++i) {
        valid = json[i].is_number_integer() && json[i].get<std::int64_t>() >= 0 && json[i].get<std::int64_t>() <= (1 << 30);
        if (valid) ids.push_back(json[i].get<int>());
    }
    if (!valid) return badInput("ids.invalid", file, {"{file} is not a list of token ids.", {{"file", file}}}, "Write [[1, 2, 3]].");
    return ids;
}

// "1,2,3", or a file with one row.
Result<std::vector<int>> givenIds(const std::string& given, std::int64_t vocabulary, std::vector<std::string>& warnings)
{
    const bool list = !given.empty() && given.find_first_not_of("0123456789, []") == std::string::npos;
    if (list) return parseIdList(given);
    if (given.ends_with(".json")) return idsOfJson(given);
    const TextRequest whole{
        .window = {.windowLength = 1 << 24, .bos = Bos::No}, .countAsked = false, .lengthAsked = false, .modelPositions = 0};
    ESPALIER_TRY(const RequestedWindows opened, openIdWindows(given, whole, vocabulary));
    warnings.insert(warnings.end(), opened.warnings.begin(), opened.warnings.end());
    if (opened.windows.rows.size() != 1) return manyPrompts(given, opened.windows.rows.size());
    return opened.windows.rows.front();
}

Result<Prompt> promptOf(const CompletionOptions& options, const Checkpoint& checkpoint, Invocation& invocation)
{
    if (options.hasPrompt == !options.ids.empty()) return usageError("One of --prompt and --ids is needed.");
    Prompt prompt;
    Result<Tokenizer> tokenizer = Tokenizer::load(options.model, checkpoint.shape().vocabularySize);
    if (tokenizer.ok()) {
        invocation.warnings.insert(invocation.warnings.end(), tokenizer->warnings().begin(), tokenizer->warnings().end());
        prompt.tokenizer.emplace(std::move(tokenizer).value());
    } else if (options.hasPrompt) {
        Error error = std::move(tokenizer).error();
        if (error.code == "tokenizer.missing") {
            error.action = "Put the model's tokenizer.json there, or give --ids.";
            error.actionPattern.clear();
        }
        return error;
    } else if (tokenizer.error().code != "tokenizer.missing") {
        invocation.warnings.push_back("There is no text: " + tokenizer.error().describe());
    }
    if (!options.ids.empty()) {
        ESPALIER_TRY(prompt.ids, givenIds(options.ids, checkpoint.shape().vocabularySize, invocation.warnings));
        return prompt;
    }
    ESPALIER_TRY(const Bos bos, parseBos(options.bos));
    ESPALIER_TRY(prompt.ids, promptIds(*prompt.tokenizer, options.prompt, bos));
    return prompt;
}

Json alternativesJson(const GeneratedToken& token)
{
    Json list = Json::array();
    for (std::size_t i = 0; i < token.choice.alternatives.size(); ++i)
        list.push_back({{"id", token.choice.alternatives[i].id},
                        {"text", token.alternatives[i]},
                        {"logprob", numberJson(token.choice.alternatives[i].logprob)}});
    return list;
}

Result<Json> complete(const CompletionOptions& options, Invocation& invocation)
{
    ESPALIER_TRY(const auto checkpoint, openCheckpoint(options.model, invocation));
    ESPALIER_TRY(const Prompt prompt, promptOf(options, *checkpoint, invocation));
    GenerateOptions how;
    how.tokens = options.tokens;
    how.sampling = {options.temperature, options.topP, invocation.options.seed};
    if (!options.ignoreEnd) {
        ESPALIER_TRY(how.endIds, endTokens(options.model, prompt.tokenizer ? prompt.tokenizer->eosId() : std::nullopt));
    }
    how.stop = options.stop;
    how.alternatives = options.alternatives;
    CompressionPlan plan = CompressionPlan::identity(checkpoint->shape());
    ESPALIER_TRY(FactorSources profiles, openProfiles(options.profiles));
    if (!options.plan.empty()) {
        ESPALIER_TRY(plan, readPlan(options.plan, *checkpoint, options.allowOther));
        ESPALIER_CHECK_OK(bindProfile(plan, options.plan, profiles, checkpoint->fingerprint(), invocation.warnings));
    }
    ESPALIER_TRY(const auto model, createModel(checkpoint, invocation));
    model->setFactorSources(profiles);
    if (const std::string slow = slowPlanWarning(*model, plan); !slow.empty()) invocation.warnings.push_back(slow);
    Json alternatives = Json::array();
    ESPALIER_TRY(const Generated generated,
                 generate(*model, plan, prompt.ids, how, prompt.tokenizer ? &*prompt.tokenizer : nullptr, invocation.job,
                          [&](const GeneratedToken& token) { alternatives.push_back(alternativesJson(token)); }));
    if (generated.finish == Finish::Context)
        invocation.warnings.push_back(fmt::format("The completion ends where the model's context of {} tokens does, after {} of {} tokens.",
                                                  checkpoint->shape().maxPositions, generated.ids.size(), options.tokens));
    Json logprobs = Json::array();
    for (const double value : generated.logprobs)
        logprobs.push_back(numberJson(value));
    const auto count = static_cast<double>(generated.ids.size());
    Json result = {{"plan_hash", plan.hash()},
                   {"prompt_ids", prompt.ids},
                   {"ids", generated.ids},
                   {"text", prompt.tokenizer ? Json(generated.text) : Json()},
                   {"logprobs", logprobs},
                   {"finish", finishName(generated.finish)},
                   {"prefill_seconds", numberJson(generated.prefillSeconds)},
                   {"decode_seconds", numberJson(generated.decodeSeconds)},
                   {"decode_tokens_per_second", count > 1 ? numberJson((count - 1) / generated.decodeSeconds) : Json()}};
    if (options.alternatives > 0) result["alternatives"] = std::move(alternatives);
    if (prompt.tokenizer) {
        invocation.text = (options.hasPrompt ? options.prompt : std::string()) + generated.text + "\n";
    } else {
        for (const int id : generated.ids)
            invocation.text += (invocation.text.empty() ? "" : ",") + std::to_string(id);
        invocation.text += "\n";
    }
    return result;
}

}  // namespace

void addGenerate(Verbs& verbs)
{
    auto options = std::make_shared<CompletionOptions>();
    CLI::App* verb = verbs.add("generate", "What the model says after a prompt, greedy or sampled",
                               [options](Invocation& invocation) { return complete(*options, invocation); });
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    verb->add_option_function<std::string>(
            "--prompt",
            [options](const std::string& value) {
                options->prompt = value;
                options->hasPrompt = true;
            },
            "A text to go on with")
        ->type_name("S");
    verb->add_option("--ids", options->ids, "A prompt of token ids, as they are: 1,2,3, or a JSON or safetensors file with one row")
        ->type_name("IDS");
    verb->add_option("--bos", options->bos, "Begin-of-sequence token before the prompt: auto, yes or no")
        ->check(CLI::IsMember({"auto", "yes", "no"}));
    verb->add_option("--tokens", options->tokens, "Tokens to generate, at most (default: 64)")
        ->check(CLI::Range(1, 1 << 30))
        ->type_name("N");
    verb->add_option("--plan", options->plan, "Run under this plan")->type_name("FILE");
    addProfileOption(verb, options->profiles);
    verb->add_option("--temperature", options->temperature, "Of sampling; 0 takes the most probable token each time (default)")
        ->check(CLI::Range(0.0, 1e6))
        ->type_name("T");
    verb->add_option("--top-p", options->topP, "Sample among the most probable tokens that have so much together (default: 1)")
        ->check(CLI::Range(1e-9, 1.0))
        ->type_name("P");
    verb->add_option("--stop", options->stop, "End before this text (several: any of them)")->type_name("S")->allow_extra_args(false);
    verb->add_option("--alternatives", options->alternatives, "Also the N most probable tokens at every place")
        ->check(CLI::Range(0, 1 << 30))
        ->type_name("N");
    verb->add_flag("--ignore-end", options->ignoreEnd, "Go on behind an end-of-sequence token");
    verb->add_flag("--allow-other-model", options->allowOther, "Accept a plan made for another model");
    verb->footer("Log-probabilities are the model's own, before temperature and top-p. Equal seeds give equal completions.");
}

}  // namespace espalier
