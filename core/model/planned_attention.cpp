#include "model/planned_attention.h"

#include "checkpoint/checkpoint.h"

#include <fmt/format.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

namespace
{

constexpr std::array<std::string_view, 3> kProjections = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};

struct Planner {
    const Checkpoint& checkpoint;
    int layer;
    const LayerPlan& plan;
    const LayerWeights& own;
    const FactorSources& given;
    FormStore& forms;

    const MatrixForm& formOf(std::string_view name) const
    {
        static const MatrixForm asItIs;
        for (const auto& [linear, form] : plan.content().linears)
            if (linear == name) return form;
        return asItIs;
    }
    FormRequest request(std::string_view name) const { return {.form = &formOf(name), .linear = std::string(name)}; }
    const LinearShape& shapeOf(std::string_view name) const
    {
        return *checkpoint.shape().layers[static_cast<std::size_t>(layer)].linear(name);
    }
    // The family's bias stays beside a form that has none of its own.
    Result<Linear> built(std::string_view name, const at::Tensor& ownBias) const
    {
        const std::array one = {request(name)};
        ESPALIER_TRY(std::vector<Linear> linears, forms.linears(layer, nullptr, given, one));
        Linear linear = std::move(linears.front());
        if (!linear.bias.defined() && shapeOf(name).bias) linear.bias = ownBias;
        return linear;
    }

    // The family's biases of q, k and v, one by one.
    std::array<at::Tensor, 3> biases() const
    {
        if (own.query.defined()) return {own.query.bias, own.key.bias, own.value.bias};
        std::array<at::Tensor, 3> parts;
        std::int64_t row = 0;
        for (std::size_t p = 0; p < 3 && own.qkv.bias.defined(); ++p) {
            parts[p] = own.qkv.bias.narrow(0, row, shapeOf(kProjections[p]).out);
            row += shapeOf(kProjections[p]).out;
        }
        return parts;
    }

    Status projections(LayerWeights& planned) const
    {
        bool some = false, factored = false;
        std::vector<FormRequest> requests;
        for (const std::string_view name : kProjections) {
            const MatrixForm& form = formOf(name);
            some = some || !form.isSource();
            factored = factored || form.factorRank() > 0 || (form.isSource() && shapeOf(name).sourceRank > 0);
            requests.push_back(request(name));
        }
        if (!some) return {};
        const std::array<at::Tensor, 3> bias = biases();
        if (!factored) {
            ESPALIER_TRY(planned.qkv, forms.stacked(layer, given, requests));
            if (shapeOf(kProjections[0]).bias) planned.qkv.bias = at::cat({bias[0], bias[1], bias[2]}, 0);
            planned.query = planned.key = planned.value = {};
            return {};
        }
        planned.qkv = {};
        const std::array<Linear*, 3> parts = {&planned.query, &planned.key, &planned.value};
        for (std::size_t p = 0; p < 3; ++p) {
            // What the checkpoint factored stays as it is.
            if (formOf(kProjections[p]).isSource() && parts[p]->defined()) continue;
            ESPALIER_TRY(*parts[p], built(kProjections[p], bias[p]));
        }
        return {};
    }
};

}  // namespace

Result<std::shared_ptr<const LayerWeights>> attentionUnder(const Checkpoint& checkpoint, int layer, const LayerPlan& plan,
                                                           const LayerWeights& own, const FactorSources& given, FormStore& forms)
{
    const Planner planner{checkpoint, layer, plan, own, given, forms};
    auto planned = std::make_shared<LayerWeights>();
    planned->inputNorm = own.inputNorm;
    planned->queryNorm = own.queryNorm;
    planned->keyNorm = own.keyNorm;
    const bool latent = own.latentA.defined();
    using Place = Linear LayerWeights::*;
    std::vector<std::pair<std::string_view, Place>> places = {{"self_attn.o_proj", &LayerWeights::output}};
    if (latent) {
        const bool queries = own.queryA.defined();
        if (queries) places.emplace_back("self_attn.q_a_proj", &LayerWeights::queryA);
        places.emplace_back(queries ? "self_attn.q_b_proj" : "self_attn.q_proj", &LayerWeights::queryB);
        places.emplace_back("self_attn.kv_a_proj_with_mqa", &LayerWeights::latentA);
        places.emplace_back("self_attn.kv_b_proj", &LayerWeights::latentB);
    } else {
        planned->qkv = own.qkv;
        planned->query = own.query;
        planned->key = own.key;
        planned->value = own.value;
        ESPALIER_CHECK_OK(planner.projections(*planned));
    }
    for (const auto& [name, place] : places) {
        (*planned).*place = own.*place;
        if (planner.formOf(name).isSource()) continue;
        ESPALIER_TRY((*planned).*place, planner.built(name, (own.*place).bias));
    }
    return std::shared_ptr<const LayerWeights>(std::move(planned));
}

}  // namespace espalier
