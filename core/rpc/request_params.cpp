#include "rpc/request_params.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

constexpr const char* kFieldProblem = "rpc.field";

std::string sentence(const std::string& field, const std::string& what)
{
    return field.empty() ? fmt::format("The value {}.", what) : fmt::format("\"{}\" {}.", field, what);
}

// What sentence() was made of.
std::string whatOf(const Error& error)
{
    const std::size_t before = sentence(error.subject, "").size() - 1;
    return error.message.substr(before, error.message.size() - before - 1);
}

}  // namespace

RequestParams::RequestParams(const Json& json) : m_json(json)
{
    if (!json.is_object()) fail("", "must be an object");
}

const Json* RequestParams::find(const char* key, bool required)
{
    m_known.insert(key);
    const auto it = m_json.find(key);
    if (it != m_json.end() && !it->is_null()) return &*it;
    if (required) fail(key, "is missing");
    return nullptr;
}

const Json* RequestParams::findAny(const char* key)
{
    m_known.insert(key);
    const auto it = m_json.find(key);
    if (it != m_json.end()) return &*it;
    fail(key, "is missing");
    return nullptr;
}

void RequestParams::know(std::initializer_list<const char*> keys) { m_known.insert(keys.begin(), keys.end()); }

void RequestParams::finish()
{
    if (!m_json.is_object()) return;
    for (const auto& [key, value] : m_json.items())
        if (!m_known.contains(key)) fail(key, "is not known");
}

void RequestParams::fail(const std::string& key, const std::string& what)
{
    if (m_parent) return m_parent->fail(key.empty() ? m_prefix : m_prefix + "." + key, what);
    if (!m_problem.empty()) return;
    m_field = key;
    m_problem = sentence(key, what);
}

void RequestParams::failWith(const std::string& key, const Error& error)
{
    if (error.code == kFieldProblem)
        return fail(key.empty() || error.subject.empty() ? key + error.subject : key + "." + error.subject, whatOf(error));
    std::string text = error.message;
    if (!text.empty() && text.back() == '.') text.pop_back();
    fail(key, "cannot be read: " + text);
}

Status RequestParams::status() const
{
    if (m_problem.empty()) return {};
    return badInput(kFieldProblem, m_field, m_problem);
}

RequestParams RequestParams::object(const char* key, bool required)
{
    static const Json kNothing = Json::object();
    const Json* value = find(key, required);
    if (value && !value->is_object()) fail(key, "must be an object");
    return {value && value->is_object() ? *value : kNothing, this, key};
}

std::string RequestParams::text(const char* key, bool required)
{
    const Json* value = find(key, required);
    if (value && !value->is_string()) fail(key, "must be a string");
    return value && value->is_string() ? value->get<std::string>() : std::string();
}

std::int64_t RequestParams::integer(const char* key, std::int64_t fallback, std::int64_t low)
{
    const Json* value = find(key);
    if (!value) return fallback;
    if (!value->is_number_integer() || value->get<std::int64_t>() < low || value->get<std::int64_t>() > (std::int64_t{1} << 50)) {
        fail(key, "is not a number in range");
        return fallback;
    }
    return value->get<std::int64_t>();
}

int RequestParams::count(const char* key, int fallback, int low)
{
    return static_cast<int>(std::min<std::int64_t>(integer(key, fallback, low), 1 << 30));
}

std::optional<double> RequestParams::number(const char* key)
{
    const Json* value = find(key);
    if (!value) return std::nullopt;
    if (!value->is_number()) fail(key, "must be a number");
    return value->is_number() ? std::optional(value->get<double>()) : std::nullopt;
}

bool RequestParams::flag(const char* key, bool fallback)
{
    const Json* value = find(key);
    if (value && !value->is_boolean()) fail(key, "must be true or false");
    return value && value->is_boolean() ? value->get<bool>() : fallback;
}

Json RequestParams::value(const char* key, bool required)
{
    const Json* value = find(key, required);
    return value ? *value : Json();
}

std::vector<std::filesystem::path> RequestParams::paths(const char* key)
{
    std::vector<std::filesystem::path> result;
    const Json* value = find(key);
    if (!value) return result;
    if (value->is_string()) return {value->get<std::string>()};
    if (!value->is_array()) fail(key, "must be a list of paths");
    for (const Json& item : *value) {
        if (!item.is_string())
            fail(key, "must be a list of paths");
        else
            result.emplace_back(item.get<std::string>());
    }
    return result;
}

}  // namespace espalier
