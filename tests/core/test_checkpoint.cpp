#include "checkpoint/tensor_names.h"
#include "checkpoint_fixture.h"
#include "counting_allocator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>

using namespace espalier;
using namespace espalier::test;
using testing::ElementsAre;
using testing::HasSubstr;

namespace
{

Json cases()
{
    Json open = Json::array();
    const Json manifest = Json::parse(readBytes(kFixtures / "bad/manifest.json"));
    for (const Json& item : manifest.at("cases"))
        if (item.at("stage") != "tokenize") open.push_back(item);
    return open;
}

// "a|b": either.
bool names(const std::string& text, const std::string& wanted)
{
    std::size_t begin = 0;
    while (true) {
        const std::size_t bar = wanted.find('|', begin);
        if (text.find(wanted.substr(begin, bar - begin)) != std::string::npos) return true;
        if (bar == std::string::npos) return false;
        begin = bar + 1;
    }
}

std::uint64_t folderBytes(const fs::path& folder)
{
    std::uint64_t sum = 0;
    for (const auto& entry : fs::directory_iterator(folder))
        if (entry.is_regular_file()) sum += entry.file_size();
    return sum;
}

TEST(Checkpoint, EveryDamagedFolderSaysWhatIsWrong)
{
    int count = 0;
    for (const Json& item : cases()) {
        const fs::path folder = kFixtures / "bad" / item.at("folder").get<std::string>();
        SCOPED_TRACE(folder.filename());
        ASSERT_TRUE(fs::exists(folder));
        ++count;
        // A folder whose fault is in the weights opens; the forward pass finds it.
        const std::string outcome = item.at("stage") == "open" ? item.at("outcome").get<std::string>() : "ok";
        largestAllocation = 0;
        const auto start = std::chrono::steady_clock::now();
        const auto checkpoint = Checkpoint::open(folder);
        EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
        EXPECT_LE(largestAllocation, folderBytes(folder) + 16384) << "an allocation larger than what was read";
        if (outcome == "error") {
            ASSERT_FALSE(checkpoint.ok());
            const Error& error = checkpoint.error();
            for (const Json& wanted : item.at("must_name"))
                EXPECT_TRUE(names(error.message, wanted)) << wanted << " is not in: " << error.message;
            EXPECT_TRUE(error.code.starts_with("checkpoint.") || error.code.starts_with("config.")) << error.code;
            EXPECT_TRUE(error.exitCode() == 3 || error.exitCode() == 6) << error.exitCode();
            EXPECT_FALSE(error.subject.empty());
            EXPECT_EQ(error.kept, "Nothing was loaded.");
            EXPECT_FALSE(error.action.empty()) << error.code;
            // The same through inspect, unless it is only that the model cannot be run.
            const auto inspected = inspect(folder);
            if (error.exitCode() == 3)
                EXPECT_EQ(inspected.error().code, error.code);
            else
                EXPECT_TRUE(inspected.ok());
        } else {
            ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().describe();
            const std::vector<std::string>& warnings = (*checkpoint)->warnings();
            EXPECT_EQ(warnings.size(), outcome == "warning" ? 1u : 0u);
            if (outcome != "warning") continue;
            for (const Json& wanted : item.at("must_name"))
                EXPECT_TRUE(names(warnings.front(), wanted)) << wanted << " is not in: " << warnings.front();
        }
    }
    EXPECT_GE(count, 50);
}

TEST(Checkpoint, UnknownArchitectureIsExitSixAndCanBeInspected)
{
    const fs::path folder = kFixtures / "bad/unknown-model-type";
    const auto checkpoint = Checkpoint::open(folder);
    ASSERT_FALSE(checkpoint.ok());
    EXPECT_EQ(checkpoint.error().code, "checkpoint.architecture_unsupported");
    EXPECT_EQ(checkpoint.error().exitCode(), 6);
    for (const std::string& type : supportedModelTypes())
        EXPECT_THAT(checkpoint.error().message, HasSubstr(type));
    const auto inspected = inspect(folder);
    ASSERT_TRUE(inspected.ok()) << inspected.error().describe();
    EXPECT_FALSE(inspected->forwardSupported);
    EXPECT_EQ(inspected->warnings.front(), checkpoint.error().message);
    ASSERT_EQ(inspected->layers.size(), 1u);
    EXPECT_EQ(inspected->layers[0].experts, 4);
    EXPECT_EQ(inspected->layers[0].topK, 2);
    EXPECT_EQ(inspected->layers[0].expertParameters, 3 * 16 * 8);
    // What a supported copy of it counts.
    const auto good = inspect(kFixtures / "bad/good");
    ASSERT_TRUE(good.ok());
    EXPECT_EQ(inspected->parameters, good->parameters);
    EXPECT_EQ(inspected->activeParameters, good->activeParameters);
    EXPECT_EQ(inspected->bytes, good->bytes);
}

TEST(Checkpoint, ViewsByRole)
{
    const auto opened = Checkpoint::open(kFixtures / "bad/good");
    ASSERT_TRUE(opened.ok());
    const Checkpoint& model = **opened;
    EXPECT_THAT(model.embed().shape, ElementsAre(32, 16));
    EXPECT_THAT(model.lmHead().shape, ElementsAre(32, 16));
    EXPECT_EQ(model.lmHead().name, "lm_head.weight");
    EXPECT_THAT(model.finalNorm().shape, ElementsAre(16));
    EXPECT_THAT(model.router(0).shape, ElementsAre(4, 16));
    EXPECT_FALSE(model.routerBias(0));
    EXPECT_FALSE(model.sharedExpert(0, Matrix::Gate));
    EXPECT_FALSE(model.sharedGate(0));
    EXPECT_EQ(model.expert(0, 3, Matrix::Gate).dense.name, "model.layers.0.block_sparse_moe.experts.3.w1.weight");
    EXPECT_EQ(model.expert(0, 3, Matrix::Up).dense.name, "model.layers.0.block_sparse_moe.experts.3.w3.weight");
    EXPECT_EQ(model.expert(0, 3, Matrix::Down).dense.name, "model.layers.0.block_sparse_moe.experts.3.w2.weight");
    EXPECT_THAT(model.expert(0, 3, Matrix::Down).dense.shape, ElementsAre(16, 8));
    EXPECT_EQ(model.layerTensor(0, "self_attn.q_proj.weight")->name, "model.layers.0.self_attn.q_proj.weight");
    const auto absent = model.layerTensor(7, "self_attn.q_proj.weight");
    EXPECT_EQ(absent.error().code, "checkpoint.tensor_missing");
    const auto all = model.tensorsInOrder();
    ASSERT_EQ(static_cast<std::int64_t>(all.size()), model.tensorCount());
    std::int64_t bytes = 0;
    int experts = 0;
    for (const StoredTensor& stored : all) {
        bytes += static_cast<std::int64_t>(stored.view.bytes.size());
        experts += stored.role.kind == TensorRole::Kind::Expert;
        EXPECT_EQ(stored.shard, "model.safetensors");
    }
    EXPECT_EQ(experts, 12);
    EXPECT_EQ(bytes, model.shape().bytes());
    EXPECT_EQ(model.fingerprint().size(), 64u);
    EXPECT_EQ(model.configSha256(), sha256Hex(readBytes(kFixtures / "bad/good/config.json")));
    int asked = 0;
    model.readLayer(0, [&] { return ++asked > 0; });
    EXPECT_GT(asked, 0);
    model.dontNeedLayer(0);
    model.readLayer(99, [] { return true; });
}

TEST(Checkpoint, RolesAreReadByWholeComponents)
{
    const auto opened = Checkpoint::open(kFixtures / "bad/good");
    ASSERT_TRUE(opened.ok());
    const TensorRole role = (*opened)->roleOf("model.layers.0.block_sparse_moe.experts.2.w3.weight");
    EXPECT_EQ(role.kind, TensorRole::Kind::Expert);
    EXPECT_EQ(role.layer, 0);
    EXPECT_EQ(role.expert, 2);
    EXPECT_EQ(role.matrix, Matrix::Up);
    EXPECT_EQ((*opened)->roleOf("model.layers.0.block_sparse_moe.gate.weight").kind, TensorRole::Kind::Router);
    EXPECT_EQ((*opened)->roleOf("model.norm.weight").kind, TensorRole::Kind::Other);
    EXPECT_EQ((*opened)->roleOf("model.layers.0.block_sparse_moe.experts.02.w3.weight").kind, TensorRole::Kind::Ignored);
    EXPECT_EQ((*opened)->roleOf("absent").kind, TensorRole::Kind::Ignored);
}

TEST(Checkpoint, FingerprintTellsFineTunedCopiesApart)
{
    const TempFolder folder;
    fs::copy(kFixtures / "bad/good", folder.path(), fs::copy_options::recursive);
    const auto good = Checkpoint::open(kFixtures / "bad/good");
    const auto copy = Checkpoint::open(folder.path());
    ASSERT_TRUE(good.ok() && copy.ok());
    EXPECT_EQ((*good)->fingerprint(), (*copy)->fingerprint()) << "the place does not count";
    std::string bytes = readBytes(folder.path() / "model.safetensors");
    for (std::size_t i = (*good)->tensorsInOrder().size() * 130; i < bytes.size(); i += 5)
        bytes[i] = static_cast<char>(bytes[i] ^ 1);
    writeBytes(folder.path() / "model.safetensors", bytes);
    const auto tuned = Checkpoint::open(folder.path());
    ASSERT_TRUE(tuned.ok()) << tuned.error().describe();
    EXPECT_NE((*good)->fingerprint(), (*tuned)->fingerprint());
    EXPECT_EQ((*good)->weightsSha256(), (*tuned)->weightsSha256());
}

TEST(Checkpoint, LinkedFilesOfACacheOpen)
{
    const TempFolder folder;
    for (const char* name : {"config.json", "model.safetensors"})
        fs::create_symlink(fs::canonical(kFixtures / "bad/good" / name), folder.path() / name);
    EXPECT_TRUE(Checkpoint::open(folder.path()).ok());
    fs::remove(folder.path() / "model.safetensors");
    fs::create_symlink("nowhere", folder.path() / "model.safetensors");
    const Error broken = Checkpoint::open(folder.path()).error();
    EXPECT_EQ(broken.code, "checkpoint.link_broken");
    EXPECT_THAT(broken.message, HasSubstr("model.safetensors is a link to nowhere, which is not there"));
}

// As huggingface_hub lays them out: names in a snapshot are links to blobs, refs/main holds the name of a snapshot.
TEST(Checkpoint, CacheFoldersPointToTheirSnapshot)
{
    const TempFolder hub;
    const fs::path model = hub.path() / "models--some--moe";
    const fs::path snapshot = model / "snapshots" / "abc123";
    fs::create_directories(snapshot);
    fs::create_directories(model / "blobs");
    fs::create_directories(model / "refs");
    writeBytes(model / "refs" / "main", "abc123\n");
    fs::create_directories(model / "snapshots" / "older");
    for (const char* name : {"config.json", "model.safetensors"}) {
        fs::copy(kFixtures / "bad/good" / name, model / "blobs" / name);
        fs::create_symlink(fs::path("../../blobs") / name, snapshot / name);
    }
    EXPECT_TRUE(Checkpoint::open(snapshot).ok());
    for (const fs::path& opened : {model, model / "snapshots", model / "refs", hub.path()}) {
        const auto refused = Checkpoint::open(opened);
        ASSERT_FALSE(refused.ok()) << opened;
        EXPECT_EQ(refused.error().code, "config.missing");
        EXPECT_THAT(refused.error().action, HasSubstr(snapshot.string())) << opened;
    }
    // Nothing says which of two is meant: both are named.
    fs::remove(model / "refs" / "main");
    EXPECT_THAT(Checkpoint::open(model).error().action, HasSubstr("abc123, older"));
    // A blob that is not there.
    fs::remove(model / "blobs" / "model.safetensors");
    EXPECT_EQ(Checkpoint::open(snapshot).error().code, "checkpoint.link_broken");
    fs::remove(model / "blobs" / "config.json");
    EXPECT_THAT(Checkpoint::open(snapshot).error().message, HasSubstr("config.json is a link to ../../blobs/config.json"));
}

TEST(Checkpoint, AStrayFileBesideCompleteShardsIsNamed)
{
    const TempFolder folder;
    const Json config = Json::parse(readBytes(kFixtures / "bad/good/config.json"));
    writeBytes(folder.path() / "config.json", config.dump());
    std::vector<TensorDeclaration> all = declarationsOf(*parseModelConfig(config), DType::F32);
    const std::vector<TensorDeclaration> first(all.begin(), all.begin() + 5), second(all.begin() + 5, all.end());
    ASSERT_TRUE(writeTensors(folder.path() / "a.safetensors", first).ok());
    ASSERT_TRUE(writeTensors(folder.path() / "b.safetensors", second).ok());
    Json map = Json::object();
    for (const TensorDeclaration& tensor : first)
        map[tensor.name] = "a.safetensors";
    for (const TensorDeclaration& tensor : second)
        map[tensor.name] = "b.safetensors";
    writeBytes(folder.path() / "model.safetensors.index.json", Json{{"weight_map", map}}.dump());
    const auto names = [&] {
        const auto opened = Checkpoint::open(folder.path());
        EXPECT_TRUE(opened.ok()) << opened.error().describe();
        return opened.ok() ? std::pair((*opened)->shardNames(), (*opened)->warnings())
                           : std::pair<std::vector<std::string>, std::vector<std::string>>();
    };
    EXPECT_THAT(names().second, testing::IsEmpty());
    // Only a part of the tensors, then no safetensors file at all.
    ASSERT_TRUE(writeTensors(folder.path() / "model.safetensors", first).ok());
    EXPECT_THAT(names().first, ElementsAre("a.safetensors", "b.safetensors"));
    EXPECT_THAT(names().second,
                ElementsAre(testing::AllOf(HasSubstr("model.safetensors and model.safetensors.index.json"), HasSubstr("lacks"))));
    writeBytes(folder.path() / "model.safetensors", "<html>");
    EXPECT_THAT(names().first, ElementsAre("a.safetensors", "b.safetensors"));
    // All of them: what transformers takes is taken, also where the shards are gone.
    ASSERT_TRUE(writeTensors(folder.path() / "model.safetensors", all).ok());
    EXPECT_THAT(names().first, ElementsAre("model.safetensors"));
    fs::remove(folder.path() / "b.safetensors");
    EXPECT_THAT(names().first, ElementsAre("model.safetensors"));
    EXPECT_THAT(names().second, ElementsAre(HasSubstr("b.safetensors")));
    // Neither is whole: the first is what is judged.
    ASSERT_TRUE(writeTensors(folder.path() / "model.safetensors", first).ok());
    EXPECT_EQ(Checkpoint::open(folder.path()).error().code, "checkpoint.tensor_missing");
}

TEST(Checkpoint, FolderThatIsNone)
{
    EXPECT_EQ(Checkpoint::open("/nonexistent/model").error().code, "checkpoint.folder_missing");
    EXPECT_EQ(Checkpoint::open(kFixtures / "bad/good/config.json").error().code, "checkpoint.folder_missing");
}

TEST(Checkpoint, TensorsBesideTheModel)
{
    const Json config = Json::parse(readBytes(kFixtures / "bad/good/config.json"));
    const ModelConfig parsed = *parseModelConfig(config);
    const auto openWith = [&](std::vector<TensorDeclaration> extra) {
        const TempFolder folder;
        writeBytes(folder.path() / "config.json", config.dump());
        std::vector<TensorDeclaration> tensors = declarationsOf(parsed, DType::F32);
        tensors.insert(tensors.end(), extra.begin(), extra.end());
        EXPECT_TRUE(writeTensors(folder.path() / "model.safetensors", tensors).ok());
        return Checkpoint::open(folder.path());
    };
    // A prediction layer after the last one is left alone.
    const auto mtp = openWith(
        {{"model.layers.1.eh_proj.weight", DType::F32, {16, 32}}, {"model.layers.1.mlp.experts.0.w1.weight", DType::F32, {8, 16}}});
    ASSERT_TRUE(mtp.ok()) << mtp.error().describe();
    EXPECT_THAT((*mtp)->warnings(), ElementsAre(HasSubstr("2 tensors of layers from 1 on (multi-token prediction)")));
    EXPECT_EQ((*mtp)->roleOf("model.layers.1.eh_proj.weight").kind, TensorRole::Kind::Ignored);
    EXPECT_EQ((*mtp)->shape().bytes(), (*mtp)->shape().parameters() * 4) << "what is ignored is not counted";
    // Layers of a model that was cut short are called what they are.
    const auto cut = openWith({{"model.layers.1.mlp.experts.0.w1.weight", DType::F32, {8, 16}}});
    ASSERT_TRUE(cut.ok()) << cut.error().describe();
    EXPECT_THAT((*cut)->warnings(), ElementsAre(HasSubstr("beyond num_hidden_layers")));
    // What would take part in the MLP if the configuration were right is an error.
    for (const char* name : {"model.layers.0.block_sparse_moe.experts.4.w1.weight", "model.layers.0.block_sparse_moe.experts.00.w1.weight",
                             "model.layers.0.mlp.gate_proj.weight", "model.layers.0.block_sparse_moe.gate.e_score_correction_bias"}) {
        const auto unexpected = openWith({{name, DType::F32, {8, 16}}});
        ASSERT_FALSE(unexpected.ok()) << name;
        EXPECT_EQ(unexpected.error().code, "checkpoint.tensor_unexpected");
        EXPECT_THAT(unexpected.error().message, HasSubstr(name));
    }
}

TEST(Checkpoint, TiedEmbeddingFollowsTheFile)
{
    Json config = Json::parse(readBytes(kFixtures / "bad/good/config.json"));
    config["tie_word_embeddings"] = true;
    const TempFolder folder;
    ASSERT_TRUE(writeModel(folder.path(), config).ok());
    const auto tied = Checkpoint::open(folder.path());
    ASSERT_TRUE(tied.ok());
    EXPECT_TRUE((*tied)->warnings().empty());
    EXPECT_TRUE((*tied)->shape().tiedEmbeddings);
    EXPECT_EQ((*tied)->lmHead().name, "model.embed_tokens.weight");
    EXPECT_EQ((*tied)->shape().embeddingParameters, 32 * 16 + 16);
    fs::copy(kFixtures / "bad/good/model.safetensors", folder.path() / "model.safetensors", fs::copy_options::overwrite_existing);
    const auto both = Checkpoint::open(folder.path());
    ASSERT_TRUE(both.ok());
    EXPECT_THAT((*both)->warnings(), ElementsAre(HasSubstr("lm_head.weight")));
    EXPECT_EQ((*both)->lmHead().name, "lm_head.weight");
    // Tied the other way round: the head is the one matrix that is there, as transformers ties them.
    std::vector<TensorDeclaration> headOnly = declarationsOf(*parseModelConfig(config), DType::BF16);
    for (TensorDeclaration& tensor : headOnly)
        if (tensor.name == "model.embed_tokens.weight") tensor.name = "lm_head.weight";
    ASSERT_TRUE(writeTensors(folder.path() / "model.safetensors", headOnly).ok());
    const auto head = Checkpoint::open(folder.path());
    ASSERT_TRUE(head.ok()) << head.error().describe();
    EXPECT_EQ((*head)->embed().name, "lm_head.weight");
    EXPECT_EQ((*head)->lmHead().bytes.data(), (*head)->embed().bytes.data());
    EXPECT_TRUE((*head)->shape().tiedEmbeddings);
    EXPECT_EQ(standardTensorName(**head, "lm_head.weight"), "model.embed_tokens.weight");
    EXPECT_THAT((*head)->warnings(), ElementsAre(HasSubstr("only lm_head.weight")));
    // Untied, a model without an embedding is incomplete.
    config["tie_word_embeddings"] = false;
    writeBytes(folder.path() / "config.json", config.dump());
    EXPECT_EQ(Checkpoint::open(folder.path()).error().code, "checkpoint.tensor_missing");
}

// Writes the per-expert tensors of `from` fused as transformers 5 does with save_original_format=False.
void fuse(const Checkpoint& from, const fs::path& to)
{
    std::vector<TensorDeclaration> declarations;
    std::map<std::string, std::string> data;
    const auto text = [](std::span<const std::byte> bytes) {
        return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    };
    for (const StoredTensor& stored : from.tensorsInOrder()) {
        if (stored.role.kind == TensorRole::Kind::Expert) continue;
        std::string name = stored.view.name;
        if (const auto at = name.find("block_sparse_moe"); at != std::string::npos) name.replace(at, 16, "mlp");
        declarations.push_back({name, stored.view.dtype, stored.view.shape});
        data[name] = text(stored.view.bytes);
    }
    const ModelConfig& config = from.config();
    for (int l = 0; l < config.layerCount; ++l) {
        const LayerConfig& layer = config.layers[static_cast<std::size_t>(l)];
        const std::string prefix = fmt::format("model.layers.{}.mlp.experts.", l);
        const DType dtype = from.expert(l, 0, Matrix::Gate).dense.dtype;
        declarations.push_back({prefix + "gate_up_proj", dtype, {layer.experts, 2 * layer.expertWidth, config.hiddenSize}});
        declarations.push_back({prefix + "down_proj", dtype, {layer.experts, config.hiddenSize, layer.expertWidth}});
        for (int e = 0; e < layer.experts; ++e) {
            data[prefix + "gate_up_proj"] +=
                text(from.expert(l, e, Matrix::Gate).dense.bytes) + text(from.expert(l, e, Matrix::Up).dense.bytes);
            data[prefix + "down_proj"] += text(from.expert(l, e, Matrix::Down).dense.bytes);
        }
    }
    auto writer = SafetensorsWriter::create(to, declarations);
    ASSERT_TRUE(writer.ok());
    for (const TensorInfo& info : writer->order())
        ASSERT_TRUE(writer->write(std::as_bytes(std::span(data.at(info.name)))).ok());
    ASSERT_TRUE(writer->finish().ok());
}

// The same file with other names.
void writeRenamed(const fs::path& from, const fs::path& to, const std::function<std::string(std::string)>& named)
{
    const auto file = SafetensorsFile::open(from);
    ASSERT_TRUE(file.ok());
    std::vector<TensorDeclaration> declarations;
    std::map<std::string, std::string> original;
    for (const TensorInfo& info : file->tensors()) {
        declarations.push_back({named(info.name), info.dtype, info.shape});
        original[declarations.back().name] = info.name;
    }
    auto writer = SafetensorsWriter::create(to, declarations);
    ASSERT_TRUE(writer.ok());
    for (const TensorInfo& info : writer->order())
        ASSERT_TRUE(writer->write(file->bytes(*file->find(original.at(info.name)))).ok());
    ASSERT_TRUE(writer->finish().ok());
}

void expectEqualExperts(const Checkpoint& a, const Checkpoint& b)
{
    for (int l = 0; l < a.config().layerCount; ++l) {
        const LayerConfig& layer = a.config().layers[static_cast<std::size_t>(l)];
        for (int e = 0; e < layer.experts; ++e)
            for (const Matrix matrix : {Matrix::Gate, Matrix::Up, Matrix::Down}) {
                const TensorView left = a.expert(l, e, matrix).dense;
                const TensorView right = b.expert(l, e, matrix).dense;
                ASSERT_EQ(left.shape, right.shape);
                ASSERT_EQ(left.bytes.size(), right.bytes.size());
                ASSERT_EQ(std::memcmp(left.bytes.data(), right.bytes.data(), left.bytes.size()), 0) << l << " " << e;
            }
    }
}

// transformers 5 loads Mixtral under either name of the block, fused or not, and all families with and without "model.".
TEST(Checkpoint, EverySpellingOfTheNamesOpens)
{
    const auto plain = Checkpoint::open(kFixtures / "bad/good");
    ASSERT_TRUE(plain.ok());
    const TempFolder folder, fused;
    fs::copy(kFixtures / "bad/good/config.json", folder.path() / "config.json");
    const auto replaced = [](std::string name, std::string_view from, std::string_view to) {
        if (const auto at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
        return name;
    };
    const auto bare = [&](const std::string& name) { return name.starts_with("model.") ? name.substr(6) : name; };
    const auto check = [&](const fs::path& from, const std::function<std::string(std::string)>& named, bool fusedExperts) {
        writeRenamed(from, folder.path() / "model.safetensors", named);
        const auto opened = Checkpoint::open(folder.path());
        ASSERT_TRUE(opened.ok()) << opened.error().describe();
        EXPECT_THAT((*opened)->warnings(), testing::IsEmpty());
        EXPECT_EQ((*opened)->fusedExperts(0), fusedExperts);
        EXPECT_EQ((*opened)->shape().bytes(), (*plain)->shape().bytes());
        EXPECT_EQ((*opened)->shape().layers[0].routerBytesPerExpert, (*plain)->shape().layers[0].routerBytesPerExpert);
        expectEqualExperts(**plain, **opened);
        for (const StoredTensor& stored : (*opened)->tensorsInOrder()) {
            EXPECT_NE(stored.role.kind, TensorRole::Kind::Ignored) << stored.view.name;
            EXPECT_TRUE((*opened)->has(stored.view.name)) << "by the name on disk";
            const std::string standard = standardTensorName(**opened, stored.view.name);
            EXPECT_EQ(standard.find(fusedExperts ? "block_sparse_moe" : "mlp"), std::string::npos) << standard;
            EXPECT_TRUE((*opened)->tensor(standard).ok());
        }
    };
    const fs::path original = kFixtures / "bad/good/model.safetensors";
    check(
        original, [&](std::string name) { return replaced(std::move(name), "block_sparse_moe", "mlp"); }, false);
    check(original, bare, false);
    check(
        original, [&](std::string name) { return bare(replaced(std::move(name), "block_sparse_moe", "mlp")); }, false);
    fuse(**plain, fused.path() / "model.safetensors");
    check(
        fused.path() / "model.safetensors", [&](std::string name) { return replaced(std::move(name), "mlp", "block_sparse_moe"); }, true);
    check(fused.path() / "model.safetensors", bare, true);
    // Both names of one tensor: nothing says which is meant.
    std::vector<TensorDeclaration> twice = declarationsOf((*plain)->config(), DType::F32);
    twice.push_back({"norm.weight", DType::F32, {16}});
    ASSERT_TRUE(writeTensors(folder.path() / "model.safetensors", twice).ok());
    EXPECT_EQ(Checkpoint::open(folder.path()).error().code, "checkpoint.duplicate_tensor");
}

// A model that was saved inside another one: transformers fills its own with random numbers.
TEST(Checkpoint, APrefixOfAllNamesIsNamed)
{
    const TempFolder folder;
    fs::copy(kFixtures / "bad/good/config.json", folder.path() / "config.json");
    for (const std::string prefix : {"language_model.", "model.language_model.", "module.", "_orig_mod."}) {
        writeRenamed(kFixtures / "bad/good/model.safetensors", folder.path() / "model.safetensors",
                     [&](const std::string& name) { return prefix + name; });
        const Error error = Checkpoint::open(folder.path()).error();
        EXPECT_EQ(error.code, "checkpoint.tensor_missing");
        EXPECT_THAT(error.action, testing::HasSubstr("begin with \"" + prefix + "\""));
    }
}

TEST(Checkpoint, FusedExpertsAreSlicedInPlace)
{
    const auto plain = Checkpoint::open(kFixtures / "bad/good");
    ASSERT_TRUE(plain.ok());
    const TempFolder folder;
    fs::copy(kFixtures / "bad/good/config.json", folder.path() / "config.json");
    fuse(**plain, folder.path() / "model.safetensors");
    const auto fused = Checkpoint::open(folder.path());
    ASSERT_TRUE(fused.ok()) << fused.error().describe();
    EXPECT_TRUE((*fused)->fusedExperts(0));
    EXPECT_FALSE((*plain)->fusedExperts(0));
    expectEqualExperts(**plain, **fused);
    EXPECT_EQ((*fused)->router(0).name, "model.layers.0.mlp.gate.weight");
    EXPECT_EQ((*fused)->routerTensorName(0), "model.layers.0.block_sparse_moe.gate.weight");
    EXPECT_EQ((*fused)->expertTensorName(0, 3, Matrix::Down), "model.layers.0.block_sparse_moe.experts.3.w2.weight");
    EXPECT_EQ((*fused)->roleOf("model.layers.0.mlp.experts.gate_up_proj").kind, TensorRole::Kind::FusedGateUp);
    EXPECT_EQ((*fused)->roleOf("model.layers.0.mlp.experts.down_proj").kind, TensorRole::Kind::FusedDown);
    EXPECT_EQ((*fused)->shape().parameters(), (*plain)->shape().parameters());
    EXPECT_EQ((*fused)->shape().layers[0].bytesPerExpert, (*plain)->shape().layers[0].bytesPerExpert);
    EXPECT_EQ(inspect(**fused).expertLayout, "fused");
}

TEST(Checkpoint, ParityFixturesOpenWithTheRightCounts)
{
    int opened = 0;
    for (const auto& entry : fs::directory_iterator(kModels)) {
        SCOPED_TRACE(entry.path().filename());
        const auto inspected = inspect(entry.path());
        ASSERT_TRUE(inspected.ok()) << inspected.error().describe();
        std::int64_t parameters = 0;
        std::int64_t bytes = 0;
        for (const InspectedTensor& tensor : inspected->tensors) {
            std::int64_t count = 1;
            for (const std::int64_t dimension : tensor.shape)
                count *= dimension;
            parameters += count;
            bytes += tensor.bytes;
        }
        EXPECT_EQ(inspected->parameters, parameters);
        EXPECT_EQ(inspected->bytes, bytes);
        std::int64_t layers = 0;
        for (const InspectedLayer& layer : inspected->layers)
            layers += layer.parameters;
        const std::int64_t embeddings =
            std::int64_t(inspected->vocabularySize) * inspected->hiddenSize * (inspected->tiedEmbeddings ? 1 : 2);
        EXPECT_EQ(layers + embeddings + inspected->hiddenSize, parameters);
        const bool later = inspected->modelType == "glm4_moe" || inspected->modelType == "gpt_oss";
        EXPECT_EQ(inspected->forwardSupported, !later);
        EXPECT_EQ(inspected->warnings.size(), later ? 1u : 0u);
        if (later) {
            EXPECT_EQ(Checkpoint::open(entry.path()).error().code, "checkpoint.architecture_unsupported");
        } else {
            const auto checkpoint = Checkpoint::open(entry.path());
            const bool fused = entry.path().string().ends_with("fused-v5");
            if (!fused) {
                EXPECT_EQ(expectedTensorCount((*checkpoint)->config()), (*checkpoint)->tensorCount());
            }
            EXPECT_EQ(modelShape((*checkpoint)->config()).parameters(), (*checkpoint)->shape().parameters());
        }
        ++opened;
    }
    EXPECT_GE(opened, 19);
}

TEST(Checkpoint, FusedParityFixturesHoldTheSameWeights)
{
    for (const char* name : {"mixtral-tiny", "qwen3moe-tiny", "deepseekv2-lite-tiny"}) {
        SCOPED_TRACE(name);
        const auto plain = Checkpoint::open(kModels / name);
        const auto fused = Checkpoint::open(kModels / (std::string(name) + "-fused-v5"));
        ASSERT_TRUE(plain.ok() && fused.ok());
        expectEqualExperts(**plain, **fused);
        EXPECT_EQ((*plain)->shape().parameters(), (*fused)->shape().parameters());
        EXPECT_EQ((*plain)->config().ropeTheta, (*fused)->config().ropeTheta);
    }
}

TEST(Checkpoint, DemoModelOpens)
{
    const fs::path folder = fs::path(ESPALIER_RESOURCES) / "demo/espalier-demo-moe";
    ASSERT_TRUE(fs::exists(folder));
    const auto checkpoint = Checkpoint::open(folder);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().describe();
    EXPECT_TRUE((*checkpoint)->warnings().empty());
    EXPECT_EQ((*checkpoint)->shape().moeLayerCount(), 6);
    EXPECT_TRUE((*checkpoint)->shape().tiedEmbeddings);
    EXPECT_EQ((*checkpoint)->shape().dtype, "BF16");
    EXPECT_EQ((*checkpoint)->sharedGate(0)->shape, (std::vector<std::int64_t>{1, 192}));
}

void expectSound(const fs::path& folder)
{
    const auto checkpoint = Checkpoint::open(folder);
    if (checkpoint.ok()) {
        for (const StoredTensor& stored : (*checkpoint)->tensorsInOrder())
            ASSERT_EQ(stored.view.bytes.size() % 2, 0u);
        return;
    }
    const Error& error = checkpoint.error();
    EXPECT_TRUE(error.code.starts_with("checkpoint.") || error.code.starts_with("config.")) << error.code;
    EXPECT_EQ(error.kept, "Nothing was loaded.");
    EXPECT_FALSE(error.message.empty());
    if (error.exitCode() == 6) {
        EXPECT_TRUE(inspect(folder).ok());
    }
}

TEST(Checkpoint, AnyFlippedBitOfTheConfigurationOpensOrSaysWhy)
{
    const TempFolder folder;
    fs::copy(kFixtures / "bad/good", folder.path(), fs::copy_options::recursive);
    const std::string whole = readBytes(folder.path() / "config.json");
    largestAllocation = 0;
    for (std::size_t i = 0; i < whole.size(); ++i)
        for (int bit = 0; bit < 8; ++bit) {
            std::string damaged = whole;
            damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
            writeBytes(folder.path() / "config.json", damaged);
            expectSound(folder.path());
        }
    for (std::size_t length = 0; length < whole.size(); length += 3) {
        writeBytes(folder.path() / "config.json", std::string_view(whole).substr(0, length));
        ASSERT_FALSE(Checkpoint::open(folder.path()).ok()) << length;
    }
    EXPECT_LT(largestAllocation, 200'000u);
}

TEST(Checkpoint, RandomDamageToWeightsAndIndexOpensOrSaysWhy)
{
    std::mt19937_64 random(7);
    for (const char* source : {"good", "index-total-size-wrong"}) {
        const TempFolder folder;
        fs::copy(kFixtures / "bad" / source, folder.path(), fs::copy_options::recursive);
        std::vector<fs::path> files;
        for (const auto& entry : fs::directory_iterator(folder.path()))
            if (entry.path().filename() != "config.json") files.push_back(entry.path());
        std::sort(files.begin(), files.end());
        for (int round = 0; round < 1500; ++round) {
            const fs::path& path = files[random() % files.size()];
            const std::string whole = readBytes(path);
            std::string damaged = whole;
            for (int edits = 1 + static_cast<int>(random() % 4); edits > 0 && !damaged.empty(); --edits) {
                const std::size_t at = random() % std::min<std::size_t>(damaged.size(), 4000);
                if (random() % 8 == 0)
                    damaged.erase(at, random() % 64);
                else
                    damaged[at] = static_cast<char>(random());
            }
            writeBytes(path, damaged);
            expectSound(folder.path());
            writeBytes(path, whole);
        }
        EXPECT_TRUE(Checkpoint::open(folder.path()).ok());
    }
}

// config.json with numbers replaced by extreme ones: bounds are checked before anything is sized by them.
TEST(Checkpoint, ExtremeNumbersInTheConfiguration)
{
    const TempFolder folder;
    fs::copy(kFixtures / "bad/good", folder.path(), fs::copy_options::recursive);
    const Json config = Json::parse(readBytes(folder.path() / "config.json"));
    largestAllocation = 0;
    for (const auto& [key, value] : config.items()) {
        if (!value.is_number()) continue;
        for (const Json& extreme : {Json(0), Json(-1), Json(1), Json(512), Json(8192), Json(131072), Json(524288), Json(16777216),
                                    Json(2147483647), Json(std::uint64_t(1) << 40), Json(std::numeric_limits<std::uint64_t>::max()),
                                    Json(std::numeric_limits<std::int64_t>::min()), Json(1e300), Json(0.5)}) {
            Json damaged = config;
            damaged[key] = extreme;
            writeBytes(folder.path() / "config.json", damaged.dump());
            expectSound(folder.path());
        }
    }
    EXPECT_LT(largestAllocation, 200'000u);
}

}  // namespace
