#include "export/export_files.h"

#include "base/mapped_file.h"
#include "base/sha256.h"

#include <algorithm>
#include <array>

namespace espalier
{

bool isCompanionFile(std::string_view name)
{
    constexpr std::array<std::string_view, 7> kStarts = {"tokenizer", "chat_template", "LICENSE", "LICENCE",
                                                         "NOTICE",    "USE_POLICY",    "COPYING"};
    constexpr std::array<std::string_view, 5> kNames = {"special_tokens_map.json", "generation_config.json", "added_tokens.json",
                                                        "vocab.json", "merges.txt"};
    // Code found in a model folder is never passed on, and neither are weights under another name.
    for (const std::string_view end : {".py", ".safetensors", ".bin", ".pt", ".pth", ".gguf"})
        if (name.ends_with(end)) return false;
    return std::any_of(kStarts.begin(), kStarts.end(), [&](std::string_view start) { return name.starts_with(start); }) ||
           std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

Result<std::string> fileSha256(const std::filesystem::path& path)
{
    ESPALIER_TRY(const MappedFile file, MappedFile::open(path, "export"));
    constexpr std::size_t kPiece = 16u << 20;
    Sha256 hash;
    const auto bytes = file.bytes();
    for (std::size_t offset = 0; offset < bytes.size(); offset += kPiece) {
        const std::size_t length = std::min(kPiece, bytes.size() - offset);
        hash.update(bytes.subspan(offset, length));
        file.dontNeed(offset, length);
    }
    return hash.finish();
}

std::string sealedJson(Json object)
{
    object.erase("seal");
    object["seal"] = sha256Hex(canonicalJson(object));
    return object.dump(1) + "\n";
}

bool sealHolds(std::string_view text)
{
    const auto parsed = parseJson(text, kPlanFileName, "plan");
    return parsed.ok() && parsed->is_object() && sealedJson(*parsed) == text;
}

}  // namespace espalier
