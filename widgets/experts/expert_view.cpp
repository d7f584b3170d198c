#include "experts/expert_view.h"

#include "look/format.h"
#include "plan/cost_model.h"
#include "plan/rank_edit.h"

#include <QCoreApplication>
#include <QStringList>

#include <algorithm>

namespace espalier
{

namespace
{

QString tr(const char* text) { return QCoreApplication::translate("ExpertView", text); }

constexpr std::array<ExpertStateInfo, 6> kStates = {
    {{ExpertState::Kept, "kept", QT_TRANSLATE_NOOP("ExpertView", "kept"), ExpertMark::None},
     {ExpertState::LowRank, "low-rank", QT_TRANSLATE_NOOP("ExpertView", "low rank"), ExpertMark::Corner},
     {ExpertState::Constant, "constant", QT_TRANSLATE_NOOP("ExpertView", "constant"), ExpertMark::Dot},
     {ExpertState::Dropped, "dropped", QT_TRANSLATE_NOOP("ExpertView", "dropped"), ExpertMark::Hatch},
     {ExpertState::Skipped, "skipped", QT_TRANSLATE_NOOP("ExpertView", "skipped layer"), ExpertMark::Row},
     {ExpertState::DenseLayer, "dense-layer", QT_TRANSLATE_NOOP("ExpertView", "dense layer"), ExpertMark::None}}};

const LayerShape* layerOf(const ModelShape& shape, int layer)
{
    return layer >= 0 && layer < static_cast<int>(shape.layers.size()) ? &shape.layers[static_cast<std::size_t>(layer)] : nullptr;
}

bool covers(const ModelShape& shape, const CompressionPlan& plan)
{
    return !shape.layers.empty() && plan.layerCount() == static_cast<int>(shape.layers.size());
}

QString rankText(const ModelShape& shape, const CompressionPlan& plan, CellId cell)
{
    const int rank = rankOfLevel(shape, cell.layer, levelOf(shape, plan, cell.layer, cell.expert));
    return rank > 0 ? tr(QT_TRANSLATE_NOOP("ExpertView", "rank %1")).arg(format::count(rank)) : tr("low rank");
}

QString constantText(const LayerPlan& layer, int expert)
{
    const Body* body = layer.bodyOf(expert);
    const auto* constant = body ? std::get_if<ConstantBody>(body) : nullptr;
    if (!constant) return tr(QT_TRANSLATE_NOOP("ExpertView", "constant in the checkpoint"));
    if (!constant->values.empty()) return tr(QT_TRANSLATE_NOOP("ExpertView", "constant (stored)"));
    return tr(QT_TRANSLATE_NOOP("ExpertView", "constant (%1)")).arg(constantTitle(constant->kind));
}

}  // namespace

const std::array<ExpertStateInfo, 6>& expertStates() { return kStates; }

const ExpertStateInfo& infoOf(ExpertState state)
{
    return *std::find_if(kStates.begin(), kStates.end(), [state](const ExpertStateInfo& info) { return info.state == state; });
}

QString titleOf(ExpertState state) { return tr(infoOf(state).title); }

ExpertState expertState(const ModelShape& shape, const CompressionPlan& plan, CellId cell)
{
    const LayerShape* layer = layerOf(shape, cell.layer);
    if (!layer || layer->experts == 0) return ExpertState::DenseLayer;
    if (!covers(shape, plan)) return layer->isSourceConstant(cell.expert) ? ExpertState::Constant : ExpertState::Kept;
    const LayerPlan& of = plan.layer(cell.layer);
    if (!of.runsExperts()) return ExpertState::Skipped;
    if (of.keeps(cell.expert)) {
        if (layer->isSourceConstant(cell.expert)) return ExpertState::Constant;
        return of.ranksOf(cell.expert) == RankTriple{} ? ExpertState::Kept : ExpertState::LowRank;
    }
    return of.isConstant(cell.expert) ? ExpertState::Constant : ExpertState::Dropped;
}

ExpertView expertView(const ModelShape& shape, const CompressionPlan& plan, CellId cell)
{
    ExpertView view;
    view.state = expertState(shape, plan, cell);
    const LayerShape* layer = layerOf(shape, cell.layer);
    if (view.state == ExpertState::DenseLayer || !layer) {
        view.text = titleOf(ExpertState::DenseLayer);
        return view;
    }
    const bool planned = covers(shape, plan);
    const Body* body = planned ? plan.layer(cell.layer).bodyOf(cell.expert) : nullptr;
    view.bytes = body ? bodyBytes(*layer, shape.hiddenSize, *body) : planned ? 0 : layer->bytesPerExpert;
    view.router = body || !planned ? layer->routerBytesPerExpert : 0;
    view.share = layer->bytesPerExpert > 0 ? static_cast<double>(view.bytes) / static_cast<double>(layer->bytesPerExpert) : 0;
    switch (view.state) {
        case ExpertState::LowRank:
            view.text = rankText(shape, plan, cell);
            break;
        case ExpertState::Constant:
            view.text = constantText(plan.layer(cell.layer), cell.expert);
            break;
        case ExpertState::Skipped:
            view.text = plan.layer(cell.layer).run() == LayerRun::Skipped
                            ? tr(QT_TRANSLATE_NOOP("ExpertView", "layer skipped"))
                            : tr(QT_TRANSLATE_NOOP("ExpertView", "experts of the layer skipped"));
            break;
        default:
            view.text = titleOf(view.state);
    }
    return view;
}

bool runsExperts(const ModelShape& shape, const CompressionPlan& plan, int layer)
{
    const LayerShape* of = layerOf(shape, layer);
    return of && of->experts > 0 && (!covers(shape, plan) || plan.layer(layer).runsExperts());
}

QString runText(const LayerPlan& layer)
{
    switch (layer.run()) {
        case LayerRun::Skipped:
            return tr(QT_TRANSLATE_NOOP("ExpertView", "skipped"));
        case LayerRun::AttentionOnly:
            return tr(QT_TRANSLATE_NOOP("ExpertView", "experts skipped"));
        case LayerRun::ExpertsOnly:
            return tr(QT_TRANSLATE_NOOP("ExpertView", "attention skipped"));
        case LayerRun::Whole:
            break;
    }
    return {};
}

int countOf(const ModelShape& shape, const CompressionPlan& plan, int layer, ExpertState state)
{
    const LayerShape* of = layerOf(shape, layer);
    int count = 0;
    for (int expert = 0; of && expert < of->experts; ++expert)
        count += expertState(shape, plan, {layer, expert}) == state ? 1 : 0;
    return count;
}

QString countsText(const ModelShape& shape, const CompressionPlan& plan, int layer)
{
    const int computing = countOf(shape, plan, layer, ExpertState::Kept) + countOf(shape, plan, layer, ExpertState::LowRank);
    const int constants = countOf(shape, plan, layer, ExpertState::Constant);
    const int dropped = countOf(shape, plan, layer, ExpertState::Dropped);
    if (!runsExperts(shape, plan, layer)) return covers(shape, plan) ? runText(plan.layer(layer)) : QString();
    QStringList texts = {tr(QT_TRANSLATE_NOOP("ExpertView", "%1 kept")).arg(computing)};
    if (constants > 0) texts << tr(QT_TRANSLATE_NOOP("ExpertView", "%1 constant")).arg(constants);
    if (dropped > 0 || constants == 0) texts << tr(QT_TRANSLATE_NOOP("ExpertView", "%1 dropped")).arg(dropped);
    return texts.join(QStringLiteral(", "));
}

QString constantTitle(ConstantKind kind)
{
    return kind == ConstantKind::Weighted ? tr(QT_TRANSLATE_NOOP("ExpertView", "weighted mean"))
                                          : tr(QT_TRANSLATE_NOOP("ExpertView", "mean"));
}

QString whyNoConstant(const ModelShape& shape, const CompressionPlan& plan, CellId cell, const QString& profile)
{
    const LayerShape* layer = layerOf(shape, cell.layer);
    if (!layer || !covers(shape, plan) || cell.expert < 0 || cell.expert >= layer->experts) return {};
    const LayerPlan& of = plan.layer(cell.layer);
    if (!of.runsExperts()) return tr(QT_TRANSLATE_NOOP("ExpertView", "layer %1 is skipped: its experts do not run.")).arg(cell.layer);
    if (layer->isSourceConstant(cell.expert))
        return tr(QT_TRANSLATE_NOOP("ExpertView", "the expert is a constant in the checkpoint already."));
    if (plan.isLocked(cell.layer)) return tr(QT_TRANSLATE_NOOP("ExpertView", "layer %1 is locked: unlock it first (L).")).arg(cell.layer);
    if (of.kept() == ExpertSet{cell.expert})
        return tr(QT_TRANSLATE_NOOP("ExpertView", "it is the last expert of layer %1 that computes.")).arg(cell.layer);
    return profile;
}

QString whyNoSkip(const ModelShape& shape, const CompressionPlan& plan, int layer)
{
    if (!layerOf(shape, layer) || !covers(shape, plan)) return {};
    if (plan.isLocked(layer)) return tr(QT_TRANSLATE_NOOP("ExpertView", "layer %1 is locked: unlock it first (L).")).arg(layer);
    if (plan.layer(layer).run() != LayerRun::Skipped && plan.runningLayers() == 1)
        return tr(QT_TRANSLATE_NOOP("ExpertView", "it is the last layer that runs."));
    return {};
}

}  // namespace espalier
