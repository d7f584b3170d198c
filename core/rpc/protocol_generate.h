// What a model says under a plan, token by token, and how fast: for trying a plan out. Both become jobs in the lane Attended: an edit
// or a perplexity that comes in meanwhile runs at once, between two layers.
#pragma once

#include "rpc/protocol.h"

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

// Another token that could have come.
struct TokenAlternative {
    int id = 0;
    std::string text;
    double logprob = 0;  // nats, of the model's own distribution
};
ESPALIER_PROTOCOL_TYPE(TokenAlternative);

// One token as soon as it is known.
struct GeneratedTokenEvent {
    int index = 0;  // from 0
    int id = 0;
    // What it makes certain of the text. Empty while the bytes of a character are not complete or a stop string may have begun, and of
    // special tokens; the token that settles it has all of it.
    std::string text;
    double logprob = 0;                          // nats, of the model's own distribution, before temperature and top-p
    std::vector<TokenAlternative> alternatives;  // the most probable ones, the chosen one among them where it is one; by probability
};
ESPALIER_PROTOCOL_TYPE(GeneratedTokenEvent);

struct GenerateAnswer {
    std::string planHash;
    std::vector<int> promptIds;  // with the token that begins the sequence, where the tokenizer adds one
    std::vector<int> ids;        // what was generated; an end-of-sequence token is the last one
    std::string text;            // of them, without special tokens, cut before a stop string
    std::vector<double> logprobs;
    std::string finish;         // "length", "end", "stop" (a stop string), "context" (no room in the model's context)
    double prefillSeconds = 0;  // the prompt, first token included; without what ran in between
    double decodeSeconds = 0;   // all tokens behind the first
    std::string dtype;
    std::vector<std::string> warnings;
};
ESPALIER_PROTOCOL_TYPE(GenerateAnswer);

struct GenerateRequest {
    static constexpr const char* kMethod = "generate";
    using Answer = GenerateAnswer;
    using Partial = GeneratedTokenEvent;
    std::string path;
    std::string prompt;                           // or
    std::vector<int> promptIds;                   // as they are, for models without a tokenizer
    Json plan;                                    // as core/plan writes it; null: the whole model
    std::vector<std::filesystem::path> profiles;  // that factors and constants come from
    int tokens = 64;                              // at most
    double temperature = 0;                       // 0: the most probable token each time
    double topP = 1;                              // sample from the most probable tokens that have so much together
    std::uint64_t seed = 0;
    std::vector<std::string> stop;
    int alternatives = 0;    // per token
    bool ignoreEnd = false;  // go on behind an end-of-sequence token
};
ESPALIER_PROTOCOL_TYPE(GenerateRequest);

// One of the two sides.
struct SpeedSide {
    double prefillTokensPerSecond = 0;  // medians over the rounds
    double decodeTokensPerSecond = 0;
    double prefillLow = 0, prefillHigh = 0;  // least and most of the rounds
    double decodeLow = 0, decodeHigh = 0;
    std::int64_t bytesReadPerToken = 0;      // of weights, by a decode step, in the type they are computed in
    std::int64_t fileBytesReadPerToken = 0;  // of those, converted from the checkpoint's files in the step: not held
    std::int64_t peakRssBytes = 0;           // of the process, while this side ran
    std::int64_t weightBytes = 0;            // of all weights as an export would hold them, in the type they are computed in
    std::int64_t flopsPerToken = 0;          // of the products with weights, two for a multiply-add
    std::int64_t activeParameters = 0;       // per token
    bool atMost = false;                     // both: tokens may skip experts
};
ESPALIER_PROTOCOL_TYPE(SpeedSide);

// The plan beside the dense model, from pairs of one round each: medians, and the least and the most.
struct SpeedRatio {
    double prefill = 0;
    double decode = 0;
    double low = 0, high = 0;  // of prefill
    double decodeLow = 0, decodeHigh = 0;
};
ESPALIER_PROTOCOL_TYPE(SpeedRatio);

// One round of both sides.
struct SpeedRound {
    int round = 0;                             // from 0
    double densePrefill = 0, denseDecode = 0;  // tokens per second
    std::optional<double> planPrefill, planDecode;
};
ESPALIER_PROTOCOL_TYPE(SpeedRound);

struct SpeedAnswer {
    std::string planHash;
    SpeedSide dense;
    std::optional<SpeedSide> plan;  // where there is one
    std::optional<SpeedRatio> ratio;
    int prefill = 0, decode = 0, rounds = 0;  // tokens, tokens, pairs
    std::string dtype;
    int threads = 0;
    std::vector<std::string> warnings;
};
ESPALIER_PROTOCOL_TYPE(SpeedAnswer);

struct SpeedRequest {
    static constexpr const char* kMethod = "speed";
    using Answer = SpeedAnswer;
    using Partial = SpeedRound;
    std::string path;
    Json plan;  // null: the whole model alone
    std::vector<std::filesystem::path> profiles;
    int prefill = 512;  // tokens of the prompt
    int decode = 32;    // tokens behind it
    int rounds = 5;
    std::uint64_t seed = 0;  // of the prompt's tokens
};
ESPALIER_PROTOCOL_TYPE(SpeedRequest);

}  // namespace espalier
