// An ended search as a session keeps it. Sessions outlive versions: what an older one did not say stays at its default, what a newer one
// says besides is passed over, and an entry that cannot be read is left out.
#pragma once

#include "rpc/plan_event.h"
#include "rpc/protocol.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct MeasuredRecord {
    std::string name;
    double nll = 0;
    double change = 0;
    double error = 0;
    std::optional<double> rise;
    std::optional<double> passes;
    int windows = 0;  // 0: not said
    bool accepted = false;
};

struct SearchRecord {
    std::string title;
    std::string name;
    Json recipe;  // the window's own form
    std::vector<MeasuredRecord> measured;
    std::vector<LayerAlone> alone;
    bool finished = true;
    std::int64_t ended = 0;  // seconds since 1970
    double seconds = 0;
};
Json toJson(const SearchRecord& record);
// Nothing where it is no record.
std::optional<SearchRecord> searchRecordFromJson(const Json& json);

}  // namespace espalier
