// Patterns of tokenizer files against the tokenizers library, which runs them on Oniguruma.
#include "base/json.h"
#include "base/text.h"
#include "tokenizer/character_set.h"
#include "tokenizer/oniguruma.h"
#include "tokenizer/regex.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

using namespace espalier;
namespace fs = std::filesystem;

namespace
{

const fs::path kFolder = fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers" / "patterns";

// What Split gives for Isolated (matches and gaps) and for Removed (gaps alone); empty ones do not count.
std::vector<std::string> pieces(const std::string& text, const std::vector<TextSpan>& spans, bool gapsOnly)
{
    std::vector<std::string> out;
    for (const TextSpan& span : spans)
        if (span.end > span.begin && !(gapsOnly && span.match)) out.push_back(text.substr(span.begin, span.end - span.begin));
    return out;
}

}  // namespace

TEST(Patterns, MeanWhatTheReferenceMeansOrAreRefusedByName)
{
    const Result<Json> golden = readJsonFile(kFolder / "golden.json", "golden", {.maxBytes = 64u << 20});
    ASSERT_TRUE(golden.ok()) << golden.error().message;
    const Json& texts = golden->at("texts");
    int compared = 0;
    for (const Json& item : golden->at("patterns")) {
        const std::string pattern = item.at("pattern");
        SCOPED_TRACE(pattern);
        const auto regex = TokenizerRegex::compile(pattern);
        if (item.contains("error")) {  // the reference does not load it either
            EXPECT_FALSE(regex.ok()) << "the reference says " << item["error"];
            continue;
        }
        if (item.contains("refused")) {
            ASSERT_FALSE(regex.ok());
            EXPECT_EQ(regex.error().code, "tokenizer.unsupported") << regex.error().message;
            EXPECT_NE(regex.error().message.find(item["refused"].get<std::string>()), std::string::npos) << regex.error().message;
            EXPECT_NE(regex.error().message.find(pattern), std::string::npos) << regex.error().message;
            continue;
        }
        if (!regex.ok()) {
            ADD_FAILURE() << "refused: " << regex.error().message;
            continue;
        }
        const std::vector<std::size_t> which = item.at("texts");
        for (std::size_t i = 0; i < which.size(); ++i) {
            const std::string text = texts.at(which[i]);
            const auto spans = regex->find(text);
            if (!spans.ok()) {
                ADD_FAILURE() << "limit: " << spans.error().message;
                break;
            }
            EXPECT_EQ(Json(pieces(text, *spans, false)), item["isolated"][i]) << Json(text) << " by " << *pcre2FromOniguruma(pattern);
            EXPECT_EQ(Json(pieces(text, *spans, true)), item["removed"][i]) << Json(text);
            ++compared;
        }
    }
    EXPECT_GT(compared, 1000);
}

// Every code point, so that no table of the machine shows through.
TEST(Patterns, ClassesHaveTheReferencesMembers)
{
    const Result<Json> golden = readJsonFile(kFolder / "classes.json", "golden", {.maxBytes = 64u << 20});
    ASSERT_TRUE(golden.ok()) << golden.error().message;
    for (const auto& [pattern, members] : golden->items()) {
        SCOPED_TRACE(pattern);
        const auto regex = TokenizerRegex::compile(pattern);
        ASSERT_TRUE(regex.ok()) << regex.error().message;
        std::string text;
        std::vector<bool> expected;
        std::vector<std::size_t> starts;
        std::size_t range = 0;
        for (char32_t c = 0; c < 0x110000; ++c) {
            if (c >= 0xD800 && c <= 0xDFFF) continue;
            while (range < members.size() && members[range][1].get<std::uint32_t>() < c)
                ++range;
            starts.push_back(text.size());
            expected.push_back(range < members.size() && members[range][0].get<std::uint32_t>() <= c);
            if (c < 0x80) {
                text += static_cast<char>(c);
            } else if (c < 0x800) {
                text += static_cast<char>(0xC0 | c >> 6);
                text += static_cast<char>(0x80 | (c & 0x3F));
            } else if (c < 0x10000) {
                text += static_cast<char>(0xE0 | c >> 12);
                text += static_cast<char>(0x80 | (c >> 6 & 0x3F));
                text += static_cast<char>(0x80 | (c & 0x3F));
            } else {
                text += static_cast<char>(0xF0 | c >> 18);
                text += static_cast<char>(0x80 | (c >> 12 & 0x3F));
                text += static_cast<char>(0x80 | (c >> 6 & 0x3F));
                text += static_cast<char>(0x80 | (c & 0x3F));
            }
        }
        const auto spans = regex->find(text);
        ASSERT_TRUE(spans.ok()) << spans.error().message;
        std::size_t span = 0;
        std::string wrong;
        int count = 0;
        for (std::size_t i = 0; i < starts.size(); ++i) {
            while (span < spans->size() && (*spans)[span].end <= starts[i])
                ++span;
            if ((*spans)[span].match != expected[i] && ++count <= 8) wrong.append(" ").append(std::to_string(starts[i]));
        }
        EXPECT_EQ(count, 0) << wrong;
    }
}

TEST(Patterns, HostileOnesEndInAnError)
{
    EXPECT_FALSE(TokenizerRegex::compile(std::string(5000, '(')).ok());
    EXPECT_FALSE(TokenizerRegex::compile(std::string(5000, '[')).ok());
    EXPECT_FALSE(TokenizerRegex::compile(std::string(400, '(') + "a" + std::string(400, ')')).ok());
    EXPECT_FALSE(TokenizerRegex::compile("a{70000}").ok());
    EXPECT_FALSE(TokenizerRegex::compile("(?:(?:a{60000}){60000}){60000}").ok());
}
