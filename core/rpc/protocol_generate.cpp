#include "rpc/protocol_generate.h"

#include "rpc/fields.h"

namespace espalier
{

template <typename Fields, Is<TokenAlternative> Message>
void fields(Fields& f, Message& m)
{
    f.required("id", m.id);
    f.required("text", m.text);
    f.required("logprob", m.logprob);
}
ESPALIER_PROTOCOL_JSON(TokenAlternative);

template <typename Fields, Is<GeneratedTokenEvent> Message>
void fields(Fields& f, Message& m)
{
    f.required("index", m.index, 0);
    f.required("id", m.id);
    f.required("text", m.text);
    f.required("logprob", m.logprob);
    f.required("alternatives", m.alternatives);
}
ESPALIER_PROTOCOL_JSON(GeneratedTokenEvent);

template <typename Fields, Is<GenerateAnswer> Message>
void fields(Fields& f, Message& m)
{
    f.required("plan_hash", m.planHash);
    f.required("prompt_ids", m.promptIds);
    f.required("ids", m.ids);
    f.required("text", m.text);
    f.required("logprobs", m.logprobs);
    f.required("finish", m.finish);
    f.required("prefill_seconds", m.prefillSeconds);
    f.required("decode_seconds", m.decodeSeconds);
    f.required("dtype", m.dtype);
    f.required("warnings", m.warnings);
}
ESPALIER_PROTOCOL_JSON(GenerateAnswer);

template <typename Fields, Is<GenerateRequest> Message>
void fields(Fields& f, Message& m)
{
    f.required("path", m.path);
    f.optional("prompt", m.prompt);
    f.optional("prompt_ids", m.promptIds);
    if constexpr (Fields::kReads)
        if (!f.find("prompt") && !f.find("prompt_ids")) f.fail("prompt", "is missing");
    f.document("plan", m.plan, false);
    f.paths("profile", m.profiles);
    f.always("tokens", m.tokens, 1);
    f.always("temperature", m.temperature);
    f.always("top_p", m.topP);
    if constexpr (Fields::kReads) {
        if (!(m.temperature >= 0 && std::isfinite(m.temperature))) f.fail("temperature", "is not a number from 0 on");
        if (!(m.topP > 0 && m.topP <= 1)) f.fail("top_p", "is not a number above 0 and up to 1");
    }
    f.always("seed", m.seed);
    f.optional("stop", m.stop);
    f.optional("alternatives", m.alternatives, 0, 0);
    f.optional("ignore_end", m.ignoreEnd);
}
ESPALIER_PROTOCOL_JSON(GenerateRequest);

template <typename Fields, Is<SpeedSide> Message>
void fields(Fields& f, Message& m)
{
    f.required("prefill_tokens_per_second", m.prefillTokensPerSecond);
    f.required("decode_tokens_per_second", m.decodeTokensPerSecond);
    f.required("prefill_low", m.prefillLow);
    f.required("prefill_high", m.prefillHigh);
    f.required("decode_low", m.decodeLow);
    f.required("decode_high", m.decodeHigh);
    f.required("bytes_read_per_token", m.bytesReadPerToken);
    f.required("file_bytes_read_per_token", m.fileBytesReadPerToken);
    f.required("peak_rss_bytes", m.peakRssBytes);
    f.required("weight_bytes", m.weightBytes);
    f.required("flops_per_token", m.flopsPerToken);
    f.required("active_parameters", m.activeParameters);
    f.always("active_at_most", m.atMost);
}
ESPALIER_PROTOCOL_JSON(SpeedSide);

template <typename Fields, Is<SpeedRatio> Message>
void fields(Fields& f, Message& m)
{
    f.required("prefill", m.prefill);
    f.required("decode", m.decode);
    f.required("low", m.low);
    f.required("high", m.high);
    f.required("decode_low", m.decodeLow);
    f.required("decode_high", m.decodeHigh);
}
ESPALIER_PROTOCOL_JSON(SpeedRatio);

template <typename Fields, Is<SpeedRound> Message>
void fields(Fields& f, Message& m)
{
    f.required("round", m.round, 0);
    f.required("dense_prefill", m.densePrefill);
    f.required("dense_decode", m.denseDecode);
    f.nullable("plan_prefill", m.planPrefill);
    f.nullable("plan_decode", m.planDecode);
}
ESPALIER_PROTOCOL_JSON(SpeedRound);

template <typename Fields, Is<SpeedAnswer> Message>
void fields(Fields& f, Message& m)
{
    f.required("plan_hash", m.planHash);
    f.required("dense", m.dense);
    f.nullable("plan", m.plan);
    f.nullable("ratio", m.ratio);
    f.required("prefill", m.prefill);
    f.required("decode", m.decode);
    f.required("rounds", m.rounds);
    f.required("dtype", m.dtype);
    f.required("threads", m.threads);
    f.required("warnings", m.warnings);
}
ESPALIER_PROTOCOL_JSON(SpeedAnswer);

template <typename Fields, Is<SpeedRequest> Message>
void fields(Fields& f, Message& m)
{
    f.required("path", m.path);
    f.document("plan", m.plan, false);
    f.paths("profile", m.profiles);
    f.always("prefill", m.prefill, 1);
    f.always("decode", m.decode, 1);
    f.always("rounds", m.rounds, 1);
    f.always("seed", m.seed);
}
ESPALIER_PROTOCOL_JSON(SpeedRequest);

}  // namespace espalier
