// What the scripted engine plans: a search that keeps the same share everywhere, and a recovery.
#include "allocate/allocator.h"
#include "plan/cost_model.h"
#include "widgets/fake_engine.h"

#include <algorithm>
#include <cmath>

namespace espalier
{

// Keeps the same share everywhere, then exchanges one kept for one dropped expert per layer. Held: after the first layer that was
// searched, with the second one running.
void FakeEngine::plan(const Request& request, bool held)
{
    const auto asked = read<PlanRequest>(request);
    if (!asked) return;
    const PlanRecipe& recipe = asked->recipe;
    const Result<CompressionPlan> base = planFromJson(asked->plan, m_shape);
    if (!base.ok()) return fail(request.id, base.error());
    if (m_script.has("--refuse-plan")) {
        Error error = badInput("allocate.infeasible", "target", "The locked layers alone keep more experts than the target.",
                               "Unlock a layer, or raise the target to 24 experts.");
        return fail(request.id, error);
    }
    if (asked->recoverOnly) return recover(request, *asked, *base, held);
    const Result<std::vector<int>> keep = shared(recipe, *base);
    if (!keep.ok()) return fail(request.id, keep.error());
    ExpertScores scores;
    scores.method = recipe.score;
    for (int layer = 0; layer < m_layers; ++layer) {
        scores.values.rows.emplace_back();
        for (int e = 0; e < m_experts; ++e)
            scores.values.rows.back().push_back(scoreOf(scores.method, layer, e, m_experts));
    }
    Result<CompressionPlan> ranked = selectByRanking(m_shape, *base, *keep, scores);
    if (!ranked.ok()) return fail(request.id, ranked.error());
    CompressionPlan found = std::move(ranked).value();
    const bool verified = recipe.allocate == "verified";
    if (verified) verify(request.id, found);
    planStage(request.id, "select", PlanFound{toJson(found), *keep});
    if (!search(request.id, found, verified, held)) return;
    if (recipe.receptiveField) chooseBlocks(request.id, found, recipe.receptiveField->blockSize);
    if (recipe.ranks) planStage(request.id, "rank", PlanFound{toJson(found), {}});
    const CompressionPlan& answer = m_script.has("--same-plan") ? *base : found;
    PlanAnswer made;
    made.plan = toJson(answer);
    made.planHash = answer.hash();
    made.keep = *keep;
    if (m_script.has("--note-plan")) made.warnings = {"The first remark.", "The second remark."};
    made.cost = costFacts(planCost(m_shape, answer), planCost(m_shape, CompressionPlan::identity(m_shape)));
    made.seconds = 0.1;
    reply(request.id, made);
}

Result<std::vector<int>> FakeEngine::shared(const PlanRecipe& recipe, const CompressionPlan& base) const
{
    AllocationRequest wanted;
    wanted.plan = base;
    wanted.keepTotal = recipe.keepTotal.value_or(0);
    const LayerShape& layer0 = m_shape.layers.front();
    const std::int64_t dense = planCost(m_shape, CompressionPlan::identity(m_shape)).bytes;
    if (recipe.bytes)
        wanted.keepTotal = m_layers * m_experts - static_cast<int>((dense - *recipe.bytes + layer0.bytesPerExpert - 1) /
                                                                   (layer0.bytesPerExpert + layer0.routerBytesPerExpert));
    return allocate("uniform", m_shape, wanted, {});
}

void FakeEngine::verify(const RequestId& id, const CompressionPlan& found)
{
    for (int layer = 0; layer < m_layers; ++layer) {
        planStage(id, "allocate", LayerAlone{layer, 0.04 * (m_layers - layer)});
        progress(id, 10 * (layer + 1), 1000, "search");
    }
    const auto measured = [&](const char* name, double nll, double change, double error, double passes, int windows, bool accepted) {
        PlanMeasured step;
        step.step = {.name = name,
                     .planHash = found.hash(),
                     .nll = nll,
                     .windows = windows,
                     .change = change,
                     .changeError = error,
                     .rise = nll - 2.25,
                     .estimatedGain = change,
                     .passes = passes,
                     .accepted = accepted};
        if (accepted) step.plan = toJson(found);
        planStage(id, "allocate", std::move(step));
        progress(id, static_cast<int>(25 * passes), 1000, "search");
    };
    measured("uniform", 2.45, 0, 0, 4.5, 96, true);
    measured("experts 0 -> 2", 2.46, 0.01, 0.002, 5.25, 16, false);
    measured("experts 3 -> 1", 2.41, -0.04, 0.004, 7.0, 96, true);
}

// False: the script holds it.
bool FakeEngine::search(const RequestId& id, CompressionPlan& found, bool verified, bool held)
{
    const auto layersSearched = [&](int count) {
        if (verified)
            progress(id, 800 + 200 * count / m_layers, 1000, "search");
        else
            progress(id, count, m_layers, "layer");
    };
    int searched = 0;
    for (int layer = 0; layer < m_layers; ++layer) {
        if (found.isLocked(layer)) continue;
        std::vector<double> trace;
        for (int generation = 0; generation < 4; ++generation) {
            trace.push_back(12.0 - layer - 0.7 * generation);
            planStage(id, "select",
                      LayerSearching{.layer = layer,
                                     .generation = generation,
                                     .bestLoss = trace.back(),
                                     .referenceLoss = {},
                                     .enumerated = false,
                                     .trace = trace});
        }
        layersSearched(searched);
        if (held && searched == 1) return false;
        const ExpertSet kept = exchanged(found, layer);
        planStage(id, "select",
                  LayerSearched{.layer = layer,
                                .kept = kept,
                                .bestLoss = trace.back(),
                                .referenceLoss = 13.0 - layer,
                                .outputNorm = 100,
                                .evaluated = 400,
                                .trace = trace});
        if (Result<CompressionPlan> better = found.withKept(m_shape, layer, kept); better.ok()) found = std::move(better).value();
        layersSearched(++searched);
    }
    return true;
}

// The first dropped expert in place of the first kept one that is not protected.
ExpertSet FakeEngine::exchanged(const CompressionPlan& found, int layer) const
{
    ExpertSet kept = found.layer(layer).kept();
    const ExpertSet& pinned = found.protectedExperts(layer);
    for (int e = 0; e < m_experts && static_cast<int>(kept.size()) < m_experts; ++e)
        if (!found.keeps(layer, e)) {
            const auto old =
                std::find_if(kept.begin(), kept.end(), [&](int k) { return !std::binary_search(pinned.begin(), pinned.end(), k); });
            if (old != kept.end()) *old = e;
            std::sort(kept.begin(), kept.end());
            break;
        }
    return kept;
}

void FakeEngine::chooseBlocks(const RequestId& id, const CompressionPlan& found, int size)
{
    for (int first = 0; first < m_layers; first += size) {
        BlockChosen chosen;
        for (int layer = first; layer < std::min(m_layers, first + size); ++layer)
            chosen.block.moeLayers.push_back(layer);
        chosen.block.best = {{0, 1, 0}, 4.6};
        chosen.block.trials = {{{0, 0, 0}, 5.0}, chosen.block.best};
        chosen.plan = toJson(found);
        planStage(id, "receptive-field", std::move(chosen));
    }
}

// Two points a layer; held: after the first layer, and a stop then is answered with what there is.
void FakeEngine::recover(const Request& request, const PlanRequest& asked, const CompressionPlan& base, bool held)
{
    const auto stage = [&](auto value) { partial(request.id, PlanEvent{"recover", std::move(value)}); };
    stage(PlanFound{toJson(base), {}});
    stage(RecoverJudged{.what = "dense", .nll = 2.25, .windows = 12});
    stage(RecoverJudged{.what = "before", .nll = 2.75, .windows = 12});
    const int layers = held ? 1 : m_layers;
    for (int layer = 0; layer < layers; ++layer) {
        progress(request.id, 1000 * layer / m_layers, 1000, "search");
        stage(RecoverPoint{.step = 2 * layer + 1, .loss = 0.5, .layer = layer, .gateNll = {}});
        stage(RecoverPoint{.step = 2 * layer + 2, .loss = 0.25, .layer = layer, .gateNll = {}});
    }
    if (held)
        m_recovering = asked;
    else
        recovered(request.id, asked, base, false);
}

void FakeEngine::recovered(const RequestId& id, const PlanRequest& asked, const CompressionPlan& base, bool cancelled)
{
    const double after = cancelled ? 2.625 : 2.5;
    partial(id, PlanEvent{"recover", RecoverJudged{"after", after, 12}});
    const std::string values(64, cancelled ? '1' : '2');
    LayerPlan::Content content = base.layer(0).content();
    std::get<ExpertBody>(content.bodies.front()).matrices[2].values = values;
    Result<CompressionPlan> next = base.with(m_shape, 0, LayerPlan(std::move(content)));
    if (!next.ok()) return fail(id, next.error());
    const CompressionPlan answer = next->withValues({{values, values + ".safetensors", "{\"method\":\"least-squares\"}"}});
    PlanAnswer made;
    made.plan = toJson(answer);
    made.planHash = answer.hash();
    for (int layer = 0; layer < m_layers; ++layer)
        made.keep.push_back(static_cast<int>(answer.layer(layer).kept().size()));
    made.recovery = RecoverSummary{.method = asked.recipe.recover,
                                   .accepted = true,
                                   .changed = true,
                                   .cancelled = cancelled,
                                   .windows = 12,
                                   .nllDense = 2.25,
                                   .nllBefore = 2.75,
                                   .nllAfter = after,
                                   .change = {after - 2.75, 0.01, std::exp(after - 2.75), 0, 0, 12}};
    made.cost = costFacts(planCost(m_shape, answer), planCost(m_shape, CompressionPlan::identity(m_shape)));
    made.seconds = 0.1;
    reply(id, made);
}

}  // namespace espalier
