// The processes of one `mpirun` that share the work of a verb, and their only way to talk: every process hands in a part, everyone gets all
// parts. Without MPI in the build, or started alone, it is one process and nothing is exchanged.
//
// All processes run the same verb on the same input and take the same decisions from exchanged values, so they meet at the same exchanges.
// A process that fails hands its error in instead: the others get it at their next exchange, and none is left waiting. One that dies takes
// the rest with it (that is mpirun's doing); what was finished is in files, and --resume goes on from them.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <vector>

namespace espalier
{

// Used by the main thread alone.
class ProcessGroup
{
public:
    // Joins the others where mpirun started this process. Errors: engine.mpi_missing (started by mpirun, built without MPI),
    // engine.mpi_failed.
    static Result<ProcessGroup> join();
    ProcessGroup() = default;  // one process
    ProcessGroup(ProcessGroup&& other) noexcept;
    ProcessGroup& operator=(ProcessGroup&&) = delete;
    ~ProcessGroup();

    int rank() const noexcept { return m_rank; }
    int size() const noexcept { return m_size; }
    bool alone() const noexcept { return m_size == 1; }
    bool first() const noexcept { return m_rank == 0; }  // the one that writes the result
    // Work item `index` is this process's: round robin, the same for everyone.
    bool owns(std::size_t index) const noexcept { return index % static_cast<std::size_t>(m_size) == static_cast<std::size_t>(m_rank); }

    // Collective. Parts in order of rank, doubles exact. If any process handed in an error, everyone gets one (its own where it has one,
    // else that of the lowest rank) and the group is over.
    Result<std::vector<Json>> exchange(Result<Json> own);
    // Collective: waits for all, and fails where one has failed.
    Status meet(const Status& own);
    // An exchange has failed: no further one will be answered.
    bool over() const noexcept { return m_over; }

private:
    int m_rank = 0;
    int m_size = 1;
    bool m_joined = false;
    bool m_over = false;
};

}  // namespace espalier
