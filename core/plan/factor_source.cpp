#include "plan/factor_source.h"

#include "plan/factor_methods.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace espalier
{

std::string_view factorRuleName(FactorRule rule)
{
    switch (rule) {
        case FactorRule::Own:
            return "own";
        case FactorRule::Ridge:
            return "ridge";
        case FactorRule::Pooled:
            return "pooled";
        case FactorRule::Plain:
            return "plain";
    }
    return "own";
}

FactorRule factorRule(std::int64_t tokens, int rank, int matrix)
{
    if (tokens <= 0) return matrix == 2 ? FactorRule::Plain : FactorRule::Pooled;
    return tokens < 2 * static_cast<std::int64_t>(rank) ? FactorRule::Ridge : FactorRule::Own;
}

namespace
{

// Without the values files.
FactorSources profilesOf(const FactorSources& all)
{
    FactorSources profiles;
    std::copy_if(all.begin(), all.end(), std::back_inserter(profiles), [](const auto& source) { return source->stored() == nullptr; });
    return profiles;
}

// Of what is wanted for: factors or constants.
Result<std::shared_ptr<const FactorSource>> sourceOf(std::string_view what, const std::string& profileSha256, const FactorSources& all,
                                                     const std::string& fingerprint)
{
    const FactorSources given = profilesOf(all);
    const auto refused = [](Error error) {
        error.kept = "Nothing was changed.";
        return error;
    };
    const std::string wanted = profileSha256.empty() ? "that it does not name" : profileSha256.substr(0, 12);
    if (given.empty())
        return refused(
            badInput("plan.profile_needed", "plan",
                     {"The plan's {what} come from the profile {wanted}, which was not given.", {{"what", what}, {"wanted", wanted}}},
                     what == "factors" ? "Give it with --profile, or set the plan's factors to \"svd\"." : "Give it with --profile."));
    const auto it = std::find_if(given.begin(), given.end(), [&](const auto& source) { return source->profileSha256() == profileSha256; });
    if (it == given.end())
        return refused(badInput("plan.other_profile", "plan",
                                {"The plan's {what} come from the profile {wanted}, the one given is {given}.",
                                 {{"what", what}, {"wanted", wanted}, {"given", given.front()->profileSha256().substr(0, 12)}}},
                                "Give the profile the plan was made with, or make the plan again."));
    if ((*it)->fingerprint() != fingerprint)
        return refused(badInput("profile.other_model", "profile", "The profile was taken of another model.",
                                "Profile this model, or open the one it belongs to."));
    return *it;
}

}  // namespace

Result<std::shared_ptr<const FactorSource>> factorSourceFor(const CompressionPlan& plan, const FactorSources& given,
                                                            const std::string& fingerprint)
{
    std::shared_ptr<const FactorSource> none;
    const FactorSettings& factors = plan.factors();
    if (!plan.needsFactors() || factors.method.empty()) return none;
    if (!factorMethod(factors.method))
        return unsupported("plan.factors", factors.method,
                           {"Factors by \"{method}\" cannot be computed here.", {{"method", factors.method}}}, "Use svd or whitened-svd.");
    if (!factorsNeedProfile(factors)) return none;
    return sourceOf("factors", factors.profileSha256, given, fingerprint);
}

Result<std::shared_ptr<const FactorSource>> constantSourceFor(const CompressionPlan& plan, const FactorSources& given,
                                                              const std::string& fingerprint)
{
    for (int l = 0; l < plan.layerCount(); ++l)
        if (plan.layer(l).needsConstants()) return sourceOf("constants", plan.constantsProfile(), given, fingerprint);
    return std::shared_ptr<const FactorSource>();
}

Result<std::vector<float>> FactorSource::constant(int layer, int expert, ConstantKind) const
{
    return badInput("plan.profile_without_constants", fmt::format("layer {}, expert {}", layer, expert),
                    {"The profile has no mean output of expert {expert} in layer {layer}.", {{"expert", expert}, {"layer", layer}}},
                    "Take the profile again: outputs of experts are collected by default.");
}

CompressionPlan withGivenProfile(const CompressionPlan& plan, const FactorSources& all)
{
    const FactorSources given = profilesOf(all);
    if (given.size() != 1) return plan;
    CompressionPlan named = plan;
    if (const FactorSettings& factors = plan.factors(); factorsNeedProfile(factors) && factors.profileSha256.empty())
        named = named.withFactors({factors.method, given.front()->profileSha256()});
    if (plan.needsConstants() && plan.constantsProfile().empty()) named = named.withConstantsProfile(given.front()->profileSha256());
    return named;
}

std::vector<std::string> factorWarnings(const CompressionPlan& plan, const FactorSource* source)
{
    if (!source) return {};
    struct Found {
        int count = 0;
        std::string names;
    };
    Found found[4];
    // Stored factors follow no rule.
    const auto derived = [](const LayerPlan& layer, std::size_t i, int matrix) {
        return std::get<ExpertBody>(*layer.bodyOf(layer.kept()[i])).matrices[static_cast<std::size_t>(matrix)].needsFactors();
    };
    for (int l = 0; l < plan.layerCount(); ++l) {
        const LayerPlan& layer = plan.layer(l);
        for (std::size_t i = 0; i < layer.ranks().size(); ++i) {
            FactorRule seen = FactorRule::Own;
            for (int matrix = 0; matrix < 3; ++matrix)
                if (const int rank = layer.ranks()[i][static_cast<std::size_t>(matrix)]; rank > 0 && derived(layer, i, matrix)) {
                    const FactorRule rule = source->rule(l, layer.kept()[i], rank, matrix);
                    if (seen == FactorRule::Own || rule == FactorRule::Pooled) seen = rule == FactorRule::Plain ? FactorRule::Pooled : rule;
                }
            Found& mine = found[static_cast<int>(seen)];
            if (++mine.count <= 8) mine.names += fmt::format("{}{}:{}", mine.names.empty() ? "" : ", ", l, layer.kept()[i]);
        }
    }
    std::vector<std::string> warnings;
    const auto list = [](const Found& f) { return f.names + (f.count > 8 ? ", .." : ""); };
    if (const Found& thin = found[static_cast<int>(FactorRule::Ridge)]; thin.count > 0)
        warnings.push_back(
            fmt::format("{} factored experts saw fewer calibration tokens than twice their rank; their factors lean more on the "
                        "weights (ridge 1e-2): layer:expert {}.",
                        thin.count, list(thin)));
    if (const Found& unused = found[static_cast<int>(FactorRule::Pooled)]; unused.count > 0)
        warnings.push_back(
            fmt::format("{} factored experts saw no calibration token; the inputs of all experts of the layer (gate, up) and the "
                        "weights alone (down) stand in: layer:expert {}.",
                        unused.count, list(unused)));
    return warnings;
}

}  // namespace espalier
