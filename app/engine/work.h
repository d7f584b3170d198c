// What the verbs and `serve` have in common: opening models and texts, and results as JSON. No ATen here.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/json.h"
#include "base/method_registry.h"
#include "base/statistics.h"
#include "checkpoint/checkpoint.h"
#include "engine_main.h"
#include "model/moe_model.h"
#include "options.h"
#include "plan/compression_plan.h"
#include "plan/cost_model.h"
#include "plan/expert_grid.h"
#include "session/profile_data.h"
#include "tokenizer/text_windows.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/windows.h"

#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

// Memory for residual streams between edits: half of what the budget leaves beside the weights, at most 1 GiB and not out of proportion
// to the model.
std::int64_t evaluatorCacheBytes(const MoeModel& model);

// auto: bf16 where the checkpoint is stored in it and the processor multiplies it natively, which is twice as fast at any number of rows
// (model/weight_matrix.h), if the model is wide enough for that to count.
ComputeType computeTypeFor(const std::string& dtype, const Checkpoint& checkpoint);

Json modelJson(const Checkpoint& checkpoint);
// Opens, and fills in model and warnings of the invocation.
Result<std::shared_ptr<const Checkpoint>> openCheckpoint(const std::filesystem::path& folder, Invocation& invocation);
Result<std::unique_ptr<MoeModel>> createModel(std::shared_ptr<const Checkpoint> checkpoint, Invocation& invocation);

// Refuses a plan made for another model unless told otherwise. Error: plan.other_model.
Status checkPlanModel(const CompressionPlan& plan, const Checkpoint& checkpoint, bool allowOther);
// The same against a profile's model; `subject` names what it belongs to.
Status checkPlanModel(const CompressionPlan& plan, const PlanModel& own, const std::string& subject);
Result<CompressionPlan> readPlan(const std::filesystem::path& path, const Checkpoint& checkpoint, bool allowOther);
PlanModel planModelOf(const Checkpoint& checkpoint);

// Error: profile.other_model.
Status checkProfileModel(const ProfileData& profile, const std::filesystem::path& path, const Checkpoint& checkpoint);
// Refuses a profile of another model unless told otherwise. Errors: profile.*, profile.other_model.
Result<ProfileData> readProfileFor(const std::filesystem::path& path, const Checkpoint& checkpoint, bool allowOther);

// The file's identity for caches: another content has another size or time.
std::string fileStamp(const std::filesystem::path& path);

// The text that a verb runs on: --text FILE.. or --ids FILE[:NAME], which windows of it, their length, BOS.
struct TextOptions {
    std::vector<std::filesystem::path> text;
    std::string ids;
    int windows = 0;                // at most; 0 = all
    bool windowsByDefault = false;  // nobody asked for that many
    int firstWindow = 0;            // windows of the text that are left out before them
    int spread = 0;                 // so many of them, spread evenly; 0 = all
    int windowLength = 0;           // 0 = min(2048, the model's positions)
    std::string bos = "auto";
    std::string format = "auto";  // of the files: text, jsonl, json
    std::string field;            // of JSON texts
};
void addTextOptions(CLI::App* verb, TextOptions& options);
Result<TokenWindows> openText(const TextOptions& options, const Checkpoint& checkpoint);
// The same; what is worth saying about the text and its windows is added to `warnings` (tokenizer/text_windows.h).
Result<TokenWindows> openText(const TextOptions& options, const Checkpoint& checkpoint, std::vector<std::string>& warnings);
// The number of windows that somebody asked for, or null.
Json windowsAsked(const TextOptions& options);
Result<Bos> parseBos(const std::string& text);
// Cut as the profile's text was: what a second text is opened with where the profile's own windows stand in for the first.
TextOptions cutAsProfile(TextOptions options, const ProfileData& profile);

// Losses of all windows of a text that is measured once. Error: those of Evaluator::run.
Result<std::vector<WindowLoss>> measureOnce(MoeModel& model, const TokenWindows& windows, const CompressionPlan& plan, JobContext& job);

// NaN and infinities become null.
Json numberJson(double value);
Json scoresJson(const ExpertScores& scores);  // method, title, unit, better, values, layer_importance
// {method: scoresJson} for every scorer that the collected statistics allow.
Json allScoresJson(const ProfileData& profile);
Json costJson(const PlanCost& cost, const PlanCost& dense);
Json windowsJson(const std::vector<WindowLoss>& losses, bool index);
Json differenceJson(const PairedDifference& difference);
// How many tokens the Gram store of a profile holds, what they take, and in words ("note") what more would buy. Null without a store.
Json gramStoreJson(const ProfileData& profile);
// Exact layer losses of the plan's kept sets from the Gram store: one entry per MoE layer.
Json gramLossesJson(const ProfileData& profile, const CompressionPlan& plan);
// Sizes and layer losses of a plan for people.
std::string planText(const ModelShape& shape, const CompressionPlan& plan, const Json& losses);
// All methods of all slots.
std::vector<MethodInfo> allMethods();

// Error: output.exists (usage) unless forced.
Status checkOutput(const std::filesystem::path& path, bool force);

}  // namespace espalier
