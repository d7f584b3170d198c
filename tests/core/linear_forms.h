// Plans that give linear maps beside the experts (attention, shared experts, dense MLPs) other forms, with the numbers they need in a
// values file, what the matrices then are, worked out here, and checkpoints that hold those matrices.
#pragma once

#include "checkpoint/safetensors.h"
#include "checkpoint/values_file.h"
#include "core/compression_fixture.h"
#include "core/stored_forms.h"
#include "model/layer_weights.h"
#include "model/moe_model_torch.h"
#include "plan/plan_edit.h"
#include "plan/values.h"

#include <ATen/ATen.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace espalier::test
{

struct PlannedLinear {
    int layer = 0;
    std::string name;
    MatrixForm form;
    at::Tensor weight;  // [out,in] fp64: what the form is
    at::Tensor bias;    // [out] fp64 of the form, or undefined
};

struct LinearCase {
    std::string name;
    std::vector<PlannedLinear> linears;
    bool exact = false;  // one dense matrix each: the same bits as a checkpoint that holds it
    bool size = true;    // an export has the size that the plan is said to have
    std::vector<std::string> flavours = {};
};

// A copy of a checkpoint with other numbers in some of its tensors, by full name.
inline std::shared_ptr<const Checkpoint> withNumbers(const std::filesystem::path& from, const std::filesystem::path& to,
                                                     const std::map<std::string, at::Tensor>& numbers)
{
    std::filesystem::remove_all(to);
    std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
    std::size_t written = 0;
    for (const auto& entry : std::filesystem::directory_iterator(to)) {
        if (entry.path().extension() != ".safetensors") continue;
        struct Place {
            std::uint64_t at = 0;
            at::Tensor bytes;
        };
        std::vector<Place> places;
        {
            const SafetensorsFile file = take(SafetensorsFile::open(entry.path()));
            for (const auto& [name, tensor] : numbers)
                if (const TensorInfo* info = file.find(name)) {
                    const at::ScalarType type = info->dtype == DType::BF16  ? at::kBFloat16
                                                : info->dtype == DType::F16 ? at::kHalf
                                                                            : at::kFloat;
                    places.push_back({file.dataOffset() + info->begin, tensor.to(type).contiguous()});
                }
        }
        std::filesystem::permissions(entry.path(), std::filesystem::perms::owner_write, std::filesystem::perm_options::add);
        std::fstream out(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
        for (const Place& place : places) {
            out.seekp(static_cast<std::streamoff>(place.at));
            out.write(static_cast<const char*>(place.bytes.const_data_ptr()), static_cast<std::streamsize>(place.bytes.nbytes()));
            ++written;
        }
    }
    if (written != numbers.size()) throw std::runtime_error("not all tensors are there");
    return take(Checkpoint::open(to));
}

class LinearForms
{
public:
    // Of the layers given.
    LinearForms(const Checkpoint& checkpoint, std::vector<int> layers) : m_checkpoint(checkpoint), m_layers(std::move(layers)) {}

    ValuesInfo write(const std::filesystem::path& folder)
    {
        m_values.clear();
        cases("unknown");
        std::vector<ValueToWrite> all;
        for (const auto& [name, tensor] : m_values) {
            const DType type = tensor.scalar_type() == at::kBool ? DType::Bool : DType::F32;
            all.push_back({{name, type, tensor.sizes().vec()},
                           {static_cast<const std::byte*>(tensor.const_data_ptr()), static_cast<std::size_t>(tensor.nbytes())}});
        }
        return take(writeValuesFile(folder, all, {{"method", "by hand"}, {"settings", Json::object()}}));
    }

    std::vector<LinearCase> cases(const ValuesId& id)
    {
        std::vector<LinearCase> all;
        const std::vector<std::string> products = {"factored", "reconstructed"};
        LinearCase stored{"all stored", {}, true, true, {"stock", "factored"}}, factors{"all stored factors", {}, false, true, products};
        LinearCase best{"all by svd", {}, false, true, products};
        for (const int layer : m_layers)
            for (const LinearShape& linear : shapes(layer)) {
                const std::string at = " of layer " + std::to_string(layer);
                stored.linears.push_back(dense(layer, linear, id));
                factors.linears.push_back(lowRank(layer, linear, id, false));
                all.push_back({linear.name + at, {stored.linears.back()}, true, true, stored.flavours});
                all.push_back({linear.name + " as stored factors" + at, {factors.linears.back()}, false, true, factors.flavours});
                best.linears.push_back(decomposed(layer, linear));
                all.push_back({linear.name + " by svd" + at, {best.linears.back()}, false, true, products});
            }
        all.push_back(stored);
        all.push_back(factors);
        all.push_back(best);
        const int last = m_layers.back();
        const LinearShape& output = *m_checkpoint.shape().layers[static_cast<std::size_t>(last)].linear("self_attn.o_proj");
        const LinearShape& mlp = shapes(m_layers.front()).back();
        all.push_back({"a mask", {masked(last, output, id)}, true, false, {"stock", "factored"}});
        all.push_back({"half of the weights", {halved(m_layers.front(), mlp)}, true, false, {"stock", "factored"}});
        all.push_back({"4 bits", {packed(last, output)}, true, false, products});
        LinearCase biased{"a bias", {lowRank(last, output, id, true)}, false, true, {"factored"}};
        if (output.bias) biased.flavours.emplace_back("reconstructed");
        all.push_back(biased);
        // The first of the maps of attention as factors, the second stored, the third as it is.
        const auto& names = shapes(last);
        all.push_back({"some of each", {lowRank(last, names[0], id, names[0].bias), dense(last, names[1], id)}, false, true, products});
        return all;
    }

    CompressionPlan planOf(const LinearCase& one) const
    {
        CompressionPlan plan = CompressionPlan::identity(m_checkpoint.shape());
        for (const PlannedLinear& linear : one.linears)
            plan = take(withLinearForm(m_checkpoint.shape(), plan, linear.layer, linear.name, linear.form));
        return plan;
    }
    // The checkpoint that holds the matrices of a case; biases only where the family has one.
    std::shared_ptr<const Checkpoint> checkpointOf(const LinearCase& one, const std::filesystem::path& folder) const
    {
        std::map<std::string, at::Tensor> numbers;
        for (const PlannedLinear& linear : one.linears) {
            const LinearView view = m_checkpoint.linear(linear.layer, linear.name);
            numbers[view.dense.name] = linear.weight;
            if (linear.bias.defined() && view.biased) numbers[view.bias.name] = linear.bias;
        }
        return withNumbers(m_checkpoint.folder(), folder, numbers);
    }

private:
    const std::vector<LinearShape>& shapes(int layer) const { return m_checkpoint.shape().layers[static_cast<std::size_t>(layer)].linears; }
    at::Tensor own(int layer, const LinearShape& linear) const { return take(loadMatrix(m_checkpoint.linear(layer, linear.name))).weight; }
    at::Tensor held(int layer, const LinearShape& linear, const at::Tensor& numbers) const
    {
        return numbers.to(storedType(m_checkpoint.linear(layer, linear.name))).to(at::kDouble);
    }
    at::Tensor store(int layer, const LinearShape& linear, const char* part, const at::Tensor& tensor)
    {
        m_values[linearValueName(layer, linear.name, part)] = tensor.contiguous();
        return tensor;
    }

    PlannedLinear dense(int layer, const LinearShape& linear, const ValuesId& id)
    {
        const at::Tensor numbers = own(layer, linear) * 0.75 + test::numbers(layer, {linear.out, linear.in}, 0.02);
        return {layer, linear.name, {Dense{}, {}, id}, held(layer, linear, store(layer, linear, "weight", numbers)), {}};
    }
    PlannedLinear lowRank(int layer, const LinearShape& linear, const ValuesId& id, bool bias)
    {
        constexpr int kRank = 5;
        const at::Tensor u = store(layer, linear, "U", test::numbers(layer + 3, {linear.out, kRank}, 0.3));
        const at::Tensor v = store(layer, linear, "V", test::numbers(layer + 7, {kRank, linear.in}, 0.3));
        const at::Tensor b = store(layer, linear, "bias", test::numbers(layer + 11, {linear.out}, 0.2));
        return {layer,
                linear.name,
                {LowRank{.bands = {{kRank, 0}}, .bias = bias}, {}, id},
                at::mm(held(layer, linear, u), held(layer, linear, v)),
                bias ? held(layer, linear, b) : at::Tensor()};
    }
    // The best of its rank in the Frobenius norm, in fp64.
    PlannedLinear decomposed(int layer, const LinearShape& linear) const
    {
        const auto rank = static_cast<int>(std::min(linear.out, linear.in) / 3);
        const auto [u, s, v] = at::linalg_svd(own(layer, linear).to(at::kDouble), false);
        const at::Tensor best = at::mm(u.narrow(1, 0, rank) * s.narrow(0, 0, rank), v.narrow(0, 0, rank));
        return {layer, linear.name, MatrixForm::lowRank(rank), best, {}};
    }
    PlannedLinear masked(int layer, const LinearShape& linear, const ValuesId& id)
    {
        const at::Tensor mask = (at::arange(linear.out * linear.in) % 2).to(at::kBool).reshape({linear.out, linear.in});
        store(layer, linear, "mask", mask);
        return {layer,
                linear.name,
                {Masked{{.keptMillionths = 500'000}}, {}, id},
                own(layer, linear).to(at::kDouble) * mask.to(at::kDouble),
                {}};
    }
    PlannedLinear halved(int layer, const LinearShape& linear) const
    {
        return {layer, linear.name, {Masked{{.kept = 2, .of = 4}}, {}, {}}, largestOf(own(layer, linear).to(at::kDouble), 4, 2), {}};
    }
    PlannedLinear packed(int layer, const LinearShape& linear) const
    {
        const at::Tensor groups = own(layer, linear).to(at::kDouble).reshape({-1, 8});
        const at::Tensor scale = (groups.abs().amax({1}, true) / 7).to(at::kFloat).to(at::kHalf).to(at::kDouble);
        const at::Tensor grid = (at::round(groups / scale).clamp(-7, 7) * scale).reshape({linear.out, linear.in});
        return {
            layer, linear.name, {Dense{}, {.bits = 4, .group = 8, .scheme = QuantScheme::Symmetric}, {}}, held(layer, linear, grid), {}};
    }

    const Checkpoint& m_checkpoint;
    std::vector<int> m_layers;
    std::map<std::string, at::Tensor> m_values;
};

}  // namespace espalier::test
