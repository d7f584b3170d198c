// "counts": how often, and with how much weight, each expert is chosen. Always taken.
#include "statistics/per_expert.h"

namespace espalier
{

namespace
{

const std::initializer_list<PerExpert> kFields = {{"soft_mass", &LayerProfile::softMass},
                                                  {"routed_mass_raw", &LayerProfile::routedMassRaw},
                                                  {"routed_mass_renormalised", &LayerProfile::routedMassRenormalised},
                                                  {"routed_mass_applied", &LayerProfile::routedMassApplied}};

}  // namespace

StatisticStore routingCountStore()
{
    StatisticStore store;
    store.there = [](const LayerProfile& layer) { return layer.experts > 0; };
    store.bytes = [](const LayerProfile& layer) {
        return bytesOf(kFields, layer) + static_cast<std::int64_t>(layer.count.size() * sizeof(std::int64_t)) + 2048;
    };
    store.write = [](ArrayWriter& writer, const LayerProfile& layer) {
        writer.write("tokens", std::vector<std::int64_t>{layer.tokens});
        writer.write("count", layer.count);
        write(writer, kFields, layer);
    };
    store.read = [](const ArrayReader& reader, LayerProfile& layer) {
        std::vector<std::int64_t> tokens;
        reader.read("tokens", tokens);
        expectFit(tokens.size() == 1 && tokens[0] >= 0, layer, "tokens");
        layer.tokens = tokens[0];
        reader.read("count", layer.count);
        expectFit(layer.count.size() == static_cast<std::size_t>(layer.experts), layer, "count");
        read(reader, kFields, layer);
    };
    store.sameForm = [](const LayerProfile& a, const LayerProfile& b) {
        return a.experts == b.experts && a.softMass.size() == b.softMass.size();
    };
    store.add = [](LayerProfile& sum, const LayerProfile& part, const MergePlace&) {
        sum.tokens += part.tokens;
        addUp(sum.count, part.count);
        addUp(kFields, sum, part);
    };
    return store;
}

}  // namespace espalier
