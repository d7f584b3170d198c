#include "tokenizer/bpe.h"

#include "tokenizer/byte_level.h"

#include <fmt/format.h>

#include <algorithm>
#include <queue>
#include <tuple>
#include <unordered_set>

namespace espalier
{

namespace
{

constexpr std::size_t kMaxVocabulary = 4'000'000;
constexpr std::size_t kMaxMerges = 8'000'000;
constexpr std::size_t kCachedWordBytes = 256;
constexpr std::size_t kCachedWords = 1u << 16;

Error damaged(std::string code, const std::string& message)
{
    return badInput(std::move(code), "tokenizer.json", "tokenizer.json " + message, "The file is damaged: fetch it again.");
}

std::uint64_t pairKey(int left, int right)
{
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

bool nullOrEmpty(const Json& model, const char* key)
{
    const auto it = model.find(key);
    return it == model.end() || it->is_null() || (it->is_string() && it->get_ref<const std::string&>().empty());
}

bool flag(const Json& model, const char* key)
{
    const auto it = model.find(key);
    return it != model.end() && it->is_boolean() && it->get<bool>();
}

}  // namespace

Result<Bpe> Bpe::fromJson(const Json& model)
{
    if (!model.is_object() || !model.contains("vocab") || !model["vocab"].is_object() || !model.contains("merges") ||
        !model["merges"].is_array())
        return damaged("tokenizer.invalid", "has no BPE model with \"vocab\" and \"merges\".");
    if (const Json dropout = model.value("dropout", Json()); !dropout.is_null() && dropout != 0)
        return unsupported("tokenizer.unsupported", "tokenizer.json", "tokenizer.json asks for BPE dropout, which would make ids random.");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
        if (!nullOrEmpty(model, key))
            return unsupported("tokenizer.unsupported", "tokenizer.json",
                               {"tokenizer.json sets {key}, which is not supported.", {{"key", key}}});

    Bpe bpe;
    const Json& vocabulary = model["vocab"];
    if (vocabulary.size() > kMaxVocabulary || model["merges"].size() > kMaxMerges)
        return damaged("tokenizer.invalid", "has an absurdly large vocabulary.");
    bpe.m_vocabulary.reserve(vocabulary.size());
    std::unordered_map<int, const std::string*> tokenOfId;
    tokenOfId.reserve(vocabulary.size());
    for (auto it = vocabulary.begin(); it != vocabulary.end(); ++it) {
        if (!it->is_number_integer() || it->get<std::int64_t>() < 0 || it->get<std::int64_t>() > INT32_MAX)
            return damaged("tokenizer.invalid", fmt::format("gives the token \"{}\" the id {}.", it.key(), it->dump()));
        const int id = it->get<int>();
        if (const auto [seen, fresh] = tokenOfId.emplace(id, &it.key()); !fresh)
            return damaged("tokenizer.duplicate_id",
                           fmt::format("gives the id {} to two tokens, \"{}\" and \"{}\".", id, *seen->second, it.key()));
        bpe.m_vocabulary.emplace(it.key(), id);
    }

    bpe.m_merges.reserve(model["merges"].size());
    int rank = 0;
    for (const Json& item : model["merges"]) {
        std::string left, right;
        if (item.is_string()) {
            const auto& text = item.get_ref<const std::string&>();
            if (text.starts_with("#version")) continue;
            const std::size_t space = text.find(' ');
            if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
                return damaged("tokenizer.merge", fmt::format("has the merge \"{}\", which is not two tokens.", text));
            left = text.substr(0, space);
            right = text.substr(space + 1);
        } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
            left = item[0];
            right = item[1];
        } else {
            return damaged("tokenizer.merge", fmt::format("has the merge {}, which is not two tokens.", item.dump()));
        }
        const std::string merged = left + right;
        int ids[3] = {};
        const std::string* const tokens[3] = {&left, &right, &merged};
        for (int slot = 0; slot < 3; ++slot) {
            const std::string* const token = tokens[slot];
            const auto it = bpe.m_vocabulary.find(*token);
            if (it == bpe.m_vocabulary.end())
                return damaged("tokenizer.merge",
                               fmt::format("has the merge \"{} {}\", but the token \"{}\" is not in the vocabulary.", left, right, *token));
            ids[slot] = it->second;
        }
        bpe.m_merges.insert_or_assign(pairKey(ids[0], ids[1]), Merge{rank, ids[2]});  // of two alike the later counts, as in the reference
        ++rank;
    }

    if (const Json unknown = model.value("unk_token", Json()); unknown.is_string()) {
        bpe.m_unknown = bpe.idOf(unknown.get<std::string>());
        if (!bpe.m_unknown)
            return damaged("tokenizer.invalid", fmt::format("names the unknown token {}, which is not in the vocabulary.", unknown.dump()));
    }
    bpe.m_fuseUnknown = flag(model, "fuse_unk");
    bpe.m_ignoreMerges = flag(model, "ignore_merges");
    if (flag(model, "byte_fallback"))
        for (int byte = 0; byte < 256; ++byte)
            bpe.m_byteIds.push_back(bpe.idOf(fmt::format("<0x{:02X}>", byte)).value_or(-1));
    for (int byte = 0; byte < 128; ++byte)
        bpe.m_asciiIds.push_back(bpe.idOf(std::string(1, static_cast<char>(byte))).value_or(-1));
    bpe.findBoundary();
    return bpe;
}

// Without a pre-tokenizer a whole document is one word. Where every merged token has U+2581 only at its start, no merge joins anything
// with a U+2581 behind it, so the document falls into words that can be encoded apart and cached, with the same ids.
void Bpe::findBoundary()
{
    const std::string marker = "\xE2\x96\x81";
    const bool bytes = !m_byteIds.empty() && std::find(m_byteIds.begin(), m_byteIds.end(), -1) == m_byteIds.end();
    // Dropped characters would bring their neighbours together.
    if (m_ignoreMerges || !idOf(marker) || (!m_unknown && !bytes)) return;
    std::unordered_set<int> merged;
    for (const auto& [pair, merge] : m_merges)
        merged.insert(merge.id);
    for (const auto& [token, id] : m_vocabulary) {
        if (!merged.contains(id)) continue;
        std::size_t body = 0;
        while (token.compare(body, marker.size(), marker) == 0)
            body += marker.size();
        if (token.find(marker, body) != std::string::npos) return;
    }
    m_boundary = marker;
}

std::optional<int> Bpe::idOf(std::string_view token) const
{
    const auto it = m_vocabulary.find(std::string(token));
    return it == m_vocabulary.end() ? std::nullopt : std::optional(it->second);
}

const Bpe::Merge* Bpe::find(int left, int right) const
{
    const auto it = m_merges.find(pairKey(left, right));
    return it == m_merges.end() ? nullptr : &it->second;
}

void Bpe::firstSymbols(std::string_view word, std::vector<Symbol>& symbols) const
{
    const auto add = [&](int id) {
        const int at = static_cast<int>(symbols.size());
        if (at > 0) symbols[static_cast<std::size_t>(at - 1)].next = at;
        symbols.push_back({id, at - 1, -1, true});
    };
    bool unknownPending = false;
    for (std::size_t i = 0; i < word.size();) {
        const auto lead = static_cast<unsigned char>(word[i]);
        const std::size_t length = utf8Length(lead);
        const std::string_view character = word.substr(i, length);
        i += length;
        const int id = length == 1 ? m_asciiIds[lead] : idOf(character).value_or(-1);
        if (id >= 0) {
            if (std::exchange(unknownPending, false)) add(*m_unknown);
            add(id);
            continue;
        }
        if (!m_byteIds.empty()) {
            bool all = true;
            for (const char c : character)
                all = all && m_byteIds[static_cast<unsigned char>(c)] >= 0;
            if (all) {
                for (const char c : character)
                    add(m_byteIds[static_cast<unsigned char>(c)]);
                continue;
            }
        }
        if (!m_unknown) continue;  // neither: the character is dropped, as in the reference
        if (unknownPending && !m_fuseUnknown) add(*m_unknown);
        unknownPending = true;
    }
    if (unknownPending) add(*m_unknown);
}

void Bpe::merge(std::vector<Symbol>& symbols) const
{
    struct Candidate {
        int rank;
        int position;
        int id;
    };
    const auto later = [](const Candidate& a, const Candidate& b) { return std::tie(a.rank, a.position) > std::tie(b.rank, b.position); };
    std::vector<Candidate> storage;
    storage.reserve(symbols.size());
    std::priority_queue<Candidate, std::vector<Candidate>, decltype(later)> queue(later, std::move(storage));
    const auto consider = [&](int position) {
        const Symbol& left = symbols[static_cast<std::size_t>(position)];
        if (left.next < 0) return;
        if (const Merge* found = find(left.id, symbols[static_cast<std::size_t>(left.next)].id))
            queue.push({found->rank, position, found->id});
    };
    for (int i = 0; i < static_cast<int>(symbols.size()); ++i)
        consider(i);
    while (!queue.empty()) {
        const Candidate top = queue.top();
        queue.pop();
        Symbol& left = symbols[static_cast<std::size_t>(top.position)];
        if (!left.alive || left.next < 0) continue;
        Symbol& right = symbols[static_cast<std::size_t>(left.next)];
        const Merge* now = find(left.id, right.id);
        if (now == nullptr || now->id != top.id) continue;  // stale
        left.id = top.id;
        right.alive = false;
        left.next = right.next;
        if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = top.position;
        if (left.previous >= 0) consider(left.previous);
        consider(top.position);
    }
}

void Bpe::encode(std::string_view word, std::vector<int>& ids) const
{
    if (!m_boundary.empty() && word.size() >= kCachedWordBytes) {
        std::size_t begin = 0;
        std::size_t from = 0;
        for (std::size_t at; (at = word.find(m_boundary, from)) != std::string_view::npos; from = at + m_boundary.size()) {
            if (at == from) continue;  // at the start, or behind another boundary character
            encodeWord(word.substr(begin, at - begin), ids);
            begin = at;
        }
        word.remove_prefix(begin);
    }
    encodeWord(word, ids);
}

void Bpe::encodeWord(std::string_view word, std::vector<int>& ids) const
{
    if (word.empty()) return;
    if (m_ignoreMerges) {
        if (const std::optional<int> whole = idOf(word)) {
            ids.push_back(*whole);
            return;
        }
    }
    const bool cached = word.size() < kCachedWordBytes;
    std::string key;
    if (cached) {
        key = word;
        const std::scoped_lock lock(m_cache->mutex);
        if (const auto it = m_cache->words.find(key); it != m_cache->words.end()) {
            ids.insert(ids.end(), it->second.begin(), it->second.end());
            return;
        }
    }
    std::vector<Symbol> symbols;
    firstSymbols(word, symbols);
    merge(symbols);
    const std::size_t before = ids.size();
    for (const Symbol& symbol : symbols)
        if (symbol.alive) ids.push_back(symbol.id);
    if (cached) {
        const std::scoped_lock lock(m_cache->mutex);
        if (m_cache->words.size() >= kCachedWords) m_cache->words.clear();
        m_cache->words.emplace(std::move(key), std::vector<int>(ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end()));
    }
}

}  // namespace espalier
