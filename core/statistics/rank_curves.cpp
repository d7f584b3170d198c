// "curves": spectra of the whitened matrices, and the gains that turn their error into one of the layer's output. Spectra do not add up: a
// merged profile has its own made of the second moments, or none.
#include "statistics/per_expert.h"

namespace espalier
{

namespace
{

const std::initializer_list<PerExpert> kGains = {
    {"weight_squared", &LayerProfile::weightSquared}, {"gate_gain", &LayerProfile::gateGain}, {"up_gain", &LayerProfile::upGain}};

}  // namespace

StatisticStore rankGainStore()
{
    StatisticStore store;
    store.there = [](const LayerProfile& layer) { return !layer.weightSquared.empty(); };
    store.bytes = [](const LayerProfile& layer) { return bytesOf(kGains, layer); };
    store.write = [](ArrayWriter& writer, const LayerProfile& layer) { write(writer, kGains, layer); };
    store.read = [](const ArrayReader& reader, LayerProfile& layer) { read(reader, kGains, layer); };
    store.sameForm = [](const LayerProfile& a, const LayerProfile& b) { return a.weightSquared.size() == b.weightSquared.size(); };
    store.add = [](LayerProfile& sum, const LayerProfile& part, const MergePlace&) { addUp(kGains, sum, part); };
    return store;
}

StatisticStore spectrumStore()
{
    StatisticStore store;
    store.there = [](const LayerProfile& layer) { return !layer.gainTokens.empty() || layer.spectrumLength > 0; };
    store.bytes = [](const LayerProfile& layer) {
        return static_cast<std::int64_t>(layer.gainTokens.size() * sizeof(std::int64_t) + layer.spectra.size() * sizeof(float)) + 1024;
    };
    store.write = [](ArrayWriter& writer, const LayerProfile& layer) {
        if (!layer.gainTokens.empty()) writer.write("gain_tokens", layer.gainTokens);
        if (layer.spectrumLength > 0)
            writer.write("spectra", std::span(layer.spectra),
                         {static_cast<std::uint64_t>(layer.experts), 3, static_cast<std::uint64_t>(layer.spectrumLength)});
    };
    store.read = [](const ArrayReader& reader, LayerProfile& layer) {
        const auto n = static_cast<std::size_t>(layer.experts);
        if (reader.has("spectra")) {
            ArrayShape shape(3);
            reader.read("spectra", layer.spectra, &shape);
            expectFit(shape[0] == n && shape[1] == 3 && shape[2] >= 1 && shape[2] <= (1u << 20) && allFinite(layer.spectra), layer,
                      "spectra");
            layer.spectrumLength = static_cast<int>(shape[2]);
            for (const float energy : layer.spectra)
                expectFit(energy >= 0, layer, "spectra");
        }
        if (reader.has("gain_tokens")) reader.read("gain_tokens", layer.gainTokens);
        const std::size_t gains = layer.gainTokens.size();
        expectFit((gains == 0 || gains == n) && layer.weightSquared.size() == gains && layer.gateGain.size() == gains &&
                      layer.upGain.size() == gains && (layer.spectrumLength == 0 || gains == n),
                  layer, "gains");
    };
    store.sameForm = [](const LayerProfile&, const LayerProfile&) { return true; };
    store.add = [](LayerProfile& sum, const LayerProfile& part, const MergePlace&) { addUp(sum.gainTokens, part.gainTokens); };
    store.beginSum = [](LayerProfile& first) {
        first.spectrumLength = 0;
        first.spectra.clear();
    };
    return store;
}

}  // namespace espalier
