// Which files of a folder hold the weights: indexes, names in them, and what else lies there.
#include "checkpoint_fixture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace espalier;
using namespace espalier::test;
using testing::HasSubstr;
using testing::IsEmpty;

namespace
{

class TensorFilesOf : public testing::Test
{
protected:
    void SetUp() override
    {
        config = Json::parse(readBytes(kFixtures / "bad/good/config.json"));
        writeBytes(folder.path() / "config.json", config.dump());
        all = declarationsOf(*parseModelConfig(config), DType::F32);
    }
    // The tensors in two files of these names, which the index calls so.
    void shards(const std::vector<std::string>& files, const std::vector<std::string>& called, const Json& metadata)
    {
        Json map = Json::object();
        for (std::size_t half = 0; half < 2; ++half) {
            const auto middle = static_cast<std::ptrdiff_t>(all.size() / 2);
            const std::vector<TensorDeclaration> part(half == 0 ? all.begin() : all.begin() + middle,
                                                      half == 0 ? all.begin() + middle : all.end());
            fs::create_directories((folder.path() / files[half]).parent_path());
            ASSERT_TRUE(writeTensors(folder.path() / files[half], part).ok());
            for (const TensorDeclaration& tensor : part)
                map[tensor.name] = called[half];
        }
        index = {{"weight_map", map}};
        if (metadata != "(absent)") index["metadata"] = metadata;
        writeBytes(folder.path() / "model.safetensors.index.json", index.dump());
    }
    Result<std::shared_ptr<const Checkpoint>> open() const { return Checkpoint::open(folder.path()); }

    TempFolder folder;
    Json config, index;
    std::vector<TensorDeclaration> all;
};

TEST_F(TensorFilesOf, NamesWithinTheFolderAreRead)
{
    const std::vector<std::string> plain = {"a.safetensors", "b.safetensors"};
    for (const auto& [files, called] : std::vector<std::pair<std::vector<std::string>, std::vector<std::string>>>{
             {plain, plain},
             {plain, {"./a.safetensors", "././b.safetensors"}},
             {{"weights/a.safetensors", "b.safetensors"}, {"weights/a.safetensors", "b.safetensors"}},
             {{"weights/more/a.safetensors", "weights/b.safetensors"}, {"./weights/more/a.safetensors", "weights/./b.safetensors"}}}) {
        SCOPED_TRACE(called[0]);
        shards(files, called, Json::object());
        const auto opened = open();
        ASSERT_TRUE(opened.ok()) << opened.error().describe();
        EXPECT_THAT((*opened)->warnings(), IsEmpty());
        EXPECT_THAT((*opened)->shardNames(), testing::UnorderedElementsAre(files[0], files[1]));
    }
}

TEST_F(TensorFilesOf, NamesThatLeadOutOfItAreNot)
{
    for (const std::string& name :
         {std::string("../a.safetensors"), (folder.path() / "a.safetensors").string(), std::string("weights/../../a"),
          std::string("..\\a.safetensors"), std::string("weights//a"), std::string("weights/"), std::string("."), std::string()}) {
        SCOPED_TRACE(name);
        shards({"a.safetensors", "b.safetensors"}, {name, "b.safetensors"}, Json::object());
        const auto refused = open();
        ASSERT_FALSE(refused.ok());
        EXPECT_EQ(refused.error().code, "checkpoint.shard_name");
        EXPECT_THAT(refused.error().message, HasSubstr(Json(name).dump()));
    }
    shards({"a.safetensors", "b.safetensors"}, {"weights/a.safetensors", "b.safetensors"}, Json::object());
    const Error missing = open().error();
    EXPECT_EQ(missing.code, "checkpoint.shard_missing");
    EXPECT_EQ(missing.subject, "weights/a.safetensors");
}

TEST_F(TensorFilesOf, AnIndexNeedsNoMetadata)
{
    const std::vector<std::string> names = {"a.safetensors", "b.safetensors"};
    for (const Json& metadata :
         {Json("(absent)"), Json(nullptr), Json::object(), Json{{"total_size", nullptr}}, Json{{"total_parameters", 7}}}) {
        SCOPED_TRACE(metadata);
        shards(names, names, metadata);
        ASSERT_TRUE(open().ok());
        EXPECT_THAT((*open())->warnings(), IsEmpty());
    }
    writeBytes(folder.path() / "model.safetensors.index.json", "\xEF\xBB\xBF" + index.dump());
    writeBytes(folder.path() / "config.json", "\xEF\xBB\xBF" + config.dump() + "\r\n");
    EXPECT_TRUE(open().ok()) << "a byte order mark is none of the text";
}

// Nobody reads weights under other names: the error says what is there and what to do with it.
TEST_F(TensorFilesOf, OtherNamesAreNamed)
{
    ASSERT_TRUE(writeTensors(folder.path() / "consolidated.safetensors", all).ok());
    const Error one = open().error();
    EXPECT_EQ(one.code, "checkpoint.no_weights");
    EXPECT_THAT(one.message, HasSubstr("it holds consolidated.safetensors."));
    EXPECT_THAT(one.action, HasSubstr("rename it to model.safetensors"));
    ASSERT_TRUE(writeTensors(folder.path() / "model-00001-of-00002.safetensors", all).ok());
    const Error two = open().error();
    EXPECT_THAT(two.message, HasSubstr("it holds consolidated.safetensors and 1 more."));
    EXPECT_THAT(two.action, HasSubstr("Fetch model.safetensors.index.json"));
    writeBytes(folder.path() / "model-q4.gguf", "GGUF");
    EXPECT_THAT(open().error().action, HasSubstr("GGUF"));
    writeBytes(folder.path() / "training_args.bin", "x");
    EXPECT_THAT(open().error().action, HasSubstr("GGUF"));
    writeBytes(folder.path() / "consolidated.00.pth", "x");
    EXPECT_THAT(open().error().action, HasSubstr("consolidated.00.pth can execute code"));
    writeBytes(folder.path() / "pytorch_model-00001-of-00002.bin", "x");
    EXPECT_THAT(open().error().action, HasSubstr("can execute code"));
}

}  // namespace
