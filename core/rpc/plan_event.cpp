#include "rpc/plan_event.h"

#include "rpc/fields.h"

namespace espalier
{

template <typename Fields, Is<CurveKnown> Message>
void fields(Fields& f, Message& m)
{
    f.required("layer", m.layer, 0);
    f.required("lowest", m.lowest);
    f.required("curve", m.curve);
}
ESPALIER_PROTOCOL_JSON(CurveKnown);

template <typename Fields, Is<LayerAlone> Message>
void fields(Fields& f, Message& m)
{
    f.required("layer", m.layer, 0);
    f.required("alone", m.alone);
}
ESPALIER_PROTOCOL_JSON(LayerAlone);

template <typename Fields, Is<PlanSearchStep> Message>
void fields(Fields& f, Message& m)
{
    f.required("name", m.name);
    f.required("plan_hash", m.planHash);
    f.required("nll", m.nll);
    f.required("windows", m.windows);
    f.required("change", m.change);
    f.required("error", m.changeError);
    f.required("rise", m.rise);
    f.required("estimate", m.estimatedGain);
    f.required("passes", m.passes);
    f.required("accepted", m.accepted);
}
ESPALIER_PROTOCOL_JSON(PlanSearchStep);

template <typename Fields, Is<PlanMeasured> Message>
void fields(Fields& f, Message& m)
{
    fields(f, m.step);
    f.maybe("plan", m.plan);
}
ESPALIER_PROTOCOL_JSON(PlanMeasured);

template <typename Fields, Is<PlanFound> Message>
void fields(Fields& f, Message& m)
{
    f.required("plan", m.plan);
    f.maybe("keep", m.keep);
}
ESPALIER_PROTOCOL_JSON(PlanFound);

template <typename Fields, Is<LayerSearching> Message>
void fields(Fields& f, Message& m)
{
    f.required("layer", m.layer, 0);
    f.required("generation", m.generation);
    f.required("best_loss", m.bestLoss);
    f.nullable("reference_loss", m.referenceLoss);
    f.required("enumerated", m.enumerated);
    f.required("trace", m.trace);
}
ESPALIER_PROTOCOL_JSON(LayerSearching);

template <typename Fields, Is<LayerSearched> Message>
void fields(Fields& f, Message& m)
{
    bool finished = true;
    f.required("finished", finished);
    f.required("layer", m.layer, 0);
    f.required("kept", m.kept);
    f.required("best_loss", m.bestLoss);
    f.nullable("reference_loss", m.referenceLoss);
    f.required("output_norm", m.outputNorm);
    f.required("evaluated", m.evaluated);
    f.required("trace", m.trace);
}
ESPALIER_PROTOCOL_JSON(LayerSearched);

template <typename Fields, Is<BlockTrial> Message>
void fields(Fields& f, Message& m)
{
    f.required("choice", m.choice);
    f.required("loss", m.loss);
}
ESPALIER_PROTOCOL_JSON(BlockTrial);

template <typename Fields, Is<FieldBlock> Message>
void fields(Fields& f, Message& m)
{
    f.required("moe_layers", m.moeLayers);
    std::pair<int, int> layers = {m.firstLayer, m.lastLayer};
    f.required("decoder_layers", layers);
    if constexpr (Fields::kReads) {
        m.firstLayer = layers.first;
        m.lastLayer = layers.second;
    }
    f.required("norm_reference_output", m.referenceNorm);
    f.required("trials", m.trials);
    f.required("best", m.best);
    f.required("trial_runs", m.trialRuns);
    f.required("reference_runs", m.referenceRuns);
}
ESPALIER_PROTOCOL_JSON(FieldBlock);

template <typename Fields, Is<BlockChosen> Message>
void fields(Fields& f, Message& m)
{
    fields(f, m.block);
    f.required("plan", m.plan);
}
ESPALIER_PROTOCOL_JSON(BlockChosen);

template <typename Fields, Is<FinalistRecovered> Message>
void fields(Fields& f, Message& m)
{
    f.required("finalist", m.name);
    f.required("plan_hash", m.planHash);
    f.required("learned", m.learned);
    f.required("windows", m.windows);
    f.required("nll_before", m.nllBefore);
    f.required("nll_after", m.nllAfter);
    f.required("change", m.change);
    f.required("error", m.changeError);
    f.required("ahead", m.ahead);
    f.maybe("plan", m.plan);
}
ESPALIER_PROTOCOL_JSON(FinalistRecovered);

template <typename Fields, Is<RecoverPoint> Message>
void fields(Fields& f, Message& m)
{
    f.required("step", m.step, 1);
    f.required("loss", m.loss);
    f.maybe("layer", m.layer);
    f.maybe("gate_nll", m.gateNll);
}
ESPALIER_PROTOCOL_JSON(RecoverPoint);

template <typename Fields, Is<RecoverJudged> Message>
void fields(Fields& f, Message& m)
{
    f.required("judged", m.what);
    f.required("nll", m.nll);
    f.required("windows", m.windows, 0);
}
ESPALIER_PROTOCOL_JSON(RecoverJudged);

namespace
{

template <typename What>
Status readWhat(const Json& json, PlanEvent& event)
{
    Result<What> read = fromJson<What>(json);
    if (!read.ok()) return std::move(read).error();
    event.what = std::move(read).value();
    return {};
}

}  // namespace

Json withStage(Json event, const std::string& stage)
{
    if (event.is_object()) event["stage"] = stage;
    return event;
}

Json toJson(const PlanEvent& event)
{
    return withStage(std::visit([](const auto& what) { return toJson(what); }, event.what), event.stage);
}

template <>
Result<PlanEvent> fromJson<PlanEvent>(const Json& json)
{
    PlanEvent event;
    FieldReader reader(json);
    reader.required("stage", event.stage);
    if (const Status status = reader.status(); !status.ok()) return status.error();
    Json what = json;
    what.erase("stage");
    // Each kind has a field that no other has.
    constexpr std::pair<const char*, Status (*)(const Json&, PlanEvent&)> kKinds[] = {
        {"curve", readWhat<CurveKnown>},       {"alone", readWhat<LayerAlone>},           {"name", readWhat<PlanMeasured>},
        {"finished", readWhat<LayerSearched>}, {"generation", readWhat<LayerSearching>},  {"moe_layers", readWhat<BlockChosen>},
        {"step", readWhat<RecoverPoint>},      {"finalist", readWhat<FinalistRecovered>}, {"judged", readWhat<RecoverJudged>}};
    for (const auto& [key, read] : kKinds)
        if (what.contains(key)) {
            ESPALIER_CHECK_OK(read(what, event));
            return event;
        }
    ESPALIER_CHECK_OK(readWhat<PlanFound>(what, event));
    return event;
}

}  // namespace espalier
