#include "tokenizer/byte_level.h"
#include "tokenizer/components.h"

#include "base/text.h"

#include <algorithm>
#include <charconv>
#include <cstdint>

namespace espalier
{

namespace
{

constexpr std::string_view kSlot = "decoder";

using Tokens = std::vector<std::string>;

class JoinWithSpaces final : public Decoder
{
public:
    Tokens apply(Tokens tokens) const override
    {
        for (std::size_t i = 1; i < tokens.size(); ++i)
            tokens[i].insert(0, 1, ' ');
        return tokens;
    }
};

class ByteLevelDecoder final : public Decoder
{
public:
    Tokens apply(Tokens tokens) const override
    {
        std::string bytes;
        for (const std::string& token : tokens)
            bytes += fromByteLevel(token).value_or(token);
        return {lossyUtf8(bytes)};
    }
};

class ByteFallback final : public Decoder
{
public:
    Tokens apply(Tokens tokens) const override
    {
        Tokens out;
        std::string run;
        const auto flush = [&] {
            if (run.empty()) return;
            if (!invalidUtf8Offset(run))
                out.push_back(run);
            else
                out.insert(out.end(), run.size(), "\xEF\xBF\xBD");
            run.clear();
        };
        for (std::string& token : tokens) {
            unsigned int byte = 0;
            const bool shaped = token.size() == 6 && token.starts_with("<0x") && token.back() == '>';
            if (shaped && std::from_chars(token.data() + 3, token.data() + 5, byte, 16).ptr == token.data() + 5) {
                run += static_cast<char>(byte);
                continue;
            }
            flush();
            out.push_back(std::move(token));
        }
        flush();
        return out;
    }
};

class Fuse final : public Decoder
{
public:
    Tokens apply(Tokens tokens) const override
    {
        std::string all;
        for (const std::string& token : tokens)
            all += token;
        return {all};
    }
};

class Strip final : public Decoder
{
public:
    Strip(std::string content, int start, int stop) : m_content(std::move(content)), m_start(start), m_stop(stop) {}
    Tokens apply(Tokens tokens) const override
    {
        for (std::string& token : tokens) {
            for (int i = 0; i < m_start && token.starts_with(m_content); ++i)
                token.erase(0, m_content.size());
            for (int i = 0; i < m_stop && token.ends_with(m_content); ++i)
                token.resize(token.size() - m_content.size());
        }
        return tokens;
    }

private:
    std::string m_content;
    int m_start;
    int m_stop;
};

class ReplaceInTokens final : public Decoder
{
public:
    explicit ReplaceInTokens(std::unique_ptr<const Normalizer> replace) : m_replace(std::move(replace)) {}
    Tokens apply(Tokens tokens) const override
    {
        for (std::string& token : tokens)
            if (Result<std::string> replaced = m_replace->apply(token)) token = std::move(*replaced);
        return tokens;
    }

private:
    std::unique_ptr<const Normalizer> m_replace;
};

class MetaspaceDecoder final : public Decoder
{
public:
    MetaspaceDecoder(std::string replacement, bool dropFirst) : m_replacement(std::move(replacement)), m_dropFirst(dropFirst) {}
    Tokens apply(Tokens tokens) const override
    {
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            std::string out;
            std::string_view rest = tokens[i];
            while (!rest.empty()) {
                if (rest.starts_with(m_replacement)) {
                    if (i > 0 || !m_dropFirst) out += ' ';
                    rest.remove_prefix(m_replacement.size());
                } else {
                    out += rest.front();
                    rest.remove_prefix(1);
                }
            }
            tokens[i] = std::move(out);
        }
        return tokens;
    }

private:
    std::string m_replacement;
    bool m_dropFirst;
};

class DecoderSequence final : public Decoder
{
public:
    explicit DecoderSequence(std::vector<std::unique_ptr<const Decoder>> steps) : m_steps(std::move(steps)) {}
    Tokens apply(Tokens tokens) const override
    {
        for (const auto& step : m_steps)
            tokens = step->apply(std::move(tokens));
        return tokens;
    }

private:
    std::vector<std::unique_ptr<const Decoder>> m_steps;
};

template <typename T, typename... Args>
Result<std::unique_ptr<const Decoder>> make(Args&&... args)
{
    return std::unique_ptr<const Decoder>(std::make_unique<T>(std::forward<Args>(args)...));
}

}  // namespace

Result<std::unique_ptr<const Decoder>> parseDecoder(const Json& value)
{
    if (value.is_null()) return make<JoinWithSpaces>();
    ESPALIER_TRY(const std::string type, componentType(value, kSlot));
    if (type == "Sequence") {
        if (!value.contains("decoders") || !value["decoders"].is_array())
            return damagedComponent(kSlot, "is a sequence without \"decoders\"");
        std::vector<std::unique_ptr<const Decoder>> steps;
        for (const Json& item : value["decoders"]) {
            ESPALIER_TRY(auto step, parseDecoder(item));
            steps.push_back(std::move(step));
        }
        return make<DecoderSequence>(std::move(steps));
    }
    if (type == "ByteLevel") return make<ByteLevelDecoder>();
    if (type == "ByteFallback") return make<ByteFallback>();
    if (type == "Fuse") return make<Fuse>();
    if (type == "Replace") {
        ESPALIER_TRY(auto replace, parseReplace(value, true));
        return make<ReplaceInTokens>(std::move(replace));
    }
    if (type == "Strip") {
        const Json content = value.value("content", Json());
        const Json start = value.value("start", Json(0));
        const Json stop = value.value("stop", Json(0));
        if (!content.is_string() || content.get_ref<const std::string&>().empty() || !start.is_number_unsigned() ||
            !stop.is_number_unsigned())
            return damagedComponent(kSlot, "strips nothing");
        return make<Strip>(content.get<std::string>(), static_cast<int>(std::min<std::uint64_t>(start.get<std::uint64_t>(), INT32_MAX)),
                           static_cast<int>(std::min<std::uint64_t>(stop.get<std::uint64_t>(), INT32_MAX)));
    }
    if (type == "Metaspace") {
        const Json replacement = value.value("replacement", Json("\xE2\x96\x81"));
        if (!replacement.is_string() || replacement.get_ref<const std::string&>().empty())
            return damagedComponent(kSlot, "is a Metaspace without a replacement");
        bool drop = value.value("add_prefix_space", Json(true)) != false;
        if (const Json scheme = value.value("prepend_scheme", Json()); scheme.is_string()) drop = scheme != "never";
        return make<MetaspaceDecoder>(replacement.get<std::string>(), drop);
    }
    return unsupportedComponent(kSlot, type);
}

}  // namespace espalier
