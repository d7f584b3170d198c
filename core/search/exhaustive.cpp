// Every set of the wanted size, as NAEE does (arXiv 2402.14800), by the exact loss.
#include "search/layer_search.h"

#include <fmt/format.h>

#include <cmath>

namespace espalier
{

namespace
{

constexpr int kSteps = 50;               // of the trace
constexpr std::size_t kTogether = 4096;  // sets evaluated at once

// The next combination of `positions` (ascending) out of `size`, in lexicographic order; false after the last, which is then the first.
bool advance(std::vector<int>& positions, int size)
{
    const int count = static_cast<int>(positions.size());
    int i = count - 1;
    while (i >= 0 && positions[static_cast<std::size_t>(i)] == size - count + i)
        --i;
    if (i < 0) {
        for (int j = 0; j < count; ++j)
            positions[static_cast<std::size_t>(j)] = j;
        return false;
    }
    ++positions[static_cast<std::size_t>(i)];
    for (int j = i + 1; j < count; ++j)
        positions[static_cast<std::size_t>(j)] = positions[static_cast<std::size_t>(j - 1)] + 1;
    return true;
}

}  // namespace

Status enumerate(LayerSearch& search)
{
    search.setEnumerated();
    const auto& removable = search.removable();
    std::vector<std::vector<int>> out(removable.size());
    for (auto& positions : out)
        for (int i = 0; i < search.removedPerGroup(); ++i)
            positions.push_back(i);
    // What the scores choose comes first: the trace begins at what the search is compared with, whatever the order of the sets.
    for (const ExpertBits& kept : search.rankedSets())
        search.loss(kept);
    const auto chunk = static_cast<std::int64_t>(std::ceil(search.combinations() / kSteps));
    std::int64_t done = 0;
    std::vector<ExpertBits> sets;
    const auto evaluate = [&]() -> Status {
        ESPALIER_CHECK_OK(search.losses(sets));
        sets.clear();
        return {};
    };
    while (true) {
        ExpertBits kept = ExpertBits::all(search.experts());
        for (std::size_t group = 0; group < out.size(); ++group)
            for (const int position : out[group])
                kept.erase(removable[group][static_cast<std::size_t>(position)]);
        sets.push_back(kept);
        const bool stepEnds = ++done % chunk == 0;
        if (stepEnds || sets.size() == kTogether) ESPALIER_CHECK_OK(evaluate());
        if (stepEnds && !search.endStep()) return {};
        std::size_t group = out.size();
        while (group > 0 && !advance(out[group - 1], static_cast<int>(removable[group - 1].size())))
            --group;
        if (group == 0) break;
    }
    ESPALIER_CHECK_OK(evaluate());
    if (done % chunk != 0) search.endStep();
    return {};
}

SelectMethod exhaustiveMethod()
{
    SelectMethod method;
    method.info = {.id = "exhaustive",
                   .title = "Exhaustive",
                   .slot = Slot::Select,
                   .help = "Evaluates every set of the wanted size and keeps the best. Exact; for layers with few experts.",
                   .params = {{.key = "limit",
                               .type = ParamType::Integer,
                               .defaultValue = 5000,
                               .low = 1,
                               .high = 10'000'000,
                               .choices = {},
                               .unit = "sets",
                               .help = "Refuse a layer that has more sets than this."}},
                   .needs = {"gram"},
                   .source = "NAEE, arXiv 2402.14800; loss: score/gram_loss.h (ours)"};
    method.run = [](LayerSearch& search, const Params& params) -> Status {
        const auto limit = params.at("limit").get<double>();
        if (const double sets = search.combinations(); sets > limit) {
            Error error = usageError({"Layer {layer} has {sets:.4g} sets of {keep} experts; at most {limit} are tried one by one.",
                                      {{"layer", search.request().layer},
                                       {"sets", sets},
                                       {"keep", search.request().keep},
                                       {"limit", static_cast<std::int64_t>(limit)}}},
                                     "Use the genetic search, or raise the limit.");
            error.code = "search.too_many_sets";
            error.subject = fmt::format("layer {}", search.request().layer);
            return error;
        }
        return enumerate(search);
    };
    return method;
}

}  // namespace espalier
