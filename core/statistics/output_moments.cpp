// "outputs": the moments, how they merge, and where they lie in the file.
#include "statistics/output_moments.h"

#include "statistics/statistic.h"

#include <string>

namespace espalier
{

std::string_view outputWeightName(OutputWeight weight)
{
    switch (weight) {
        case OutputWeight::Plain:
            return "plain";
        case OutputWeight::Routing:
            return "routing";
        case OutputWeight::RoutingSquared:
            break;
    }
    return "routing_squared";
}

std::vector<double> OutputMoments::mean(int expert, OutputWeight weight) const
{
    const Weighted& moment = of(weight);
    const auto e = static_cast<std::size_t>(expert);
    const auto length = static_cast<std::size_t>(width);
    std::vector<double> values(length, 0.0);
    if (moment.mass[e] > 0)
        for (std::size_t c = 0; c < length; ++c)
            values[c] = moment.sum[e * length + c] / moment.mass[e];
    return values;
}

double OutputMoments::variance(int expert, OutputWeight weight) const
{
    const Weighted& moment = of(weight);
    const auto e = static_cast<std::size_t>(expert);
    return moment.mass[e] > 0 ? moment.scatter[e] / moment.mass[e] : 0.0;
}

OutputMoments OutputMoments::zeros(int experts, int hiddenSize)
{
    OutputMoments moments;
    moments.width = hiddenSize;
    const auto n = static_cast<std::size_t>(experts);
    for (Weighted& moment : moments.byWeight) {
        moment.mass.assign(n, 0.0);
        moment.sum.assign(n * static_cast<std::size_t>(hiddenSize), 0.0);
        moment.scatter.assign(n, 0.0);
    }
    return moments;
}

void OutputMoments::add(int expert, OutputWeight weight, double mass, std::span<const double> sum, double scatter)
{
    if (!(mass > 0)) return;
    Weighted& own = byWeight[static_cast<std::size_t>(weight)];
    const auto e = static_cast<std::size_t>(expert);
    double* total = own.sum.data() + e * static_cast<std::size_t>(width);
    double between = 0;
    for (std::size_t c = 0; c < sum.size(); ++c) {
        if (own.mass[e] > 0) {
            const double apart = sum[c] / mass - total[c] / own.mass[e];
            between += apart * apart;
        }
        total[c] += sum[c];
    }
    own.scatter[e] += scatter + between * (own.mass[e] * mass / (own.mass[e] + mass));
    own.mass[e] += mass;
}

void OutputMoments::add(const OutputMoments& part)
{
    const auto length = static_cast<std::size_t>(width);
    for (const OutputWeight weight : kOutputWeights) {
        const Weighted& other = part.of(weight);
        for (std::size_t e = 0; e < other.mass.size(); ++e)
            add(static_cast<int>(e), weight, other.mass[e], std::span(other.sum).subspan(e * length, length), other.scatter[e]);
    }
}

StatisticStore outputMomentStore()
{
    StatisticStore store;
    store.minor = 5;
    store.there = [](const LayerProfile& layer) { return !layer.outputs.empty(); };
    store.bytes = [](const LayerProfile& layer) {
        return static_cast<std::int64_t>(layer.outputs.of(OutputWeight::Plain).sum.size() * kOutputWeights.size() * sizeof(double)) + 4096;
    };
    store.write = [](ArrayWriter& writer, const LayerProfile& layer) {
        const auto all = writer.group("outputs");
        for (const OutputWeight weight : kOutputWeights) {
            const OutputMoments::Weighted& moment = layer.outputs.of(weight);
            const auto own = all->group(std::string(outputWeightName(weight)));
            own->write("mass", moment.mass);
            own->write("sum", std::span(moment.sum), {moment.mass.size(), static_cast<std::uint64_t>(layer.outputs.width)});
            own->write("scatter", moment.scatter);
        }
    };
    store.read = [](const ArrayReader& reader, LayerProfile& layer) {
        if (!reader.has("outputs")) return;
        const auto all = reader.group("outputs");
        const auto n = static_cast<std::size_t>(layer.experts);
        OutputMoments& outputs = layer.outputs;
        for (const OutputWeight weight : kOutputWeights) {
            const auto own = all->group(std::string(outputWeightName(weight)));
            OutputMoments::Weighted& moment = outputs.byWeight[static_cast<std::size_t>(weight)];
            ArrayShape shape(2);
            own->read("sum", moment.sum, &shape);
            own->read("mass", moment.mass);
            own->read("scatter", moment.scatter);
            if (weight == OutputWeight::Plain && shape[1] >= 1 && shape[1] <= (1u << 24)) outputs.width = static_cast<int>(shape[1]);
            expectFit(shape[0] == n && shape[1] == static_cast<std::uint64_t>(outputs.width) && moment.mass.size() == n &&
                          moment.scatter.size() == n && allFinite(moment.sum) && allFinite(moment.mass) && allFinite(moment.scatter),
                      layer, "outputs");
            for (std::size_t e = 0; e < n; ++e)
                expectFit(moment.mass[e] >= 0 && moment.scatter[e] >= 0, layer, "outputs");
        }
    };
    store.sameForm = [](const LayerProfile& a, const LayerProfile& b) { return a.outputs.width == b.outputs.width; };
    store.add = [](LayerProfile& sum, const LayerProfile& part, const MergePlace&) { sum.outputs.add(part.outputs); };
    return store;
}

}  // namespace espalier
