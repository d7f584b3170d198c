#include "statistics/output_moments.h"

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

}  // namespace espalier
