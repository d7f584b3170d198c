// Writes a checkpoint of random bf16 weights in the shape of a published model: for timing and memory, where what the model says does
// not matter. make_checkpoint S|M|XL|MX FOLDER [--tokenizer FILE] [--layers N] [--seed N]
#include "base/error.h"
#include "base/json.h"
#include "base/random.h"
#include "checkpoint/safetensors.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

namespace
{

struct Form {
    bool mixtral = false;
    std::int64_t hidden = 0, layers = 0, experts = 0, topK = 0, expertWidth = 0, sharedWidth = 0, heads = 0, kvHeads = 0, vocabulary = 0;
};

struct NamedForm {
    std::string_view name;
    Form form;
};

// mixtral, hidden, layers, experts, top-k, expert width, shared width, heads, key heads, vocabulary
constexpr NamedForm kForms[] = {
    {"S", {false, 512, 6, 32, 4, 352, 352, 8, 8, 8192}},
    {"M", {false, 2048, 4, 60, 4, 1408, 5632, 16, 16, 32768}},
    {"XL", {false, 2048, 24, 60, 4, 1408, 5632, 16, 16, 151936}},
    {"MX", {true, 4096, 2, 8, 2, 14336, 0, 32, 8, 32000}},
};

std::optional<Form> formOf(std::string_view name)
{
    for (const NamedForm& named : kForms)
        if (named.name == name) return named.form;
    return std::nullopt;
}

Json configOf(const Form& form)
{
    Json config = {{"hidden_act", "silu"},
                   {"hidden_size", form.hidden},
                   {"initializer_range", 0.02},
                   {"max_position_embeddings", 8192},
                   {"num_attention_heads", form.heads},
                   {"num_hidden_layers", form.layers},
                   {"num_key_value_heads", form.kvHeads},
                   {"num_experts_per_tok", form.topK},
                   {"rms_norm_eps", 1e-6},
                   {"rope_theta", 1000000.0},
                   {"tie_word_embeddings", false},
                   {"torch_dtype", "bfloat16"},
                   {"use_cache", true},
                   {"bos_token_id", 0},
                   {"eos_token_id", 0},
                   {"vocab_size", form.vocabulary},
                   {"attention_dropout", 0.0},
                   {"output_router_logits", false}};
    if (form.mixtral) {
        config["architectures"] = {"MixtralForCausalLM"};
        config["model_type"] = "mixtral";
        config["intermediate_size"] = form.expertWidth;
        config["num_local_experts"] = form.experts;
        config["sliding_window"] = nullptr;
        return config;
    }
    config["architectures"] = {"Qwen2MoeForCausalLM"};
    config["model_type"] = "qwen2_moe";
    config["intermediate_size"] = form.sharedWidth;
    config["moe_intermediate_size"] = form.expertWidth;
    config["shared_expert_intermediate_size"] = form.sharedWidth;
    config["num_experts"] = form.experts;
    config["norm_topk_prob"] = false;
    config["decoder_sparse_step"] = 1;
    config["mlp_only_layers"] = Json::array();
    config["qkv_bias"] = true;
    config["use_sliding_window"] = false;
    config["sliding_window"] = nullptr;
    config["max_window_layers"] = form.layers;
    return config;
}

std::vector<TensorDeclaration> layerTensors(const Form& form, std::int64_t layer)
{
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    const std::int64_t headDim = form.hidden / form.heads;
    std::vector<TensorDeclaration> tensors;
    const auto add = [&](std::string name, std::vector<std::int64_t> shape) {
        tensors.push_back({prefix + std::move(name), DType::BF16, std::move(shape)});
    };
    add("input_layernorm.weight", {form.hidden});
    add("post_attention_layernorm.weight", {form.hidden});
    add("self_attn.q_proj.weight", {form.heads * headDim, form.hidden});
    add("self_attn.k_proj.weight", {form.kvHeads * headDim, form.hidden});
    add("self_attn.v_proj.weight", {form.kvHeads * headDim, form.hidden});
    add("self_attn.o_proj.weight", {form.hidden, form.heads * headDim});
    if (form.mixtral) {
        add("block_sparse_moe.gate.weight", {form.experts, form.hidden});
        for (std::int64_t e = 0; e < form.experts; ++e) {
            add(fmt::format("block_sparse_moe.experts.{}.w1.weight", e), {form.expertWidth, form.hidden});
            add(fmt::format("block_sparse_moe.experts.{}.w2.weight", e), {form.hidden, form.expertWidth});
            add(fmt::format("block_sparse_moe.experts.{}.w3.weight", e), {form.expertWidth, form.hidden});
        }
        return tensors;
    }
    add("self_attn.q_proj.bias", {form.heads * headDim});
    add("self_attn.k_proj.bias", {form.kvHeads * headDim});
    add("self_attn.v_proj.bias", {form.kvHeads * headDim});
    add("mlp.gate.weight", {form.experts, form.hidden});
    const auto mlp = [&](const std::string& at, std::int64_t width) {
        add(at + ".gate_proj.weight", {width, form.hidden});
        add(at + ".up_proj.weight", {width, form.hidden});
        add(at + ".down_proj.weight", {form.hidden, width});
    };
    for (std::int64_t e = 0; e < form.experts; ++e)
        mlp(fmt::format("mlp.experts.{}", e), form.expertWidth);
    mlp("mlp.shared_expert", form.sharedWidth);
    add("mlp.shared_expert_gate.weight", {1, form.hidden});
    return tensors;
}

// 65,536 values of a normal distribution, drawn by index: four numbers of a checkpoint from one random word.
std::vector<std::uint16_t> normalTable(double deviation)
{
    std::vector<std::uint16_t> table(65536);
    double x = -4.5;
    for (std::size_t i = 0; i < table.size(); ++i) {
        const double p = (static_cast<double>(i) + 0.5) / 65536;
        // Newton on the distribution function, from the value before: neighbours are close.
        for (int step = 0; step < 20; ++step) {
            const double density = std::exp(-x * x / 2) / 2.5066282746310002;
            const double change = (0.5 * std::erfc(-x / 1.4142135623730951) - p) / density;
            x -= std::min(0.5, std::max(-0.5, change));
            if (std::abs(change) < 1e-9) break;
        }
        const auto value = static_cast<float>(x * deviation);
        table[i] = static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(value) + 0x8000u) >> 16);
    }
    return table;
}

class Filler
{
public:
    explicit Filler(std::uint64_t seed) : m_seed(seed), m_normal(normalTable(0.02)), m_block(std::size_t{1} << 20) {}

    Status write(SafetensorsWriter& writer, const TensorInfo& tensor)
    {
        const bool norm = tensor.name.ends_with("norm.weight");
        Random random = Random::forPurpose(m_seed, tensor.name);
        for (std::uint64_t left = tensor.byteCount() / 2; left > 0;) {
            const std::size_t count = std::min<std::uint64_t>(left, m_block.size());
            for (std::size_t i = 0; i < count; i += 4) {
                const std::uint64_t word = random.next();
                for (std::size_t j = 0; j < 4 && i + j < count; ++j)
                    m_block[i + j] = norm ? std::uint16_t{0x3f80} : m_normal[(word >> (16 * j)) & 0xffff];
            }
            ESPALIER_CHECK_OK(writer.write(std::as_bytes(std::span(m_block).first(count))));
            left -= count;
        }
        return {};
    }

private:
    std::uint64_t m_seed;
    std::vector<std::uint16_t> m_normal;
    std::vector<std::uint16_t> m_block;
};

std::uint64_t bytesOf(const TensorDeclaration& tensor)
{
    std::uint64_t count = 2;
    for (const std::int64_t size : tensor.shape)
        count *= static_cast<std::uint64_t>(size);
    return count;
}

Status make(const Form& form, const std::filesystem::path& folder, const std::filesystem::path& tokenizer, std::uint64_t seed)
{
    constexpr std::uint64_t kShardBytes = std::uint64_t{4} << 30;
    std::filesystem::create_directories(folder);
    std::vector<TensorDeclaration> all = {{"model.embed_tokens.weight", DType::BF16, {form.vocabulary, form.hidden}}};
    for (std::int64_t layer = 0; layer < form.layers; ++layer)
        for (TensorDeclaration& tensor : layerTensors(form, layer))
            all.push_back(std::move(tensor));
    all.push_back({"model.norm.weight", DType::BF16, {form.hidden}});
    all.push_back({"lm_head.weight", DType::BF16, {form.vocabulary, form.hidden}});

    std::vector<std::vector<TensorDeclaration>> shards(1);
    std::uint64_t inShard = 0, total = 0;
    for (TensorDeclaration& tensor : all) {
        const std::uint64_t bytes = bytesOf(tensor);
        if (inShard > 0 && inShard + bytes > kShardBytes) {
            shards.emplace_back();
            inShard = 0;
        }
        inShard += bytes;
        total += bytes;
        shards.back().push_back(std::move(tensor));
    }
    Filler filler(seed);
    Json map = Json::object();
    for (std::size_t i = 0; i < shards.size(); ++i) {
        const std::string name =
            shards.size() == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
        for (const TensorDeclaration& tensor : shards[i])
            map[tensor.name] = name;
        ESPALIER_TRY(SafetensorsWriter writer, SafetensorsWriter::create(folder / name, shards[i]));
        while (writer.next() < writer.order().size())
            ESPALIER_CHECK_OK(filler.write(writer, writer.order()[writer.next()]));
        ESPALIER_CHECK_OK(writer.finish());
    }
    if (shards.size() > 1) {
        const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
        ESPALIER_CHECK_OK(writeFileAtomically(folder / "model.safetensors.index.json", index.dump(2)));
    }
    if (!tokenizer.empty())
        std::filesystem::copy_file(tokenizer, folder / "tokenizer.json", std::filesystem::copy_options::overwrite_existing);
    return writeFileAtomically(folder / "config.json", configOf(form).dump(2));
}

}  // namespace

}  // namespace espalier

int main(int argc, char** argv)
{
    using namespace espalier;
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    std::optional<Form> form = arguments.size() >= 2 ? formOf(arguments[0]) : std::nullopt;
    if (!form) {
        fmt::print(stderr, "make_checkpoint S|M|XL|MX FOLDER [--tokenizer FILE] [--layers N] [--seed N]\n");
        return 2;
    }
    std::filesystem::path tokenizer;
    std::uint64_t seed = 0;
    for (std::size_t i = 2; i + 1 < arguments.size(); i += 2) {
        if (arguments[i] == "--tokenizer") tokenizer = arguments[i + 1];
        if (arguments[i] == "--layers") form->layers = std::stoll(arguments[i + 1]);
        if (arguments[i] == "--seed") seed = std::stoull(arguments[i + 1]);
    }
    const Status status = make(*form, arguments[1], tokenizer, seed);
    if (!status.ok()) fmt::print(stderr, "{}\n", status.error().message);
    return status.ok() ? 0 : 1;
}
