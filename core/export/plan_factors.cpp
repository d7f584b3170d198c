#include "export/plan_factors.h"

#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "plan/factor_methods.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>

namespace espalier
{

namespace
{

constexpr const char* kMatrix[] = {"gate", "up", "down", "constant"};
constexpr int kConstant = 3;  // in place of a matrix: the vector that stands for the expert
constexpr std::array<FactorRule, 4> kRules = {FactorRule::Own, FactorRule::Ridge, FactorRule::Pooled, FactorRule::Plain};
constexpr const char* kVersionKey = "espalier.factors";

std::string basisName(int layer, int expert, int matrix) { return fmt::format("layers.{}.experts.{}.{}", layer, expert, kMatrix[matrix]); }

struct Wanted {
    int layer = 0, expert = 0, matrix = 0, rank = 0, rows = 0;
    ConstantKind kind = ConstantKind::Mean;
};

std::vector<Wanted> wantedOf(const ModelShape& shape, const CompressionPlan& plan)
{
    std::vector<Wanted> all;
    const bool whitened = factorsNeedProfile(plan.factors());
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe) continue;
        const LayerPlan& part = plan.layer(layer.index);
        for (const int expert : part.constants())
            if (const auto& constant = std::get<ConstantBody>(*part.bodyOf(expert)); constant.values.empty())
                all.push_back({layer.index, expert, kConstant, 1, shape.hiddenSize, constant.kind});
        for (const Body& body : whitened ? part.content().bodies : std::vector<Body>()) {
            const auto* expert = std::get_if<ExpertBody>(&body);
            for (int matrix = 0; expert && matrix < 3; ++matrix)
                if (const MatrixForm& form = expert->matrices[static_cast<std::size_t>(matrix)]; form.needsFactors())
                    all.push_back({layer.index, expert->sources.front(), matrix, form.factorRank(),
                                   matrix == 2 ? shape.hiddenSize : layer.expertWidth});
        }
    }
    return all;
}

std::vector<TensorDeclaration> declarationsOf(const std::vector<Wanted>& wanted)
{
    std::vector<TensorDeclaration> declarations;
    declarations.reserve(wanted.size());
    for (const Wanted& one : wanted)
        declarations.push_back({basisName(one.layer, one.expert, one.matrix), DType::F32, {one.rows, one.rank}});
    return declarations;
}

std::map<std::string, std::string> metadataOf(const std::vector<Wanted>& wanted, const FactorSource& source)
{
    Json rules = Json::object();
    for (const Wanted& one : wanted)
        if (one.matrix != kConstant)
            rules[basisName(one.layer, one.expert, one.matrix)] = factorRuleName(source.rule(one.layer, one.expert, one.rank, one.matrix));
    return {{"format", "pt"},
            {kVersionKey, "1"},
            {"profile_sha256", source.profileSha256()},
            {"fingerprint", source.fingerprint()},
            {"calibration", canonicalJson(source.calibration())},
            {"rules", canonicalJson(rules)}};
}

class PlanFactors final : public FactorSource
{
public:
    explicit PlanFactors(SafetensorsFile file) : m_file(std::move(file)) {}

    Status read(const std::string& name)
    {
        const auto& metadata = m_file.metadata();
        const auto entry = [&](const char* key) {
            const auto it = metadata.find(key);
            return it == metadata.end() ? std::string() : it->second;
        };
        m_profile = entry("profile_sha256");
        m_fingerprint = entry("fingerprint");
        m_calibration = Json::parse(entry("calibration"), nullptr, false);
        const Json rules = Json::parse(entry("rules"), nullptr, false);
        if (entry(kVersionKey) != "1" || m_profile.empty() || !m_calibration.is_object() || !rules.is_object())
            return badInput("profile.invalid", name, {"{name} holds no factors that were exported with a plan.", {{"name", name}}},
                            "Give the profile, or the espalier_factors.safetensors beside the plan.");
        for (const auto& [tensor, value] : rules.items())
            for (const FactorRule rule : kRules)
                if (value == factorRuleName(rule)) m_rules[tensor] = rule;
        return {};
    }

    const std::string& profileSha256() const override { return m_profile; }
    const std::string& fingerprint() const override { return m_fingerprint; }
    Json calibration() const override { return m_calibration; }

    FactorRule rule(int layer, int expert, int, int matrix) const override
    {
        const auto it = m_rules.find(basisName(layer, expert, matrix));
        return it == m_rules.end() ? FactorRule::Own : it->second;
    }

    Result<FactorBasis> basis(int layer, int expert, int matrix, int rank) const override
    {
        const std::string name = basisName(layer, expert, matrix);
        const TensorInfo* info = m_file.find(name);
        if (info == nullptr || info->dtype != DType::F32 || info->shape.size() != 2 || info->shape[1] < rank)
            return badInput("plan.profile_without_factors", name,
                            {"The factors exported with the plan hold no {name} of rank {rank}; they are for that plan only.",
                             {{"name", name}, {"rank", rank}}},
                            "Give the profile the plan was made with.");
        FactorBasis basis;
        basis.rows = static_cast<int>(info->shape[0]);
        basis.columns = static_cast<int>(info->shape[1]);
        const auto bytes = m_file.bytes(*info);
        basis.values.resize(bytes.size() / sizeof(float));
        std::memcpy(basis.values.data(), bytes.data(), bytes.size());
        return basis;
    }

    // Of the kind that the plan it came with asks for.
    Result<std::vector<float>> constant(int layer, int expert, ConstantKind kind) const override
    {
        const TensorInfo* info = m_file.find(basisName(layer, expert, kConstant));
        if (info == nullptr || info->dtype != DType::F32) return FactorSource::constant(layer, expert, kind);
        const auto bytes = m_file.bytes(*info);
        std::vector<float> values(bytes.size() / sizeof(float));
        std::memcpy(values.data(), bytes.data(), bytes.size());
        return values;
    }

private:
    SafetensorsFile m_file;
    std::string m_profile;
    std::string m_fingerprint;
    Json m_calibration;
    std::map<std::string, FactorRule> m_rules;
};

}  // namespace

std::uint64_t planFactorBytes(const ModelShape& shape, const CompressionPlan& plan, const FactorSource& source)
{
    const std::vector<Wanted> wanted = wantedOf(shape, plan);
    std::vector<TensorInfo> order;
    for (const TensorDeclaration& declared : declarationsOf(wanted)) {
        TensorInfo info;
        info.name = declared.name;
        info.dtype = declared.dtype;
        info.shape = declared.shape;
        order.push_back(std::move(info));
    }
    std::sort(order.begin(), order.end(), [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
    std::uint64_t offset = 0;
    for (TensorInfo& info : order) {
        info.begin = offset;
        info.end = offset += static_cast<std::uint64_t>(info.elementCount()) * sizeof(float);
    }
    return safetensorsHeader(order, metadataOf(wanted, source)).size() + offset;
}

Status writePlanFactors(const std::filesystem::path& path, const ModelShape& shape, const CompressionPlan& plan, const FactorSource& source,
                        JobContext& job)
{
    const std::vector<Wanted> wanted = wantedOf(shape, plan);
    std::map<std::string, const Wanted*> byName;
    for (const Wanted& one : wanted)
        byName[basisName(one.layer, one.expert, one.matrix)] = &one;
    ESPALIER_TRY(SafetensorsWriter writer, SafetensorsWriter::create(path, declarationsOf(wanted), metadataOf(wanted, source)));
    for (const TensorInfo& info : writer.order()) {
        if (job.stopRequested()) return cancelledError();
        const Wanted& one = *byName.at(info.name);
        if (one.matrix == kConstant) {
            ESPALIER_TRY(const std::vector<float> values, source.constant(one.layer, one.expert, one.kind));
            if (static_cast<int>(values.size()) != one.rows)
                return badInput("profile.invalid", "profile",
                                {"{name} has {values} numbers.", {{"name", info.name}, {"values", values.size()}}},
                                "Take the profile of this model again.");
            ESPALIER_CHECK_OK(writer.write(std::as_bytes(std::span(values))));
            continue;
        }
        ESPALIER_TRY(const FactorBasis basis, source.basis(one.layer, one.expert, one.matrix, one.rank));
        if (basis.rows != one.rows || basis.columns < one.rank)
            return badInput(
                "profile.invalid", "profile",
                {"The basis of {name} is {rows} x {columns} and not {rows2} x {rank}.",
                 {{"name", info.name}, {"rows", basis.rows}, {"columns", basis.columns}, {"rows2", one.rows}, {"rank", one.rank}}},
                "Take the profile of this model again.");
        std::vector<float> columns(static_cast<std::size_t>(one.rows) * static_cast<std::size_t>(one.rank));
        for (int row = 0; row < one.rows; ++row)
            std::copy_n(basis.values.begin() + static_cast<std::ptrdiff_t>(row) * basis.columns, one.rank,
                        columns.begin() + static_cast<std::ptrdiff_t>(row) * one.rank);
        ESPALIER_CHECK_OK(writer.write(std::as_bytes(std::span(columns))));
    }
    return writer.finish();
}

bool isPlanFactors(const std::filesystem::path& path) { return path.extension() == ".safetensors"; }

Result<std::shared_ptr<const FactorSource>> openPlanFactors(const std::filesystem::path& path)
{
    ESPALIER_TRY(SafetensorsFile file, SafetensorsFile::open(path));
    auto factors = std::make_shared<PlanFactors>(std::move(file));
    ESPALIER_CHECK_OK(factors->read(path.filename().string()));
    return std::shared_ptr<const FactorSource>(std::move(factors));
}

}  // namespace espalier
