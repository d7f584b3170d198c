// Plans that each put one form into a layer of a tiny model, with the numbers they need in a values file, and what the matrices then are,
// worked out here.
#pragma once

#include "checkpoint/values_file.h"
#include "core/compression_fixture.h"
#include "model/layer_weights.h"
#include "model/moe_model_torch.h"
#include "plan/values.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

namespace espalier::test
{

// A whole body by hand: W [out,in] and b of gate, up and down, in fp64.
struct HandMatrix {
    at::Tensor weight, bias;
};
using HandBody = std::array<HandMatrix, 3>;

struct FormCase {
    std::string name;
    LayerPlan::Content content;
    std::map<int, HandBody> bodies;          // by original expert that leads there; others are the checkpoint's
    std::map<int, at::Tensor> constants;     // [H]
    at::Tensor router;                       // [n,H] or undefined
    bool size = true;                        // an export has the size that the plan is said to have
    std::vector<std::string> flavours = {};  // that hold it beside "plan"
};

// Deterministic numbers of about the size of weights.
inline at::Tensor numbers(int seed, at::IntArrayRef shape, double scale)
{
    const at::Tensor index = at::arange(c10::multiply_integers(shape), at::kDouble);
    return (at::sin(index * 12.9898 + seed * 78.233) * scale).to(at::kFloat).reshape(shape);
}

class StoredForms
{
public:
    StoredForms(const Checkpoint& checkpoint, int layer) : m_checkpoint(checkpoint), m_layer(layer)
    {
        const LayerShape& shape = checkpoint.shape().layers[static_cast<std::size_t>(layer)];
        m_hidden = checkpoint.shape().hiddenSize;
        m_width = shape.expertWidth;
        m_experts = shape.experts;
    }

    // All cases; their values are what write() stores, and `id` is filled in by cases(id).
    std::vector<FormCase> cases(const ValuesId& id);
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

    HandBody own(int expert) const
    {
        HandBody body;
        for (int m = 0; m < 3; ++m)
            body[static_cast<std::size_t>(m)].weight = matrix(expert, m).to(at::kDouble);
        return body;
    }
    at::Tensor matrix(int expert, int m) const { return take(loadExpertMatrix(m_checkpoint, m_layer, expert, m)).weight; }

private:
    FormCase mergedCase(const ValuesId& id);
    std::vector<FormCase> factorCases(const ValuesId& id);
    std::vector<FormCase> replacedCases(const ValuesId& id);
    FormCase maskedCase(const ValuesId& id);
    FormCase bitsCase(const ValuesId& id);
    std::vector<FormCase> channelCases(const ValuesId& id);
    FormCase deltaCase(const ValuesId& id);
    std::string nameOf(int expert, int m, const char* part) const { return matrixValueName(m_layer, expert, m, part); }
    // As the checkpoint stores its matrices.
    at::Tensor held(const at::Tensor& numbers) const
    {
        return numbers.to(storedType(m_checkpoint.expert(m_layer, 0, Matrix::Up))).to(at::kDouble);
    }
    at::Tensor store(const std::string& name, const at::Tensor& tensor)
    {
        m_values[name] = tensor.contiguous();
        return tensor;
    }
    std::vector<std::int64_t> shapeOf(int m) const
    {
        return m == 2 ? std::vector<std::int64_t>{m_hidden, m_width} : std::vector<std::int64_t>{m_width, m_hidden};
    }
    LayerPlan::Content whole() const { return LayerPlan::allOf(m_experts).content(); }
    ExpertBody& bodyOf(FormCase& one, int expert) const
    {
        return std::get<ExpertBody>(
            one.content.bodies[static_cast<std::size_t>(one.content.columns[static_cast<std::size_t>(expert)].body)]);
    }

    static inline const std::vector<std::string> kAnywhere = {"stock", "factored"}, kFactors = {"factored", "reconstructed"};

    const Checkpoint& m_checkpoint;
    int m_layer;
    std::int64_t m_hidden = 0, m_width = 0;
    int m_experts = 0;
    std::map<std::string, at::Tensor> m_values;
};

// Of every `size` numbers in a row the `kept` largest, equal ones by their place; the others 0.
inline at::Tensor largestOf(const at::Tensor& numbers, std::int64_t size, std::int64_t kept)
{
    at::Tensor out = at::zeros_like(numbers);
    const auto* in = numbers.const_data_ptr<double>();
    auto* to = out.mutable_data_ptr<double>();
    std::vector<std::int64_t> order(static_cast<std::size_t>(size));
    for (std::int64_t first = 0; first < numbers.numel(); first += size) {
        std::iota(order.begin(), order.end(), first);
        std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return std::abs(in[a]) > std::abs(in[b]); });
        for (std::int64_t i = 0; i < kept; ++i)
            to[order[static_cast<std::size_t>(i)]] = in[order[static_cast<std::size_t>(i)]];
    }
    return out;
}

// Experts 0 and 2 become their mean; 0 and 2 both lead there.
inline FormCase StoredForms::mergedCase(const ValuesId& id)
{
    FormCase merged{"merged", whole(), {}, {}, {}, true, kFactors};
    merged.content.columns[2].body = 0;
    merged.content.bodies.erase(merged.content.bodies.begin() + 2);
    for (std::size_t c = 3; c < merged.content.columns.size(); ++c)
        --merged.content.columns[c].body;
    ExpertBody& mean = bodyOf(merged, 0);
    mean.sources = {0, 2};
    HandBody meanByHand;
    for (int m = 0; m < 3; ++m) {
        mean.matrices[static_cast<std::size_t>(m)].values = id;
        const at::Tensor stored = store(nameOf(0, m, "weight"), (matrix(0, m) + matrix(2, m)) / 2);
        meanByHand[static_cast<std::size_t>(m)].weight = held(stored);
    }
    merged.bodies = {{0, meanByHand}, {2, meanByHand}};
    return merged;
}

// Tuned factors of expert 1, with and without a bias.
inline std::vector<FormCase> StoredForms::factorCases(const ValuesId& id)
{
    std::vector<FormCase> all;
    for (const bool bias : {false, true}) {
        FormCase one{bias ? "factors with a bias" : "stored factors", whole(), {}, {}, {}, true, kFactors};
        if (bias) one.flavours = {"factored"};
        HandBody hand = own(1);
        for (int m = 0; m < 3; ++m) {
            const auto shape = shapeOf(m);
            const int rank = 3 + m;
            const at::Tensor u = store(nameOf(1, m, "U"), numbers(10 + m, {shape[0], rank}, 0.3));
            const at::Tensor v = store(nameOf(1, m, "V"), numbers(20 + m, {rank, shape[1]}, 0.3));
            const at::Tensor b = store(nameOf(1, m, "bias"), numbers(30 + m, {shape[0]}, 0.2));
            bodyOf(one, 1).matrices[static_cast<std::size_t>(m)] = {LowRank{.bands = {{rank, 0}}, .bias = bias}, {}, id};
            hand[static_cast<std::size_t>(m)] = {at::mm(held(u), held(v)), bias ? held(b) : at::Tensor()};
        }
        one.bodies = {{1, hand}};
        all.push_back(one);
    }
    return all;
}

inline std::vector<FormCase> StoredForms::replacedCases(const ValuesId& id)
{
    std::vector<FormCase> all;
    FormCase dense{"stored matrix", whole(), {}, {}, {}, true, kAnywhere};
    bodyOf(dense, 3).matrices[1].values = id;
    HandBody denseByHand = own(3);
    denseByHand[1].weight = held(store(nameOf(3, 1, "weight"), matrix(3, 1) * 0.75));
    dense.bodies = {{3, denseByHand}};
    all.push_back(dense);

    FormCase constant{"stored constant", whole(), {}, {}, {}, true, {"factored"}};
    constant.content.bodies[1] = ConstantBody{.kind = ConstantKind::Mean, .values = id};
    constant.constants[1] = held(store(constantValueName(m_layer, 1), numbers(40, {m_hidden}, 0.4)));
    all.push_back(constant);

    FormCase router{"stored router rows", whole(), {}, {}, {}, true, kAnywhere};
    router.content.router = id;
    router.router = held(store(routerValueName(m_layer), numbers(50, m_checkpoint.router(m_layer).shape, 0.5)));
    all.push_back(router);
    return all;
}

// The two largest of four neighbours of expert 0's gate; half of its up; a stored mask on its down.
inline FormCase StoredForms::maskedCase(const ValuesId& id)
{
    FormCase masked{"masks", whole(), {}, {}, {}, false, kAnywhere};
    bodyOf(masked, 0).matrices[0].structure = Masked{{.kept = 2, .of = 4}};
    bodyOf(masked, 0).matrices[1].structure = Masked{{.keptMillionths = 500'000}};
    bodyOf(masked, 0).matrices[2] = {Masked{{.keptMillionths = 500'000}}, {}, id};
    HandBody maskedByHand = own(0);
    {
        maskedByHand[0].weight = largestOf(maskedByHand[0].weight, 4, 2);
        maskedByHand[1].weight = largestOf(maskedByHand[1].weight, m_width * m_hidden, m_width * m_hidden / 2);
        const at::Tensor mask = (at::arange(m_hidden * m_width) % 2).to(at::kBool).reshape(shapeOf(2));
        maskedByHand[2].weight = maskedByHand[2].weight * store(nameOf(0, 2, "mask"), mask).to(at::kDouble);
    }
    masked.bodies = {{0, maskedByHand}};
    return masked;
}

// 4 bits of expert 1's gate in groups of 8; tuned factors of its up at 3 and 8 bits.
inline FormCase StoredForms::bitsCase(const ValuesId& id)
{
    FormCase bits{"bits", whole(), {}, {}, {}, false, kFactors};
    bodyOf(bits, 1).matrices[0].storage = {.bits = 4, .group = 8, .scheme = QuantScheme::Symmetric};
    bodyOf(bits, 1).matrices[1] = {LowRank{.bands = {{1, 8}, {3, 3}}, .bias = false}, {}, id};
    HandBody bitsByHand = own(1);
    {
        const at::Tensor groups = bitsByHand[0].weight.reshape({-1, 8});
        const at::Tensor scale = (groups.abs().amax({1}, true) / 7).to(at::kFloat).to(at::kHalf).to(at::kDouble);
        bitsByHand[0].weight = held((at::round(groups / scale).clamp(-7, 7) * scale).reshape(shapeOf(0)));
        const auto onGrid = [](const at::Tensor& rows, double most) {
            const at::Tensor step = (rows.abs().amax({1}, true) / most).to(at::kHalf).to(at::kDouble);
            return at::round(rows.to(at::kDouble) / step).clamp(-most, most) * step;
        };
        const at::Tensor u = m_values.at(nameOf(1, 1, "U")), v = m_values.at(nameOf(1, 1, "V"));
        at::Tensor sum = at::zeros(shapeOf(1), at::kDouble);
        for (const auto& [first, count, most] : {std::array{0, 1, 127}, std::array{1, 3, 3}})
            sum += at::mm(held(onGrid(u.narrow(1, first, count).t(), most).t()), held(onGrid(v.narrow(0, first, count), most)));
        bitsByHand[1].weight = sum;
    }
    bits.bodies = {{1, bitsByHand}};
    return bits;
}

// Every third channel of expert 2 stays; of expert 3 too, with tuned factors and a stored matrix of what is left.
inline std::vector<FormCase> StoredForms::channelCases(const ValuesId& id)
{
    std::vector<FormCase> all;
    ChannelSet third;
    for (int c = 0; c < m_width; c += 3)
        third.push_back(c);
    const at::Tensor rows = at::tensor(std::vector<std::int64_t>(third.begin(), third.end()), at::kLong);
    FormCase channels{"channels", whole(), {}, {}, {}, true, kFactors};
    bodyOf(channels, 2).channels = third;
    HandBody narrow = own(2);
    for (std::size_t m = 0; m < 3; ++m)
        narrow[m].weight = narrow[m].weight.index_select(m == 2 ? 1 : 0, rows);
    channels.bodies = {{2, narrow}};
    all.push_back(channels);
    FormCase tuned{"channels and stored values", whole(), {}, {}, {}, true, kFactors};
    bodyOf(tuned, 2).channels = third;
    {
        const auto count = std::ssize(third);
        const at::Tensor u = store(nameOf(2, 0, "U"), numbers(80, {count, 3}, 0.3)),
                         v = store(nameOf(2, 0, "V"), numbers(81, {3, m_hidden}, 0.3));
        bodyOf(tuned, 2).matrices[0] = {LowRank{.bands = {{3, 0}}, .bias = false}, {}, id};
        bodyOf(tuned, 2).matrices[2].values = id;
        HandBody hand = narrow;
        hand[0].weight = at::mm(held(u), held(v));
        hand[2].weight = held(store(nameOf(2, 2, "weight"), numbers(82, {m_hidden, count}, 0.2)));
        tuned.bodies = {{2, hand}};
    }
    all.push_back(tuned);
    return all;
}

// Two experts share a base and differ by two directions each.
inline FormCase StoredForms::deltaCase(const ValuesId& id)
{
    FormCase delta{"base and delta", whole(), {}, {}, {}, false, {"reconstructed"}};
    const at::Tensor base = store(baseValueName(m_layer, "mean of up"), (matrix(0, 1) + matrix(3, 1)) / 2);
    for (const int expert : {0, 3}) {
        const at::Tensor u = store(nameOf(expert, 1, "U"), numbers(60 + expert, {m_width, expert == 0 ? 2 : 4}, 0.1));
        const at::Tensor v = store(nameOf(expert, 1, "V"), numbers(70 + expert, {expert == 0 ? 2 : 4, m_hidden}, 0.1));
        bodyOf(delta, expert).matrices[1] = {BaseDelta{.base = "mean of up", .bands = {{static_cast<int>(u.size(1)), 0}}}, {}, id};
        HandBody hand = own(expert);
        hand[1].weight = held(base) + at::mm(held(u), held(v));
        delta.bodies[expert] = hand;
    }
    return delta;
}

inline std::vector<FormCase> StoredForms::cases(const ValuesId& id)
{
    std::vector<FormCase> all = {mergedCase(id)};
    const auto add = [&](std::vector<FormCase> more) { std::move(more.begin(), more.end(), std::back_inserter(all)); };
    add(factorCases(id));  // before bits, which store some of the same factors
    add(replacedCases(id));
    add({maskedCase(id), bitsCase(id)});
    add(channelCases(id));
    add({deltaCase(id)});
    return all;
}

}  // namespace espalier::test
