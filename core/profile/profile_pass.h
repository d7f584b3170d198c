// The streaming pass over the calibration text: decoder layer by decoder layer over all windows, sums in fp64. The
// hidden states between two layers lie in files beside the profile that is written (profile/hidden_states.h), in memory where none is. The
// model never has to be resident as a whole.
//
// No ATen in this header. Runs on the model's compute thread.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/work_share.h"
#include "plan/compression_plan.h"
#include "statistics/profile_data.h"
#include "tokenizer/windows.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

class Checkpoint;
class MoeModel;

struct ProfileOptions {
    std::filesystem::path out = {};  // empty: nothing is written and a kill loses the pass
    // Of "counts", "ean", "reap", "gram", "outputs", "similarity", "gradients", "curvature", "curves", "factors", "moments"; counts are
    // always taken. "+name" adds to the default, which an empty list is: the first four and "similarity", "outputs" of models whose sums
    // fit kOutputBytes, "gradients" where the states of the whole text fit kBoundaryBytes, the model has at most kGradientParameters and a
    // file is written, and of the last three what defaultFactors() says.
    std::vector<std::string> collect = {};
    int gramTokens = -1;  // tokens in the Gram store; -1 = all, as far as gramBytes() reach; 0 = none
    int gramExtra = -1;   // m of the list length K = k + m; -1 = n for at most 10 experts, else k + 1 more
    int shard = 0;        // this run's part of the windows, 0 <= shard < shards (the command line counts from 1)
    int shards = 1;
    // Experts that exist during the pass (ranks of the plan do not count): statistics of an already pruned model, from which MoE-I2
    // takes importance and second moments for the ranks. Absent: all.
    std::optional<CompressionPlan> plan = {};
    std::int64_t momentBudget = 0;    // bytes for the second moments of a layer; 0 = a quarter of MoeModel::spareBytes(), but at least
                                      // 256 MiB or a sixteenth of the memory budget
    std::int64_t boundaryBudget = 0;  // bytes for the states between layers that the reverse sweep needs; 0 = the same
    // Statistics of these layers alone, and the pass ends behind the last of them; empty: all. Not with `out`.
    std::vector<int> layers = {};
    // Handed each layer as it ends, on the thread that runs the pass. What is moved out of it takes no memory any more, and is missing in
    // the result. Not with `out`. May be empty.
    std::function<Status(LayerProfile&)> onLayer = {};
    bool resume = false;  // go on from the state an interrupted pass left; without one this is an ordinary pass
    bool force = false;   // replace an existing `out`
};

// Bytes that the automatic size of the Gram store takes at most, all layers together and its gradients with it: what keeps a profile with
// bases within four times the model, 16 MiB at least and 1 GiB at most. By the model and the text alone, so that shards sample the same
// tokens.
std::int64_t gramBytes(const ModelShape& shape, std::int64_t textTokens);
// Bytes of one token in the store of one layer, with lists of `length` experts.
std::int64_t gramTokenBytes(int experts, int length, bool gradients);

// Bases of the factors are collected without being asked for up to this size.
inline constexpr std::int64_t kFactorBytes = std::int64_t{1} << 30;

// The reverse sweep is run without being asked for where the states of the text at all layer boundaries take no more. It costs about four
// forward passes, on models whose forward pass over such a text takes seconds to minutes: not on those that are read from disk each time.
// By the model's size alone, so that shards taken on different machines hold the same statistics.
inline constexpr std::int64_t kBoundaryBytes = std::int64_t{1} << 30;

inline constexpr std::int64_t kGradientParameters = 4'000'000'000;

// Mean outputs are collected without being asked for up to this size: of all but the very largest models.
inline constexpr std::int64_t kOutputBytes = std::int64_t{512} << 20;
std::int64_t outputBytes(const ModelShape& shape);

// Bytes of the bases ("factors") and of the sums ("moments") of a whole model, as stored.
std::int64_t factorBytes(const ModelShape& shape);
std::int64_t momentBytes(const ModelShape& shape);
// What the default takes: "curves" and "factors" of models whose bases fit kFactorBytes; of a shard its "moments" instead, if those fit,
// because they alone add up; nothing where no file is written.
std::vector<std::string> defaultFactors(const ModelShape& shape, const ProfileOptions& options);

// Runs the pass and writes options.out. After every layer the state is on disk in the folder `out` + ".state" (removed at the end), so
// that a pass killed at any time goes on with `resume` and ends with the same bytes as one that was never interrupted.
//
// A pass that is stopped in its reverse sweep keeps the layers and sweeps anew.
//
// progress: token-layers done of all, phase "token"; the reverse sweep counts as two forward passes. partial, per finished MoE layer:
// {"layer": l, "scores": {"expert_frequency": [..], "ean_mean": [..], "reap": [..], "leave-one-out": [..]}} with the methods the collected
// statistics allow. Errors: output.exists (Usage), profile.other_run (the state belongs to other windows, model or options),
// profile.bad_option (Usage), profile.missing_statistics, text.too_short (fewer windows than shards), cancelledError() after the layer in
// work is committed, model.*, output.*.
Result<ProfileData> runProfile(MoeModel& model, const TokenWindows& windows, const ProfileOptions& options, JobContext& job);

// Reads the shards, adds them up and writes `out` (mergeProfiles of session/profile_file.h), second moments included where all shards
// have them. With `checkpoint`, the model they belong to, curves and bases are then made of the sums, as in a single pass; without, they
// are missing in `out` and can be made later by merging `out` alone. Errors: those of mergeProfiles, output.exists, profile.other_model,
// profile.missing_statistics (a checkpoint, but no moments), lowrank.*, checkpoint.*.
//
// Several processes that see the same files can share the work, layer by layer: all call it with the same arguments and their own `share`;
// the first one writes `out`, and all return the same.
Result<ProfileData> mergeProfiles(const std::vector<std::filesystem::path>& shards, const std::filesystem::path& out, bool force,
                                  const Checkpoint* checkpoint, JobContext& job, WorkShare& share = WorkShare::none());
Result<ProfileData> mergeProfiles(const std::vector<std::filesystem::path>& shards, const std::filesystem::path& out, bool force = false);

}  // namespace espalier
