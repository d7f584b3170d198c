#include "base/json.h"
#include "base/text.h"
#include "tokenizer/regex.h"
#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <thread>

using namespace espalier;
namespace fs = std::filesystem;

namespace
{

std::vector<int> idsOf(const Json& value) { return value.get<std::vector<int>>(); }

// Every line of cases.jsonl against the reference tokenizer's ids and texts.
void runCases(const fs::path& folder)
{
    const auto tokenizer = Tokenizer::load(folder);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    std::ifstream cases(folder / "cases.jsonl");
    ASSERT_TRUE(cases) << folder;
    std::string line;
    int number = 0;
    int failures = 0;
    while (std::getline(cases, line) && failures < 5) {
        ++number;
        const Json item = Json::parse(line);
        const std::vector<int> expected = idsOf(item.at("ids"));
        const bool before = testing::Test::HasNonfatalFailure();
        if (item.contains("text")) {
            const std::string text = item["text"];
            const auto ids = tokenizer->encode(text, false);
            ASSERT_TRUE(ids.ok()) << ids.error().message;
            EXPECT_EQ(*ids, expected) << "line " << number << ": " << text.substr(0, 200);
            const auto special = tokenizer->encode(text, true);
            ASSERT_TRUE(special.ok());
            EXPECT_EQ(*special, idsOf(item.value("ids_with_special", item["ids"]))) << "line " << number;
        }
        if (item.contains("decoded")) {
            EXPECT_EQ(tokenizer->decode(expected), item["decoded"].get<std::string>()) << "line " << number;
            EXPECT_EQ(tokenizer->decode(expected, true), item.value("decoded_skip_special", item["decoded"]).get<std::string>())
                << "line " << number;
        }
        if (!before && testing::Test::HasNonfatalFailure()) ++failures;
    }
    EXPECT_GT(number, 20) << "the cases file is empty or cut off";
}

class Style : public testing::TestWithParam<const char*>
{
};
class RealFile : public testing::TestWithParam<const char*>
{
};
class LargeFile : public testing::TestWithParam<const char*>
{
};

}  // namespace

TEST_P(Style, GivesTheReferencesIdsAndTexts) { runCases(fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers" / GetParam()); }

INSTANTIATE_TEST_SUITE_P(Tokenizer, Style,
                         testing::Values("gpt2-style", "olmo-style", "qwen2-style", "llama3-style", "deepseekv2-style", "deepseekv3-style",
                                         "mixtral-style", "mixtral-metaspace", "metaspace-split", "options"));

TEST_P(RealFile, GivesTheReferencesIdsAndTexts) { runCases(fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers" / GetParam()); }

INSTANTIATE_TEST_SUITE_P(Tokenizer, RealFile, testing::Values("mistral-v1-real"));

// Too large for the repository: in a test of its own, which is not among the fast ones.
TEST_P(LargeFile, GivesTheReferencesIdsAndTexts)
{
    const fs::path folder = fs::path(ESPALIER_SHARED_FIXTURES) / "tokenizers" / GetParam();
    if (!fs::exists(folder / "tokenizer.json"))
        GTEST_SKIP() << "SKIPPED: the large tokenizer fixtures are not beside this checkout: " << folder;
    runCases(folder);
}

INSTANTIATE_TEST_SUITE_P(Tokenizer, LargeFile, testing::Values("qwen2-real", "deepseek-v4-real"));

// tokenizer.model alone gives the same ids as the tokenizer.json converted from it.
TEST(Tokenizer, ASentencePieceModelStandsInForTheJson)
{
    const fs::path source = fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers" / "mistral-v1-real";
    std::string pattern = (fs::temp_directory_path() / "espalier-XXXXXX").string();
    const fs::path folder = ::mkdtemp(pattern.data());
    for (const char* name : {"tokenizer.model", "cases.jsonl"})
        fs::copy_file(source / name, folder / name);
    runCases(folder);
    const auto tokenizer = Tokenizer::load(folder);
    EXPECT_TRUE(tokenizer->addsBos());
    EXPECT_EQ(tokenizer->bosId(), 1);
    EXPECT_EQ(tokenizer->vocabularySize(), 32000);

    // Cut anywhere, the file is refused or still consistent, and never read past its end.
    const std::string whole = *readTextFile(source / "tokenizer.model", "x", 1u << 30);
    for (const std::size_t length :
         {std::size_t(0), std::size_t(1), std::size_t(7), std::size_t(1000), whole.size() / 2, whole.size() - 3}) {
        std::ofstream(folder / "tokenizer.model", std::ios::binary | std::ios::trunc) << whole.substr(0, length);
        const auto cut = Tokenizer::load(folder);
        EXPECT_FALSE(cut.ok()) << length << " bytes";
    }
    fs::remove_all(folder);
}

TEST(Tokenizer, DocumentsCutIntoWordsGiveTheIdsOfOneWord)
{
    // mixtral-style has no pre-tokenizer: long texts are encoded word by word, short ones whole. Ids must not depend on which.
    const auto tokenizer = Tokenizer::load(fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers" / "mixtral-style");
    ASSERT_TRUE(tokenizer.ok());
    std::ifstream cases(fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers" / "mixtral-style" / "cases.jsonl");
    std::string line;
    std::string text;
    std::vector<int> expected;
    // Each piece begins where a run of ordinary characters ends and a space begins: the seams of the joined text.
    while (std::getline(cases, line)) {
        const Json item = Json::parse(line);
        if (!item.contains("text")) continue;
        const std::string piece = item["text"];
        if (piece.empty() || piece.size() > 200 || piece.front() == ' ' || piece.back() == ' ' || piece.find('<') != std::string::npos ||
            piece.find("\xE2\x96\x81") != std::string::npos)
            continue;
        text += (text.empty() ? "" : " ") + piece;
        const auto ids = *tokenizer->encode(piece, false);
        expected.insert(expected.end(), ids.begin(), ids.end());
    }
    ASSERT_GT(text.size(), 2000u);
    EXPECT_EQ(*tokenizer->encode(text, false), expected);
}

TEST(Tokenizer, ThreadsShareOneTokenizer)
{
    const auto tokenizer = Tokenizer::load(fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers" / "deepseekv3-style");
    ASSERT_TRUE(tokenizer.ok());
    const std::string text = readTextFile(fs::path(ESPALIER_RESOURCES) / "demo" / "validation.txt", "text", 1u << 30)->substr(0, 20000);
    const auto expected = *tokenizer->encode(text, false);
    std::vector<std::vector<int>> results(4);
    std::vector<std::thread> threads;
    for (auto& result : results)
        threads.emplace_back([&] { result = *tokenizer->encode(text, false); });
    for (auto& thread : threads)
        thread.join();
    for (const auto& result : results)
        EXPECT_EQ(result, expected);
}

TEST(Tokenizer, DemoTextRoundTrips)
{
    const fs::path demo = fs::path(ESPALIER_RESOURCES) / "demo";
    const auto tokenizer = Tokenizer::load(demo / "espalier-demo-moe", 4096);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    EXPECT_FALSE(tokenizer->addsBos()) << "tokenizer_config.json says add_bos_token false";
    EXPECT_EQ(tokenizer->bosId(), 0);
    const std::string text = *readTextFile(demo / "validation.txt", "text", 1u << 30);
    const auto ids = tokenizer->encode(text, false);
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(tokenizer->decode(*ids), text);
}

TEST(Tokenizer, InvalidUtf8IsRefusedWithItsOffset)
{
    const auto tokenizer = Tokenizer::load(fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers" / "gpt2-style");
    const auto ids = tokenizer->encode("abc\xFFxyz", false);
    ASSERT_FALSE(ids.ok());
    EXPECT_EQ(ids.error().code, "text.invalid_utf8");
    EXPECT_NE(ids.error().message.find("byte 3"), std::string::npos);
}

TEST(Tokenizer, AWholeDocumentAsOneWordStaysFast)
{
    // Without a pre-tokenizer the document is one word: a quadratic merge would take minutes for this.
    const auto tokenizer = Tokenizer::load(fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers" / "mixtral-style");
    std::string text;
    while (text.size() < 300000)
        text += "the quick brown fox jumps over the lazy dog ";
    const auto ids = tokenizer->encode(text, false);
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(tokenizer->decode(*ids), text);
}

TEST(TokenizerRegex, SpaceMeansWhatTheReferenceMeans)
{
    // U+180E is white space to PCRE2's \s under UCP and is not to the reference.
    const auto regex = TokenizerRegex::compile("\\s+");
    const auto spans = *regex->find("a\xE1\xA0\x8E b");
    ASSERT_EQ(spans.size(), 3u);
    EXPECT_EQ(spans[1].begin, 4u);
    EXPECT_TRUE(spans[1].match);
    const auto inClass = *TokenizerRegex::compile("[^\\s]+")->find("a\xE1\xA0\x8E");
    EXPECT_EQ(inClass.size(), 1u);
    const auto notSpace = *TokenizerRegex::compile("[\\S]+")->find("a\xE1\xA0\x8E\xE2\x80\x83z");
    EXPECT_EQ(notSpace.size(), 3u);
}

TEST(TokenizerRegex, AHostilePatternEndsInAnError)
{
    const auto regex = TokenizerRegex::compile("(a+)+$b");
    ASSERT_TRUE(regex.ok());
    const auto spans = regex->find(std::string(200, 'a') + "c");
    // Either it finds out quickly or it is stopped: what must not happen is that it never comes back.
    if (!spans.ok()) {
        EXPECT_EQ(spans.error().code, "tokenizer.regex_limit");
    }
}

class Damaged : public testing::Test
{
protected:
    void SetUp() override
    {
        std::string pattern = (fs::temp_directory_path() / "espalier-XXXXXX").string();
        folder = ::mkdtemp(pattern.data());
        base = Json::parse(*readTextFile(fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers" / "gpt2-style" / "tokenizer.json", "x", 1u << 30));
    }
    void TearDown() override { fs::remove_all(folder); }
    Error errorOf(const std::string& text, std::optional<std::int64_t> rows = {})
    {
        std::ofstream(folder / "tokenizer.json") << text;
        const auto tokenizer = Tokenizer::load(folder, rows);
        EXPECT_FALSE(tokenizer.ok());
        return tokenizer.ok() ? Error() : tokenizer.error();
    }
    fs::path folder;
    Json base;
};

TEST_F(Damaged, EachDamageIsNamed)
{
    EXPECT_EQ(Tokenizer::load(folder).error().code, "tokenizer.missing");
    EXPECT_EQ(errorOf(base.dump().substr(0, 2000)).code, "tokenizer.invalid_json");
    EXPECT_EQ(errorOf("[]").code, "tokenizer.invalid");

    Json unknown = base;
    unknown["normalizer"] = {{"type", "BertNormalizer"}};
    EXPECT_EQ(errorOf(unknown.dump()).exitCode(), 6);
    EXPECT_NE(errorOf(unknown.dump()).message.find("BertNormalizer"), std::string::npos);

    Json wordpiece = base;
    wordpiece["model"]["type"] = "WordPiece";
    EXPECT_NE(errorOf(wordpiece.dump()).message.find("WordPiece"), std::string::npos);

    Json merge = base;
    merge["model"]["merges"].push_back("zzq e");
    EXPECT_EQ(errorOf(merge.dump()).code, "tokenizer.merge");
    EXPECT_NE(errorOf(merge.dump()).message.find("zzq"), std::string::npos);

    Json parts = base;
    parts["model"]["merges"].push_back("a b c");
    EXPECT_EQ(errorOf(parts.dump()).code, "tokenizer.merge");

    Json duplicate = base;
    duplicate["model"]["vocab"]["never seen"] = 5;
    EXPECT_EQ(errorOf(duplicate.dump()).code, "tokenizer.duplicate_id");

    Json dropout = base;
    dropout["model"]["dropout"] = 0.1;
    EXPECT_EQ(errorOf(dropout.dump()).code, "tokenizer.unsupported");

    const Error rows = errorOf(base.dump(), 10);
    EXPECT_EQ(rows.code, "tokenizer.id_out_of_range");
    EXPECT_NE(rows.message.find("10 rows"), std::string::npos);
}

struct DamagedFile {
    const char* name;
    const char* code;  // nullptr: opens
    int exitCode;
    std::vector<const char*> mustName;
    std::optional<std::int64_t> rows;
};

TEST(Tokenizer, DamagedFilesAreRefusedByCause)
{
    const DamagedFile files[] = {
        {"good", nullptr, 0, {}, 320},
        {"missing", "tokenizer.missing", 3, {"tokenizer.json"}, {}},
        {"invalid-json", "tokenizer.invalid_json", 3, {"tokenizer.json"}, {}},
        {"unknown-component", "tokenizer.unsupported", 6, {"tokenizer.json", "BertNormalizer"}, {}},
        {"wordpiece", "tokenizer.unsupported", 6, {"tokenizer.json", "WordPiece"}, {}},
        {"merge-unknown-token", "tokenizer.merge", 3, {"tokenizer.json", "zzq"}, {}},
        {"merge-three-parts", "tokenizer.merge", 3, {"tokenizer.json"}, {}},
        {"bad-regex", "tokenizer.regex", 3, {"tokenizer.json", "(abc"}, {}},
        {"id-beyond-embedding", "tokenizer.id_out_of_range", 3, {"300", "280"}, 280},
        {"duplicate-id", "tokenizer.duplicate_id", 3, {"tokenizer.json"}, {}},
    };
    for (const DamagedFile& file : files) {
        const auto tokenizer = Tokenizer::load(fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers" / "bad" / file.name, file.rows);
        if (file.code == nullptr) {
            EXPECT_TRUE(tokenizer.ok()) << file.name;
            continue;
        }
        ASSERT_FALSE(tokenizer.ok()) << file.name;
        const Error& error = tokenizer.error();
        EXPECT_EQ(error.code, file.code) << file.name;
        EXPECT_EQ(error.exitCode(), file.exitCode) << file.name;
        for (const char* text : file.mustName)
            EXPECT_NE(error.message.find(text), std::string::npos) << file.name << ": " << error.message;
    }
}

TEST_F(Damaged, IdsOutsideAllRangesAreRefused)
{
    Json added = base;
    added["added_tokens"].push_back({{"id", 9000000000}, {"content", "<x>"}});
    EXPECT_EQ(errorOf(added.dump()).exitCode(), 3);
    Json vocabulary = base;
    vocabulary["model"]["vocab"]["never seen"] = 9000000000;
    EXPECT_EQ(errorOf(vocabulary.dump()).exitCode(), 3);
    vocabulary["model"]["vocab"]["never seen"] = -1;
    EXPECT_EQ(errorOf(vocabulary.dump()).exitCode(), 3);
    Json pattern = base;
    pattern["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", std::string(100000, 'a')}}}, {"behavior", "Isolated"}};
    EXPECT_EQ(errorOf(pattern.dump()).code, "tokenizer.regex");
}

TEST_F(Damaged, TheConfigurationDecidesAboutBos)
{
    // Behind the vocabulary and the added token that the file has.
    const int bos = static_cast<int>(base["model"]["vocab"].size());
    const auto load = [&](const Json& config, bool withTemplate) {
        Json json = base;
        json["added_tokens"] = Json::array({{{"id", bos}, {"content", "<s>"}, {"special", true}}});
        if (withTemplate)
            json["post_processor"] = {{"type", "TemplateProcessing"},
                                      {"single", Json::array({{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}})},
                                      {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {bos}}}}}}};
        std::ofstream(folder / "tokenizer.json") << json.dump();
        std::ofstream(folder / "tokenizer_config.json") << config.dump();
        auto tokenizer = Tokenizer::load(folder);
        EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
        return std::pair(tokenizer->addsBos(), tokenizer->bosId());
    };
    using Expected = std::pair<bool, std::optional<int>>;
    // DeepSeek: no template, the configuration asks for it. Qwen: none. Mixtral: the template; refused by the configuration.
    EXPECT_EQ(load({{"bos_token", {{"content", "<s>"}}}, {"add_bos_token", true}}, false), Expected(true, bos));
    EXPECT_EQ(load({{"bos_token", nullptr}, {"add_bos_token", false}}, false), Expected(false, std::nullopt));
    EXPECT_EQ(load(Json::object(), true), Expected(true, bos));
    EXPECT_EQ(load({{"bos_token", "<s>"}, {"add_bos_token", false}}, true), Expected(false, bos));
    EXPECT_EQ(load({{"bos_token", "<s>"}}, false), Expected(false, bos));
    // The template's token is the one that texts begin with; where the two disagree, that is said.
    EXPECT_EQ(load({{"bos_token", "e"}}, true), Expected(true, bos));
    const auto warnings = Tokenizer::load(folder)->warnings();
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_NE(warnings[0].find("begins with \"<s>\""), std::string::npos) << warnings[0];
    load({{"bos_token", "<s>"}, {"add_bos_token", false}}, true);
    EXPECT_NE(Tokenizer::load(folder)->warnings().at(0).find("--bos yes"), std::string::npos);
}

TEST_F(Damaged, WhatAnotherVersionOrABatchWouldDoIsSaid)
{
    Json version = base;
    version["version"] = "2.0";
    EXPECT_EQ(errorOf(version.dump()).code, "tokenizer.unsupported");
    Json batch = base;
    batch["truncation"] = {{"max_length", 4}, {"strategy", "LongestFirst"}, {"stride", 0}, {"direction", "Right"}};
    std::ofstream(folder / "tokenizer.json") << batch.dump();
    const auto tokenizer = Tokenizer::load(folder);
    ASSERT_TRUE(tokenizer.ok());
    ASSERT_EQ(tokenizer->warnings().size(), 1u);
    EXPECT_NE(tokenizer->warnings()[0].find("truncation"), std::string::npos);
    // A message cuts a long pattern between characters.
    Json pattern = base;
    std::string text = "x";
    for (int i = 0; i < 300; ++i)
        text += "\u00E9";
    pattern["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", text + "\\K"}}}, {"behavior", "Isolated"}, {"invert", false}};
    const Error error = errorOf(pattern.dump());
    EXPECT_EQ(error.code, "tokenizer.unsupported");
    EXPECT_FALSE(invalidUtf8Offset(error.message)) << error.message;
}

TEST_F(Damaged, AddedTokensAreNumberedAsTheReferenceDoes)
{
    const int size = static_cast<int>(base["model"]["vocab"].size());
    const auto load = [&](const Json& list, std::optional<std::int64_t> rows = {}) {
        Json json = base;
        json["added_tokens"] = list;
        std::ofstream(folder / "tokenizer.json") << json.dump();
        auto tokenizer = Tokenizer::load(folder, rows);
        EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
        return tokenizer;
    };
    using Ids = std::vector<int>;
    // Gaps are closed, the list's order counts, the vocabulary's own id is preferred, an empty or repeated token takes no number.
    const auto gaps = load({{{"id", size + 7}, {"content", "<a>"}}, {{"id", size + 3}, {"content", "<b>"}}});
    EXPECT_EQ(*gaps->encode("<a><b>", false), (Ids{size, size + 1}));
    ASSERT_EQ(gaps->warnings().size(), 1u);
    EXPECT_NE(gaps->warnings()[0].find("<a>"), std::string::npos);
    const auto known = load({{{"id", size}, {"content", "e"}},
                             {{"id", size + 1}, {"content", ""}},
                             {{"id", size + 2}, {"content", "<b>"}},
                             {{"id", size + 2}, {"content", "<b>"}}});
    EXPECT_EQ(*known->encode("e<b>", false), (Ids{base["model"]["vocab"]["e"].get<int>(), size}));
    EXPECT_TRUE(load({{{"id", size}, {"content", "<a>"}}})->warnings().empty());
}

TEST_F(Damaged, AnAddedTokenBeyondTheEmbeddingIsRefusedWhereItIsUsed)
{
    const int size = static_cast<int>(base["model"]["vocab"].size());
    Json json = base;
    json["added_tokens"] = Json::array({{{"id", size}, {"content", "<pad>"}}});
    std::ofstream(folder / "tokenizer.json") << json.dump();
    const auto tokenizer = Tokenizer::load(folder, size);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    ASSERT_EQ(tokenizer->warnings().size(), 1u);
    EXPECT_NE(tokenizer->warnings()[0].find("<pad>"), std::string::npos);
    EXPECT_TRUE(tokenizer->encode("the tree", false).ok());
    const auto used = tokenizer->encode("the<pad>", false);
    ASSERT_FALSE(used.ok());
    EXPECT_EQ(used.error().code, "tokenizer.id_out_of_range");
    EXPECT_NE(used.error().message.find("<pad>"), std::string::npos);
    // A begin-of-sequence token beyond it, too.
    std::ofstream(folder / "tokenizer_config.json") << R"({"bos_token": "<pad>", "add_bos_token": true})";
    const auto withBos = Tokenizer::load(folder, size);
    ASSERT_TRUE(withBos.ok());
    EXPECT_EQ(withBos->checkId(*withBos->bosId()).error().code, "tokenizer.id_out_of_range");
}

// Lists of added tokens with flags, gaps and repeats, and files beside them, against the reference's ids.
TEST(Tokenizer, AddedTokensGiveTheReferencesIds)
{
    const fs::path fixtures = fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers";
    const Json golden = Json::parse(*readTextFile(fixtures / "added" / "golden.json", "x", 1u << 30));
    std::string pattern = (fs::temp_directory_path() / "espalier-XXXXXX").string();
    const fs::path folder = ::mkdtemp(pattern.data());
    int number = 0;
    for (const Json& item : golden.at("cases")) {
        SCOPED_TRACE("case " + std::to_string(number++) + ": " + item["added"].dump() + " " + item["config"].dump());
        const std::string base = item["base"];
        Json json = Json::parse(*readTextFile(fixtures / base / "tokenizer.json", "x", 1u << 30));
        for (const Json& token : item["added"])
            json["added_tokens"].push_back(token);
        std::ofstream(folder / "tokenizer.json", std::ios::trunc) << json.dump();
        fs::remove(folder / "tokenizer_config.json");
        if (!item["config"].is_null()) std::ofstream(folder / "tokenizer_config.json") << item["config"].dump();
        for (const char* name : {"special_tokens_map.json", "added_tokens.json"}) {
            fs::remove(folder / name);
            if (item.contains("files") && item["files"].contains(name)) std::ofstream(folder / name) << item["files"][name].dump();
        }
        const auto tokenizer = Tokenizer::load(folder);
        if (item.contains("error")) {
            EXPECT_FALSE(tokenizer.ok());
            continue;
        }
        ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
        for (std::size_t i = 0; i < item["texts"].size(); ++i) {
            const auto ids = tokenizer->encode(item["texts"][i].get<std::string>(), false);
            ASSERT_TRUE(ids.ok()) << ids.error().message;
            EXPECT_EQ(*ids, idsOf(item["ids"][i])) << item["texts"][i];
        }
    }
    EXPECT_GT(number, 200);
    fs::remove_all(folder);
}

// Every kind of normalizer, pre-tokenizer and post-processor in a small file: the reference's ids, or refused by name.
TEST(Tokenizer, ComponentsGiveTheReferencesIdsOrAreRefused)
{
    const fs::path fixtures = fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers";
    const Json golden = Json::parse(*readTextFile(fixtures / "components.json", "x", 1u << 30));
    std::string pattern = (fs::temp_directory_path() / "espalier-XXXXXX").string();
    const fs::path file = fs::path(::mkdtemp(pattern.data())) / "tokenizer.json";
    int compared = 0;
    const auto compare = [&](const Tokenizer& tokenizer, const Json& texts, const Json& ids, bool special) {
        for (std::size_t i = 0; i < texts.size(); ++i) {
            if (ids[i].is_null()) continue;
            const auto mine = tokenizer.encode(texts[i].get<std::string>(), special);
            ASSERT_TRUE(mine.ok()) << mine.error().message;
            EXPECT_EQ(*mine, idsOf(ids[i])) << texts[i];
            ++compared;
        }
    };
    for (const Json& item : golden.at("cases")) {
        SCOPED_TRACE(item["base"].dump() + " " + item["value"].dump());
        Json json = Json::parse(*readTextFile(fixtures / item["base"].get<std::string>() / "tokenizer.json", "x", 1u << 30));
        json[item["slot"].get<std::string>()] = item["value"];
        std::ofstream(file, std::ios::trunc) << json.dump();
        const auto tokenizer = Tokenizer::load(file);
        if (item.contains("refused")) {
            ASSERT_FALSE(tokenizer.ok());
            EXPECT_EQ(tokenizer.error().code, item["refused"]) << tokenizer.error().message;
            continue;
        }
        ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
        compare(*tokenizer, golden["texts"], item["ids"], item["special"]);
    }
    // Metaspace "first" goes by where the text began before it was normalised.
    const Json base = Json::parse(*readTextFile(fixtures / "mixtral-metaspace" / "tokenizer.json", "x", 1u << 30));
    for (const Json& item : golden.at("starts")) {
        SCOPED_TRACE(item["normalizer"].dump() + " " + item["pre_tokenizer"].dump());
        Json json = base;
        json["normalizer"] = item["normalizer"];
        json["pre_tokenizer"] = item["pre_tokenizer"];
        std::ofstream(file, std::ios::trunc) << json.dump();
        const auto tokenizer = Tokenizer::load(file);
        ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
        compare(*tokenizer, item["texts"], item["ids"], false);
    }
    EXPECT_GT(compared, 1000);
    fs::remove_all(file.parent_path());
}

// Replace with a pattern, alone and in sequences, with added tokens that are normalised by it; and as a decoder.
TEST(Tokenizer, PatternsInNormalizersGiveTheReferencesIds)
{
    const fs::path fixtures = fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers";
    const Json golden = Json::parse(*readTextFile(fixtures / "normalizers" / "golden.json", "x", 1u << 30));
    std::string pattern = (fs::temp_directory_path() / "espalier-XXXXXX").string();
    const fs::path folder = ::mkdtemp(pattern.data());
    const auto load = [&](const Json& item, const char* slot) {
        Json json = Json::parse(*readTextFile(fixtures / item["base"].get<std::string>() / "tokenizer.json", "x", 1u << 30));
        json[slot] = item[slot];
        for (const Json& token : item.value("added", Json::array()))
            json["added_tokens"].push_back(token);
        std::ofstream(folder / "tokenizer.json", std::ios::trunc) << json.dump();
        return Tokenizer::load(folder);
    };
    const std::set<std::string> emptyAtStart = {"x*", "", "^", "\\b", "(?=b)"};
    int compared = 0;
    int refused = 0;
    for (const Json& item : golden.at("cases")) {
        SCOPED_TRACE(item["base"].dump() + " " + item["normalizer"].dump());
        const bool sequence = item["normalizer"]["type"] == "Sequence";  // one of them begins with an empty match as well
        const auto tokenizer = load(item, "normalizer");
        if (item.contains("error")) {  // the reference does not load it either
            EXPECT_FALSE(tokenizer.ok()) << item["error"];
            continue;
        }
        if (!tokenizer.ok() && !item["added"].empty()) {  // the added tokens are normalised as well
            EXPECT_EQ(tokenizer.error().code, "tokenizer.unsupported") << tokenizer.error().message;
            EXPECT_TRUE(sequence || emptyAtStart.contains(item["normalizer"]["pattern"]["Regex"].get<std::string>()))
                << tokenizer.error().message;
            ++refused;
            continue;
        }
        ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
        for (std::size_t i = 0; i < item["texts"].size(); ++i) {
            const auto ids = tokenizer->encode(item["texts"][i].get<std::string>(), false);
            if (!ids.ok()) {  // an empty match at the start, on which the reference fails or errs
                EXPECT_EQ(ids.error().code, "tokenizer.unsupported");
                EXPECT_TRUE(sequence || emptyAtStart.contains(item["normalizer"]["pattern"]["Regex"].get<std::string>()))
                    << ids.error().message;
                ++refused;
                continue;
            }
            EXPECT_EQ(*ids, idsOf(item["ids"][i])) << item["texts"][i];
            ++compared;
        }
    }
    for (const Json& item : golden.at("decoders")) {
        SCOPED_TRACE(item["decoder"].dump());
        const auto tokenizer = load(item, "decoder");
        ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
        for (std::size_t i = 0; i < item["ids"].size(); ++i)
            EXPECT_EQ(tokenizer->decode(idsOf(item["ids"][i])), item["texts"][i].get<std::string>());
    }
    EXPECT_GT(compared, 1500);
    EXPECT_GT(refused, 20);
    EXPECT_LT(refused, 300);
    fs::remove_all(folder);
}

TEST_F(Damaged, APatternOfANormalizerIsCheckedLikeOthers)
{
    Json json = base;
    json["normalizer"] = {{"type", "Replace"}, {"pattern", {{"Regex", "(a"}}}, {"content", "x"}};
    EXPECT_EQ(errorOf(json.dump()).code, "tokenizer.regex");
    json["normalizer"]["pattern"] = Json::object();
    EXPECT_EQ(errorOf(json.dump()).code, "tokenizer.invalid");
    // What would take for ever says so instead.
    json["normalizer"]["pattern"] = {{"Regex", "(?:a|aa)+(?=b)|(?:x+x+)+y"}};
    std::ofstream(folder / "tokenizer.json", std::ios::trunc) << json.dump();
    const auto tokenizer = Tokenizer::load(folder);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    EXPECT_EQ(tokenizer->encode(std::string(4000, 'x'), false).error().code, "tokenizer.regex_limit");
}

TEST_F(Damaged, NormalFormsAreThoseOfTheReferencesUnicode)
{
    Json json = base;
    json["normalizer"] = {{"type", "NFKC"}};
    std::ofstream(folder / "tokenizer.json") << json.dump();
    const auto tokenizer = Tokenizer::load(folder);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    const auto same = [&](const std::string& a, const std::string& b) {
        return *tokenizer->encode(a, false) == *tokenizer->encode(b, false);
    };
    EXPECT_TRUE(same("\u00BD \uFB01 e\u0301", "1\u20442 fi \u00E9"));
    // Of Unicode 12.1 and 15: letters of their own to the reference.
    EXPECT_FALSE(same("\u32FF", "\u4EE4\u548C"));
    EXPECT_FALSE(same("\U0001E058", "\u0435"));
    EXPECT_FALSE(same("\uA7F2", "C"));
}
