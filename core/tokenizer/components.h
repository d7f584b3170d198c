// Normalizers, pre-tokenizers and decoders of tokenizer.json, each parsed from its JSON object. Anything else is refused by name:
// tokenizer.unsupported. All are immutable; any thread.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

class Normalizer
{
public:
    virtual ~Normalizer() = default;
    // Errors: tokenizer.regex_limit, tokenizer.unsupported (a pattern that matches nothing at the start of the text).
    virtual Result<std::string> apply(std::string text) const = 0;
};
// null gives a normalizer that changes nothing.
Result<std::unique_ptr<const Normalizer>> parseNormalizer(const Json& value);
// The component "Replace" of a normalizer or, where `decoding`, of a decoder.
Result<std::unique_ptr<const Normalizer>> parseReplace(const Json& value, bool decoding);

// A stretch of text on its way to the model. `first`: it begins where the original text begins (Metaspace "first").
struct Piece {
    std::string text;
    bool first = false;
};

class PreTokenizer
{
public:
    virtual ~PreTokenizer() = default;
    virtual Status apply(std::vector<Piece>& pieces) const = 0;
};
Result<std::unique_ptr<const PreTokenizer>> parsePreTokenizer(const Json& value);

class Decoder
{
public:
    virtual ~Decoder() = default;
    // What a pattern runs into its limit on stays as it is.
    virtual std::vector<std::string> apply(std::vector<std::string> tokens) const = 0;
};
Result<std::unique_ptr<const Decoder>> parseDecoder(const Json& value);

// Shared by the parsers: the "type" of a component, and the errors for what is damaged or not supported.
Result<std::string> componentType(const Json& value, std::string_view slot);
Error unsupportedComponent(std::string_view slot, std::string_view name);
Error damagedComponent(std::string_view slot, std::string_view what);

}  // namespace espalier
