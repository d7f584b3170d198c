#include "recover/recover.h"

#include "base/atomic_file.h"
#include "base/sha256.h"
#include "checkpoint/checkpoint.h"
#include "evaluate/evaluator.h"
#include "model/moe_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <system_error>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

// In the order of recoverMethods().
const std::vector<RecoverMethod>& methods()
{
    static const std::vector<RecoverMethod> all = {{leastSquaresInfo(), &runLeastSquares, true},
                                                   {loraInfo(), &runLora, false},
                                                   {routerKdInfo(), &runRouterKd, true},
                                                   {entropyRouterInfo(), &runEntropyRouter, false}};
    return all;
}

Result<const RecoverMethod*> methodOf(const std::string& id)
{
    for (const RecoverMethod& method : methods())
        if (method.info.id == id) return &method;
    Error error = usageError({"There is no recovery method \"{id}\".", {{"id", id}}}, "See `espalier-engine methods --slot recover`.");
    error.code = "method.unknown";
    error.subject = id;
    return error;
}

constexpr int kEvery = 8;  // of the text's windows one judges where no other text does
constexpr const char* kRunFile = "run.json";

TokenWindows subset(const TokenWindows& windows, const std::vector<std::size_t>& rows)
{
    TokenWindows some = windows;
    some.rows.clear();
    for (const std::size_t row : rows)
        some.rows.push_back(windows.rows[row]);
    some.textSha256 = hashOfRows(some.rows);
    return some;
}

struct Texts {
    TuningText tuning;
    TokenWindows gate;
    bool heldOut = false;
};

bool usable(const TokenWindows& windows)
{
    return std::any_of(windows.rows.begin(), windows.rows.end(), [](const auto& row) { return row.size() >= 2; });
}

Error nothingToLearn(const TokenWindows& windows)
{
    return badInput("recover.no_tokens", windows.source, "The text has no window of at least two tokens to learn from.",
                    "Give a longer text, or shorter windows.");
}

Result<Texts> textsOf(const RecoverRequest& request)
{
    if (request.gate) {
        if (!usable(request.text.windows)) return nothingToLearn(request.text.windows);
        if (!usable(*request.gate))
            return badInput("recover.no_tokens", request.gate->source, "The gate's text has no window of at least two tokens.",
                            "Give a longer text with --gate.");
        return Texts{request.text, *request.gate, false};
    }
    ESPALIER_TRY(SplitText split, splitText(request.text));
    return Texts{std::move(split.tuning), std::move(split.gate), true};
}

// {"method","settings","profile"}: of what a run was asked for. Numbers that are no whole ones as text, so that it has one spelling.
Json madeBy(const RecoverRequest& request, const Params& params)
{
    Json settings = Json::object();
    for (const auto& [key, value] : params)
        settings[key] = value.is_number_float() ? Json(value.dump()) : value;
    settings["seed"] = request.seed;
    settings["text"] = request.text.windows.source;
    settings["text_sha256"] = request.text.windows.textSha256;
    settings["windows"] = request.text.windows.rows.size();
    if (!request.text.scored.empty()) settings["scored_sha256"] = sha256Hex(canonicalJson(Json(request.text.scored)));
    settings["gate_sha256"] = request.gate ? request.gate->textSha256 : std::string();
    settings["plan"] = request.plan.hash();
    return {{"method", request.method}, {"settings", std::move(settings)}, {"profile", request.plan.factors().profileSha256}};
}

class Recovery
{
public:
    Recovery(const RecoverRequest& request, JobContext& job)
        : m_request(request), m_job(job), m_share(request.processes ? *request.processes : WorkShare::none())
    {
    }

    Result<RecoverResult> run()
    {
        const auto started = std::chrono::steady_clock::now();
        ESPALIER_TRY(const RecoverMethod* method, methodOf(m_request.method));
        ESPALIER_TRY(m_params, checkParams(method->info, m_request.params));
        ESPALIER_TRY(m_texts, textsOf(m_request));
        RecoverResult& result = m_result;
        result.plan = m_request.plan;
        result.gateText = m_texts.gate.source;
        result.gateHeldOut = m_texts.heldOut;
        const CompressionPlan dense = CompressionPlan::identity(m_request.model->shape()).withModel(m_request.plan.model());
        {
            // Before anything is measured: what cannot run is said.
            m_request.model->setFactorSources(m_request.sources);
            ESPALIER_TRY([[maybe_unused]] const PreparedPlan prepared, m_request.model->prepare(m_request.plan));
        }
        ESPALIER_CHECK_OK(openFolder());
        ESPALIER_TRY(result.dense, measure(dense, {}));
        tell("dense", result.dense);
        ESPALIER_TRY(result.before, measure(m_request.plan, {}));
        tell("before", result.before);
        ESPALIER_TRY(const Recovered recovered, tuned(*method, m_request.plan, m_request.folder, &result.steps));
        result.cancelled = recovered.cancelled;
        result.changed = recovered.plan.hash() != m_request.plan.hash();
        result.after = result.before;
        if (result.changed) {
            // The best so far of a run that was stopped is measured all the same.
            ESPALIER_TRY(result.after, measure(recovered.plan, recovered.parts));
        }
        tell("after", result.after);
        result.accepted = result.changed && perplexity(result.after).nll < perplexity(result.before).nll;
        ESPALIER_CHECK_OK(control(*method, dense));
        result.madeBy = madeBy(m_request, m_params);
        result.madeBy["result"] = outcome();
        if (result.accepted) {
            ESPALIER_TRY(JoinedValues joined, joinParts(m_request.model->shape(), recovered.plan, recovered.parts, m_request.valuesFolder,
                                                        result.madeBy, m_share));
            result.plan = std::move(joined.plan);
            result.values = std::move(joined.file);
        }
        result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
        return std::move(m_result);
    }

private:
    // What the folder's run was made from; another one's is not gone on with.
    Status openFolder()
    {
        ESPALIER_CHECK_OK(makeFolder(m_request.folder));
        const Checkpoint& checkpoint = m_request.model->checkpoint();
        const Json key = {{"espalier", ESPALIER_VERSION},
                          {"model", checkpoint.fingerprint()},
                          {"plan", m_request.plan.hash()},
                          {"made_by", madeBy(m_request, m_params)},
                          {"params", Json(m_params)},
                          {"tuning_sha256", m_texts.tuning.windows.textSha256},
                          {"scored", sha256Hex(canonicalJson(Json(m_texts.tuning.scored)))},
                          {"gate_sha256", m_texts.gate.textSha256},
                          {"control", m_request.control},
                          {"compute", m_request.model->numericMode()},
                          {"threads", m_request.model->options().threads},
                          {"processes", m_share.size()}};
        const fs::path file = m_request.folder / kRunFile;
        const std::string text = canonicalJson(key) + "\n";
        // One decides for all.
        const auto decided = [&]() -> Result<Json> {
            if (!m_share.first()) return Json();
            ESPALIER_TRY(const bool goesOn, goOn(file, text));
            if (!goesOn) ESPALIER_CHECK_OK(emptied(file, text));
            return Json(goesOn);
        };
        ESPALIER_TRY(const std::vector<Json> all, m_share.exchange(decided()));
        m_resumed = all.front().get<bool>();
        return {};
    }
    Result<bool> goOn(const fs::path& file, const std::string& text) const
    {
        if (m_request.resume == RecoverResume::No) return false;
        std::error_code ignored;
        const bool there = fs::exists(file, ignored);
        if (!there && m_request.resume == RecoverResume::IfSame) return false;
        if (!there) {
            Error error = usageError({"{folder} holds no recovery to go on with.", {{"folder", m_request.folder.string()}}},
                                     "Begin without --resume.");
            error.code = "recover.nothing_to_resume";
            return error;
        }
        const Result<Json> earlier = readJsonFile(file, "recover");
        if (earlier.ok() && canonicalJson(*earlier) + "\n" == text) return true;
        if (m_request.resume == RecoverResume::IfSame) return false;
        if (!earlier.ok()) return earlier.error();
        Error error = badInput(
            "recover.other_run", m_request.folder.string(),
            {"{folder} belongs to a recovery of another model, plan, text or other settings.", {{"folder", m_request.folder.string()}}},
            "Give the settings of the interrupted run, or begin again without --resume.");
        error.kept = "What it finished is still there.";
        return error;
    }
    Status emptied(const fs::path& file, const std::string& text)
    {
        // Of an earlier run, and nothing else that lies there.
        std::error_code failure;
        if (fs::exists(file, failure)) removeRun(m_request.folder);
        ESPALIER_CHECK_OK(makeFolder(m_request.folder));
        return writeFileAtomically(file, text);
    }

    void tell(const char* what, const std::vector<WindowLoss>& losses)
    {
        m_job.partial(toJson(RecoverJudged{what, perplexity(losses).nll, static_cast<int>(losses.size())}));
    }

    Result<std::vector<WindowLoss>> measure(const CompressionPlan& plan, const FactorSources& more)
    {
        FactorSources sources = m_request.sources;
        sources.insert(sources.end(), more.begin(), more.end());
        m_request.model->setFactorSources(sources);
        QuietJob quiet(m_job, m_result.cancelled);
        if (m_request.measure) return m_request.measure(m_texts.gate, plan, quiet);
        Evaluator evaluator(*m_request.model, m_texts.gate, std::int64_t{0});
        return evaluator.run(plan, firstWindows(evaluator.windowCount()), {}, quiet);
    }

    Result<Recovered> tuned(const RecoverMethod& method, const CompressionPlan& plan, const fs::path& folder,
                            std::vector<RecoverStep>* steps)
    {
        ESPALIER_CHECK_OK(makeFolder(folder));
        RecoverRun run{.model = *m_request.model,
                       .plan = plan,
                       .sources = m_request.sources,
                       .text = m_texts.tuning,
                       .profile = m_request.profile,
                       .params = m_params,
                       .seed = m_request.seed,
                       .share = m_share,
                       .folder = folder,
                       .resume = m_resumed,
                       .bestSoFar = m_request.bestSoFar && m_share.alone(),
                       .gateNll = [this](const CompressionPlan& of, const FactorSources& more) -> Result<double> {
                           ESPALIER_TRY(const std::vector<WindowLoss> losses, measure(of, more));
                           return perplexity(losses).nll;
                       },
                       .report =
                           [this, steps](const RecoverStep& step) {
                               if (!steps) return;
                               steps->push_back(step);
                               m_job.partial(toJson(step));
                           },
                       .warnings = m_result.warnings};
        return method.run(run, m_job);
    }

    // Nobody is to mistake more training for recovery: what the same tuning does for the dense model.
    Status control(const RecoverMethod& method, const CompressionPlan& dense)
    {
        if (method.keepsDense) {
            m_result.control = m_result.dense;
            return {};
        }
        if (!m_request.control || m_result.cancelled) return {};
        const Result<Recovered> recovered = tuned(method, dense, m_request.folder / "control", nullptr);
        // What was recovered is there all the same; half a control would be none.
        if (recovered.ok() ? recovered->cancelled : recovered.error().kind == ErrorKind::Cancelled) {
            m_result.cancelled = true;
            m_result.warnings.push_back("The control was stopped before it was finished, and is left out.");
            return {};
        }
        if (!recovered.ok()) return recovered.error();
        ESPALIER_TRY(m_result.control, measure(recovered->plan, recovered->parts));
        // By the same rule: what is no better is not taken.
        if (perplexity(m_result.control).nll > perplexity(m_result.dense).nll) m_result.control = m_result.dense;
        tell("control", m_result.control);
        return {};
    }

    // NLL per token on the gate's windows.
    Json outcome() const
    {
        const auto nll = [](const std::vector<WindowLoss>& losses) {
            return losses.empty() ? Json() : Json(fmt::format("{:.6f}", perplexity(losses).nll));
        };
        return {{"gate", m_result.gateText},          {"gate_windows", m_result.before.size()}, {"nll_dense", nll(m_result.dense)},
                {"nll_before", nll(m_result.before)}, {"nll_after", nll(m_result.after)},       {"nll_control", nll(m_result.control)}};
    }

    // Windows of single measurements are no results of the run; a run that was stopped is measured to its end.
    class QuietJob final : public JobContext
    {
    public:
        QuietJob(JobContext& job, bool toTheEnd) : m_job(job), m_toTheEnd(toTheEnd) {}
        bool stopRequested() const noexcept override { return !m_toTheEnd && m_job.stopRequested(); }
        void progress(std::int64_t, std::int64_t, std::string_view) override {}
        void partial(const Json&) override {}

    private:
        JobContext& m_job;
        bool m_toTheEnd;
    };

    const RecoverRequest& m_request;
    JobContext& m_job;
    WorkShare& m_share;
    Params m_params;
    Texts m_texts;
    bool m_resumed = false;
    RecoverResult m_result;
};

}  // namespace

Result<RecoverResult> recoverPlan(const RecoverRequest& request, JobContext& job) { return Recovery(request, job).run(); }

Result<SplitText> splitText(const TuningText& text)
{
    if (!usable(text.windows)) return nothingToLearn(text.windows);
    std::vector<std::size_t> learn, judge;
    for (std::size_t i = 0; i < text.windows.rows.size(); ++i)
        (i % kEvery == kEvery - 1 ? judge : learn).push_back(i);
    if (judge.empty()) {
        // The last of a few.
        if (learn.size() < 2) {
            Error error = usageError("A text of one window leaves none to judge the result by.",
                                     "Give another text with --gate, more text, or shorter windows.");
            error.code = "recover.gate_needed";
            return error;
        }
        judge.push_back(learn.back());
        learn.pop_back();
    }
    SplitText split{{subset(text.windows, learn), {}}, subset(text.windows, judge)};
    if (!text.scored.empty())
        for (const std::size_t row : learn)
            split.tuning.scored.push_back(text.scored[row]);
    if (!usable(split.tuning.windows) || !usable(split.gate))
        return badInput("recover.no_tokens", text.windows.source, "The text has too few windows of at least two tokens.",
                        "Give a longer text, or shorter windows.");
    return split;
}

void removeRun(const fs::path& folder)
{
    std::error_code ignored;
    // What is left of it after a kill is nobody's run.
    fs::remove(folder / kRunFile, ignored);
    fs::remove_all(folder, ignored);
}

}  // namespace espalier
