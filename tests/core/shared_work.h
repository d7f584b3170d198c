// Work that several processes share, in threads of one: everyone hands in a part and gets all parts, as under mpirun.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <barrier>
#include <functional>
#include <thread>
#include <vector>

namespace espalier::test
{

class SharedWork
{
public:
    explicit SharedWork(int size) : m_size(size), m_barrier(size), m_parts(static_cast<std::size_t>(size)) {}

    // Runs `work(rank)` once per rank, all at the same time.
    void run(const std::function<void(int)>& work)
    {
        std::vector<std::jthread> threads;
        for (int rank = 0; rank < m_size; ++rank)
            threads.emplace_back([&work, rank] { work(rank); });
    }

    std::vector<Json> exchange(int rank, const Json& own)
    {
        m_parts[static_cast<std::size_t>(rank)] = own;
        m_barrier.arrive_and_wait();
        std::vector<Json> all = m_parts;
        m_barrier.arrive_and_wait();
        return all;
    }

    // Fails in all where one has failed.
    Status meet(int rank, const Status& own)
    {
        for (const Json& failed : exchange(rank, !own.ok()))
            if (failed.get<bool>()) return own.ok() ? Status(internalError("Another one failed.")) : own;
        return {};
    }

private:
    int m_size;
    std::barrier<> m_barrier;
    std::vector<Json> m_parts;
};

}  // namespace espalier::test
