#include "server_models.h"

#include "base/file_stamp.h"
#include "checkpoint/values_file.h"
#include "pipeline/window_losses.h"
#include "session/profile_file.h"
#include "verb_inputs.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

constexpr std::size_t kModelsHeld = 2;
constexpr std::size_t kEvaluatorsHeld = 4;
constexpr std::size_t kPartsHeld = 4;
constexpr std::size_t kWarningsHeld = 64;

// An evaluator runs its model for as long as it lives.
struct BoundEvaluator {
    std::shared_ptr<MoeModel> model;
    Evaluator evaluator;
};

// A text, its windows and its files as they are.
std::string keyOf(const TextOptions& text)
{
    std::string key = fmt::format("{}|{}|{}|{}|{}|{}|{}|{}", text.windowLength, text.windows, text.firstWindow, text.spread, text.bos,
                                  text.ids, text.format, text.field);
    for (const auto& path : text.text)
        key += "|" + fileStamp(path);
    return key;
}

}  // namespace

OpenModels::List::iterator OpenModels::find(const std::string& path)
{
    return std::find_if(m_open.begin(), m_open.end(), [&](const auto& item) { return item.first == path; });
}

std::shared_ptr<OpenModel> OpenModels::touch(List::iterator it)
{
    std::rotate(it, it + 1, m_open.end());
    return m_open.back().second;
}

Result<std::shared_ptr<OpenModel>> OpenModels::reopen(const std::string& path)
{
    ESPALIER_TRY(auto checkpoint, Checkpoint::open(path));
    const auto it = find(path);
    if (it != m_open.end() && it->second->checkpoint->fingerprint() == checkpoint->fingerprint() &&
        it->second->checkpoint->checkUnchanged().ok())
        return touch(it);
    if (it != m_open.end()) m_open.erase(it);
    while (m_open.size() >= kModelsHeld)
        m_open.erase(m_open.begin());
    m_open.emplace_back(path, std::make_shared<OpenModel>());
    m_open.back().second->checkpoint = std::move(checkpoint);
    return m_open.back().second;
}

Result<std::shared_ptr<OpenModel>> OpenModels::open(const std::string& path)
{
    if (const auto it = find(path); it != m_open.end()) return touch(it);
    return reopen(path);
}

Result<std::shared_ptr<MoeModel>> OpenModels::model(OpenModel& open, std::int64_t memoryBudget)
{
    if (open.model && (memoryBudget == 0 || open.model->options().memoryBudget == memoryBudget)) return open.model;
    ESPALIER_TRY(ModelOptions options, modelOptions(m_options));
    options.compute = computeTypeFor(m_options.dtype, *open.checkpoint);
    if (memoryBudget > 0) options.memoryBudget = memoryBudget;
    open.evaluators.clear();
    ESPALIER_TRY(open.model, MoeModel::create(open.checkpoint, options));
    open.streams = makeStreamCache(evaluatorCacheBytes(*open.model));
    return open.model;
}

Result<std::shared_ptr<Evaluator>> OpenModels::evaluator(OpenModel& open, const TextOptions& text)
{
    const std::string key = keyOf(text);
    if (auto held = heldEvaluator(open, key)) return held;
    std::vector<std::string> warnings;
    ESPALIER_TRY(TokenWindows windows, openText(text, *open.checkpoint, warnings));
    if (open.textWarnings.size() >= kWarningsHeld) open.textWarnings.clear();
    open.textWarnings[key] = std::move(warnings);
    return addEvaluator(open, key, std::move(windows));
}

std::vector<std::string> OpenModels::textWarnings(const OpenModel& open, const TextOptions& text)
{
    const auto found = open.textWarnings.find(keyOf(text));
    return found == open.textWarnings.end() ? std::vector<std::string>() : found->second;
}

Result<std::shared_ptr<Evaluator>> OpenModels::evaluator(OpenModel& open, TokenWindows windows)
{
    const std::string key = fmt::format("windows|{}|{}", windows.windowLength, windows.textSha256);
    if (auto held = heldEvaluator(open, key)) return held;
    return addEvaluator(open, key, std::move(windows));
}

std::shared_ptr<Evaluator> OpenModels::heldEvaluator(OpenModel& open, const std::string& key)
{
    auto& held = open.evaluators;
    const auto it = std::find_if(held.begin(), held.end(), [&](const auto& item) { return item.first == key; });
    if (it == held.end()) return nullptr;
    std::rotate(it, it + 1, held.end());
    return held.back().second;
}

Result<std::shared_ptr<Evaluator>> OpenModels::addEvaluator(OpenModel& open, const std::string& key, TokenWindows windows)
{
    ESPALIER_TRY(std::shared_ptr<MoeModel> model, this->model(open));
    auto& held = open.evaluators;
    if (held.size() >= kEvaluatorsHeld) held.erase(held.begin());
    MoeModel& runs = *model;
    const auto bound =
        std::make_shared<BoundEvaluator>(BoundEvaluator{std::move(model), Evaluator(runs, std::move(windows), open.streams)});
    held.emplace_back(key, std::shared_ptr<Evaluator>(bound, &bound->evaluator));
    return held.back().second;
}

Result<std::shared_ptr<const Tokenizer>> OpenModels::tokenizer(OpenModel& open)
{
    if (!open.tokenizer) {
        ESPALIER_TRY(Tokenizer tokenizer, Tokenizer::load(open.checkpoint->folder(), open.checkpoint->shape().vocabularySize));
        open.tokenizer = std::make_shared<const Tokenizer>(std::move(tokenizer));
    }
    return open.tokenizer;
}

Result<FactorSources> OpenModels::factorSources(const std::vector<std::filesystem::path>& paths)
{
    FactorSources sources;
    for (const std::filesystem::path& path : paths) {
        if (path.empty()) continue;
        ESPALIER_TRY(const std::string sha256, profileSha256(path));
        const auto it = std::find_if(m_parts.begin(), m_parts.end(),
                                     [&](const auto& held) { return held->path() == path && held->profileSha256() == sha256; });
        if (it != m_parts.end()) {
            sources.push_back(*it);
            continue;
        }
        ESPALIER_TRY(auto parts, ProfileParts::open(path));
        if (m_parts.size() >= kPartsHeld) m_parts.erase(m_parts.begin());
        m_parts.push_back(parts);
        sources.push_back(std::move(parts));
    }
    return sources;
}

Result<FactorSources> OpenModels::factorSourcesOf(const CompressionPlan& plan, const std::vector<std::filesystem::path>& paths)
{
    bool reads = plan.needsFactors() && plan.factors().method == "whitened-svd";
    for (int layer = 0; layer < plan.layerCount() && !reads; ++layer)
        reads = plan.layer(layer).needsConstants();
    FactorSources sources;
    if (reads) {
        ESPALIER_TRY(sources, factorSources(paths));
    }
    const std::vector<ValuesId> ids = valuesOf(plan);
    for (const auto& held : m_values)
        if (std::binary_search(ids.begin(), ids.end(), held->stored()->id())) sources.push_back(held);
    ESPALIER_CHECK_OK(addValuesFiles(plan, {}, sources));
    m_values.clear();
    for (const ValuesId& id : ids)
        m_values.push_back(*std::find_if(sources.begin(), sources.end(),
                                         [&](const auto& source) { return source->stored() && source->stored()->id() == id; }));
    return sources;
}

std::shared_ptr<const ProfileData> OpenModels::heldProfile(const std::filesystem::path& path) const
{
    const std::string stamp = fileStamp(path);
    const std::scoped_lock lock(m_profileMutex);
    return m_profileStamp == stamp ? m_profile : nullptr;
}

Result<std::shared_ptr<const ProfileData>> OpenModels::profileData(const std::filesystem::path& path)
{
    if (auto held = heldProfile(path)) return held;
    ESPALIER_TRY(ProfileData data, readProfile(path));
    std::shared_ptr<const ProfileData> shared = std::make_shared<ProfileData>(std::move(data));
    remember(path, shared);
    return shared;
}

void OpenModels::remember(const std::filesystem::path& path, std::shared_ptr<const ProfileData> data)
{
    std::string stamp = fileStamp(path);
    const std::scoped_lock lock(m_profileMutex);
    m_profileStamp = std::move(stamp);
    m_profile = std::move(data);
}

}  // namespace espalier
