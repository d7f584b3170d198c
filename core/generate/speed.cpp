#include "generate/speed.h"

#include "base/peak_memory.h"
#include "base/random.h"
#include "base/text.h"
#include "generate/sampler.h"
#include "generate/sequence.h"
#include "plan/cost_model.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

struct Run {
    double prefill = 0, decode = 0;  // tokens per second
    std::int64_t bytesPerToken = 0, fileBytesPerToken = 0;
    std::int64_t madeAgain = 0;  // bytes of matrices
    std::int64_t peak = 0;
};

class Measured
{
public:
    Measured(MoeModel& model, const SpeedOptions& options, PreparedPlan plan, std::vector<int> prompt)
        : m_model(model), m_options(options), m_plan(std::move(plan)), m_prompt(std::move(prompt))
    {
    }

    Result<Run> run(JobContext& outer) const
    {
        beginRecentPeak();
        Run run;
        const ExtendReads first = m_model.extendReads();
        ESPALIER_TRY(Sequence sequence, Sequence::begin(m_model, m_plan, m_options.prefill + m_options.decode));
        WorkClock prefill(outer);
        ESPALIER_TRY(at::Tensor logits, sequence.feed(m_prompt, prefill));
        run.prefill = m_options.prefill / prefill.seconds();
        const ExtendReads before = m_model.extendReads();
        WorkClock decode(outer);
        for (int i = 0; i < m_options.decode; ++i) {
            const TokenChoice next = chooseToken({logits.const_data_ptr<float>(), static_cast<std::size_t>(logits.numel())}, {}, 0);
            ESPALIER_TRY(logits, sequence.feed(std::vector{next.chosen.id}, decode));
        }
        run.decode = m_options.decode / decode.seconds();
        const ExtendReads after = m_model.extendReads();
        run.bytesPerToken = (after.weightBytes - before.weightBytes) / m_options.decode + m_model.headBytes();
        run.fileBytesPerToken = (after.fileBytes - before.fileBytes) / m_options.decode;
        run.madeAgain = m_model.streamsWeights() ? 0 : after.fileBytes - first.fileBytes;
        run.peak = recentPeakBytes();
        return run;
    }

private:
    MoeModel& m_model;
    const SpeedOptions& m_options;
    PreparedPlan m_plan;
    std::vector<int> m_prompt;
};

std::vector<int> promptOf(const SpeedOptions& options, int vocabulary)
{
    std::vector<int> ids;
    ids.reserve(static_cast<std::size_t>(options.prefill));
    Random random = Random::forPurpose(options.seed, "speed");
    for (int i = 0; i < options.prefill; ++i)
        ids.push_back(options.prompt.empty() ? static_cast<int>(random.below(static_cast<std::uint64_t>(vocabulary)))
                                             : options.prompt[static_cast<std::size_t>(i) % options.prompt.size()]);
    return ids;
}

SpeedOf summary(const std::vector<Run>& runs, const MoeModel& model, const CompressionPlan& plan)
{
    SpeedOf speed;
    std::vector<double> prefill, decode;
    for (const Run& run : runs) {
        prefill.push_back(run.prefill);
        decode.push_back(run.decode);
        speed.bytesReadPerToken += run.bytesPerToken / std::ssize(runs);
        speed.fileBytesReadPerToken += run.fileBytesPerToken / std::ssize(runs);
        speed.peakRssBytes = std::max(speed.peakRssBytes, run.peak);
    }
    speed.prefill = spreadOf(std::move(prefill));
    speed.decode = spreadOf(std::move(decode));
    const ModelShape& shape = model.shape();
    const PlanCost cost = planCost(shape, plan);
    speed.activeParameters = cost.activeParameters;
    speed.atMost = cost.activeAtMost;
    // A row of the embedding is looked up, not multiplied with.
    const std::int64_t lookedUp = shape.tiedEmbeddings ? 0 : std::int64_t{shape.vocabularySize} * shape.hiddenSize;
    speed.flopsPerToken = 2 * (cost.activeParameters - lookedUp);
    speed.weightBytes = cost.parameters * (model.options().compute == ComputeType::Fp32 ? 4 : 2);
    return speed;
}

}  // namespace

Spread spreadOf(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    const std::size_t middle = values.size() / 2;
    const double median = values.size() % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
    return {median, values.front(), values.back()};
}

std::string madeAgainWarning(const SpeedResult& result, const MoeModel& model)
{
    if (result.madeAgain == 0 || !result.plan) return {};
    // Beside the dense model no more than all weights of the plan, in what is spare without the quarter of merged layers and the streams
    // between evaluations (MoeModel::create).
    const std::int64_t enough =
        model.options().memoryBudget - model.spareBytes() + (result.plan->weightBytes + (std::int64_t{1} << 30)) * 4 / 3;
    return fmt::format(
        "The memory budget of {} does not hold the matrices of the plan beside the dense model: they were made again while the plan was "
        "timed, which its export never does, so the plan is shown slower than it is. --memory-budget {}GiB is enough.",
        formatBytes(model.options().memoryBudget), (enough >> 30) + 1);
}

Result<SpeedResult> measureSpeed(MoeModel& model, const CompressionPlan* plan, const SpeedOptions& options, JobContext& job,
                                 const std::function<void(const RoundSpeed&)>& done)
{
    const c10::InferenceMode guard;
    const int positions = model.shape().maxPositions;
    if (positions > 0 && options.prefill + options.decode > positions)
        return badInput("generate.prompt_too_long", "prompt",
                        {"{tokens} tokens were asked for, and the model was made for {positions}.",
                         {{"tokens", options.prefill + options.decode}, {"positions", positions}}},
                        "Use fewer.");
    const CompressionPlan identity = CompressionPlan::identity(model.shape());
    const std::vector<int> prompt = promptOf(options, model.shape().vocabularySize);
    std::vector<Measured> sides;
    ESPALIER_TRY(PreparedPlan whole, model.prepare(identity));
    sides.emplace_back(model, options, std::move(whole), prompt);
    if (plan) {
        ESPALIER_TRY(PreparedPlan prepared, model.prepare(*plan));
        sides.emplace_back(model, options, std::move(prepared), prompt);
    }
    const std::int64_t total = (options.rounds + 1) * std::ssize(sides);
    std::vector<std::vector<Run>> runs(sides.size());
    SpeedResult result;
    std::int64_t progressed = 0;
    job.progress(0, total, "run");
    for (int round = -1; round < options.rounds; ++round) {
        std::vector<Run> both(sides.size());
        for (std::size_t i = 0; i < sides.size(); ++i) {
            const std::size_t side = round % 2 == 0 ? i : sides.size() - 1 - i;
            ESPALIER_TRY(both[side], sides[side].run(job));
            if (round >= 0) result.madeAgain = std::max(result.madeAgain, both[side].madeAgain);
            job.progress(++progressed, total, "run");
        }
        if (round < 0) continue;
        for (std::size_t i = 0; i < sides.size(); ++i)
            runs[i].push_back(both[i]);
        RoundSpeed speed{round, both[0].prefill, both[0].decode, {}, {}};
        if (plan) {
            speed.planPrefill = both[1].prefill;
            speed.planDecode = both[1].decode;
        }
        if (done) done(speed);
        result.rounds.push_back(speed);
    }
    result.dense = summary(runs[0], model, identity);
    if (!plan) return result;
    result.plan = summary(runs[1], model, *plan);
    std::vector<double> prefill, decode;
    for (const RoundSpeed& round : result.rounds) {
        prefill.push_back(*round.planPrefill / round.densePrefill);
        decode.push_back(*round.planDecode / round.denseDecode);
    }
    result.ratio = SpeedRatios{spreadOf(std::move(prefill)), spreadOf(std::move(decode))};
    return result;
}

}  // namespace espalier
