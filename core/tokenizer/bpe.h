// Byte-pair encoding with a heap of merges: O(n log n) in the length of a word, which may be a whole document.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace espalier
{

class Bpe
{  // const functions from any thread; the word cache is shared and locked
public:
    // The `model` object of tokenizer.json. Errors: tokenizer.invalid, tokenizer.unsupported, tokenizer.merge, tokenizer.duplicate_id.
    static Result<Bpe> fromJson(const Json& model);

    void encode(std::string_view word, std::vector<int>& ids) const;
    std::optional<int> idOf(std::string_view token) const;
    const std::unordered_map<std::string, int>& vocabulary() const { return m_vocabulary; }

private:
    struct Merge {
        int rank;
        int id;
    };
    struct Cache {
        std::mutex mutex;
        std::unordered_map<std::string, std::vector<int>> words;
    };
    struct Symbol {
        int id;
        int previous;
        int next;
        bool alive;
    };

    void findBoundary();
    void encodeWord(std::string_view word, std::vector<int>& ids) const;
    void firstSymbols(std::string_view word, std::vector<Symbol>& symbols) const;
    void merge(std::vector<Symbol>& symbols) const;
    const Merge* find(int left, int right) const;

    std::unordered_map<std::string, int> m_vocabulary;
    std::unordered_map<std::uint64_t, Merge> m_merges;
    std::vector<int> m_byteIds;   // <0x00>..<0xFF>, empty without byte fallback; -1 where the vocabulary lacks one
    std::vector<int> m_asciiIds;  // id of each one-byte character, -1: none
    std::optional<int> m_unknown;
    bool m_fuseUnknown = false;
    bool m_ignoreMerges = false;
    // A text may be cut before this character wherever another stands before it: no merge reaches across. Empty: no such character.
    std::string m_boundary;
    std::unique_ptr<Cache> m_cache = std::make_unique<Cache>();
};

}  // namespace espalier
