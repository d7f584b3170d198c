#include "export/runtime_check.h"

#include "base/text.h"
#include "checkpoint/departures.h"
#include "checkpoint/tensor_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

constexpr std::size_t kMaxSettings = 16u << 20;

bool flag(const Json& config, const char* key)
{
    const auto it = config.find(key);
    return it != config.end() && it->is_boolean() && it->get<bool>();
}

std::int64_t number(const Json& config, const char* key)
{
    const auto it = config.find(key);
    return it != config.end() && it->is_number_integer() ? it->get<std::int64_t>() : 0;
}

struct Judge {
    const fs::path& folder;
    const Json& config;
    const TensorFiles& files;
    std::vector<std::string> objections = {};

    template <typename... Values>
    void object(fmt::format_string<Values...> text, Values&&... values)
    {
        objections.push_back(fmt::format(text, std::forward<Values>(values)...));
    }

    void embeddings();
    void promises();
    void storedType();
    void code();
};

// Untied and no head: a loader fills it with random numbers. Tied and two different matrices: some tie them, some do not.
void Judge::embeddings()
{
    const bool tied = flag(config, "tie_word_embeddings");
    const TensorInfo* head = files.find("lm_head.weight");
    const TensorInfo* embedding = files.find("model.embed_tokens.weight");
    if (embedding == nullptr) object("model.embed_tokens.weight is not in the files");
    if (!tied && head == nullptr) object("config.json says that embeddings are not tied, but lm_head.weight is not in the files");
    if (!tied || head == nullptr || embedding == nullptr) return;
    const auto a = files.bytes("lm_head.weight"), b = files.bytes("model.embed_tokens.weight");
    if (head->dtype != embedding->dtype || a.size() != b.size() || std::memcmp(a.data(), b.data(), a.size()) != 0)
        object("config.json says that embeddings are tied, but lm_head.weight differs from the embedding");
}

void Judge::promises()
{
    for (const char* key : {"quantization_config", "compression_config", "quantization"})
        if (config.contains(key) && !config[key].is_null()) object("config.json has a {}, but the weights are not quantised", key);
    const std::int64_t layers = number(config, "num_hidden_layers");
    const std::string behind = fmt::format("model.layers.{}.", layers);
    const bool there =
        std::any_of(files.places.begin(), files.places.end(), [&](const auto& entry) { return entry.first.starts_with(behind); });
    for (const char* key : {"num_nextn_predict_layers", "num_mtp_layers", "num_mtp_modules", "mtp_num_hidden_layers"})
        if (number(config, key) > 0 && !there)
            object("config.json promises {} {}, but there is no layer {} in the files", key, number(config, key), layers);
    for (std::int64_t i = 0; i < layers && i < 4096; ++i)
        if (!files.places.contains(fmt::format("model.layers.{}.input_layernorm.weight", i)))
            object("config.json promises {} layers, but layer {} is not in the files", layers, i);
}

void Judge::storedType()
{
    std::map<std::string_view, std::uint64_t> bytes;
    for (const SafetensorsFile& file : files.files)
        for (const TensorInfo& info : file.tensors())
            bytes[dtypeName(info.dtype)] += info.byteCount();
    const auto most = std::max_element(bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    if (most == bytes.end()) return;
    for (const char* key : {"torch_dtype", "dtype"}) {
        const std::string type = config.contains(key) && config[key].is_string() ? config[key].get<std::string>() : std::string();
        if ((type == "bfloat16" && most->first != "BF16") || (type == "float16" && most->first != "F16"))
            object("config.json says {} {}, which loses digits or range of weights that are stored as {}", key, type, most->first);
    }
}

// No JSON file of the folder names Python files that the folder lacks.
void Judge::code()
{
    std::error_code failure;
    std::vector<std::string> names;
    for (fs::directory_iterator it(folder, failure), end; !failure && it != end; it.increment(failure))
        if (it->path().extension() == ".json" && fs::file_size(it->path(), failure) <= kMaxSettings)
            names.push_back(it->path().filename().string());
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) {
        const auto text = readTextFile(folder / name, "export", kMaxSettings);
        if (!text) continue;
        for (const std::string& file : pythonFilesNamedBy(Json::parse(*text, nullptr, false)))
            if (std::error_code ignored; !fs::is_regular_file(folder / file, ignored))
                object("{} names {}, which is not there", name, file);
    }
}

}  // namespace

Result<std::vector<std::string>> runtimeObjections(const fs::path& folder)
{
    ESPALIER_TRY(const ConfigFile config, readConfigFile(folder));
    ESPALIER_TRY(const TensorFiles files, openTensorFiles(folder));
    if (!config.value.is_object()) return badInput("config.wrong_type", "config.json", "config.json is not a JSON object.");
    Judge judge{folder, config.value, files};
    judge.embeddings();
    judge.promises();
    judge.storedType();
    judge.code();
    return std::move(judge.objections);
}

}  // namespace espalier
