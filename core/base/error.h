// Errors that are the user's or the world's: a value with a stable code, carried to the person who can act on it.
// A programmer's mistake asserts instead. Codes are lower case `area.what` and never change once released.
#pragma once

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

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

// What stands in a place of a sentence: {"layer", 3}. Whole numbers, numbers and texts.
struct Parameter {
    using Value = std::variant<std::int64_t, double, std::string>;

    Parameter(std::string called, Value holds) : name(std::move(called)), value(std::move(holds)) {}
    template <std::integral T>
    requires(!std::same_as<T, bool> && !std::same_as<T, char>) Parameter(std::string called, T number)
        : name(std::move(called)), value(static_cast<std::int64_t>(number))
    {
        if (std::unsigned_integral<T> && std::get<std::int64_t>(value) < 0) value = std::to_string(number);
    }
    Parameter(std::string called, double number) : name(std::move(called)), value(number) {}
    Parameter(std::string called, float number) = delete;  // prints as another number than the double it becomes
    Parameter(std::string called, std::string text) : name(std::move(called)), value(std::move(text)) {}
    Parameter(std::string called, std::string_view text) : name(std::move(called)), value(std::string(text)) {}
    Parameter(std::string called, const char* text) : name(std::move(called)), value(std::string(text)) {}

    std::string name;
    Value value;

    bool operator==(const Parameter&) const = default;
};
using Parameters = std::vector<Parameter>;

// A sentence with named places: the English text for terminals and logs; pattern and parameters for who says it in another language.
class Sentence
{
public:
    Sentence() = default;
    // One without places.
    Sentence(std::string words) : text(std::move(words)) {}  // NOLINT(google-explicit-constructor)
    Sentence(const char* words) : text(words) {}             // NOLINT(google-explicit-constructor)
    // Places are "{layer}", with format specifications as "{share:.1f}"; braces that are no places are doubled. Every place has a parameter
    // of its name: anything else asserts.
    Sentence(std::string places, Parameters stand);

    std::string text;
    std::string pattern;  // empty: no places
    Parameters parameters;
};

// The text of a pattern, in whatever language it is; nothing where a place has no parameter or cannot show it.
std::optional<std::string> filledIn(const std::string& pattern, const Parameters& parameters);

struct Error {
    ErrorKind kind = ErrorKind::Internal;
    std::string code;     // "checkpoint.shard_missing"
    std::string subject;  // the file, tensor, key, layer it is about
    std::string message;  // cause, one sentence, names the subject
    std::string kept;     // what was kept or not touched: "Nothing was loaded."
    std::string action;   // what to do
    // Where message and action have places: their patterns, and what stands in them.
    std::string messagePattern = {};
    std::string actionPattern = {};
    Parameters parameters = {};

    int exitCode() const noexcept { return static_cast<int>(kind); }
    // "message kept action" joined for a log line or a terminal.
    std::string describe() const;
};

Error badInput(std::string code, std::string subject, Sentence message, Sentence action = {});
Error unsupported(std::string code, std::string subject, Sentence message, Sentence action = {});
Error resourceError(std::string code, std::string subject, Sentence message, Sentence action = {});
Error usageError(Sentence message, Sentence action = {});
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
