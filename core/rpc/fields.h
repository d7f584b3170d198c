// Private to core/rpc. One list of fields per type, walked by a writer and by a reader, so that each name is spelled once:
//
//     template <typename Fields, Is<PingAnswer> Message>
//     void fields(Fields& f, Message& m)
//     {
//         f.required("busy", m.busy);
//         f.maybe("job", m.job);
//     }
//     ESPALIER_PROTOCOL_JSON(PingAnswer)
#pragma once

#include "rpc/protocol.h"
#include "rpc/request_params.h"
#include "rpc/text_selection.h"
#include "rpc/values_json.h"

#include <cmath>
#include <concepts>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace espalier
{

template <typename M, typename T>
concept Is = std::same_as<std::remove_const_t<M>, T>;

inline constexpr std::int64_t kAnyNumber = std::numeric_limits<std::int64_t>::min();

// --- Writing.

inline Json encode(bool value) { return value; }
inline Json encode(int value) { return value; }
inline Json encode(std::int64_t value) { return value; }
inline Json encode(std::uint64_t value) { return value; }
inline Json encode(double value) { return numberJson(value); }
inline Json encode(const std::string& value) { return value; }
inline Json encode(const std::filesystem::path& value) { return value.string(); }
inline Json encode(const Json& value) { return value; }
template <typename A, typename B>
Json encode(const std::pair<A, B>& value)
{
    return Json::array({encode(value.first), encode(value.second)});
}
template <typename T>
Json encode(const std::vector<T>& values);
template <typename T>
Json encode(const std::map<std::string, T>& values);
template <typename T>
requires requires(const T& value) { toJson(value); } &&(!std::same_as<T, Json>)Json encode(const T& value)
{
    return toJson(value);
}
template <typename T>
Json encode(const std::vector<T>& values)
{
    Json list = Json::array();
    for (const T& value : values)
        list.push_back(encode(value));
    return list;
}
template <typename T>
Json encode(const std::map<std::string, T>& values)
{
    Json object = Json::object();
    for (const auto& [key, value] : values)
        object[key] = encode(value);
    return object;
}

class FieldWriter
{
public:
    static constexpr bool kReads = false;

    template <typename T>
    void required(const char* key, const T& value, std::int64_t = kAnyNumber)
    {
        m_json[key] = encode(value);
    }
    // May be absent, and is left out where it is the fallback.
    template <typename T>
    void optional(const char* key, const T& value, const std::type_identity_t<T>& fallback = {}, std::int64_t = kAnyNumber)
    {
        if (!(value == fallback)) m_json[key] = encode(value);
    }
    // May be absent, and is always written.
    template <typename T>
    void always(const char* key, const T& value, std::int64_t = kAnyNumber)
    {
        m_json[key] = encode(value);
    }
    // Always there, null where there is none.
    template <typename T>
    void nullable(const char* key, const std::optional<T>& value)
    {
        m_json[key] = value ? encode(*value) : Json();
    }
    // Absent where there is none.
    template <typename T>
    void maybe(const char* key, const std::optional<T>& value, std::int64_t = kAnyNumber)
    {
        if (value) m_json[key] = encode(*value);
    }
    // A document that null stands for the absence of.
    void document(const char* key, const Json& value, bool)
    {
        if (!value.is_null()) m_json[key] = value;
    }
    void paths(const char* key, const std::vector<std::filesystem::path>& value)
    {
        if (!value.empty()) m_json[key] = encode(value);
    }
    void set(const char* key, Json value) { m_json[key] = std::move(value); }
    Json take() && { return std::move(m_json); }

private:
    Json m_json = Json::object();
};

// --- Reading.

class FieldReader : public RequestParams
{
public:
    static constexpr bool kReads = true;
    using RequestParams::RequestParams;

    template <typename T>
    void required(const char* key, T& value, std::int64_t low = kAnyNumber)
    {
        if constexpr (std::same_as<T, double>) {
            // Null is a number that is not finite.
            if (const Json* given = findAny(key)) decode(key, *given, value, low);
        } else {
            if (const Json* given = find(key, true)) decode(key, *given, value, low);
        }
    }
    template <typename T>
    void optional(const char* key, T& value, const std::type_identity_t<T>& fallback = {}, std::int64_t low = kAnyNumber)
    {
        value = fallback;
        always(key, value, low);
    }
    template <typename T>
    void always(const char* key, T& value, std::int64_t low = kAnyNumber)
    {
        if (const Json* given = find(key)) decode(key, *given, value, low);
    }
    template <typename T>
    void nullable(const char* key, std::optional<T>& value)
    {
        if (const Json* given = findAny(key); given && !given->is_null()) decode(key, *given, value.emplace(T{}), kAnyNumber);
    }
    template <typename T>
    void maybe(const char* key, std::optional<T>& value, std::int64_t low = kAnyNumber)
    {
        if (const Json* given = find(key)) decode(key, *given, value.emplace(), low);
    }
    void document(const char* key, Json& value, bool required) { value = RequestParams::value(key, required); }
    void paths(const char* key, std::vector<std::filesystem::path>& value) { value = RequestParams::paths(key); }

private:
    void decode(const std::string& key, const Json& json, bool& value, std::int64_t)
    {
        if (json.is_boolean())
            value = json.get<bool>();
        else
            fail(key, "must be true or false");
    }
    void decode(const std::string& key, const Json& json, std::int64_t& value, std::int64_t low)
    {
        constexpr std::int64_t kMost = std::int64_t{1} << 50;
        if (json.is_number_integer() && json.get<std::int64_t>() >= low && json.get<std::int64_t>() <= kMost)
            value = json.get<std::int64_t>();
        else
            fail(key, "is not a number in range");
    }
    void decode(const std::string& key, const Json& json, int& value, std::int64_t low)
    {
        std::int64_t wide = 0;
        decode(key, json, wide, std::max<std::int64_t>(low, -(std::int64_t{1} << 30)));
        value = static_cast<int>(std::min<std::int64_t>(wide, 1 << 30));
    }
    void decode(const std::string& key, const Json& json, std::uint64_t& value, std::int64_t)
    {
        std::int64_t wide = 0;
        decode(key, json, wide, 0);
        value = static_cast<std::uint64_t>(wide);
    }
    void decode(const std::string& key, const Json& json, double& value, std::int64_t)
    {
        if (json.is_number())
            value = json.get<double>();
        else if (json.is_null())
            value = std::numeric_limits<double>::quiet_NaN();
        else
            fail(key, "must be a number");
    }
    void decode(const std::string& key, const Json& json, std::string& value, std::int64_t)
    {
        if (json.is_string())
            value = json.get<std::string>();
        else
            fail(key, "must be a string");
    }
    void decode(const std::string& key, const Json& json, std::filesystem::path& value, std::int64_t low)
    {
        std::string text;
        decode(key, json, text, low);
        value = text;
    }
    void decode(const std::string&, const Json& json, Json& value, std::int64_t) { value = json; }
    template <typename A, typename B>
    void decode(const std::string& key, const Json& json, std::pair<A, B>& value, std::int64_t low)
    {
        if (!json.is_array() || json.size() != 2) return fail(key, "must be a list of two");
        decode(key + ".0", json[0], value.first, low);
        decode(key + ".1", json[1], value.second, low);
    }
    template <typename T>
    void decode(const std::string& key, const Json& json, std::vector<T>& values, std::int64_t low)
    {
        values.clear();
        if (!json.is_array()) return fail(key, "must be a list");
        values.reserve(json.size());
        std::size_t i = 0;
        for (const Json& item : json)
            decode(key + "." + std::to_string(i++), item, values.emplace_back(), low);
    }
    template <typename T>
    void decode(const std::string& key, const Json& json, std::map<std::string, T>& values, std::int64_t low)
    {
        values.clear();
        if (!json.is_object()) return fail(key, "must be an object");
        for (const auto& [name, item] : json.items())
            decode(std::string(key).append(1, '.').append(name), item, values[name], low);
    }
    template <typename T>
    void decode(const std::string& key, const Json& json, T& value, std::int64_t)
    {
        Result<T> read = fromJson<T>(json);
        if (read.ok())
            value = std::move(read).value();
        else
            failWith(key, read.error());
    }
};

template <typename T>
Result<T> readFields(const Json& json)
{
    T value;
    FieldReader reader(json);
    fields(reader, value);
    reader.finish();
    const Status status = reader.status();
    if (!status.ok()) return status.error();
    return value;
}

// Both ways of a type that has fields(..).
#define ESPALIER_PROTOCOL_JSON(Type)              \
    Json toJson(const Type& value)                \
    {                                             \
        FieldWriter writer;                       \
        fields(writer, value);                    \
        return std::move(writer).take();          \
    }                                             \
    template <>                                   \
    Result<Type> fromJson<Type>(const Json& json) \
    {                                             \
        return readFields<Type>(json);            \
    }                                             \
    static_assert(true)

// Among the fields of a request.
template <typename Fields, Is<TextSelection> Message>
void fields(Fields& f, Message& m)
{
    f.paths("text", m.text);
    f.optional("ids", m.ids);
    f.optional("first_window", m.firstWindow, 0, 0);
    f.optional("window_length", m.windowLength, 0, 2);
    f.optional("text_field", m.textField);
    if constexpr (Fields::kReads) {
        if (const Json* bos = f.find("bos")) {
            if (bos->is_boolean())
                m.bos = bos->template get<bool>() ? "yes" : "no";
            else
                m.bos = f.text("bos", false);
        }
    } else {
        f.always("bos", m.bos);
    }
}

}  // namespace espalier
