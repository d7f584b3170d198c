// "channels": the sums, how they merge, and where they lie in the file.
#include "statistics/channel_sums.h"

#include "statistics/statistic.h"

#include <algorithm>

namespace espalier
{

namespace
{

constexpr std::uint64_t kLargestWidth = 1u << 24;

}  // namespace

ChannelSums ChannelSums::zeros(int experts, int width)
{
    ChannelSums sums;
    sums.width = width;
    const std::size_t values = static_cast<std::size_t>(experts) * static_cast<std::size_t>(width);
    sums.energy.assign(values, 0.0);
    sums.peak.assign(values, 0.0);
    return sums;
}

void ChannelSums::add(const ChannelSums& part)
{
    for (std::size_t i = 0; i < part.energy.size(); ++i) {
        energy[i] += part.energy[i];
        peak[i] = std::max(peak[i], part.peak[i]);
    }
}

StatisticStore channelSumStore()
{
    StatisticStore store;
    store.minor = 6;
    store.there = [](const LayerProfile& layer) { return !layer.channels.empty(); };
    store.bytes = [](const LayerProfile& layer) {
        return static_cast<std::int64_t>((layer.channels.energy.size() + layer.channels.peak.size()) * sizeof(double)) + 1024;
    };
    store.write = [](ArrayWriter& writer, const LayerProfile& layer) {
        const auto own = writer.group("channels");
        const ArrayShape shape = {static_cast<std::uint64_t>(layer.experts), static_cast<std::uint64_t>(layer.channels.width)};
        own->write("energy", std::span(layer.channels.energy), shape);
        own->write("peak", std::span(layer.channels.peak), shape);
    };
    store.read = [](const ArrayReader& reader, LayerProfile& layer) {
        if (!reader.has("channels")) return;
        const auto own = reader.group("channels");
        ChannelSums& channels = layer.channels;
        ArrayShape shape(2);
        own->read("energy", channels.energy, &shape);
        const ArrayShape first = shape;
        own->read("peak", channels.peak, &shape);
        const auto notNegative = [](double value) { return value >= 0; };
        expectFit(first == shape && shape[0] == static_cast<std::uint64_t>(layer.experts) && shape[1] >= 1 && shape[1] <= kLargestWidth &&
                      allFinite(channels.energy) && allFinite(channels.peak) &&
                      std::all_of(channels.energy.begin(), channels.energy.end(), notNegative) &&
                      std::all_of(channels.peak.begin(), channels.peak.end(), notNegative),
                  layer, "channels");
        channels.width = static_cast<int>(shape[1]);
    };
    store.sameForm = [](const LayerProfile& a, const LayerProfile& b) { return a.channels.width == b.channels.width; };
    store.add = [](LayerProfile& sum, const LayerProfile& part, const MergePlace&) { sum.channels.add(part.channels); };
    return store;
}

}  // namespace espalier
