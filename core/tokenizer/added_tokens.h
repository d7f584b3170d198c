// Added tokens: found in the text before the model sees it, in two passes (formats.md 5.3, step 1).
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "tokenizer/bpe.h"
#include "tokenizer/components.h"

#include <array>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace espalier
{

struct AddedToken {
    int id = 0;
    std::string content;
    bool singleWord = false;
    bool leftStrip = false;
    bool rightStrip = false;
    bool normalized = false;
    bool special = false;
};

// Leftmost-longest search for a fixed set of strings: a byte trie.
class TokenMatcher
{
public:
    void add(std::string_view pattern, int token);
    bool empty() const noexcept { return m_nodes.size() == 1; }
    struct Match {
        std::size_t begin;
        std::size_t end;
        int token;
    };
    // First match at or after `from`; token -1 when there is none.
    Match find(std::string_view text, std::size_t from) const;

private:
    struct Node {
        std::map<unsigned char, int> next;
        int token = -1;
    };
    std::vector<Node> m_nodes = std::vector<Node>(1);
    std::array<bool, 256> m_starts{};  // bytes that a pattern starts with: most text is passed over by this alone
};

struct Segment {
    std::string_view text;
    int tokenId = -1;  // >= 0: an added token
};

class AddedTokens
{
public:
    // The `added_tokens` array. Errors: tokenizer.invalid, tokenizer.duplicate_id (two contents under one id, or another than the model's).
    static Result<AddedTokens> fromJson(const Json& list, const Bpe& bpe, const Normalizer& normalizer);

    // Cuts text into added tokens and what lies between them. `normalized`: which of the two passes.
    std::vector<Segment> split(std::string_view text, bool normalized) const;
    const std::vector<AddedToken>& all() const { return m_tokens; }

private:
    std::vector<AddedToken> m_tokens;
    TokenMatcher m_raw;
    TokenMatcher m_normalized;
};

}  // namespace espalier
