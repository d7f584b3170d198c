#include "tokenizer/added_tokens.h"

#include "tokenizer/byte_level.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unicode/uchar.h>

#include <algorithm>
#include <optional>
#include <unordered_set>
#include <utility>

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

namespace
{

Result<AddedToken> readToken(const Json& item)
{
    if (!item.is_object() || !item.value("id", Json()).is_number_unsigned() || !item.value("content", Json()).is_string())
        return damagedComponent("added_tokens", "has an entry without id or content");
    if (item["id"].get<std::uint64_t>() > INT32_MAX) return damagedComponent("added_tokens", "has an id out of range");
    const auto flag = [&](const char* key) { return item.value(key, Json(false)) == true; };
    return AddedToken{
        item["id"].get<int>(), item["content"].get<std::string>(), flag("single_word"), flag("lstrip"), flag("rstrip"), flag("normalized"),
        flag("special")};
}

Error sharedId(int id, const std::string& content)
{
    return badInput("tokenizer.duplicate_id", "tokenizer.json",
                    {"tokenizer.json gives the id {id} to two tokens, one of them \"{content}\".", {{"id", id}, {"content", content}}},
                    "The file is damaged: fetch it again.");
}

// The first of many, for people.
std::string few(const std::vector<std::string>& all)
{
    constexpr std::size_t kShown = 4;
    const auto end = all.begin() + static_cast<std::ptrdiff_t>(std::min(all.size(), kShown));
    return fmt::format("{}{}", fmt::join(all.begin(), end, ", "),
                       all.size() > kShown ? fmt::format(" and {} more", all.size() - kShown) : std::string());
}

}  // namespace

Result<AddedTokens> AddedTokens::fromJson(const Json& list, const std::vector<AddedToken>& named, const Bpe& bpe,
                                          const Normalizer& normalizer, bool splitSpecial, std::vector<std::string>& warnings)
{
    if (!list.is_null() && !list.is_array()) return damagedComponent("added_tokens", "is not a list");
    AddedTokens tokens;
    tokens.m_splitSpecial = splitSpecial;
    std::unordered_map<int, const std::string*> modelIds;
    for (const auto& [token, id] : bpe.vocabulary())
        modelIds.emplace(id, &token);
    const int size = static_cast<int>(bpe.vocabulary().size());
    int next = size;
    std::map<std::string, std::size_t> known;  // by content
    // Gives the token its id, or replaces the entry of the same content.
    const auto add = [&](AddedToken token) -> Result<int> {
        const auto before = known.find(token.content);
        if (before != known.end())
            token.id = tokens.m_tokens[before->second].id;
        else if (const std::optional<int> inModel = bpe.idOf(token.content))
            token.id = *inModel;
        else if (modelIds.contains(token.id = next++))
            return sharedId(token.id, token.content);
        const int id = token.id;
        if (before != known.end()) {
            AddedToken& entry = tokens.m_tokens[before->second];
            token.special = token.special || entry.special;  // the reference's set of special tokens only grows
            entry = std::move(token);
        } else {
            known.emplace(token.content, tokens.m_tokens.size());
            tokens.m_tokens.push_back(std::move(token));
        }
        return id;
    };

    std::map<int, std::string> written;  // ids as the file has them
    std::vector<std::string> moved;
    for (const Json& item : list.is_array() ? list : Json::array()) {
        ESPALIER_TRY(AddedToken token, readToken(item));
        const auto [seen, fresh] = written.emplace(token.id, token.content);
        const auto own = modelIds.find(token.id);
        if ((!fresh && seen->second != token.content) ||
            (own != modelIds.end() && *own->second != token.content && !bpe.idOf(token.content)))
            return sharedId(token.id, token.content);
        if (token.content.empty()) continue;
        ESPALIER_TRY(const int id, add(token));
        if (id != token.id) moved.push_back(fmt::format("\"{}\" {} instead of {}", token.content, id, token.id));
    }
    if (!moved.empty())
        warnings.push_back(
            fmt::format("Added tokens have other ids than tokenizer.json writes, as the tokenizers library numbers them: {}.", few(moved)));

    for (const AddedToken& token : tokens.m_tokens)
        if (token.id >= size) next = std::max(next, token.id + 1);
    std::vector<std::string> lacking;
    for (const AddedToken& token : named) {
        if (token.content.empty()) continue;
        const bool fresh = !known.contains(token.content);
        ESPALIER_TRY(const int id, add(token));
        if (fresh && !bpe.idOf(token.content)) lacking.push_back(fmt::format("\"{}\" {}", token.content, id));
    }
    if (!lacking.empty())
        warnings.push_back(fmt::format(
            "tokenizer.json lacks tokens that the files beside it name; they are added, as transformers does: {}.", few(lacking)));
    return tokens.withMatchers(normalizer);
}

Result<AddedTokens> AddedTokens::withMatchers(const Normalizer& normalizer)
{
    std::unordered_set<std::string> patterns;  // of the normalised ones
    for (std::size_t i = 0; i < m_tokens.size(); ++i) {
        const AddedToken& token = m_tokens[i];
        if (!token.normalized) {
            m_raw.add(token.content, static_cast<int>(i));
            continue;
        }
        ESPALIER_TRY(const std::string pattern, normalizer.apply(token.content));
        if (pattern.empty())
            return unsupportedComponent("added_tokens", fmt::format("entry \"{}\", of which the normalizer leaves nothing", token.content));
        if (!patterns.insert(pattern).second)
            return damagedComponent("added_tokens", fmt::format("has two tokens that both read \"{}\" once they are normalised", pattern));
        m_normalized.add(pattern, static_cast<int>(i));
    }
    return std::move(*this);
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
        std::size_t begin = match.begin;
        std::size_t end = match.end;
        if (m_splitSpecial && token.special) continue;
        if (token.singleWord) {
            const bool wordBefore = match.begin > 0 && isWord(utf8Decode(lastCharacter(text.substr(0, match.begin))));
            const bool wordAfter = match.end < text.size() && isWord(utf8Decode(firstCharacter(text.substr(match.end))));
            if (wordBefore || wordAfter) continue;
        }
        if (token.leftStrip) {
            while (begin > 0 && isSpace(lastCharacter(text.substr(0, begin))))
                begin -= lastCharacter(text.substr(0, begin)).size();
            begin = std::max(begin, covered);
        }
        if (token.rightStrip) {
            while (end < text.size() && isSpace(firstCharacter(text.substr(end))))
                end += firstCharacter(text.substr(end)).size();
        }
        // A token that begins within the spaces that the one before took is a token all the same, unless nothing is left of it.
        if (begin > covered) segments.push_back({text.substr(covered, begin - covered), -1});
        if (end > begin) segments.push_back({text.substr(begin, end - begin), token.id});
        covered = end;
    }
    if (covered < text.size()) segments.push_back({text.substr(covered), -1});
    return segments;
}

}  // namespace espalier
