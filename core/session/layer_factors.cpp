#include "session/layer_factors.h"

#include "session/profile_content.h"

#include <fmt/format.h>

#include <map>
#include <utility>

namespace espalier
{

namespace
{

class LayerFactors final : public FactorSource
{
public:
    LayerFactors(const ProfileData& data, std::string name) : m_name(std::move(name)), m_fingerprint(data.fingerprint)
    {
        for (const LayerProfile& layer : data.layers)
            m_counts.push_back(layer.count);
    }
    ~LayerFactors() override
    {
        const auto lock = h5::exclusive();
        m_experts.clear();
        m_files.clear();
    }
    LayerFactors(const LayerFactors&) = delete;
    LayerFactors& operator=(const LayerFactors&) = delete;

    Status add(const std::filesystem::path& path)
    {
        ESPALIER_TRY(h5::OpenedContainer file, h5::openContainer(path, kPartsFormat));
        try {
            const int layer = file.root.readJson("parts").at("layer");
            if (file.root.has(kFactorsGroup)) {
                const h5::Group experts = file.root.open(kFactorsGroup);
                for (const std::string& name : experts.links())
                    m_experts.emplace(std::pair(layer, name), experts.open(name));
            }
        } catch (const std::exception& failure) {
            return invalidProfile(path, failure.what());
        }
        m_files.push_back(std::move(file));
        return {};
    }

    const std::string& profileSha256() const override { return m_name; }
    const std::string& fingerprint() const override { return m_fingerprint; }
    Json calibration() const override { return Json::object(); }
    FactorRule rule(int layer, int expert, int rank, int matrix) const override
    {
        return factorRule(m_counts[static_cast<std::size_t>(layer)][static_cast<std::size_t>(expert)], rank, matrix);
    }
    Result<FactorBasis> basis(int layer, int expert, int matrix, int rank) const override
    {
        const auto lock = h5::exclusive();
        const auto group = m_experts.find(std::pair(layer, expertName(expert)));
        const std::string name = basisName(matrix, rule(layer, expert, rank, matrix) == FactorRule::Ridge);
        try {
            if (group != m_experts.end() && group->second.has(name)) {
                FactorBasis basis = readBasis(group->second, name);
                if (basis.columns >= rank) return basis;
            }
        } catch (const std::exception& failure) {
            return invalidProfile(m_name, failure.what());
        }
        return badInput("plan.profile_without_factors", m_name,
                        {"There are no factors for expert {expert} of layer {layer} at rank {rank}.",
                         {{"expert", expert}, {"layer", layer}, {"rank", rank}}},
                        "Use plain factors (\"svd\").");
    }

private:
    std::string m_name;
    std::string m_fingerprint;
    std::vector<std::vector<std::int64_t>> m_counts;  // per layer
    std::vector<h5::OpenedContainer> m_files;
    std::map<std::pair<int, std::string>, h5::Group> m_experts;
};

}  // namespace

Result<std::shared_ptr<const FactorSource>> openLayerFactors(const std::vector<std::filesystem::path>& parts, const ProfileData& data,
                                                             const std::string& name)
{
    const auto lock = h5::exclusive();
    auto factors = std::make_shared<LayerFactors>(data, name);
    for (const std::filesystem::path& part : parts)
        ESPALIER_CHECK_OK(factors->add(part));
    return std::shared_ptr<const FactorSource>(std::move(factors));
}

}  // namespace espalier
