// Added tokens: found in the text before the model sees it, in two passes: those that are not normalised in the text as it is, the others
// in what the normalizer makes of the rest.
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
    // The `added_tokens` array, and the tokens that files beside tokenizer.json name. The ids in the array are those of whoever wrote the
    // file; the reference (AddedVocabulary::add_tokens of huggingface/tokenizers) takes the vocabulary's id where the vocabulary has the
    // token, and counts on from the size of the vocabulary in the order of the list where it has not. So does this, with a warning for
    // every difference, and for every named token that tokenizer.json lacks. `splitSpecial`: special tokens are not looked for in texts.
    // Errors: tokenizer.invalid, tokenizer.duplicate_id (two contents under one id, in the file or by that counting).
    static Result<AddedTokens> fromJson(const Json& list, const std::vector<AddedToken>& named, const Bpe& bpe,
                                        const Normalizer& normalizer, bool splitSpecial, std::vector<std::string>& warnings);

    // Cuts text into added tokens and what lies between them. `normalized`: which of the two passes.
    std::vector<Segment> split(std::string_view text, bool normalized) const;
    const std::vector<AddedToken>& all() const { return m_tokens; }

private:
    Result<AddedTokens> withMatchers(const Normalizer& normalizer);

    std::vector<AddedToken> m_tokens;
    bool m_splitSpecial = false;
    TokenMatcher m_raw;
    TokenMatcher m_normalized;
};

}  // namespace espalier
