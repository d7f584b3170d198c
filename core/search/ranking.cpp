// The experts with the best score; the Gram loss of that set is reported.
#include "search/layer_search.h"

namespace espalier
{

SelectMethod rankingMethod()
{
    SelectMethod method;
    method.info = {.id = "ranking",
                   .title = "Ranking",
                   .slot = Slot::Select,
                   .help = "Keeps the experts with the best score in each layer.",
                   .params = {swapParameter()},
                   .needs = {},
                   .source = "The order of the scores; each names its own paper"};
    method.needsGram = false;
    method.run = [](LayerSearch& search, const Params& params) -> Status {
        const std::vector<double> worth = search.request().worth.empty() ? search.leaveOneOutWorth() : search.request().worth;
        const ExpertBits kept = search.ranked(worth);
        search.loss(kept);
        if (search.endStep() && params.at("swap") == true) improveBySwaps(search, kept);
        return {};
    };
    return method;
}

}  // namespace espalier
