#include "base/error.h"

namespace espalier
{

namespace
{
Error make(ErrorKind kind, std::string code, std::string subject, std::string message, std::string action)
{
    Error error;
    error.kind = kind;
    error.code = std::move(code);
    error.subject = std::move(subject);
    error.message = std::move(message);
    error.action = std::move(action);
    return error;
}
}  // namespace

std::string Error::describe() const
{
    std::string text = message;
    for (const std::string& part : {kept, action})
        if (!part.empty()) text += " " + part;
    return text;
}

Error badInput(std::string code, std::string subject, std::string message, std::string action)
{
    return make(ErrorKind::BadInput, std::move(code), std::move(subject), std::move(message), std::move(action));
}
Error unsupported(std::string code, std::string subject, std::string message, std::string action)
{
    return make(ErrorKind::Unsupported, std::move(code), std::move(subject), std::move(message), std::move(action));
}
Error resourceError(std::string code, std::string subject, std::string message, std::string action)
{
    return make(ErrorKind::Resources, std::move(code), std::move(subject), std::move(message), std::move(action));
}
Error usageError(std::string message, std::string action)
{
    return make(ErrorKind::Usage, "usage.arguments", {}, std::move(message), std::move(action));
}
Error internalError(std::string message)
{
    return make(ErrorKind::Internal, "internal.bug", {}, std::move(message), "This is a fault in Espalier: please report it with the log.");
}
Error cancelledError() { return make(ErrorKind::Cancelled, "job.cancelled", {}, "Cancelled.", {}); }

}  // namespace espalier
