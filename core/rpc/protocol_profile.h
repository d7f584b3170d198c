// Taking profiles and looking at what they hold.
#pragma once

#include "base/method_registry.h"
#include "plan/expert_grid.h"
#include "rpc/protocol.h"
#include "rpc/text_selection.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

// How much of the text the store of Gram products holds.
struct GramStoreNote {
    std::int64_t tokens = 0;      // stored
    std::int64_t textTokens = 0;  // of the text
    std::int64_t bytes = 0;
    std::int64_t bytesPerToken = 0;
    std::string option;  // that changes it
    std::string note;
};
ESPALIER_PROTOCOL_TYPE(GramStoreNote);

using ScoresByMethod = std::map<std::string, ExpertScores>;

struct LoadProfileAnswer {
    std::filesystem::path profile;
    std::int64_t tokens = 0;
    std::int64_t windows = 0;
    int windowLength = 0;
    std::string textSha256;
    std::string fingerprint;  // of the model
    int layersDone = 0;
    std::vector<std::string> collected;  // statistics
    double uncoveredFraction = 0;        // NaN: not known
    std::optional<GramStoreNote> gram;
    ScoresByMethod scores;  // all that the statistics allow
    std::vector<std::string> warnings;
};
ESPALIER_PROTOCOL_TYPE(LoadProfileAnswer);

struct LoadProfileRequest {
    static constexpr const char* kMethod = "load_profile";
    using Answer = LoadProfileAnswer;
    std::string profile;
};
ESPALIER_PROTOCOL_TYPE(LoadProfileRequest);

struct ProfileAnswer {
    LoadProfileAnswer facts;
    std::vector<std::string> textWarnings;  // those of `facts.warnings` that are about the text
    std::optional<int> windowsAsked;
    double tokensPerSecond = 0;
    double seconds = 0;
    std::string dtype;  // computed in
};
ESPALIER_PROTOCOL_TYPE(ProfileAnswer);

// Streamed by `profile`: one layer's scores.
struct LayerScored {
    int layer = 0;
    std::map<std::string, std::vector<double>> scores;  // by method, one per expert
};
ESPALIER_PROTOCOL_TYPE(LayerScored);

struct ProfileRequest {
    static constexpr const char* kMethod = "profile";
    using Answer = ProfileAnswer;
    using Partial = LayerScored;
    std::string path;
    TextSelection text;
    int windows = 0;  // at most; 0: all
    std::filesystem::path out;
    int gramTokens = -1;               // -1: as many as the profile takes by itself
    std::vector<std::string> collect;  // empty: what the profile takes by itself
    bool resume = false;
    bool force = true;
    std::int64_t memoryBudget = 0;  // bytes; 0: the engine's
};
ESPALIER_PROTOCOL_TYPE(ProfileRequest);

struct ScoreRequest {
    static constexpr const char* kMethod = "score";
    using Answer = ExpertScores;
    std::string profile = {};  // that the score is computed from
    std::string method;
    Params params = {};
    std::string path = {};  // the model's folder, for scores that read its weights
};
ESPALIER_PROTOCOL_TYPE(ScoreRequest);

// What every rank of one matrix loses and is worth, at most 256 ranks of it.
struct SpectrumPoints {
    int rows = 0;
    int columns = 0;
    int fullRank = 0;
    int breakEven = 0;                             // rank from which factors take more parameters than the matrix
    std::vector<std::pair<int, double>> error;     // rank, share of the error of rank 0
    std::vector<std::pair<int, double>> singular;  // number from 1, whitened singular value
};
ESPALIER_PROTOCOL_TYPE(SpectrumPoints);

struct RankCurvesAnswer {
    int layer = 0;
    int expert = 0;
    bool whitened = false;
    SpectrumPoints gate;
    SpectrumPoints up;
    SpectrumPoints down;
};
ESPALIER_PROTOCOL_TYPE(RankCurvesAnswer);

struct RankCurvesRequest {
    static constexpr const char* kMethod = "rank_curves";
    using Answer = RankCurvesAnswer;
    std::string profile;
    int layer = 0;
    int expert = 0;
};
ESPALIER_PROTOCOL_TYPE(RankCurvesRequest);

}  // namespace espalier
