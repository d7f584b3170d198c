#include "plan_method_options.h"

#include "allocate/allocator.h"
#include "base/text.h"
#include "pipeline/recipe_json.h"
#include "plan/factor_methods.h"
#include "plan/plan_edit.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace espalier
{

namespace
{

// "3,3" -> K = 3, T = 3; "off".
Result<std::optional<ReceptiveFieldChoice>> parseReceptiveField(const std::string& text)
{
    if (text.empty() || text == "off") return std::optional<ReceptiveFieldChoice>();
    ReceptiveFieldChoice choice;
    const char* end = text.data() + text.size();
    const auto sets = std::from_chars(text.data(), end, choice.sets);
    const bool comma = sets.ec == std::errc() && sets.ptr != end && *sets.ptr == ',';
    const auto block = comma ? std::from_chars(sets.ptr + 1, end, choice.blockSize) : sets;
    if (!comma || block.ec != std::errc() || block.ptr != end || choice.sets < 1 || choice.blockSize < 1)
        return usageError({"\"{text}\" is neither K,T nor off.", {{"text", text}}}, "Write --kt 3,3.");
    return std::optional(choice);
}

Result<double> parsePositive(const std::string& text, std::string_view option)
{
    double value = 0;
    const auto [rest, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failure != std::errc() || rest != text.data() + text.size() || !(value > 0))
        return usageError({"{option} \"{text}\" is not a number above zero.", {{"option", option}, {"text", text}}});
    return value;
}

// "37%" or "0.37" -> 0.37.
Result<double> parseShare(const std::string& text)
{
    const bool percent = !text.empty() && text.back() == '%';
    ESPALIER_TRY(const double value, parsePositive(percent ? text.substr(0, text.size() - 1) : text, "--decompose"));
    const double share = percent ? value / 100 : value;
    if (share >= 1) return usageError({"--decompose {text} leaves nothing.", {{"text", text}}}, "Choose less than 100%.");
    return share;
}

// "8" for all layers, "3:8" for layer 3.
Status readBounds(const std::vector<std::string>& given, std::string_view option, std::map<int, int>& bounds)
{
    for (const std::string& item : given) {
        int layer = CountBounds::kAllLayers;
        int count = -1;
        const std::size_t colon = item.find(':');
        const char* end = item.data() + item.size();
        const char* number = item.data();
        bool good = true;
        if (colon != std::string::npos) {
            const auto [rest, failure] = std::from_chars(item.data(), item.data() + colon, layer);
            good = failure == std::errc() && rest == item.data() + colon && layer >= 0;
            number = item.data() + colon + 1;
        }
        const auto [rest, failure] = std::from_chars(number, end, count);
        if (!good || failure != std::errc() || rest != end || count < 0)
            return usageError({"{option} \"{item}\" is neither a count nor a layer and a count.", {{"option", option}, {"item", item}}},
                              {"Write {option} 8 for all layers, {option} 3:8 for layer 3.", {{"option", option}}});
        bounds[layer] = count;
    }
    return {};
}

// Ranks are asked for by any of their options.
Status readRanks(const PlanMethodOptions& options, PlanRecipe& recipe)
{
    if (!options.rankAverage.empty() || !options.decompose.empty() || !options.rankRule.empty()) recipe.ranks = true;
    if (!options.rankRule.empty() && options.rankRule != recipe.rankRule) {
        recipe.rankRule = options.rankRule;
        recipe.params.erase("rank");
    }
    if (!options.factors.empty()) recipe.factors = options.factors;
    if (!options.rankAverage.empty() || !options.decompose.empty()) {
        recipe.averageRank.reset();
        recipe.decomposeShare.reset();
    }
    if (options.rankAverage == "off") {
        recipe.ranks = false;
        // Said in so many words, it also holds for the allocator that chooses ranks itself.
        if (choosesRanks(recipe)) recipe.params["allocate"].emplace("ranks", "off");
    } else if (!options.rankAverage.empty() && options.rankAverage != "auto") {
        ESPALIER_TRY(recipe.averageRank, parsePositive(options.rankAverage, "--rank-average"));
        if (*recipe.averageRank < 1) return usageError("An average rank below 1 leaves nothing of an expert.", "Choose at least 1.");
    }
    if (!options.decompose.empty()) {
        ESPALIER_TRY(recipe.decomposeShare, parseShare(options.decompose));
    }
    return {};
}

}  // namespace

void addPlanMethodOptions(CLI::App* verb, PlanMethodOptions& options)
{
    std::vector<std::string> factors;
    for (auto method = factorMethods().rbegin(); method != factorMethods().rend(); ++method)
        factors.push_back(method->id);
    CLI::Option* prune = verb->add_option("--prune", options.prune, "Experts to remove: 25%, 0.25, 32/128 or a number");
    CLI::Option* keep = verb->add_option("--keep", options.keep, "Experts to keep: 75%, 0.75, 96/128 or a number")->excludes(prune);
    verb->add_option("--size", options.size, "Largest size of the weights, for example 14GiB")->excludes(prune)->excludes(keep);
    verb->add_option("--allocate", options.allocate,
                     "How counts are spread over layers (see `methods --slot allocate`; default: importance). verified measures plans on "
                     "the model, and with --size "
                     "chooses ranks as well, unless --rank-average off");
    verb->add_option("--score", options.score, "Which experts matter (see `methods --slot score`; default: leave-one-out)");
    verb->add_option("--select", options.select, "How kept sets are chosen (see `methods --slot select`)");
    verb->add_option("--kt", options.receptiveField,
                     "Choose among the best K sets of each layer by blocks of T layers, run through the model; K,T or off")
        ->type_name("K,T");
    verb->add_option("--rank-average", options.rankAverage,
                     "Factor the remaining experts, at this rank on average; auto: the rank that removes about 37 %; off")
        ->type_name("R");
    verb->add_option("--decompose", options.decompose, "Factor them so that this share of their parameters goes, as 37%")
        ->type_name("SHARE");
    verb->add_option("--rank-rule", options.rankRule, "How ranks are spread (see `methods --slot rank-rule`; default: moe-i2)")
        ->type_name("RULE");
    verb->add_option("--factors", options.factors, "How ranks become factors (default: whitened-svd where the profile has what it needs)")
        ->check(CLI::IsMember(factors));
    verb->add_option("--dropped", options.dropped,
                     "What becomes of dropped experts: none (their router rows go too), constant (their mean output on the calibration "
                     "text; the router is unchanged), weighted-constant (their mean by the square of the routing weight)")
        ->check(CLI::IsMember({"none", "constant", "weighted-constant"}));
    verb->add_option("--drop-layers", options.dropLayers, "Decoder layers that are left out; their experts count as removed")
        ->delimiter(',')
        ->type_name("L");
    verb->add_option("--drop-similar-layers", options.dropSimilar,
                     "Leave out so many decoder layers: those that change the hidden state least")
        ->check(CLI::Range(1, 1 << 30))
        ->type_name("N");
    verb->add_option("--recover", options.recover,
                     "How what was lost is won back once experts and ranks are settled (see `methods --slot recover`); none")
        ->type_name("METHOD");
    verb->add_option("--skip", options.skip,
                     "Which of its chosen experts a token skips: ratio (scores below --param skip.threshold times the largest), "
                     "cumulative (those after that share of their sum), none")
        ->type_name("RULE");
    verb->add_option("--lock", options.lock, "Layers that stay as they are")->delimiter(',')->type_name("L");
    verb->add_option("--protect", options.protect, "Experts that are never removed, LAYER:EXPERT")->delimiter(',')->type_name("L:E");
    verb->add_option("--floor", options.floors, "Experts that layers keep at least: N for all, LAYER:N for one")
        ->delimiter(',')
        ->type_name("[L:]N");
    verb->add_option("--cap", options.caps, "Experts that layers keep at most: N for all, LAYER:N for one")
        ->delimiter(',')
        ->type_name("[L:]N");
    verb->add_option("--multiple-of", options.multipleOf, "Every layer keeps a multiple of N experts, for tensor or expert parallelism")
        ->check(CLI::Range(1, 1 << 20))
        ->type_name("N");
    verb->add_option("--top-k", options.topK,
                     "Experts that routers pick for a token, fewer than the checkpoint says: N for all layers, LAYER:N for one")
        ->delimiter(',')
        ->type_name("[L:]N");
    verb->add_option("--recipe", options.recipe,
                     "Methods, target and seed that this plan file says it was made with; other options come before them")
        ->type_name("PLAN.json");
    verb->add_flag("--uniform", options.uniform, "The same count in every layer");
    verb->add_option("--param", options.params, "Parameter of a method, as allocate.alpha=0.15")->type_name("SLOT.K=V");
}

Result<PlanRecipe> recipeOf(const PlanMethodOptions& options, const Invocation& invocation, PlanRecipe recipe)
{
    if (!options.recipe.empty()) {
        ESPALIER_TRY(recipe, recipeOfPlanFile(options.recipe));
    }
    // Parameters belong to the method they were given for.
    const auto choose = [&recipe](std::string& value, const std::string& given, const char* slot) {
        if (given.empty() || given == value) return;
        value = given;
        recipe.params.erase(slot);
    };
    choose(recipe.score, options.score, "score");
    choose(recipe.allocate, options.allocate, "allocate");
    choose(recipe.select, options.select, "select");
    choose(recipe.recover, options.recover, "recover");
    if (recipe.recover == "none") recipe.recover.clear();
    choose(recipe.skip, options.skip, "skip");
    if (options.skip == "none") recipe.skip.clear();
    if (options.uniform) recipe.uniformCount = true;
    if (options.dropped == "none") recipe.dropped.reset();
    if (options.dropped == "constant") recipe.dropped = ConstantKind::Mean;
    if (options.dropped == "weighted-constant") recipe.dropped = ConstantKind::Weighted;
    if (!options.dropLayers.empty()) recipe.dropLayers = options.dropLayers;
    std::sort(recipe.dropLayers.begin(), recipe.dropLayers.end());
    recipe.dropLayers.erase(std::unique(recipe.dropLayers.begin(), recipe.dropLayers.end()), recipe.dropLayers.end());
    if (options.dropSimilar > 0) recipe.dropSimilar = options.dropSimilar;
    if (options.recipe.empty() || invocation.options.seed != 0) recipe.seed = invocation.options.seed;
    recipe.threads = invocation.options.threads;
    if (!options.receptiveField.empty()) {
        ESPALIER_TRY(recipe.receptiveField, parseReceptiveField(options.receptiveField));
    }
    ESPALIER_TRY(const auto params, parseParams(options.params, {"score", "allocate", "select", "rank", "recover", "skip"}));
    for (const auto& [slot, given] : params)
        for (const auto& [key, value] : given)
            recipe.params[slot][key] = value;
    ESPALIER_CHECK_OK(readBounds(options.floors, "--floor", recipe.bounds.least));
    ESPALIER_CHECK_OK(readBounds(options.caps, "--cap", recipe.bounds.most));
    if (options.multipleOf > 0) recipe.bounds.multipleOf = options.multipleOf;
    ESPALIER_CHECK_OK(readRanks(options, recipe));
    return recipe;
}

Status readTarget(const PlanMethodOptions& options, const ModelShape& shape, PlanRecipe& recipe)
{
    const int total = static_cast<int>(shape.totalExperts());
    const int given = !options.prune.empty() + !options.keep.empty() + !options.size.empty();
    for (const auto* bounds : {&recipe.bounds.least, &recipe.bounds.most})
        for (const auto& [layer, count] : *bounds)
            if (layer != CountBounds::kAllLayers &&
                (layer >= static_cast<int>(shape.layers.size()) || !shape.layers[static_cast<std::size_t>(layer)].moe))
                return usageError({"Layer {layer} has no experts to bound.", {{"layer", layer}}});
    if (given == 0 && (recipe.keepTotal || recipe.bytes)) return {};
    if (given == 0 && (!recipe.dropLayers.empty() || recipe.dropSimilar > 0 || !options.topK.empty() || !recipe.skip.empty())) {
        recipe.keepTotal = total;
        return {};
    }
    recipe.keepTotal.reset();
    recipe.bytes.reset();
    if (given != 1) return usageError("One of --prune, --keep and --size is needed.", "For example --prune 25%.");
    if (!options.prune.empty()) {
        ESPALIER_TRY(const int removed, parseKeep(options.prune, total));
        recipe.keepTotal = total - removed;
    } else if (!options.keep.empty()) {
        ESPALIER_TRY(recipe.keepTotal, parseKeep(options.keep, total));
    } else {
        ESPALIER_TRY(recipe.bytes, parseByteSize(options.size));
    }
    return {};
}

Result<CompressionPlan> withLocksAndProtection(CompressionPlan plan, const ModelShape& shape, const PlanMethodOptions& options)
{
    const auto isMoe = [&](int layer) {
        return layer >= 0 && layer < plan.layerCount() && shape.layers[static_cast<std::size_t>(layer)].moe;
    };
    std::map<int, int> topK;
    ESPALIER_CHECK_OK(readBounds(options.topK, "--top-k", topK));
    for (const auto& [layer, count] : topK)
        if (layer != CountBounds::kAllLayers && !isMoe(layer))
            return usageError({"Layer {layer} has no experts to pick.", {{"layer", layer}}});
    for (int layer = 0; layer < plan.layerCount() && !topK.empty(); ++layer) {
        const auto found = topK.contains(layer) ? topK.find(layer) : topK.find(CountBounds::kAllLayers);
        if (found == topK.end() || !isMoe(layer) || !plan.layer(layer).runsExperts()) continue;
        ESPALIER_TRY(plan, withTopK(shape, plan, layer, found->second));
    }
    for (const int layer : options.lock) {
        if (!isMoe(layer)) return usageError({"Layer {layer} has no experts to lock.", {{"layer", layer}}});
        plan = plan.withLocked(layer, true);
    }
    for (const std::string& item : options.protect) {
        int layer = -1;
        int expert = -1;
        const std::size_t colon = item.find(':');
        if (colon != std::string::npos) {
            std::from_chars(item.data(), item.data() + colon, layer);
            std::from_chars(item.data() + colon + 1, item.data() + item.size(), expert);
        }
        if (!isMoe(layer) || expert < 0 || expert >= shape.layers[static_cast<std::size_t>(layer)].experts)
            return usageError({"\"{item}\" is not a layer and an expert of this model.", {{"item", item}}},
                              "Write --protect LAYER:EXPERT.");
        plan = plan.withProtected(layer, expert, true);
    }
    return plan;
}

}  // namespace espalier
