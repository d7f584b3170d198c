// The arrays of a statistic (statistics/statistic.h) in a group of an HDF5 file. Private to core/session.
#pragma once

#include "session/hdf5.h"
#include "statistics/statistic.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

// Throw h5::Failure where the file does not take it.
class GroupWriter final : public ArrayWriter
{
public:
    explicit GroupWriter(h5::Group group) : m_group(std::move(group)) {}
    void write(const std::string& name, std::span<const double> values, const ArrayShape& shape) override
    {
        m_group.write(name, values, shape);
    }
    void write(const std::string& name, std::span<const float> values, const ArrayShape& shape) override
    {
        m_group.write(name, values, shape);
    }
    void write(const std::string& name, std::span<const std::int64_t> values, const ArrayShape& shape) override
    {
        m_group.write(name, values, shape);
    }
    void write(const std::string& name, std::span<const std::int32_t> values, const ArrayShape& shape) override
    {
        m_group.write(name, values, shape);
    }
    void write(const std::string& name, std::span<const std::uint16_t> values, const ArrayShape& shape) override
    {
        m_group.write(name, values, shape);
    }
    std::unique_ptr<ArrayWriter> group(const std::string& name) override { return std::make_unique<GroupWriter>(m_group.create(name)); }
    const h5::Group& inner() const noexcept { return m_group; }

private:
    h5::Group m_group;
};

class GroupReader final : public ArrayReader
{
public:
    explicit GroupReader(h5::Group group) : m_group(std::move(group)) {}
    bool has(const std::string& name) const override { return m_group.has(name); }
    void read(const std::string& name, std::vector<double>& values, ArrayShape* shape) const override { take(name, values, shape); }
    void read(const std::string& name, std::vector<float>& values, ArrayShape* shape) const override { take(name, values, shape); }
    void read(const std::string& name, std::vector<std::int64_t>& values, ArrayShape* shape) const override { take(name, values, shape); }
    void read(const std::string& name, std::vector<std::int32_t>& values, ArrayShape* shape) const override { take(name, values, shape); }
    void read(const std::string& name, std::vector<std::uint16_t>& values, ArrayShape* shape) const override { take(name, values, shape); }
    std::unique_ptr<ArrayReader> group(const std::string& name) const override { return std::make_unique<GroupReader>(m_group.open(name)); }

private:
    template <typename T>
    void take(const std::string& name, std::vector<T>& values, ArrayShape* shape) const
    {
        values = m_group.read<T>(name, shape);
    }

    h5::Group m_group;
};

}  // namespace espalier
