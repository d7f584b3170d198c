#include "export/exporter.h"

#include "base/atomic_file.h"
#include "base/sha256.h"
#include "base/text.h"
#include "checkpoint/checkpoint.h"
#include "export/config_edit.h"
#include "export/export_files.h"
#include "export/following_hash.h"
#include "export/layout.h"
#include "export/python_files.h"
#include "export/readme.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <new>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

constexpr std::string_view kStateFile = "espalier_export_state.json";
constexpr std::size_t kMaxSmallFile = 256u << 20;

bool isWithin(const fs::path& inner, const fs::path& outer)
{
    const auto mismatch = std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end());
    return mismatch.first == outer.end();
}

fs::path resolved(const fs::path& path)
{
    std::error_code failure;
    fs::path result = fs::weakly_canonical(fs::absolute(path), failure);
    if (failure) result = fs::absolute(path).lexically_normal();
    if (result.filename().empty()) result = result.parent_path();
    return result;
}

bool isEspalierExport(const fs::path& folder)
{
    std::error_code ignored;
    return fs::is_regular_file(folder / kPlanFileName, ignored);
}

// What decides the bytes of the weight files: an interrupted export goes on only where all of it is the same.
std::string exportKey(const Checkpoint& checkpoint, const CompressionPlan& plan, const ExportLayout& layout, const ExportOptions& options)
{
    const Json key = {{"espalier", ESPALIER_VERSION},        {"source", checkpoint.fingerprint()}, {"plan", plan.hash()},
                      {"flavor", flavorName(layout.flavor)}, {"shard_size", options.shardSize},    {"unfuse", options.unfuse}};
    return sha256Hex(canonicalJson(key));
}

std::vector<TensorDeclaration> declarations(const ExportLayout& layout, std::size_t shard)
{
    std::vector<TensorDeclaration> result;
    for (const std::size_t i : layout.shards[shard]) {
        const OutputTensor& tensor = layout.tensors[i];
        result.push_back({tensor.name, tensor.dtype, tensor.shape});
    }
    return result;
}

// Size of a shard file without writing it: the writer's own header over the writer's own order.
std::uint64_t shardBytes(const ExportLayout& layout, std::size_t shard)
{
    std::vector<TensorInfo> order;
    for (const TensorDeclaration& declared : declarations(layout, shard)) {
        TensorInfo info;
        info.name = declared.name;
        info.dtype = declared.dtype;
        info.shape = declared.shape;
        order.push_back(std::move(info));
    }
    std::sort(order.begin(), order.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name; });
    std::map<std::string_view, std::uint64_t> sizes;
    for (const std::size_t i : layout.shards[shard])
        sizes[layout.tensors[i].name] = layout.tensors[i].bytes;
    std::uint64_t offset = 0;
    for (TensorInfo& info : order) {
        info.begin = offset;
        info.end = offset += sizes.at(info.name);
    }
    return safetensorsHeader(order, layout.metadata).size() + offset;
}

// A finished shard of an interrupted export: it was renamed into place, so it is whole; its header must still be the planned one.
bool shardIsFinished(const fs::path& path, const ExportLayout& layout, std::size_t shard)
{
    std::error_code ignored;
    if (!fs::is_regular_file(path, ignored) || fs::file_size(path, ignored) != shardBytes(layout, shard)) return false;
    const auto file = SafetensorsFile::open(path);
    if (!file || file->metadata() != layout.metadata || file->tensors().size() != layout.shards[shard].size()) return false;
    return std::all_of(layout.shards[shard].begin(), layout.shards[shard].end(), [&](std::size_t i) {
        const TensorInfo* info = file->find(layout.tensors[i].name);
        return info && info->dtype == layout.tensors[i].dtype && info->shape == layout.tensors[i].shape;
    });
}

// The folder an export grows in. Removed again unless it is kept for a resumed run or renamed into place.
class PartialFolder
{
public:
    explicit PartialFolder(fs::path path) : m_path(std::move(path)) {}
    PartialFolder(const PartialFolder&) = delete;
    PartialFolder& operator=(const PartialFolder&) = delete;
    ~PartialFolder()
    {
        if (m_keep) return;
        std::error_code ignored;
        fs::remove_all(m_path, ignored);
    }
    void keep() { m_keep = true; }
    const fs::path& path() const { return m_path; }

private:
    fs::path m_path;
    bool m_keep = false;
};

Error unwritable(const fs::path& path, int number)
{
    return resourceError("output.unwritable", path.string(), fmt::format("{} cannot be written: {}.", path.string(), std::strerror(number)),
                         "Check the folder and its permissions.");
}

// `partial` becomes `out`; an earlier export there changes places with it in one step and is then removed.
Status moveIntoPlace(const fs::path& partial, const fs::path& out)
{
    std::error_code ignored;
    if (!fs::exists(out, ignored)) return syncAndRename(partial, out);
    if (::renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, out.c_str(), RENAME_EXCHANGE) == 0) {
        fs::remove_all(partial, ignored);
        return {};
    }
    if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) return unwritable(out, errno);
    // File systems without an exchange: the old one steps aside for a moment.
    fs::path aside = out;
    aside += ".old";
    fs::remove_all(aside, ignored);
    if (::rename(out.c_str(), aside.c_str()) != 0) return unwritable(out, errno);
    const Status moved = syncAndRename(partial, out);
    if (!moved.ok()) {
        (void)::rename(aside.c_str(), out.c_str());
        return moved.error();
    }
    fs::remove_all(aside, ignored);
    return {};
}

struct Exporter {
    const Checkpoint& checkpoint;
    const CompressionPlan& plan;
    const ExportOptions& options;
    JobContext& job;

    ExportLayout layout;
    fs::path out;
    fs::path partial;
    std::vector<std::pair<std::string, std::string>> texts;                // small files, with content
    std::vector<std::pair<std::string, fs::path>> copies;                  // files taken over from the source
    std::map<std::string, std::pair<std::uint64_t, std::string>> written;  // name -> bytes, SHA-256
    std::uint64_t done = 0;
    std::uint64_t total = 0;
    std::shared_ptr<const FactorSource> factors = {};  // null: plain, or not needed

    Status prepare(ExportFlavor flavor);
    Status checkPlaces() const;
    Status checkSpace() const;
    Status writeShard(std::size_t shard, TensorProducer& producer);
    Status writeShards(std::vector<bool>& finished, ExportReport& report);
    Status writeTogether(std::vector<bool>& finished, ExportReport& report);
    Status writePart(ExportReport& report);
    Result<std::string> planText(bool withFiles) const;
    Status write(ExportReport& report);
    Result<ExportReport> run();
};

Status Exporter::prepare(ExportFlavor flavor)
{
    ESPALIER_CHECK_OK(checkFlavor(checkpoint.shape(), plan, flavor));
    auto profile = factorSourceFor(plan, options.profiles, checkpoint.fingerprint());
    if (profile.ok())
        factors = *profile;
    else if (flavor != ExportFlavor::Plan && !(options.dryRun && profile.error().code == "plan.profile_needed"))
        return profile.error();
    ESPALIER_TRY(layout, layoutExport(checkpoint, plan, flavor, options.unfuse, options.shardSize));
    const fs::path& source = checkpoint.folder();

    std::int64_t sourceBytes = 0;
    for (const StoredTensor& stored : checkpoint.tensorsInOrder())
        sourceBytes += static_cast<std::int64_t>(stored.view.bytes.size());
    if (flavor != ExportFlavor::Plan) {
        ESPALIER_TRY(const std::string config, readTextFile(source / "config.json", "config", kMaxSmallFile));
        ESPALIER_TRY(std::string edited, editConfig(config, checkpoint.shape(), plan, flavor));
        texts.emplace_back("config.json", std::move(edited));
        if (layout.shards.size() > 1) texts.emplace_back("model.safetensors.index.json", indexJson(layout));
        if (flavor == ExportFlavor::Factored)
            for (const auto& [name, content] : pythonFiles())
                texts.emplace_back(name, content);
        std::error_code failure;
        for (const auto& entry : fs::directory_iterator(source, failure)) {
            const std::string name = entry.path().filename().string();
            std::error_code ignored;
            if (isCompanionFile(name) && fs::is_regular_file(entry.path(), ignored)) copies.emplace_back(name, entry.path());
        }
        if (failure) return badInput("checkpoint.unreadable", source.string(), fmt::format("{} cannot be listed.", source.string()));
        std::sort(copies.begin(), copies.end());
    }
    ReadmeFacts facts;
    facts.sourceName = resolved(source).filename().string();
    facts.flavor = flavor;
    facts.sourceBytes = sourceBytes;
    facts.bytes = static_cast<std::int64_t>(layout.bytes);
    facts.planHash = plan.hash();
    facts.fingerprint = checkpoint.fingerprint();
    facts.fused = layout.fused;
    facts.evaluation = options.evaluation;
    texts.emplace_back("README.md", exportReadme(checkpoint.shape(), plan, facts));

    total = layout.bytes;
    return {};
}

Status Exporter::checkPlaces() const
{
    const fs::path source = resolved(checkpoint.folder());
    for (const fs::path& target : {out, partial})
        if (isWithin(target, source) || isWithin(source, target))
            return badInput("export.into_source", target.string(),
                            fmt::format("{} is the source model's folder, lies inside it, or holds it; the source is never written to.",
                                        target.string()),
                            "Choose another folder.");
    std::error_code ignored;
    const bool exists = fs::symlink_status(out, ignored).type() != fs::file_type::not_found;
    if (exists && !options.force) {
        Error error = badInput("output.exists", out.string(), fmt::format("{} exists already.", out.string()),
                               "Choose another folder, or export with --force to replace it.");
        error.kept = "It was not touched.";
        return error;
    }
    // Only what an export wrote may be replaced as a whole: a mistyped path must not cost somebody's files.
    if (exists && (!fs::is_directory(out, ignored) || (!isEspalierExport(out) && !fs::is_empty(out, ignored)))) {
        Error error = badInput("output.exists", out.string(),
                               fmt::format("{} is not an export of Espalier and is not replaced, not even with --force.", out.string()),
                               "Choose another folder, or remove it yourself.");
        error.kept = "It was not touched.";
        return error;
    }
    return {};
}

Status Exporter::checkSpace() const
{
    std::uint64_t needed = 1u << 20;
    for (std::size_t shard = 0; shard < layout.shards.size(); ++shard)
        if (!(options.resume && shardIsFinished(partial / layout.shardName(shard), layout, shard))) needed += shardBytes(layout, shard);
    for (const auto& [name, content] : texts)
        needed += content.size();
    std::error_code ignored;
    for (const auto& [name, path] : copies)
        needed += fs::file_size(path, ignored);
    ESPALIER_TRY(const std::int64_t available, freeDiskBytes(out.parent_path()));
    if (static_cast<std::uint64_t>(std::max<std::int64_t>(available, 0)) < needed) {
        Error error = resourceError("output.disk_full", out.string(),
                                    fmt::format("The export needs {}; {} has {} free.", formatBytes(static_cast<std::int64_t>(needed)),
                                                out.parent_path().string(), formatBytes(available)),
                                    "Free some space or choose another disk.");
        error.kept = "Nothing was written.";
        return error;
    }
    return {};
}

Status Exporter::writeShard(std::size_t shard, TensorProducer& producer)
{
    std::map<std::string_view, const OutputTensor*> byName;
    for (const std::size_t i : layout.shards[shard])
        byName[layout.tensors[i].name] = &layout.tensors[i];
    ESPALIER_TRY(SafetensorsWriter writer,
                 SafetensorsWriter::create(partial / layout.shardName(shard), declarations(layout, shard), layout.metadata));
    FollowingHash hash(writer.temporaryPath());
    std::vector<const OutputTensor*> order;
    for (const TensorInfo& info : writer.order())
        order.push_back(byName.at(info.name));
    producer.expect(order);
    for (const OutputTensor* tensor : order) {
        ESPALIER_CHECK_OK(producer.produce(*tensor, [&](std::span<const std::byte> bytes) -> Status {
            if (job.stopRequested()) return cancelledError();
            ESPALIER_CHECK_OK(writer.write(bytes));
            hash.advance(writer.writtenBytes());
            done += bytes.size();
            job.progress(static_cast<std::int64_t>(done), static_cast<std::int64_t>(total), "byte");
            return {};
        }));
    }
    if (job.stopRequested()) return cancelledError();
    const std::uint64_t bytes = writer.fileBytes();
    ESPALIER_CHECK_OK(writer.finish());
    ESPALIER_TRY(std::string digest, hash.finish(bytes));
    written[layout.shardName(shard)] = {bytes, std::move(digest)};
    return {};
}

// espalier_plan.json: the plan, what it was made for, and the digest of every other file of the export.
Result<std::string> Exporter::planText(bool withFiles) const
{
    CompressionPlan named = plan.withModel({checkpoint.config().modelType, checkpoint.configSha256(), checkpoint.weightsSha256()});
    Json json = toJson(named);
    json["model"]["path"] = resolved(checkpoint.folder()).string();
    json["model"]["fingerprint"] = checkpoint.fingerprint();
    if (factors) json["factors"]["calibration"] = factors->calibration();
    Json files = Json::object();
    if (withFiles)
        for (const auto& [name, entry] : written)
            files[name] = {{"bytes", entry.first}, {"sha256", entry.second}};
    json["export"] = {{"espalier", ESPALIER_VERSION}, {"flavor", flavorName(layout.flavor)}, {"plan_hash", plan.hash()},
                      {"unfuse", options.unfuse},     {"shard_size", options.shardSize},     {"files", std::move(files)}};
    return sealedJson(std::move(json));
}

// The shards that are this process's and not finished.
Status Exporter::writeShards(std::vector<bool>& finished, ExportReport& report)
{
    TensorProducer producer(checkpoint, factors.get());
    for (std::size_t shard = 0; shard < layout.shards.size(); ++shard) {
        const bool own = shard % static_cast<std::size_t>(options.parts) == static_cast<std::size_t>(options.part);
        if (finished[shard] || !own) {
            if (finished[shard]) ++report.resumedFiles;
            for (const std::size_t i : layout.shards[shard])
                done += layout.tensors[i].bytes;
            job.progress(static_cast<std::int64_t>(done), static_cast<std::int64_t>(total), "byte");
            continue;
        }
        ESPALIER_CHECK_OK(writeShard(shard, producer));
        finished[shard] = true;
    }
    return {};
}

// Tells the others which shards are to be written, writes its own and takes over what is known of theirs.
Status Exporter::writeTogether(std::vector<bool>& finished, ExportReport& report)
{
    if (options.parts == 1) return writeShards(finished, report);
    Json own = options.part == 0 ? Json(finished) : Json();
    ESPALIER_TRY(const std::vector<Json> states, options.exchange(std::move(own)));
    finished = states.front().get<std::vector<bool>>();
    ESPALIER_CHECK_OK(writeShards(finished, report));
    Json digests = Json::object();
    for (const auto& [name, entry] : written)
        digests[name] = {entry.first, entry.second};
    ESPALIER_TRY(const std::vector<Json> parts, options.exchange(std::move(digests)));
    for (const Json& part : parts)
        for (const auto& [name, entry] : part.items())
            written[name] = {entry[0].get<std::uint64_t>(), entry[1].get<std::string>()};
    return {};
}

// A part other than the first: the folder is there once the first one says what is to be written in it.
Status Exporter::writePart(ExportReport& report)
{
    std::vector<bool> finished;
    ESPALIER_CHECK_OK(writeTogether(finished, report));
    for (const auto& [name, entry] : written)
        report.files.push_back({name, static_cast<std::int64_t>(entry.first)});
    return {};
}

Status Exporter::write(ExportReport& report)
{
    if (options.part > 0) return writePart(report);
    const std::string key = exportKey(checkpoint, plan, layout, options);
    std::error_code failure;
    std::vector<bool> finished(layout.shards.size(), false);
    if (fs::symlink_status(partial, failure).type() != fs::file_type::not_found) {
        const auto state = readJsonFile(partial / kStateFile, "export");
        const bool ours = state.ok() && state->is_object() && state->contains("export_key");
        const bool same = ours && (*state)["export_key"] == key;
        if (options.resume && ours && !same)
            return badInput("export.nothing_to_resume", partial.string(),
                            fmt::format("{} was left by another export (plan, source, flavour or shard size differ).", partial.string()),
                            "Export without --resume and with --force to start afresh, or choose another folder.");
        if (!ours && !(fs::is_directory(partial, failure) && fs::is_empty(partial, failure)))
            return badInput("export.partial_in_the_way", partial.string(),
                            fmt::format("{} is in the way and was not left by an export.", partial.string()), "Move it away.");
        if (options.resume && same) {
            for (std::size_t shard = 0; shard < layout.shards.size(); ++shard)
                finished[shard] = shardIsFinished(partial / layout.shardName(shard), layout, shard);
        } else {
            fs::remove_all(partial, failure);
        }
    }
    fs::create_directories(partial, failure);
    if (failure) return unwritable(partial, failure.value());
    PartialFolder folder(partial);
    // What a killed run left half written beside the finished shards.
    for (const auto& entry : fs::directory_iterator(partial, failure))
        if (entry.path().filename().string().find(".partial") != std::string::npos) fs::remove(entry.path(), failure);
    ESPALIER_CHECK_OK(writeFileAtomically(partial / kStateFile, canonicalJson({{"export_key", key}}) + "\n"));

    const auto interrupted = [&](Error error) {
        if (options.parts > 1)
            for (std::size_t shard = 0; shard < layout.shards.size(); ++shard)
                finished[shard] = shardIsFinished(partial / layout.shardName(shard), layout, shard);
        const auto count = static_cast<std::size_t>(std::count(finished.begin(), finished.end(), true));
        if (count > 0) {
            folder.keep();
            error.kept = fmt::format("{} of {} files are finished and kept in {}; {} does not exist yet.", count, layout.shards.size(),
                                     partial.string(), out.string());
            error.action += fmt::format("{}Export again with --resume to go on.", error.action.empty() ? "" : " ");
        } else if (error.kept.empty()) {
            error.kept = "Nothing was left behind.";
        }
        return error;
    };

    const Status shards = writeTogether(finished, report);
    if (!shards.ok()) return interrupted(shards.error());
    for (const auto& [name, content] : texts) {
        const Status status = writeFileAtomically(partial / name, content);
        if (!status.ok()) return interrupted(status.error());
    }
    for (const auto& [name, path] : copies) {
        const auto content = readTextFile(path, "checkpoint", kMaxSmallFile);
        if (!content) return interrupted(content.error());
        const Status status = writeFileAtomically(partial / name, *content);
        if (!status.ok()) return interrupted(status.error());
    }
    fs::remove(partial / kStateFile, failure);
    for (const auto& entry : fs::directory_iterator(partial, failure)) {
        if (job.stopRequested()) {
            ESPALIER_CHECK_OK(writeFileAtomically(partial / kStateFile, canonicalJson({{"export_key", key}}) + "\n"));
            return interrupted(cancelledError());
        }
        // Shards of this run have theirs.
        if (written.contains(entry.path().filename().string())) continue;
        const auto digest = fileSha256(entry.path());
        if (!digest) return interrupted(digest.error());
        written[entry.path().filename().string()] = {fs::file_size(entry.path(), failure), *digest};
    }
    ESPALIER_TRY(const std::string text, planText(true));
    const Status sealed = writeFileAtomically(partial / kPlanFileName, text);
    if (!sealed.ok()) return interrupted(sealed.error());
    for (const auto& [name, entry] : written)
        report.files.push_back({name, static_cast<std::int64_t>(entry.first)});
    report.files.push_back({std::string(kPlanFileName), static_cast<std::int64_t>(text.size())});
    ESPALIER_CHECK_OK(moveIntoPlace(partial, out));
    return {};
}

Result<ExportReport> Exporter::run()
{
    ExportFlavor flavor = bestFlavor(checkpoint.shape(), plan);
    if (!options.flavor.empty() && options.flavor != "auto") {
        ESPALIER_TRY(flavor, parseFlavor(options.flavor));
    }
    const PlanModel& made = plan.model();
    if (plan.layerCount() != static_cast<int>(checkpoint.shape().layers.size()))
        return badInput("plan.other_model", "plan",
                        fmt::format("The plan has {} layers, the model {}.", plan.layerCount(), checkpoint.shape().layers.size()));
    if (options.out.empty()) return usageError("No output folder was given.", "Name one with --out.");
    out = resolved(options.out);
    partial = out;
    partial += ".partial";

    ExportReport report;
    report.out = out;
    report.dryRun = options.dryRun;
    report.planHash = plan.hash();
    report.flavor = flavorName(flavor);
    if ((!made.configSha256.empty() && made.configSha256 != checkpoint.configSha256()) ||
        (!made.weightsSha256.empty() && made.weightsSha256 != checkpoint.weightsSha256()))
        report.warnings.push_back("The plan was made for another model than the one exported.");

    ESPALIER_CHECK_OK(prepare(flavor));
    for (std::string& warning : factorWarnings(plan, factors.get()))
        report.warnings.push_back(std::move(warning));
    report.tensorBytes = static_cast<std::int64_t>(layout.bytes);
    if (!layout.dropped.empty())
        report.warnings.push_back(fmt::format("{} tensors that are no part of the model were left out, the first is {}.",
                                              layout.dropped.size(), layout.dropped.front()));
    if (flavor == ExportFlavor::Reconstructed && plan.hasRanks())
        report.warnings.push_back("Factors are multiplied back: reduced ranks save neither disk nor memory in this flavour.");
    ESPALIER_CHECK_OK(checkPlaces());

    if (options.dryRun) {
        for (std::size_t shard = 0; shard < layout.shards.size(); ++shard)
            report.files.push_back({layout.shardName(shard), static_cast<std::int64_t>(shardBytes(layout, shard))});
        for (const auto& [name, content] : texts)
            report.files.push_back({name, static_cast<std::int64_t>(content.size())});
        std::error_code ignored;
        for (const auto& [name, path] : copies)
            report.files.push_back({name, static_cast<std::int64_t>(fs::file_size(path, ignored))});
        // Digests of equal length stand in for those of the files that are not written.
        for (const ExportedFile& file : report.files)
            written[file.name] = {static_cast<std::uint64_t>(file.bytes), std::string(64, '0')};
        ESPALIER_TRY(const std::string text, planText(true));
        report.files.push_back({std::string(kPlanFileName), static_cast<std::int64_t>(text.size())});
    } else {
        if (options.part == 0) ESPALIER_CHECK_OK(checkSpace());
        job.progress(0, static_cast<std::int64_t>(total), "byte");
        ESPALIER_CHECK_OK(write(report));
    }
    std::sort(report.files.begin(), report.files.end(), [](const ExportedFile& a, const ExportedFile& b) { return a.name < b.name; });
    for (const ExportedFile& file : report.files)
        report.bytes += file.bytes;
    return report;
}

}  // namespace

Result<ExportReport> exportCheckpoint(const Checkpoint& checkpoint, const CompressionPlan& plan, const ExportOptions& options,
                                      JobContext& job)
{
    try {
        // A plan whose ranks were set one by one may name no method yet; what is written is what the file says when it is read again.
        FactorSettings factors = plan.factors();
        if (plan.hasRanks() && factors.method.empty()) factors.method = "svd";
        const CompressionPlan named = factors == plan.factors() ? plan : plan.withFactors(std::move(factors));
        Exporter exporter{checkpoint, named, options, job, {}, {}, {}, {}, {}, {}, 0, 0};
        return exporter.run();
    } catch (const std::bad_alloc&) {
        return resourceError("export.out_of_memory", "memory", "There was not enough memory to compute the factors of an expert.",
                             "Close other programs, or use fewer threads.");
    } catch (const c10::Error& error) {
        return internalError(fmt::format("Computing factors failed: {}", error.what_without_backtrace()));
    } catch (const std::filesystem::filesystem_error& error) {
        return resourceError("output.unwritable", options.out.string(), fmt::format("{}.", error.what()),
                             "Check the folder and its permissions.");
    }
}

Json toJson(const ExportReport& report)
{
    Json files = Json::array();
    for (const ExportedFile& file : report.files)
        files.push_back({{"name", file.name}, {"bytes", file.bytes}});
    return {{"flavor", report.flavor},
            {"out", report.out.string()},
            {"files", std::move(files)},
            {"bytes", report.bytes},
            {"tensor_bytes", report.tensorBytes},
            {"plan_hash", report.planHash},
            {"resumed_files", report.resumedFiles},
            {"dry_run", report.dryRun},
            {"warnings", report.warnings}};
}

}  // namespace espalier
