#include "base/text.h"
#include "evaluate/evaluator.h"
#include "evaluate/loss_file.h"
#include "factor_profiles.h"
#include "pipeline/model_match.h"
#include "pipeline/result_json.h"
#include "pipeline/window_losses.h"
#include "task_report.h"
#include "text_options.h"
#include "verb_inputs.h"

#include <fmt/format.h>

#include <set>

namespace espalier
{

namespace
{

struct EvaluateOptions {
    std::filesystem::path model;
    TextOptions text;
    std::filesystem::path plan;
    std::string against;
    std::vector<std::filesystem::path> profiles;
    TaskQuestions tasks;
    bool kl = false;
    bool resume = false;
    bool allowOther = false;
};

// Passes everything on, and stores each measured window at once.
class RecordingJob final : public JobContext
{
public:
    RecordingJob(JobContext& job, LossFile* file, std::string planHash, const std::vector<WindowLoss>& known,
                 std::vector<std::string>& warnings)
        : m_job(job), m_file(file), m_planHash(std::move(planHash)), m_warnings(warnings)
    {
        for (const WindowLoss& loss : known)
            m_known.insert(loss.window);
    }
    bool stopRequested() const noexcept override { return m_job.stopRequested(); }
    void progress(std::int64_t done, std::int64_t total, std::string_view phase) override { m_job.progress(done, total, phase); }
    void partial(const Json& result) override
    {
        m_job.partial(result);
        if (const Result<WindowLoss> loss = fromJson<WindowLoss>(result); loss.ok()) record({*loss});
    }
    void record(const std::vector<WindowLoss>& losses)
    {
        for (const WindowLoss& loss : losses) {
            if (!m_file || !m_known.insert(loss.window).second) continue;
            const Status kept = m_file->append(m_planHash, loss);
            if (kept.ok()) continue;
            m_file = nullptr;
            m_warnings.push_back("Windows measured from now on are not kept for --resume: " + kept.error().message);
        }
    }

private:
    JobContext& m_job;
    LossFile* m_file;
    std::string m_planHash;
    std::set<int> m_known;
    std::vector<std::string>& m_warnings;
};

// " (spread over 128 from number 96 on)"; nothing for the first ones.
std::string whichWindows(const TextOptions& text)
{
    std::string which;
    if (text.spread > 0) which = text.windows > 0 ? fmt::format("spread over {}", text.windows) : "spread over all";
    if (text.firstWindow > 0) which += fmt::format("{}from number {} on", which.empty() ? "" : " ", text.firstWindow);
    return which.empty() ? which : " (" + which + ")";
}

// Distance between the distributions of two plans, window by window.
Status addDivergence(Json& result, MoeModel& model, const TokenWindows& text, const CompressionPlan& plan, const CompressionPlan& reference,
                     const std::string& against, Invocation& invocation)
{
    ESPALIER_TRY(const std::vector<WindowDivergence> found,
                 divergenceShared(model, text, plan, reference, invocation.job, invocation.processes));
    const DivergenceEstimate mean = divergence(found);
    result["kl"] = {{"kl", numberJson(mean.kl)},
                    {"se", numberJson(mean.klError)},
                    {"esap", numberJson(mean.esap)},
                    {"esap_se", numberJson(mean.esapError)},
                    {"top1_agreement", numberJson(mean.agreement)},
                    {"top1_agreement_se", numberJson(mean.agreementError)},
                    {"direction", "KL(reference || plan)"}};
    result["kl"]["windows"] = Json::array();
    for (const WindowDivergence& window : found)
        result["kl"]["windows"].push_back({{"window", window.window},
                                           {"kl", numberJson(window.kl)},
                                           {"esap", numberJson(window.esap)},
                                           {"agreement", numberJson(window.agreement)},
                                           {"tokens", window.tokens}});
    invocation.text +=
        fmt::format("KL to {} {:.5f} ± {:.5f} nats per token; {:.2f} % of drafted tokens accepted, same top token {:.2f} %\n",
                    against == "dense" ? "the dense model" : against, mean.kl, mean.klError, mean.esap * 100, mean.agreement * 100);
    return {};
}

Result<Json> evaluate(const EvaluateOptions& options, Invocation& invocation)
{
    ESPALIER_TRY(const auto checkpoint, openCheckpoint(options.model, invocation));
    const CompressionPlan dense = CompressionPlan::identity(checkpoint->shape());
    ESPALIER_TRY(FactorSources profiles, openProfiles(options.profiles));
    CompressionPlan plan = dense;
    if (!options.plan.empty()) {
        ESPALIER_TRY(plan, readPlan(options.plan, *checkpoint, options.allowOther));
        ESPALIER_CHECK_OK(bindProfile(plan, options.plan, profiles, checkpoint->fingerprint(), invocation.warnings));
    }
    std::optional<CompressionPlan> reference;
    const std::string against = !options.against.empty() ? options.against : options.plan.empty() ? "none" : "dense";
    if (against == "dense") {
        reference = dense;
    } else if (against != "none") {
        ESPALIER_TRY(reference, readPlan(against, *checkpoint, options.allowOther));
        ESPALIER_CHECK_OK(bindProfile(*reference, against, profiles, checkpoint->fingerprint(), invocation.warnings));
    }
    if (options.kl && !reference)
        return usageError("--kl compares two plans, and there is only one.", "Give --plan FILE, or --against dense or another plan.");
    ESPALIER_TRY(TokenWindows windows, openText(options.text, *checkpoint, invocation.warnings));
    std::optional<TasksToAsk> questions;
    if (!options.tasks.data.empty()) {
        ESPALIER_TRY(questions, askTasks(options.tasks, options.model, *checkpoint, invocation));
    }
    ESPALIER_TRY(const auto model, createModel(checkpoint, invocation));
    model->setFactorSources(profiles);

    const LossKey key{checkpoint->fingerprint(), windows.textSha256, model->numericMode(), windows.windowLength, {}};
    // Under mpirun every process keeps a file of its own, and the first one's holds all of them at the end.
    std::filesystem::path lossPath = LossFile::defaultPath(key);
    if (!invocation.processes.first()) lossPath += fmt::format(".{}", invocation.processes.rank() + 1);
    Result<LossFile> file = LossFile::open(lossPath, key, options.resume);
    if (!file.ok()) {
        if (options.resume) return std::move(file).error();
        invocation.warnings.push_back("Measured windows are not kept for --resume: " + file.error().message);
    }
    Evaluator evaluator(*model, std::move(windows), evaluatorCacheBytes(*model));
    const TokenWindows& text = evaluator.windows();
    const auto measure = [&](const CompressionPlan& which) -> Result<std::vector<WindowLoss>> {
        const std::vector<WindowLoss> known = file.ok() ? file->known(which.hash()) : std::vector<WindowLoss>();
        RecordingJob job(invocation.job, file.ok() ? &*file : nullptr, which.hash(), known, invocation.warnings);
        ESPALIER_TRY(std::vector<WindowLoss> losses, runShared(evaluator, which, known, job, invocation.processes));
        if (invocation.processes.first() && !invocation.processes.alone()) job.record(losses);
        return losses;
    };
    ESPALIER_TRY(const std::vector<WindowLoss> losses, measure(plan));
    const PerplexityEstimate estimate = perplexity(losses);
    const std::optional<int> asked = windowsAsked(options.text);
    Json result = {{"plan_hash", plan.hash()},
                   {"ppl", numberJson(estimate.ppl)},
                   {"nll", numberJson(estimate.nll)},
                   {"nll_error", numberJson(estimate.nllError)},
                   {"ppl_error", numberJson(estimate.pplError)},
                   {"scored_tokens", estimate.tokens},
                   {"windows", windowsJson(losses)},
                   {"windows_asked", asked ? Json(*asked) : Json()},
                   {"window_length", text.windowLength},
                   {"first_window", options.text.firstWindow},
                   {"spread", options.text.spread > 0 ? Json(options.text.spread) : Json()},
                   {"text", text.source},
                   {"text_sha256", text.textSha256},
                   {"tokenizer_sha256", text.tokenizerSha256},
                   {"bos", text.bos},
                   {"dropped_tokens", text.droppedTokens},
                   {"against", against},
                   {"delta", nullptr},
                   {"tasks", nullptr}};
    invocation.text = fmt::format("perplexity {:.4f} ± {:.4f} on {}: {} tokens in {} windows of {}{}\n", estimate.ppl, estimate.pplError,
                                  text.source, estimate.tokens, losses.size(), text.windowLength, whichWindows(options.text));
    if (reference) {
        ESPALIER_TRY(const std::vector<WindowLoss> other, measure(*reference));
        const PairedDifference difference = pairedDifference(losses, other);
        result["delta"] = toJson(difference);
        result["reference"] = {
            {"plan_hash", reference->hash()}, {"ppl", numberJson(perplexity(other).ppl)}, {"nll", numberJson(perplexity(other).nll)}};
        invocation.text +=
            fmt::format("{} {:.4f}; change {:+.2f} % (95 %: {:+.2f} to {:+.2f} %)\n", against == "dense" ? "dense model" : against,
                        perplexity(other).ppl, (difference.pplRatio - 1) * 100, (difference.low - 1) * 100, (difference.high - 1) * 100);
    }
    std::error_code ignored;
    if (!invocation.processes.first()) std::filesystem::remove(lossPath, ignored);
    if (options.kl) ESPALIER_CHECK_OK(addDivergence(result, *model, text, plan, *reference, against, invocation));
    if (questions) {
        ESPALIER_TRY(TaskAnswers answers, answerTasks(*model, *questions, plan, reference, against, options.resume, invocation));
        result["tasks"] = std::move(answers.json);
        invocation.text += answers.text;
    }
    return result;
}

}  // namespace

void addEvaluate(Verbs& verbs)
{
    auto options = std::make_shared<EvaluateOptions>();
    CLI::App* verb = verbs.add(
        "evaluate", "Perplexity of a plan, compared with the dense model",
        [options](Invocation& invocation) { return evaluate(*options, invocation); }, Processes::Many);
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    addTextOptions(verb, options->text);
    verb->add_option("--plan", options->plan, "Plan file (default: the dense model)")->type_name("FILE");
    verb->add_option("--against", options->against, "What to compare with: dense, none or a plan file (default: dense for a plan)")
        ->type_name("WHAT");
    addProfileOption(verb, options->profiles);
    addTaskOptions(verb, options->tasks);
    verb->add_flag("--kl", options->kl, "Also the divergence of the next-token distributions: KL, ESAP, agreement of the top token");
    verb->add_flag("--resume", options->resume, "Use the windows that an earlier run measured, and the questions that it answered");
    verb->add_flag("--allow-other-model", options->allowOther, "Accept a plan made for another model");
    verb->footer(kOpeningsNotCounted);
}

}  // namespace espalier
