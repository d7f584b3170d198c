// The streaming pass over the calibration text (methods.md 2): decoder layer by decoder layer over all windows, sums in fp64, the
// hidden states of one layer boundary in memory. The model never has to be resident as a whole.
//
// No ATen in this header. Runs on the model's compute thread.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "session/profile_data.h"
#include "tokenizer/windows.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace espalier
{

class MoeModel;

struct ProfileOptions {
    std::filesystem::path out;         // empty: nothing is written and a kill loses the pass
    std::vector<std::string> collect;  // of "counts", "ean", "reap", "gram"; empty = all. Counts are always taken
    int gramTokens = -1;               // tokens in the Gram store; -1 = all, as far as kGramBytes reach; 0 = none
    int gramExtra = -1;                // m of the list length K = k + m; -1 = n for at most 10 experts, else k + 1 more
    int shard = 0;                     // this run's part of the windows, 0 <= shard < shards (the command line counts from 1)
    int shards = 1;
    bool resume = false;  // go on from the state an interrupted pass left; without one this is an ordinary pass
    bool force = false;   // replace an existing `out`
};

// Memory that the automatic size of the Gram store may take, all layers together.
inline constexpr std::int64_t kGramBytes = std::int64_t{1} << 30;

// Runs the pass and writes options.out. After every layer the state is on disk in the folder `out` + ".state" (removed at the end), so
// that a pass killed at any time goes on with `resume` and ends with the same bytes as one that was never interrupted.
//
// progress: token-layers done of all, phase "token". partial, per finished MoE layer: {"layer": l, "scores": {"expert_frequency": [..],
// "ean_mean": [..], "reap": [..], "leave-one-out": [..]}} with the methods the collected statistics allow.
// Errors: output.exists (Usage), profile.other_run (the state belongs to other windows, model or options), profile.bad_option (Usage),
// profile.missing_statistics, text.too_short (fewer windows than shards), cancelledError() after the layer in work is committed, model.*,
// output.*.
Result<ProfileData> runProfile(MoeModel& model, const TokenWindows& windows, const ProfileOptions& options, JobContext& job);

// Reads the shards, adds them up and writes `out` (mergeProfiles of session/profile_file.h). Errors: those, and output.exists.
Result<ProfileData> mergeProfiles(const std::vector<std::filesystem::path>& shards, const std::filesystem::path& out, bool force = false);

}  // namespace espalier
