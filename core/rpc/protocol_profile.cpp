#include "rpc/protocol_profile.h"

#include "rpc/fields.h"

#include <algorithm>

namespace espalier
{

template <typename Fields, Is<GramStoreNote> Message>
void fields(Fields& f, Message& m)
{
    f.required("tokens", m.tokens);
    f.required("text_tokens", m.textTokens);
    f.required("bytes", m.bytes);
    f.required("bytes_per_token", m.bytesPerToken);
    f.required("option", m.option);
    f.required("note", m.note);
}
ESPALIER_PROTOCOL_JSON(GramStoreNote);

template <typename Fields, Is<LoadProfileAnswer> Message>
void fields(Fields& f, Message& m)
{
    f.required("profile", m.profile);
    f.required("tokens", m.tokens);
    f.required("windows", m.windows);
    f.required("window_length", m.windowLength);
    f.required("text_sha256", m.textSha256);
    f.required("fingerprint", m.fingerprint);
    f.required("layers_done", m.layersDone);
    f.required("collected", m.collected);
    f.required("uncovered_fraction", m.uncoveredFraction);
    f.nullable("gram", m.gram);
    f.required("scores", m.scores);
    f.required("warnings", m.warnings);
}
ESPALIER_PROTOCOL_JSON(LoadProfileAnswer);

template <typename Fields, Is<LoadProfileRequest> Message>
void fields(Fields& f, Message& m)
{
    f.required("profile", m.profile);
}
ESPALIER_PROTOCOL_JSON(LoadProfileRequest);

template <typename Fields, Is<ProfileAnswer> Message>
void fields(Fields& f, Message& m)
{
    fields(f, m.facts);
    f.required("text_warnings", m.textWarnings);
    f.nullable("windows_asked", m.windowsAsked);
    f.required("tokens_per_second", m.tokensPerSecond);
    f.required("seconds", m.seconds);
    f.required("dtype", m.dtype);
}
ESPALIER_PROTOCOL_JSON(ProfileAnswer);

template <typename Fields, Is<LayerScored> Message>
void fields(Fields& f, Message& m)
{
    f.required("layer", m.layer, 0);
    f.required("scores", m.scores);
}
ESPALIER_PROTOCOL_JSON(LayerScored);

template <typename Fields, Is<ProfileRequest> Message>
void fields(Fields& f, Message& m)
{
    f.required("path", m.path);
    fields(f, m.text);
    f.optional("windows", m.windows, 0, 0);
    if constexpr (Fields::kReads)
        if (m.text.empty()) f.fail("text", "is missing");
    f.required("out", m.out);
    f.optional("gram_tokens", m.gramTokens, -1, -1);
    if constexpr (Fields::kReads) {
        if (const Json* collect = f.find("collect")) {
            if (collect->is_array() && std::all_of(collect->begin(), collect->end(), [](const Json& name) { return name.is_string(); }))
                m.collect = collect->template get<std::vector<std::string>>();
            else
                f.fail("collect", "is not a list of statistics");
        }
    } else {
        f.optional("collect", m.collect);
    }
    f.optional("resume", m.resume);
    f.optional("force", m.force, true);
    f.optional("memory_budget", m.memoryBudget, 0, 0);
}
ESPALIER_PROTOCOL_JSON(ProfileRequest);

template <typename Fields, Is<ScoreRequest> Message>
void fields(Fields& f, Message& m)
{
    f.optional("profile", m.profile);
    f.required("method", m.method);
    f.optional("params", m.params);
    f.optional("path", m.path);
}
ESPALIER_PROTOCOL_JSON(ScoreRequest);

template <typename Fields, Is<SpectrumPoints> Message>
void fields(Fields& f, Message& m)
{
    f.required("rows", m.rows);
    f.required("columns", m.columns);
    f.required("full_rank", m.fullRank);
    f.required("break_even", m.breakEven);
    f.required("error", m.error);
    f.required("singular", m.singular);
}
ESPALIER_PROTOCOL_JSON(SpectrumPoints);

// The object "matrices" of the answer.
struct RankCurveMatrices {
    SpectrumPoints gate;
    SpectrumPoints up;
    SpectrumPoints down;
};
ESPALIER_PROTOCOL_TYPE(RankCurveMatrices);

template <typename Fields, Is<RankCurveMatrices> Message>
void fields(Fields& f, Message& m)
{
    f.required("gate", m.gate);
    f.required("up", m.up);
    f.required("down", m.down);
}
ESPALIER_PROTOCOL_JSON(RankCurveMatrices);

template <typename Fields, Is<RankCurvesAnswer> Message>
void fields(Fields& f, Message& m)
{
    f.required("layer", m.layer);
    f.required("expert", m.expert);
    f.required("whitened", m.whitened);
    RankCurveMatrices matrices = {m.gate, m.up, m.down};
    f.required("matrices", matrices);
    if constexpr (Fields::kReads) {
        m.gate = std::move(matrices.gate);
        m.up = std::move(matrices.up);
        m.down = std::move(matrices.down);
    }
}
ESPALIER_PROTOCOL_JSON(RankCurvesAnswer);

template <typename Fields, Is<RankCurvesRequest> Message>
void fields(Fields& f, Message& m)
{
    f.required("profile", m.profile);
    f.required("layer", m.layer, 0);
    f.required("expert", m.expert, 0);
}
ESPALIER_PROTOCOL_JSON(RankCurvesRequest);

}  // namespace espalier
