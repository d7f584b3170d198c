// The fields of a message, read one by one.
#pragma once

#include "base/json.h"

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

// The first field that is missing or of the wrong type is remembered; readers go on with a value that harms nobody. Keeps a reference.
class RequestParams
{
public:
    explicit RequestParams(const Json& json);
    RequestParams(const RequestParams&) = delete;
    RequestParams& operator=(const RequestParams&) = delete;

    // The fields of an object inside, whose problems are this one's: "recipe.target". An absent one has no fields.
    RequestParams object(const char* key, bool required);

    const Json* find(const char* key, bool required = false);  // null and absent are the same
    const Json* findAny(const char* key);                      // null is a value, absence a problem
    void know(std::initializer_list<const char*> keys);        // read elsewhere
    // Every field that nobody asked for is one that is not known.
    void finish();
    void fail(const std::string& key, const std::string& what);
    // What fromJson said of the field.
    void failWith(const std::string& key, const Error& error);
    const std::string& problem() const { return m_problem; }
    Status status() const;  // the problem as the Error rpc.field, whose subject is the path of the field

    std::string text(const char* key, bool required);
    std::int64_t integer(const char* key, std::int64_t fallback, std::int64_t low);
    int count(const char* key, int fallback, int low);
    std::optional<double> number(const char* key);
    bool flag(const char* key, bool fallback);
    Json value(const char* key, bool required);                 // as it is; null where it is absent
    std::vector<std::filesystem::path> paths(const char* key);  // one path or a list

private:
    RequestParams(const Json& json, RequestParams* parent, std::string prefix) : m_json(json), m_parent(parent), m_prefix(std::move(prefix))
    {
    }

    const Json& m_json;
    RequestParams* m_parent = nullptr;
    std::string m_prefix;
    std::set<std::string> m_known;
    std::string m_problem;
    std::string m_field;  // that the problem is about
};

}  // namespace espalier
