// "ean" and "reap": norms of the experts' outputs, alone and with the routing weights; and the energies of the layer's output, which are
// measured with them.
#include "statistics/per_expert.h"

#include <algorithm>

namespace espalier
{

namespace
{

const std::initializer_list<PerExpert> kSums = {{"norm", &LayerProfile::norm},
                                                {"norm_squared", &LayerProfile::normSquared},
                                                {"weighted_norm_raw", &LayerProfile::weightedNormRaw},
                                                {"weighted_norm_renormalised", &LayerProfile::weightedNormRenormalised},
                                                {"weighted_norm_applied", &LayerProfile::weightedNormApplied}};
const std::initializer_list<PerExpert> kMaxima = {{"max_activation", &LayerProfile::maxActivation}};

bool ofExperts(const LayerProfile& layer) { return layer.experts > 0; }

}  // namespace

StatisticStore activationNormStore()
{
    StatisticStore store;
    store.there = ofExperts;
    store.bytes = [](const LayerProfile& layer) { return bytesOf(kSums, layer) + bytesOf(kMaxima, layer); };
    store.write = [](ArrayWriter& writer, const LayerProfile& layer) {
        write(writer, kSums, layer);
        write(writer, kMaxima, layer);
    };
    store.read = [](const ArrayReader& reader, LayerProfile& layer) {
        read(reader, kSums, layer);
        read(reader, kMaxima, layer);
    };
    store.sameForm = [](const LayerProfile& a, const LayerProfile& b) {
        return a.norm.size() == b.norm.size() && a.weightedNormRaw.size() == b.weightedNormRaw.size();
    };
    store.add = [](LayerProfile& sum, const LayerProfile& part, const MergePlace&) {
        addUp(kSums, sum, part);
        for (std::size_t i = 0; i < sum.maxActivation.size(); ++i)
            sum.maxActivation[i] = std::max(sum.maxActivation[i], part.maxActivation[i]);
    };
    return store;
}

StatisticStore outputEnergyStore()
{
    StatisticStore store;
    store.there = ofExperts;
    store.bytes = [](const LayerProfile&) { return std::int64_t{512}; };
    store.write = [](ArrayWriter& writer, const LayerProfile& layer) {
        writer.write("energy", std::vector<double>{layer.outputEnergy, layer.routedEnergy});
    };
    store.read = [](const ArrayReader& reader, LayerProfile& layer) {
        std::vector<double> energy;
        reader.read("energy", energy);
        expectFit(energy.size() == 2 && allFinite(energy), layer, "energy");
        layer.outputEnergy = energy[0];
        layer.routedEnergy = energy[1];
    };
    store.sameForm = [](const LayerProfile&, const LayerProfile&) { return true; };
    store.add = [](LayerProfile& sum, const LayerProfile& part, const MergePlace&) {
        sum.outputEnergy += part.outputEnergy;
        sum.routedEnergy += part.routedEnergy;
    };
    return store;
}

}  // namespace espalier
