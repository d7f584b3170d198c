#include "pipeline/recover_stage.h"

#include "evaluate/evaluator.h"
#include "model/moe_model.h"
#include "pipeline/method_catalog.h"
#include "pipeline/model_match.h"
#include "pipeline/stage_job.h"
#include "pipeline/window_losses.h"
#include "rpc/values_json.h"

#include <algorithm>
#include <set>

namespace espalier
{

std::string RecoverStage::hindrance() const
{
    const auto usable =
        std::count_if(m_inputs.windows->rows.begin(), m_inputs.windows->rows.end(), [](const auto& row) { return row.size() >= 2; });
    return usable < 2 ? "The plan was not recovered: a text of one window leaves none to judge the result by." : "";
}

int RecoverStage::learnedWindows() const
{
    const Result<SplitText> split = splitText({*m_inputs.windows, {}});
    return split.ok() ? static_cast<int>(split->tuning.windows.rows.size()) : 0;
}

Result<RecoverResult> RecoverStage::run(const CompressionPlan& plan, const std::filesystem::path& folder, JobContext& job)
{
    if (m_inputs.recoverFolder.empty()) return internalError("the stage recover has no folder");
    FactorSources sources;
    if (m_inputs.sources) {
        ESPALIER_TRY(sources, m_inputs.sources(plan));
    }
    ESPALIER_TRY(MoeModel * model, m_inputs.model());
    RecoverRequest request;
    request.model = model;
    request.plan = withGivenProfile(plan, sources);
    request.sources = sources;
    request.method = m_recipe.recover;
    request.params = m_recipe.paramsOf("recover");
    request.text.windows = *m_inputs.windows;
    request.profile = &m_inputs.profile;
    request.seed = m_recipe.seed;
    request.folder = folder;
    request.resume = RecoverResume::IfSame;
    request.bestSoFar = m_inputs.recoverOnly;
    request.valuesFolder = folder / "values";
    request.processes = &m_share;
    request.measure = [&](const TokenWindows& gate, const CompressionPlan& which, JobContext& quiet) {
        return measure(*model, gate, which, quiet);
    };
    ESPALIER_TRY(RecoverResult result, recoverPlan(request, job));
    if (const MethodInfo* info = findMethod(Slot::Recover, m_recipe.recover); info != nullptr && info->stochastic)
        result.warnings.push_back("The plan was tuned on windows of the calibration text: `recover` takes a text of its own.");
    return result;
}

Result<std::vector<WindowLoss>> RecoverStage::measure(MoeModel& model, const TokenWindows& gate, const CompressionPlan& plan,
                                                      JobContext& job)
{
    if (const auto known = m_measured.find(plan.hash()); known != m_measured.end()) return known->second;
    if (!m_evaluator) m_evaluator.emplace(model, gate, evaluatorCacheBytes(model));
    ESPALIER_TRY(std::vector<WindowLoss> losses, runShared(*m_evaluator, plan, {}, job, m_share));
    m_measured.emplace(plan.hash(), losses);
    return losses;
}

Result<std::vector<WindowLoss>> RecoverStage::judge(const CompressionPlan& plan, JobContext& job)
{
    FactorSources sources;
    if (m_inputs.sources) {
        ESPALIER_TRY(sources, m_inputs.sources(plan));
    }
    ESPALIER_TRY(MoeModel * model, m_inputs.model());
    model->setFactorSources(sources);
    ESPALIER_TRY(const SplitText split, splitText({*m_inputs.windows, {}}));
    SilentPartials quiet(job);
    return measure(*model, split.gate, withGivenProfile(plan, sources), quiet);
}

Result<std::vector<WindowLoss>> RecoverStage::judgeDense(JobContext& job)
{
    const ModelShape& shape = m_inputs.checkpoint->shape();
    return judge(CompressionPlan::identity(shape).withModel(planModelOf(*m_inputs.checkpoint)), job);
}

Result<CompressionPlan> withoutRecovered(const ModelShape& shape, const CompressionPlan& plan)
{
    std::set<ValuesId> recovered;
    for (const ValuesInfo& info : plan.values()) {
        const Json made = Json::parse(info.madeBy, nullptr, false);
        const std::string method = made.is_object() ? made.value("method", std::string()) : std::string();
        if (findMethod(Slot::Recover, method)) recovered.insert(info.id);
    }
    CompressionPlan next = plan;
    for (int l = 0; l < plan.layerCount() && !recovered.empty(); ++l) {
        if (plan.isLocked(l)) continue;
        LayerPlan::Content content = plan.layer(l).content();
        bool changed = false;
        const auto forget = [&](ValuesId& id) {
            if (recovered.contains(id)) {
                id.clear();
                changed = true;
            }
        };
        for (Body& body : content.bodies)
            if (auto* expert = std::get_if<ExpertBody>(&body); expert && expert->sources.size() == 1)
                for (MatrixForm& form : expert->matrices)
                    if (std::holds_alternative<Dense>(form.structure) || form.plainRank() > 0) forget(form.values);
        std::erase_if(content.linears, [&](auto& linear) {
            if (std::holds_alternative<Dense>(linear.second.structure)) forget(linear.second.values);
            return linear.second.isSource();
        });
        forget(content.router);
        if (!changed) continue;
        ESPALIER_TRY(next, next.with(shape, l, LayerPlan(std::move(content))));
    }
    return next;
}

RecoverSummary recoverSummary(const RecoverResult& result, const std::string& method)
{
    return {.method = method,
            .accepted = result.accepted,
            .changed = result.changed,
            .cancelled = result.cancelled,
            .windows = static_cast<int>(result.before.size()),
            .nllDense = perplexity(result.dense).nll,
            .nllBefore = perplexity(result.before).nll,
            .nllAfter = perplexity(result.after).nll,
            .change = pairedDifference(result.after, result.before)};
}

Json recoverDetail(const RecoverResult& result, const std::string& method)
{
    const auto ppl = [](const std::vector<WindowLoss>& losses) { return losses.empty() ? Json() : numberJson(perplexity(losses).ppl); };
    Json losses = Json::array();
    Json steps = Json::array();
    for (const RecoverStep& step : result.steps) {
        losses.push_back(numberJson(step.loss));
        steps.push_back(toJson(step));
    }
    return {{"method", method},
            {"accepted", result.accepted},
            {"changed", result.changed},
            {"cancelled", result.cancelled},
            {"loss", std::move(losses)},
            {"steps", std::move(steps)},
            {"ppl_dense", ppl(result.dense)},
            {"ppl_before", ppl(result.before)},
            {"ppl_after", ppl(result.after)},
            {"ppl_control", ppl(result.control)},
            {"nll_before", toJson(pairedDifference(result.before, result.dense))},
            {"nll_after", toJson(pairedDifference(result.after, result.dense))},
            {"delta", toJson(pairedDifference(result.after, result.before))},
            {"nll_control", result.control.empty() ? Json() : Json(toJson(pairedDifference(result.control, result.dense)))},
            {"gate", result.gateText},
            {"gate_held_out", result.gateHeldOut},
            {"gate_windows", result.before.size()}};
}

}  // namespace espalier
