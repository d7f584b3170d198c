// The next token from a row of logits: the most probable one, or drawn by temperature and top-p (nucleus sampling, arXiv 1904.09751).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace espalier
{

struct Sampling {
    double temperature = 0;  // of softmax(logits / temperature); 0: the most probable token each time, ties to the lower id
    double topP = 1;         // draw among the fewest tokens that have so much together, the most probable ones
    std::uint64_t seed = 0;
};

struct TokenChance {
    int id = 0;
    double logprob = 0;  // nats, of softmax(logits): before temperature and top-p
};

struct TokenChoice {
    TokenChance chosen;
    std::vector<TokenChance> alternatives;  // by probability, ties to the lower id
};

// logits: finite, one per token. `index`: of the token in its sequence; equal seeds, logits and indices give equal tokens on every machine.
// Pure, any thread.
TokenChoice chooseToken(std::span<const float> logits, const Sampling& sampling, std::uint64_t index, int alternatives = 0);

}  // namespace espalier
