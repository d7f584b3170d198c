#include "plan/plan_name.h"

#include "plan/forms/form_rules.h"

#include <fmt/format.h>

#include <cmath>
#include <map>

namespace espalier
{

std::string proposedPlanName(const ModelShape& shape, const CompressionPlan& plan)
{
    if (plan.layerCount() == 0 || plan.isIdentity(shape)) return "dense";
    double rankSum = 0;
    int factors = 0;
    for (int layer = 0; layer < plan.layerCount(); ++layer)
        for (const RankTriple& triple : plan.layer(layer).ranks())
            for (const int rank : triple)
                if (rank > 0) {
                    rankSum += rank;
                    ++factors;
                }
    std::string name;
    const auto add = [&name](const std::string& text) { name += (name.empty() ? "" : ", ") + text; };
    // Experts are counted in the layers that run.
    std::int64_t experts = 0;
    std::size_t constants = 0;
    for (const LayerShape& layer : shape.layers) {
        if (plan.layer(layer.index).runsExperts()) experts += layer.experts;
        constants += plan.layer(layer.index).constants().size();
    }
    if (plan.runningLayers() < plan.layerCount()) add(fmt::format("{} of {} layers", plan.runningLayers(), plan.layerCount()));
    if (plan.keptExperts() < experts) add(fmt::format("{} of {} experts", plan.keptExperts(), experts));
    if (constants > 0) add(fmt::format("{} constant{}", constants, constants == 1 ? "" : "s"));
    std::size_t linears = 0;
    for (int layer = 0; layer < plan.layerCount(); ++layer)
        linears += plan.layer(layer).content().linears.size();
    if (linears > 0) add(fmt::format("{} linear map{}", linears, linears == 1 ? "" : "s"));
    if (factors > 0) add(fmt::format("mean rank {}", std::lround(rankSum / factors)));
    return name.empty() ? "fewer experts a token" : name;
}

namespace
{

// "low rank 64, with a bias, 8 bits, stored values"
std::string formWords(const MatrixForm& form)
{
    std::string words(rulesOf(form).title);
    if (const int rank = form.factorRank(); rank > 0) words += fmt::format(" {}", rank);
    if (const auto* low = std::get_if<LowRank>(&form.structure); low && low->bias) words += ", with a bias";
    if (form.storage.bits > 0) words += fmt::format(", {} bits", form.storage.bits);
    if (!form.values.empty()) words += ", stored values";
    return words;
}

}  // namespace

std::vector<std::string> otherForms(const LayerPlan& plan)
{
    const LayerPlan::Content& content = plan.content();
    std::vector<std::string> words;
    if (content.mergedFrom)
        words.push_back(fmt::format("{:.4g} of its own weights and {:.4g} of those of layer {}", content.mergedFrom->alphaMillionths / 1e6,
                                    1 - content.mergedFrom->alphaMillionths / 1e6, content.mergedFrom->layer));
    if (content.skip)
        words.push_back(content.skip->kind == SkipRule::Kind::Ratio
                            ? fmt::format("tokens skip experts below {:.4g} of their largest score", content.skip->threshold())
                            : fmt::format("tokens skip experts behind {:.4g} of their scores", content.skip->threshold()));
    if (!content.router.empty()) words.emplace_back("stored router rows");
    for (const auto& [name, form] : content.linears)
        words.push_back(fmt::format("{}: {}", name, formWords(form)));
    int narrower = 0, merged = 0;
    std::map<std::string, int> forms;
    for (const Body& body : content.bodies) {
        const auto* expert = std::get_if<ExpertBody>(&body);
        if (!expert) continue;
        narrower += expert->channels.empty() ? 0 : 1;
        merged += expert->sources.size() > 1 ? 1 : 0;
        for (const MatrixForm& form : expert->matrices)
            if (!form.isPlain()) ++forms[formWords(form)];
    }
    if (merged > 0) words.push_back(fmt::format("{} merged expert{}", merged, merged == 1 ? "" : "s"));
    if (narrower > 0) words.push_back(fmt::format("{} expert{} with fewer channels", narrower, narrower == 1 ? "" : "s"));
    for (const auto& [form, count] : forms)
        words.push_back(fmt::format("{} matri{} of experts: {}", count, count == 1 ? "x" : "ces", form));
    return words;
}

std::string fileNamePart(std::string_view name)
{
    constexpr std::size_t kMost = 60;
    std::string part;
    for (const char c : name) {
        if (part.size() >= kMost) break;
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))
            part += c;
        else if (c >= 'A' && c <= 'Z')
            part += static_cast<char>(c - 'A' + 'a');
        else if (!part.empty() && part.back() != '-')
            part += '-';
    }
    while (!part.empty() && part.back() == '-')
        part.pop_back();
    return part;
}

}  // namespace espalier
