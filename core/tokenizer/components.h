// Normalizers, pre-tokenizers and decoders of tokenizer.json, each parsed from its JSON object. Anything else is refused by name:
// tokenizer.unsupported. All are immutable; any thread.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "tokenizer/regex.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

// A stretch of text on its way to the model. `head`: how many bytes at its start stand for the first character of the whole text, 0 where
// it begins later (Metaspace "first" asks for that; the reference keeps where every byte comes from).
struct Piece {
    std::string text;
    std::size_t head = 0;

    // Of a whole text.
    static Piece whole(std::string text);
    // The part from `begin`, which ends before `end`.
    Piece part(std::size_t begin, std::size_t end) const;
    // Every `pattern` replaced by `content`, which stands for the last byte of what it replaces.
    Piece replaced(std::string_view pattern, std::string_view content) const;
    Piece replaced(const std::vector<TextSpan>& spans, std::string_view content) const;  // every span that is a match
    void prepend(std::string_view prefix);                                               // stands for the first character
};

class Normalizer
{
public:
    virtual ~Normalizer() = default;
    // Errors: tokenizer.regex_limit, tokenizer.unsupported (a pattern that matches nothing at the start of the text).
    virtual Result<Piece> normalize(Piece piece) const = 0;
    Result<std::string> apply(std::string text) const;
};
// null gives a normalizer that changes nothing.
Result<std::unique_ptr<const Normalizer>> parseNormalizer(const Json& value);
// The component "Replace" of a normalizer or, where `decoding`, of a decoder.
Result<std::unique_ptr<const Normalizer>> parseReplace(const Json& value, bool decoding);

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
