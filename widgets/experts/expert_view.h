// What a view shows of one expert, or of one layer: the state it is in under a plan, in words, and its share of the bytes it had. The one
// place that reads a plan for this: marks, legend, readout, table, inspector and plots ask here. Pure; GUI thread for the translations.
#pragma once

#include "experts/selection.h"
#include "plan/compression_plan.h"
#include "plan/model_shape.h"

#include <QString>

#include <array>
#include <cstdint>

namespace espalier
{

enum class ExpertState {
    Kept,       // dense, as in the checkpoint
    LowRank,    // computes by factors, in one matrix at least
    Constant,   // a vector answers in its place
    Dropped,    // router row and weights are gone
    Skipped,    // the experts of its layer do not run
    DenseLayer  // no expert: the layer has none
};

// How a state is drawn over the colour, so that it can be told without it.
enum class ExpertMark { None, Corner, Dot, Hatch, Row };

struct ExpertStateInfo {
    ExpertState state;
    const char* id;
    const char* title;  // of the legend, untranslated: titleOf()
    ExpertMark mark;
};
const std::array<ExpertStateInfo, 6>& expertStates();
const ExpertStateInfo& infoOf(ExpertState state);
QString titleOf(ExpertState state);  // "dropped"

struct ExpertView {
    ExpertState state = ExpertState::Kept;
    QString text;             // "kept", "rank 480", "constant (mean)", "layer skipped"
    double share = 1;         // of the bytes that its matrices have in the checkpoint; 0: none of them are left
    std::int64_t bytes = 0;   // of its matrices or its vector under the plan
    std::int64_t router = 0;  // of its row of the router, where that stays
};

// The state alone, for whoever draws thousands of cells. A plan of another number of layers counts as none: everything is kept.
ExpertState expertState(const ModelShape& shape, const CompressionPlan& plan, CellId cell);
ExpertView expertView(const ModelShape& shape, const CompressionPlan& plan, CellId cell);

// Whether there are experts in the layer, and they run.
bool runsExperts(const ModelShape& shape, const CompressionPlan& plan, int layer);
// What runs of a layer: "skipped", "experts skipped", "attention skipped"; empty: all of it.
QString runText(const LayerPlan& layer);
// How many experts of a layer are in a state; "33 kept, 20 constant, 7 dropped" of those that occur.
int countOf(const ModelShape& shape, const CompressionPlan& plan, int layer, ExpertState state);
QString countsText(const ModelShape& shape, const CompressionPlan& plan, int layer);
// "mean", "weighted mean"
QString constantTitle(ConstantKind kind);

// Why an expert cannot become a constant, or a layer cannot be skipped; empty: it can. `profile`: why no profile offers constants.
QString whyNoConstant(const ModelShape& shape, const CompressionPlan& plan, CellId cell, const QString& profile);
QString whyNoSkip(const ModelShape& shape, const CompressionPlan& plan, int layer);

}  // namespace espalier
