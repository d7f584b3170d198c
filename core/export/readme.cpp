#include "export/readme.h"

#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

struct LayerFacts {
    int index = 0;
    int experts = 0;
    int kept = 0;
    int factored = 0;  // kept experts with at least one factored matrix
    int topK = 0;
};

std::string number(const Json& value)
{
    if (value.is_number_float()) return fmt::format("{:.4f}", value.get<double>());
    if (value.is_string()) return value.get<std::string>();
    return value.dump();
}

std::string evaluationText(const Json& evaluation)
{
    if (!evaluation.is_object() || (!evaluation.contains("ppl_before") && !evaluation.contains("ppl_after")))
        return "Perplexity was not measured when this was written.\n";
    std::string text = "| | perplexity |\n|---|---|\n";
    if (evaluation.contains("ppl_before")) text += fmt::format("| original | {} |\n", number(evaluation["ppl_before"]));
    if (evaluation.contains("ppl_after")) text += fmt::format("| this model | {} |\n", number(evaluation["ppl_after"]));
    text += "\nProtocol:";
    const std::pair<const char*, const char*> parts[] = {{"text", "text"},           {"window_length", "tokens per window"},
                                                         {"windows", "windows"},     {"bos", "beginning-of-sequence token"},
                                                         {"dtype", "computed in"},   {"scored_tokens", "scored tokens"},
                                                         {"text_sha256", "text ids"}};
    bool first = true;
    for (const auto& [key, label] : parts)
        if (evaluation.contains(key)) {
            text += fmt::format("{} {} {}", first ? "" : ",", label, number(evaluation[key]));
            first = false;
        }
    text += first ? " windows that do not overlap, first token of a window unscored.\n"
                  : "; windows do not overlap, the first token of a window is unscored.\n";
    return text;
}

}  // namespace

std::string exportReadme(const ModelShape& shape, const CompressionPlan& plan, const ReadmeFacts& facts)
{
    std::vector<LayerFacts> layers;
    int experts = 0, kept = 0, factored = 0;
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        const LayerPlan& part = plan.layer(layer.index);
        LayerFacts row{layer.index, layer.experts, static_cast<int>(part.kept.size()), 0, part.topK.value_or(layer.router.topK)};
        row.factored = static_cast<int>(std::count_if(part.ranks.begin(), part.ranks.end(), [](const RankTriple& triple) {
            return std::any_of(triple.begin(), triple.end(), [](int rank) { return rank != 0; });
        }));
        experts += row.experts;
        kept += row.kept;
        factored += row.factored;
        layers.push_back(row);
    }

    const bool stock = facts.flavor == ExportFlavor::Stock || facts.flavor == ExportFlavor::Reconstructed;
    std::string text = fmt::format("# {}, compressed\n\n", facts.sourceName);
    text += fmt::format("Made from `{}` ({}) by Espalier {}, flavour `{}`.\n\n", facts.sourceName, shape.modelType, ESPALIER_VERSION,
                        flavorName(facts.flavor));

    text += "## What was removed\n\n";
    if (kept == experts)
        text += fmt::format("All {} routed experts are kept.", experts);
    else
        text += fmt::format("{} of {} routed experts are gone ({:.1f} %); the router no longer has rows for them.", experts - kept, experts,
                            100.0 * (experts - kept) / std::max(experts, 1));
    if (factored > 0) {
        text += fmt::format(" {} of the {} kept experts hold matrices of reduced rank ({}).", factored, kept,
                            plan.factors().method.empty() ? "svd" : plan.factors().method);
        if (facts.flavor == ExportFlavor::Reconstructed)
            text += " They are stored multiplied back to whole matrices, which saves neither disk nor memory: only the removed experts do.";
    }
    if (facts.flavor == ExportFlavor::Plan)
        text += "\n\nThis folder holds the plan alone, no weights.\n\n";
    else
        text += fmt::format("\n\nTensors: {} instead of {}.\n\n", formatBytes(facts.bytes), formatBytes(facts.sourceBytes));
    text += "| layer | experts before | after | of reduced rank | experts per token |\n|---|---|---|---|---|\n";
    for (const LayerFacts& row : layers)
        text += fmt::format("| {} | {} | {} | {} | {} |\n", row.index, row.experts, row.kept, row.factored, row.topK);
    text += "\nWhich experts (by their original number) and which ranks: `espalier_plan.json`.\n\n";

    text += "## Quality\n\n" + evaluationText(facts.evaluation) + "\n";

    text += "## How to load\n\n";
    if (stock) {
        text +=
            "Like the original: the architecture and the tensor names are unchanged, only the number of experts is smaller.\n\n"
            "```python\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            "model = AutoModelForCausalLM.from_pretrained(\"PATH\", dtype=\"auto\")\n"
            "tokenizer = AutoTokenizer.from_pretrained(\"PATH\")\n"
            "```\n\n";
        if (facts.fused)
            text +=
                "The experts are stored in the fused tensors of transformers 5, as in the original. Converters that expect one tensor per "
                "expert need an export with that layout.\n\n";
    } else if (facts.flavor == ExportFlavor::Factored) {
        text +=
            "In transformers 5 (checked with 5.23) with the two Python files of this folder, in any version of Espalier that reads format "
            "1.\n\n"
            "```python\n"
            "from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast\n\n"
            "model = AutoModelForCausalLM.from_pretrained(\"PATH\", trust_remote_code=True, dtype=\"auto\")\n"
            "tokenizer = PreTrainedTokenizerFast(tokenizer_file=\"PATH/tokenizer.json\")\n"
            "ids = tokenizer(\"Some text\", return_tensors=\"pt\").input_ids\n"
            "```\n\n"
            "`AutoTokenizer` chooses by the model type, which it does not know here; the file itself is always right. If the original adds "
            "a "
            "beginning-of-sequence token (see `add_bos_token` in `tokenizer_config.json`), put it in front of `ids` yourself.\n\n";
    } else {
        text += fmt::format("In Espalier, with `{}` at hand: `espalier-engine evaluate {} --plan espalier_plan.json --text FILE`.\n\n",
                            facts.sourceName, facts.sourceName);
    }

    text += "## Not supported\n\n";
    if (stock)
        text +=
            "Nothing beyond what the original lacks. Tensor-parallel runtimes may want the number of experts to divide by their "
            "number of devices.\n\n";
    else if (facts.flavor == ExportFlavor::Factored)
        text +=
            "Runtimes that read one expert count for all layers (vLLM's own models, llama.cpp, MLX), caches of a fixed size, packed "
            "sequences, returned attention weights. The tensors keep their names and number type, so that loaders for parts of a model "
            "work.\n\n";
    else
        text += "Every program but Espalier.\n\n";

    text += fmt::format("## Identity\n\n* plan `{}`\n* original `{}`\n", facts.planHash, facts.fingerprint);
    return text;
}

}  // namespace espalier
