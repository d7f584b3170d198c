// What goes with the weights: configuration as it was read, files of the tokenizer, measurements in the README.
#include "checkpoint/tensor_files.h"
#include "core/export_fixture.h"
#include "export/export_files.h"
#include "export/runtime_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>

namespace espalier
{

namespace
{

using namespace test;
using ::testing::HasSubstr;

// What is read otherwise than the source's config.json says is written as it was read, and verification asks what others make of it.
TEST_F(Export, TheConfigSaysWhatWasRead)
{
    const fs::path model = folder / "model";
    fs::create_directories(model);
    Json config = take(readJsonFile(tiny("mixtral-tiny") / "config.json", "config"));
    config["tie_word_embeddings"] = false;
    config["quantization_config"] = {{"quant_method", "fp8"}};
    config["num_nextn_predict_layers"] = 1;
    config["auto_map"] = {{"AutoConfig", "configuration_foreign.Config"}};
    config["torch_dtype"] = "float16";
    std::ofstream(model / "config.json") << config.dump(2);
    // Without its head and under names of a bare model, with a prediction layer behind the last one.
    const auto whole = take(SafetensorsFile::open(tiny("mixtral-tiny") / "model.safetensors"));
    std::vector<TensorDeclaration> declared;
    std::map<std::string, std::string> original;
    const auto declare = [&](const std::string& name, const TensorInfo& info) {
        declared.push_back({name, info.dtype, info.shape});
        original[name] = info.name;
    };
    for (const TensorInfo& info : whole.tensors())
        if (info.name != "lm_head.weight") declare(info.name.substr(6), info);
    declare("layers." + config["num_hidden_layers"].dump() + ".eh_proj.weight", *whole.find("model.norm.weight"));
    auto writer = take(SafetensorsWriter::create(model / "model.safetensors", declared));
    for (const TensorInfo& info : writer.order())
        ASSERT_TRUE(writer.write(whole.bytes(*whole.find(original.at(info.name)))).ok());
    ASSERT_TRUE(writer.finish().ok());
    const auto source = take(Checkpoint::open(model));
    const CompressionPlan plan = uniformPlan(source->shape(), 2);
    const auto objections = take(runtimeObjections(model));
    for (const char* said : {"not tied", "quantization_config", "configuration_foreign.py", "float16"})
        EXPECT_THAT(objections, ::testing::Contains(HasSubstr(said)));
    for (const char* flavor : {"stock", "factored"}) {
        const ExportReport report = write(*source, plan, flavor, flavor);
        EXPECT_THAT(report.warnings, ::testing::Contains(HasSubstr("1 tensors that are no part of the model were left out")));
        EXPECT_THAT(report.warnings, ::testing::Contains(HasSubstr("configuration_foreign.py")));
        const Json written = take(readJsonFile(folder / flavor / "config.json", "config"));
        EXPECT_EQ(written["tie_word_embeddings"], true);
        EXPECT_EQ(written["num_nextn_predict_layers"], 0);
        EXPECT_FALSE(written.contains("quantization_config"));
        EXPECT_EQ(written["torch_dtype"], source->shape().dtype == "F32" ? "float32" : "bfloat16");
        EXPECT_EQ(written.contains("auto_map"), std::string(flavor) == "factored");
        EXPECT_THAT(take(runtimeObjections(folder / flavor)), ::testing::IsEmpty());
        EXPECT_TRUE(take(openTensorFiles(folder / flavor)).find("model.embed_tokens.weight")) << "standard names";
        const VerifyReport verified = verify(flavor);
        EXPECT_TRUE(verified.holds) << failing(verified);
        EXPECT_THAT(contents(folder / flavor / "README.md"), HasSubstr("`configuration_foreign.py`"));
    }
    // An export that says something else to other programs does not hold, whatever Espalier reads.
    std::string text = contents(folder / "stock" / "config.json");
    const std::size_t at = text.find("\"tie_word_embeddings\": true");
    ASSERT_NE(at, std::string::npos);
    text.replace(at, 27, "\"tie_word_embeddings\": false");
    std::ofstream(folder / "stock" / "config.json", std::ios::trunc) << text;
    EXPECT_THAT(failing(verify("stock")), HasSubstr("runtime: config.json says that embeddings are not tied, but lm_head.weight is not"));
}

// The libraries that read an export stop at a byte order mark before JSON; one in the source does not travel.
TEST_F(Export, ByteOrderMarksStayBehind)
{
    const fs::path model = folder / "model";
    fs::copy(tiny("mixtral-tiny"), model);
    const std::string mark = "\xEF\xBB\xBF";
    for (const auto& [name, text] : std::map<std::string, std::string>{
             {"generation_config.json", R"({"eos_token_id": 2})"},
             {"tokenizer_config.json", R"({"auto_map": {"AutoTokenizer": ["tokenization_x.X", null]}, "bos_token": "<s>"})"},
             {"vocab.json", R"({"a": 0})"}})
        std::ofstream(model / name) << mark << text;
    std::ofstream(model / "merges.txt") << mark << "a b";
    const std::string config = contents(model / "config.json");
    std::ofstream(model / "config.json") << mark << config;
    const auto source = take(Checkpoint::open(model));
    write(*source, uniformPlan(source->shape(), 2), "stock");
    for (const char* name : {"config.json", "generation_config.json", "tokenizer_config.json", "vocab.json"}) {
        const std::string written = contents(folder / "out" / name);
        EXPECT_TRUE(written.starts_with("{")) << name;
        EXPECT_TRUE(Json::accept(written)) << name;
    }
    EXPECT_EQ(contents(folder / "out" / "vocab.json"), R"({"a": 0})");
    EXPECT_FALSE(take(readJsonFile(folder / "out" / "tokenizer_config.json", "tokenizer")).contains("auto_map"));
    EXPECT_EQ(contents(folder / "out" / "merges.txt"), mark + "a b") << "what is no JSON is copied byte for byte";
    const VerifyReport verified = verify("out");
    EXPECT_TRUE(verified.holds) << failing(verified);
}

// Vocabularies under any name, templates, settings; what JSON names is there, and code is named where it is missed.
TEST_F(Export, EverythingATokenizerNeedsTravelsButItsCode)
{
    const fs::path model = folder / "model";
    fs::copy(tiny("mixtral-tiny"), model);
    fs::create_directories(model / "additional_chat_templates");
    for (const char* name : {"tiktoken.model", "qwen.tiktoken", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
                             "added_tokens.json", "chat_template.jinja", "additional_chat_templates/rag.jinja", "words.dat",
                             "preprocessor_config.json", "tokenization_foreign.py", "helper.py", "optimizer.pt", "unrelated.dat"})
        std::ofstream(model / name) << "{}";
    std::ofstream(model / "tokenizer_config.json")
        << R"({"tokenizer_class": "Foreign", "vocab_file": "words.dat", "auto_map": {"AutoTokenizer": ["tokenization_foreign.Foreign", null]}})";
    std::ofstream(model / "generation_config.json") << R"({"eos_token_id": 2})";
    fs::create_symlink("nowhere", model / "tokenizer.model");
    const auto source = take(Checkpoint::open(model));
    ExportOptions options;
    options.flavor = "stock";
    options.out = folder / "out";
    SilentJob job;
    const ExportReport report = take(exportCheckpoint(*source, uniformPlan(source->shape(), 2), options, job));
    EXPECT_EQ(fileNames(folder / "out"),
              (std::set<std::string>{"README.md", "added_tokens.json", "additional_chat_templates", "chat_template.jinja", "config.json",
                                     "espalier_plan.json", "generation_config.json", "merges.txt", "model.safetensors",
                                     "preprocessor_config.json", "qwen.tiktoken", "speed_espalier.py", "spiece.model", "tiktoken.model",
                                     "tokenizer_config.json", "vocab.json", "vocab.txt", "words.dat"}));
    EXPECT_TRUE(fs::exists(folder / "out" / "additional_chat_templates" / "rag.jinja"));
    EXPECT_EQ(contents(folder / "out" / "generation_config.json"), R"({"eos_token_id": 2})") << "byte for byte where nothing changes";
    const Json settings = take(readJsonFile(folder / "out" / "tokenizer_config.json", "tokenizer"));
    EXPECT_FALSE(settings.contains("auto_map"));
    EXPECT_EQ(settings["tokenizer_class"], "Foreign");
    for (const char* said : {"helper.py, tokenization_foreign.py", "The source's tokenizer is Python code (tokenization_foreign.py)",
                             "tokenizer.model of the source is a link to a file that is not there"})
        EXPECT_THAT(report.warnings, ::testing::Contains(HasSubstr(said)));
    const std::string readme = contents(folder / "out" / "README.md");
    EXPECT_THAT(readme, HasSubstr("read `tokenization_foreign.py`, then copy it and `tokenizer_config.json` from the original"));
    EXPECT_THAT(readme, ::testing::Not(HasSubstr("AutoTokenizer")));
    const VerifyReport verified = verify("out");
    EXPECT_TRUE(verified.holds) << failing(verified);
}

TEST_F(Export, CompanionFilesTravelAndForeignCodeDoesNot)
{
    const fs::path model = folder / "model";
    fs::copy(tiny("mixtral-tiny"), model);
    for (const char* name :
         {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja", "LICENSE",
          "tokenization_foreign.py", "modeling_foreign.py", "pytorch_model.bin", "README.md", "model.safetensors.index.json.bak"})
        std::ofstream(model / name) << name << " of the source\n";
    const auto source = take(Checkpoint::open(model));
    ExportOptions options;
    options.flavor = "stock";
    options.out = folder / "out";
    options.measured = take(parseMeasured({{"text", "/data/validation.txt"},
                                           {"role", "live"},
                                           {"window_length", 256},
                                           {"windows", 16},
                                           {"ppl", 13.25},
                                           {"dense_ppl", 12.5},
                                           {"delta_nll", 0.0583},
                                           {"delta_nll_error", 0.0041}}));
    SilentJob job;
    ASSERT_TRUE(exportCheckpoint(*source, uniformPlan(source->shape(), 2), options, job).ok());
    EXPECT_EQ(fileNames(folder / "out"),
              (std::set<std::string>{"LICENSE", "README.md", "chat_template.jinja", "config.json", "espalier_plan.json",
                                     "generation_config.json", "model.safetensors", "special_tokens_map.json", "speed_espalier.py",
                                     "tokenizer.json", "tokenizer_config.json"}));
    EXPECT_EQ(contents(folder / "out" / "LICENSE"), "LICENSE of the source\n");
    const std::string readme = contents(folder / "out" / "README.md");
    EXPECT_THAT(readme, HasSubstr("8 of 32 routed experts are gone (25.0 %)"));
    EXPECT_THAT(readme, HasSubstr("| validation.txt (live) | 16 | 256 | 12.5000 | 13.2500 | +0.0583 ± 0.0041 |"));
    EXPECT_THAT(readme, ::testing::Not(HasSubstr("not measured")));
    EXPECT_THAT(readme, HasSubstr("AutoModelForCausalLM.from_pretrained"));
}

TEST_F(Export, MeasurementsComeFromTheWindowOrFromEvaluate)
{
    const auto source = openTiny("mixtral-tiny");
    const CompressionPlan plan = uniformPlan(source->shape(), 2);
    // As `evaluate --json` prints it: windows one by one, the dense model as reference.
    Json printed = {{"model", {{"path", "m"}, {"fingerprint", source->fingerprint()}}},
                    {"plan_hash", plan.hash()},
                    {"text", "test.txt"},
                    {"text_sha256", std::string(64, 'a')},
                    {"windows", {{{"window", 0}}, {{"window", 1}}, {{"window", 2}}}},
                    {"window_length", 64},
                    {"ppl", 20.5},
                    {"against", "dense"},
                    {"dtype", "fp32"},
                    {"reference", {{"ppl", 19.25}}},
                    {"delta", {{"nll", 0.0629}, {"se", 0.01}}}};
    ExportOptions options;
    options.flavor = "stock";
    options.out = folder / "out";
    options.measured = take(parseMeasured(printed));
    SilentJob job;
    ASSERT_TRUE(exportCheckpoint(*source, plan, options, job).ok());
    EXPECT_THAT(contents(folder / "out" / "README.md"), HasSubstr("| test.txt | 3 | 64 | 19.2500 | 20.5000 | +0.0629 ± 0.0100 |"));
    const Json recorded = take(readJsonFile(folder / "out" / "espalier_plan.json", "plan"));
    EXPECT_EQ(recorded["export"]["measured"][0]["windows"], 3);
    EXPECT_EQ(recorded["export"]["measured"][0]["dense_ppl"], 19.25);
    const VerifyReport report = verify("out");
    EXPECT_TRUE(report.holds) << failing(report);

    // As `tasks --json` prints it.
    const Json tasks = {{"plan_hash", plan.hash()},
                        {"against", "dense"},
                        {"tasks",
                         {{"rte",
                           {{"items", 60},
                            {"rules", "rte"},
                            {"sha256", std::string(64, 'b')},
                            {"acc", 0.55},
                            {"acc_stderr", 0.0648},
                            {"delta", {{"acc", -0.05}, {"acc_stderr", 0.0433}}}}}}}};
    EXPECT_TRUE(holdsTasks(tasks));
    EXPECT_FALSE(holdsTasks(printed));
    options.force = true;
    options.measuredTasks = take(parseMeasuredTasks(tasks));
    ASSERT_TRUE(exportCheckpoint(*source, plan, options, job).ok());
    EXPECT_THAT(contents(folder / "out" / "README.md"), HasSubstr("| rte | 60 | acc | 0.6000 | 0.5500 ± 0.0648 | -0.0500 ± 0.0433 |"));
    const Json withTasks = take(readJsonFile(folder / "out" / "espalier_plan.json", "plan"));
    const auto again = take(parseMeasuredTasks(withTasks["export"]["measured_tasks"]));
    ASSERT_EQ(again.size(), 1u);
    EXPECT_EQ(again[0].acc.delta->value, -0.05);
    EXPECT_EQ(again[0].questions, 60);
    // As `speed --json` prints it.
    Json speed = {
        {"plan_hash", plan.hash()},
        {"prefill", 512},
        {"decode", 32},
        {"rounds", Json::array({1, 2, 3})},
        {"threads", 2},
        {"dtype", "bf16"},
        {"dense", {{"prefill_tokens_per_second", 562.25}, {"decode_tokens_per_second", 32.0}}},
        {"plan", {{"prefill_tokens_per_second", 781.5}, {"decode_tokens_per_second", 37.0}}},
        {"ratio", {{"prefill", 1.39}, {"decode", 1.16}, {"low", 1.37}, {"high", 1.41}, {"decode_low", 0.98}, {"decode_high", 1.19}}}};
    EXPECT_TRUE(holdsSpeed(speed) && !holdsSpeed(printed) && !holdsSpeed(tasks));
    options.measuredSpeed = take(parseMeasuredSpeed(speed));
    EXPECT_EQ(speedWords(options.measuredSpeed->decode), "as fast");
    ASSERT_TRUE(exportCheckpoint(*source, plan, options, job).ok());
    EXPECT_THAT(contents(folder / "out" / "README.md"), HasSubstr("1.39x faster, measured here"));
    EXPECT_THAT(contents(folder / "out" / "README.md"), HasSubstr("| a prompt of 512 tokens | 562.2 | 781.5 | 1.39x (1.37 to 1.41) |"));
    const Json withSpeed = take(readJsonFile(folder / "out" / "espalier_plan.json", "plan"));
    EXPECT_EQ(take(parseMeasuredSpeed(withSpeed["export"]["measured_speed"])).rounds, 3);
    options.measuredSpeed->planHash = std::string(64, '0');
    EXPECT_EQ(refused(*source, plan, options).code, "export.measured_other_plan");
    options.measuredSpeed.reset();
    speed["ratio"] = nullptr;
    EXPECT_EQ(parseMeasuredSpeed(speed).error().code, "export.measured_invalid");
    options.measuredTasks[0].planHash = std::string(64, '0');
    EXPECT_EQ(refused(*source, plan, options).code, "export.measured_other_plan");
    options.measuredTasks.clear();
    Json lackingTasks = tasks;
    lackingTasks["tasks"]["rte"].erase("acc");
    EXPECT_EQ(parseMeasuredTasks(lackingTasks).error().code, "export.measured_invalid");
    lackingTasks = tasks;
    lackingTasks["tasks"]["rte"]["items"] = 0;
    EXPECT_EQ(parseMeasuredTasks(lackingTasks).error().code, "export.measured_invalid");

    // Numbers of something else do not get into a README.
    options.force = true;
    printed["plan_hash"] = std::string(64, '0');
    options.measured = take(parseMeasured(printed));
    EXPECT_EQ(refused(*source, plan, options).code, "export.measured_other_plan");
    printed["plan_hash"] = plan.hash();
    printed["model"]["fingerprint"] = "another";
    options.measured = take(parseMeasured(printed));
    EXPECT_EQ(refused(*source, plan, options).code, "export.measured_other_plan");
    for (const char* field : {"text", "windows", "window_length", "ppl"}) {
        Json lacking = printed;
        lacking[field] = nullptr;
        const auto parsed = parseMeasured(lacking);
        ASSERT_FALSE(parsed.ok()) << field;
        EXPECT_EQ(parsed.error().code, "export.measured_invalid");
        EXPECT_THAT(parsed.error().message, HasSubstr(field));
    }
    // A plan that was compared with another one says nothing about the dense model.
    printed["against"] = "other-plan.json";
    EXPECT_FALSE(take(parseMeasured(printed)).front().densePpl);
}

}  // namespace

}  // namespace espalier
