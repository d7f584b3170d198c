#include "tokenizer/text_file.h"

#include <gtest/gtest.h>

#include <string>

using namespace espalier;

namespace
{

Result<TextFile> read(const std::string& bytes, const std::string& name = "a.txt", const TextFileOptions& options = {})
{
    return textDocuments(bytes, name, options);
}

std::string codeOf(const std::string& bytes, const std::string& name = "a.txt", const TextFileOptions& options = {})
{
    const auto file = read(bytes, name, options);
    return file.ok() ? "ok: " + file->text : file.error().code;
}

using namespace std::string_literals;

}  // namespace

TEST(TextFile, PlainTextStaysAsItIs)
{
    for (const std::string text :
         {"", "one\n", "  spaces\r\n\r\n", "[1] A footnote, not JSON.\n", "{not json}\nmore\n", "\"quoted,\" she said\n",
          "ORC and GGUF are names, PAR1 is one too\n", "nul \0 inside a long enough text"}) {
        const auto file = read(text);
        ASSERT_TRUE(file.ok()) << file.error().message;
        EXPECT_EQ(file->text, text);
        EXPECT_EQ(file->texts, 0);
        EXPECT_TRUE(file->warnings.empty());
    }
}

TEST(TextFile, JsonTextsAreJoinedByBlankLines)
{
    const std::string expected = "first\nline\n\n\n\nthird \u00e9";
    const std::string lines = "{\"id\": 1, \"text\": \"first\\nline\"}\n\n{\"text\": \"\", \"id\": 2}\r\n{\"text\": \"third \\u00e9\"}\n";
    for (const char* name : {"a.jsonl", "a.txt", "a.json", "a"}) {
        const auto file = read(lines, name);
        ASSERT_TRUE(file.ok()) << name << ": " << file.error().message;
        EXPECT_EQ(file->text, expected) << name;
        EXPECT_EQ(file->texts, 3);
        EXPECT_EQ(file->field, "text");
    }
    for (const char* document :
         {R"(["first\nline", "", "third \u00e9"])", R"([{"text": "first\nline"}, {"text": ""}, {"text": "third \u00e9"}])",
          R"({"text": ["first\nline", "", "third \u00e9"]})",
          R"({"version": 1, "data": [{"text": "first\nline"}, {"text": ""}, {"text": "third \u00e9"}]})",
          "[\n  \"first\\nline\",\n  \"\",\n  \"third \\u00e9\"\n]\n"})
        EXPECT_EQ(codeOf(document, "a.json"), "ok: " + expected) << document;
    EXPECT_EQ(codeOf("\"one\"\n\"two\"\n", "a.jsonl"), "ok: one\n\ntwo");
}

TEST(TextFile, TheFieldIsTheUsualOneOrTheOnlyOneOrChosen)
{
    const auto content = read("{\"url\": \"u\", \"content\": \"x\"}\n{\"url\": \"v\", \"content\": \"y\"}\n", "a.jsonl");
    ASSERT_TRUE(content.ok()) << content.error().message;
    EXPECT_EQ(content->text, "x\n\ny");
    EXPECT_EQ(content->field, "content");
    EXPECT_EQ(content->warnings.size(), 1u);
    EXPECT_EQ(codeOf("{\"poem\": \"x\", \"n\": 1}\n{\"poem\": \"y\", \"n\": 2}\n"), "ok: x\n\ny");
    const std::string two = "{\"question\": \"q\", \"answer\": \"a\"}\n{\"question\": \"r\", \"answer\": \"b\"}\n";
    const auto unclear = read(two, "a.jsonl");
    ASSERT_FALSE(unclear.ok());
    EXPECT_EQ(unclear.error().code, "text.no_field");
    EXPECT_NE(unclear.error().message.find("answer, question"), std::string::npos) << unclear.error().message;
    EXPECT_EQ(codeOf(two, "a.jsonl", {.field = "answer"}), "ok: a\n\nb");
    EXPECT_EQ(codeOf("{\"text\": \"x\"}\n{\"body\": \"y\"}\n"), "text.no_field");
    EXPECT_EQ(codeOf("{\"text\": 5}\n{\"text\": 6}\n"), "text.no_field");
    const auto turns = read("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n{\"messages\": []}\n", "a.jsonl");
    EXPECT_NE(turns.error().action.find("chat template"), std::string::npos);
}

TEST(TextFile, JsonThatIsNotWhatItLookedLikeIsNotTakenForTextInSilence)
{
    const std::string broken = "{\"text\": \"one\"}\n{\"text\": \"two\"\n{\"text\": \"three\"}\n";
    const auto lines = read(broken, "a.jsonl");
    ASSERT_FALSE(lines.ok());
    EXPECT_EQ(lines.error().code, "text.invalid_line");
    EXPECT_NE(lines.error().message.find("line 2"), std::string::npos) << lines.error().message;
    const auto text = read(broken, "a.txt");
    ASSERT_TRUE(text.ok());
    EXPECT_EQ(text->text, broken);
    ASSERT_EQ(text->warnings.size(), 1u);
    EXPECT_NE(text->warnings[0].find("line 2"), std::string::npos) << text->warnings[0];
    EXPECT_EQ(codeOf(broken, "a.jsonl", {.form = TextForm::Plain}), "ok: " + broken);
    EXPECT_EQ(codeOf("{\"text\": ", "a.json"), "text.invalid_line");
    EXPECT_EQ(codeOf("hello", "a.json"), "text.invalid_line");
    EXPECT_EQ(codeOf("[]", "a.json"), "text.empty");
    const auto ids = read("[[1, 2, 3], [4, 5]]", "ids.json");
    ASSERT_FALSE(ids.ok());
    EXPECT_NE(ids.error().action.find("--ids"), std::string::npos);
    EXPECT_EQ(codeOf("[1, 2]", "a.txt"), "text.invalid_line");
}

TEST(TextFile, OtherFormsAreRefusedByName)
{
    const std::pair<std::string, const char*> files[] = {
        {"\x1F\x8B\x08\0\0rest"s, "gzip"},
        {"\x28\xB5\x2F\xFD rest"s, "zstd"},
        {"\xFD\x37zXZ\0rest"s, "xz"},
        {"BZh91AY&SY\x01\0\xFFrest"s, "bzip2"},
        {"PK\x03\x04\x14\0rest"s, "zip"},
        {"PAR1\x15\x04\0\0\x80\xFF..PAR1"s, "Parquet"},
        {"PAR1 text PAR1"s, "Parquet"},
        {"ARROW1\0\0rest"s, "Arrow"},
        {"\xFF\xFF\xFF\xFF\x10\0\0\0"s, "Arrow"},
        {"%PDF-1.7\n%\xE2\xE3"s, "PDF"},
        {"{\\rtf1\\ansi x}"s, "rich text"},
        {"\x89HDF\r\n\x1A\n"s, "HDF5"},
        {"SQLite format 3\0"s, "SQLite"},
        {"GGUF\x03\0\0\0"s, "GGUF"},
        {"\x93NUMPY\x01\0"s, "NumPy"},
        {"\x60\0\0\0\0\0\0\0{\"x\":{}}"s, "safetensors"},
        {"\xFF\xFEh\0i\0"s, "UTF-16"},
        {"\xFE\xFF\0h\0i"s, "UTF-16"},
        {"\xFF\xFE\0\0h\0\0\0"s, "UTF-32"},
        {"h\0e\0l\0l\0o\0"s, "NUL"},
        {std::string(257, 'x') + "ustar\0"s + std::string(300, '\0'), "tar"},
    };
    for (const auto& [bytes, name] : files) {
        const auto file = read(bytes);
        ASSERT_FALSE(file.ok()) << name;
        EXPECT_EQ(file.error().code, "text.other_form") << name;
        EXPECT_EQ(file.error().exitCode(), 3);
        EXPECT_NE(file.error().message.find(name), std::string::npos) << file.error().message;
        EXPECT_FALSE(file.error().action.empty());
    }
    EXPECT_EQ(codeOf("text,label\nx,1\n", "a.csv"), "text.other_form");
    EXPECT_EQ(codeOf("text,label\nx,1\n", "a.csv", {.form = TextForm::Plain}), "ok: text,label\nx,1\n");
    EXPECT_EQ(codeOf("caf\xE9 au lait"), "text.invalid_utf8");
}

TEST(TextFile, MarkupIsTakenAsItStandsAndSaid)
{
    const auto warned = [](const std::string& bytes, const std::string& name, const TextFileOptions& options = {}) {
        const auto file = read(bytes, name, options);
        EXPECT_TRUE(file.ok());
        EXPECT_EQ(file->text, bytes);
        return file->warnings.empty() ? std::string() : file->warnings.at(0);
    };
    EXPECT_EQ(warned("<p>x</p>", "a.htm"), "a.htm is HTML, taken as it stands: its tags count as text.");
    EXPECT_EQ(warned("\n<!DOCTYPE HTML>\n<html>", "a.txt"), "a.txt is HTML, taken as it stands: its tags count as text.");
    EXPECT_EQ(warned("<?xml version=\"1.0\"?><d/>", "a"), "a is XML, taken as it stands: its tags count as text.");
    EXPECT_EQ(warned("<p>x</p>", "a.htm", {.form = TextForm::Plain}), "");
    EXPECT_EQ(warned("<doc> <a href> in prose", "a.txt"), "");
}

TEST(TextFile, AByteOrderMarkIsLeftOutAndSaid)
{
    const auto file = read("\xEF\xBB\xBFhello");
    ASSERT_TRUE(file.ok());
    EXPECT_EQ(file->text, "hello");
    EXPECT_EQ(file->warnings.size(), 1u);
    EXPECT_EQ(codeOf("\xEF\xBB\xBF{\"text\": \"x\"}\n{\"text\": \"y\"}\n", "a.jsonl"), "ok: x\n\ny");
}
