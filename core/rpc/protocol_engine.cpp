#include "rpc/protocol_engine.h"

#include "rpc/fields.h"

namespace espalier
{

template <typename Fields, Is<InitializeRequest> Message>
void fields(Fields& f, Message& m)
{
    f.optional("client_version", m.clientVersion);
    f.always("protocol", m.protocol, 0);
}
ESPALIER_PROTOCOL_JSON(InitializeRequest);

template <typename Fields, Is<InitializeAnswer> Message>
void fields(Fields& f, Message& m)
{
    f.required("name", m.name);
    f.required("version", m.version);
    f.required("protocol", m.protocol, 0);
    f.required("pid", m.pid);
    f.required("threads", m.threads);
    f.required("device", m.device);
    f.required("memory_bytes", m.memoryBytes);
    f.required("supported_architectures", m.supportedArchitectures);
    f.required("methods", m.methods);
}
ESPALIER_PROTOCOL_JSON(InitializeAnswer);

Result<std::int64_t> protocolOf(const Json& message)
{
    FieldReader reader(message);
    const std::int64_t protocol = reader.integer("protocol", kProtocolVersion, 0);
    const Status status = reader.status();
    if (!status.ok()) return status.error();
    return protocol;
}

template <typename Fields, Is<PingRequest> Message>
void fields(Fields&, Message&)
{
}
ESPALIER_PROTOCOL_JSON(PingRequest);

template <typename Fields, Is<PingAnswer> Message>
void fields(Fields& f, Message& m)
{
    f.required("busy", m.busy);
    f.maybe("job", m.job);
}
ESPALIER_PROTOCOL_JSON(PingAnswer);

template <typename Fields, Is<ShutdownRequest> Message>
void fields(Fields&, Message&)
{
}
ESPALIER_PROTOCOL_JSON(ShutdownRequest);

Json toJson(const ShutdownAnswer&) { return nullptr; }

template <>
Result<ShutdownAnswer> fromJson<ShutdownAnswer>(const Json&)
{
    return ShutdownAnswer{};
}

template <typename Fields, Is<FolderEntry> Message>
void fields(Fields& f, Message& m)
{
    f.required("name", m.name);
    f.required("folder", m.folder);
    f.nullable("bytes", m.bytes);
}
ESPALIER_PROTOCOL_JSON(FolderEntry);

template <typename Fields, Is<ListFolderAnswer> Message>
void fields(Fields& f, Message& m)
{
    f.required("path", m.path);
    f.required("entries", m.entries);
}
ESPALIER_PROTOCOL_JSON(ListFolderAnswer);

template <typename Fields, Is<ListFolderRequest> Message>
void fields(Fields& f, Message& m)
{
    f.required("path", m.path);
}
ESPALIER_PROTOCOL_JSON(ListFolderRequest);

}  // namespace espalier
