// One line per collector: the statistics it measures, and whether dense layers have them.
#include "profile/statistics/statistic_collector.h"

#include <algorithm>
#include <limits>

namespace espalier
{

namespace
{

struct Entry {
    std::vector<std::string_view> statistics;
    bool denseLayers;
    std::unique_ptr<StatisticCollector> (*make)(const CollectorContext&);
};

const std::vector<Entry>& table()
{
    static const std::vector<Entry> entries = {
        {{"counts", "ean", "reap"}, false, routingSumCollector},
        {{"gram"}, false, gramCollector},
        {{"outputs"}, false, outputMomentsCollector},
        {{"channels"}, false, channelSumsCollector},
        {{"similarity"}, true, layerSimilarityCollector},
    };
    return entries;
}

}  // namespace

std::vector<std::unique_ptr<StatisticCollector>> makeCollectors(const CollectorContext& context)
{
    std::vector<std::unique_ptr<StatisticCollector>> collectors;
    for (const Entry& entry : table())
        if ((context.shape.moe || entry.denseLayers) && std::any_of(entry.statistics.begin(), entry.statistics.end(), context.wants))
            collectors.push_back(entry.make(context));
    return collectors;
}

at::Tensor allLogits(const MoeBatch& batch, int experts)
{
    const at::Tensor logits = batch.routerLogits.to(at::kFloat);
    if (logits.size(1) == experts) return logits.contiguous();
    at::Tensor all = at::full({logits.size(0), experts}, -std::numeric_limits<float>::infinity(), logits.options());
    all.index_copy_(1, batch.kept, logits);
    return all;
}

at::Tensor indexTensor(const std::vector<std::int64_t>& values)
{
    return at::from_blob(const_cast<std::int64_t*>(values.data()), {static_cast<std::int64_t>(values.size())}, at::kLong).clone();
}

}  // namespace espalier
