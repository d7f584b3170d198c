#include "tokenizer/added_tokens.h"

#include "tokenizer/byte_level.h"

#include <fmt/format.h>
#include <unicode/uchar.h>

#include <algorithm>

namespace espalier
{

namespace
{

// Unicode's \w: alphabetic, marks, decimal digits, connector punctuation, join controls.
bool isWord(char32_t c)
{
    const auto point = static_cast<UChar32>(c);
    const auto category = U_MASK(u_charType(point));
    return u_hasBinaryProperty(point, UCHAR_ALPHABETIC) || u_hasBinaryProperty(point, UCHAR_JOIN_CONTROL) ||
           (category & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

std::string_view lastCharacter(std::string_view text)
{
    std::size_t at = text.size() - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80)
        --at;
    return text.substr(at);
}

std::string_view firstCharacter(std::string_view text) { return text.substr(0, utf8Length(static_cast<unsigned char>(text.front()))); }

bool isSpace(std::string_view character) { return u_isUWhiteSpace(static_cast<UChar32>(utf8Decode(character))); }

}  // namespace

void TokenMatcher::add(std::string_view pattern, int token)
{
    if (!pattern.empty()) m_starts[static_cast<unsigned char>(pattern.front())] = true;
    std::size_t node = 0;
    for (const char c : pattern) {
        auto [it, fresh] = m_nodes[node].next.try_emplace(static_cast<unsigned char>(c), static_cast<int>(m_nodes.size()));
        const auto child = static_cast<std::size_t>(it->second);
        if (fresh) m_nodes.emplace_back();
        node = child;
    }
    if (m_nodes[node].token < 0) m_nodes[node].token = token;
}

TokenMatcher::Match TokenMatcher::find(std::string_view text, std::size_t from) const
{
    for (std::size_t begin = from; begin < text.size(); ++begin) {
        if (!m_starts[static_cast<unsigned char>(text[begin])]) continue;
        std::size_t node = 0;
        Match best{0, 0, -1};
        for (std::size_t at = begin; at < text.size(); ++at) {
            const auto it = m_nodes[node].next.find(static_cast<unsigned char>(text[at]));
            if (it == m_nodes[node].next.end()) break;
            node = static_cast<std::size_t>(it->second);
            if (m_nodes[node].token >= 0) best = {begin, at + 1, m_nodes[node].token};
        }
        if (best.token >= 0) return best;
    }
    return {text.size(), text.size(), -1};
}

Result<AddedTokens> AddedTokens::fromJson(const Json& list, const Bpe& bpe, const Normalizer& normalizer)
{
    AddedTokens tokens;
    if (list.is_null()) return tokens;
    if (!list.is_array()) return damagedComponent("added_tokens", "is not a list");
    std::map<int, std::string> byId;
    std::unordered_map<int, const std::string*> modelIds;
    for (const auto& [token, id] : bpe.vocabulary())
        modelIds.emplace(id, &token);
    for (const Json& item : list) {
        if (!item.is_object() || !item.value("id", Json()).is_number_unsigned() || !item.value("content", Json()).is_string())
            return damagedComponent("added_tokens", "has an entry without id or content");
        if (item["id"].get<std::uint64_t>() > INT32_MAX) return damagedComponent("added_tokens", "has an id out of range");
        const auto flag = [&](const char* key) { return item.value(key, Json(false)) == true; };
        AddedToken token{item["id"].get<int>(), item["content"].get<std::string>(),
                         flag("single_word"),   flag("lstrip"),
                         flag("rstrip"),        flag("normalized"),
                         flag("special")};
        const auto [seen, fresh] = byId.emplace(token.id, token.content);
        const auto inModel = modelIds.find(token.id);
        const bool clash = (!fresh && seen->second != token.content) || (inModel != modelIds.end() && *inModel->second != token.content);
        if (clash)
            return badInput("tokenizer.duplicate_id", "tokenizer.json",
                            fmt::format("tokenizer.json gives the id {} to two tokens, one of them \"{}\".", token.id, token.content),
                            "The file is damaged: fetch it again.");
        const int index = static_cast<int>(tokens.m_tokens.size());
        if (token.normalized)
            tokens.m_normalized.add(normalizer.apply(token.content), index);
        else if (!token.content.empty())
            tokens.m_raw.add(token.content, index);
        tokens.m_tokens.push_back(std::move(token));
    }
    return tokens;
}

std::vector<Segment> AddedTokens::split(std::string_view text, bool normalized) const
{
    const TokenMatcher& matcher = normalized ? m_normalized : m_raw;
    std::vector<Segment> segments;
    if (matcher.empty()) {
        segments.push_back({text, -1});
        return segments;
    }
    std::size_t covered = 0;
    std::size_t from = 0;
    for (;;) {
        const TokenMatcher::Match match = matcher.find(text, from);
        if (match.token < 0) break;
        from = match.end;
        const AddedToken& token = m_tokens[static_cast<std::size_t>(match.token)];
        std::size_t begin = std::max(match.begin, covered);
        std::size_t end = match.end;
        if (token.singleWord) {
            const bool wordBefore = match.begin > 0 && isWord(utf8Decode(lastCharacter(text.substr(0, match.begin))));
            const bool wordAfter = match.end < text.size() && isWord(utf8Decode(firstCharacter(text.substr(match.end))));
            if (wordBefore || wordAfter) continue;
        }
        if (token.leftStrip) {
            while (begin > covered && isSpace(lastCharacter(text.substr(0, begin))))
                begin -= lastCharacter(text.substr(0, begin)).size();
        }
        if (token.rightStrip) {
            while (end < text.size() && isSpace(firstCharacter(text.substr(end))))
                end += firstCharacter(text.substr(end)).size();
        }
        if (end <= covered) continue;  // swallowed whole by the match before
        if (begin > covered) segments.push_back({text.substr(covered, begin - covered), -1});
        segments.push_back({text.substr(begin, end - begin), token.id});
        covered = end;
    }
    if (covered < text.size()) segments.push_back({text.substr(covered), -1});
    return segments;
}

}  // namespace espalier
