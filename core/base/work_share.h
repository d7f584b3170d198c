// The one way in which the processes (or, in tests, threads) that make the same thing share its work and talk: everyone hands in a part,
// everyone gets all parts. All take the same decisions from exchanged values, so they meet at the same exchanges.
//
// This class is the share of one that works alone; app/engine/process_group.h is the one of a process of mpirun.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <cstddef>
#include <utility>
#include <vector>

namespace espalier
{

// Belongs to the thread that works.
class WorkShare
{
public:
    WorkShare() = default;
    // For options that name none.
    static WorkShare& none()
    {
        static WorkShare alone;
        return alone;
    }
    virtual ~WorkShare() = default;

    int rank() const noexcept { return m_rank; }  // of this process, 0 <= rank < size
    int size() const noexcept { return m_size; }
    bool alone() const noexcept { return m_size == 1; }
    bool first() const noexcept { return m_rank == 0; }  // the one that writes the result
    // Work item `index` is this process's: round robin, the same for everyone.
    bool owns(std::size_t index) const noexcept { return index % static_cast<std::size_t>(m_size) == static_cast<std::size_t>(m_rank); }

    // Collective. Parts in order of rank, doubles exact. If anyone handed in an error, everyone gets one: its own where it has one, else
    // that of the lowest rank.
    virtual Result<std::vector<Json>> exchange(Result<Json> own)
    {
        if (!own.ok()) return std::move(own).error();
        return std::vector<Json>{*std::move(own)};
    }
    // Collective: waits for all, and fails where one has failed.
    Status meet(const Status& own)
    {
        auto parts = exchange(own.ok() ? Result<Json>(Json()) : Result<Json>(own.error()));
        if (!parts.ok()) return std::move(parts).error();
        return {};
    }

protected:
    WorkShare(int rank, int size) : m_rank(rank), m_size(size) {}
    WorkShare(const WorkShare&) = default;
    WorkShare& operator=(const WorkShare&) = default;
    void place(int rank, int size)
    {
        m_rank = rank;
        m_size = size;
    }

private:
    int m_rank = 0;
    int m_size = 1;
};

}  // namespace espalier
