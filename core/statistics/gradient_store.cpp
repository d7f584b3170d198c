// "gradients" and "curvature": what the reverse sweep left for the tokens of the Gram store (GradientStore).
#include "statistics/per_expert.h"

#include <algorithm>

namespace espalier
{

namespace
{

// One value per token and list position of the Gram store, which is read before.
std::vector<float> readProducts(const ArrayReader& reader, const LayerProfile& layer, const char* name)
{
    ArrayShape shape(2);
    std::vector<float> values;
    reader.read(name, values, &shape);
    expectFit(shape[0] == layer.gram.tokens.size() && shape[1] == static_cast<std::uint64_t>(layer.gram.listLength) && allFinite(values),
              layer, name);
    return values;
}

}  // namespace

StatisticStore gradientStore()
{
    StatisticStore store;
    store.minor = 2;
    store.there = [](const LayerProfile& layer) { return layer.gram.listLength > 0 && !layer.gradients.products.empty(); };
    store.bytes = [](const LayerProfile& layer) {
        const GradientStore& gradients = layer.gradients;
        return static_cast<std::int64_t>((gradients.products.size() + gradients.drawnProducts.size()) * sizeof(float) +
                                         gradients.window.size() * sizeof(std::int32_t)) +
               2048;
    };
    store.write = [](ArrayWriter& writer, const LayerProfile& layer) {
        const GradientStore& gradients = layer.gradients;
        const auto own = writer.group("gradients");
        const ArrayShape shape = {layer.gram.tokens.size(), static_cast<std::uint64_t>(layer.gram.listLength)};
        own->write("products", std::span(gradients.products), shape);
        own->write("window", gradients.window);
        own->write("squared", std::vector<double>{gradients.squared, gradients.drawnSquared});
        own->write("tokens", std::vector<std::int64_t>{gradients.tokens});
        if (!gradients.drawnProducts.empty()) own->write("drawn_products", std::span(gradients.drawnProducts), shape);
    };
    store.read = [](const ArrayReader& reader, LayerProfile& layer) {
        if (layer.gram.listLength == 0 || !reader.has("gradients")) return;
        const auto own = reader.group("gradients");
        GradientStore& gradients = layer.gradients;
        gradients.products = readProducts(*own, layer, "products");
        if (own->has("drawn_products")) gradients.drawnProducts = readProducts(*own, layer, "drawn_products");
        own->read("window", gradients.window);
        expectFit(gradients.window.size() == layer.gram.tokens.size() && std::is_sorted(gradients.window.begin(), gradients.window.end()) &&
                      (gradients.window.empty() || gradients.window.front() >= 0),
                  layer, "windows of the gradients");
        std::vector<double> squared;
        std::vector<std::int64_t> tokens;
        own->read("squared", squared);
        own->read("tokens", tokens);
        expectFit(squared.size() == 2 && allFinite(squared) && tokens.size() == 1 && tokens[0] > 0, layer, "squared gradients");
        gradients.squared = squared[0];
        gradients.drawnSquared = squared[1];
        gradients.tokens = tokens[0];
    };
    store.sameForm = [](const LayerProfile& a, const LayerProfile& b) {
        return a.gradients.products.empty() == b.gradients.products.empty() &&
               a.gradients.drawnProducts.empty() == b.gradients.drawnProducts.empty();
    };
    store.add = [](LayerProfile& sum, const LayerProfile& part, const MergePlace& place) {
        GradientStore& gradients = sum.gradients;
        append(gradients.products, part.gradients.products);
        append(gradients.drawnProducts, part.gradients.drawnProducts);
        for (const std::int32_t window : part.gradients.window)
            gradients.window.push_back(window + place.windows);
        gradients.squared += part.gradients.squared;
        gradients.drawnSquared += part.gradients.drawnSquared;
        gradients.tokens += part.gradients.tokens;
    };
    return store;
}

}  // namespace espalier
