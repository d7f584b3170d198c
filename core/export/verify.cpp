#include "export/verify.h"

#include "base/exception.h"
#include "base/random.h"
#include "base/statistics.h"
#include "base/text.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/values_file.h"
#include "evaluate/evaluator.h"
#include "export/config_edit.h"
#include "export/export_files.h"
#include "export/exporter.h"
#include "export/layout.h"
#include "export/runtime_check.h"
#include "model/moe_model_torch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

constexpr std::size_t kMaxSmallFile = 256u << 20;
constexpr int kDefaultWindows = 2;
constexpr int kDefaultLength = 64;
constexpr std::int64_t kLogitRows = 64;

// The differences of one kind: how many there are, and what the first one is.
struct Differences {
    int count = 0;
    std::string first;
    void add(std::string what)
    {
        if (count++ == 0) first = std::move(what);
    }
    std::string text(std::string_view fine) const
    {
        if (count == 0) return std::string(fine);
        return count == 1 ? first : fmt::format("{} ({} differences)", first, count);
    }
};

at::Tensor floats(std::span<const std::byte> bytes, const OutputTensor& tensor)
{
    const at::ScalarType type = tensor.dtype == DType::BF16  ? at::kBFloat16
                                : tensor.dtype == DType::F16 ? at::kHalf
                                : tensor.dtype == DType::F64 ? at::kDouble
                                                             : at::kFloat;
    at::Tensor result = at::empty(tensor.shape, type);
    std::memcpy(result.mutable_data_ptr(), bytes.data(), bytes.size());
    return result.to(at::kFloat);
}

struct Verifier {
    const VerifyOptions& options;
    JobContext& job;
    VerifyReport report = {};
    std::shared_ptr<const Checkpoint> source = {};
    std::shared_ptr<const Checkpoint> exported = {};
    CompressionPlan plan = {};
    ExportLayout layout = {};
    std::shared_ptr<const FactorSource> factorSource = {};
    std::shared_ptr<const FactorSource> constantSource = {};
    FactorSources profiles = options.profiles;  // and the values files of the plan

    bool check(std::string name, bool holds, std::string detail)
    {
        report.checks.push_back({std::move(name), holds, std::move(detail)});
        return holds;
    }
    VerifyReport finish()
    {
        report.holds =
            !report.checks.empty() && std::all_of(report.checks.begin(), report.checks.end(), [](const VerifyCheck& c) { return c.holds; });
        return std::move(report);
    }

    void checkFiles(const Json& files);
    void checkTensorList();
    Status checkTensors();
    void checkRuntime();
    Status checkForward();
    Result<VerifyReport> run();
};

void Verifier::checkFiles(const Json& files)
{
    Differences differences;
    for (const auto& [name, entry] : files.items()) {
        const fs::path path = options.exported / name;
        std::error_code failure;
        const auto size = fs::file_size(path, failure);
        if (failure)
            differences.add(fmt::format("{} is missing", name));
        else if (!entry.is_object() || entry.value("bytes", Json()) != Json(size))
            differences.add(
                fmt::format("{} has {} bytes, not {}", name, size, entry.is_object() ? entry.value("bytes", Json()).dump() : "?"));
        else if (const auto digest = fileSha256(path); !digest || entry.value("sha256", Json()) != Json(*digest))
            differences.add(fmt::format("{} has changed since it was exported", name));
    }
    check("files", differences.count == 0, differences.text(fmt::format("{} files have the digests they were written with", files.size())));
}

void Verifier::checkTensorList()
{
    Differences differences;
    std::map<std::string, StoredTensor> there;
    for (StoredTensor& stored : exported->tensorsInOrder())
        there.emplace(stored.view.name, std::move(stored));
    std::size_t found = 0;
    for (std::size_t shard = 0; shard < layout.shards.size(); ++shard)
        for (const std::size_t i : layout.shards[shard]) {
            const OutputTensor& expected = layout.tensors[i];
            const auto it = there.find(expected.name);
            if (it == there.end()) {
                differences.add(fmt::format("{} is missing", expected.name));
                continue;
            }
            ++found;
            const TensorView& view = it->second.view;
            if (view.dtype != expected.dtype || view.shape != expected.shape)
                differences.add(fmt::format("{} is {} {}, not {} {}", expected.name, dtypeName(view.dtype), shapeText(view.shape),
                                            dtypeName(expected.dtype), shapeText(expected.shape)));
            else if (it->second.shard != layout.shardName(shard))
                differences.add(fmt::format("{} lies in {}, not in {}", expected.name, it->second.shard, layout.shardName(shard)));
        }
    if (there.size() > found) differences.add(fmt::format("{} tensors too many", there.size() - found));
    check("tensor-list", differences.count == 0, differences.text(fmt::format("{} tensors, as planned", layout.tensors.size())));
}

// Bytes of everything that was copied or sliced; factors bit for bit, or else by their product.
Status Verifier::checkTensors()
{
    const c10::InferenceMode inference;
    Differences untouched, sliced, factors;
    std::size_t untouchedCount = 0, slicedCount = 0, factorCount = 0, rounded = 0;
    TensorProducer producer(*source, factorSource.get(), constantSource.get(), profiles);
    std::vector<const OutputTensor*> order;
    for (const OutputTensor& tensor : layout.tensors)
        order.push_back(&tensor);
    producer.expect(order);

    std::uint64_t done = 0;
    const auto collect = [&](const OutputTensor& tensor, std::vector<std::byte>& into) {
        into.reserve(static_cast<std::size_t>(tensor.bytes));
        return producer.produce(tensor, [&](std::span<const std::byte> bytes) -> Status {
            into.insert(into.end(), bytes.begin(), bytes.end());
            return {};
        });
    };
    for (std::size_t i = 0; i < layout.tensors.size(); ++i) {
        if (job.stopRequested()) return cancelledError();
        const OutputTensor& tensor = layout.tensors[i];
        const auto view = exported->tensor(tensor.name);
        using Origin = OutputTensor::Origin;
        const bool computed = tensor.origin == Origin::Form || tensor.merge;
        const Comparison comparison = tensor.origin == Origin::Form ? comparisonOf(tensor.part) : Comparison::Bytes;
        Differences& differences = computed ? factors : tensor.origin == Origin::Copy ? untouched : sliced;
        ++(computed ? factorCount : tensor.origin == Origin::Copy ? untouchedCount : slicedCount);
        done += tensor.bytes;
        job.progress(static_cast<std::int64_t>(done), static_cast<std::int64_t>(layout.bytes), "byte");
        // Missing or misshapen tensors were reported with the list.
        if (!view || view->bytes.size() != tensor.bytes) continue;
        if (comparison == Comparison::Bytes) {
            std::size_t offset = 0;
            ESPALIER_CHECK_OK(producer.produce(tensor, [&](std::span<const std::byte> bytes) -> Status {
                const auto there = view->bytes.subspan(offset, bytes.size());
                if (std::memcmp(bytes.data(), there.data(), bytes.size()) != 0) {
                    const auto at = std::mismatch(bytes.begin(), bytes.end(), there.begin()).first - bytes.begin();
                    differences.add(fmt::format("{} differs from the {} at byte {}", tensor.name,
                                                tensor.merge ? "mean of two layers" : "source", offset + static_cast<std::size_t>(at)));
                }
                offset += bytes.size();
                return {};
            }));
            continue;
        }
        std::vector<std::byte> bytes;
        ESPALIER_CHECK_OK(collect(tensor, bytes));
        const bool same = std::memcmp(bytes.data(), view->bytes.data(), bytes.size()) == 0;
        if (comparison == Comparison::Rounded) {
            if (same) continue;
            const at::Tensor expected = floats(bytes, tensor), there = floats(view->bytes, tensor);
            const double error = (expected - there).norm().item<double>() / std::max(expected.norm().item<double>(), 1e-30);
            const double limit = tensor.dtype == DType::F32 || tensor.dtype == DType::F64 ? 1e-5 : 4e-3;
            if (!(error <= limit))
                differences.add(fmt::format("{} differs from the recomputed matrix by {:.2g} of its norm", tensor.name, error));
            else
                ++rounded;
            continue;
        }
        // U and V follow each other. Another processor may turn singular vectors otherwise: what counts is the product.
        if (tensor.part == FormPart::V || i + 1 >= layout.tensors.size()) continue;
        const OutputTensor& partner = layout.tensors[i + 1];
        const auto partnerView = exported->tensor(partner.name);
        if (!partnerView || partnerView->bytes.size() != partner.bytes) continue;
        std::vector<std::byte> partnerBytes;
        ESPALIER_CHECK_OK(collect(partner, partnerBytes));
        if (same && std::memcmp(partnerBytes.data(), partnerView->bytes.data(), partnerBytes.size()) == 0) continue;
        const at::Tensor expected = at::matmul(floats(bytes, tensor), floats(partnerBytes, partner));
        const at::Tensor there = at::matmul(floats(view->bytes, tensor), floats(partnerView->bytes, partner));
        const double error = (expected - there).norm().item<double>() / std::max(expected.norm().item<double>(), 1e-30);
        const double limit = tensor.dtype == DType::F32 || tensor.dtype == DType::F64 ? 1e-5 : 1e-2;
        if (!(error <= limit))
            differences.add(fmt::format("{} and its V differ from the recomputed factors by {:.2g} of the norm", tensor.name, error));
        else
            ++rounded;
    }
    check("untouched-tensors", untouched.count == 0, untouched.text(fmt::format("{} tensors equal the source's bytes", untouchedCount)));
    if (slicedCount > 0)
        check("sliced-tensors", sliced.count == 0, sliced.text(fmt::format("{} tensors equal the source's rows or matrices", slicedCount)));
    if (factorCount > 0)
        check("factors", factors.count == 0,
              factors.text(rounded == 0
                               ? fmt::format("{} tensors equal the recomputed ones", factorCount)
                               : fmt::format("{} tensors equal the recomputed ones, {} of them up to rounding", factorCount, rounded)));
    return {};
}

struct RanModel {
    std::vector<at::Tensor> hidden;  // behind the last layer, by group of windows
    std::vector<WindowLoss> losses;
};

at::Tensor idsOf(const TokenWindows& windows, int first, int last)
{
    at::Tensor ids = at::empty({last - first, std::ssize(windows.rows[static_cast<std::size_t>(first)])}, at::kLong);
    auto* out = ids.mutable_data_ptr<std::int64_t>();
    for (int w = first; w < last; ++w)
        for (const int id : windows.rows[static_cast<std::size_t>(w)])
            *out++ = id;
    return ids;
}

namespace
{

TokenWindows randomWindows(std::int64_t vocabulary)
{
    TokenWindows windows;
    Random random = Random::forPurpose(0, "verify");
    for (int w = 0; w < kDefaultWindows; ++w) {
        windows.rows.emplace_back();
        for (int t = 0; t < kDefaultLength; ++t)
            windows.rows.back().push_back(static_cast<int>(random.below(static_cast<std::uint64_t>(vocabulary))));
    }
    return windows;
}

}  // namespace

Status Verifier::checkForward()
{
    const c10::InferenceMode inference;
    auto createdSource = MoeModel::create(source, options.model);
    auto createdExport = MoeModel::create(exported, options.model);
    for (const auto* created : {&createdSource, &createdExport})
        if (!*created) {
            if (created->error().kind != ErrorKind::Unsupported) return created->error();
            report.warnings.push_back("The forward pass of this model is not supported: only files were compared.");
            return {};
        }
    MoeModel& before = **createdSource;
    MoeModel& after = **createdExport;
    before.setFactorSources(profiles);
    ESPALIER_TRY(const PreparedPlan preview, before.prepare(plan));
    const PreparedPlan whole = after.identity();

    const TokenWindows windows = options.windows ? *options.windows : randomWindows(source->shape().vocabularySize);
    // One model after the other, so that each may use the whole memory budget; then the heads of both.
    const auto groups = windowGroups(windows.rows);
    const std::int64_t steps = 2 * static_cast<std::int64_t>(groups.size()) * (before.layerCount() + after.layerCount()) / 2;
    std::int64_t done = 0;
    const auto run = [&](MoeModel& model, const PreparedPlan& prepared) -> Result<RanModel> {
        RanModel ran;
        std::vector<at::Tensor> ids;
        for (const auto& [first, last] : groups) {
            ids.push_back(idsOf(windows, first, last));
            ESPALIER_TRY(at::Tensor hidden, model.embed(ids.back()));
            ran.hidden.push_back(std::move(hidden));
        }
        for (int l = 0; l < model.layerCount(); ++l)
            for (at::Tensor& hidden : ran.hidden) {
                if (job.stopRequested()) return cancelledError();
                ESPALIER_TRY(hidden, model.layer(l, hidden, prepared));
                job.progress(++done, steps, "layer");
            }
        model.releaseWeights();
        for (std::size_t g = 0; g < groups.size(); ++g) {
            ESPALIER_TRY(const at::Tensor nll, model.tokenNll(ran.hidden[g], ids[g]));
            for (std::int64_t w = 0; w < nll.size(0); ++w)
                ran.losses.push_back({groups[g].first + static_cast<int>(w), nll[w].sum().item<double>(), static_cast<int>(nll.size(1))});
        }
        model.releaseWeights();
        return ran;
    };
    ESPALIER_TRY(const RanModel ranBefore, run(before, preview));
    const auto ranAfter = run(after, whole);
    if (!ranAfter.ok()) {
        if (ranAfter.error().kind == ErrorKind::Cancelled) return ranAfter.error();
        // A damaged weight can make the export unable to run; that is the answer, not a failure to find one.
        check("forward", false, ranAfter.error().message);
        return {};
    }
    double largestDifference = 0, largestLogit = 0;
    bool finite = true;
    for (std::size_t g = 0; g < groups.size(); ++g) {
        ESPALIER_TRY(const at::Tensor normedA, before.finalNorm(ranBefore.hidden[g]));
        ESPALIER_TRY(const at::Tensor normedB, after.finalNorm(ranAfter->hidden[g]));
        const at::Tensor rowsA = normedA.flatten(0, 1), rowsB = normedB.flatten(0, 1);
        for (std::int64_t row = 0; row < rowsA.size(0); row += kLogitRows) {
            if (job.stopRequested()) return cancelledError();
            const std::int64_t end = std::min(row + kLogitRows, rowsA.size(0));
            ESPALIER_TRY(const at::Tensor x, before.logits(rowsA.slice(0, row, end)));
            ESPALIER_TRY(const at::Tensor y, after.logits(rowsB.slice(0, row, end)));
            const double difference = (x - y).abs().max().item<double>();
            finite = finite && std::isfinite(difference);
            largestDifference = std::max(largestDifference, difference);
            largestLogit = std::max(largestLogit, x.abs().max().item<double>());
        }
    }
    const PerplexityEstimate pplBefore = perplexity(ranBefore.losses), pplAfter = perplexity(ranAfter->losses);
    report.windows = static_cast<int>(windows.rows.size());
    report.maxAbsLogitDifference = largestDifference;
    report.pplPreview = pplBefore.ppl;
    report.pplExport = pplAfter.ppl;

    // In fp32 both compute the same products of the same numbers. Where factors were multiplied back into a 16-bit type the matrices
    // themselves are rounded once more, which can turn routing decisions: their bytes are checked above, here the perplexity must do.
    const bool narrow = source->shape().dtype != "F32" && source->shape().dtype != "F64";
    const bool roundedAgain = layout.flavor == ExportFlavor::Reconstructed && narrow &&
                              (std::any_of(layout.tensors.begin(), layout.tensors.end(), [](const OutputTensor& tensor) {
                                  return tensor.origin == OutputTensor::Origin::Form && tensor.part == FormPart::Product;
                              }));
    const bool exact = options.model.compute == ComputeType::Fp32 && !roundedAgain;
    const double logitLimit = exact          ? 2e-4 + 1e-5 * largestLogit
                              : roundedAgain ? std::numeric_limits<double>::infinity()
                                             : 0.05 * std::max(largestLogit, 1.0);
    const double pplLimit = exact ? 2e-5 : 0.02;
    const double ratio = std::abs(pplAfter.ppl / pplBefore.ppl - 1);
    const std::string limit = std::isfinite(logitLimit) ? fmt::format(" (limit {:.3g})", logitLimit) : std::string();
    check("forward", finite && largestDifference <= logitLimit && ratio <= pplLimit,
          fmt::format("{} windows: logits differ by at most {:.3g}{}, perplexity {:.6f} from source and plan, {:.6f} from the export",
                      report.windows, largestDifference, limit, pplBefore.ppl, pplAfter.ppl));
    return {};
}

// Espalier reads its own exports as it means them: what others would make of the files is asked of the files alone.
void Verifier::checkRuntime()
{
    const auto objections = runtimeObjections(options.exported);
    Differences loading;
    if (!objections)
        loading.add(objections.error().message);
    else
        for (const std::string& objection : *objections)
            loading.add(objection);
    check("runtime", loading.count == 0, loading.text("config.json and its neighbours promise what the folder holds, and nothing else"));
}

Result<VerifyReport> Verifier::run()
{
    const auto text = readTextFile(options.exported / kPlanFileName, "export", kMaxSmallFile);
    if (!text)
        return badInput("export.not_an_export", options.exported.string(),
                        {"{exported} holds no {plan_file_name}: it is not an export of Espalier.",
                         {{"exported", options.exported.string()}, {"plan_file_name", kPlanFileName}}},
                        "Name the folder that was exported to.");
    const auto json = parseJson(*text, kPlanFileName, "plan");
    if (!json || !json->is_object()) {
        check("plan", false, json ? "the recorded plan is not a JSON object" : json.error().message);
        return finish();
    }
    const Json model = json->contains("model") && (*json)["model"].is_object() ? (*json)["model"] : Json::object();
    const Json made = json->contains("export") && (*json)["export"].is_object() ? (*json)["export"] : Json::object();
    const auto textOf = [](const Json& object, const char* key) {
        return object.contains(key) && object[key].is_string() ? object[key].get<std::string>() : std::string();
    };

    fs::path sourceFolder = options.source;
    if (sourceFolder.empty()) sourceFolder = textOf(model, "path");
    if (sourceFolder.empty())
        return badInput("export.no_source", options.exported.string(), "The model this was exported from is not recorded.",
                        "Name it with --source.");
    auto opened = Checkpoint::open(sourceFolder);
    if (!opened) {
        Error error = opened.error();
        error.message = fmt::format("The source model cannot be opened: {}", error.message);
        if (options.source.empty()) error.action = "Name the model it was exported from with --source.";
        return error;
    }
    source = std::move(opened).value();
    const bool sameSource = textOf(model, "config_sha256") == source->configSha256() &&
                            textOf(model, "weights_sha256") == source->weightsSha256() &&
                            (textOf(model, "fingerprint").empty() || textOf(model, "fingerprint") == source->fingerprint());
    check("source", sameSource,
          sameSource ? "the model is the one the export was made from"
                     : fmt::format("{} is not the model the export was made from", sourceFolder.string()));

    const auto recorded = planFromJson(*json, source->shape());
    const auto flavor = parseFlavor(textOf(made, "flavor"));
    Differences differences;
    if (!recorded) {
        differences.add(recorded.error().message);
    } else {
        plan = *recorded;
        report.planHash = plan.hash();
        if (textOf(made, "plan_hash") != plan.hash()) differences.add("the recorded hash is not that of the recorded plan");
    }
    if (!flavor) differences.add("the recorded flavour is not known");
    if (!sealHolds(*text)) differences.add(fmt::format("{} has changed since it was written", kPlanFileName));
    if (options.plan && recorded) {
        ESPALIER_TRY(CompressionPlan wanted, readPlanFile(*options.plan, source->shape()));
        wanted = withGivenProfile(wanted, options.profiles);
        if (wanted.hash() != plan.hash())
            differences.add(fmt::format("the export was made from another plan than {}", options.plan->string()));
    }
    check("plan", differences.count == 0, differences.text(fmt::format("recorded, hash {}", report.planHash.substr(0, 12))));
    if (!recorded || !flavor) return finish();
    report.flavor = flavorName(*flavor);

    checkFiles(made.contains("files") && made["files"].is_object() ? made["files"] : Json::object());
    if (job.stopRequested()) return cancelledError();
    if (*flavor == ExportFlavor::Plan) return finish();

    ESPALIER_TRY(factorSource, factorSourceFor(plan, options.profiles, source->fingerprint()));
    ESPALIER_TRY(constantSource, constantSourceFor(plan, options.profiles, source->fingerprint()));
    ESPALIER_CHECK_OK(addValuesFiles(plan, options.exported / kPlanFileName, profiles));
    const Status fits = checkFlavor(source->shape(), plan, *flavor);
    const bool unfuse = made.contains("unfuse") && made["unfuse"].is_boolean() && made["unfuse"].get<bool>();
    const std::int64_t shardSize = made.contains("shard_size") && made["shard_size"].is_number_integer()
                                       ? made["shard_size"].get<std::int64_t>()
                                       : ExportOptions{}.shardSize;
    auto planned = fits.ok() ? layoutExport(*source, plan, *flavor, unfuse, shardSize) : Result<ExportLayout>(fits.error());
    if (!planned) {
        check("plan", false, planned.error().message);
        return finish();
    }
    layout = std::move(planned).value();

    ESPALIER_TRY(const std::string sourceConfig, readTextFile(source->folder() / "config.json", "config", kMaxSmallFile));
    ESPALIER_TRY(const std::string expectedConfig, editConfig(sourceConfig, *source, plan, *flavor));
    const auto config = readTextFile(options.exported / "config.json", "config", kMaxSmallFile);
    check("config", config.ok() && *config == expectedConfig,
          config.ok() && *config == expectedConfig ? "config.json is the source's with the edits of this plan"
                                                   : "config.json is not what this plan gives");

    checkRuntime();
    auto reopened = Checkpoint::open(options.exported);
    if (!check("opens", reopened.ok(), reopened.ok() ? "the export opens without errors" : reopened.error().message)) return finish();
    exported = std::move(reopened).value();
    checkTensorList();
    ESPALIER_CHECK_OK(checkTensors());
    ESPALIER_CHECK_OK(checkForward());
    ESPALIER_CHECK_OK(source->checkUnchanged());
    ESPALIER_CHECK_OK(exported->checkUnchanged());
    return finish();
}

}  // namespace

Result<VerifyReport> verifyExport(const VerifyOptions& options, JobContext& job)
{
    try {
        Verifier verifier{options, job};
        return verifier.run();
    } catch (const std::exception& failure) {
        return errorOf(failure,
                       resourceError("export.out_of_memory", "memory", "There was not enough memory to compare the export with its source.",
                                     "Set a smaller memory budget, or use fewer or shorter windows."),
                       "The comparison");
    }
}

}  // namespace espalier
