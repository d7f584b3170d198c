// Typed access to config.json for the architecture adapters: a key is there and right, or the error names it.
#pragma once

#include "base/error.h"
#include "base/json.h"

#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace espalier
{

// Bounds on what a configuration may claim: far beyond any model, and small enough that no product of them leaves 63 bits.
inline constexpr int kMaxLayers = 512;
inline constexpr int kMaxHidden = 1 << 17;
inline constexpr int kMaxWidth = 1 << 19;
inline constexpr int kMaxExperts = 1 << 13;
inline constexpr int kMaxVocabulary = 1 << 24;
inline constexpr int kMaxHeads = 1 << 12;
inline constexpr int kMaxHeadDim = 1 << 12;
inline constexpr int kMaxPositions = 1 << 30;

class ConfigReader
{
public:
    // `prefix` names the object in messages where it is not the top level: "rope_scaling.".
    ConfigReader(const Json& object, std::string_view subject, std::string prefix = {})
        : m_object(object), m_subject(subject), m_prefix(std::move(prefix))
    {
    }

    // Present and not null.
    bool has(const char* key) const;
    // Ok when the key is there, null included: for keys whose absence and null mean different things.
    Status present(const char* key) const;
    const Json& at(const char* key) const { return m_object.at(key); }
    const std::string& subject() const { return m_subject; }

    Result<int> integer(const char* key, int low, int high) const;
    Result<std::optional<int>> optionalInteger(const char* key, int low, int high) const;
    Result<double> number(const char* key, double low, double high) const;
    Result<std::optional<double>> optionalNumber(const char* key, double low, double high) const;
    Result<bool> boolean(const char* key) const;
    Result<bool> boolean(const char* key, bool absent) const;  // null: absent
    // Of keys whose default is true and which transformers asks for their truth: null is false.
    Result<bool> trueUnlessSaid(const char* key) const;
    Result<std::string> string(const char* key) const;
    Result<std::optional<std::string>> optionalString(const char* key) const;
    // A list of integers; empty where the key is absent or null.
    Result<std::vector<int>> integers(const char* key, int low, int high) const;

    Error missing(const char* key) const;
    Error wrongType(const char* key, const char* expected) const;
    Error conflict(const std::string& key, const std::string& message) const;
    // Exit 6.
    Error valueUnsupported(const std::string& key, const std::string& message, const char* code = "config.value_unsupported") const;
    // "\"relu\"", cut where long.
    static std::string shown(const Json& value);

private:
    std::string named(const char* key) const { return m_prefix + key; }
    Error outOfRange(const char* key, const std::string& low, const std::string& high) const;

    const Json& m_object;
    std::string m_subject;
    std::string m_prefix;
};

}  // namespace espalier
