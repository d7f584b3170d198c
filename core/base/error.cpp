#include "base/error.h"

#include <fmt/args.h>
#include <fmt/format.h>

#include <algorithm>
#include <cassert>

namespace espalier
{

std::optional<std::string> filledIn(const std::string& pattern, const Parameters& parameters)
{
    fmt::dynamic_format_arg_store<fmt::format_context> store;
    for (const Parameter& parameter : parameters)
        std::visit([&](const auto& value) { store.push_back(fmt::arg(parameter.name.c_str(), value)); }, parameter.value);
    try {
        return fmt::vformat(pattern, store);
    } catch (const fmt::format_error&) {
        return std::nullopt;
    }
}

Sentence::Sentence(std::string places, Parameters stand) : pattern(std::move(places)), parameters(std::move(stand))
{
    const std::optional<std::string> filled = filledIn(pattern, parameters);
    assert(filled && "a place of the sentence has no parameter");
    text = filled.value_or(pattern);
}

namespace
{
Error make(ErrorKind kind, std::string code, std::string subject, Sentence message, Sentence action)
{
    Error error;
    error.kind = kind;
    error.code = std::move(code);
    error.subject = std::move(subject);
    error.message = std::move(message.text);
    error.action = std::move(action.text);
    error.messagePattern = std::move(message.pattern);
    error.actionPattern = std::move(action.pattern);
    error.parameters = std::move(message.parameters);
    // A name that both have stands for one thing.
    for (Parameter& parameter : action.parameters) {
        const auto same = [&](const Parameter& other) { return other.name == parameter.name; };
        const auto known = std::find_if(error.parameters.begin(), error.parameters.end(), same);
        assert((known == error.parameters.end() || known->value == parameter.value) && "two values of one name");
        if (known == error.parameters.end()) error.parameters.push_back(std::move(parameter));
    }
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

Error badInput(std::string code, std::string subject, Sentence message, Sentence action)
{
    return make(ErrorKind::BadInput, std::move(code), std::move(subject), std::move(message), std::move(action));
}
Error unsupported(std::string code, std::string subject, Sentence message, Sentence action)
{
    return make(ErrorKind::Unsupported, std::move(code), std::move(subject), std::move(message), std::move(action));
}
Error resourceError(std::string code, std::string subject, Sentence message, Sentence action)
{
    return make(ErrorKind::Resources, std::move(code), std::move(subject), std::move(message), std::move(action));
}
Error usageError(Sentence message, Sentence action)
{
    return make(ErrorKind::Usage, "usage.arguments", {}, std::move(message), std::move(action));
}
Error internalError(std::string message)
{
    return make(ErrorKind::Internal, "internal.bug", {}, std::move(message), "This is a fault in Espalier: please report it with the log.");
}
Error cancelledError() { return make(ErrorKind::Cancelled, "job.cancelled", {}, "Cancelled.", {}); }

}  // namespace espalier
