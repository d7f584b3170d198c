// What every message of the protocol has: a type of plain values, one toJson and one fromJson. The types stand by subject in protocol_*.h;
// the names of their fields are spelled in the .cpp files beside them and nowhere else.
//
// A field that is missing, of the wrong type or not known is an error that names it: rpc.field, subject the path of the field
// ("recipe.target"), message "\"recipe.target\" is missing.". Numbers that are not finite are null. Pure functions, any thread.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "rpc/messages.h"

#include <cstdint>
#include <optional>
#include <string>

namespace espalier
{

// Defined for the types of the protocol alone.
template <typename T>
Result<T> fromJson(const Json& json);

// Declares both ways of one type.
#define ESPALIER_PROTOCOL_TYPE(Type) \
    Json toJson(const Type& value);  \
    template <>                      \
    Result<Type> fromJson<Type>(const Json& json)

// Of the engine's jobs, in order of precedence. Attended: somebody watches it, and it gives way to edits all the same.
enum class Lane { Interactive, Attended, Full, Export };

// Beside the fields of every request that becomes a job.
struct JobTag {
    std::string tag;           // a newer job with the same tag supersedes the older; empty: none
    std::optional<Lane> lane;  // where it is not the request's own
};
Json withJobTag(Json params, const JobTag& tag);
// Takes them out of `params`, an object.
Result<JobTag> takeJobTag(Json& params);

// $/progress of a running job.
struct ProgressNote {
    static constexpr const char* kMethod = "$/progress";
    RequestId id;
    std::int64_t done = 0;
    std::int64_t total = 0;
    std::string phase;                 // what is counted
    std::optional<double> etaSeconds;  // nothing until two steps are done
};
ESPALIER_PROTOCOL_TYPE(ProgressNote);

// $/partial of a running job: a result that is final in itself, of the type that the request's answer names.
struct PartialNote {
    static constexpr const char* kMethod = "$/partial";
    RequestId id;
    Json value;
};
ESPALIER_PROTOCOL_TYPE(PartialNote);

struct CancelNote {
    static constexpr const char* kMethod = "$/cancelRequest";
    RequestId id;
};
ESPALIER_PROTOCOL_TYPE(CancelNote);

inline constexpr const char* kExitMethod = "exit";  // a notification without fields

}  // namespace espalier
