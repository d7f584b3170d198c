#include "rpc/protocol_model.h"

#include "rpc/fields.h"

namespace espalier
{

template <typename Fields, Is<TokenizerFacts> Message>
void fields(Fields& f, Message& m)
{
    f.required("sha256", m.sha256);
    f.required("vocabulary", m.vocabulary);
    f.required("adds_bos", m.addsBos);
}
ESPALIER_PROTOCOL_JSON(TokenizerFacts);

template <typename Fields, Is<OpenModelAnswer> Message>
void fields(Fields& f, Message& m)
{
    f.required("path", m.path);
    f.required("fingerprint", m.fingerprint);
    f.required("config_sha256", m.configSha256);
    f.required("weights_sha256", m.weightsSha256);
    f.nullable("shape", m.shape);
    f.required("inspection", m.inspection);
    f.required("warnings", m.warnings);
    f.nullable("tokenizer", m.tokenizer);
    f.required("forward_supported", m.forwardSupported);
}
ESPALIER_PROTOCOL_JSON(OpenModelAnswer);

template <typename Fields, Is<OpenModelRequest> Message>
void fields(Fields& f, Message& m)
{
    f.required("path", m.path);
}
ESPALIER_PROTOCOL_JSON(OpenModelRequest);

}  // namespace espalier
