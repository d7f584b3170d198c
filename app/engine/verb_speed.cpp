#include "factor_profiles.h"
#include "generate/generator.h"
#include "generate/speed.h"
#include "pipeline/model_match.h"
#include "speed_report.h"
#include "text_options.h"
#include "tokenizer/text_windows.h"
#include "verb_inputs.h"

namespace espalier
{

namespace
{

struct SpeedVerbOptions {
    std::filesystem::path model;
    std::filesystem::path plan;
    std::vector<std::filesystem::path> profiles;
    std::string ids;
    int prefill = 512;
    int decode = 32;
    int rounds = 5;
    bool allowOther = false;
};

Result<Json> speed(const SpeedVerbOptions& options, Invocation& invocation)
{
    ESPALIER_TRY(const auto checkpoint, openCheckpoint(options.model, invocation));
    SpeedOptions how{
        .prefill = options.prefill, .decode = options.decode, .rounds = options.rounds, .seed = invocation.options.seed, .prompt = {}};
    if (!options.ids.empty()) {
        const TextRequest whole{
            .window = {.windowLength = 1 << 24, .bos = Bos::No}, .countAsked = false, .lengthAsked = false, .modelPositions = 0};
        ESPALIER_TRY(const RequestedWindows opened, openIdWindows(options.ids, whole, checkpoint->shape().vocabularySize));
        for (const auto& ids : opened.windows.rows)
            how.prompt.insert(how.prompt.end(), ids.begin(), ids.end());
    }
    std::optional<CompressionPlan> plan;
    ESPALIER_TRY(FactorSources profiles, openProfiles(options.profiles));
    if (!options.plan.empty()) {
        ESPALIER_TRY(plan, readPlan(options.plan, *checkpoint, options.allowOther));
        ESPALIER_CHECK_OK(bindProfile(*plan, options.plan, profiles, checkpoint->fingerprint(), invocation.warnings));
    }
    ESPALIER_TRY(const auto model, createModel(checkpoint, invocation));
    model->setFactorSources(profiles);
    if (const std::string slow = slowPlanWarning(*model, plan.value_or(CompressionPlan::identity(checkpoint->shape()))); !slow.empty())
        invocation.warnings.push_back(slow);
    ESPALIER_TRY(const SpeedResult result, measureSpeed(*model, plan ? &*plan : nullptr, how, invocation.job));
    if (std::string again = madeAgainWarning(result, *model); !again.empty()) invocation.warnings.push_back(std::move(again));
    Json json = speedJson(result, how, plan ? &*plan : nullptr);
    invocation.text = speedText(result, how, invocation.dtype, model->options().threads);
    return json;
}

}  // namespace

void addSpeed(Verbs& verbs)
{
    auto options = std::make_shared<SpeedVerbOptions>();
    CLI::App* verb = verbs.add("speed", "Tokens per second of a plan beside the dense model, measured here",
                               [options](Invocation& invocation) { return speed(*options, invocation); });
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    verb->add_option("--plan", options->plan, "Plan file (default: the dense model alone)")->type_name("FILE");
    addProfileOption(verb, options->profiles);
    verb->add_option("--prefill", options->prefill, "Tokens of the prompt (default: 512)")->check(CLI::Range(1, 1 << 30))->type_name("N");
    verb->add_option("--decode", options->decode, "Tokens to generate behind it (default: 32)")
        ->check(CLI::Range(1, 1 << 30))
        ->type_name("N");
    verb->add_option("--rounds", options->rounds, "Rounds that are counted; one more goes before them (default: 5)")
        ->check(CLI::Range(1, 1 << 30))
        ->type_name("N");
    verb->add_option("--ids", options->ids, "Token ids of the prompt, JSON or safetensors (default: drawn by --seed)")->type_name("FILE");
    verb->add_flag("--allow-other-model", options->allowOther, "Accept a plan made for another model");
    verb->footer(
        "Dense and plan run in turn. FLOPs, active parameters and the size of all weights follow from shapes; the rest is measured.");
}

}  // namespace espalier
