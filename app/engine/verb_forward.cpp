#include "factor_profiles.h"
#include "forward_dump.h"
#include "pipeline/model_match.h"
#include "tokenizer/text_windows.h"
#include "verb_inputs.h"

#include <fmt/format.h>

namespace espalier
{

namespace
{

struct ForwardOptions {
    std::filesystem::path model;
    std::string ids;
    std::filesystem::path out;
    std::filesystem::path plan;
    std::vector<std::filesystem::path> profiles;
    bool hidden = false;
    bool routing = false;
    bool force = false;
    bool allowOther = false;
};

Result<Json> forward(const ForwardOptions& options, Invocation& invocation)
{
    ESPALIER_CHECK_OK(checkOutput(options.out, options.force));
    ESPALIER_TRY(const auto checkpoint, openCheckpoint(options.model, invocation));
    ForwardRequest request;
    // Rows stay whole: what was asked for is the logits of each.
    const TextRequest whole{.window = {.windowLength = 1 << 24, .bos = Bos::No},
                            .countAsked = false,
                            .lengthAsked = false,
                            .modelPositions = checkpoint->shape().maxPositions};
    ESPALIER_TRY(const RequestedWindows opened, openIdWindows(options.ids, whole, checkpoint->shape().vocabularySize));
    const TokenWindows& windows = opened.windows;
    invocation.warnings.insert(invocation.warnings.end(), opened.warnings.begin(), opened.warnings.end());
    for (const auto& row : windows.rows)
        if (row.size() != windows.rows.front().size())
            return badInput(
                "ids.unequal_rows", options.ids,
                {"Rows of {rows} and {row} ids cannot share one tensor.", {{"rows", windows.rows.front().size()}, {"row", row.size()}}},
                "Give rows of one length.");
    request.ids = windows.rows;
    request.hidden = options.hidden;
    request.routing = options.routing;
    request.out = options.out;
    request.plan = CompressionPlan::identity(checkpoint->shape());
    ESPALIER_TRY(FactorSources profiles, openProfiles(options.profiles));
    if (!options.plan.empty()) {
        ESPALIER_TRY(request.plan, readPlan(options.plan, *checkpoint, options.allowOther));
        ESPALIER_CHECK_OK(bindProfile(request.plan, options.plan, profiles, checkpoint->fingerprint(), invocation.warnings));
    }
    ESPALIER_TRY(const auto model, createModel(checkpoint, invocation));
    model->setFactorSources(profiles);
    ESPALIER_TRY(Json result, forwardDump(*model, request, invocation.job));
    result["plan_hash"] = request.plan.hash();
    for (const auto& [name, shape] : result["tensors"].items())
        invocation.text += fmt::format("{}  {}\n", name, shape.dump());
    return result;
}

}  // namespace

void addForward(Verbs& verbs)
{
    auto options = std::make_shared<ForwardOptions>();
    CLI::App* verb = verbs.add("forward", "Logits and internals for comparisons",
                               [options](Invocation& invocation) { return forward(*options, invocation); });
    verb->add_option("MODEL", options->model, "Checkpoint folder")->required();
    verb->add_option("--ids", options->ids, "JSON file of lists of ids, or safetensors FILE[:NAME]")->required()->type_name("FILE");
    verb->add_option("--out", options->out, "safetensors file to write")->required()->type_name("FILE");
    verb->add_option("--plan", options->plan, "Run under this plan")->type_name("FILE");
    addProfileOption(verb, options->profiles);
    verb->add_flag("--hidden", options->hidden, "Also the hidden state after every layer");
    verb->add_flag("--routing", options->routing, "Also the experts chosen and their weights");
    verb->add_flag("--force", options->force, "Replace an existing output");
    verb->add_flag("--allow-other-model", options->allowOther, "Accept a plan made for another model");
}

}  // namespace espalier
