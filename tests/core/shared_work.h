// Work that several processes share, in threads of one: everyone hands in a part and gets all parts, as under mpirun.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "base/work_share.h"

#include <barrier>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

namespace espalier::test
{

class SharedWork
{
public:
    explicit SharedWork(int size) : m_size(size), m_barrier(size), m_parts(static_cast<std::size_t>(size), internalError("Nothing yet.")) {}

    // Runs `work(share)` once per rank, all at the same time.
    void run(const std::function<void(WorkShare&)>& work)
    {
        std::vector<std::jthread> threads;
        for (int rank = 0; rank < m_size; ++rank)
            threads.emplace_back([this, &work, rank] {
                Share share(*this, rank);
                work(share);
            });
    }

private:
    class Share final : public WorkShare
    {
    public:
        Share(SharedWork& work, int rank) : WorkShare(rank, work.m_size), m_work(work) {}
        Result<std::vector<Json>> exchange(Result<Json> own) override
        {
            m_work.m_parts[static_cast<std::size_t>(rank())] = own;
            m_work.m_barrier.arrive_and_wait();
            const std::vector<Result<Json>> all = m_work.m_parts;
            m_work.m_barrier.arrive_and_wait();
            if (!own.ok()) return std::move(own).error();
            std::vector<Json> parts;
            for (const Result<Json>& part : all) {
                if (!part.ok()) return part.error();
                parts.push_back(*part);
            }
            return parts;
        }

    private:
        SharedWork& m_work;
    };

    int m_size;
    std::barrier<> m_barrier;
    std::vector<Result<Json>> m_parts;
};

}  // namespace espalier::test
