#include "rpc/protocol.h"

#include "rpc/fields.h"

#include <utility>

namespace espalier
{

namespace
{

constexpr std::pair<Lane, const char*> kLanes[] = {
    {Lane::Interactive, "interactive"}, {Lane::Attended, "attended"}, {Lane::Full, "full"}, {Lane::Export, "export"}};

template <typename Fields>
void idField(Fields& f, RequestId& id)
{
    const Json* given = f.find("id", true);
    if (!given) return;
    if (const std::optional<RequestId> read = requestIdFromJson(*given))
        id = *read;
    else
        f.fail("id", "must be an integer or a string");
}

template <typename Fields>
void idField(Fields& f, const RequestId& id)
{
    f.set("id", toJson(id));
}

}  // namespace

Json withJobTag(Json params, const JobTag& tag)
{
    if (!tag.tag.empty()) params["tag"] = tag.tag;
    for (const auto& [lane, name] : kLanes)
        if (tag.lane == lane) params["lane"] = name;
    return params;
}

Result<JobTag> takeJobTag(Json& params)
{
    JobTag tag;
    FieldReader reader(params);
    tag.tag = reader.text("tag", false);
    const std::string named = reader.text("lane", false);
    for (const auto& [lane, name] : kLanes)
        if (named == name) tag.lane = lane;
    if (!named.empty() && !tag.lane) reader.fail("lane", "is none of \"interactive\", \"attended\", \"full\" and \"export\"");
    const Status status = reader.status();
    if (!status.ok()) return status.error();
    params.erase("tag");
    params.erase("lane");
    return tag;
}

template <typename Fields, Is<ProgressNote> Message>
void fields(Fields& f, Message& m)
{
    idField(f, m.id);
    f.required("done", m.done);
    f.required("total", m.total);
    f.required("phase", m.phase);
    f.nullable("eta_seconds", m.etaSeconds);
}
ESPALIER_PROTOCOL_JSON(ProgressNote);

template <typename Fields, Is<PartialNote> Message>
void fields(Fields& f, Message& m)
{
    idField(f, m.id);
    f.required("value", m.value);
}
ESPALIER_PROTOCOL_JSON(PartialNote);

template <typename Fields, Is<CancelNote> Message>
void fields(Fields& f, Message& m)
{
    idField(f, m.id);
}
ESPALIER_PROTOCOL_JSON(CancelNote);

}  // namespace espalier
