#include "base/json.h"
#include "base/text.h"
#include "checkpoint/safetensors.h"
#include "tokenizer/text_windows.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/windows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

using namespace espalier;
namespace fs = std::filesystem;

namespace
{
class Windows : public testing::Test
{
protected:
    void SetUp() override
    {
        std::string pattern = (fs::temp_directory_path() / "espalier-XXXXXX").string();
        folder = ::mkdtemp(pattern.data());
        tokenizer.emplace(std::move(*Tokenizer::load(fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers" / "gpt2-style")));
    }
    void TearDown() override { fs::remove_all(folder); }
    fs::path write(const char* name, const std::string& text)
    {
        std::ofstream(folder / name, std::ios::binary) << text;
        return folder / name;
    }
    Result<TokenWindows> fromText(const fs::path& path, int length, int most = 0)
    {
        const fs::path files[] = {path};
        return windowsFromText(*tokenizer, files, {.windowLength = length, .maxWindows = most, .bos = Bos::Auto});
    }
    fs::path folder;
    std::optional<Tokenizer> tokenizer;
};
}  // namespace

TEST_F(Windows, ATextIsCutIntoWholeWindowsAndTheRestIsCounted)
{
    const std::string text = "one two three four five six seven eight nine ten eleven twelve";
    const auto ids = *tokenizer->encode(text, false);
    const auto windows = fromText(write("a.txt", text), 4);
    ASSERT_TRUE(windows.ok()) << windows.error().message;
    std::vector<int> joined;
    for (const auto& row : windows->rows) {
        EXPECT_EQ(row.size(), 4u);
        joined.insert(joined.end(), row.begin(), row.end());
    }
    EXPECT_TRUE(std::equal(joined.begin(), joined.end(), ids.begin()));
    EXPECT_EQ(static_cast<std::size_t>(windows->droppedTokens), ids.size() - joined.size());
    EXPECT_EQ(fromText(folder / "a.txt", 4, 2)->rows.size(), 2u);
    EXPECT_NE(fromText(folder / "a.txt", 4, 2)->textSha256, windows->textSha256);
}

TEST_F(Windows, UnusableTextsAreRefusedByCause)
{
    EXPECT_EQ(fromText(folder / "none.txt", 4).error().code, "text.missing");
    EXPECT_EQ(fromText(write("empty.txt", ""), 4).error().code, "text.empty");
    EXPECT_EQ(fromText(write("short.txt", "a"), 64).error().code, "text.too_short");
    const Error bad = fromText(write("latin1.txt", "caf\xE9 au lait"), 4).error();
    EXPECT_EQ(bad.code, "text.invalid_utf8");
    EXPECT_NE(bad.message.find("byte 3"), std::string::npos) << bad.message;
    EXPECT_EQ(bad.exitCode(), 3);
}

TEST_F(Windows, WhatWasAskedAndWhatWasGivenAreCompared)
{
    const fs::path files[] = {write("a.txt", "one two three four five six seven eight nine ten eleven twelve")};
    const auto warnings = [&](const TextRequest& request) {
        const auto opened = openTextWindows(*tokenizer, files, request);
        EXPECT_TRUE(opened.ok());
        return opened->warnings;
    };
    const int all = static_cast<int>(fromText(files[0], 4)->rows.size());
    EXPECT_TRUE(warnings({.window = {.windowLength = 4}}).empty());
    EXPECT_TRUE(warnings({.window = {.windowLength = 4, .maxWindows = all}}).empty());
    const auto fewer = warnings({.window = {.windowLength = 4, .maxWindows = 128}});
    ASSERT_EQ(fewer.size(), 1u);
    EXPECT_NE(fewer[0].find("128"), std::string::npos) << fewer[0];
    EXPECT_NE(fewer[0].find(std::to_string(all).append(" of 4")), std::string::npos) << fewer[0];
    EXPECT_TRUE(warnings({.window = {.windowLength = 4, .maxWindows = 128}, .countAsked = false}).empty());
    const auto longer = warnings({.window = {.windowLength = 4}, .modelPositions = 3});
    ASSERT_EQ(longer.size(), 1u);
    EXPECT_NE(longer[0].find("the 3 positions"), std::string::npos) << longer[0];
    EXPECT_TRUE(warnings({.window = {.windowLength = 4}, .modelPositions = 4}).empty());

    const auto ids = write("ids.json", "[[1,2,3],[4,5,6,7],[8]]").string();
    const auto rows = openIdWindows(ids, {.window = {.windowLength = 8, .maxWindows = 5}, .modelPositions = 3}, 100);
    ASSERT_TRUE(rows.ok());
    ASSERT_EQ(rows->warnings.size(), 4u) << "a row of one id, two of five windows, rows shorter than asked, longer than the positions";
    const auto good = write("good.json", "[[1,2,3],[4,5,6,7]]").string();
    EXPECT_TRUE(openIdWindows(good, {.window = {.windowLength = 4, .maxWindows = 2}, .lengthAsked = false}, 100)->warnings.empty());

    const Error none =
        openTextWindows(*tokenizer, files, {.window = {.windowLength = 2048, .maxWindows = 7}, .modelPositions = 512}).error();
    EXPECT_EQ(none.code, "text.too_short");
    EXPECT_NE(none.message.find("7 windows were asked for"), std::string::npos) << none.message;
    EXPECT_NE(none.action.find("512 positions"), std::string::npos) << none.action;
}

TEST_F(Windows, JsonLinesGiveTheWindowsOfTheirTexts)
{
    const auto plain = fromText(write("a.txt", "one two three\n\nfour five six seven"), 3);
    const auto lines = fromText(write("a.jsonl", "{\"text\": \"one two three\"}\n{\"text\": \"four five six seven\"}\n"), 3);
    ASSERT_TRUE(plain.ok() && lines.ok());
    EXPECT_EQ(lines->rows, plain->rows);
    EXPECT_EQ(lines->textSha256, plain->textSha256);
    EXPECT_EQ(fromText(write("a.gz", "\x1F\x8B\x08 packed"), 3).error().code, "text.other_form");
}

TEST_F(Windows, OneBosStandsBeforeAllFiles)
{
    const std::string bosConfig = R"({"bos_token": "<s>", "add_bos_token": true})";
    const fs::path source = fs::path(ESPALIER_TEST_FIXTURES) / "tokenizers" / "mixtral-style" / "tokenizer.json";
    fs::copy_file(source, folder / "tokenizer.json");
    write("tokenizer_config.json", bosConfig);
    const auto mixtral = Tokenizer::load(folder);
    ASSERT_TRUE(mixtral.ok()) << mixtral.error().message;
    const fs::path files[] = {write("a.txt", "one two three four"), write("b.txt", "five six seven eight")};
    const auto rows = [&](Bos bos) { return windowsFromText(*mixtral, files, {.windowLength = 4, .maxWindows = 0, .bos = bos}); };
    const auto with = rows(Bos::Auto);
    ASSERT_TRUE(with.ok()) << with.error().message;
    EXPECT_TRUE(with->bos);
    EXPECT_EQ(with->rows[0][0], *mixtral->bosId());
    EXPECT_EQ(with->source, "a.txt, b.txt");
    int count = 0;
    for (const auto& row : with->rows)
        count += static_cast<int>(std::count(row.begin(), row.end(), *mixtral->bosId()));
    EXPECT_EQ(count, 1);
    const auto without = rows(Bos::No);
    EXPECT_FALSE(without->bos);
    EXPECT_NE(without->rows[0][0], *mixtral->bosId());
    EXPECT_NE(without->textSha256, with->textSha256);
    const fs::path plain[] = {folder / "a.txt"};
    EXPECT_EQ(windowsFromText(*tokenizer, plain, {.windowLength = 4, .maxWindows = 0, .bos = Bos::Yes}).error().code, "text.no_bos");
}

TEST_F(Windows, IdsFromJsonKeepRowsApart)
{
    const auto path = write("ids.json", "[[1,2,3],[4,5,6,7,8,9,10]]").string();
    const auto windows = windowsFromIds(path, {.windowLength = 3}, 100);
    ASSERT_TRUE(windows.ok()) << windows.error().message;
    EXPECT_EQ(windows->rows, (std::vector<std::vector<int>>{{1, 2, 3}, {4, 5, 6}, {7, 8, 9}}));
    EXPECT_EQ(windows->droppedTokens, 1);
    EXPECT_EQ(windowsFromIds(path, {.windowLength = 3}, 9).error().code, "ids.out_of_range");
    EXPECT_EQ(windowsFromIds(write("x.json", "{\"a\":1}").string(), {}, 9).error().code, "ids.invalid");
    EXPECT_EQ(windowsFromIds(write("y.json", "[[1.5]]").string(), {}, 9).error().code, "ids.invalid");
    EXPECT_EQ(windowsFromIds(write("z.json", "[]").string(), {}, 9).error().code, "ids.empty");
    EXPECT_EQ(windowsFromIds((folder / "no.json").string(), {}, 9).error().code, "ids.missing");
}

TEST_F(Windows, IdsFromATensorByName)
{
    const fs::path path = folder / "ids.safetensors";
    auto writer = SafetensorsWriter::create(path, {{"a", DType::I64, {2, 3}}, {"b", DType::I32, {4}}});
    ASSERT_TRUE(writer.ok()) << writer.error().message;
    const std::int64_t a[] = {1, 2, 3, 4, 5, 6};
    const std::int32_t b[] = {7, 8, 9, 10};
    for (const TensorInfo& info : writer->order()) {
        const auto status = info.name == "a" ? writer->write(std::as_bytes(std::span(a))) : writer->write(std::as_bytes(std::span(b)));
        ASSERT_TRUE(status.ok());
    }
    ASSERT_TRUE(writer->finish().ok());
    EXPECT_EQ(windowsFromIds(path.string(), {}, 100).error().code, "ids.no_tensor") << "two tensors and no usual name";
    EXPECT_EQ(windowsFromIds(path.string() + ":a", {}, 100)->rows, (std::vector<std::vector<int>>{{1, 2, 3}, {4, 5, 6}}));
    EXPECT_EQ(windowsFromIds(path.string() + ":c", {}, 100).error().code, "ids.no_tensor");
    EXPECT_EQ(windowsFromIds(path.string() + ":a", {}, 6).error().code, "ids.out_of_range");
    EXPECT_EQ(windowsFromIds(path.string() + ":b", {.windowLength = 2}, 100)->rows, (std::vector<std::vector<int>>{{7, 8}, {9, 10}}));
}
