#include "export/form_tensors.h"

#include "plan/routing.h"

#include <algorithm>
#include <map>

namespace espalier
{

std::vector<FormTensor> formTensors(const MatrixForm& form, std::int64_t out, std::int64_t in, bool multipliedOut)
{
    const std::int64_t rank = form.factorRank();
    if (multipliedOut && (rank > 0 || std::holds_alternative<BaseDelta>(form.structure)))
        return {{FormPart::Product, ".weight", {out, in}}};
    if (rank == 0) return {{FormPart::Weight, ".weight", {out, in}}};
    std::vector<FormTensor> tensors = {{FormPart::U, ".U", {out, rank}}, {FormPart::V, ".V", {rank, in}}};
    if (std::get<LowRank>(form.structure).bias) tensors.push_back({FormPart::Bias, ".bias", {out}});
    return tensors;
}

at::Tensor partOf(const FormTerms& terms, FormPart part)
{
    switch (part) {
        case FormPart::Weight:
            return terms.weight;
        case FormPart::U:
            return terms.u;
        case FormPart::V:
            return terms.v;
        case FormPart::Bias:
            return terms.bias;
        case FormPart::Product:
            return terms.sum();
    }
    return {};
}

Comparison comparisonOf(FormPart part)
{
    if (part == FormPart::U || part == FormPart::V) return Comparison::Product;
    return part == FormPart::Bias ? Comparison::Bytes : Comparison::Rounded;
}

std::vector<DescribedLinear> factoredLinears(const LayerShape& shape, const LayerPlan& plan)
{
    std::vector<DescribedLinear> described;
    if (plan.run() == LayerRun::Skipped) return described;
    const auto& planned = plan.content().linears;
    for (const LinearShape& linear : shape.linears) {
        const auto found = std::find_if(planned.begin(), planned.end(), [&](const auto& entry) { return entry.first == linear.name; });
        if (found == planned.end()) {
            if (linear.sourceRank > 0) described.push_back({linear.name, linear.sourceRank, linear.bias || linear.sourceBias});
        } else if (const int rank = found->second.factorRank(); rank > 0) {
            described.push_back({linear.name, rank, linear.bias || std::get<LowRank>(found->second.structure).bias});
        }
    }
    return described;
}

std::optional<SkipRule> skipRuleOf(const LayerShape& shape, const LayerPlan& plan)
{
    if (!shape.moe || !plan.runsExperts()) return std::nullopt;
    const std::optional<SkipRule>& rule = plan.content().skip ? plan.content().skip : shape.router.skip;
    return rule && !skipsNothing(*rule) ? rule : std::nullopt;
}

std::vector<int> widthsOf(const LayerShape& shape, const LayerPlan& plan)
{
    std::vector<int> widths;
    bool narrower = false;
    for (const RouterColumn& column : plan.content().columns) {
        const auto* body = std::get_if<ExpertBody>(&plan.content().bodies[static_cast<std::size_t>(column.body)]);
        int width = shape.expertWidth;
        if (body && !shape.isSourceConstant(body->sources.front()))
            width = body->channels.empty() ? shape.widthOf(body->sources.front()) : static_cast<int>(body->channels.size());
        narrower = narrower || width != shape.expertWidth;
        widths.push_back(width);
    }
    return narrower ? widths : std::vector<int>();
}

std::vector<DescribedColumn> describeColumns(const LayerShape& shape, const LayerPlan& plan)
{
    std::vector<DescribedColumn> described;
    const LayerPlan::Content& content = plan.content();
    std::vector<int> first(content.bodies.size(), -1);
    std::map<int, int> firstOfSource;  // of experts that the source itself merged and the plan leaves alone
    for (std::size_t j = 0; j < content.columns.size(); ++j) {
        const auto index = static_cast<std::size_t>(content.columns[j].body);
        DescribedColumn column;
        const auto* body = std::get_if<ExpertBody>(&content.bodies[index]);
        column.constant = body == nullptr || shape.isSourceConstant(body->sources.front());
        int* owner = &first[index];
        if (body != nullptr) {
            const int source = body->sources.front();
            bool untouched = true;
            for (std::size_t m = 0; m < 3 && !column.constant; ++m) {
                const MatrixForm& form = body->matrices[m];
                untouched = untouched && form.isSource() && body->channels.empty();
                column.ranks[m] = form.factorRank();
                if (const auto* low = std::get_if<LowRank>(&form.structure)) column.biases[m] = low->bias;
                if (!form.isSource()) continue;
                // What the source already holds as factors stays so.
                if (!shape.sourceRanks.empty()) column.ranks[m] = shape.sourceRanks[static_cast<std::size_t>(source)][m];
                if (!shape.sourceBiases.empty()) column.biases[m] = shape.sourceBiases[static_cast<std::size_t>(source)][m];
            }
            if (!shape.sourceBodies.empty() && untouched) owner = &firstOfSource.emplace(shape.sourceBodyOf(source), -1).first->second;
        }
        if (*owner < 0) *owner = static_cast<int>(j);
        column.owner = *owner;
        described.push_back(column);
    }
    return described;
}

}  // namespace espalier
