#include "tokenizer/sentencepiece.h"

#include "base/text.h"
#include "tokenizer/byte_level.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

namespace espalier
{

namespace
{

constexpr std::size_t kMaxPieces = 4'000'000;
constexpr std::size_t kMaxPieceBytes = 4096;

Error damagedModel(std::string_view what)
{
    return badInput("tokenizer.invalid", "tokenizer.model", {"tokenizer.model {what}.", {{"what", what}}},
                    "The file is damaged: fetch it again.");
}

Error unsupportedModel(std::string_view what)
{
    return unsupported("tokenizer.unsupported", "tokenizer.model", {"tokenizer.model {what}, which is not supported.", {{"what", what}}},
                       "Convert it to a tokenizer.json, or pass ids with --ids.");
}

// One field of a protobuf message: a number (varint, fixed) or bytes.
struct Field {
    std::uint64_t number = 0;
    std::uint64_t value = 0;
    std::string_view bytes;
};

class ProtoReader
{
public:
    explicit ProtoReader(std::string_view data) : m_data(data) {}
    bool damaged() const noexcept { return m_damaged; }

    std::optional<Field> next()
    {
        if (m_at >= m_data.size() || m_damaged) return std::nullopt;
        Field field;
        const std::uint64_t key = varint();
        field.number = key >> 3;
        switch (key & 7) {
            case 0:
                field.value = varint();
                break;
            case 1:
                field.value = fixed(8);
                break;
            case 2: {
                const std::uint64_t length = varint();
                if (m_damaged || length > m_data.size() - m_at) return fail();
                field.bytes = m_data.substr(m_at, length);
                m_at += length;
                break;
            }
            case 5:
                field.value = fixed(4);
                break;
            default:
                return fail();
        }
        return m_damaged ? std::nullopt : std::optional(field);
    }

private:
    std::optional<Field> fail()
    {
        m_damaged = true;
        return std::nullopt;
    }
    std::uint64_t varint()
    {
        std::uint64_t value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            if (m_at >= m_data.size()) break;
            const auto byte = static_cast<unsigned char>(m_data[m_at++]);
            value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
            if (byte < 0x80) return value;
        }
        m_damaged = true;
        return 0;
    }
    std::uint64_t fixed(std::size_t length)
    {
        std::uint64_t value = 0;
        if (length > m_data.size() - m_at) {
            m_damaged = true;
            return 0;
        }
        for (std::size_t i = 0; i < length; ++i)
            value |= static_cast<std::uint64_t>(static_cast<unsigned char>(m_data[m_at + i])) << (8 * i);
        m_at += length;
        return value;
    }

    std::string_view m_data;
    std::size_t m_at = 0;
    bool m_damaged = false;
};

enum PieceType : std::uint64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct SentencePiece {
    std::string text;
    float score = 0;
    std::uint64_t type = kNormal;
};

Result<SentencePiece> readPiece(std::string_view message, std::size_t index)
{
    SentencePiece piece;
    ProtoReader reader(message);
    while (const auto field = reader.next()) {
        if (field->number == 1) piece.text = field->bytes;
        if (field->number == 2) piece.score = std::bit_cast<float>(static_cast<std::uint32_t>(field->value));
        if (field->number == 3) piece.type = field->value;
    }
    if (reader.damaged() || piece.text.empty() || piece.text.size() > kMaxPieceBytes || invalidUtf8Offset(piece.text))
        return damagedModel(fmt::format("has a piece {} that cannot be read", index));
    return piece;
}

std::size_t characters(std::string_view text)
{
    return static_cast<std::size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

// Every way to cut a piece into two pieces, best score first; ties by the lengths of the halves, then as they stand.
Json mergesOf(const std::vector<SentencePiece>& pieces, const std::unordered_map<std::string_view, int>& ids)
{
    struct Merge {
        float score;
        std::size_t leftLength;
        std::size_t rightLength;
        std::string_view left;
        std::string_view right;
    };
    std::vector<Merge> merges;
    for (const SentencePiece& piece : pieces) {
        const std::string_view text = piece.text;
        std::vector<std::tuple<int, int, std::size_t>> cuts;
        for (std::size_t at = 1; at < text.size(); ++at) {
            if ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) continue;
            const auto left = ids.find(text.substr(0, at));
            const auto right = ids.find(text.substr(at));
            if (left != ids.end() && right != ids.end()) cuts.emplace_back(left->second, right->second, at);
        }
        std::sort(cuts.begin(), cuts.end());
        for (const auto& [left, right, at] : cuts) {
            const std::string_view first = text.substr(0, at);
            const std::string_view second = text.substr(at);
            merges.push_back({piece.score, characters(first), characters(second), first, second});
        }
    }
    std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
        return std::tie(a.score, a.leftLength, a.rightLength) > std::tie(b.score, b.leftLength, b.rightLength);
    });
    Json list = Json::array();
    for (const Merge& merge : merges)
        list.push_back(Json::array({merge.left, merge.right}));
    return list;
}

struct ModelFile {
    std::vector<SentencePiece> pieces;
    std::uint64_t modelType = 1;  // 1 = unigram, 2 = BPE
    std::string normalizer = "nmt_nfkc";
    std::size_t charsMapBytes = 0;
    bool dummyPrefix = true;
    bool removeExtraSpaces = true;
};

Result<ModelFile> readModel(std::string_view bytes)
{
    ModelFile model;
    ProtoReader reader(bytes);
    while (const auto field = reader.next()) {
        if (field->number == 1) {
            if (model.pieces.size() >= kMaxPieces) return damagedModel("has an absurdly large vocabulary");
            ESPALIER_TRY(SentencePiece piece, readPiece(field->bytes, model.pieces.size()));
            model.pieces.push_back(std::move(piece));
        } else if (field->number == 2 || field->number == 3) {
            const bool trainer = field->number == 2;
            ProtoReader spec(field->bytes);
            while (const auto entry = spec.next()) {
                if (trainer && entry->number == 3) model.modelType = entry->value;
                if (!trainer && entry->number == 1) model.normalizer = entry->bytes;
                if (!trainer && entry->number == 2) model.charsMapBytes = entry->bytes.size();
                if (!trainer && entry->number == 3) model.dummyPrefix = entry->value != 0;
                if (!trainer && entry->number == 4) model.removeExtraSpaces = entry->value != 0;
            }
            if (spec.damaged()) return damagedModel("is cut off");
        }
    }
    if (reader.damaged() || model.pieces.empty()) return damagedModel("is not a SentencePiece model, or is cut off");
    return model;
}

}  // namespace

Result<Json> tokenizerJsonFromSentencePiece(std::string_view bytes)
{
    ESPALIER_TRY(const ModelFile model, readModel(bytes));
    if (model.modelType != 2) return unsupportedModel(fmt::format("is of model type {} (2 is BPE)", model.modelType));
    if (model.normalizer != "identity" || model.charsMapBytes > 0)
        return unsupportedModel(fmt::format("normalises text by \"{}\"", utf8Prefix(lossyUtf8(model.normalizer), 60)));
    if (model.removeExtraSpaces) return unsupportedModel("removes extra spaces");

    std::unordered_map<std::string_view, int> ids;
    Json vocabulary = Json::object();
    Json added = Json::array();
    std::string unknown;
    std::optional<std::uint32_t> bos;
    std::size_t byteCount = 0;
    for (std::size_t i = 0; i < model.pieces.size(); ++i) {
        const SentencePiece& piece = model.pieces[i];
        const int id = static_cast<int>(i);
        if (!ids.emplace(piece.text, id).second) return damagedModel(fmt::format("has the piece \"{}\" twice", piece.text));
        vocabulary[piece.text] = id;
        byteCount += piece.type == kByte;
        if (piece.type == kUnknown) unknown = piece.text;
        if (piece.type == kControl && piece.text == "<s>") bos = static_cast<std::uint32_t>(id);
        if (piece.type == kUnknown || piece.type == kControl || piece.type == kUserDefined)
            added.push_back({{"id", static_cast<std::uint32_t>(id)},
                             {"content", piece.text},
                             {"single_word", false},
                             {"lstrip", false},
                             {"rstrip", false},
                             {"normalized", false},
                             {"special", piece.type != kUserDefined}});
    }

    const Json marker = "\xE2\x96\x81";
    Json normalizers = Json::array();
    if (model.dummyPrefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", marker}});
    normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", marker}});
    Json decoders = Json::array(
        {{{"type", "Replace"}, {"pattern", {{"String", marker}}}, {"content", " "}}, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
    if (model.dummyPrefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1u}, {"stop", 0u}});

    Json result = Json::object();
    result["added_tokens"] = std::move(added);
    result["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::move(normalizers)}};
    result["pre_tokenizer"] = nullptr;
    result["decoder"] = {{"type", "Sequence"}, {"decoders", std::move(decoders)}};
    if (bos)
        result["post_processor"] = {{"type", "TemplateProcessing"},
                                    {"single", Json::array({{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}})},
                                    {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", Json::array({*bos})}}}}}};
    Json& bpe = result["model"];
    bpe = {{"type", "BPE"}, {"fuse_unk", true}, {"byte_fallback", byteCount == 256}, {"merges", mergesOf(model.pieces, ids)}};
    bpe["vocab"] = std::move(vocabulary);
    if (!unknown.empty()) bpe["unk_token"] = unknown;
    return result;
}

}  // namespace espalier
