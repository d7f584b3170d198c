// "gram": products of the experts' outputs for a sample of tokens (GramStore).
#include "statistics/per_expert.h"

namespace espalier
{

StatisticStore gramStoreStore()
{
    StatisticStore store;
    store.there = [](const LayerProfile& layer) { return layer.gram.listLength > 0; };
    store.bytes = [](const LayerProfile& layer) {
        const GramStore& gram = layer.gram;
        return static_cast<std::int64_t>(gram.tokens.size() * sizeof(std::int64_t) + gram.list.size() * sizeof(std::uint16_t) +
                                         gram.products.size() * sizeof(double) + gram.logits.size() * sizeof(float)) +
               4096;
    };
    store.write = [](ArrayWriter& writer, const LayerProfile& layer) {
        const GramStore& gram = layer.gram;
        const auto own = writer.group("gram");
        const std::uint64_t tokens = gram.tokens.size();
        own->write("tokens", gram.tokens);
        own->write("list", std::span(gram.list), {tokens, static_cast<std::uint64_t>(gram.listLength)});
        own->write("products", std::span(gram.products), {tokens, gram.triangle()});
        own->write("logits", std::span(gram.logits), {tokens, static_cast<std::uint64_t>(layer.experts)});
        if (!gram.selectionBias.empty()) own->write("selection_bias", gram.selectionBias);
        own->write("output_energy", std::vector<double>{gram.outputEnergy});
    };
    store.read = [](const ArrayReader& reader, LayerProfile& layer) {
        if (!reader.has("gram")) return;
        const auto own = reader.group("gram");
        const auto n = static_cast<std::size_t>(layer.experts);
        GramStore& gram = layer.gram;
        own->read("tokens", gram.tokens);
        ArrayShape shape(2);
        own->read("list", gram.list, &shape);
        expectFit(shape[0] == gram.tokens.size() && shape[1] >= 1 && shape[1] <= n, layer, "expert list");
        gram.listLength = static_cast<int>(shape[1]);
        for (const std::uint16_t expert : gram.list)
            expectFit(expert < n, layer, "expert list");
        own->read("products", gram.products, &shape);
        expectFit(shape[0] == gram.tokens.size() && shape[1] == gram.triangle() && allFinite(gram.products), layer, "products");
        own->read("logits", gram.logits, &shape);
        expectFit(shape[0] == gram.tokens.size() && shape[1] == n, layer, "logits");
        if (own->has("selection_bias")) own->read("selection_bias", gram.selectionBias);
        expectFit(gram.selectionBias.empty() || gram.selectionBias.size() == n, layer, "selection bias");
        std::vector<double> energy;
        own->read("output_energy", energy);
        expectFit(energy.size() == 1 && allFinite(energy), layer, "output energy");
        gram.outputEnergy = energy[0];
    };
    store.sameForm = [](const LayerProfile& a, const LayerProfile& b) { return a.gram.listLength == b.gram.listLength; };
    store.add = [](LayerProfile& sum, const LayerProfile& part, const MergePlace& place) {
        for (const std::int64_t token : part.gram.tokens)
            sum.gram.tokens.push_back(token + place.tokens);
        append(sum.gram.list, part.gram.list);
        append(sum.gram.products, part.gram.products);
        append(sum.gram.logits, part.gram.logits);
        sum.gram.outputEnergy += part.gram.outputEnergy;
    };
    return store;
}

}  // namespace espalier
