#include "export/exporter.h"

#include "base/atomic_file.h"
#include "base/exception.h"
#include "base/mapped_file.h"
#include "base/sha256.h"
#include "base/text.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/values_file.h"
#include "export/companions.h"
#include "export/config_edit.h"
#include "export/export_files.h"
#include "export/export_folder.h"
#include "export/following_hash.h"
#include "export/layout.h"
#include "export/plan_factors.h"
#include "export/python_files.h"
#include "export/readme.h"
#include "plan/factor_methods.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

constexpr std::size_t kMaxSmallFile = 256u << 20;
constexpr std::string_view kValuesFolder = "values/";  // where values files lie beside a plan

// How to name `target` from within `folder`, so that what a README says holds where both were left.
std::string relativeTo(const fs::path& folder, const fs::path& target)
{
    const fs::path relative = target.lexically_relative(folder);
    return relative.empty() ? target.filename().string() : relative.string();
}

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

// Above this a plan does not bring the bases of its factors along: they approach the size of the factored model itself.
constexpr std::uint64_t kMaxPlanFactorBytes = std::uint64_t{2} << 30;

// What decides the bytes of the weight files: an interrupted export goes on only where all of it is the same.
std::string exportKey(const Checkpoint& checkpoint, const CompressionPlan& plan, const ExportLayout& layout, const ExportOptions& options)
{
    const Json key = {{"espalier", ESPALIER_VERSION},        {"source", checkpoint.fingerprint()}, {"plan", plan.hash()},
                      {"flavor", flavorName(layout.flavor)}, {"shard_size", options.shardSize},    {"unfuse", options.unfuse}};
    return sha256Hex(canonicalJson(key));
}

// The same of a finished export, by what its plan file says. Empty where the file cannot be read.
std::string recordedKey(const Json& recorded)
{
    if (!recorded.is_object() || !recorded.contains("model") || !recorded.contains("export")) return {};
    const Json& model = recorded["model"];
    const Json& made = recorded["export"];
    if (!model.is_object() || !made.is_object()) return {};
    const auto field = [](const Json& object, const char* key) { return object.contains(key) ? object[key] : Json(); };
    const Json key = {{"espalier", field(made, "espalier")}, {"source", field(model, "fingerprint")},   {"plan", field(made, "plan_hash")},
                      {"flavor", field(made, "flavor")},     {"shard_size", field(made, "shard_size")}, {"unfuse", field(made, "unfuse")}};
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

struct Exporter {
    const Checkpoint& checkpoint;
    const CompressionPlan& plan;
    const ExportOptions& options;
    JobContext& job;
    WorkShare& share = options.share ? *options.share : WorkShare::none();

    ExportLayout layout = {};
    fs::path out = {};
    fs::path partial = {};
    std::vector<std::pair<std::string, std::string>> texts = {};                // small files, with content
    Companions companions = {};                                                 // files taken over from the source
    std::uint64_t planFactors = 0;                                              // bytes of espalier_factors.safetensors; 0: not needed
    std::map<std::string, std::pair<std::uint64_t, std::string>> written = {};  // name -> bytes, SHA-256
    std::uint64_t done = 0;
    std::uint64_t total = 0;
    std::shared_ptr<const FactorSource> factors = {};    // null: plain, or not needed
    std::shared_ptr<const FactorSource> constants = {};  // null: the plan has none
    FactorSources profiles = options.profiles;           // and the values files of the plan

    Status prepare(ExportFlavor flavor);
    Status checkPlaces() const;
    Status checkSpace() const;
    Status writeShard(std::size_t shard, TensorProducer& producer);
    Status writeShards(std::vector<bool>& finished, ExportReport& report);
    Status writeTogether(std::vector<bool>& finished, ExportReport& report);
    Status writePart(ExportReport& report);
    // What a plan-only export brings along of a profile: bases of factors and constants, where both come from one.
    const std::shared_ptr<const FactorSource>& broughtFrom() const
    {
        static const std::shared_ptr<const FactorSource> none;
        if (factors && constants) return factors == constants ? factors : none;
        return factors ? factors : constants;
    }
    Status takeUp(const std::string& key, std::vector<bool>& finished);
    Status copyCompanion(const std::string& name, const fs::path& from);
    Status digestFiles();
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
    auto means = constantSourceFor(plan, options.profiles, checkpoint.fingerprint());
    if (means.ok())
        constants = *means;
    else if (flavor != ExportFlavor::Plan && !(options.dryRun && means.error().code == "plan.profile_needed"))
        return means.error();
    // Whoever gets a plan alone gets its values files with it; weights hold what their numbers became.
    if (!(options.dryRun && flavor != ExportFlavor::Plan)) ESPALIER_CHECK_OK(addValuesFiles(plan, {}, profiles));
    for (const ValuesId& id : flavor == ExportFlavor::Plan ? valuesOf(plan) : std::vector<ValuesId>()) {
        ESPALIER_TRY(const StoredValues* values, storedValuesFor(id, profiles));
        companions.copies.emplace_back(std::string(kValuesFolder) + id + ".safetensors", values->path());
    }
    ESPALIER_TRY(layout, layoutExport(checkpoint, plan, flavor, options.unfuse, options.shardSize));
    const fs::path& source = checkpoint.folder();

    std::int64_t sourceBytes = 0;
    for (const StoredTensor& stored : checkpoint.tensorsInOrder())
        sourceBytes += static_cast<std::int64_t>(stored.view.bytes.size());
    if (flavor != ExportFlavor::Plan) {
        ESPALIER_TRY(const std::string config, readTextFile(source / "config.json", "config", kMaxSmallFile));
        ESPALIER_TRY(std::string edited, editConfig(config, checkpoint, plan, flavor));
        texts.emplace_back("config.json", std::move(edited));
        if (layout.shards.size() > 1) texts.emplace_back("model.safetensors.index.json", indexJson(layout));
        if (flavor == ExportFlavor::Factored)
            for (const auto& [name, content] : pythonFiles())
                texts.emplace_back(name, content);
        texts.emplace_back(timingFile().first, timingFile().second);
        ESPALIER_TRY(companions, companionsOf(source));
        texts.insert(texts.end(), companions.edited.begin(), companions.edited.end());
    }
    ReadmeFacts facts;
    const auto& values = broughtFrom();
    if (flavor == ExportFlavor::Plan && values) planFactors = planFactorBytes(checkpoint.shape(), plan, *values);
    facts.factors = planFactors == 0 ? ReadmeFacts::Factors::None : ReadmeFacts::Factors::Brought;
    if (planFactors > kMaxPlanFactorBytes || (flavor == ExportFlavor::Plan && (!profile.ok() || !means.ok()))) {
        planFactors = 0;
        facts.factors = ReadmeFacts::Factors::OfProfile;
    }
    facts.profileSha256 = plan.factors().profileSha256.empty() ? plan.constantsProfile() : plan.factors().profileSha256;
    facts.sourcePath = relativeTo(out, resolved(source));
    facts.leftOut = layout.dropped;
    facts.code = companions.code;
    facts.tokenizerCode = companions.tokenizerCode;
    facts.tokenizerFile = companions.tokenizerFile;
    facts.sourceName = resolved(source).filename().string();
    facts.flavor = flavor;
    facts.sourceBytes = sourceBytes;
    facts.bytes = static_cast<std::int64_t>(layout.bytes);
    facts.planHash = plan.hash();
    facts.fingerprint = checkpoint.fingerprint();
    facts.fused = layout.fused;
    facts.measured = options.measured;
    facts.tasks = options.measuredTasks;
    facts.speed = options.measuredSpeed;
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
                            {"{target} is the source model's folder, lies inside it, or holds it; the source is never written to.",
                             {{"target", target.string()}}},
                            "Choose another folder.");
    std::error_code ignored;
    const bool exists = fs::symlink_status(out, ignored).type() != fs::file_type::not_found;
    if (exists && !options.force) {
        Error error = badInput("output.exists", out.string(), {"{out} exists already.", {{"out", out.string()}}},
                               "Choose another folder, or export with --force to replace it.");
        error.kept = "It was not touched.";
        return error;
    }
    // Only what an export wrote may be replaced as a whole: a mistyped path must not cost somebody's files.
    if (exists && (!fs::is_directory(out, ignored) || (!isEspalierExport(out) && !fs::is_empty(out, ignored)))) {
        Error error = badInput("output.exists", out.string(),
                               {"{out} is not an export of Espalier and is not replaced, not even with --force.", {{"out", out.string()}}},
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
    for (const auto& [name, path] : companions.copies)
        needed += fs::file_size(path, ignored);
    needed += planFactors;
    ESPALIER_TRY(const std::int64_t available, freeDiskBytes(out.parent_path()));
    if (static_cast<std::uint64_t>(std::max<std::int64_t>(available, 0)) < needed) {
        Error error = resourceError("output.disk_full", out.string(),
                                    {"The export needs {format_bytes}; {out} has {format_bytes2} free.",
                                     {{"format_bytes", formatBytes(static_cast<std::int64_t>(needed))},
                                      {"out", out.parent_path().string()},
                                      {"format_bytes2", formatBytes(available)}}},
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
    // A finished shard is taken over when the export goes on: nothing goes into it that was read of files that changed.
    ESPALIER_CHECK_OK(checkpoint.checkUnchanged());
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
    // The places of values files: beside the plan that is exported alone, where they were found for the others.
    std::vector<ValuesInfo> values = withValuesOf(plan, profiles).values();
    for (ValuesInfo& info : values)
        if (layout.flavor == ExportFlavor::Plan) info.file = std::string(kValuesFolder) + info.id + ".safetensors";
    Json json = toJson(named.withValues(std::move(values)));
    json["model"]["path"] = resolved(checkpoint.folder()).string();
    json["model"]["fingerprint"] = checkpoint.fingerprint();
    if (factors) json["factors"]["calibration"] = factors->calibration();
    Json files = Json::object();
    if (withFiles)
        for (const auto& [name, entry] : written)
            files[name] = {{"bytes", entry.first}, {"sha256", entry.second}};
    Json measured = Json::array();
    for (const Measurement& measurement : options.measured)
        measured.push_back(toJson(measurement));
    json["export"] = {{"espalier", ESPALIER_VERSION}, {"flavor", flavorName(layout.flavor)}, {"plan_hash", plan.hash()},
                      {"unfuse", options.unfuse},     {"shard_size", options.shardSize},     {"files", std::move(files)}};
    if (!measured.empty()) json["export"]["measured"] = std::move(measured);
    for (const TaskMeasurement& measurement : options.measuredTasks)
        json["export"]["measured_tasks"].push_back(toJson(measurement));
    if (options.measuredSpeed) json["export"]["measured_speed"] = toJson(*options.measuredSpeed);
    return sealedJson(std::move(json));
}

// The shards that are this process's and not finished.
Status Exporter::writeShards(std::vector<bool>& finished, ExportReport& report)
{
    TensorProducer producer(checkpoint, factors.get(), constants.get(), profiles);
    for (std::size_t shard = 0; shard < layout.shards.size(); ++shard) {
        const bool own = share.owns(shard);
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
    if (share.alone()) return writeShards(finished, report);
    Json own = share.first() ? Json(finished) : Json();
    ESPALIER_TRY(const std::vector<Json> states, share.exchange(std::move(own)));
    finished = states.front().get<std::vector<bool>>();
    ESPALIER_CHECK_OK(writeShards(finished, report));
    Json digests = Json::object();
    for (const auto& [name, entry] : written)
        digests[name] = {entry.first, entry.second};
    ESPALIER_TRY(const std::vector<Json> parts, share.exchange(std::move(digests)));
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

// What an earlier run left at `partial`: taken up, cleared away, or refused.
Status Exporter::takeUp(const std::string& key, std::vector<bool>& finished)
{
    using Kind = PartialState::Kind;
    const PartialState state = partialState(partial);
    if (state.kind == Kind::Absent) return {};
    if (state.kind == Kind::Foreign)
        return badInput("export.partial_in_the_way", partial.string(),
                        {"{partial} is in the way and was not left by an export.", {{"partial", partial.string()}}}, "Move it away.");
    if (options.resume && state.kind == Kind::Interrupted) {
        if (state.key != key)
            return badInput(
                "export.nothing_to_resume", partial.string(),
                {"{partial} was left by another export (plan, source, flavour or shard size differ).", {{"partial", partial.string()}}},
                "Export without --resume and with --force to start afresh, or choose another folder.");
        for (std::size_t shard = 0; shard < layout.shards.size(); ++shard)
            finished[shard] = shardIsFinished(partial / layout.shardName(shard), layout, shard);
        return {};
    }
    // Finished but not renamed, or an earlier export that was replaced and not yet removed: only what has its digest still counts.
    if (options.resume && state.kind == Kind::Finished) {
        const auto recorded = readJsonFile(partial / kPlanFileName, "export");
        if (recorded.ok() && recordedKey(*recorded) == key) {
            const Json& files = (*recorded)["export"].contains("files") ? (*recorded)["export"]["files"] : Json();
            for (std::size_t shard = 0; shard < layout.shards.size(); ++shard) {
                const std::string name = layout.shardName(shard);
                if (!files.is_object() || !files.contains(name) || !shardIsFinished(partial / name, layout, shard)) continue;
                const auto digest = fileSha256(partial / name);
                finished[shard] = digest.ok() && files[name].is_object() && files[name].value("sha256", Json()) == Json(*digest);
            }
            std::error_code ignored;
            for (std::size_t shard = 0; shard < layout.shards.size(); ++shard)
                if (!finished[shard]) fs::remove(partial / layout.shardName(shard), ignored);
            return {};
        }
    }
    removeExportFolder(partial);
    return {};
}

Status Exporter::copyCompanion(const std::string& name, const fs::path& from)
{
    const fs::path to = partial / name;
    ESPALIER_CHECK_OK(makeFolder(to.parent_path()));
    if (name.starts_with(kValuesFolder)) {
        ESPALIER_TRY(const MappedFile mapped, MappedFile::open(from, "plan"));
        ESPALIER_TRY(AtomicFile file, AtomicFile::create(to));
        ESPALIER_CHECK_OK(file.write(mapped.bytes()));
        ESPALIER_CHECK_OK(mapped.checkUnchanged());
        return file.commit();
    }
    ESPALIER_TRY(const std::string content, readTextFile(from, "checkpoint", kMaxSmallFile));
    return writeFileAtomically(to, content);
}

// Of every file but the weights of this run, which have theirs.
Status Exporter::digestFiles()
{
    std::vector<std::string> names;
    for (const auto& [name, content] : texts)
        names.push_back(name);
    for (const auto& [name, path] : companions.copies)
        names.push_back(name);
    for (std::size_t shard = 0; shard < layout.shards.size(); ++shard)
        names.push_back(layout.shardName(shard));
    if (planFactors > 0) names.emplace_back(kPlanFactorsName);
    // What an interrupted run had taken over from a source that has changed since then.
    std::vector<fs::path> strangers;
    for (const auto& entry : fs::recursive_directory_iterator(partial)) {
        const std::string name = entry.path().lexically_relative(partial).string();
        const bool ours = name == kExportStateFile || name == kPlanFileName || std::find(names.begin(), names.end(), name) != names.end();
        if (!entry.is_directory() && !ours) strangers.push_back(entry.path());
    }
    for (const fs::path& stranger : strangers)
        fs::remove(stranger);
    for (const std::string& name : names) {
        if (job.stopRequested()) return cancelledError();
        if (written.contains(name)) continue;
        ESPALIER_TRY(std::string digest, fileSha256(partial / name));
        std::error_code failure;
        written[name] = {fs::file_size(partial / name, failure), std::move(digest)};
    }
    return {};
}

Status Exporter::write(ExportReport& report)
{
    if (!share.first()) return writePart(report);
    const std::string key = exportKey(checkpoint, plan, layout, options);
    std::vector<bool> finished(layout.shards.size(), false);
    ESPALIER_CHECK_OK(takeUp(key, finished));
    PartialFolder folder(partial);
    const auto interrupted = [&](Error error) {
        if (!share.alone())
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

    const Status begun = beginPartial(partial, key);
    if (!begun.ok()) return interrupted(begun.error());
    const Status shards = writeTogether(finished, report);
    if (!shards.ok()) return interrupted(shards.error());
    for (const auto& [name, content] : texts) {
        const Status status = writeFileAtomically(partial / name, content);
        if (!status.ok()) return interrupted(status.error());
    }
    for (const auto& [name, path] : companions.copies) {
        const Status status = copyCompanion(name, path);
        if (!status.ok()) return interrupted(status.error());
    }
    if (planFactors > 0) {
        const Status status = writePlanFactors(partial / kPlanFactorsName, checkpoint.shape(), plan, *broughtFrom(), job);
        if (!status.ok()) return interrupted(status.error());
    }
    const Status digested = digestFiles();
    if (!digested.ok()) return interrupted(digested.error());
    ESPALIER_TRY(const std::string text, planText(true));
    Status sealed = writeFileAtomically(partial / kPlanFileName, text);
    if (sealed.ok()) sealed = endPartial(partial);
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
                        {"The plan has {layer_count} layers, the model {layers}.",
                         {{"layer_count", plan.layerCount()}, {"layers", checkpoint.shape().layers.size()}}});
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
    report.warnings.insert(report.warnings.end(), companions.warnings.begin(), companions.warnings.end());
    if (flavor == ExportFlavor::Plan && !factors && factorsNeedProfile(plan))
        report.warnings.push_back("The plan's factors come from a profile that was not given: whoever uses the plan needs that profile.");
    if (flavor == ExportFlavor::Reconstructed && plan.hasRanks())
        report.warnings.push_back("Factors are multiplied back: reduced ranks save neither disk nor memory in this flavour.");
    ESPALIER_CHECK_OK(checkPlaces());

    if (options.dryRun) {
        for (std::size_t shard = 0; shard < layout.shards.size(); ++shard)
            report.files.push_back({layout.shardName(shard), static_cast<std::int64_t>(shardBytes(layout, shard))});
        for (const auto& [name, content] : texts)
            report.files.push_back({name, static_cast<std::int64_t>(content.size())});
        std::error_code ignored;
        for (const auto& [name, path] : companions.copies)
            report.files.push_back({name, static_cast<std::int64_t>(fs::file_size(path, ignored))});
        if (planFactors > 0) report.files.push_back({kPlanFactorsName, static_cast<std::int64_t>(planFactors)});
        // Digests of equal length stand in for those of the files that are not written.
        for (const ExportedFile& file : report.files)
            written[file.name] = {static_cast<std::uint64_t>(file.bytes), std::string(64, '0')};
        ESPALIER_TRY(const std::string text, planText(true));
        report.files.push_back({std::string(kPlanFileName), static_cast<std::int64_t>(text.size())});
    } else {
        if (share.first()) ESPALIER_CHECK_OK(checkSpace());
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
        if (plan.needsFactors() && factors.method.empty()) factors.method = "svd";
        const CompressionPlan named = factors == plan.factors() ? plan : plan.withFactors(std::move(factors));
        const auto isOfThis = [&](const auto& measurement) {
            const std::string& of = measurement.planHash;
            const std::string& on = measurement.modelFingerprint;
            return (of.empty() || of == plan.hash() || of == named.hash()) && (on.empty() || on == checkpoint.fingerprint());
        };
        for (const TaskMeasurement& measurement : options.measuredTasks) {
            if (isOfThis(measurement)) continue;
            return badInput(
                "export.measured_other_plan", measurement.task,
                {"The accuracy measured on {task} is that of another plan or model than the one exported.", {{"task", measurement.task}}},
                "Measure this plan, or export without the measurement.");
        }
        if (options.measuredSpeed && !isOfThis(*options.measuredSpeed))
            return badInput("export.measured_other_plan", "speed",
                            "The speed that was measured is that of another plan or model than the one exported.",
                            "Measure this plan, or export without the measurement.");
        for (const Measurement& measurement : options.measured) {
            if (isOfThis(measurement)) continue;
            return badInput(
                "export.measured_other_plan", measurement.text,
                {"The perplexity measured on {text} is that of another plan or model than the one exported.", {{"text", measurement.text}}},
                "Measure this plan, or export without the measurement.");
        }
        Exporter exporter{checkpoint, named, options, job};
        return exporter.run();
    } catch (const std::filesystem::filesystem_error& error) {
        return writeError(error.path1().empty() ? options.out : error.path1(), error.code().value());
    } catch (const std::exception& failure) {
        return errorOf(failure,
                       resourceError("export.out_of_memory", "memory", "There was not enough memory to compute the factors of an expert.",
                                     "Close other programs, or use fewer threads."),
                       "The export");
    }
}

}  // namespace espalier
