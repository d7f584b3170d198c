#include "generate/end_tokens.h"

#include "base/json.h"

#include <limits>

namespace espalier
{

Result<std::vector<int>> endTokens(const std::filesystem::path& folder, std::optional<int> tokenizer)
{
    for (const char* name : {"generation_config.json", "config.json"}) {
        const std::filesystem::path file = folder / name;
        const auto damaged = [&] {
            return badInput("generate.end_token", file.string(),
                            {"\"eos_token_id\" of {file} is neither an id nor a list of ids.", {{"file", file.string()}}},
                            "Repair the file, or take the entry out of it.");
        };
        std::error_code ignored;
        if (!std::filesystem::exists(file, ignored)) continue;
        ESPALIER_TRY(const Json json, readJsonFile(file, "generate"));
        if (!json.is_object()) return damaged();
        const auto found = json.find("eos_token_id");
        if (found == json.end() || found->is_null()) continue;
        std::vector<int> ids;
        for (const Json& id : found->is_array() ? *found : Json::array({*found})) {
            if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() > std::numeric_limits<int>::max())
                return damaged();
            ids.push_back(id.get<int>());
        }
        return ids;
    }
    return tokenizer ? std::vector<int>{*tokenizer} : std::vector<int>();
}

}  // namespace espalier
