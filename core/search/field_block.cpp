#include "search/field_block.h"

#include <fmt/format.h>

namespace espalier
{

Json toJson(const FieldBlock& block)
{
    Json trials = Json::array();
    for (const BlockTrial& trial : block.trials)
        trials.push_back({{"choice", trial.choice}, {"loss", trial.loss}});
    return {{"moe_layers", block.moeLayers},
            {"decoder_layers", {block.firstLayer, block.lastLayer}},
            {"norm_reference_output", block.referenceNorm},
            {"trials", std::move(trials)},
            {"best", {{"choice", block.best.choice}, {"loss", block.best.loss}}},
            {"trial_runs", block.trialRuns},
            {"reference_runs", block.referenceRuns}};
}

Result<FieldBlock> fieldBlockFromJson(const Json& value)
{
    try {
        const auto trial = [](const Json& item) {
            return BlockTrial{item.at("choice").get<std::vector<int>>(), item.at("loss").get<double>()};
        };
        FieldBlock block;
        block.moeLayers = value.at("moe_layers").get<std::vector<int>>();
        block.firstLayer = value.at("decoder_layers").at(0).get<int>();
        block.lastLayer = value.at("decoder_layers").at(1).get<int>();
        block.referenceNorm = value.at("norm_reference_output").get<double>();
        for (const Json& item : value.at("trials"))
            block.trials.push_back(trial(item));
        block.best = trial(value.at("best"));
        block.trialRuns = value.at("trial_runs").get<int>();
        block.referenceRuns = value.at("reference_runs").get<int>();
        return block;
    } catch (const Json::exception& failure) {
        return badInput("search.invalid", "search result", fmt::format("A stored block cannot be read: {}.", failure.what()),
                        "Run the search again.");
    }
}

Status checkFieldOptions(const ReceptiveFieldOptions& options)
{
    if (options.sets >= 1 && options.sets <= 16 && options.blockSize >= 1 && options.blockSize <= 8) return {};
    Error error = usageError(fmt::format("K {} and T {} must lie between 1 and 16, 1 and 8.", options.sets, options.blockSize),
                             "Three of each is what the paper uses.");
    error.code = "search.bad_option";
    error.subject = "kt";
    return error;
}

}  // namespace espalier
