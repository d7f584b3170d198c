#include "export/export_files.h"

#include "base/mapped_file.h"
#include "base/sha256.h"

#include <algorithm>
#include <array>

namespace espalier
{

bool maybeCompanionFile(std::string_view name)
{
    // Code found in a model folder is never passed on, and neither are weights under another name. The config, the README and the files of
    // an export are written anew.
    constexpr std::array<std::string_view, 12> kEnds = {
        ".py", ".pyc", ".so", ".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"};
    constexpr std::array<std::string_view, 3> kNames = {"config.json", "README.md", kPlanFileName};
    return std::none_of(kEnds.begin(), kEnds.end(), [&](std::string_view end) { return name.ends_with(end); }) &&
           std::find(kNames.begin(), kNames.end(), name) == kNames.end() && !name.starts_with("espalier_");
}

bool isCompanionFile(std::string_view name)
{
    constexpr std::array<std::string_view, 12> kStarts = {"tokenizer",    "chat_template",    "vocab",   "merges", "special_tokens_map",
                                                          "added_tokens", "LICENSE",          "LICENCE", "NOTICE", "USE_POLICY",
                                                          "COPYING",      "generation_config"};
    constexpr std::array<std::string_view, 8> kNames = {"preprocessor_config.json",
                                                        "processor_config.json",
                                                        "video_preprocessor_config.json",
                                                        "image_processor_config.json",
                                                        "normalizer.json",
                                                        "tekken.json",
                                                        "bpe.codes",
                                                        "encoder.json"};
    // SentencePiece (tokenizer.model, spiece.model, ...) and tiktoken (tiktoken.model, qwen.tiktoken) under any name.
    constexpr std::array<std::string_view, 5> kEnds = {".model", ".tiktoken", ".spm", ".bpe", ".jinja"};
    if (!maybeCompanionFile(name)) return false;
    return std::any_of(kStarts.begin(), kStarts.end(), [&](std::string_view start) { return name.starts_with(start); }) ||
           std::any_of(kEnds.begin(), kEnds.end(), [&](std::string_view end) { return name.ends_with(end); }) ||
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
