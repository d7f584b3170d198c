#include "tokenizer/tokenizer_config.h"

#include "base/json.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace espalier
{

namespace
{

constexpr JsonLimits kLimits{.maxBytes = 256u << 20, .maxDepth = 32};
// In the order of PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES.
constexpr const char* kNamed[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

Result<Json> readObject(const std::filesystem::path& path)
{
    std::error_code failure;
    if (!std::filesystem::exists(path, failure)) return Json::object();
    ESPALIER_TRY(Json json, readJsonFile(path, "tokenizer", kLimits));
    return json.is_object() ? std::move(json) : Json::object();
}

// A string, or an object with "content".
std::optional<AddedToken> tokenOf(const Json& value, bool special)
{
    AddedToken token;
    token.id = -1;
    token.special = special;
    if (value.is_string()) {
        token.content = value.get<std::string>();
        return token;
    }
    if (!value.is_object() || !value.value("content", Json()).is_string()) return std::nullopt;
    const auto flag = [&](const char* key, bool otherwise) {
        const Json given = value.value(key, Json());
        return given.is_boolean() ? given.get<bool>() : otherwise;
    };
    token.content = value["content"].get<std::string>();
    token.singleWord = flag("single_word", false);
    token.leftStrip = flag("lstrip", false);
    token.rightStrip = flag("rstrip", false);
    token.special = special || flag("special", false);
    token.normalized = flag("normalized", !token.special);
    return token;
}

void addFurther(const Json& list, std::vector<AddedToken>& tokens)
{
    if (list.is_array() || list.is_object())
        for (const Json& item : list)
            if (auto token = tokenOf(item, true)) tokens.push_back(std::move(*token));
}

void sortById(std::vector<AddedToken>& tokens)
{
    std::stable_sort(tokens.begin(), tokens.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
}

std::vector<AddedToken> decoderTokens(const Json& decoder)
{
    std::vector<AddedToken> tokens;
    for (const auto& [key, value] : decoder.items()) {
        auto token = tokenOf(value, false);
        if (!token) continue;
        if (std::from_chars(key.data(), key.data() + key.size(), token->id).ec != std::errc()) continue;
        tokens.push_back(std::move(*token));
    }
    sortById(tokens);
    return tokens;
}

}  // namespace

Result<TokenizerConfig> readTokenizerConfig(const std::filesystem::path& folder)
{
    ESPALIER_TRY(Json json, readObject(folder / "tokenizer_config.json"));
    TokenizerConfig config;
    if (const Json decoder = json.value("added_tokens_decoder", Json()); decoder.is_object()) {
        config.tokens = decoderTokens(decoder);
    } else {  // files of before 2023 keep them apart
        ESPALIER_TRY(const Json map, readObject(folder / "special_tokens_map.json"));
        for (const auto& [key, value] : map.items())
            json[key] = value;
        ESPALIER_TRY(const Json numbered, readObject(folder / "added_tokens.json"));
        for (const auto& [content, id] : numbered.items()) {
            if (!id.is_number_integer()) continue;
            const bool special = std::any_of(std::begin(kNamed), std::end(kNamed), [&](const char* name) {
                const auto token = tokenOf(json.value(name, Json()), true);
                return token && token->content == content;
            });
            AddedToken token;
            token.id = id.get<int>();
            token.content = content;
            token.special = special;
            token.normalized = !special;
            config.tokens.push_back(std::move(token));
        }
        sortById(config.tokens);
    }
    for (const char* name : kNamed)
        if (auto token = tokenOf(json.value(name, Json()), true)) config.tokens.push_back(std::move(*token));
    addFurther(json.value("extra_special_tokens", Json()), config.tokens);
    addFurther(json.value("additional_special_tokens", Json()), config.tokens);
    if (const auto bos = tokenOf(json.value("bos_token", Json()), true)) config.bos = bos->content;
    if (const Json add = json.value("add_bos_token", Json()); add.is_boolean()) config.addBos = add.get<bool>();
    return config;
}

}  // namespace espalier
