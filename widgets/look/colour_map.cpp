#include "look/colour_map.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace espalier
{

namespace
{

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::vector<QColor> colours(std::initializer_list<QRgb> values)
{
    std::vector<QColor> list;
    list.reserve(values.size());
    for (const QRgb value : values)
        list.emplace_back(value);
    return list;
}

// viridis, magma, cividis: matplotlib, CC0; sampled. Difference: equal lightness on both sides of zero.
const std::vector<QColor>& viridis()
{
    static const auto stops = colours({0x440154, 0x48186A, 0x472D7B, 0x424086, 0x3B528B, 0x33638D, 0x2C728E, 0x26828E, 0x21918C, 0x1FA088,
                                       0x28AE80, 0x3FBC73, 0x5EC962, 0x84D44B, 0xADDC30, 0xD8E219, 0xFDE725});
    return stops;
}
const std::vector<QColor>& magma()
{
    static const auto stops = colours({0x000004, 0x0A0822, 0x1D1147, 0x36106B, 0x51127C, 0x6A1C81, 0x832681, 0x9C2E7F, 0xB73779, 0xD0416F,
                                       0xE75263, 0xF56B5C, 0xFC8961, 0xFEA772, 0xFEC488, 0xFDE2A3, 0xFCFDBF});
    return stops;
}
const std::vector<QColor>& cividis()
{
    static const auto stops =
        colours({0x00224E, 0x00285B, 0x002E6A, 0x053371, 0x1A386F, 0x273E6E, 0x32436D, 0x3B496C, 0x434E6C, 0x4B546C, 0x535A6D,
                 0x5A5F6E, 0x61656F, 0x686A71, 0x6F7073, 0x767676, 0x7D7C78, 0x848279, 0x8C8878, 0x938E78, 0x9B9476, 0xA39A74,
                 0xABA072, 0xB4A76F, 0xBCAE6C, 0xC4B468, 0xCDBB63, 0xD5C25E, 0xDEC958, 0xE7D150, 0xF0D846, 0xF9E03A, 0xFEE838});
    return stops;
}
const std::vector<QColor>& grey()
{
    static const auto stops = colours({0x1A1A1A, 0xF2F2F2});
    return stops;
}
const std::vector<QColor>& differenceLight()
{
    static const auto stops = colours({0x004888, 0x005CAC, 0x3073BD, 0x528ACA, 0x73A1D7, 0x93B7E2, 0xB3CDEC, 0xD3E2F4, 0xF5F6F7, 0xF3DAD6,
                                       0xEBBEB8, 0xDFA29A, 0xD2867E, 0xC36A61, 0xB24E45, 0xA12E29, 0x8C000B});
    return stops;
}
const std::vector<QColor>& differenceDark()
{
    static const auto stops = colours({0x8EC2FF, 0x6BAEFC, 0x629BDE, 0x5988BF, 0x5075A1, 0x476283, 0x3D4F65, 0x333C47, 0x262627, 0x463634,
                                       0x634541, 0x80524D, 0x9C6059, 0xB96D65, 0xD67B71, 0xF3887C, 0xFFA196});
    return stops;
}

// Linear interpolation between order statistics, as numpy's default.
double percentile(const std::vector<double>& sorted, double percent)
{
    if (sorted.empty()) return kNaN;
    const double at = std::clamp(percent, 0.0, 100.0) / 100.0 * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<std::size_t>(at);
    const std::size_t above = std::min(below + 1, sorted.size() - 1);
    return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

NormRange rangeOf(std::vector<double> values, const NormOptions& options)
{
    std::erase_if(values, [&](double v) { return !std::isfinite(v) || (options.norm == Norm::Log && v <= 0); });
    NormRange range;
    if (values.empty()) return range;
    std::sort(values.begin(), values.end());
    range.valid = true;
    range.low = percentile(values, options.clipPercent);
    range.high = percentile(values, 100 - options.clipPercent);
    return range;
}

// Mid-rank percentile in [0, 1] of every finite value among `values`; ties share one position.
void rankPositions(const std::vector<const double*>& values, const std::vector<double*>& out)
{
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (std::isfinite(*values[i]))
            order.push_back(i);
        else
            *out[i] = kNaN;
    }
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return *values[a] < *values[b]; });
    for (std::size_t i = 0; i < order.size();) {
        std::size_t j = i;
        while (j + 1 < order.size() && *values[order[j + 1]] == *values[order[i]])
            ++j;
        const double middle = 0.5 * static_cast<double>(i + j);
        const double position = order.size() == 1 ? 0.5 : middle / static_cast<double>(order.size() - 1);
        for (std::size_t k = i; k <= j; ++k)
            *out[order[k]] = position;
        i = j + 1;
    }
}

}  // namespace

QString colourMapId(ColourMap map)
{
    switch (map) {
        case ColourMap::Viridis:
            return QStringLiteral("viridis");
        case ColourMap::Cividis:
            return QStringLiteral("cividis");
        case ColourMap::Magma:
            return QStringLiteral("magma");
        case ColourMap::Grey:
            return QStringLiteral("grey");
        case ColourMap::Difference:
            return QStringLiteral("difference");
    }
    return {};
}

ColourMap colourMapFromId(const QString& id)
{
    for (const ColourMap map : {ColourMap::Viridis, ColourMap::Cividis, ColourMap::Magma, ColourMap::Grey, ColourMap::Difference}) {
        if (colourMapId(map) == id) return map;
    }
    return ColourMap::Viridis;
}

const std::vector<QColor>& colourMapStops(ColourMap map, bool dark)
{
    switch (map) {
        case ColourMap::Cividis:
            return cividis();
        case ColourMap::Magma:
            return magma();
        case ColourMap::Grey:
            return grey();
        case ColourMap::Difference:
            return dark ? differenceDark() : differenceLight();
        case ColourMap::Viridis:
            break;
    }
    return viridis();
}

QColor colourAt(ColourMap map, double position, bool dark)
{
    const std::vector<QColor>& stops = colourMapStops(map, dark);
    const double at = std::clamp(position, 0.0, 1.0) * static_cast<double>(stops.size() - 1);
    const auto below = std::min(static_cast<std::size_t>(at), stops.size() - 2);
    const double part = at - static_cast<double>(below);
    const QColor& a = stops[below];
    const QColor& b = stops[below + 1];
    const auto mix = [part](int x, int y) { return static_cast<int>(std::lround(x + part * (y - x))); };
    return QColor(mix(a.red(), b.red()), mix(a.green(), b.green()), mix(a.blue(), b.blue()));
}

QString normId(Norm norm)
{
    switch (norm) {
        case Norm::Linear:
            return QStringLiteral("linear");
        case Norm::Log:
            return QStringLiteral("log");
        case Norm::Sqrt:
            return QStringLiteral("sqrt");
        case Norm::Rank:
            return QStringLiteral("rank");
    }
    return {};
}

Norm normFromId(const QString& id)
{
    for (const Norm norm : {Norm::Linear, Norm::Log, Norm::Sqrt, Norm::Rank}) {
        if (normId(norm) == id) return norm;
    }
    return Norm::Log;
}

double normPosition(double value, const NormRange& range, Norm norm)
{
    if (std::isnan(value)) return kNaN;
    if (!range.valid) return norm == Norm::Log ? NormedGrid::kBelowFloor : kNaN;
    if (norm == Norm::Log && value <= 0) return NormedGrid::kBelowFloor;
    if (range.low == range.high) return 0.5;
    const auto map = [norm](double v) {
        switch (norm) {
            case Norm::Log:
                return std::log(v);
            case Norm::Sqrt:
                return std::copysign(std::sqrt(std::abs(v)), v);
            default:
                return v;
        }
    };
    const double low = map(range.low);
    const double high = map(range.high);
    return std::clamp((map(value) - low) / (high - low), 0.0, 1.0);
}

double normValue(double position, const NormRange& range, Norm norm)
{
    switch (norm) {
        case Norm::Log:
            return std::exp(std::log(range.low) + position * (std::log(range.high) - std::log(range.low)));
        case Norm::Sqrt: {
            const double low = std::copysign(std::sqrt(std::abs(range.low)), range.low);
            const double high = std::copysign(std::sqrt(std::abs(range.high)), range.high);
            const double root = low + position * (high - low);
            return std::copysign(root * root, root);
        }
        default:
            return range.low + position * (range.high - range.low);
    }
}

NormedGrid normalise(const ExpertGrid& values, const NormOptions& options)
{
    NormedGrid result;
    result.positions.rows.resize(values.rows.size());
    for (std::size_t l = 0; l < values.rows.size(); ++l)
        result.positions.rows[l].assign(values.rows[l].size(), kNaN);

    if (options.norm == Norm::Rank) {
        std::vector<const double*> in;
        std::vector<double*> out;
        for (std::size_t l = 0; l < values.rows.size(); ++l) {
            for (std::size_t e = 0; e < values.rows[l].size(); ++e) {
                in.push_back(&values.rows[l][e]);
                out.push_back(&result.positions.rows[l][e]);
            }
            if (options.perLayer) {
                rankPositions(in, out);
                in.clear();
                out.clear();
            }
        }
        if (!options.perLayer) rankPositions(in, out);
        result.range = {0, 100, true};
        result.layers.assign(values.rows.size(), result.range);
        return result;
    }

    std::vector<double> all;
    for (const auto& row : values.rows)
        all.insert(all.end(), row.begin(), row.end());
    result.range = rangeOf(std::move(all), options);
    if (options.perLayer) {
        for (const auto& row : values.rows)
            result.layers.push_back(rangeOf(row, options));
    }
    for (std::size_t l = 0; l < values.rows.size(); ++l) {
        const NormRange& range = options.perLayer ? result.layers[l] : result.range;
        for (std::size_t e = 0; e < values.rows[l].size(); ++e) {
            const double value = values.rows[l][e];
            const double position = normPosition(value, range, options.norm);
            result.positions.rows[l][e] = position;
            if (position == NormedGrid::kBelowFloor) {
                ++result.belowFloor;
            } else if (range.valid && !std::isnan(value)) {
                if (value < range.low) ++result.clippedLow;
                if (value > range.high) ++result.clippedHigh;
            }
        }
    }
    return result;
}

}  // namespace espalier
