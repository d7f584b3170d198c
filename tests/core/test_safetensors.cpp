#include "checkpoint_fixture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

using namespace espalier;
using namespace espalier::test;
using testing::HasSubstr;
using testing::StartsWith;

namespace
{

std::string hex(std::span<const std::byte> bytes)
{
    std::string text;
    for (const std::byte b : bytes)
        text += fmt::format("{:02x}", std::to_integer<int>(b));
    return text;
}

// Opens what `bytes` holds; the file is named as in a checkpoint.
Result<SafetensorsFile> openBytes(const TempFolder& folder, std::string_view bytes)
{
    writeBytes(folder.path() / "model.safetensors", bytes);
    return SafetensorsFile::open(folder.path() / "model.safetensors");
}

Status rewrite(const SafetensorsFile& file, const fs::path& to)
{
    std::vector<TensorDeclaration> declarations;
    for (const TensorInfo& info : file.tensors())
        declarations.push_back({info.name, info.dtype, info.shape});
    std::reverse(declarations.begin(), declarations.end());
    ESPALIER_TRY(SafetensorsWriter writer, SafetensorsWriter::create(to, declarations, file.metadata()));
    for (const TensorInfo& info : writer.order()) {
        std::span<const std::byte> bytes = file.bytes(*file.find(info.name));
        while (bytes.size() > 1000) {  // in pieces
            ESPALIER_CHECK_OK(writer.write(bytes.first(1000)));
            bytes = bytes.subspan(1000);
        }
        ESPALIER_CHECK_OK(writer.write(bytes));
    }
    return writer.finish();
}

TEST(Safetensors, ReadsEveryDtypeAndOddName)
{
    const Json expected = Json::parse(readBytes(kFixtures / "safetensors/mixed.json"));
    auto file = SafetensorsFile::open(kFixtures / "safetensors/mixed.safetensors");
    ASSERT_TRUE(file.ok()) << file.error().describe();
    const Json& tensors = expected.at("tensors");
    ASSERT_EQ(file->tensors().size(), tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const TensorInfo& info = file->tensors()[i];
        EXPECT_EQ(info.name, tensors[i].at("name").get<std::string>());
        EXPECT_EQ(dtypeName(info.dtype), tensors[i].at("dtype").get<std::string>());
        EXPECT_EQ(Json(info.shape), tensors[i].at("shape"));
        EXPECT_EQ(hex(file->bytes(info)), tensors[i].at("bytes").get<std::string>()) << info.name;
        EXPECT_EQ(file->find(info.name), &info);
    }
    EXPECT_EQ(file->find("scalar")->elementCount(), 1);
    EXPECT_EQ(file->find("empty.rows")->elementCount(), 0);
    EXPECT_EQ(file->find("absent"), nullptr);
}

TEST(Safetensors, WriterReproducesTheReferenceFileByteForByte)
{
    const TempFolder folder;
    auto file = SafetensorsFile::open(kFixtures / "safetensors/mixed.safetensors");
    ASSERT_TRUE(file.ok());
    const Status status = rewrite(*file, folder.path() / "out.safetensors");
    ASSERT_TRUE(status.ok()) << status.error().describe();
    EXPECT_EQ(readBytes(folder.path() / "out.safetensors"), readBytes(kFixtures / "safetensors/mixed.safetensors"));
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1) << "a temporary file was left";
}

TEST(Safetensors, WriterReproducesEveryPublishedFixture)
{
    const TempFolder folder;
    int files = 0;
    for (const auto& entry : fs::recursive_directory_iterator(kModels)) {
        if (entry.path().extension() != ".safetensors") continue;
        auto file = SafetensorsFile::open(entry.path());
        ASSERT_TRUE(file.ok()) << file.error().describe();
        ASSERT_TRUE(rewrite(*file, folder.path() / "out.safetensors").ok());
        EXPECT_EQ(readBytes(folder.path() / "out.safetensors"), readBytes(entry.path())) << entry.path();
        ++files;
    }
    EXPECT_GE(files, 19);
}

TEST(Safetensors, WriterLeavesNothingBehindWhenAbandoned)
{
    const TempFolder folder;
    {
        auto writer = SafetensorsWriter::create(folder.path() / "x.safetensors", {{"a", DType::F32, {4}}});
        ASSERT_TRUE(writer.ok());
        const std::array<std::byte, 8> half{};
        ASSERT_TRUE(writer->write(half).ok());
        EXPECT_EQ(writer->next(), 0u);
        EXPECT_EQ(writer->finish().error().code, "internal.bug");
        const std::array<std::byte, 12> tooMuch{};
        EXPECT_EQ(writer->write(tooMuch).error().code, "internal.bug");
    }
    EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Safetensors, WriterRefusesWhatNoReaderAccepts)
{
    const TempFolder folder;
    const fs::path path = folder.path() / "x.safetensors";
    const std::int64_t huge = std::int64_t(1) << 40;
    EXPECT_EQ(SafetensorsWriter::create(path, {{"a", DType::F32, {1}}, {"a", DType::I8, {1}}}).error().code, "checkpoint.duplicate_tensor");
    EXPECT_EQ(SafetensorsWriter::create(path, {{"a", DType::F32, {huge, huge}}}).error().code, "checkpoint.tensor_size");
    EXPECT_EQ(SafetensorsWriter::create(path, {{"a", DType::F4, {3}}}).error().code, "checkpoint.tensor_size");
    EXPECT_EQ(SafetensorsWriter::create(path, {{"a", DType::F32, {-1}}}).error().code, "checkpoint.tensor_size");
    EXPECT_EQ(SafetensorsWriter::create(path, {{"__metadata__", DType::F32, {1}}}).error().code, "checkpoint.tensor_size");
    EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Safetensors, AcceptsSubByteTypesWholeBytesOnly)
{
    const TempFolder folder;
    EXPECT_TRUE(openBytes(folder, rawFile(R"({"a":{"dtype":"F4","shape":[2,3],"data_offsets":[0,3]}})", 3)).ok());
    EXPECT_TRUE(openBytes(folder, rawFile(R"({"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}})", 3)).ok());
    const auto odd = openBytes(folder, rawFile(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2));
    EXPECT_EQ(odd.error().code, "checkpoint.tensor_size");
}

struct BadHeader {
    const char* header;
    std::size_t data;
    const char* code;
    const char* names;  // a text of the message
};

TEST(Safetensors, RefusesEveryDeviationFromTheFormat)
{
    const std::string longName(2000, 'n');
    const std::string longHeader = R"({")" + longName + R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
    const BadHeader cases[] = {
        {R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", 1, "checkpoint.tensor_entry", "shape"},
        {R"({"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}})", 1, "checkpoint.tensor_entry", "1e0"},
        {R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", 1, "checkpoint.tensor_entry", "-1"},
        {R"({"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}})", 1, "checkpoint.tensor_entry", "boolean"},
        {R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", 1, "checkpoint.tensor_entry", "a list"},
        {R"({"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}})", 1, "checkpoint.tensor_entry", "shape"},
        {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 1, "checkpoint.tensor_entry", "1 data_offsets"},
        {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}})", 1, "checkpoint.tensor_entry", "more than two"},
        {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,"1"]}})", 1, "checkpoint.tensor_entry", "a string"},
        {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,281474976710657]}})", 1, "checkpoint.tensor_entry", "281474976710657"},
        {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551616]}})", 1, "checkpoint.tensor_entry", "data_offsets"},
        {R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1, "checkpoint.tensor_entry", "dimensions"},
        {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"extra":1}})", 1, "checkpoint.tensor_entry", "extra"},
        {R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1, "checkpoint.tensor_entry", "twice"},
        {R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1, "checkpoint.tensor_entry", "dtype"},
        {R"({"a":{"dtype":8,"shape":[1],"data_offsets":[0,1]}})", 1, "checkpoint.tensor_entry", "dtype"},
        {R"({"a":7})", 1, "checkpoint.tensor_entry", "7"},
        {R"({"a":{"dtype":"u8","shape":[1],"data_offsets":[0,1]}})", 1, "checkpoint.dtype_unknown", "u8"},
        {R"({"a\u0007":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1, "checkpoint.tensor_entry", "control character"},
        {longHeader.c_str(), 1, "checkpoint.tensor_entry", "2000 bytes"},
        {R"({"__metadata__":{"a":"b","a":"c"}})", 0, "checkpoint.header_invalid", "twice"},
        {R"({"__metadata__":{},"__metadata__":{}})", 0, "checkpoint.header_invalid", "twice"},
        {R"({"__metadata__":[]})", 0, "checkpoint.header_invalid", "__metadata__"},
        {R"({"__metadata__":{"a":{}}})", 0, "checkpoint.header_invalid", "__metadata__"},
        // Zero bytes each, so that offsets alone would not give them away.
        {R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", 0,
         "checkpoint.duplicate_tensor", "a"},
        {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0, "checkpoint.tensor_size", "a"},
        {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", 3, "checkpoint.tensor_offsets", "a"},
        {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 3, "checkpoint.tensor_offsets", "1 bytes"},
        {R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]}})", 3, "checkpoint.truncated", "2 bytes"},
        {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}} x)", 1, "checkpoint.header_invalid", "JSON"},
        {"", 0, "checkpoint.header_invalid", "{"},
        {R"( {})", 0, "checkpoint.header_invalid", "{"},
        {"{\"\xFF\":1}", 0, "checkpoint.header_invalid", "UTF-8"},
    };
    const TempFolder folder;
    for (const BadHeader& bad : cases) {
        SCOPED_TRACE(std::string(bad.header).substr(0, 120));
        const auto file = openBytes(folder, rawFile(bad.header, bad.data));
        ASSERT_FALSE(file.ok());
        EXPECT_EQ(file.error().code, bad.code) << file.error().message;
        EXPECT_EQ(file.error().exitCode(), 3);
        EXPECT_EQ(file.error().subject, "model.safetensors");
        EXPECT_THAT(file.error().message, HasSubstr("model.safetensors"));
        EXPECT_THAT(file.error().message, HasSubstr(bad.names));
        EXPECT_FALSE(file.error().action.empty());
    }
    // A NUL would end the text for the JSON scanner and hide what follows.
    const auto hidden = openBytes(folder, rawFile(std::string("{}\0garbage", 10), 0));
    EXPECT_EQ(hidden.error().code, "checkpoint.header_invalid");
    const auto deep = openBytes(folder, rawFile("{\"a\":" + std::string(50'000, '['), 0));
    EXPECT_EQ(deep.error().code, "checkpoint.tensor_entry");
    // Padding with spaces, an empty file of tensors, trailing empty tensors are legal.
    EXPECT_TRUE(openBytes(folder, rawFile("{}      ", 0)).ok());
    EXPECT_TRUE(
        openBytes(
            folder,
            rawFile(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}})", 1))
            .ok());
}

// As the reference reads it: null and an empty map are no metadata, anything else but a map of strings is refused.
TEST(Safetensors, MetadataMayBeAbsentEmptyOrNull)
{
    const TempFolder folder;
    const std::string tensor = R"("w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
    for (const std::string& header : {"{" + tensor + "}", R"({"__metadata__":{},)" + tensor + "}",
                                      R"({"__metadata__":null,)" + tensor + "}", "{" + tensor + R"(,"__metadata__":null})"}) {
        writeBytes(folder.path() / "m.safetensors", rawFile(header, 4));
        const auto file = SafetensorsFile::open(folder.path() / "m.safetensors");
        ASSERT_TRUE(file.ok()) << header << file.error().describe();
        EXPECT_TRUE(file->metadata().empty());
        EXPECT_EQ(file->tensors().size(), 1u);
    }
    for (const char* value : {"false", "1", "\"x\"", "[]", R"({"a":null})", R"({"a":1})", R"({"a":["x"]})"}) {
        writeBytes(folder.path() / "m.safetensors", rawFile(std::string(R"({"__metadata__":)") + value + "," + tensor + "}", 4));
        const auto file = SafetensorsFile::open(folder.path() / "m.safetensors");
        ASSERT_FALSE(file.ok()) << value;
        EXPECT_EQ(file.error().code, "checkpoint.header_invalid");
    }
}

TEST(Safetensors, MissingFileAndFolderInPlaceOfAFile)
{
    const TempFolder folder;
    EXPECT_EQ(SafetensorsFile::open(folder.path() / "no.safetensors").error().code, "checkpoint.missing");
    EXPECT_EQ(SafetensorsFile::open(folder.path()).error().code, "checkpoint.unreadable");
}

void expectSound(const Result<SafetensorsFile>& file)
{
    if (!file.ok()) {
        EXPECT_THAT(file.error().code, StartsWith("checkpoint."));
        EXPECT_FALSE(file.error().message.empty());
        return;
    }
    // What opened lies inside the file, tensor after tensor.
    std::uint64_t at = 0;
    for (const TensorInfo& info : file->tensors()) {
        ASSERT_EQ(info.begin, at);
        at = info.end;
        ASSERT_EQ(file->bytes(info).size(), info.byteCount());
    }
    ASSERT_EQ(file->dataOffset() + at, file->file().size());
}

TEST(Safetensors, TruncatedAnywhereNeverOpens)
{
    const TempFolder folder;
    const std::string whole = readBytes(kFixtures / "safetensors/mixed.safetensors");
    for (std::size_t length = 0; length < whole.size(); ++length) {
        const auto file = openBytes(folder, std::string_view(whole).substr(0, length));
        ASSERT_FALSE(file.ok()) << length;
        EXPECT_THAT(file.error().code, StartsWith("checkpoint."));
    }
}

TEST(Safetensors, AnyFlippedBitOpensSoundlyOrSaysWhy)
{
    const TempFolder folder;
    const std::string whole = readBytes(kFixtures / "safetensors/mixed.safetensors");
    for (std::size_t i = 0; i < whole.size(); ++i)
        for (int bit = 0; bit < 8; ++bit) {
            std::string damaged = whole;
            damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
            expectSound(openBytes(folder, damaged));
        }
}

TEST(Safetensors, SplicedHeadersOpenSoundlyOrSayWhy)
{
    const TempFolder folder;
    const std::string whole = readBytes(kFixtures / "safetensors/mixed.safetensors");
    auto reference = SafetensorsFile::open(kFixtures / "safetensors/mixed.safetensors");
    ASSERT_TRUE(reference.ok());
    const std::string header(reference->header());
    const std::string data = whole.substr(reference->dataOffset());
    const std::vector<std::string> pieces = {"0",
                                             "-0",
                                             "1e3",
                                             "281474976710656",
                                             "18446744073709551615",
                                             "null",
                                             "{}",
                                             "[]",
                                             "\"\"",
                                             "\"U8\"",
                                             ",",
                                             ":",
                                             "}",
                                             "]",
                                             "{",
                                             "[",
                                             "\\u0000",
                                             "\"__metadata__\":{},",
                                             "\xC3",
                                             std::string(1, '\0'),
                                             "[[[[",
                                             "99999999999999999999"};
    std::mt19937_64 random(20260917);
    for (int round = 0; round < 4000; ++round) {
        std::string text = header;
        for (int edits = 1 + static_cast<int>(random() % 3); edits > 0; --edits) {
            const std::size_t at = random() % text.size();
            const std::size_t length = random() % 3 == 0 ? random() % 40 : random() % 3;
            switch (random() % 3) {
                case 0:
                    text.replace(at, std::min(length, text.size() - at), pieces[random() % pieces.size()]);
                    break;
                case 1:
                    text.insert(at, text.substr(random() % text.size(), length));
                    break;
                default:
                    text.erase(at, length);
            }
            if (text.empty()) text = "{";
        }
        std::string file = rawFile(text, 0) + data;
        expectSound(openBytes(folder, file));
    }
}

}  // namespace
