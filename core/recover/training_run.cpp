#include "recover/training_run.h"

#include "base/atomic_file.h"
#include "base/random.h"
#include "checkpoint/safetensors.h"
#include "model/moe_model.h"
#include "plan/values.h"
#include "recover/merged_values.h"
#include "recover/teacher_cache.h"
#include "recover/training_optimiser.h"

#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

constexpr std::int64_t kTokensAtOnce = 2048;
constexpr auto kSaveEvery = std::chrono::seconds(30);
constexpr const char* kStateFile = "training.safetensors";
constexpr const char* kState = "espalier.training";

// What a run has come to. The tensors are those of the optimiser; the rest is small.
struct Progress {
    int step = 0;
    std::vector<RecoverStep> trace;
    std::optional<double> before;  // live NLL of the plan as it was given
    std::optional<double> best;
    int bestStep = 0;
    at::Tensor bestValues;  // undefined: none is better than the plan as it was
};

Json toJson(const Progress& progress)
{
    Json trace = Json::array();
    for (const RecoverStep& step : progress.trace)
        trace.push_back({step.step, step.loss, step.gateNll ? Json(*step.gateNll) : Json()});
    return {{"step", progress.step},
            {"trace", trace},
            {"before", progress.before ? Json(*progress.before) : Json()},
            {"best", progress.best ? Json(*progress.best) : Json()},
            {"best_step", progress.bestStep}};
}

class Training
{
public:
    Training(RecoverRun& run, const TrainingTask& task, ModelParts& model, JobContext& job)
        : m_run(run), m_task(task), m_model(model), m_job(job)
    {
    }

    Result<Recovered> go()
    {
        const at::AutoGradMode off(false);
        ESPALIER_CHECK_OK(checkSettings(m_task.steps));
        chooseWindows();
        FactorSources sources = m_run.sources;
        m_run.model.setFactorSources(sources);
        ESPALIER_TRY(m_plan, m_run.model.prepare(m_run.plan));
        ESPALIER_TRY(m_trainables,
                     Trainables::create(m_model.checkpoint(), m_plan, m_task.targets, m_task.steps.seed, m_model.placement().device));
        for (const std::string& warning : m_trainables->warnings())
            m_run.warnings.push_back(warning);
        m_optimiser = AdamW::of(m_trainables->values());
        m_progress.bestValues = at::Tensor();
        if (m_run.resume) ESPALIER_CHECK_OK(load());
        for (const RecoverStep& step : m_progress.trace)
            m_run.report(step);
        TrainingPass pass(m_model, m_plan, &*m_trainables);
        if (!m_progress.before) {
            ESPALIER_TRY(m_progress.before, m_run.gateNll(m_run.plan, {}));
            freeModel();
            ESPALIER_CHECK_OK(save());
        }
        m_saved = std::chrono::steady_clock::now();
        while (m_progress.step < m_task.steps.steps) {
            m_job.progress(m_progress.step, m_task.steps.steps, "step");
            if (m_job.stopRequested()) return stopped();
            Status stepped = step(pass);
            if (!stepped.ok()) {
                if (stepped.error().kind == ErrorKind::Cancelled) return stopped();
                return stepped.error();
            }
            if (std::chrono::steady_clock::now() - m_saved > kSaveEvery) ESPALIER_CHECK_OK(save());
        }
        m_job.progress(m_task.steps.steps, m_task.steps.steps, "step");
        ESPALIER_CHECK_OK(save());
        return best(false);
    }

private:
    // Windows that teach nothing are left out.
    void chooseWindows()
    {
        const auto& rows = m_run.text.windows.rows;
        for (std::size_t w = 0; w < rows.size(); ++w)
            if (scoredTokens(rows[w], scoredOf(w)) > 0) m_windows.push_back(w);
    }
    const std::vector<bool>& scoredOf(std::size_t window) const
    {
        static const std::vector<bool> all;
        return m_run.text.scored.empty() ? all : m_run.text.scored[window];
    }

    struct Micro {
        TrainingBatch batch;
        std::int64_t scored = 0, tokens = 0;
    };
    // The windows of a step as batches that go through the model at once, of about one length.
    Result<std::vector<Micro>> batchesOf(int step)
    {
        std::vector<std::size_t> windows;
        for (const int number : windowsOfStep(m_task.steps, static_cast<int>(m_windows.size()), step))
            windows.push_back(m_windows[static_cast<std::size_t>(number)]);
        const auto& rows = m_run.text.windows.rows;
        std::stable_sort(windows.begin(), windows.end(), [&](std::size_t a, std::size_t b) { return rows[a].size() > rows[b].size(); });
        std::vector<Micro> batches;
        std::vector<std::vector<TeacherRows>> teachers;
        for (const std::size_t w : windows) {
            // The longest come first, so that those behind them are filled up.
            const auto length = static_cast<std::int64_t>(rows[w].size());
            const auto longest = batches.empty() ? length : std::ssize(batches.back().batch.rows.front());
            const std::int64_t most =
                m_task.steps.microBatch > 0 ? m_task.steps.microBatch : std::max<std::int64_t>(kTokensAtOnce / longest, 1);
            if (batches.empty() || std::ssize(batches.back().batch.rows) >= most) {
                batches.emplace_back();
                teachers.emplace_back();
            }
            Micro& micro = batches.back();
            addWindow(micro.batch, rows[w], scoredOf(w));
            micro.scored += scoredTokens(rows[w], scoredOf(w));
            micro.tokens += length;
            if (m_task.teacher) {
                ESPALIER_TRY(TeacherRows said, m_task.teacher->window(static_cast<std::int64_t>(w)));
                teachers.back().push_back(std::move(said));
            }
        }
        if (m_task.teacher)
            for (std::size_t i = 0; i < batches.size(); ++i) {
                TeacherRows joined = joinedRows(teachers[i]);
                const c10::Device device = m_model.placement().device;
                batches[i].batch.teacher = TeacherRows{joined.tokens.to(device), joined.logProbability.to(device), joined.rest.to(device)};
            }
        return batches;
    }

    Status step(TrainingPass& pass)
    {
        const int number = m_progress.step + 1;
        ESPALIER_TRY(const std::vector<Micro> batches, batchesOf(number));
        std::int64_t scored = 0, tokens = 0;
        for (const Micro& micro : batches) {
            scored += micro.scored;
            tokens += micro.tokens;
        }
        m_trainables->gradients().zero_();
        double loss = 0;
        PassSettings settings;
        settings.weight = 1 / static_cast<double>(scored);
        settings.temperature = m_task.temperature;
        settings.entropyWeight = m_task.entropyWeight;
        settings.stepTokens = tokens;
        if (m_task.topK) settings.topK = m_task.topK(number);
        for (std::size_t i = 0; i < batches.size(); ++i) {
            settings.dropoutSeed = Random::forPurpose(m_task.steps.seed, "batch", static_cast<std::uint64_t>(number) << 20 | i).next();
            ESPALIER_TRY(const PassLoss part, pass.gradients(batches[i].batch, settings, m_job));
            loss += part.sum * settings.weight + m_task.entropyWeight * part.entropy;
        }
        const double norm = clipNorm(m_trainables->gradients(), m_task.steps.clip);
        if (!std::isfinite(loss) || !std::isfinite(norm))
            return badInput("recover.diverged", fmt::format("step {}", number),
                            {"The loss of step {step} is not finite.", {{"step", number}}}, "Use a lower learning rate.");
        m_optimiser.step(m_trainables->values(), m_trainables->gradients(), rateOf(m_task.steps, number), m_task.steps);
        m_progress.step = number;
        RecoverStep trace{.step = number, .loss = loss};
        const int every = m_task.steps.evaluateEvery;
        if (number == m_task.steps.steps || (every > 0 && number % every == 0)) {
            ESPALIER_TRY(trace.gateNll, look());
        }
        m_progress.trace.push_back(trace);
        m_run.report(trace);
        // A look costs more than writing does.
        return trace.gateNll ? save() : Status();
    }

    // Live NLL of what would be offered now: merged, and rounded as an export stores it.
    Result<double> look()
    {
        ESPALIER_TRY(const MergedPlan merged, mergedPlan(m_model, m_plan, *m_trainables, m_run.folder));
        const auto nll = m_run.gateNll(merged.plan, merged.parts);
        freeModel();
        removeParts(merged.parts);
        if (!nll.ok()) return nll.error();
        if (*nll < m_progress.best.value_or(*m_progress.before)) {
            m_progress.best = *nll;
            m_progress.bestStep = m_progress.step;
            m_progress.bestValues = m_trainables->values().clone();
        }
        return *nll;
    }
    // Weights are held by one model at a time where they do not fit twice.
    void freeModel()
    {
        if (m_model.streamsWeights() || m_run.model.residentBytes() > m_model.spareBytes() / 2) m_run.model.releaseWeights();
    }
    static void removeParts(const FactorSources& parts)
    {
        for (const auto& part : parts) {
            std::error_code ignored;
            fs::remove(part->stored()->path(), ignored);
        }
    }

    Result<Recovered> stopped()
    {
        ESPALIER_CHECK_OK(save());
        // The steps since the last look count too, if they are any better.
        if (m_progress.step == 0) return cancelledError();
        return best(true);
    }

    Result<Recovered> best(bool cancelled)
    {
        // Of a run that came to its end and never was any better, the end: whoever judges it says so.
        if (!m_progress.bestValues.defined() && cancelled) return Recovered{m_run.plan, {}, true};
        if (m_progress.bestValues.defined()) m_trainables->values().copy_(m_progress.bestValues);
        ESPALIER_TRY(MergedPlan merged, mergedPlan(m_model, m_plan, *m_trainables, m_run.folder));
        m_model.release();
        return Recovered{std::move(merged.plan), std::move(merged.parts), cancelled};
    }

    // --- The state on disk.

    Json key() const
    {
        return {{"steps", espalier::toJson(m_task.steps)},
                {"adapters", m_task.targets.withAdapters ? espalier::toJson(m_task.targets.adapters) : Json()},
                {"routers", m_task.targets.routers},
                {"temperature", m_task.temperature},
                {"entropy_weight", m_task.entropyWeight},
                {"teacher", m_task.teacher != nullptr},
                {"text", m_run.text.windows.textSha256},
                {"plan", m_run.plan.hash()}};
    }

    Status save()
    {
        std::vector<std::pair<std::string, at::Tensor>> tensors = {
            {"first_moment", m_optimiser.first}, {"second_moment", m_optimiser.second}, {"values", m_trainables->values()}};
        if (m_progress.bestValues.defined()) tensors.insert(tensors.begin(), {"best", m_progress.bestValues});
        std::vector<TensorDeclaration> declared;
        declared.reserve(tensors.size());
        for (const auto& [name, tensor] : tensors)
            declared.push_back({name, DType::F32, {tensor.numel()}});
        const Json state = {{"key", key()}, {"progress", toJson(m_progress)}};
        ESPALIER_TRY(SafetensorsWriter writer,
                     SafetensorsWriter::create(m_run.folder / kStateFile, std::move(declared), {{kState, state.dump()}}));
        for (const auto& [name, tensor] : tensors) {
            const at::Tensor host = tensor.to(at::kCPU).contiguous();
            ESPALIER_CHECK_OK(writer.write({static_cast<const std::byte*>(host.const_data_ptr()), host.nbytes()}));
        }
        ESPALIER_CHECK_OK(writer.finish());
        m_saved = std::chrono::steady_clock::now();
        return {};
    }

    Status load()
    {
        const fs::path path = m_run.folder / kStateFile;
        std::error_code failure;
        if (!fs::exists(path, failure)) return {};  // stopped before the first was written
        ESPALIER_TRY(const SafetensorsFile file, SafetensorsFile::open(path));
        const auto found = file.metadata().find(kState);
        ESPALIER_TRY(const Json state,
                     parseJson(found == file.metadata().end() ? "{}" : found->second, path.filename().string(), "recover"));
        if (!state.contains("key") || !state.contains("progress")) return damaged(path);
        const Json own = Json::parse(key().dump());
        if (state["key"] != own) return otherRun(path, state["key"], own);
        const auto read = [&](const char* name, at::Tensor& to) -> bool {
            const TensorInfo* info = file.find(name);
            if (info == nullptr || info->dtype != DType::F32 || info->elementCount() != m_trainables->count()) return false;
            at::Tensor values = at::empty({m_trainables->count()}, at::kFloat);
            std::memcpy(values.mutable_data_ptr(), file.bytes(*info).data(), values.nbytes());
            to.copy_(values);
            return true;
        };
        if (!read("values", m_trainables->values()) || !read("first_moment", m_optimiser.first) ||
            !read("second_moment", m_optimiser.second))
            return damaged(path);
        if (file.find("best") != nullptr) {
            m_progress.bestValues = at::empty_like(m_trainables->values());
            if (!read("best", m_progress.bestValues)) return damaged(path);
        }
        return readProgress(state["progress"], path);
    }

    Status readProgress(const Json& progress, const fs::path& path)
    {
        try {
            m_progress.step = progress.at("step").get<int>();
            if (!progress.at("before").is_null()) m_progress.before = progress.at("before").get<double>();
            if (!progress.at("best").is_null()) m_progress.best = progress.at("best").get<double>();
            m_progress.bestStep = progress.at("best_step").get<int>();
            for (const Json& step : progress.at("trace")) {
                RecoverStep trace{.step = step.at(0).get<int>(), .loss = step.at(1).get<double>()};
                if (!step.at(2).is_null()) trace.gateNll = step.at(2).get<double>();
                m_progress.trace.push_back(trace);
            }
        } catch (const Json::exception&) {
            return damaged(path);
        }
        m_optimiser.steps = m_progress.step;
        return {};
    }

    static Error damaged(const fs::path& path)
    {
        return badInput("recover.state_damaged", path.filename().string(),
                        {"{path} is no state of an interrupted tuning.", {{"path", path.string()}}}, "Begin again without --resume.");
    }
    static Error otherRun(const fs::path& path, const Json& there, const Json& own)
    {
        std::string differs;
        for (const auto& [name, value] : own.items())
            if (!there.contains(name) || there[name] != value) {
                differs = name;
                if (value.is_object() && there.contains(name) && there[name].is_object())
                    for (const auto& [inner, number] : value.items())
                        if (!there[name].contains(inner) || there[name][inner] != number) differs = inner;
            }
        Error error = badInput(
            "recover.other_run", path.filename().string(),
            {"The interrupted tuning in {folder} had another {what}.", {{"folder", path.parent_path().string()}, {"what", differs}}},
            "Give the settings of the interrupted run, or begin again without --resume.");
        error.kept = "What it finished is still there.";
        return error;
    }

    RecoverRun& m_run;
    const TrainingTask& m_task;
    ModelParts& m_model;
    JobContext& m_job;
    std::vector<std::size_t> m_windows;
    PreparedPlan m_plan;
    std::optional<Trainables> m_trainables;
    AdamW m_optimiser;
    Progress m_progress;
    std::chrono::steady_clock::time_point m_saved;
};

}  // namespace

Result<Recovered> train(RecoverRun& run, const TrainingTask& task, ModelParts& model, JobContext& job)
{
    return Training(run, task, model, job).go();
}

std::vector<int> windowsOfStep(const StepSettings& settings, int windows, int step)
{
    std::vector<int> chosen;
    std::vector<int> order(static_cast<std::size_t>(windows));
    std::int64_t epoch = -1;
    for (int i = 0; i < settings.batch; ++i) {
        const std::int64_t place = std::int64_t{step - 1} * settings.batch + i;
        if (place / windows != epoch) {
            epoch = place / windows;
            std::iota(order.begin(), order.end(), 0);
            Random random = Random::forPurpose(settings.seed, "order", static_cast<std::uint64_t>(epoch));
            for (std::size_t j = order.size(); j > 1; --j)
                std::swap(order[j - 1], order[random.below(j)]);
        }
        chosen.push_back(order[static_cast<std::size_t>(place % windows)]);
    }
    return chosen;
}

StepSettings stepSettings(const Params& params, std::uint64_t seed)
{
    StepSettings settings;
    settings.steps = params.at("steps").get<int>();
    settings.batch = params.at("batch").get<int>();
    settings.microBatch = params.at("micro-batch").get<int>();
    settings.rate = params.at("rate").get<double>();
    settings.warmup = std::min(params.at("warmup").get<int>(), settings.steps);
    const std::string schedule = params.at("schedule").get<std::string>();
    settings.schedule = *parseSchedule(schedule);
    settings.decay = params.at("decay").get<double>();
    settings.clip = params.at("clip").get<double>();
    settings.evaluateEvery = params.at("evaluate-every").get<int>();
    settings.seed = seed;
    return settings;
}

void warnOfSingleExperts(const RecoverRun& run)
{
    std::vector<int> layers;
    for (int l = 0; l < run.plan.layerCount(); ++l) {
        const LayerShape& shape = run.model.shape().layers[static_cast<std::size_t>(l)];
        const int topK = run.plan.layer(l).topK().value_or(shape.router.topK);
        const bool renormalised = shape.router.rule == RoutingRule::SoftmaxRenormalised ||
                                  (shape.router.rule == RoutingRule::SigmoidBias && shape.router.normalise);
        if (shape.moe && run.plan.layer(l).runsExperts() && renormalised && topK == 1) layers.push_back(l);
    }
    if (layers.empty()) return;
    run.warnings.push_back(fmt::format(
        "Tokens go to one expert with the weight 1 in {} of the layers (the first is {}): their routers get no gradient from the output.",
        layers.size(), layers.front()));
}

Status checkAlone(const RecoverRun& run)
{
    if (run.share.alone()) return {};
    return usageError("A plan is tuned by gradients in one process.", "Start it without mpirun.");
}

}  // namespace espalier
