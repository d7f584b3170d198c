// Opening a checkpoint.
#pragma once

#include "plan/model_shape.h"
#include "rpc/protocol.h"

#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct TokenizerFacts {
    std::string sha256;
    int vocabulary = 0;
    bool addsBos = false;
};
ESPALIER_PROTOCOL_TYPE(TokenizerFacts);

struct OpenModelAnswer {
    std::string path;
    std::string fingerprint;
    std::string configSha256;
    std::string weightsSha256;
    std::optional<ModelShape> shape;  // nothing for a model that is known and not run here
    Json inspection;                  // as `inspect --json` prints it
    std::vector<std::string> warnings;
    std::optional<TokenizerFacts> tokenizer;
    bool forwardSupported = false;
};
ESPALIER_PROTOCOL_TYPE(OpenModelAnswer);

struct OpenModelRequest {
    static constexpr const char* kMethod = "open_model";
    using Answer = OpenModelAnswer;
    std::string path;
};
ESPALIER_PROTOCOL_TYPE(OpenModelRequest);

}  // namespace espalier
