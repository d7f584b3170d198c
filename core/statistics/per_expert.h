// Sums with one fp64 value per expert, as most statistics are. Private to core/statistics.
#pragma once

#include "statistics/statistic.h"

#include <initializer_list>

namespace espalier
{

struct PerExpert {
    const char* name;  // in the file
    std::vector<double> LayerProfile::*values;
};

inline std::int64_t bytesOf(std::initializer_list<PerExpert> fields, const LayerProfile& layer)
{
    std::int64_t bytes = 0;
    for (const PerExpert& field : fields)
        bytes += static_cast<std::int64_t>((layer.*field.values).size() * sizeof(double)) + 512;
    return bytes;
}

inline void write(ArrayWriter& writer, std::initializer_list<PerExpert> fields, const LayerProfile& layer)
{
    for (const PerExpert& field : fields)
        if (!(layer.*field.values).empty()) writer.write(field.name, layer.*field.values);
}

inline void read(const ArrayReader& reader, std::initializer_list<PerExpert> fields, LayerProfile& layer)
{
    for (const PerExpert& field : fields) {
        if (!reader.has(field.name)) continue;
        std::vector<double>& values = layer.*field.values;
        reader.read(field.name, values);
        expectFit(values.size() == static_cast<std::size_t>(layer.experts) && allFinite(values), layer, field.name);
    }
}

template <typename T>
void addUp(std::vector<T>& sum, const std::vector<T>& part)
{
    for (std::size_t i = 0; i < sum.size(); ++i)
        sum[i] += part[i];
}

template <typename T>
void append(std::vector<T>& sum, const std::vector<T>& part)
{
    sum.insert(sum.end(), part.begin(), part.end());
}

inline void addUp(std::initializer_list<PerExpert> fields, LayerProfile& sum, const LayerProfile& part)
{
    for (const PerExpert& field : fields)
        addUp(sum.*field.values, part.*field.values);
}

}  // namespace espalier
