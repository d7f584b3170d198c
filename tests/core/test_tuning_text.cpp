// Texts to tune on against ids and masks of Hugging Face's tokenizers: encode(prompt + answer) without special tokens, a token counts where
// its offsets end behind the prompt.
#include "tokenizer/tokenizer.h"
#include "tokenizer/tuning_text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include <unistd.h>

using namespace espalier;
namespace fs = std::filesystem;

namespace
{

template <typename T>
T must(Result<T> result)
{
    if (!result.ok()) throw std::runtime_error(result.error().describe());
    return std::move(result).value();
}

class TuningTextTest : public testing::Test
{
protected:
    ~TuningTextTest() override
    {
        std::error_code ignored;
        fs::remove_all(folder, ignored);
    }
    // A tokenizer of the fixtures whose configuration names the end of a sequence.
    Tokenizer tokenizer(const std::string& name, const std::string& eos)
    {
        const fs::path own = folder / name;
        fs::create_directories(own);
        fs::copy_file(fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers" / name / "tokenizer.json", own / "tokenizer.json",
                      fs::copy_options::overwrite_existing);
        if (!eos.empty()) std::ofstream(own / "tokenizer_config.json") << Json{{"eos_token", eos}, {"bos_token", eos}}.dump();
        return must(Tokenizer::load(own));
    }
    fs::path file(const std::string& bytes, const std::string& name = "a.jsonl")
    {
        fs::create_directories(folder);
        std::ofstream(folder / name, std::ios::binary) << bytes;
        return folder / name;
    }
    Result<RequestedTuning> read(const Tokenizer& tokens, const std::string& bytes, int length = 256, RecordOptions options = {},
                                 const std::string& name = "a.jsonl", Bos bos = Bos::No)
    {
        const std::vector<fs::path> files = {file(bytes, name)};
        return openTuningWindows(tokens, files, {.window = {.windowLength = length, .maxWindows = 0, .bos = bos}, .countAsked = false},
                                 options);
    }
    Error refused(const Tokenizer& tokens, const std::string& bytes, const std::string& name = "a.jsonl", int length = 256)
    {
        const auto result = read(tokens, bytes, length, {}, name);
        if (result.ok()) throw std::runtime_error("it was read");
        EXPECT_FALSE(result.error().action.empty());
        return result.error();
    }

    const fs::path folder = fs::temp_directory_path() / ("espalier-tuning-text-" + std::to_string(::getpid()));
};

std::string maskText(const std::vector<bool>& mask)
{
    std::string text;
    for (const bool counts : mask)
        text += counts ? '1' : '0';
    return text;
}

// "0*99 1*13"
std::string mask(std::initializer_list<std::pair<char, int>> runs)
{
    std::string text;
    for (const auto& [symbol, count] : runs)
        text += std::string(static_cast<std::size_t>(count), symbol);
    return text;
}

const std::string kSea = R"({"instruction": "Name the sea.", "input": "", "output": "The North Sea."})";
const std::string kSum = R"({"instruction": "Add.", "input": "2 and 3", "output": "5"})";
const std::string kCompletion = R"({"prompt": "The sea is", "completion": " wide and cold"})";
const std::string kStraddle = R"({"prompt": "The se", "completion": "a is wide"})";
const std::string kChat =
    R"({"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Bye"},
 {"role": "assistant", "content": "See you."}, {"role": "user", "content": "Nobody answers"}]})";
std::string oneLine(std::string text)
{
    std::erase(text, '\n');
    return text;
}

}  // namespace

TEST_F(TuningTextTest, RecordsEqualTheReference)
{
    struct Case {
        const char* tokenizer;
        const char* eos;
        std::string record;
        std::vector<int> ids;
        std::string mask;
    };
    const std::vector<Case> cases = {
        {"qwen2-style",
         "<|endoftext|>",
         kSea,
         {33,  68, 346, 86,  312, 319, 369,  341, 273, 647, 363, 439, 220, 267, 82,  66,  81,  72,  65,  68,  82,  261, 256,
          328, 74, 13,  220, 54,  81,  264,  68,  261, 220, 268, 82,  79,  323, 82,  68,  439, 261, 79,  79,  81,  78,  79,
          81,  72, 291, 68,  75,  88,  1077, 298, 83,  68,  82,  286, 220, 268, 80,  419, 341, 13,  198, 198, 2,   2,   2,
          609, 77, 341, 273, 647, 363, 25,   198, 45,  964, 286, 270, 68,  64,  13,  198, 198, 2,   2,   2,   220, 49,  68,
          82,  79, 323, 82,  68,  25,  198,  51,  659, 220, 45,  318, 83,  71,  220, 50,  68,  64,  13,  1100},
         mask({{'0', 99}, {'1', 13}})},
        {"qwen2-style",
         "<|endoftext|>",
         kSum,
         {33,  68,  346, 86,  312, 319,  369, 341, 273, 647,  363, 439, 220, 267, 82,  66,  81,  72,  65,  68,  82,  261, 256, 328,
          74,  11,  275, 64,  381, 67,   424, 319, 369, 79,   383, 439, 275, 81,  78,  85,  72,  267, 82,  266, 84,  81,  83,  71,
          258, 274, 323, 83,  68,  1065, 13,  220, 54,  81,   264, 68,  261, 220, 268, 82,  79,  323, 82,  68,  439, 261, 79,  79,
          81,  78,  79,  81,  72,  291,  68,  75,  88,  1077, 298, 83,  68,  82,  286, 220, 268, 80,  419, 341, 13,  198, 198, 2,
          2,   2,   609, 77,  341, 273,  647, 363, 25,  198,  32,  67,  67,  13,  198, 198, 2,   2,   2,   609, 77,  79,  383, 25,
          198, 17,  503, 220, 18,  198,  198, 2,   2,   2,    220, 49,  68,  82,  79,  323, 82,  68,  25,  198, 20,  1100},
         mask({{'0', 140}, {'1', 2}})},
        {"qwen2-style",
         "<|endoftext|>",
         kCompletion,
         {51, 659, 270, 68, 64, 312, 260, 72, 267, 503, 274, 78, 75, 67, 1100},
         mask({{'0', 6}, {'1', 9}})},
        {"qwen2-style", "<|endoftext|>", kStraddle, {51, 659, 270, 68, 64, 312, 260, 72, 267, 1100}, mask({{'0', 4}, {'1', 6}})},
        {"qwen2-style",
         "<|endoftext|>",
         oneLine(kChat),
         {1101, 84, 82, 258, 198, 39, 68, 75, 346,  1102, 198,  1101, 328, 82,  284, 83,  591, 83,  198, 39,   72,  13, 1102, 198,
          1101, 84, 82, 258, 198, 33, 88, 68, 1102, 198,  1101, 328,  82,  284, 83,  591, 83,  198, 50,  1060, 474, 13, 1102},
         mask({{'0', 19}, {'1', 4}, {'0', 19}, {'1', 5}})},
        {"mixtral-style",
         "</s>",
         kSea,
         {959, 320, 654, 337, 634, 633, 664, 661, 608, 875, 681, 762, 508, 605, 333, 318, 332, 324, 317, 320, 333, 597, 595,
          649, 325, 273, 836, 332, 612, 320, 597, 508, 609, 333, 330, 329, 328, 333, 320, 762, 597, 330, 330, 332, 329, 330,
          332, 324, 626, 320, 326, 339, 607, 624, 638, 334, 320, 333, 620, 508, 609, 331, 724, 661, 273, 260, 260, 263, 263,
          263, 816, 328, 661, 608, 875, 681, 285, 260, 302, 316, 659, 620, 602, 320, 316, 273, 260, 260, 263, 263, 263, 508,
          305, 320, 333, 330, 329, 328, 333, 320, 285, 260, 307, 323, 320, 508, 302, 645, 334, 323, 877, 320, 316, 273, 2},
         mask({{'0', 102}, {'1', 13}})},
        {"mixtral-style",
         "</s>",
         kSum,
         {959, 320, 654, 337, 634, 633, 664, 661, 608, 875, 681, 762, 508, 605, 333, 318, 332, 324, 317, 320, 333, 597, 595, 649, 325,
          271, 611, 316, 756, 319, 777, 633, 664, 330, 766, 762, 611, 332, 329, 336, 324, 605, 333, 601, 335, 332, 334, 323, 598, 607,
          329, 328, 334, 320, 338, 334, 273, 836, 332, 612, 320, 597, 508, 609, 333, 330, 329, 328, 333, 320, 762, 597, 330, 330, 332,
          329, 330, 332, 324, 626, 320, 326, 339, 607, 624, 638, 334, 320, 333, 620, 508, 609, 331, 724, 661, 273, 260, 260, 263, 263,
          263, 816, 328, 661, 608, 875, 681, 285, 260, 291, 319, 319, 273, 260, 260, 263, 263, 263, 816, 328, 330, 766, 285, 260, 277,
          666, 900, 260, 260, 263, 263, 263, 508, 305, 320, 333, 330, 329, 328, 333, 320, 285, 260, 280, 2},
         mask({{'0', 143}, {'1', 2}})},
        {"mixtral-style",
         "</s>",
         kCompletion,
         {830, 323, 320, 602, 320, 316, 634, 599, 324, 605, 666, 607, 329, 720, 2},
         mask({{'0', 7}, {'1', 8}})},
        {"mixtral-style", "</s>", kStraddle, {830, 323, 320, 602, 320, 316, 634, 599, 324, 605, 2}, mask({{'0', 5}, {'1', 6}})},
        {"mixtral-style",
         "</s>",
         oneLine(kChat),
         {508, 263,  263, 263, 508, 88,  333, 598, 285, 260, 298, 320,  326, 654, 260, 260, 263, 263, 263, 901, 333, 333, 324,
          661, 1028, 334, 285, 260, 298, 324, 273, 2,   508, 260, 260,  263, 263, 263, 508, 88,  333, 598, 285, 260, 292, 339,
          320, 260,  260, 263, 263, 263, 901, 333, 333, 324, 661, 1028, 334, 285, 260, 306, 320, 320, 650, 615, 273, 2},
         mask({{'0', 28}, {'1', 4}, {'0', 29}, {'1', 7}})},
    };
    for (const Case& one : cases) {
        const RequestedTuning read = must(this->read(tokenizer(one.tokenizer, one.eos), one.record + "\n"));
        ASSERT_EQ(read.text.windows.rows.size(), 1U) << one.record;
        EXPECT_EQ(read.text.windows.rows.front(), one.ids) << one.tokenizer << " " << one.record;
        ASSERT_EQ(read.text.scored.size(), 1U);
        EXPECT_EQ(maskText(read.text.scored.front()), one.mask) << one.tokenizer << " " << one.record;
        EXPECT_EQ(read.records, 1);
        EXPECT_EQ(read.text.windows.textSha256, hashOfRows({one.ids}));
    }
}

TEST_F(TuningTextTest, OtherWaysToWriteTheSame)
{
    const Tokenizer tokens = tokenizer("qwen2-style", "<|endoftext|>");
    const auto rows = [&](const std::string& bytes, const std::string& name = "a.jsonl") {
        return must(read(tokens, bytes, 256, {}, name)).text.windows.rows;
    };
    const auto sea = rows(kSea), both = rows(kSea + "\n\n" + kSum + "\r\n");
    EXPECT_EQ(rows(R"({"instruction": "Name the sea.", "output": "The North Sea."})"), sea);
    EXPECT_EQ(rows(R"({"instruction": "Name the sea.", "input": null, "output": "The North Sea.", "text": "all of it"})"), sea);
    EXPECT_EQ(rows("[" + kSea + ",\n" + kSum + "]", "a.json"), both);
    EXPECT_EQ(rows(R"({"data": [)" + kSea + "," + kSum + "]}", "a.json"), both);
    EXPECT_EQ(rows("\xEF\xBB\xBF" + kSea), sea);
    EXPECT_EQ(rows(R"({"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi."},
 {"from": "human", "value": "Bye"}, {"from": "gpt", "value": "See you."}]})",
                   "a.json"),
              rows(oneLine(kChat)));
    // A field that was asked for is a text, all of which counts.
    const std::vector<fs::path> files = {file(R"({"instruction": "a", "output": "b", "text": "The sea is wide and cold and wide"})")};
    TextRequest request{.window = {.windowLength = 4, .maxWindows = 0, .bos = Bos::No}, .countAsked = false};
    request.file.field = "text";
    EXPECT_TRUE(must(openTuningWindows(tokens, files, request, {})).text.scored.empty());
}

TEST_F(TuningTextTest, RecordsShareWindows)
{
    const Tokenizer tokens = tokenizer("qwen2-style", "<|endoftext|>");
    const std::string three = kCompletion + "\n" + kStraddle + "\n" + kCompletion + "\n";
    const std::vector<int> one = must(read(tokens, kCompletion)).text.windows.rows.front();
    const std::vector<int> other = must(read(tokens, kStraddle)).text.windows.rows.front();
    ASSERT_EQ(one.size(), 15U);
    ASSERT_EQ(other.size(), 10U);
    const RequestedTuning packed = must(read(tokens, three, 32));
    ASSERT_EQ(packed.text.windows.rows.size(), 2U);
    std::vector<int> joined = one;
    joined.insert(joined.end(), other.begin(), other.end());
    EXPECT_EQ(packed.text.windows.rows[0], joined);
    EXPECT_EQ(packed.text.windows.rows[1], one);
    EXPECT_EQ(maskText(packed.text.scored[0]), mask({{'0', 6}, {'1', 9}, {'0', 4}, {'1', 6}}));
    // Exactly full.
    EXPECT_EQ(must(read(tokens, three, 25)).text.windows.rows.size(), 2U);
    EXPECT_EQ(must(read(tokens, three, 24)).text.windows.rows.size(), 3U);
    EXPECT_EQ(must(read(tokens, three, 256)).text.windows.rows.size(), 1U);
    EXPECT_EQ(must(read(tokens, three, 256, {.pack = false})).text.windows.rows, (std::vector<std::vector<int>>{one, other, one}));
    // Every record begins with BOS, which nobody has to guess.
    const RequestedTuning begun = must(read(tokens, three, 256, {}, "a.jsonl", Bos::Yes));
    ASSERT_EQ(begun.text.windows.rows.front().size(), 43U);
    EXPECT_EQ(begun.text.windows.rows.front()[16], 1100);
    EXPECT_EQ(maskText(begun.text.scored.front()), mask({{'0', 7}, {'1', 9}, {'0', 5}, {'1', 6}, {'0', 7}, {'1', 9}}));
}

TEST_F(TuningTextTest, PlainTextIsAsElsewhere)
{
    const Tokenizer tokens = tokenizer("qwen2-style", "<|endoftext|>");
    const std::string prose = "The sea is wide and cold. The sea is wide. The North Sea is cold and wide and the sea.";
    const RequestedTuning plain = must(read(tokens, prose, 8, {}, "a.txt"));
    EXPECT_TRUE(plain.text.scored.empty());
    EXPECT_EQ(plain.records, 0);
    const std::vector<fs::path> files = {folder / "a.txt"};
    const TokenWindows windows = must(windowsFromText(tokens, files, {.windowLength = 8, .maxWindows = 0, .bos = Bos::No}));
    EXPECT_EQ(plain.text.windows.rows, windows.rows);
    EXPECT_EQ(plain.text.windows.textSha256, windows.textSha256);
    EXPECT_EQ(must(read(tokens, Json{{"text", prose}}.dump() + "\n", 8)).text.windows.rows, windows.rows);
    // Together with records: prose first, all of it counts.
    const std::vector<fs::path> both = {file(kCompletion), folder / "a.txt"};
    const RequestedTuning mixed = must(openTuningWindows(
        tokens, both, {.window = {.windowLength = 16, .maxWindows = 0, .bos = Bos::No}, .countAsked = false}, RecordOptions{}));
    ASSERT_GE(mixed.text.windows.rows.size(), 2U);
    EXPECT_EQ(mixed.text.scored.size(), mixed.text.windows.rows.size());
    EXPECT_EQ(maskText(mixed.text.scored.front()), mask({{'1', 16}}));
    EXPECT_EQ(maskText(mixed.text.scored.back()), mask({{'0', 6}, {'1', 9}}));
}

TEST_F(TuningTextTest, BadRecordsAreNamed)
{
    const Tokenizer tokens = tokenizer("qwen2-style", "<|endoftext|>");
    const auto expect = [&](const std::string& bytes, const char* code, std::initializer_list<const char*> words) {
        const Error error = refused(tokens, bytes);
        EXPECT_EQ(error.code, code) << bytes;
        EXPECT_EQ(error.subject, "a.jsonl");
        for (const char* word : words)
            EXPECT_NE(error.message.find(word), std::string::npos) << word << " in: " << error.message;
    };
    expect(kSea + "\n\n" + R"({"instruction": "What?", "answer": "That."})", "text.no_field", {"line 3", "\"output\"", "answer"});
    expect(R"({"output": "That."})", "text.no_field", {"line 1", "\"instruction\""});
    expect(kSea + "\n" + R"({"instruction": 3, "output": "That."})", "text.no_field", {"line 2", "number", "\"instruction\""});
    expect(kSea + "\n" + R"({"instruction": "What?", "input": [1], "output": "That."})", "text.no_field", {"line 2", "array"});
    expect(R"({"prompt": "What?"})", "text.no_field", {"line 1", "\"completion\""});
    expect(R"({"messages": [{"role": "user"}]})", "text.no_field", {"line 1", "\"content\""});
    expect(R"({"messages": "Hello"})", "text.no_field", {"line 1", "\"messages\"", "string"});
    expect(R"({"messages": [{"role": "tool", "content": "7"}]})", "text.unknown_role", {"line 1", "tool"});
    expect(R"({"messages": [{"role": "user", "content": "Anyone?"}]})", "text.empty_output", {"line 1"});
    expect(kSea + "\n" + R"({"instruction": "What?", "output": " \n"})", "text.empty_output", {"line 2", "\"output\""});
    expect(R"({"prompt": "What?", "completion": ""})", "text.empty_output", {"line 1", "\"completion\""});
    expect(kSea + "\n[1, 2]\n", "text.invalid_line", {"line 2"});
    expect(kSea + "\n{\"instruction\": \"cut o", "text.invalid_line", {"line 2"});
    const Error longer = refused(tokens, kSea + "\n" + kSum + "\n", "a.jsonl", 120);
    EXPECT_EQ(longer.code, "text.record_too_long");
    EXPECT_NE(longer.message.find("line 2"), std::string::npos) << longer.message;
    EXPECT_NE(longer.message.find("142"), std::string::npos) << longer.message;
    EXPECT_NE(longer.action.find("--window-length 142"), std::string::npos) << longer.action;
    // Without an end of the answer there may be nothing that stands behind something.
    const Tokenizer endless = tokenizer("gpt2-style", "");
    const Error shorter = refused(endless, R"({"prompt": "", "completion": "a"})");
    EXPECT_EQ(shorter.code, "text.record_too_short");
    EXPECT_EQ(refused(tokens, "a", "a.txt").code, "text.too_short");
    EXPECT_EQ(refused(tokens, R"({"text": "a"})").code, "text.too_short");
    EXPECT_EQ(refused(tokens, "\n \n", "a.jsonl").code, "text.too_short");
    EXPECT_EQ(refused(tokens, kSea + "\n{\"instruction\": \"\xE9t\xE9\", \"output\": \"x\"}\n").code, "text.invalid_utf8");
    EXPECT_EQ(refused(tokens, std::string("\xFF\xFE{\0\"\0", 6)).code, "text.other_form");
}

TEST_F(TuningTextTest, BadRecordsCanBeLeftOut)
{
    const Tokenizer tokens = tokenizer("qwen2-style", "<|endoftext|>");
    const std::string bytes =
        kCompletion + "\n" + R"({"prompt": "What?", "completion": ""})" + "\n" + R"({"prompt": "What?"})" + "\n" + kStraddle;
    const RequestedTuning read = must(this->read(tokens, bytes, 256, {.pack = false, .leaveOutBad = true}));
    EXPECT_EQ(read.records, 2);
    EXPECT_EQ(read.text.windows.rows.size(), 2U);
    ASSERT_FALSE(read.warnings.empty());
    EXPECT_NE(read.warnings.back().find("2 records are left out"), std::string::npos) << read.warnings.back();
    EXPECT_NE(read.warnings.back().find("line 2"), std::string::npos) << read.warnings.back();
    const auto none = this->read(tokens, R"({"prompt": "What?", "completion": ""})", 256, {.leaveOutBad = true});
    ASSERT_FALSE(none.ok());
    EXPECT_EQ(none.error().code, "text.empty");
}

TEST(SharedWindows, AreFoundWhereverTheyAreCut)
{
    const auto row = [](int begin, int count) {
        std::vector<int> ids;
        for (int i = 0; i < count; ++i)
            ids.push_back((begin + i) * 7919 % 10007);
        return ids;
    };
    TuningText text;
    text.windows.rows = {row(0, 100), row(100, 100), row(200, 100), {1, 2, 3}};
    TokenWindows others;
    others.rows = {row(150, 64)};
    EXPECT_EQ(sharedWindows(text, others), 1);
    others.rows = {row(250, 100), {1, 2, 3}};
    EXPECT_EQ(sharedWindows(text, others), 2);
    others.rows = {row(1000, 500), {1, 2}};
    EXPECT_EQ(sharedWindows(text, others), 0);
    // What does not count is nobody's.
    others.rows = {row(0, 100)};
    EXPECT_EQ(sharedWindows(text, others), 1);
    for (const auto& one : text.windows.rows)
        text.scored.emplace_back(one.size(), true);
    text.scored[0].assign(100, false);
    std::fill(text.scored[0].begin() + 50, text.scored[0].end(), true);
    EXPECT_EQ(sharedWindows(text, others), 1);
    others.rows = {row(0, 50)};
    EXPECT_EQ(sharedWindows(text, others), 0);
}
