// Errors that are the user's or the world's: a value with a stable code, carried to the person who can act on it.
// A programmer's mistake asserts instead. Codes are lower case `area.what` and never change once released.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace espalier
{

// The process exit code that an error leads to (core/base/README.md).
enum class ErrorKind {
    Usage = 2,
    BadInput = 3,
    Resources = 4,
    VerificationFailed = 5,
    Unsupported = 6,
    Internal = 70,
    Cancelled = 130,
};

struct Error {
    ErrorKind kind = ErrorKind::Internal;
    std::string code;     // "checkpoint.shard_missing"
    std::string subject;  // the file, tensor, key, layer it is about
    std::string message;  // cause, one sentence, names the subject
    std::string kept;     // what was kept or not touched: "Nothing was loaded."
    std::string action;   // what to do

    int exitCode() const noexcept { return static_cast<int>(kind); }
    // "message kept action" joined for a log line or a terminal.
    std::string describe() const;
};

Error badInput(std::string code, std::string subject, std::string message, std::string action = {});
Error unsupported(std::string code, std::string subject, std::string message, std::string action = {});
Error resourceError(std::string code, std::string subject, std::string message, std::string action = {});
Error usageError(std::string message, std::string action = {});
Error internalError(std::string message);
Error cancelledError();

// Either a value or an Error. GCC 12 has std::expected only in C++23 mode.
template <typename T>
class [[nodiscard]] Result
{
public:
    Result(T value) : m_state(std::in_place_index<0>, std::move(value)) {}      // NOLINT(google-explicit-constructor)
    Result(Error error) : m_state(std::in_place_index<1>, std::move(error)) {}  // NOLINT(google-explicit-constructor)

    bool ok() const noexcept { return m_state.index() == 0; }
    explicit operator bool() const noexcept { return ok(); }
    T& value() & { return std::get<0>(m_state); }
    const T& value() const& { return std::get<0>(m_state); }
    T&& value() && { return std::get<0>(std::move(m_state)); }
    const Error& error() const& { return std::get<1>(m_state); }
    Error&& error() && { return std::get<1>(std::move(m_state)); }
    T* operator->() { return &value(); }
    const T* operator->() const { return &value(); }
    T& operator*() & { return value(); }
    const T& operator*() const& { return value(); }
    T&& operator*() && { return std::move(*this).value(); }

private:
    std::variant<T, Error> m_state;
};

template <>
class [[nodiscard]] Result<void>
{
public:
    Result() = default;
    Result(Error error) : m_error(std::move(error)) {}  // NOLINT(google-explicit-constructor)

    bool ok() const noexcept { return !m_error.has_value(); }
    explicit operator bool() const noexcept { return ok(); }
    const Error& error() const& { return *m_error; }
    Error&& error() && { return std::move(*m_error); }

private:
    std::optional<Error> m_error;
};

using Status = Result<void>;

}  // namespace espalier

#define ESPALIER_CONCAT_(a, b) a##b
#define ESPALIER_CONCAT(a, b) ESPALIER_CONCAT_(a, b)
// ESPALIER_TRY(auto x, expr): x takes the value of expr, or the enclosing function returns the error.
#define ESPALIER_TRY(declaration, expression)                                                                                 \
    auto ESPALIER_CONCAT(espalierResult, __LINE__) = (expression);                                                            \
    if (!ESPALIER_CONCAT(espalierResult, __LINE__).ok()) return std::move(ESPALIER_CONCAT(espalierResult, __LINE__)).error(); \
    declaration = std::move(ESPALIER_CONCAT(espalierResult, __LINE__)).value()
// ESPALIER_CHECK_OK(expr): returns the error of a Status, if it has one.
#define ESPALIER_CHECK_OK(expression)                                       \
    do {                                                                    \
        auto espalierStatus = (expression);                                 \
        if (!espalierStatus.ok()) return std::move(espalierStatus).error(); \
    } while (false)
