// Low rank: U V (+ b), decomposed here or made of the basis that a profile holds (plan/factor_source.h), or stored.
#include "checkpoint/checkpoint.h"
#include "model/form_builder.h"
#include "model/layer_weights.h"
#include "model/quantise.h"

#include <fmt/format.h>

#include <algorithm>

namespace espalier
{

namespace
{

std::string key(const BuildContext& context, const MatrixSlot& slot, const MatrixForm& form)
{
    if (!form.values.empty()) return "stored " + form.values + slot.channelsKey();
    // Profiles hold bases for matrices of experts.
    if (!context.factors || !slot.linear.empty()) return slot.channelsKey();
    std::string name(factorRuleName(context.factors->rule(slot.layer, slot.expert, form.factorRank(), slot.matrix)));
    return name + context.factors->profileSha256() + slot.channelsKey();
}

// One decomposition gives every rank under one rule of the profile.
Result<FormBasis> basis(const BuildContext& context, const MatrixSlot& slot, const MatrixForm& form)
{
    FormBasis result;
    if (!form.values.empty()) {
        result.stored = typeOf(context, slot).stored;
        return result;
    }
    ESPALIER_TRY(const StoredMatrix matrix, loadMatrix(viewOf(context, slot)));
    result.stored = matrix.stored;
    const at::Tensor weight = slot.sliceColumns(slot.sliceRows(matrix.weight));
    if (!context.factors || !slot.linear.empty()) {
        ESPALIER_TRY(result.of, PlainSvd::of(weight));
        return result;
    }
    // The basis of a profile is of all outputs of the matrix.
    if (slot.sliced() && slot.matrix != 2)
        return unsupported("plan.form_not_run", slot.words(),
                           {"{matrix} has lost channels, and the profile's basis of its {kind} is of all of them.",
                            {{"matrix", slot.words()}, {"kind", kMatrixNames[static_cast<std::size_t>(slot.matrix)]}}},
                           "Let the plan's factors be svd, or give them stored values.");
    ESPALIER_TRY(const FactorBasis found, context.factors->basis(slot.layer, slot.expert, slot.matrix, form.factorRank()));
    if (found.rows != weight.size(0))
        return badInput("profile.invalid", "profile",
                        {"The basis of expert {expert} in layer {layer} has {rows} rows, the matrix {weight}.",
                         {{"expert", slot.expert}, {"layer", slot.layer}, {"rows", found.rows}, {"weight", weight.size(0)}}},
                        "Take the profile of this model again.");
    const at::Tensor q = at::from_blob(const_cast<float*>(found.values.data()), {found.rows, found.columns}, at::kFloat);
    ESPALIER_TRY(result.of, ProjectionFactors::of(weight, q));
    return result;
}

Factors cut(const FormBasis& basis, int rank, at::ScalarType type)
{
    if (const auto* plain = std::get_if<PlainSvd>(&basis.of)) return plain->factors(rank, type);
    return std::get<ProjectionFactors>(basis.of).factors(rank, type);
}

// A scale for each column of U and each row of V of a band.
void roundBands(Factors& factors, const std::vector<Band>& bands)
{
    std::vector<at::Tensor> columns, rows;
    std::int64_t first = 0;
    for (const Band& band : bands) {
        const Storage storage{.bits = band.bits, .group = 0, .scheme = QuantScheme::Symmetric};
        columns.push_back(onGrid(factors.u.narrow(1, first, band.rank).t().contiguous(), storage).t());
        rows.push_back(onGrid(factors.v.narrow(0, first, band.rank), storage));
        first += band.rank;
    }
    factors.u = at::cat(columns, 1);
    factors.v = at::cat(rows, 0);
}

Result<FormTerms> terms(const BuildContext& context, const MatrixSlot& slot, const MatrixForm& form, const FormBasis& basis)
{
    const auto& low = std::get<LowRank>(form.structure);
    const int rank = form.factorRank();
    const bool rounded = std::any_of(low.bands.begin(), low.bands.end(), [](const Band& band) { return band.bits > 0; });
    FormTerms result;
    Factors factors;
    if (form.values.empty()) {
        factors = cut(basis, rank, rounded ? at::kFloat : basis.stored);
    } else {
        const SlotType type = typeOf(context, slot);
        const auto name = [&](std::string_view part) { return slot.valueName(part); };
        ESPALIER_TRY(factors.u, storedNumbers(context, form.values, name("U"), {type.out, rank}));
        ESPALIER_TRY(factors.v, storedNumbers(context, form.values, name("V"), {rank, type.in}));
        if (low.bias) {
            ESPALIER_TRY(const at::Tensor bias, storedNumbers(context, form.values, name("bias"), {type.out}));
            result.bias = bias.to(basis.stored);
        }
    }
    if (rounded) roundBands(factors, low.bands);
    result.u = factors.u.to(basis.stored).contiguous();
    result.v = factors.v.to(basis.stored).contiguous();
    return result;
}

}  // namespace

const FormBuilder kLowRankBuilder = {true, &key, &basis, &terms};

}  // namespace espalier
