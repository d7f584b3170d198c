// What the engine holds open between requests: models with their weights, evaluators with what they measured, profiles, estimators.
//
// Belongs to the compute thread, but for what says otherwise. A job that pauses for an interactive one finds what it uses still alive
// afterwards: everything is handed out as shared ownership, and being dropped here only ends its being found.
#pragma once

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "evaluate/evaluator.h"
#include "model/moe_model.h"
#include "options.h"
#include "pipeline/plan_estimates.h"
#include "plan/factor_source.h"
#include "session/profile_parts.h"
#include "statistics/profile_data.h"
#include "text_options.h"
#include "tokenizer/tokenizer.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

struct OpenModel {
    std::shared_ptr<const Checkpoint> checkpoint;
    std::shared_ptr<MoeModel> model;                                             // created when first needed
    std::shared_ptr<StreamCache> streams;                                        // of all evaluators; made with the model
    std::vector<std::pair<std::string, std::shared_ptr<Evaluator>>> evaluators;  // most recently used last
    std::map<std::string, std::vector<std::string>> textWarnings;                // by text, as evaluators
    std::shared_ptr<const Tokenizer> tokenizer;                                  // read when first needed
};

class OpenModels
{
public:
    explicit OpenModels(CommonOptions options) : m_options(std::move(options)) {}

    // Reads the headers again; a model whose files are the same stays as it is, with all that was computed for it.
    Result<std::shared_ptr<OpenModel>> reopen(const std::string& path);
    // As it was when it was opened.
    Result<std::shared_ptr<OpenModel>> open(const std::string& path);

    // Another memory budget than the one it was made with makes a new model; 0 = whatever it has.
    Result<std::shared_ptr<MoeModel>> model(OpenModel& open, std::int64_t memoryBudget = 0);
    // One evaluator per text, so that residual streams and losses live on between edits. Holds on to its model.
    Result<std::shared_ptr<Evaluator>> evaluator(OpenModel& open, const TextOptions& text);
    Result<std::shared_ptr<Evaluator>> evaluator(OpenModel& open, TokenWindows windows);
    // What was worth saying when the evaluator of this text was made.
    static std::vector<std::string> textWarnings(const OpenModel& open, const TextOptions& text);

    // Errors: those of Tokenizer::load.
    static Result<std::shared_ptr<const Tokenizer>> tokenizer(OpenModel& open);

    // The profiles that a plan's factors and constants may come from; empty paths are left out. Held open while their content stays the
    // same.
    Result<FactorSources> factorSources(const std::vector<std::filesystem::path>& paths);
    // The same where the plan reads one; nothing where it does not, so that a profile that is gone matters to plans that need it only.
    Result<FactorSources> factorSourcesOf(const CompressionPlan& plan, const std::vector<std::filesystem::path>& paths);

    // The statistics of the profile used last stay in memory. profileData reads what is not held; remember is told what was read or taken
    // anyway. Any thread. Errors: profile.*.
    Result<std::shared_ptr<const ProfileData>> profileData(const std::filesystem::path& path);
    std::shared_ptr<const ProfileData> heldProfile(const std::filesystem::path& path) const;
    void remember(const std::filesystem::path& path, std::shared_ptr<const ProfileData> data);

    const CommonOptions& options() const { return m_options; }
    EstimatorCache& estimators() { return m_estimators; }  // any thread

private:
    using List = std::vector<std::pair<std::string, std::shared_ptr<OpenModel>>>;
    List::iterator find(const std::string& path);
    std::shared_ptr<OpenModel> touch(List::iterator it);
    static std::shared_ptr<Evaluator> heldEvaluator(OpenModel& open, const std::string& key);
    Result<std::shared_ptr<Evaluator>> addEvaluator(OpenModel& open, const std::string& key, TokenWindows windows);

    CommonOptions m_options;
    List m_open;  // most recently used last
    std::vector<std::shared_ptr<const ProfileParts>> m_parts;
    FactorSources m_values;  // values files of the plan that ran last: opening one reads it whole
    EstimatorCache m_estimators;
    mutable std::mutex m_profileMutex;
    std::string m_profileStamp;
    std::shared_ptr<const ProfileData> m_profile;
};

}  // namespace espalier
