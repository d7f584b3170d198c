#include "process_group.h"

#include <fmt/format.h>

#include <climits>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#ifdef ESPALIER_WITH_MPI
#include <mpi.h>
#endif

namespace espalier
{

namespace
{

// Set by Open MPI, by Slurm's PMI and by MPICH's for the processes they start.
bool startedByMpi()
{
    for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"})
        if (std::getenv(variable)) return true;
    return false;
}

#ifdef ESPALIER_WITH_MPI
Json envelope(const Result<Json>& own)
{
    if (own.ok()) return {{"part", *own}};
    return {{"error", toJson(own.error())}};
}

Error errorOf(const Json& json, int rank, int size)
{
    Error error = errorFromJson(json);
    error.message = fmt::format("Process {} of {}: {}", rank + 1, size, error.message);
    return error;
}

Error mpiFailed(const char* what)
{
    return resourceError("engine.mpi_failed", "MPI", {"{what} failed.", {{"what", what}}},
                         "Look at what mpirun printed; --resume goes on with what was finished.");
}

// The texts of all processes.
Result<std::vector<std::string>> gather(const std::string& own, int size)
{
    // Counts are ints in MPI; nothing that is exchanged comes near.
    if (own.size() > static_cast<std::size_t>(INT_MAX / size)) return internalError("A part is too large to be exchanged.");
    const int length = static_cast<int>(own.size());
    std::vector<int> lengths(static_cast<std::size_t>(size));
    if (MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, MPI_COMM_WORLD) != MPI_SUCCESS) return mpiFailed("MPI_Allgather");
    std::vector<int> offsets;
    std::int64_t total = 0;
    for (const int each : lengths) {
        offsets.push_back(static_cast<int>(total));
        total += each;
    }
    if (total > INT_MAX) return internalError("The parts are too large to be exchanged.");
    std::string all(static_cast<std::size_t>(total), '\0');
    if (MPI_Allgatherv(own.data(), length, MPI_CHAR, all.data(), lengths.data(), offsets.data(), MPI_CHAR, MPI_COMM_WORLD) != MPI_SUCCESS)
        return mpiFailed("MPI_Allgatherv");
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < lengths.size(); ++i)
        texts.push_back(all.substr(static_cast<std::size_t>(offsets[i]), static_cast<std::size_t>(lengths[i])));
    return texts;
}
#endif

}  // namespace

Result<ProcessGroup> ProcessGroup::join()
{
    ProcessGroup group;
    if (!startedByMpi()) return group;
#ifdef ESPALIER_WITH_MPI
    int level = 0;
    if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS) return mpiFailed("MPI_Init_thread");
    group.m_joined = true;
    int rank = 0;
    int size = 1;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    group.place(rank, size);
#else
    const char* size = std::getenv("OMPI_COMM_WORLD_SIZE");
    if (size && std::string_view(size) != "1")
        return usageError("This espalier-engine was built without MPI: mpirun would do the same work several times.",
                          "Build with -DESPALIER_WITH_MPI=ON, or use `profile --shard i/n` and `merge`.");
#endif
    return group;
}

ProcessGroup::ProcessGroup(ProcessGroup&& other) noexcept
    : WorkShare(other.rank(), other.size()), m_joined(std::exchange(other.m_joined, false)), m_over(other.m_over)
{
}

ProcessGroup::~ProcessGroup()  // NOLINT(modernize-use-equals-default): not with MPI
{
#ifdef ESPALIER_WITH_MPI
    if (m_joined) MPI_Finalize();
#endif
}

Result<std::vector<Json>> ProcessGroup::exchange(Result<Json> own)
{
    if (alone()) return WorkShare::exchange(std::move(own));
    if (m_over) return own.ok() ? internalError("The other processes have ended.") : std::move(own).error();
#ifdef ESPALIER_WITH_MPI
    // CBOR keeps doubles as they are, infinities and NaN included.
    const std::vector<std::uint8_t> bytes = Json::to_cbor(envelope(own));
    auto texts = gather(std::string(bytes.begin(), bytes.end()), size());
    if (!texts.ok()) {
        m_over = true;
        return std::move(texts).error();
    }
    std::vector<Json> parts;
    std::optional<Error> failure;
    for (int rank = 0; rank < size(); ++rank) {
        Json json = Json::from_cbor((*texts)[static_cast<std::size_t>(rank)]);
        if (json.contains("error")) {
            if (!failure) failure = errorOf(json["error"], rank, size());
        } else {
            parts.push_back(std::move(json["part"]));
        }
    }
    if (failure) {
        m_over = true;
        return own.ok() ? *std::move(failure) : std::move(own).error();
    }
    return parts;
#else
    return internalError("There is no MPI in this build.");
#endif
}

}  // namespace espalier
