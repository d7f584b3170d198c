// What `plan` streams while it runs, by stage. The searches say it, StageJob adds the stage, the window takes it in.
#pragma once

#include "rpc/protocol.h"

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace espalier
{

// "allocate": what a layer loses at every count from `lowest` on.
struct CurveKnown {
    int layer = 0;
    int lowest = 0;
    std::vector<double> curve;
};
ESPALIER_PROTOCOL_TYPE(CurveKnown);

// "allocate": rise of the loss when only this layer gives up its share.
struct LayerAlone {
    int layer = 0;
    double alone = 0;
};
ESPALIER_PROTOCOL_TYPE(LayerAlone);

// One plan that was measured on the model.
struct PlanSearchStep {
    std::string name;  // candidate's name, or "experts 3 -> 1"
    std::string planHash;
    double nll = 0;     // per token, on the windows it was measured on
    int windows = 0;    // so many
    double change = 0;  // against the plan that was ahead, paired on those windows
    double changeError = 0;
    double rise = 0;  // against the whole model, paired
    double estimatedGain = 0;
    double passes = 0;  // full passes until then
    bool accepted = false;
};
ESPALIER_PROTOCOL_TYPE(PlanSearchStep);

// "allocate": the same, with the whole plan where it was accepted.
struct PlanMeasured {
    PlanSearchStep step;
    std::optional<Json> plan;
};
ESPALIER_PROTOCOL_TYPE(PlanMeasured);

// Complete and valid: "allocate" the best candidate after its first windows, "select" what the search improves on, "rank" the plan with
// ranks, "recover" what is going to be recovered.
struct PlanFound {
    Json plan;
    std::optional<std::vector<int>> keep;  // per decoder layer
};
ESPALIER_PROTOCOL_TYPE(PlanFound);

// "select": a layer that is being searched.
struct LayerSearching {
    int layer = 0;
    std::int64_t generation = 0;
    double bestLoss = 0;                  // ||Z - Z(kept)||
    std::optional<double> referenceLoss;  // of the set that the score chooses, same count
    bool enumerated = false;              // every set is tried, and what counts as a generation is a part of them
    std::vector<double> trace;            // best loss so far per generation
};
ESPALIER_PROTOCOL_TYPE(LayerSearching);

// "select": a layer whose search ended.
struct LayerSearched {
    int layer = 0;
    std::vector<int> kept;
    double bestLoss = 0;
    std::optional<double> referenceLoss;
    double outputNorm = 0;
    std::int64_t evaluated = 0;  // sets
    std::vector<double> trace;
};
ESPALIER_PROTOCOL_TYPE(LayerSearched);

struct BlockTrial {
    std::vector<int> choice;  // per MoE layer of the block: index into Selection::best
    double loss = 0;          // Frobenius norm over the residual stream after the block's last decoder layer

    bool operator==(const BlockTrial&) const = default;
};
ESPALIER_PROTOCOL_TYPE(BlockTrial);

struct FieldBlock {
    std::vector<int> moeLayers;
    int firstLayer = 0;  // decoder layers, inclusive: dense layers in front of a MoE layer run with it, those after the last MoE
    int lastLayer = 0;   // layer with the last block
    double referenceNorm = 0;
    std::vector<BlockTrial> trials;  // all of them, in lexicographic order of the choice
    BlockTrial best;                 // ties: the first
    // Decoder layers run over all windows: by the trials, and for the reference. What the two share is counted once, as reference.
    int trialRuns = 0;
    int referenceRuns = 0;

    bool operator==(const FieldBlock&) const = default;
};
ESPALIER_PROTOCOL_TYPE(FieldBlock);

// "receptive-field": a block whose sets were chosen.
struct BlockChosen {
    FieldBlock block;
    Json plan;
};
ESPALIER_PROTOCOL_TYPE(BlockChosen);

// "recover": one point of a recovery's trace.
struct RecoverPoint {
    int step = 0;                        // from 1
    double loss = 0;                     // what the method minimises, in its own unit
    std::optional<int> layer = {};       // decoder layer, where the step is a layer's
    std::optional<double> gateNll = {};  // nats per token on the text that judges, where it was measured
};
ESPALIER_PROTOCOL_TYPE(RecoverPoint);

// "finals": a plan of the search and what recovery makes of it, both on the windows that judge.
struct FinalistRecovered {
    std::string name;  // as in PlanSearchStep
    std::string planHash;
    int learned = 0;  // windows that recovery learned from
    int windows = 0;  // that judge
    double nllBefore = 0;
    double nllAfter = 0;
    double change = 0;  // after recovery, paired, against the one that was ahead until then; 0 of the first
    double changeError = 0;
    bool ahead = false;        // it is ahead now
    std::optional<Json> plan;  // where it is
};
ESPALIER_PROTOCOL_TYPE(FinalistRecovered);

// "recover": what was measured on the windows that judge: of the dense model and of the plan before the first point, of the recovered plan
// and of the dense model under the same method (the control) after the last.
struct RecoverJudged {
    std::string what;  // "dense", "before", "after", "control"
    double nll = 0;    // nats per token
    int windows = 0;
};
ESPALIER_PROTOCOL_TYPE(RecoverJudged);

struct PlanEvent {
    std::string stage;  // "allocate", "select", "receptive-field", "rank", "finals", "recover"
    std::variant<PlanFound, CurveKnown, LayerAlone, PlanMeasured, LayerSearching, LayerSearched, BlockChosen, FinalistRecovered,
                 RecoverPoint, RecoverJudged>
        what;
};
ESPALIER_PROTOCOL_TYPE(PlanEvent);

// One of the values above as JSON, with the stage it belongs to.
Json withStage(Json event, const std::string& stage);

}  // namespace espalier
