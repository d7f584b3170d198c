// The text of tokens that come one by one. A piece is given when its characters are complete, and not before it is known that no stop
// string begins in it.
#pragma once

#include "tokenizer/tokenizer.h"

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace espalier
{

class TextStream
{
public:
    // The tokenizer must outlive it; null: no text. `prompt`: what stands before, so that a space between is not lost.
    TextStream(const Tokenizer* tokenizer, std::span<const int> prompt, std::vector<std::string> stop);

    // What the token adds to the text that is certain by now.
    std::string add(int id);
    // What another token would add, special tokens by their names; incomplete characters are U+FFFD.
    std::string peek(int id) const;
    // What was held back: incomplete characters become U+FFFD.
    std::string finish();
    bool stopped() const { return m_stopped; }  // the text holds a stop string, and ends before it
    const std::string& text() const { return m_given; }

private:
    std::string decoded(bool complete);
    std::string settle(bool last);

    const Tokenizer* m_tokenizer;
    std::vector<std::string> m_stop;
    std::vector<int> m_ids;       // the end of the prompt and all tokens since
    std::size_t m_context = 0;    // the next piece is what decoding from here adds
    std::size_t m_done = 0;       // to what decoding up to here gives
    std::string m_given, m_held;  // text that was given, text that waits
    bool m_stopped = false;
};

}  // namespace espalier
