#include "work.h"

#include "allocate/allocator.h"
#include "allocate/rank_rule.h"
#include "base/text.h"
#include "base/window_spread.h"
#include "evaluate/evaluator.h"
#include "output.h"
#include "profile/profile_pass.h"
#include "score/gram_loss.h"
#include "score/scorer.h"
#include "search/selector.h"
#include "search/plan_search.h"
#include "session/profile_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <string_view>
#include <thread>

namespace espalier
{

std::int64_t evaluatorCacheBytes(const MoeModel& model)
{
    constexpr std::int64_t kMost = std::int64_t{1} << 30;
    constexpr std::int64_t kLeast = std::int64_t{256} << 20;
    return std::min({model.spareBytes() / 2, kMost, std::max(kLeast, 2 * model.shape().bytes())});
}

ComputeType computeTypeFor(const std::string& dtype, const Checkpoint& checkpoint)
{
    if (dtype == "fp32") return ComputeType::Fp32;
    if (dtype == "bf16") return ComputeType::Bf16;
    // Narrow models spend their time between the products, where bf16 gains little, and stay in the reference mode.
    constexpr int kWidthWorthIt = 1024;
#if defined(__x86_64__)
    const bool native = __builtin_cpu_supports("avx512bf16");
#else
    const bool native = false;
#endif
    const ModelShape& shape = checkpoint.shape();
    return native && shape.dtype == "BF16" && shape.hiddenSize >= kWidthWorthIt ? ComputeType::Bf16 : ComputeType::Fp32;
}

Json modelJson(const Checkpoint& checkpoint) { return {{"path", checkpoint.folder().string()}, {"fingerprint", checkpoint.fingerprint()}}; }

Result<std::shared_ptr<const Checkpoint>> openCheckpoint(const std::filesystem::path& folder, Invocation& invocation)
{
    ESPALIER_TRY(auto checkpoint, Checkpoint::open(folder));
    invocation.model = modelJson(*checkpoint);
    invocation.warnings.insert(invocation.warnings.end(), checkpoint->warnings().begin(), checkpoint->warnings().end());
    return checkpoint;
}

Result<std::unique_ptr<MoeModel>> createModel(std::shared_ptr<const Checkpoint> checkpoint, Invocation& invocation)
{
    ESPALIER_TRY(ModelOptions options, modelOptions(invocation.options));
    options.compute = computeTypeFor(invocation.options.dtype, *checkpoint);
    ESPALIER_TRY(auto model, MoeModel::create(std::move(checkpoint), options));
    invocation.dtype = model->numericMode();
    invocation.warnings.insert(invocation.warnings.end(), model->warnings().begin(), model->warnings().end());
    return model;
}

PlanModel planModelOf(const Checkpoint& checkpoint)
{
    return {checkpoint.config().modelType, checkpoint.configSha256(), checkpoint.weightsSha256()};
}

Status checkPlanModel(const CompressionPlan& plan, const Checkpoint& checkpoint, bool allowOther)
{
    if (allowOther) return {};
    return checkPlanModel(plan, planModelOf(checkpoint), checkpoint.folder().string());
}

Status checkPlanModel(const CompressionPlan& plan, const PlanModel& own, const std::string& subject)
{
    const PlanModel& other = plan.model();
    const auto differs = [](const std::string& a, const std::string& b) { return !a.empty() && a != b; };
    if (differs(other.modelType, own.modelType) || differs(other.configSha256, own.configSha256) ||
        differs(other.weightsSha256, own.weightsSha256))
        return badInput("plan.other_model", subject, "The plan was made for another model: type or hashes differ.",
                        "Open the model it belongs to, or use --allow-other-model.");
    return {};
}

Result<CompressionPlan> readPlan(const std::filesystem::path& path, const Checkpoint& checkpoint, bool allowOther)
{
    ESPALIER_TRY(CompressionPlan plan, readPlanFile(path, checkpoint.shape()));
    ESPALIER_CHECK_OK(checkPlanModel(plan, checkpoint, allowOther));
    return plan;
}

Status checkProfileModel(const ProfileData& profile, const std::filesystem::path& path, const Checkpoint& checkpoint)
{
    if (profile.fingerprint == checkpoint.fingerprint()) return {};
    return badInput("profile.other_model", path.string(), "The profile was taken of another model.",
                    "Profile this model, or open the one it belongs to.");
}

Result<ProfileData> readProfileFor(const std::filesystem::path& path, const Checkpoint& checkpoint, bool allowOther)
{
    ESPALIER_TRY(ProfileData data, readProfile(path));
    if (!allowOther) ESPALIER_CHECK_OK(checkProfileModel(data, path, checkpoint));
    return data;
}

std::string fileStamp(const std::filesystem::path& path)
{
    std::error_code failure;
    const auto size = std::filesystem::file_size(path, failure);
    const auto time = std::filesystem::last_write_time(path, failure);
    return fmt::format("{}|{}|{}", path.string(), size, time.time_since_epoch().count());
}

void addTextOptions(CLI::App* verb, TextOptions& options)
{
    CLI::Option* text = verb->add_option("--text", options.text, "Text files or JSON lines of {\"text\": ...}, tokenised as one sequence")
                            ->type_name("FILE")
                            ->expected(1, -1);
    verb->add_option("--ids", options.ids, "Token ids instead of text: JSON lists, or safetensors FILE[:NAME]")
        ->type_name("FILE")
        ->excludes(text);
    verb->add_option("--windows", options.windows, "Use the first N windows (default: all)")->check(CLI::Range(1, 1 << 30))->type_name("N");
    verb->add_option("--first-window", options.firstWindow, "Leave out so many windows of the text before them (default: 0)")
        ->check(CLI::Range(0, 1 << 30))
        ->type_name("N");
    verb->add_option("--spread", options.spread, "Of these windows use N, spread evenly (default: all)")
        ->check(CLI::Range(1, 1 << 30))
        ->type_name("N");
    verb->add_option("--window-length", options.windowLength, "Tokens per window (default: 2048, or what the model takes)")
        ->check(CLI::Range(2, 1 << 30))
        ->type_name("N");
    verb->add_option("--text-format", options.format, "Form of the files: auto, text, jsonl or json")
        ->check(CLI::IsMember({"auto", "text", "jsonl", "json"}));
    verb->add_option("--text-field", options.field, "Field of JSON texts (default: text, or the only one)")->type_name("NAME");
    verb->add_option("--bos", options.bos, "Begin-of-sequence token: auto, yes or no")->check(CLI::IsMember({"auto", "yes", "no"}));
}

Result<Bos> parseBos(const std::string& text)
{
    if (text == "auto" || text.empty()) return Bos::Auto;
    if (text == "yes") return Bos::Yes;
    if (text == "no") return Bos::No;
    return usageError(fmt::format("\"{}\" is not one of auto, yes, no.", text));
}

TextOptions cutAsProfile(TextOptions options, const ProfileData& profile)
{
    options.windowLength = profile.windowLength;
    if (!profile.tokenizerSha256.empty()) options.bos = profile.bos ? "yes" : "no";
    return options;
}

namespace
{

// Of rows that begin with the text's first one.
Status chooseRows(const TextOptions& options, TokenWindows& windows)
{
    const auto left = [](const std::vector<std::vector<int>>& rows) {
        std::int64_t tokens = 0;
        for (const std::vector<int>& row : rows)
            tokens += static_cast<std::int64_t>(row.size());
        return tokens;
    };
    const std::int64_t before = left(windows.rows);
    const std::size_t count = windows.rows.size();
    if (static_cast<std::size_t>(options.firstWindow) >= count && options.firstWindow > 0)
        return badInput("text.too_short", windows.source,
                        fmt::format("{} has {} windows of {} tokens; there is none from number {} on.", windows.source, count,
                                    windows.windowLength, options.firstWindow),
                        "Use a longer text, or leave out fewer windows.");
    windows.rows.erase(windows.rows.begin(), windows.rows.begin() + options.firstWindow);
    if (options.spread > 0) {
        std::vector<std::vector<int>> chosen;
        for (const int w : spreadWindows(static_cast<int>(windows.rows.size()), options.spread))
            chosen.push_back(std::move(windows.rows[static_cast<std::size_t>(w)]));
        windows.rows = std::move(chosen);
    }
    windows.droppedTokens += before - left(windows.rows);
    windows.textSha256 = hashOfRows(windows.rows);
    return {};
}

}  // namespace

Result<TokenWindows> openText(const TextOptions& options, const Checkpoint& checkpoint)
{
    std::vector<std::string> unheard;
    return openText(options, checkpoint, unheard);
}

Result<TokenWindows> openText(const TextOptions& options, const Checkpoint& checkpoint, std::vector<std::string>& warnings)
{
    if (options.text.empty() && options.ids.empty()) return usageError("A text is needed.", "Give --text FILE or --ids FILE.");
    const ModelShape& shape = checkpoint.shape();
    TextRequest request;
    WindowOptions& window = request.window;
    window.windowLength = options.windowLength > 0 ? options.windowLength : 2048;
    if (options.windowLength <= 0 && shape.maxPositions > 0) window.windowLength = std::min(2048, shape.maxPositions);
    window.maxWindows =
        options.windows > 0
            ? static_cast<int>(std::min<std::int64_t>(std::int64_t{options.firstWindow} + options.windows, std::int64_t{1} << 30))
            : 0;
    ESPALIER_TRY(window.bos, parseBos(options.bos));
    // Of a part of the text what was asked for is known only once the part is cut.
    request.countAsked = !options.windowsByDefault && options.firstWindow == 0;
    request.lengthAsked = options.windowLength > 0;
    request.modelPositions = shape.maxPositions;
    request.file.field = options.field;
    ESPALIER_TRY(request.file.form, parseTextForm(options.format));
    RequestedWindows opened;
    if (!options.ids.empty()) {
        ESPALIER_TRY(opened, openIdWindows(options.ids, request, shape.vocabularySize));
        if (window.bos == Bos::Yes)
            opened.warnings.push_back("Ids are used as they are: the begin-of-sequence token that was asked for is not put before them.");
    } else {
        ESPALIER_TRY(const Tokenizer tokenizer, Tokenizer::load(checkpoint.folder(), shape.vocabularySize));
        ESPALIER_TRY(opened, openTextWindows(tokenizer, options.text, request));
    }
    for (std::string& warning : opened.warnings)
        if (std::find(warnings.begin(), warnings.end(), warning) == warnings.end()) warnings.push_back(std::move(warning));
    if (options.firstWindow > 0 || options.spread > 0) ESPALIER_CHECK_OK(chooseRows(options, opened.windows));
    if (options.firstWindow > 0 && !options.windowsByDefault && options.spread == 0)
        if (std::string fewer = fewerWindows(options.windows, opened.windows); !fewer.empty()) warnings.push_back(std::move(fewer));
    return std::move(opened.windows);
}

Json windowsAsked(const TextOptions& options) { return options.windows > 0 && !options.windowsByDefault ? Json(options.windows) : Json(); }

Result<std::vector<WindowLoss>> measureOnce(MoeModel& model, const TokenWindows& windows, const CompressionPlan& plan, JobContext& job)
{
    Evaluator evaluator(model, windows, 0);
    return evaluator.run(plan, firstWindows(evaluator.windowCount()), {}, job);
}

Json numberJson(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json scoresJson(const ExpertScores& scores)
{
    Json values = Json::array();
    for (const auto& row : scores.values.rows) {
        Json line = Json::array();
        for (const double value : row)
            line.push_back(numberJson(value));
        values.push_back(std::move(line));
    }
    Json importance = Json::array();
    for (const double value : scores.layerImportance)
        importance.push_back(numberJson(value));
    return {{"method", scores.method},     {"title", scores.title},
            {"unit", scores.unit},         {"better", scores.better == Better::Higher ? "higher" : "lower"},
            {"values", std::move(values)}, {"layer_importance", std::move(importance)}};
}

Json allScoresJson(const ProfileData& profile)
{
    Json all = Json::object();
    for (const MethodInfo& method : scorers()) {
        if (!std::all_of(method.needs.begin(), method.needs.end(), [&](const std::string& need) { return profile.has(need); })) continue;
        if (const Result<ExpertScores> scores = score(profile, method.id); scores.ok()) all[method.id] = scoresJson(*scores);
    }
    return all;
}

Json costJson(const PlanCost& cost, const PlanCost& dense)
{
    return {{"parameters", cost.parameters},
            {"active_parameters", cost.activeParameters},
            {"bytes", cost.bytes},
            {"expert_parameters", cost.expertParameters},
            {"expert_parameters_removed", cost.expertParametersRemoved()},
            {"dense", {{"parameters", dense.parameters}, {"active_parameters", dense.activeParameters}, {"bytes", dense.bytes}}}};
}

Json windowsJson(const std::vector<WindowLoss>& losses, bool index)
{
    Json windows = Json::array();
    for (const WindowLoss& loss : losses) {
        Json item = {{"nll", numberJson(loss.nll)}, {"tokens", loss.tokens}};
        if (index) item["window"] = loss.window;
        windows.push_back(std::move(item));
    }
    return windows;
}

Json differenceJson(const PairedDifference& difference)
{
    return {{"nll", numberJson(difference.nll)}, {"se", numberJson(difference.se)},     {"ppl_ratio", numberJson(difference.pplRatio)},
            {"low", numberJson(difference.low)}, {"high", numberJson(difference.high)}, {"windows", difference.windows}};
}

Json gramLossesJson(const ProfileData& profile, const CompressionPlan& plan)
{
    Json losses = Json::array();
    for (const LayerProfile& layer : profile.layers) {
        if (layer.experts == 0 || layer.gram.tokenCount() == 0 || layer.layer >= plan.layerCount()) continue;
        const LayerPlan& layerPlan = plan.layer(layer.layer);
        const GramEvaluator gram(layer, profile.shape.layers[static_cast<std::size_t>(layer.layer)].router, layerPlan.topK);
        const GramLoss loss = gram.evaluate(layerPlan.kept);
        const double norm = gram.outputNorm();
        losses.push_back({{"layer", layer.layer},
                          {"loss", numberJson(loss.loss())},
                          {"relative", norm > 0 ? numberJson(loss.loss() / norm) : Json()},
                          {"uncovered_fraction", loss.uncoveredShare()}});
    }
    return losses;
}

Json gramStoreJson(const ProfileData& profile)
{
    std::int64_t stored = 0;
    std::int64_t tokenBytes = 0;
    for (const LayerProfile& layer : profile.layers) {
        const GramStore& gram = layer.gram;
        if (gram.listLength == 0) continue;
        stored = std::max(stored, static_cast<std::int64_t>(gram.tokenCount()));
        tokenBytes += gramTokenBytes(layer.experts, gram.listLength, profile.has("gradients"));
    }
    if (tokenBytes == 0) return {};
    std::string note = fmt::format("Gram store: {} of {} tokens, {}.", stored, profile.tokens, formatBytes(stored * tokenBytes));
    if (stored < profile.tokens)
        note += fmt::format(
            " --gram-tokens N stores more, {} each: leave-one-out scores, the losses that searches compare and the estimate of a plan get "
            "less "
            "noisy. Their sampling error falls with the square root of the tokens: by {:.0f} % with all of them. Counts, norms and factors "
            "are "
            "of the whole text in any case.",
            formatBytes(tokenBytes), 100 * (1 - std::sqrt(static_cast<double>(stored) / static_cast<double>(profile.tokens))));
    else
        note += " These are all; a longer text makes scores and searches less noisy.";
    return {{"tokens", stored},          {"text_tokens", profile.tokens}, {"bytes", stored * tokenBytes}, {"bytes_per_token", tokenBytes},
            {"option", "--gram-tokens"}, {"note", std::move(note)}};
}

std::string planText(const ModelShape& shape, const CompressionPlan& plan, const Json& losses)
{
    const PlanCost cost = planCost(shape, plan);
    const PlanCost dense = planCost(shape, CompressionPlan::identity(shape));
    std::string text = fmt::format("{} of {} experts, {} (dense {}), {} parameters ({} active), {:.1f} % of expert parameters removed\n\n",
                                   plan.keptExperts(), shape.totalExperts(), formatBytes(cost.bytes), formatBytes(dense.bytes),
                                   formatCount(cost.parameters), formatCount(cost.activeParameters), cost.expertParametersRemoved() * 100);
    Table table({"layer", "kept", "of", "layer error", "relative"});
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        std::string error;
        std::string relative;
        for (const Json& loss : losses)
            if (loss["layer"] == layer.index) {
                if (loss["loss"].is_number()) error = fmt::format("{:.4g}", loss["loss"].get<double>());
                if (loss["relative"].is_number()) relative = fmt::format("{:.2f} %", loss["relative"].get<double>() * 100);
            }
        table.row({std::to_string(layer.index), std::to_string(plan.layer(layer.index).kept.size()), std::to_string(layer.experts), error,
                   relative});
    }
    return text + table.text() + fmt::format("\nplan {}\n", plan.hash().substr(0, 12));
}

std::vector<MethodInfo> allMethods()
{
    std::vector<MethodInfo> methods = scorers();
    methods.insert(methods.end(), allocators().begin(), allocators().end());
    methods.push_back(verifiedInfo());
    methods.insert(methods.end(), selectorMethods().begin(), selectorMethods().end());
    methods.insert(methods.end(), rankRules().begin(), rankRules().end());
    MethodInfo svd;
    svd.id = "svd";
    svd.title = "Truncated SVD";
    svd.slot = Slot::Factors;
    svd.help = "Best approximation of the weights for each rank, without calibration data; singular values are shared by both factors.";
    svd.source = "methods.md 3.10";
    methods.push_back(std::move(svd));
    MethodInfo whitened;
    whitened.id = "whitened-svd";
    whitened.title = "Whitened SVD";
    whitened.slot = Slot::Factors;
    whitened.needs = {"factors"};
    whitened.help =
        "Smallest output error on the calibration tokens of each expert, for each rank. Experts with fewer tokens than twice the rank lean "
        "more "
        "on the weights; those without tokens use the inputs of the whole layer.";
    whitened.source = "methods.md 3.5, after SVD-LLM (arXiv 2403.07378)";
    methods.push_back(std::move(whitened));
    return methods;
}

Status checkOutput(const std::filesystem::path& path, bool force)
{
    std::error_code failure;
    if (force || !std::filesystem::exists(std::filesystem::symlink_status(path, failure))) return {};
    Error error = usageError(fmt::format("{} exists already.", path.string()), "Choose another name, or use --force.");
    error.code = "output.exists";
    error.subject = path.string();
    error.kept = "It was not changed.";
    return error;
}

}  // namespace espalier
