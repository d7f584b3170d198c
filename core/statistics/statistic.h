// The slot of a statistic: what it is called, what it rests on, how it is stored and merged. One file of this folder per statistic, one
// line in statistic.cpp; core/profile/statistics has what measures it. No torch, no HDF5: arrays go through ArrayWriter and ArrayReader,
// which core/session implements.
#pragma once

#include "statistics/profile_data.h"

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

using ArrayShape = std::vector<std::uint64_t>;

// A group of named arrays that is written once. Row-major.
class ArrayWriter
{
public:
    virtual ~ArrayWriter() = default;
    virtual void write(const std::string& name, std::span<const double> values, const ArrayShape& shape) = 0;
    virtual void write(const std::string& name, std::span<const float> values, const ArrayShape& shape) = 0;
    virtual void write(const std::string& name, std::span<const std::int64_t> values, const ArrayShape& shape) = 0;
    virtual void write(const std::string& name, std::span<const std::int32_t> values, const ArrayShape& shape) = 0;
    virtual void write(const std::string& name, std::span<const std::uint16_t> values, const ArrayShape& shape) = 0;
    virtual std::unique_ptr<ArrayWriter> group(const std::string& name) = 0;

    template <typename T>
    void write(const std::string& name, const std::vector<T>& values)
    {
        write(name, std::span<const T>(values), {values.size()});
    }
};

// The same, read. An array that is not there, or of another type or rank, throws. `shape` says the rank that is wanted and gets the
// lengths; null: one dimension.
class ArrayReader
{
public:
    virtual ~ArrayReader() = default;
    virtual bool has(const std::string& name) const = 0;
    virtual void read(const std::string& name, std::vector<double>& values, ArrayShape* shape = nullptr) const = 0;
    virtual void read(const std::string& name, std::vector<float>& values, ArrayShape* shape = nullptr) const = 0;
    virtual void read(const std::string& name, std::vector<std::int64_t>& values, ArrayShape* shape = nullptr) const = 0;
    virtual void read(const std::string& name, std::vector<std::int32_t>& values, ArrayShape* shape = nullptr) const = 0;
    virtual void read(const std::string& name, std::vector<std::uint16_t>& values, ArrayShape* shape = nullptr) const = 0;
    virtual std::unique_ptr<ArrayReader> group(const std::string& name) const = 0;
};

// What was read does not fit together. Caught where files are read.
struct StatisticMisfit : std::runtime_error {
    using std::runtime_error::runtime_error;
};
// Throws StatisticMisfit: "layer 3: products does not fit".
void expectFit(bool condition, const LayerProfile& layer, std::string_view what);
bool allFinite(std::span<const double> values);
bool allFinite(std::span<const float> values);

// Where a part stands in the sum: its token positions move behind those of the texts before it, its windows behind the windows before it.
struct MergePlace {
    std::int64_t tokens = 0;
    int windows = 0;
};

// One name of `--collect` and MethodInfo::needs.
struct StatisticInfo {
    std::string_view id;
    std::string_view help;
    std::vector<std::string_view> with;  // taken along with it
    bool sums = true;                    // profiles of disjoint texts add up; else it is missing in what was merged
    bool file = false;                   // bulky: stays in the file, which there has to be
    // In a layer with experts (a bulky one: never).
    bool (*there)(const LayerProfile&);
};
// In the order in which ProfileData::collected lists them.
const std::vector<StatisticInfo>& statistics();
const StatisticInfo* findStatistic(std::string_view id);

// How arrays of LayerProfile are kept. A statistic has one; those that are measured together share it.
struct StatisticStore {
    bool denseLayers = false;                                    // of layers without experts too
    int minor = 0;                                               // of the profile format that has it first
    bool (*there)(const LayerProfile&);                          // something is to be written
    std::int64_t (*bytes)(const LayerProfile&);                  // about as many as it will take
    void (*write)(ArrayWriter&, const LayerProfile&);            // only where it is there
    void (*read)(const ArrayReader&, LayerProfile&);             // `layer` and `experts` are set. Throws
    bool (*sameForm)(const LayerProfile&, const LayerProfile&);  // they can be added up
    void (*add)(LayerProfile& sum, const LayerProfile& part, const MergePlace& place);
    void (*beginSum)(LayerProfile& first) = nullptr;  // drops what does not add up
};
// In the order of the file.
const std::vector<StatisticStore>& statisticStores();

// One per file of this folder.
StatisticStore routingCountStore();
StatisticStore activationNormStore();
StatisticStore rankGainStore();
StatisticStore outputEnergyStore();
StatisticStore spectrumStore();
StatisticStore outputMomentStore();
StatisticStore gramStoreStore();
StatisticStore gradientStore();
StatisticStore layerSimilarityStore();
StatisticStore channelSumStore();

}  // namespace espalier
