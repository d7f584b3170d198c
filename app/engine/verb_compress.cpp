#include "base/atomic_file.h"
#include "base/text.h"
#include "checkpoint/values_file.h"
#include "evaluate/evaluator.h"
#include "evaluate/loss_file.h"
#include "export/exporter.h"
#include "export/verify.h"
#include "html_report.h"
#include "pipeline/checkpoint_weights.h"
#include "pipeline/make_plan.h"
#include "pipeline/recipe_json.h"
#include "pipeline/result_json.h"
#include "pipeline/search_journal.h"
#include "pipeline/window_losses.h"
#include "plan/factor_methods.h"
#include "plan_method_options.h"
#include "plan_summary.h"
#include "profile/profile_pass.h"
#include "recover/recover.h"
#include "rpc/plan_presets.h"
#include "rpc/speed_measurement.h"
#include "score/scorer.h"
#include "search_device.h"
#include "session/profile_file.h"
#include "session/profile_parts.h"
#include "speed_report.h"
#include "task_report.h"
#include "text_options.h"
#include "values_beside.h"
#include "verb_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

constexpr int kVerifyWindows = 8;

struct CompressOptions {
    fs::path model;
    std::string preset = "moe-i2";
    TextOptions text;
    std::vector<fs::path> validation;
    int validationWindows = 0;
    TaskQuestions tasks;
    bool speed = false;
    fs::path out;
    fs::path report;
    std::string flavor = "auto";
    std::string shardSize;
    PlanMethodOptions plan;
    bool resume = false;
    bool force = false;
};

// What runs, one stage after the other, each timed. Everything that took long is on disk in `<out>.work` before the next one starts.
class Compression
{
public:
    Compression(const CompressOptions& options, Invocation& invocation) : m_options(options), m_invocation(invocation) {}

    Result<Json> run()
    {
        ESPALIER_TRY(const PlanPreset preset, planPreset(m_options.preset));
        ESPALIER_CHECK_OK(checkOutput(m_options.out, m_options.force));
        if (!m_options.report.empty()) ESPALIER_CHECK_OK(checkOutput(m_options.report, m_options.force || m_options.resume));
        m_work = m_options.out;
        m_work += ".work";
        std::error_code failure;
        if (fs::exists(m_work, failure) && !m_options.resume && !m_options.force) {
            Error error =
                usageError({"{work} holds an earlier compression that did not finish, or its profile.", {{"work", m_work.string()}}},
                           "Go on with --resume, or begin again with --force.");
            error.code = "output.exists";
            error.subject = m_work.string();
            return error;
        }
        ESPALIER_TRY(PlanRecipe recipe, recipeOf(m_options.plan, m_invocation, preset.recipe));
        ESPALIER_TRY(m_checkpoint, openCheckpoint(m_options.model, m_invocation));
        if (const PlanMethodOptions& plan = m_options.plan;
            plan.prune.empty() && plan.keep.empty() && plan.size.empty() && !recipe.keepTotal && !recipe.bytes) {
            const auto total = static_cast<int>(m_checkpoint->shape().totalExperts());
            recipe.keepTotal = total - static_cast<int>(std::lround((1 - preset.keepShare) * total));
        }
        ESPALIER_CHECK_OK(readTarget(m_options.plan, m_checkpoint->shape(), recipe));
        ESPALIER_CHECK_OK(checkRecipe(recipe));
        ESPALIER_TRY(const TokenWindows windows, openText(m_options.text, *m_checkpoint, m_invocation.warnings));
        ESPALIER_TRY(const TokenWindows validation, validationText(windows));
        if (!m_options.tasks.data.empty()) {
            ESPALIER_TRY(m_asked, askTasks(m_options.tasks, m_options.model, *m_checkpoint, m_invocation));
        }
        if (m_options.force && !m_options.resume) fs::remove_all(m_work, failure);
        ESPALIER_CHECK_OK(makeFolder(m_work));
        ESPALIER_TRY(m_model, createModel(m_checkpoint, m_invocation));

        ESPALIER_TRY(const ProfileData profile, takeProfile(windows));
        ESPALIER_TRY(const PlanOutcome outcome, makePlanFile(profile, windows, recipe));
        ESPALIER_CHECK_OK(measure(outcome.plan, validation));
        ESPALIER_CHECK_OK(measureTasks(outcome.plan));
        ESPALIER_CHECK_OK(measureSpeed(outcome.plan));
        ESPALIER_CHECK_OK(exportAndVerify(outcome.plan, validation));
        ESPALIER_CHECK_OK(writeReport(profile, outcome, recipe, validation));
        return answer(outcome, validation);
    }

private:
    using Clock = std::chrono::steady_clock;

    template <typename Work>
    Status timed(const std::string& name, Work&& work)
    {
        const auto started = Clock::now();
        ESPALIER_CHECK_OK(work());
        m_seconds.emplace_back(name, std::chrono::duration<double>(Clock::now() - started).count());
        return {};
    }

    Result<TokenWindows> validationText(const TokenWindows& calibration)
    {
        if (m_options.validation.empty()) return calibration;
        TextOptions text = m_options.text;
        text.ids.clear();
        text.text = m_options.validation;
        text.windows = m_options.validationWindows;
        text.firstWindow = text.spread = 0;
        return openText(text, *m_checkpoint, m_invocation.warnings);
    }

    Result<ProfileData> takeProfile(const TokenWindows& windows)
    {
        m_profilePath = m_work / "profile.h5";
        ProfileData profile;
        ESPALIER_CHECK_OK(timed("profile", [&]() -> Status {
            if (std::error_code ignored; m_options.resume && fs::exists(m_profilePath, ignored)) {
                Result<ProfileData> kept = readProfile(m_profilePath);
                if (kept.ok() && kept->fingerprint == m_checkpoint->fingerprint() && kept->textSha256 == windows.textSha256 &&
                    kept->numericMode == m_model->numericMode()) {
                    profile = std::move(*kept);
                    // A run that ended between the profile and the removal of its state leaves the latter.
                    fs::path state = m_profilePath;
                    state += ".state";
                    fs::remove_all(state, ignored);
                    return {};
                }
                return badInput("profile.other_run", m_profilePath.string(),
                                "The profile of the earlier run belongs to another model, text or precision.",
                                "Begin again with --force instead of --resume.");
            }
            ProfileOptions options;
            options.out = m_profilePath;
            options.resume = m_options.resume;
            options.force = true;
            ESPALIER_TRY(profile, runProfile(*m_model, windows, options, m_invocation.job));
            return {};
        }));
        for (std::string& warning : profileWarnings(profile))
            m_invocation.warnings.push_back(std::move(warning));
        return profile;
    }

    Status openSources()
    {
        if (!m_sources.empty()) return {};
        ESPALIER_TRY(auto parts, ProfileParts::open(m_profilePath));
        m_sources.push_back(std::move(parts));
        m_model->setFactorSources(m_sources);
        return {};
    }

    Result<PlanOutcome> makePlanFile(const ProfileData& profile, const TokenWindows& windows, const PlanRecipe& recipe)
    {
        PlanOutcome outcome;
        ESPALIER_CHECK_OK(timed("plan", [&]() -> Status {
            ESPALIER_TRY(const std::string hash, profileSha256(m_profilePath));
            PlanInputs inputs{m_checkpoint, profile, hash, CompressionPlan::identity(m_checkpoint->shape())};
            ESPALIER_TRY(inputs.base, withLocksAndProtection(inputs.base, m_checkpoint->shape(), m_options.plan));
            inputs.windows = windows;
            inputs.batch = batchFactoryFor(m_invocation.options.device);
            inputs.model = [this]() -> Result<MoeModel*> { return m_model.get(); };
            if (measuresRanks(recipe) && profile.has("factors")) ESPALIER_CHECK_OK(openSources());
            inputs.recoverFolder = m_work / "recover";
            inputs.sources = [this](const CompressionPlan& plan) -> Result<FactorSources> {
                if (factorsNeedProfile(plan) || plan.needsConstants()) ESPALIER_CHECK_OK(openSources());
                return m_sources;
            };
            ESPALIER_TRY(SearchJournal journal, openSearchJournal(m_work / "search.jsonl", m_options.resume, inputs, recipe, m_invocation));
            inputs.journal = &journal;
            Result<PlanOutcome> made = makePlan(inputs, recipe, m_invocation.job);
            if (!made.ok()) return withSearchKept(std::move(made).error(), journal);
            m_recovered = journal.recovered();
            outcome = std::move(made).value();
            m_planPath = m_work / "plan.json";
            ESPALIER_TRY(outcome.plan, withValuesBeside(outcome.plan, outcome.values, m_planPath));
            removeRun(inputs.recoverFolder);
            return writeFileAtomically(m_planPath, planFileText(outcome.plan, recipe, hash) + "\n");
        }));
        m_invocation.warnings.insert(m_invocation.warnings.end(), outcome.warnings.begin(), outcome.warnings.end());
        if (factorsNeedProfile(outcome.plan) || outcome.plan.needsConstants()) ESPALIER_CHECK_OK(openSources());
        if (outcome.values) {
            ESPALIER_CHECK_OK(addValuesFiles(outcome.plan, m_planPath, m_sources));
            // From here on the plan is used, not read: whole paths.
            outcome.plan = withValuesOf(outcome.plan, m_sources);
        }
        m_model->setFactorSources(m_sources);
        if (outcome.plan.hasRanks()) {
            ESPALIER_TRY(const auto source, factorSourceFor(outcome.plan, m_sources, m_checkpoint->fingerprint()));
            for (std::string& warning : factorWarnings(outcome.plan, source.get()))
                m_invocation.warnings.push_back(std::move(warning));
        }
        return outcome;
    }

    // Before and after on the same windows; measured windows of an interrupted run are used again.
    Status measure(const CompressionPlan& plan, const TokenWindows& windows)
    {
        return timed("evaluate", [&]() -> Status {
            const LossKey key{m_checkpoint->fingerprint(), windows.textSha256, m_model->numericMode(), windows.windowLength, {}};
            Result<LossFile> file = LossFile::open(m_work / "losses.jsonl", key, m_options.resume);
            Evaluator evaluator(*m_model, windows, evaluatorCacheBytes(*m_model));
            const std::vector<int> all = firstWindows(evaluator.windowCount());
            const auto losses = [&](const CompressionPlan& which) -> Result<std::vector<WindowLoss>> {
                const std::vector<WindowLoss> known = file.ok() ? file->known(which.hash()) : std::vector<WindowLoss>();
                ESPALIER_TRY(std::vector<WindowLoss> measured, evaluator.run(which, all, known, m_invocation.job));
                for (std::size_t i = known.size(); file.ok() && i < measured.size(); ++i)
                    ESPALIER_CHECK_OK(file->append(which.hash(), measured[i]));
                return measured;
            };
            ESPALIER_TRY(m_before, losses(CompressionPlan::identity(m_checkpoint->shape())));
            ESPALIER_TRY(m_after, losses(plan));
            return {};
        });
    }

    Status measureTasks(const CompressionPlan& plan)
    {
        if (!m_asked) return {};
        return timed("tasks", [&]() -> Status {
            const CompressionPlan dense = CompressionPlan::identity(m_checkpoint->shape());
            ESPALIER_TRY(m_answers, answerTasks(*m_model, *m_asked, plan, dense, "dense", m_options.resume, m_invocation));
            return {};
        });
    }

    Status measureSpeed(const CompressionPlan& plan)
    {
        if (!m_options.speed) return {};
        return timed("speed", [&]() -> Status {
            SpeedOptions how;
            how.seed = m_invocation.options.seed;
            // Both parts have to fit where a model knows few positions.
            const auto most = static_cast<int>(std::min<std::int64_t>(m_checkpoint->shape().maxPositions, 1 << 20));
            if (most > 1 && how.prefill + how.decode > most) {
                how.decode = std::max(1, std::min(how.decode, most / 4));
                how.prefill = most - how.decode;
            }
            ESPALIER_TRY(const SpeedResult result, espalier::measureSpeed(*m_model, &plan, how, m_invocation.job));
            if (std::string again = madeAgainWarning(result, *m_model); !again.empty()) m_invocation.warnings.push_back(std::move(again));
            m_speed = speedJson(result, how, &plan);
            m_speed["dtype"] = m_model->numericMode();
            m_speed["threads"] = m_model->options().threads;
            m_speedText = speedText(result, how, m_model->numericMode(), m_model->options().threads);
            return {};
        });
    }

    Status exportAndVerify(const CompressionPlan& plan, const TokenWindows& windows)
    {
        ESPALIER_CHECK_OK(timed("export", [&]() -> Status {
            ExportOptions options;
            options.out = m_options.out;
            options.flavor = m_options.flavor;
            options.force = m_options.force;
            options.resume = m_options.resume;
            options.profiles = m_sources;
            if (!m_options.shardSize.empty()) {
                ESPALIER_TRY(options.shardSize, parseByteSize(m_options.shardSize));
            }
            const PairedDifference difference = pairedDifference(m_after, m_before);
            Measurement measured;
            measured.text = windows.source;
            measured.textSha256 = windows.textSha256;
            measured.windows = static_cast<int>(m_after.size());
            measured.windowLength = windows.windowLength;
            measured.ppl = perplexity(m_after).ppl;
            measured.densePpl = perplexity(m_before).ppl;
            measured.deltaNll = difference.nll;
            measured.deltaNllError = difference.se;
            measured.dtype = m_model->numericMode();
            options.measured = {std::move(measured)};
            if (m_answers) {
                ESPALIER_TRY(options.measuredTasks, parseMeasuredTasks(m_answers->json));
            }
            if (!m_speed.is_null()) {
                ESPALIER_TRY(options.measuredSpeed, parseMeasuredSpeed(m_speed));
            }
            Result<ExportReport> report = exportCheckpoint(*m_checkpoint, plan, options, m_invocation.job);
            if (!report.ok() && report.error().code == "export.nothing_to_resume") {
                options.resume = false;
                report = exportCheckpoint(*m_checkpoint, plan, options, m_invocation.job);
            }
            if (!report.ok()) return report.error();
            m_export = toJson(*report);
            m_invocation.warnings.insert(m_invocation.warnings.end(), report->warnings.begin(), report->warnings.end());
            return {};
        }));
        if (m_export.value("flavor", "") == "plan") return {};
        return timed("verify", [&]() -> Status {
            VerifyOptions options;
            options.exported = m_options.out;
            options.source = m_options.model;
            options.profiles = m_sources;
            options.model = m_model->options();
            options.windows = windows;
            if (options.windows->rows.size() > kVerifyWindows) options.windows->rows.resize(kVerifyWindows);
            ESPALIER_TRY(const VerifyReport report, verifyExport(options, m_invocation.job));
            m_verification = toJson(report);
            if (!report.holds) m_invocation.exitCode = static_cast<int>(ErrorKind::VerificationFailed);
            return {};
        });
    }

    Status writeReport(const ProfileData& profile, const PlanOutcome& outcome, const PlanRecipe& recipe, const TokenWindows& validation)
    {
        if (m_options.report.empty()) return {};
        ReportFacts facts;
        facts.model = fs::absolute(m_options.model).lexically_normal().filename().string();
        facts.shape = m_checkpoint->shape();
        facts.profile = &profile;
        const CheckpointWeights weights(m_checkpoint);
        ESPALIER_TRY(facts.importance, score(profile, recipe.score, {}, &weights));
        facts.plan = outcome.plan;
        facts.recipe = toJson(recipe);
        facts.stages = outcome.stages;
        facts.cost = planCost(facts.shape, outcome.plan);
        facts.dense = planCost(facts.shape, CompressionPlan::identity(facts.shape));
        facts.text = validation.source;
        facts.calibrationText = m_options.validation.empty();
        facts.windowLength = validation.windowLength;
        facts.dtype = m_model->numericMode();
        facts.before = m_before;
        facts.after = m_after;
        if (m_answers) facts.tasks = m_answers->json;
        if (!m_speed.is_null()) {
            ESPALIER_TRY(facts.speed, parseMeasuredSpeed(m_speed));
        }
        if (!m_verification.is_null()) facts.verification = m_verification;
        facts.seconds = m_seconds;
        facts.warnings = m_invocation.warnings;
        return writeFileAtomically(m_options.report, htmlReport(facts));
    }

    Json answer(const PlanOutcome& outcome, const TokenWindows& validation)
    {
        const ModelShape& shape = m_checkpoint->shape();
        Json result = toJson(costFacts(planCost(shape, outcome.plan), planCost(shape, CompressionPlan::identity(shape))));
        result["preset"] = m_options.preset;
        result["out"] = m_options.out.string();
        result["report"] = m_options.report.empty() ? Json() : Json(m_options.report.string());
        result["plan_hash"] = outcome.plan.hash();
        result["kept_experts"] = outcome.plan.keptExperts();
        Json stages = Json::object();
        for (const auto& [name, seconds] : m_seconds)
            stages[name] = {{"seconds", seconds}};
        stages["profile"]["profile"] = m_profilePath.string();
        stages["plan"]["plan"] = m_planPath.string();
        stages["plan"]["recovered"] = m_recovered;
        for (const PlanStage& stage : outcome.stages)
            stages["plan"]["stages"].push_back(toJson(stage));
        const PairedDifference change = pairedDifference(m_after, m_before);
        stages["evaluate"].update({{"ppl_before", numberJson(perplexity(m_before).ppl)},
                                   {"ppl", numberJson(perplexity(m_after).ppl)},
                                   {"text", validation.source},
                                   {"text_sha256", validation.textSha256},
                                   {"windows", validation.rows.size()},
                                   {"window_length", validation.windowLength},
                                   {"calibration_text", m_options.validation.empty()},
                                   {"delta", toJson(change)}});
        if (m_answers) stages["tasks"].update(m_answers->json);
        if (!m_speed.is_null()) stages["speed"].update(m_speed);
        stages["export"].update(m_export);
        if (!m_verification.is_null()) stages["verify"].update(m_verification);
        result["stages"] = std::move(stages);
        m_invocation.text = fmt::format(
            "{}: {} of {} experts, {} (before {}), perplexity {:.4f} (before {:.4f}, change {:+.2f} % ± {:.2f}) on {}, {} windows of "
            "{}{}\n",
            m_options.out.string(), outcome.plan.keptExperts(), shape.totalExperts(), formatBytes(planCost(shape, outcome.plan).bytes),
            formatBytes(planCost(shape, CompressionPlan::identity(shape)).bytes), perplexity(m_after).ppl, perplexity(m_before).ppl,
            (change.pplRatio - 1) * 100, change.se * change.pplRatio * 100, validation.source, validation.rows.size(),
            validation.windowLength, m_options.validation.empty() ? ", which the plan was made on: it flatters" : "");
        m_invocation.text += recoveryText(outcome.stages);
        if (m_answers) m_invocation.text += m_answers->text;
        m_invocation.text += m_speedText;
        for (const auto& [name, seconds] : m_seconds)
            m_invocation.text += fmt::format("  {:<9} {}\n", name, formatSeconds(seconds));
        if (!m_verification.is_null())
            m_invocation.text +=
                m_invocation.exitCode == 0 ? "The export holds.\n" : "The export does NOT hold: see `espalier-engine verify`.\n";
        m_invocation.text += fmt::format("Profile and plan: {}\n", m_work.string());
        if (!m_options.report.empty()) m_invocation.text += fmt::format("Report: {}\n", m_options.report.string());
        return result;
    }

    const CompressOptions& m_options;
    Invocation& m_invocation;
    fs::path m_work;
    fs::path m_profilePath;
    fs::path m_planPath;
    std::shared_ptr<const Checkpoint> m_checkpoint;
    std::unique_ptr<MoeModel> m_model;
    FactorSources m_sources;
    std::size_t m_recovered = 0;  // results of an interrupted search
    std::vector<WindowLoss> m_before;
    std::vector<WindowLoss> m_after;
    std::optional<TasksToAsk> m_asked;
    std::optional<TaskAnswers> m_answers;
    Json m_speed;  // as `speed --json` has it
    std::string m_speedText;
    Json m_export;
    Json m_verification;
    std::vector<std::pair<std::string, double>> m_seconds;
};

}  // namespace

void addCompress(Verbs& verbs)
{
    auto options = std::make_shared<CompressOptions>();
    CLI::App* verb = verbs.add("compress", "Profile, plan, export and verify in one go",
                               [options](Invocation& invocation) -> Result<Json> { return Compression(*options, invocation).run(); });
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    std::string presets;
    for (const PlanPreset& preset : planPresets())
        presets += fmt::format("{}{} ({})", presets.empty() ? "" : " or ", preset.id, preset.help);
    verb->add_option("--preset", options->preset, presets)->type_name("NAME");
    addTextOptions(verb, options->text);
    verb->add_option("--validation", options->validation, "Text on which perplexity is reported (default: the calibration text)")
        ->type_name("FILE")
        ->expected(1, -1);
    verb->add_option("--validation-windows", options->validationWindows, "Use its first N windows (default: all)")
        ->check(CLI::Range(1, 1 << 30))
        ->type_name("N");
    addTaskOptions(verb, options->tasks);
    verb->add_flag("--speed", options->speed, "Also how fast the plan is beside the dense model (`speed`), for the report and the export");
    verb->add_option("--out", options->out, "Folder to write; profile and plan go to DIR.work")->required()->type_name("DIR");
    verb->add_option("--report", options->report, "Report to write")->type_name("FILE.html");
    verb->add_option("--flavor", options->flavor, "stock, factored, reconstructed, plan or auto (the first that fits)")
        ->check(CLI::IsMember({"stock", "factored", "reconstructed", "plan", "auto"}));
    verb->add_option("--shard-size", options->shardSize, "Largest shard (default: 5GB)")->type_name("SIZE");
    addPlanMethodOptions(verb, options->plan);
    verb->add_flag("--resume", options->resume, "Go on with an interrupted compression");
    verb->add_flag("--force", options->force, "Begin again and replace existing outputs");
    verb->footer(kOpeningsNotCounted);
}

}  // namespace espalier
