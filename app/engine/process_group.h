// The processes of one `mpirun` that share the work of a verb, and their only way to talk: every process hands in a part, everyone gets all
// parts. Without MPI in the build, or started alone, it is one process and nothing is exchanged.
//
// All processes run the same verb on the same input and take the same decisions from exchanged values, so they meet at the same exchanges.
// A process that fails hands its error in instead: the others get it at their next exchange, and none is left waiting. One that dies takes
// the rest with it (that is mpirun's doing); what was finished is in files, and --resume goes on from them.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "base/work_share.h"

#include <vector>

namespace espalier
{

// Used by the main thread alone.
class ProcessGroup final : public WorkShare
{
public:
    // Joins the others where mpirun started this process. Errors: engine.mpi_missing (started by mpirun, built without MPI),
    // engine.mpi_failed.
    static Result<ProcessGroup> join();
    ProcessGroup() = default;  // one process
    ProcessGroup(ProcessGroup&& other) noexcept;
    ProcessGroup& operator=(ProcessGroup&&) = delete;
    ~ProcessGroup() override;

    // Once it has failed, the group is over.
    Result<std::vector<Json>> exchange(Result<Json> own) override;
    // An exchange has failed: no further one will be answered.
    bool over() const noexcept { return m_over; }

private:
    bool m_joined = false;
    bool m_over = false;
};

}  // namespace espalier
