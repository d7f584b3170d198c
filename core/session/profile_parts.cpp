#include "session/profile_parts.h"

#include "session/profile_content.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>

namespace espalier
{

namespace
{

void writeBasis(const h5::Group& group, const std::string& name, const FactorBasis& basis)
{
    if (basis.columns > 0)
        group.write<float>(name, basis.values, {static_cast<std::uint64_t>(basis.rows), static_cast<std::uint64_t>(basis.columns)});
}

bool hasBases(const ExpertParts& expert)
{
    for (const auto* bases : {&expert.own, &expert.thin})
        for (const FactorBasis& basis : *bases)
            if (basis.columns > 0) return true;
    return false;
}

Error missingStatistic(const std::filesystem::path& path, const char* what, const char* collect)
{
    Error error =
        badInput("profile.missing_statistics", path.string(), {"{path} holds no {what}.", {{"path", path.string()}, {"what", what}}},
                 {"Take the profile with --collect {collect}.", {{"collect", collect}}});
    error.kept = "Nothing was changed.";
    return error;
}

}  // namespace

std::string basisName(int matrix, bool thin) { return std::string(kMatrixNames[matrix]) + (thin ? "_thin" : ""); }

FactorBasis readBasis(const h5::Group& expert, const std::string& name)
{
    FactorBasis basis;
    h5::Shape shape(2);
    basis.values = expert.read<float>(name, &shape);
    if (shape[0] > (1u << 24) || shape[1] > shape[0]) throw h5::Failure("a basis does not fit");
    for (const float value : basis.values)
        if (!std::isfinite(value)) throw h5::Failure("a basis is not finite");
    basis.rows = static_cast<int>(shape[0]);
    basis.columns = static_cast<int>(shape[1]);
    return basis;
}

Status writeLayerParts(const std::filesystem::path& path, const std::string& key, int layer, const std::vector<ExpertParts>& experts)
{
    std::int64_t estimate = 1 << 16;
    bool factors = false;
    bool moments = false;
    for (const ExpertParts& expert : experts) {
        for (const auto* bases : {&expert.own, &expert.thin})
            for (const FactorBasis& basis : *bases) {
                estimate += static_cast<std::int64_t>(basis.values.size() * sizeof(float)) + 512;
            }
        factors |= hasBases(expert);
        estimate += static_cast<std::int64_t>((expert.inputMoment.size() + expert.hiddenMoment.size()) * sizeof(double));
        moments |= !expert.inputMoment.empty();
    }
    return h5::writeContainer(path, kPartsFormat, estimate, [&](const h5::Group& root) {
        root.writeJson("parts", {{"key", key}, {"layer", layer}});
        if (factors) {
            const h5::Group group = root.create(kFactorsGroup);
            for (const ExpertParts& expert : experts) {
                if (!hasBases(expert)) continue;
                const h5::Group mine = group.create(expertName(expert.expert));
                for (int matrix = 0; matrix < 3; ++matrix) {
                    writeBasis(mine, basisName(matrix, false), expert.own[static_cast<std::size_t>(matrix)]);
                    writeBasis(mine, basisName(matrix, true), expert.thin[static_cast<std::size_t>(matrix)]);
                }
            }
        }
        if (moments) {
            const h5::Group group = root.create(kMomentsGroup);
            for (const ExpertParts& expert : experts) {
                if (expert.inputMoment.empty()) continue;
                const h5::Group mine = group.create(expertName(expert.expert));
                mine.write("x", expert.inputMoment);
                mine.write("h", expert.hiddenMoment);
            }
        }
    });
}

Result<std::string> readLayerPartsKey(const std::filesystem::path& path)
{
    const auto lock = h5::exclusive();
    ESPALIER_TRY(const h5::OpenedContainer container, h5::openContainer(path, kPartsFormat));
    try {
        return container.root.readJson("parts").at("key").get<std::string>();
    } catch (const std::exception& failure) {
        return unreadProfile(path, failure);
    }
}

struct ProfileParts::Impl {
    std::filesystem::path path;
    ProfileData data;  // without layers' content but their routed counts
    std::string sha256;
    std::optional<h5::OpenedContainer> container;
    // Of the layer that constants were last asked for.
    struct Outputs {
        int layer = -1;
        ConstantKind kind = ConstantKind::Mean;
        std::size_t width = 0;
        std::vector<double> mass;  // [n]
        std::vector<double> sum;   // [n][H]
    };
    Outputs outputs;
};

ProfileParts::ProfileParts(std::unique_ptr<Impl> impl) : m_impl(std::move(impl)) {}

ProfileParts::~ProfileParts()
{
    const auto lock = h5::exclusive();
    m_impl->container.reset();
}

Result<std::shared_ptr<const ProfileParts>> ProfileParts::open(const std::filesystem::path& path)
{
    const auto lock = h5::exclusive();
    auto impl = std::make_unique<Impl>();
    impl->path = path;
    ESPALIER_TRY(h5::OpenedContainer container, h5::openContainer(path, kProfileFormat));
    if (container.major > kProfileFormat.major) return newerProfile(path, container.major, container.minor);
    impl->sha256 = container.sha256;
    try {
        ESPALIER_TRY(impl->data, dataFromHeader(container.root.readJson("profile")));
        const h5::Group layers = container.root.open("layers");
        for (const LayerShape& shape : impl->data.shape.layers) {
            LayerProfile layer;
            layer.layer = shape.index;
            layer.experts = shape.experts;
            if (shape.moe) {
                layer.count = layers.open(layerName(shape.index)).read<std::int64_t>("count");
                if (layer.count.size() != static_cast<std::size_t>(shape.experts)) throw h5::Failure("the counts do not fit");
            }
            impl->data.layers.push_back(std::move(layer));
        }
    } catch (const std::exception& failure) {
        return unreadProfile(path, failure);
    }
    impl->container.emplace(std::move(container));
    return std::shared_ptr<const ProfileParts>(new ProfileParts(std::move(impl)));
}

const std::filesystem::path& ProfileParts::path() const { return m_impl->path; }
const std::string& ProfileParts::profileSha256() const { return m_impl->sha256; }
const std::string& ProfileParts::fingerprint() const { return m_impl->data.fingerprint; }
Json ProfileParts::calibration() const
{
    const ProfileData& data = m_impl->data;
    Json json = {{"text", data.source},         {"text_sha256", data.textSha256},     {"tokens", data.tokens},
                 {"windows", data.windows},     {"window_length", data.windowLength}, {"dtype", data.numericMode},
                 {"engine", data.engineVersion}};
    if (!data.kept.empty()) json["pruned_model"] = true;
    return json;
}

bool ProfileParts::hasFactors() const { return m_impl->data.has("factors"); }
bool ProfileParts::hasMoments() const { return m_impl->data.has("moments"); }

std::int64_t ProfileParts::tokens(int layer, int expert) const
{
    const auto& layers = m_impl->data.layers;
    if (layer < 0 || static_cast<std::size_t>(layer) >= layers.size()) return 0;
    const auto& count = layers[static_cast<std::size_t>(layer)].count;
    return expert >= 0 && static_cast<std::size_t>(expert) < count.size() ? count[static_cast<std::size_t>(expert)] : 0;
}

FactorRule ProfileParts::rule(int layer, int expert, int rank, int matrix) const { return factorRule(tokens(layer, expert), rank, matrix); }

Result<FactorBasis> ProfileParts::basis(int layer, int expert, int matrix, int rank) const
{
    const auto missing = [&] {
        Error error = badInput("plan.profile_without_factors", m_impl->path.string(),
                               {"{impl} holds no factors for expert {expert} of layer {layer} at rank {rank}.",
                                {{"impl", m_impl->path.string()}, {"expert", expert}, {"layer", layer}, {"rank", rank}}},
                               hasFactors() ? "Take a profile of the model with this expert, or use plain factors (\"svd\")."
                                            : "Take the profile with --collect factors, or use plain factors (\"svd\").");
        error.kept = "Nothing was changed.";
        return error;
    };
    const auto lock = h5::exclusive();
    try {
        const h5::Group group = m_impl->container->root.open("layers");
        const std::string name = basisName(matrix, rule(layer, expert, rank, matrix) == FactorRule::Ridge);
        if (!group.has(layerName(layer))) return missing();
        const h5::Group mine = group.open(layerName(layer));
        if (!mine.has(kFactorsGroup)) return missing();
        const h5::Group experts = mine.open(kFactorsGroup);
        if (!experts.has(expertName(expert))) return missing();
        const h5::Group bases = experts.open(expertName(expert));
        if (!bases.has(name)) return missing();
        FactorBasis basis = readBasis(bases, name);
        if (basis.columns < rank) return missing();
        return basis;
    } catch (const std::exception& failure) {
        return unreadProfile(m_impl->path, failure);
    }
}

Result<std::vector<float>> ProfileParts::constant(int layer, int expert, ConstantKind kind) const
{
    const auto lock = h5::exclusive();
    Impl::Outputs& held = m_impl->outputs;
    try {
        if (held.layer != layer || held.kind != kind) {
            held = {};
            const h5::Group layers = m_impl->container->root.open("layers");
            if (!layers.has(layerName(layer))) return FactorSource::constant(layer, expert, kind);
            const h5::Group mine = layers.open(layerName(layer));
            if (!mine.has("outputs")) return FactorSource::constant(layer, expert, kind);
            const OutputWeight weight = kind == ConstantKind::Mean ? OutputWeight::Plain : OutputWeight::RoutingSquared;
            const h5::Group own = mine.open("outputs").open(std::string(outputWeightName(weight)));
            h5::Shape shape(2);
            held.sum = own.read<double>("sum", &shape);
            held.mass = own.read<double>("mass");
            if (shape[0] != held.mass.size() || shape[0] != m_impl->data.layers.at(static_cast<std::size_t>(layer)).count.size() ||
                held.sum.size() != shape[0] * shape[1])
                throw h5::Failure("the mean outputs do not fit");
            held.width = static_cast<std::size_t>(shape[1]);
            held.layer = layer;
            held.kind = kind;
        }
    } catch (const std::exception& failure) {
        held = {};
        return unreadProfile(m_impl->path, failure);
    }
    if (expert < 0 || static_cast<std::size_t>(expert) >= held.mass.size()) return FactorSource::constant(layer, expert, kind);
    // An expert that no token chose gives nothing on average.
    std::vector<float> values(held.width, 0.0F);
    const double mass = held.mass[static_cast<std::size_t>(expert)];
    for (std::size_t i = 0; i < held.width && mass > 0; ++i)
        values[i] = static_cast<float>(held.sum[static_cast<std::size_t>(expert) * held.width + i] / mass);
    return values;
}

Result<std::vector<double>> ProfileParts::moment(int layer, int expert, bool hidden) const
{
    const auto lock = h5::exclusive();
    try {
        const h5::Group mine = m_impl->container->root.open("layers").open(layerName(layer));
        if (!mine.has(kMomentsGroup)) return missingStatistic(m_impl->path, "second moments", "moments");
        const h5::Group experts = mine.open(kMomentsGroup);
        if (!experts.has(expertName(expert))) return missingStatistic(m_impl->path, "second moments of this expert", "moments");
        return experts.open(expertName(expert)).read<double>(hidden ? "h" : "x");
    } catch (const std::exception& failure) {
        return unreadProfile(m_impl->path, failure);
    }
}

}  // namespace espalier
