#include "checkpoint/values_file.h"

#include "base/atomic_file.h"
#include "base/sha256.h"
#include "plan/values_search.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <unistd.h>

#include <algorithm>
#include <map>
#include <system_error>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

constexpr const char* kVersionKey = "espalier.values";
constexpr const char* kMadeByKey = "made_by";
constexpr std::string_view kExtension = ".safetensors";

class ValuesFile final : public FactorSource, public StoredValues
{
public:
    ValuesFile(SafetensorsFile file, fs::path path, ValuesId id) : m_file(std::move(file)), m_path(std::move(path)), m_id(std::move(id))
    {
        if (const auto made = m_file.metadata().find(kMadeByKey); made != m_file.metadata().end()) m_madeBy = made->second;
    }
    const ValuesId& id() const override { return m_id; }
    std::optional<StoredValue> find(std::string_view name) const override
    {
        const TensorInfo* info = m_file.find(name);
        if (info == nullptr) return std::nullopt;
        return StoredValue{std::string(dtypeName(info->dtype)), info->shape, m_file.bytes(*info)};
    }
    const std::string& madeBy() const override { return m_madeBy; }
    std::string path() const override { return m_path.string(); }
    Status checkUnchanged() const override { return m_file.file().checkUnchanged(); }

    const StoredValues* stored() const override { return this; }
    const std::string& profileSha256() const override { return m_id; }
    const std::string& fingerprint() const override { return m_none; }
    Json calibration() const override { return Json::object(); }
    FactorRule rule(int, int, int, int) const override { return FactorRule::Own; }
    Result<FactorBasis> basis(int, int, int, int) const override
    {
        return internalError(fmt::format("{} is a values file and has no bases", m_path.string()));
    }

private:
    SafetensorsFile m_file;
    fs::path m_path;
    ValuesId m_id;
    std::string m_madeBy;
    std::string m_none;
};

std::string digestOf(const SafetensorsFile& file)
{
    Sha256 hash;
    hash.update(file.file().bytes());
    return hash.finish();
}

std::vector<fs::path> placesOf(const ValuesInfo& info, const fs::path& planFile)
{
    std::vector<fs::path> places;
    if (!info.file.empty()) places.emplace_back(info.file);
    if (planFile.empty()) return places;
    const fs::path folder = planFile.parent_path();
    places.push_back(folder / (planFile.stem().string() + ".values.safetensors"));
    places.push_back(folder / "values" / (info.id + std::string(kExtension)));
    return places;
}

}  // namespace

bool isValuesFile(const fs::path& path)
{
    if (path.extension() != kExtension) return false;
    const auto file = SafetensorsFile::open(path);
    return file.ok() && file->metadata().contains(kVersionKey);
}

Result<std::shared_ptr<const FactorSource>> openValuesFile(const fs::path& path, const ValuesId& id)
{
    std::error_code failure;
    if (!fs::is_regular_file(path, failure)) return valuesMissing(id, fmt::format("and {} is not there", path.string()));
    ESPALIER_TRY(SafetensorsFile file, SafetensorsFile::open(path));
    const auto version = file.metadata().find(kVersionKey);
    if (version == file.metadata().end() || version->second != "1")
        return badInput("plan.values_damaged", path.string(), {"{path} is no values file of a plan.", {{"path", path.string()}}},
                        "Give the file that was written with the plan.");
    std::string sha256 = digestOf(file);
    if (!id.empty() && sha256 != id) {
        Error error = badInput("plan.values_changed", path.string(),
                               {"{path} is not the values file that the plan names: its SHA-256 is {sha256}, not {id}.",
                                {{"path", path.string()}, {"sha256", sha256.substr(0, 12)}, {"id", id.substr(0, 12)}}},
                               "Put the file there that was written with the plan, or make the plan again.");
        error.kept = "Nothing was changed.";
        return error;
    }
    return std::shared_ptr<const FactorSource>(std::make_shared<ValuesFile>(std::move(file), fs::absolute(path), std::move(sha256)));
}

Status addValuesFiles(const CompressionPlan& plan, const fs::path& planFile, FactorSources& given)
{
    for (const ValuesId& id : valuesOf(plan)) {
        if (storedValuesFor(id, given).ok()) continue;
        const auto known = std::find_if(plan.values().begin(), plan.values().end(), [&](const ValuesInfo& info) { return info.id == id; });
        const std::vector<fs::path> places = placesOf(known == plan.values().end() ? ValuesInfo{id, {}, {}} : *known, planFile);
        std::error_code ignored;
        auto there = std::find_if(places.begin(), places.end(), [&](const fs::path& place) { return fs::is_regular_file(place, ignored); });
        fs::path place = there == places.end() ? fs::path() : *there;
        if (place.empty() && !planFile.empty())
            place = ValuesSearch({fs::absolute(planFile).parent_path()}).find({id, {}, {}}).value_or(fs::path());
        if (place.empty()) {
            std::vector<std::string> names;
            names.reserve(places.size());
            for (const fs::path& looked : places)
                names.push_back(looked.string());
            return valuesMissing(id, places.empty() ? "which was not given"
                                                    : fmt::format("which is none of {}{}", fmt::join(names, ", "),
                                                                  planFile.empty() ? "" : ", and no other values file beside the plan"));
        }
        ESPALIER_TRY(auto opened, openValuesFile(place, id));
        given.push_back(std::move(opened));
    }
    return {};
}

CompressionPlan withValuesOf(const CompressionPlan& plan, const FactorSources& given)
{
    std::vector<ValuesInfo> all;
    for (const ValuesId& id : valuesOf(plan)) {
        const auto values = storedValuesFor(id, given);
        if (values.ok()) all.push_back({id, (*values)->path(), (*values)->madeBy()});
    }
    return all.empty() ? plan : plan.withValues(std::move(all));
}

Result<ValuesInfo> writeValuesFile(const fs::path& folder, const std::vector<ValueToWrite>& values, const Json& madeBy)
{
    ESPALIER_CHECK_OK(makeFolder(folder));
    std::vector<TensorDeclaration> declared;
    std::map<std::string_view, std::span<const std::byte>> bytes;
    for (const ValueToWrite& value : values) {
        declared.push_back(value.tensor);
        bytes[value.tensor.name] = value.bytes;
    }
    // Its name is known when it is written.
    const fs::path unnamed = folder / fmt::format("unnamed-{}{}", ::getpid(), kExtension);
    ESPALIER_TRY(SafetensorsWriter writer,
                 SafetensorsWriter::create(unnamed, std::move(declared),
                                           {{"format", "pt"}, {kVersionKey, "1"}, {kMadeByKey, canonicalJson(madeBy)}}));
    for (const TensorInfo& info : writer.order())
        ESPALIER_CHECK_OK(writer.write(bytes.at(info.name)));
    ESPALIER_CHECK_OK(writer.finish());
    ESPALIER_TRY(const SafetensorsFile written, SafetensorsFile::open(unnamed));
    std::string sha256 = digestOf(written);
    const fs::path named = folder / (sha256 + std::string(kExtension));
    std::error_code failure;
    fs::rename(unnamed, named, failure);
    if (failure) return writeError(named, failure.value());
    return ValuesInfo{std::move(sha256), named.string(), canonicalJson(madeBy)};
}

}  // namespace espalier
