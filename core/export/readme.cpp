#include "export/readme.h"

#include "base/text.h"
#include "export/python_files.h"
#include "plan/forms/form_rules.h"
#include "plan/routing.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <map>

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

std::string fileName(const std::string& path) { return std::filesystem::path(path).filename().string(); }

std::string measuredText(const std::vector<Measurement>& measured)
{
    if (measured.empty()) return "Perplexity was not measured when this was written.\n";
    std::string text =
        "| text | windows | tokens per window | perplexity of the original | of this model | difference, nats per token |\n"
        "|---|---|---|---|---|---|\n";
    std::string types;
    for (const Measurement& row : measured) {
        std::string name = fileName(row.text);
        if (!row.role.empty()) name += fmt::format(" ({})", row.role);
        std::string difference = "not measured";
        if (row.deltaNll) {
            difference = fmt::format("{:+.4f}", *row.deltaNll);
            if (row.deltaNllError) difference += fmt::format(" ± {:.4f}", *row.deltaNllError);
        }
        text += fmt::format("| {} | {} | {} | {} | {:.4f} | {} |\n", name, row.windows, row.windowLength,
                            row.densePpl ? fmt::format("{:.4f}", *row.densePpl) : "not measured", row.ppl, difference);
        if (!row.dtype.empty() && types.find(row.dtype) == std::string::npos) types += (types.empty() ? "" : ", ") + row.dtype;
    }
    text +=
        "\nMeasured before this was written, of the plan that it was made from: windows do not overlap, the first token of a window is "
        "unscored. The difference is that of the mean loss on the same windows, with its standard error.";
    if (!types.empty()) text += fmt::format(" Computed in {}.", types);
    return text + "\n";
}

std::string accuracyText(const std::optional<Accuracy>& accuracy, bool sign = false)
{
    if (!accuracy) return "not measured";
    std::string text = sign ? fmt::format("{:+.4f}", accuracy->value) : fmt::format("{:.4f}", accuracy->value);
    return accuracy->error ? text + fmt::format(" ± {:.4f}", *accuracy->error) : text;
}

std::string tasksText(const std::vector<TaskMeasurement>& tasks)
{
    if (tasks.empty()) return {};
    std::string text =
        "\n| task | questions | metric | accuracy of the original | of this model | difference |\n"
        "|---|---|---|---|---|---|\n";
    for (const TaskMeasurement& task : tasks) {
        const auto row = [&](const char* metric, const TaskMeasurement::Metric& of) {
            text += fmt::format("| {} | {} | {} | {} | {} | {} |\n", task.task, task.questions, metric, accuracyText(of.dense),
                                accuracyText(of.plan), accuracyText(of.delta, true));
        };
        row("acc", task.acc);
        if (task.norm) row("acc_norm", *task.norm);
    }
    return text +
           "\nMultiple choice, zero-shot, with the contexts, choices and metrics of lm-evaluation-harness 0.4, one standard error. The "
           "difference is that on the same questions, with its paired error.\n";
}

std::string speedText(const std::optional<SpeedMeasurement>& speed)
{
    if (!speed) return {};
    const auto row = [](const std::string& what, const SpeedMeasurement::Phase& phase) {
        return fmt::format("| {} | {:.1f} | {:.1f} | {:.2f}x ({:.2f} to {:.2f}) |\n", what, phase.dense, phase.plan, phase.ratio, phase.low,
                           phase.high);
    };
    return fmt::format(
        "## Speed\n\n{}, measured here.\n\n| | original, tokens per second | this model | ratio |\n|---|---|---|---|\n{}{}\n"
        "Medians of {} rounds in turn, in {} on {} threads, by Espalier's engine on the machine that this was made on.\n\n",
        speedWords(speed->prefill), row(fmt::format("a prompt of {} tokens", speed->prefill.tokens), speed->prefill),
        row(fmt::format("{} tokens behind it", speed->decode.tokens), speed->decode), speed->rounds,
        speed->dtype.empty() ? "the type of the model" : speed->dtype, speed->threads);
}

std::string leftOutText(const ReadmeFacts& facts)
{
    if (facts.leftOut.empty() && facts.code.empty()) return {};
    std::string text = "## What was left out\n\n";
    if (!facts.leftOut.empty())
        text += fmt::format(
            "* {} tensors that are no part of the model as it is run, the first is `{}`. `config.json` promises none of them.\n",
            facts.leftOut.size(), facts.leftOut.front());
    if (!facts.code.empty())
        text += fmt::format(
            "* Python code of the original: `{}`. JSON files that named it do so no longer; transformers' own classes load the model.\n",
            fmt::join(facts.code, "`, `"));
    return text + "\n";
}

std::string stockLoading(const ReadmeFacts& facts)
{
    std::string text =
        "Like the original: the architecture is unchanged, only the number of experts is smaller.\n\n"
        "```python\n"
        "from transformers import AutoModelForCausalLM";
    text += facts.tokenizerFile ? ", AutoTokenizer\n\n" : "\n\n";
    text += "model = AutoModelForCausalLM.from_pretrained(\"PATH\", dtype=\"auto\")\n";
    if (facts.tokenizerFile) text += "tokenizer = AutoTokenizer.from_pretrained(\"PATH\")\n";
    text += "```\n\n";
    if (facts.fused)
        text +=
            "The experts are stored in the fused tensors of transformers 5, as in the original. Converters that expect one tensor per "
            "expert need an export with that layout.\n\n";
    return text;
}

std::string factoredLoading(const ReadmeFacts& facts)
{
    std::string text =
        "In transformers 5 (checked with 5.23) with the two `_espalier.py` files of this folder that `config.json` names, in any version "
        "of Espalier that reads format "
        "1.\n\n"
        "```python\n";
    if (!facts.tokenizerFile)
        return text +
               "from transformers import AutoModelForCausalLM\n\n"
               "model = AutoModelForCausalLM.from_pretrained(\"PATH\", trust_remote_code=True, dtype=\"auto\")\n"
               "```\n\n";
    return text +
           "from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast\n\n"
           "model = AutoModelForCausalLM.from_pretrained(\"PATH\", trust_remote_code=True, dtype=\"auto\")\n"
           "tokenizer = PreTrainedTokenizerFast(tokenizer_file=\"PATH/tokenizer.json\")\n"
           "ids = tokenizer(\"Some text\", return_tensors=\"pt\").input_ids\n"
           "```\n\n"
           "`AutoTokenizer` chooses by the model type, which it does not know here; the file itself is always right. If the original adds "
           "a "
           "beginning-of-sequence token (see `add_bos_token` in `tokenizer_config.json`), put it in front of `ids` yourself.\n\n";
}

std::string tokenizerText(const ReadmeFacts& facts)
{
    if (facts.tokenizerCode.empty()) return {};
    if (facts.tokenizerFile)
        return fmt::format("The original also has a tokenizer in Python (`{}`); `tokenizer.json` stands for it.\n\n",
                           fmt::join(facts.tokenizerCode, "`, `"));
    return fmt::format(
        "The tokenizer of the original is Python code, which is not passed on: read `{}`, then copy it and `tokenizer_config.json` from "
        "the "
        "original into this folder and load the tokenizer with `trust_remote_code=True`. Its vocabulary is here already.\n\n",
        fmt::join(facts.tokenizerCode, "`, `"));
}

std::string timingText(const ReadmeFacts& facts)
{
    return fmt::format(
        "How fast it is in transformers on a machine, beside the original, says `{}` (needs torch and transformers):\n\n"
        "```sh\n"
        "python {} --against \"{}\"\n"
        "```\n\n",
        timingFile().first, timingFile().first, facts.sourcePath);
}

// Commands that work as they stand, in this folder, as long as the original lies where it was.
std::string planLoading(const ReadmeFacts& facts)
{
    std::string text = fmt::format("In Espalier, with the original, `{}`, at hand. In this folder", facts.sourceName);
    std::string profile;
    if (facts.factors == ReadmeFacts::Factors::Brought) {
        profile = " --profile espalier_factors.safetensors";
        text += " (`espalier_factors.safetensors` holds what the ranks need of the calibration profile)";
    } else if (facts.factors == ReadmeFacts::Factors::OfProfile) {
        profile = " --profile PROFILE.h5";
        text += fmt::format(
            ", where `PROFILE.h5` is the calibration profile that the ranks were made from: the file with the SHA-256 `{}`, which was not "
            "packed with the plan",
            facts.profileSha256);
    }
    return text +
           fmt::format(
               ":\n\n"
               "```sh\n"
               "espalier-engine evaluate \"{0}\" --plan espalier_plan.json{1} --text FILE\n"
               "espalier-engine export \"{0}\" --plan espalier_plan.json{1} --out FOLDER\n"
               "```\n\n"
               "The first measures the perplexity on the text FILE, the second writes the compressed model to FOLDER, which does not exist "
               "yet.\n\n",
               facts.sourcePath, profile);
}

}  // namespace

namespace
{

std::string skippedText(const CompressionPlan& plan)
{
    std::vector<int> skipped;
    for (int l = 0; l < plan.layerCount(); ++l)
        if (plan.layer(l).run() == LayerRun::Skipped) skipped.push_back(l);
    if (skipped.empty()) return {};
    return fmt::format("{} of {} decoder layers are gone (numbered as in the original): {}. The others are numbered anew.\n\n",
                       skipped.size(), plan.layerCount(), fmt::join(skipped, ", "));
}

std::string constantsText(const CompressionPlan& plan)
{
    std::size_t constants = 0;
    for (int l = 0; l < plan.layerCount(); ++l)
        constants += plan.layer(l).constants().size();
    if (constants == 0) return {};
    return fmt::format(
        "{} routed experts are replaced by constants, their mean output on the calibration text; the router still chooses "
        "them.\n\n",
        constants);
}

// What else became of experts and matrices, by form.
std::string formsText(const CompressionPlan& plan, ExportFlavor flavor)
{
    std::map<std::string, int> matrices, linears;
    std::size_t shared = 0;
    int skips = 0;
    int stored = 0, packed = 0, routers = 0;
    for (int l = 0; l < plan.layerCount(); ++l) {
        const LayerPlan::Content& content = plan.layer(l).content();
        shared += content.columns.size() - content.bodies.size();
        routers += content.router.empty() ? 0 : 1;
        skips += content.skip && !skipsNothing(*content.skip) ? 1 : 0;
        for (const auto& [name, form] : content.linears) {
            const bool bits = form.storage.bits > 0;
            stored += form.values.empty() ? 0 : 1;
            packed += bits || std::holds_alternative<Masked>(form.structure) ? 1 : 0;
            ++linears[std::string(rulesOf(form).title) + (bits ? fmt::format(" in {} bits", form.storage.bits) : "")];
        }
        for (const Body& body : content.bodies) {
            const auto* expert = std::get_if<ExpertBody>(&body);
            for (std::size_t m = 0; expert && m < 3; ++m) {
                const MatrixForm& form = expert->matrices[m];
                stored += form.values.empty() ? 0 : 1;
                const bool bits = form.storage.bits > 0;
                packed += bits || std::holds_alternative<Masked>(form.structure) ? 1 : 0;
                if (!form.isSource() && !form.isPlain())
                    ++matrices[std::string(rulesOf(form).title) + (bits ? fmt::format(" in {} bits", form.storage.bits) : "")];
            }
        }
    }
    std::string text;
    if (shared > 0)
        text += fmt::format(
            "{} routed experts use the weights of another one that they were merged with; the router still has a row for each{}.\n\n",
            shared, flavor == ExportFlavor::Reconstructed ? ", and so do the weights here" : "");
    for (const auto& [title, count] : matrices)
        text += fmt::format("{} matrices of experts: {}.\n\n", count, title);
    for (const auto& [title, count] : linears)
        text += fmt::format("{} linear maps beside the experts (attention, shared experts, dense MLPs): {}{}.\n\n", count, title,
                            flavor == ExportFlavor::Reconstructed && title == "low rank" ? ", multiplied back" : "");
    for (int l = 0; l < plan.layerCount(); ++l)
        if (const auto& merge = plan.layer(l).content().mergedFrom)
            text += fmt::format("The weights of layer {} are {:.4g} of its own and {:.4g} of those of layer {}.\n\n", l,
                                merge->alphaMillionths / 1e6, 1 - merge->alphaMillionths / 1e6, merge->layer);
    if (skips > 0)
        text +=
            fmt::format("Tokens skip chosen experts of small weight in {} layers: how much is computed depends on the text.\n\n", skips);
    if (stored > 0) text += fmt::format("{} matrices have numbers of their own (`values` in `espalier_plan.json`).\n\n", stored);
    if (routers > 0) text += fmt::format("The router has rows of its own in {} layers.\n\n", routers);
    if (packed > 0 && flavor != ExportFlavor::Plan)
        text += "Masked and low-bit weights are written as the numbers they stand for: they save neither disk nor memory here.\n\n";
    return text;
}

}  // namespace

std::string exportReadme(const ModelShape& shape, const CompressionPlan& plan, const ReadmeFacts& facts)
{
    std::vector<LayerFacts> layers;
    int experts = 0, kept = 0, factored = 0;
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe || !plan.layer(layer.index).runsExperts()) continue;
        const LayerPlan& part = plan.layer(layer.index);
        LayerFacts row{layer.index, layer.experts, static_cast<int>(part.kept().size()), 0, part.topK().value_or(layer.router.topK)};
        row.factored = static_cast<int>(std::count_if(part.ranks().begin(), part.ranks().end(), [](const RankTriple& triple) {
            return std::any_of(triple.begin(), triple.end(), [](int rank) { return rank != 0; });
        }));
        experts += row.experts;
        kept += static_cast<int>(part.columns().size() - part.constants().size());  // merged ones have their row still
        factored += row.factored;
        layers.push_back(row);
    }

    const bool stock = facts.flavor == ExportFlavor::Stock || facts.flavor == ExportFlavor::Reconstructed;
    std::string text = fmt::format("# {}, compressed\n\n", facts.sourceName);
    text += fmt::format("Made from `{}` ({}) by Espalier {}, flavour `{}`.\n\n", facts.sourceName, shape.modelType, ESPALIER_VERSION,
                        flavorName(facts.flavor));

    text += "## What was removed\n\n" + skippedText(plan) + constantsText(plan) + formsText(plan, facts.flavor);
    if (kept == experts)
        text += fmt::format("All {} routed experts are kept.", experts);
    else
        text += fmt::format("{} of {} routed experts are gone ({:.1f} %); {}.", experts - kept, experts,
                            100.0 * (experts - kept) / std::max(experts, 1),
                            plan.hasConstants() ? "those that are no constants have no row of the router any more"
                                                : "the router no longer has rows for them");
    if (factored > 0) {
        text += fmt::format(" {} of the {} kept experts hold matrices of reduced rank ({}).", factored, kept,
                            !plan.needsFactors()            ? "stored"
                            : plan.factors().method.empty() ? "svd"
                                                            : plan.factors().method);
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

    text += "## Quality\n\n" + measuredText(facts.measured) + tasksText(facts.tasks) + "\n" + speedText(facts.speed);

    text += leftOutText(facts);
    text += "## How to load\n\n";
    text += stock ? stockLoading(facts) : facts.flavor == ExportFlavor::Factored ? factoredLoading(facts) : planLoading(facts);
    if (facts.flavor != ExportFlavor::Plan) text += tokenizerText(facts) + timingText(facts);

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
