#include "pipeline/recover_stage.h"

#include "evaluate/evaluator.h"
#include "model/moe_model.h"
#include "pipeline/method_catalog.h"
#include "pipeline/window_losses.h"
#include "rpc/values_json.h"

#include <algorithm>
#include <set>

namespace espalier
{

Result<std::optional<RecoverResult>> recoverStage(const PlanInputs& inputs, const PlanRecipe& recipe, const CompressionPlan& plan,
                                                  WorkShare& share, JobContext& job, std::string& warning)
{
    const auto usable =
        std::count_if(inputs.windows->rows.begin(), inputs.windows->rows.end(), [](const auto& row) { return row.size() >= 2; });
    if (usable < 2) {
        warning = "The plan was not recovered: a text of one window leaves none to judge the result by.";
        return std::optional<RecoverResult>();
    }
    if (inputs.recoverFolder.empty()) return internalError("the stage recover has no folder");
    FactorSources sources;
    if (inputs.sources) {
        ESPALIER_TRY(sources, inputs.sources(plan));
    }
    ESPALIER_TRY(MoeModel * model, inputs.model());
    std::optional<Evaluator> evaluator;
    RecoverRequest request;
    request.model = model;
    request.plan = withGivenProfile(plan, sources);
    request.sources = sources;
    request.method = recipe.recover;
    request.params = recipe.paramsOf("recover");
    request.text.windows = *inputs.windows;
    request.profile = &inputs.profile;
    request.seed = recipe.seed;
    request.folder = inputs.recoverFolder;
    request.resume = RecoverResume::IfSame;
    request.valuesFolder = inputs.recoverFolder / "values";
    request.processes = &share;
    request.measure = [&](const TokenWindows& gate, const CompressionPlan& which, JobContext& quiet) {
        if (!evaluator) evaluator.emplace(*model, gate, evaluatorCacheBytes(*model));
        return runShared(*evaluator, which, {}, quiet, share);
    };
    ESPALIER_TRY(RecoverResult result, recoverPlan(request, job));
    return std::optional(std::move(result));
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
            {"gate", result.gateText},
            {"gate_held_out", result.gateHeldOut},
            {"gate_windows", result.before.size()}};
}

}  // namespace espalier
