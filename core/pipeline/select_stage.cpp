#include "pipeline/select_stage.h"

#include "model/moe_model.h"
#include "pipeline/result_json.h"
#include "pipeline/stage_job.h"
#include "profile/profile_pass.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

namespace espalier
{

namespace
{

// Sampled tokens for products of all experts: n(n+1)/2 numbers each.
constexpr int kDenseTokens = 4096;

class Selecting
{
public:
    explicit Selecting(const SelectRequest& request) : m_request(request), m_shape(request.shape) {}

    Result<SelectAnswer> run(JobContext& job)
    {
        SelectAnswer answer;
        ESPALIER_TRY(answer.selections, search("select", m_request.profile, m_request.base, m_request.options, job));
        ESPALIER_CHECK_OK(searchUncoveredAgain(answer, job));
        return answer;
    }

private:
    // selectLayers for one stage: what an earlier run finished is taken, every layer is told and recorded as it ends.
    Result<std::vector<Selection>> search(const std::string& stage, const ProfileData& profile, const CompressionPlan& base,
                                          SelectOptions options, JobContext& job)
    {
        const auto tell = [&](const Selection& selection) {
            if (selection.best.empty()) return;
            const KeptSet& best = selection.best.front();
            job.partial(toJson(LayerSearched{.layer = selection.layer,
                                             .kept = best.kept,
                                             .bestLoss = best.loss,
                                             .referenceLoss = selection.referenceLoss,
                                             .outputNorm = selection.outputNorm,
                                             .evaluated = selection.evaluated,
                                             .trace = selection.trace}));
        };
        std::map<int, Selection> recorded = m_request.journal.selections(stage, m_request.keep);
        ESPALIER_CHECK_OK(gatherFinished(recorded));
        for (const auto& [layer, selection] : recorded)
            if (options.finished.emplace(layer, selection).second) tell(selection);
        CompressionPlan own = base;
        if (!m_request.share.alone())
            for (const LayerShape& layer : m_shape.layers)
                if (layer.moe && !m_request.share.owns(static_cast<std::size_t>(layer.index)) && !options.finished.contains(layer.index))
                    own = own.withLocked(layer.index, true);
        // Layers that are locked for this stage or this process alone are not its results.
        const auto passedOver = [&](const Selection& selection) {
            return own.isLocked(selection.layer) && !m_request.base.isLocked(selection.layer);
        };
        options.onLayer = [&](const Selection& selection) {
            if (passedOver(selection)) return;
            m_request.journal.add(stage, selection);
            tell(selection);
        };
        ESPALIER_TRY(std::vector<Selection> selections,
                     selectLayers(profile, m_request.method, m_request.params, m_request.keep, own, options, job));
        if (m_request.share.alone()) return selections;
        std::map<int, Selection> searched;
        for (const Selection& selection : selections)
            if (!passedOver(selection)) searched.emplace(selection.layer, selection);
        ESPALIER_CHECK_OK(gatherFinished(searched));
        for (Selection& selection : selections)
            if (passedOver(selection))
                if (const auto it = searched.find(selection.layer); it != searched.end()) selection = it->second;
        return selections;
    }

    // Adds what the other processes have searched.
    Status gatherFinished(std::map<int, Selection>& selections)
    {
        if (m_request.share.alone()) return {};
        Json own = Json::array();
        for (const auto& [layer, selection] : selections)
            own.push_back({layer, toJson(selection)});
        ESPALIER_TRY(const std::vector<Json> parts, m_request.share.exchange(std::move(own)));
        for (const Json& part : parts)
            for (const Json& each : part) {
                ESPALIER_TRY(Selection selection, selectionFromJson(each[1]));
                selections.emplace(each[0].get<int>(), std::move(selection));
            }
        return {};
    }

    // Charging uncovered tokens keeps a search honest but coarse. Above 1 % the layers are searched again on products of all experts,
    // taken from the calibration text. Without the model the warning of the selection stands.
    Status searchUncoveredAgain(SelectAnswer& answer, JobContext& job)
    {
        std::vector<Selection>& selections = answer.selections;
        std::vector<bool> open;
        open.reserve(selections.size());
        for (const Selection& selection : selections)
            open.push_back(selection.uncoveredShare > 0.01);
        const auto uncovered = [&](const Selection& selection) { return open[static_cast<std::size_t>(selection.layer)]; };
        if (!m_request.model || !m_request.windows || std::none_of(selections.begin(), selections.end(), uncovered)) return {};
        ProfileOptions dense;
        dense.collect = {"counts", "gram"};
        dense.gramTokens = kDenseTokens;
        for (const LayerShape& layer : m_shape.layers)
            if (layer.moe) dense.gramExtra = std::max(dense.gramExtra, layer.experts - layer.router.topK);
        for (const Selection& selection : selections)
            if (uncovered(selection)) dense.layers.push_back(selection.layer);
        // One layer's products at a time: those of all experts and layers together would be larger than the profile.
        dense.onLayer = [&](LayerProfile& layer) -> Status {
            const int index = layer.layer;
            const auto l = static_cast<std::size_t>(index);
            if (!open[l]) return {};
            ProfileData one;
            one.shape = m_shape;
            one.layers.resize(m_shape.layers.size());
            one.layers[l] = std::move(layer);
            SelectOptions alone = m_request.options;
            for (const Selection& selection : selections)
                if (selection.layer != index) alone.finished.emplace(selection.layer, selection);
            ESPALIER_TRY(std::vector<Selection> again, search("select-again", one, m_request.base, alone, job));
            answer.warnings.push_back(
                fmt::format("Layer {}: {:.1f} % of the tokens were not covered by their lists; it was searched again on the "
                            "products of all experts.",
                            index, selections[l].uncoveredShare * 100));
            selections[l] = std::move(again[l]);
            return {};
        };
        ESPALIER_TRY(MoeModel * model, m_request.model());
        SilentPartials quiet(job);
        ESPALIER_TRY(const ProfileData ran, runProfile(*model, *m_request.windows, dense, quiet));
        return {};
    }

    const SelectRequest& m_request;
    const ModelShape& m_shape;
};

}  // namespace

Result<SelectAnswer> selectSets(const SelectRequest& request, JobContext& job) { return Selecting(request).run(job); }

}  // namespace espalier
