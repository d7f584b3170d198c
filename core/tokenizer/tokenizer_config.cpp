#include "tokenizer/tokenizer_config.h"

#include "base/json.h"
#include "base/text.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <utility>

namespace espalier
{

namespace
{

constexpr JsonLimits kLimits{.maxBytes = 256u << 20, .maxDepth = 32};
// In the order of PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES.
constexpr const char* kNamed[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

// In the order of the file, which numbers tokens that are named there alone.
using OrderedJson = nlohmann::ordered_json;

Result<OrderedJson> readObject(const std::filesystem::path& path)
{
    std::error_code failure;
    if (!std::filesystem::exists(path, failure)) return OrderedJson::object();
    ESPALIER_TRY(const std::string text, readTextFile(path, "tokenizer", kLimits.maxBytes));
    ESPALIER_CHECK_OK(parseJson(text, path.filename().string(), "tokenizer", kLimits));
    OrderedJson json = OrderedJson::parse(text);
    return json.is_object() ? std::move(json) : OrderedJson::object();
}

// One token of these files. `named`: a special token by its place, so that it is special whatever it says.
template <typename AnyJson>
std::optional<AddedToken> tokenOf(const AnyJson& value, bool named)
{
    AddedToken token;
    token.id = -1;
    token.special = named;
    if (value.is_string()) {
        token.content = value.template get<std::string>();
        return token;
    }
    if (!value.is_object()) return std::nullopt;
    const auto content = value.find("content");
    if (content == value.end() || !content->is_string()) return std::nullopt;
    const auto flag = [&](const char* key, bool otherwise) {
        const auto given = value.find(key);
        return given != value.end() && given->is_boolean() ? given->template get<bool>() : otherwise;
    };
    token.content = content->template get<std::string>();
    token.singleWord = flag("single_word", false);
    token.leftStrip = flag("lstrip", false);
    token.rightStrip = flag("rstrip", false);
    token.special = named || flag("special", false);
    token.normalized = flag("normalized", !token.special);
    return token;
}

OrderedJson part(const OrderedJson& json, const char* key)
{
    const auto it = json.find(key);
    return it == json.end() ? OrderedJson() : *it;
}

bool sameFlags(const AddedToken& a, const AddedToken& b)
{
    return a.singleWord == b.singleWord && a.leftStrip == b.leftStrip && a.rightStrip == b.rightStrip && a.normalized == b.normalized &&
           a.special == b.special;
}

bool isStandardName(const std::string& key)
{
    return std::any_of(std::begin(kNamed), std::end(kNamed), [&](const char* name) { return key == name; });
}

// Tokens with numbers, by number; older files are merged into `json` (PreTrainedTokenizerBase._from_pretrained of transformers 5).
Result<std::map<int, AddedToken>> numberedTokens(const std::filesystem::path& folder, OrderedJson& json, const Json& ownList)
{
    std::map<int, AddedToken> numbered;
    if (const OrderedJson decoder = part(json, "added_tokens_decoder"); decoder.is_object()) {
        for (const auto& [key, value] : decoder.items()) {
            auto token = value.is_object() ? tokenOf(value, false) : std::nullopt;
            if (!token || std::from_chars(key.data(), key.data() + key.size(), token->id).ec != std::errc()) continue;
            numbered.insert_or_assign(token->id, std::move(*token));
        }
        return numbered;
    }
    // Files of before 2023 keep them apart.
    ESPALIER_TRY(const OrderedJson map, readObject(folder / "special_tokens_map.json"));
    for (const auto& [key, value] : map.items())
        if (key != "additional_special_tokens") json[key] = value;
    ESPALIER_TRY(const OrderedJson apart, readObject(folder / "added_tokens.json"));
    const OrderedJson further = part(json, "extra_special_tokens");
    for (const auto& [content, id] : apart.items()) {
        if (!id.is_number_integer()) continue;
        // An object of tokenizer_config.json is not yet a token there.
        const auto is = [&, text = content](const OrderedJson& value, bool isToken) {
            const auto token = isToken || value.is_string() ? tokenOf(value, true) : std::nullopt;
            return token && token->content == text;
        };
        AddedToken token;
        token.id = id.get<int>();
        token.content = content;
        token.special =
            std::any_of(std::begin(kNamed), std::end(kNamed), [&](const char* name) { return is(part(json, name), map.contains(name)); }) ||
            (further.is_array() && std::any_of(further.begin(), further.end(), [&](const OrderedJson& value) { return is(value, false); }));
        token.normalized = !token.special;
        numbered.insert_or_assign(token.id, std::move(token));
    }
    // tokenizer.json's own entry of a number counts.
    for (const Json& item : ownList.is_array() ? ownList : Json::array())
        if (item.is_object() && item.contains("id") && item["id"].is_number_integer()) numbered.erase(item["id"].get<int>());
    return numbered;
}

}  // namespace

Result<TokenizerConfig> readTokenizerConfig(const std::filesystem::path& folder, const Json& ownList)
{
    ESPALIER_TRY(OrderedJson json, readObject(folder / "tokenizer_config.json"));
    TokenizerConfig config;
    // The newer name counts where it says something.
    const OrderedJson newer = part(json, "extra_special_tokens");
    const bool empty = newer.is_null() || ((newer.is_array() || newer.is_object()) && newer.empty());
    if (empty && json.contains("additional_special_tokens")) json["extra_special_tokens"] = json["additional_special_tokens"];
    ESPALIER_TRY(const auto numbered, numberedTokens(folder, json, ownList));

    std::vector<OrderedJson> named;
    for (const char* name : kNamed)
        named.push_back(part(json, name));
    for (const auto& [key, value] : json.items())
        if (key.ends_with("_token") && !isStandardName(key) && value.is_string()) named.push_back(value);
    const OrderedJson further = part(json, "extra_special_tokens");
    if (further.is_object())  // names as well; the list is then the older one
        named.insert(named.end(), further.begin(), further.end());
    const OrderedJson list = further.is_array() ? further : part(json, "additional_special_tokens");
    std::set<std::string> names;
    for (const OrderedJson& value : named)
        if (const auto token = tokenOf(value, true)) names.insert(token->content);

    // What tokenizer.json has as it stands is passed over, and a name changes nothing of what is numbered.
    std::map<std::string, AddedToken> own;
    for (const Json& item : ownList.is_array() ? ownList : Json::array())
        if (auto token = tokenOf(item, false)) own.insert_or_assign(token->content, std::move(*token));
    std::set<std::string> known;
    for (const auto& [content, token] : own)
        known.insert(content);
    for (const auto& [id, token] : numbered) {
        const auto same = own.find(token.content);
        if (same != own.end() && sameFlags(same->second, token)) continue;
        known.insert(token.content);
        config.tokens.push_back(token);
        config.tokens.back().special = token.special || names.contains(token.content);
    }
    const auto add = [&](const OrderedJson& value, bool isNamed) {
        auto token = tokenOf(value, isNamed);
        if (token && !token->content.empty() && !known.contains(token->content)) config.tokens.push_back(std::move(*token));
    };
    for (const OrderedJson& value : named)
        add(value, true);
    for (const OrderedJson& value : list.is_array() ? list : OrderedJson::array()) {
        const auto token = tokenOf(value, false);
        add(value, value.is_string() || (token && names.contains(token->content)));
    }
    if (const auto bos = tokenOf(part(json, "bos_token"), true)) config.bos = bos->content;
    if (const auto eos = tokenOf(part(json, "eos_token"), true)) config.eos = eos->content;
    if (const OrderedJson value = part(json, "add_bos_token"); value.is_boolean()) config.addBos = value.get<bool>();
    config.splitsSpecial = part(json, "split_special_tokens") == true;
    return config;
}

}  // namespace espalier
