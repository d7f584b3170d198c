#include "checkpoint/config_reader.h"

#include <cmath>

namespace espalier
{

bool ConfigReader::has(const char* key) const
{
    const auto it = m_object.find(key);
    return it != m_object.end() && !it->is_null();
}

Status ConfigReader::present(const char* key) const
{
    if (!m_object.contains(key)) return missing(key);
    return {};
}

std::string ConfigReader::shown(const Json& value)
{
    std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 57) + "...";
    return text;
}

Error ConfigReader::missing(const char* key) const
{
    return badInput("config.missing_key", named(key), {"{subject} has no {named}.", {{"subject", m_subject}, {"named", named(key)}}},
                    "Its value differs between models, so it is not guessed: take the config.json that belongs to the weights.");
}

Error ConfigReader::wrongType(const char* key, const char* expected) const
{
    return badInput("config.wrong_type", named(key),
                    {"{subject}: {named} is {object} instead of {expected}.",
                     {{"subject", m_subject}, {"named", named(key)}, {"object", shown(m_object.at(key))}, {"expected", expected}}},
                    "Take the config.json that belongs to the weights.");
}

Error ConfigReader::outOfRange(const char* key, const std::string& low, const std::string& high) const
{
    return badInput("config.out_of_range", named(key),
                    {"{subject}: {named} is {object}; allowed is {low} to {high}.",
                     {{"subject", m_subject}, {"named", named(key)}, {"object", shown(m_object.at(key))}, {"low", low}, {"high", high}}},
                    "Take the config.json that belongs to the weights.");
}

Error ConfigReader::conflict(const std::string& key, const std::string& message) const
{
    return badInput("config.conflict", key, {"{subject}: {message}.", {{"subject", m_subject}, {"message", message}}},
                    "Take the config.json that belongs to the weights.");
}

Error ConfigReader::valueUnsupported(const std::string& key, const std::string& message, const char* code) const
{
    return unsupported(code, m_prefix + key, {"{subject}: {message}.", {{"subject", m_subject}, {"message", message}}},
                       "Only what transformers computes is reproduced; this variant is not among it yet.");
}

Result<int> ConfigReader::integer(const char* key, int low, int high) const
{
    if (!has(key)) return missing(key);
    const Json& value = m_object.at(key);
    if (!value.is_number_integer()) return wrongType(key, "a whole number");
    const bool fits =
        value.is_number_unsigned() ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(high) : value.get<std::int64_t>() <= high;
    if (!fits || value.get<std::int64_t>() < low) return outOfRange(key, fmt::format("{}", low), fmt::format("{}", high));
    return value.get<int>();
}

Result<std::optional<int>> ConfigReader::optionalInteger(const char* key, int low, int high) const
{
    if (!has(key)) return std::optional<int>();
    ESPALIER_TRY(const int value, integer(key, low, high));
    return std::optional<int>(value);
}

Result<double> ConfigReader::number(const char* key, double low, double high) const
{
    if (!has(key)) return missing(key);
    const Json& value = m_object.at(key);
    if (!value.is_number()) return wrongType(key, "a number");
    const double number = value.get<double>();
    if (!(number >= low && number <= high)) return outOfRange(key, fmt::format("{:g}", low), fmt::format("{:g}", high));
    return number;
}

Result<std::optional<double>> ConfigReader::optionalNumber(const char* key, double low, double high) const
{
    if (!has(key)) return std::optional<double>();
    ESPALIER_TRY(const double value, number(key, low, high));
    return std::optional<double>(value);
}

Result<bool> ConfigReader::boolean(const char* key) const
{
    if (!has(key)) return missing(key);
    if (!m_object.at(key).is_boolean()) return wrongType(key, "true or false");
    return m_object.at(key).get<bool>();
}

Result<bool> ConfigReader::boolean(const char* key, bool absent) const
{
    if (!has(key)) return absent;
    return boolean(key);
}

Result<bool> ConfigReader::trueUnlessSaid(const char* key) const
{
    if (m_object.contains(key) && !has(key)) return false;
    return boolean(key, true);
}

Result<std::string> ConfigReader::string(const char* key) const
{
    if (!has(key)) return missing(key);
    if (!m_object.at(key).is_string()) return wrongType(key, "a string");
    return m_object.at(key).get<std::string>();
}

Result<std::optional<std::string>> ConfigReader::optionalString(const char* key) const
{
    if (!has(key)) return std::optional<std::string>();
    ESPALIER_TRY(std::string value, string(key));
    return std::optional<std::string>(std::move(value));
}

Result<std::vector<int>> ConfigReader::integers(const char* key, int low, int high) const
{
    std::vector<int> list;
    if (!has(key)) return list;
    const Json& value = m_object.at(key);
    if (!value.is_array()) return wrongType(key, "a list of whole numbers");
    for (const Json& item : value) {
        if (!item.is_number_integer()) return wrongType(key, "a list of whole numbers");
        const bool fits =
            item.is_number_unsigned() ? item.get<std::uint64_t>() <= static_cast<std::uint64_t>(high) : item.get<std::int64_t>() <= high;
        if (!fits || item.get<std::int64_t>() < low) return outOfRange(key, fmt::format("{}", low), fmt::format("{}", high));
        list.push_back(item.get<int>());
    }
    return list;
}

}  // namespace espalier
