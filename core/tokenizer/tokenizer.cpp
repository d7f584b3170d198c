#include "tokenizer/tokenizer.h"

#include "base/json.h"
#include "base/sha256.h"
#include "base/text.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/components.h"
#include "tokenizer/sentencepiece.h"
#include "tokenizer/tokenizer_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

namespace espalier
{

namespace
{

constexpr JsonLimits kFileLimits{.maxBytes = 256u << 20, .maxDepth = 32};

// What TemplateProcessing puts before and after a single text.
struct Template {
    std::vector<int> before;
    std::vector<int> after;
    bool adds() const { return !before.empty() || !after.empty(); }
};

Result<Template> parsePostProcessor(const Json& value)
{
    constexpr std::string_view kSlot = "post_processor";
    Template result;
    if (value.is_null()) return result;
    ESPALIER_TRY(const std::string type, componentType(value, kSlot));
    if (type == "ByteLevel") return result;
    if (type == "Sequence") {
        if (!value.contains("processors") || !value["processors"].is_array())
            return damagedComponent(kSlot, "is a sequence without \"processors\"");
        for (const Json& item : value["processors"]) {
            ESPALIER_TRY(Template step, parsePostProcessor(item));
            // What the first one adds stands apart from the text, so that the reference takes it and the text for a pair.
            if (result.adds() && item.value("type", Json()) == "TemplateProcessing")
                return unsupportedComponent(kSlot, "Sequence with a template behind one that adds tokens");
            if (step.adds()) result = std::move(step);
        }
        return result;
    }
    if (type != "TemplateProcessing") return unsupportedComponent(kSlot, type);
    const Json single = value.value("single", Json());
    const Json specials = value.value("special_tokens", Json::object());
    if (!single.is_array() || !specials.is_object()) return damagedComponent(kSlot, "is a template without \"single\"");
    bool sequenceSeen = false;
    for (const Json& item : single) {
        if (item.is_object() && item.contains("Sequence")) {
            const Json& sequence = item["Sequence"];
            if (sequenceSeen || !sequence.is_object() || sequence.value("id", Json()) != "A")
                return unsupportedComponent(kSlot, "TemplateProcessing that does not hold the text once");
            sequenceSeen = true;
            continue;
        }
        const Json special = item.is_object() ? item.value("SpecialToken", Json()) : Json();
        const Json name = special.is_object() ? special.value("id", Json()) : Json();
        const Json entry = name.is_string() ? specials.value(name.get<std::string>(), Json()) : Json();
        const Json ids = entry.is_object() ? entry.value("ids", Json()) : Json();
        if (!ids.is_array()) return damagedComponent(kSlot, "is a template that names an unknown special token");
        for (const Json& id : ids) {
            if (!id.is_number_unsigned() || id.get<std::uint64_t>() > INT32_MAX)
                return damagedComponent(kSlot, "is a template with an id that is not a number");
            (sequenceSeen ? result.after : result.before).push_back(id.get<int>());
        }
    }
    if (!sequenceSeen) return unsupportedComponent(kSlot, "TemplateProcessing that does not hold the text once");
    return result;
}

// The file that is read: tokenizer.json, or else tokenizer.model of the folder, or what is named.
Result<std::filesystem::path> tokenizerFile(const std::filesystem::path& folderOrFile)
{
    std::error_code failure;
    const bool isFolder = std::filesystem::is_directory(folderOrFile, failure);
    std::filesystem::path path = isFolder ? folderOrFile / "tokenizer.json" : folderOrFile;
    if (isFolder && !std::filesystem::exists(path, failure) && std::filesystem::exists(folderOrFile / "tokenizer.model", failure))
        path = folderOrFile / "tokenizer.model";
    if (!std::filesystem::exists(path, failure))
        return badInput("tokenizer.missing", "tokenizer.json",
                        isFolder ? fmt::format("There is no tokenizer.json in {}.", folderOrFile.string())
                                 : fmt::format("{} does not exist, so there is no tokenizer.json to read.", path.string()),
                        "Put the model's tokenizer.json there, or pass token ids with --ids.");
    return path;
}

const Json& partOf(const Json& json, const char* key)
{
    static const Json none;
    const auto it = json.find(key);
    return it == json.end() ? none : *it;
}

Status checkForm(const Json& json)
{
    if (!json.is_object() || !partOf(json, "model").is_object()) return damagedComponent("model", "is missing");
    if (const Json& version = partOf(json, "version"); !version.is_null() && version != "1.0")
        return unsupported(
            "tokenizer.unsupported", "tokenizer.json",
            {"tokenizer.json is of version {version}; only version 1.0 is read.", {{"version", version.dump().substr(0, 40)}}});
    if (const Json type = partOf(json, "model").value("type", Json("BPE")); type != "BPE")
        return unsupportedComponent("model", type.is_string() ? type.get<std::string>() : type.dump());
    return {};
}

}  // namespace

struct Tokenizer::Data {
    Bpe bpe;
    AddedTokens added;
    std::unique_ptr<const Normalizer> normalizer;
    std::unique_ptr<const PreTokenizer> preTokenizer;
    std::unique_ptr<const Decoder> decoder;
    Template post;
    std::unordered_map<int, std::string> tokenOfId;
    std::unordered_set<int> specialIds;
    std::optional<int> bos;
    bool addsBos = false;
    std::string sha256;
    int vocabularySize = 0;
    std::int64_t embeddingRows = INT64_MAX;
    std::vector<std::string> warnings;
    std::optional<int> eos;

    Result<std::optional<int>> nameTokens(const TokenizerConfig& config);
    void chooseBos(const TokenizerConfig& config, std::optional<int> named);
};

Tokenizer::Tokenizer(std::unique_ptr<const Data> data) : m_data(std::move(data)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

// The texts of the ids, and the token that ends a text; returns the one that begins it by tokenizer_config.json. An added token may lie
// beyond the embedding: a text need not have it.
Result<std::optional<int>> Tokenizer::Data::nameTokens(const TokenizerConfig& config)
{
    std::unordered_set<int> addedIds;
    for (const AddedToken& token : added.all())
        addedIds.insert(token.id);
    int highest = -1;
    int highestOfModel = -1;  // that a text without added tokens may need
    for (const auto& [token, id] : bpe.vocabulary()) {
        tokenOfId.emplace(id, token);
        highest = std::max(highest, id);
        if (!addedIds.contains(id)) highestOfModel = std::max(highestOfModel, id);
    }
    std::vector<std::string> beyond;
    std::optional<int> named;
    for (const AddedToken& token : added.all()) {
        // The reference decodes a normalised added token to what it matches, not to what the file says.
        std::string shown = token.content;
        if (token.normalized) {
            ESPALIER_TRY(shown, normalizer->apply(std::move(shown)));
        }
        tokenOfId.insert_or_assign(token.id, std::move(shown));
        if (token.special) specialIds.insert(token.id);
        highest = std::max(highest, token.id);
        if (token.id >= embeddingRows) beyond.push_back(fmt::format("\"{}\" ({})", token.content, token.id));
        if (config.bos == token.content) named = token.id;
        if (config.eos == token.content) eos = token.id;
    }
    if (config.bos && !named) named = bpe.idOf(*config.bos);
    if (config.eos && !eos) eos = bpe.idOf(*config.eos);
    vocabularySize = highest + 1;
    if (highestOfModel >= embeddingRows)
        return badInput("tokenizer.id_out_of_range", "tokenizer.json",
                        {"tokenizer.json has ids up to {highest}, but the model's embedding has {embedding_rows} rows.",
                         {{"highest", highest}, {"embedding_rows", embeddingRows}}},
                        "The tokenizer belongs to another model: use the one that came with these weights.");
    if (!beyond.empty())
        warnings.push_back(fmt::format(
            "The embedding has {} rows and none for the added tokens {}{}: a text with one of them is refused.", embeddingRows,
            fmt::join(beyond.begin(), beyond.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(beyond.size(), 4)), ", "),
            beyond.size() > 4 ? fmt::format(" and {} more", beyond.size() - 4) : std::string()));
    return named;
}

void Tokenizer::Data::chooseBos(const TokenizerConfig& config, std::optional<int> named)
{
    const bool inTemplate = !post.before.empty();
    bos = inTemplate ? post.before.front() : named;
    addsBos = bos && config.addBos.value_or(inTemplate);
    if (bos && addsBos != inTemplate)
        warnings.push_back(fmt::format(
            "tokenizer_config.json says add_bos_token {}, and the template of tokenizer.json {} one: the former is followed, as "
            "transformers 4 does; transformers 5 follows the latter (--bos {}).",
            addsBos, inTemplate ? "adds" : "does not add", inTemplate ? "yes" : "no"));
    if (inTemplate && named && *named != *bos)
        warnings.push_back(fmt::format(
            "The template of tokenizer.json begins with \"{}\", bos_token of tokenizer_config.json is \"{}\": texts begin with the former.",
            tokenOfId.contains(*bos) ? tokenOfId[*bos] : std::to_string(*bos), *config.bos));
    if (post.before.size() > 1)
        warnings.push_back(fmt::format("The template of tokenizer.json puts {} tokens in front of a text; only the first is put there.",
                                       post.before.size()));
}

Result<Tokenizer> Tokenizer::load(const std::filesystem::path& folderOrFile, std::optional<std::int64_t> embeddingRows)
{
    ESPALIER_TRY(const std::filesystem::path path, tokenizerFile(folderOrFile));
    ESPALIER_TRY(const std::string text, readTextFile(path, "tokenizer", kFileLimits.maxBytes));
    ESPALIER_TRY(const Json json, path.extension() == ".model" ? tokenizerJsonFromSentencePiece(text)
                                                               : parseJson(text, "tokenizer.json", "tokenizer", kFileLimits));
    ESPALIER_CHECK_OK(checkForm(json));

    ESPALIER_TRY(Bpe bpe, Bpe::fromJson(partOf(json, "model")));
    ESPALIER_TRY(auto normalizer, parseNormalizer(partOf(json, "normalizer")));
    ESPALIER_TRY(auto preTokenizer, parsePreTokenizer(partOf(json, "pre_tokenizer")));
    ESPALIER_TRY(auto decoder, parseDecoder(partOf(json, "decoder")));
    ESPALIER_TRY(Template post, parsePostProcessor(partOf(json, "post_processor")));
    std::vector<std::string> warnings;
    ESPALIER_TRY(const TokenizerConfig config, readTokenizerConfig(path.parent_path(), partOf(json, "added_tokens")));
    ESPALIER_TRY(AddedTokens added,
                 AddedTokens::fromJson(partOf(json, "added_tokens"), config.tokens, bpe, *normalizer, config.splitsSpecial, warnings));
    for (const char* key : {"truncation", "padding"})
        if (partOf(json, key).is_object())
            warnings.push_back(fmt::format("tokenizer.json asks for {}, which is for batches: texts are taken as long as they are.", key));

    auto data = std::make_unique<Data>(Data{std::move(bpe),
                                            std::move(added),
                                            std::move(normalizer),
                                            std::move(preTokenizer),
                                            std::move(decoder),
                                            std::move(post),
                                            {},
                                            {},
                                            {},
                                            false,
                                            sha256Hex(text),
                                            0,
                                            embeddingRows.value_or(INT64_MAX),
                                            std::move(warnings),
                                            {}});
    ESPALIER_TRY(const std::optional<int> named, data->nameTokens(config));
    data->chooseBos(config, named);
    return Tokenizer(std::move(data));
}

Result<std::vector<int>> Tokenizer::encode(std::string_view text, bool addSpecial) const
{
    if (const auto offset = invalidUtf8Offset(text))
        return badInput("text.invalid_utf8", fmt::format("byte {}", *offset),
                        {"The text is not valid UTF-8: byte {offset} does not belong there.", {{"offset", *offset}}},
                        "Convert the file to UTF-8.");
    std::vector<int> ids;
    if (addSpecial) ids = m_data->post.before;
    for (const Segment& raw : m_data->added.split(text, false)) {
        if (raw.tokenId >= 0) {
            ids.push_back(raw.tokenId);
            continue;
        }
        Piece stretch = Piece::whole(std::string(raw.text));
        if (raw.text.data() != text.data()) stretch.head = 0;
        ESPALIER_TRY(const Piece normalized, m_data->normalizer->normalize(std::move(stretch)));
        for (const Segment& segment : m_data->added.split(normalized.text, true)) {
            if (segment.tokenId >= 0) {
                ids.push_back(segment.tokenId);
                continue;
            }
            if (segment.text.empty()) continue;
            const auto begin = static_cast<std::size_t>(segment.text.data() - normalized.text.data());
            std::vector<Piece> pieces = {normalized.part(begin, begin + segment.text.size())};
            ESPALIER_CHECK_OK(m_data->preTokenizer->apply(pieces));
            for (const Piece& piece : pieces)
                m_data->bpe.encode(piece.text, ids);
        }
    }
    if (addSpecial) ids.insert(ids.end(), m_data->post.after.begin(), m_data->post.after.end());
    if (m_data->vocabularySize > m_data->embeddingRows)
        for (const int id : ids)
            ESPALIER_CHECK_OK(checkId(id));
    return ids;
}

Status Tokenizer::checkId(int id) const
{
    if (id < m_data->embeddingRows) return {};
    const auto token = m_data->tokenOfId.find(id);
    return badInput(
        "tokenizer.id_out_of_range", "tokenizer.json",
        {"The text has the token \"{token}\", whose id {id} is beyond the {data} rows of the model's embedding.",
         {{"token", token == m_data->tokenOfId.end() ? std::string("?") : token->second}, {"id", id}, {"data", m_data->embeddingRows}}},
        "Take the token out of the text: the model has no vector for it.");
}

bool Tokenizer::has(int id) const { return m_data->tokenOfId.contains(id); }
const std::vector<std::string>& Tokenizer::warnings() const { return m_data->warnings; }

std::string Tokenizer::decode(std::span<const int> ids, bool skipSpecial) const
{
    std::vector<std::string> tokens;
    for (const int id : ids) {
        const auto it = m_data->tokenOfId.find(id);
        if (it == m_data->tokenOfId.end() || (skipSpecial && m_data->specialIds.contains(id))) continue;
        tokens.push_back(it->second);
    }
    std::string text;
    for (const std::string& part : m_data->decoder->apply(std::move(tokens)))
        text += part;
    return text;
}

std::optional<int> Tokenizer::bosId() const { return m_data->bos; }
std::optional<int> Tokenizer::eosId() const { return m_data->eos; }
bool Tokenizer::addsBos() const { return m_data->addsBos; }
const std::string& Tokenizer::sha256() const { return m_data->sha256; }
int Tokenizer::vocabularySize() const { return m_data->vocabularySize; }

}  // namespace espalier
