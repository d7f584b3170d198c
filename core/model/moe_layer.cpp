#include "model/moe_layer.h"

#include "model/placement.h"
#include "model/row_operations.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <span>
#include <utility>

namespace espalier
{

at::Tensor GatedMlp::hidden(const at::Tensor& x) const
{
    at::Tensor h = gate(x);
    siluMul(h, up(x));
    return h;
}

namespace
{

// The tokens that reach a body through one of its columns.
struct ColumnRows {
    int expert = 0;  // original id of the column
    std::vector<std::int64_t> tokens, rows;
    std::vector<float> weights;
};

// One expert's share of a batch.
struct ExpertRows {
    const PlannedBody* body = nullptr;
    const Linear* forms = nullptr;
    at::Tensor tokens;      // [M] int64 rows of the batch, ascending
    at::Tensor weights;     // [M] fp32
    at::Tensor in, hidden;  // [M,H], [M,I]; kept for an observer only
    at::Tensor out;         // [M,H]; [1,H] of a constant, the same for all tokens
    bool constant = false;
    std::vector<ColumnRows> columns;  // for an observer, where several lead here
};

// By column: what a row of the router stands for is measured of the tokens that chose it.
std::vector<ColumnRows> columnsOf(const RoutedBatch& routed, const PlannedLayer& plan, std::size_t body, const BodyTokens& own)
{
    std::map<int, ColumnRows> byColumn;
    const auto* selected = routed.tokens.selected.const_data_ptr<std::int64_t>();
    const auto* token = routed.groups.order.const_data_ptr<std::int64_t>();
    const auto* weight = routed.weights.const_data_ptr<float>();
    const std::int64_t begin = routed.groups.offsets[body];
    for (std::int64_t i = 0; i < routed.slotsOf(body); ++i) {
        const std::int64_t slot = routed.groups.slots[static_cast<std::size_t>(begin + i)];
        const int expert = plan.columns[static_cast<std::size_t>(selected[slot])];
        ColumnRows& rows = byColumn[expert];
        rows.expert = expert;
        rows.tokens.push_back(token[begin + i]);
        rows.rows.push_back(own.rowOf.empty() ? i : own.rowOf[static_cast<std::size_t>(i)]);
        rows.weights.push_back(weight[begin + i]);
    }
    std::vector<ColumnRows> columns;
    columns.reserve(byColumn.size());
    for (auto& [expert, rows] : byColumn)
        columns.push_back(std::move(rows));
    return columns;
}

// in [M,H], hidden [M,I], out [M,H] on the host.
void tell(LayerObserver& observer, int layer, const ExpertRows& rows, const at::Tensor& in, const at::Tensor& hidden, const at::Tensor& out)
{
    if (rows.columns.empty()) {
        observer.expert(layer, rows.body->column, rows.tokens, in, hidden, out, rows.weights);
        return;
    }
    for (const ColumnRows& column : rows.columns) {
        const at::Tensor index = at::tensor(column.rows, at::kLong);
        observer.expert(layer, column.expert, at::tensor(column.tokens, at::kLong), in.index_select(0, index),
                        hidden.index_select(0, index), out.index_select(0, index), at::tensor(column.weights, at::kFloat));
    }
}

at::Tensor onHost(const at::Tensor& x) { return x.to(at::kCPU); }

// What an observer wants to see may be held for several experts at once, up to so many bytes.
constexpr std::int64_t kObservedBytes = std::int64_t{64} << 20;

void runExpert(const at::Tensor& x, const LayerWeights& weights, ExpertRows& rows, bool observed)
{
    if (rows.constant) return;
    const std::int64_t count = rows.tokens.numel();
    const at::Tensor in = gatherPadded(x, rows.tokens);
    const PlannedExpert expert = plannedExpert(weights, rows.body->expert, rows.forms);
    const at::Tensor hidden = expert.mlp.hidden(in);
    rows.out = expert.mlp.down(hidden).narrow(0, 0, count);
    if (!observed) return;
    rows.in = in.narrow(0, 0, count);
    rows.hidden = hidden.narrow(0, 0, count);
}

// Whole experts side by side, one thread each: no waiting for one another inside a product, and the result does not depend on the number
// of threads. Where there are too few experts to keep all threads busy the products themselves are shared out.
void runSideBySide(const at::Tensor& x, const LayerWeights& weights, std::span<ExpertRows> work, bool observed)
{
    const auto threads = static_cast<std::size_t>(at::get_num_threads());
    if (threads < 2 || work.size() < 2 * threads) {
        for (ExpertRows& rows : work)
            runExpert(x, weights, rows, observed);
        return;
    }
    std::vector<ExpertRows*> order;
    order.reserve(work.size());
    for (ExpertRows& rows : work)
        order.push_back(&rows);
    // The longest first, so that none is left alone at the end.
    std::stable_sort(order.begin(), order.end(),
                     [](const ExpertRows* a, const ExpertRows* b) { return a->tokens.numel() > b->tokens.numel(); });
    std::atomic<std::size_t> next = 0;
    at::parallel_for(0, static_cast<std::int64_t>(threads), 1, [&](std::int64_t, std::int64_t) {
        const c10::InferenceMode guard;
        for (std::size_t i = next++; i < order.size(); i = next++)
            runExpert(x, weights, *order[i], observed);
    });
}

void runExperts(int layer, const at::Tensor& x, const LayerWeights& weights, std::vector<ExpertRows>& work, LayerObserver* observer)
{
    if (!observer) {
        runSideBySide(x, weights, work, false);
        return;
    }
    const std::int64_t rowBytes = 2 * x.size(1) * static_cast<std::int64_t>(x.element_size());
    for (std::size_t first = 0; first < work.size();) {
        std::size_t last = first;
        for (std::int64_t bytes = 0; last < work.size() && (last == first || bytes <= kObservedBytes); ++last)
            bytes += work[last].tokens.numel() * rowBytes;
        runSideBySide(x, weights, std::span(work).subspan(first, last - first), true);
        for (; first < last; ++first) {
            ExpertRows& rows = work[first];
            if (rows.constant) continue;
            tell(*observer, layer, rows, rows.in, rows.hidden, rows.out);
            rows.in.reset();
            rows.hidden.reset();
        }
    }
}

// The portable way: one expert after the other by ATen's operations, summed up on the device in the same order and with the same
// roundings as sumWeightedRows.
at::Tensor runPortably(int layer, const at::Tensor& x, const LayerWeights& weights, std::vector<ExpertRows>& work, LayerObserver* observer)
{
    at::Tensor out = at::zeros_like(x);
    for (ExpertRows& rows : work) {
        const at::Tensor tokens = rows.tokens.to(x.device());
        const at::Tensor weight = rows.weights.to(x.device()).unsqueeze(1);
        if (rows.constant) {
            out.index_add_(0, tokens, (rows.out.to(at::kFloat) * weight).to(x.scalar_type()));
            continue;
        }
        const at::Tensor in = x.index_select(0, tokens);
        const PlannedExpert expert = plannedExpert(weights, rows.body->expert, rows.forms);
        const at::Tensor hidden = expert.mlp.hidden(in);
        const at::Tensor result = expert.mlp.down(hidden);
        out.index_add_(0, tokens, (result.to(at::kFloat) * weight).to(x.scalar_type()));
        if (observer) tell(*observer, layer, rows, onHost(in), onHost(hidden), onHost(result));
    }
    return out;
}

// sum over the bodies of a token, by ascending expert: weight * output. `shared`: columns may lead to one body, or be skipped, and a
// token have fewer bodies than columns.
at::Tensor combined(const at::Tensor& x, const std::vector<ExpertRows>& work, int topK, bool shared)
{
    at::Tensor out = at::empty_like(x);
    const std::int64_t tokens = x.size(0);
    const std::int64_t rowBytes = x.size(1) * static_cast<std::int64_t>(x.element_size());
    std::vector<const std::byte*> row(static_cast<std::size_t>(tokens * topK));
    std::vector<float> weight(row.size());
    std::vector<int> filled(static_cast<std::size_t>(tokens), 0);
    for (const ExpertRows& rows : work) {
        const auto* token = rows.tokens.const_data_ptr<std::int64_t>();
        const auto* weights = rows.weights.const_data_ptr<float>();
        const auto* first = static_cast<const std::byte*>(rows.out.const_data_ptr());
        for (std::int64_t i = 0; i < rows.tokens.numel(); ++i) {
            const auto place = static_cast<std::size_t>(token[i] * topK + filled[static_cast<std::size_t>(token[i])]++);
            row[place] = rows.constant ? first : first + i * rowBytes;
            weight[place] = weights[i];
        }
    }
    // Nothing times a row that is there.
    for (std::size_t t = 0; shared && t < filled.size(); ++t)
        for (int i = filled[t]; i < topK; ++i) {
            row[t * static_cast<std::size_t>(topK) + static_cast<std::size_t>(i)] = row[t * static_cast<std::size_t>(topK)];
            weight[t * static_cast<std::size_t>(topK) + static_cast<std::size_t>(i)] = 0;
        }
    sumWeightedRows(row, weight, topK, out);
    return out;
}

}  // namespace

PlannedExpert plannedExpert(const LayerWeights& weights, int expert, const Linear* forms)
{
    if (forms && forms[0].defined() && forms[1].defined() && forms[2].defined())
        return {.own = nullptr, .mlp = {.gate = forms[0], .up = forms[1], .down = forms[2]}};
    PlannedExpert planned;
    planned.own = weights.expert(expert);
    planned.mlp = *planned.own;
    if (!forms) return planned;
    if (forms[0].defined()) planned.mlp.gate = forms[0];
    if (forms[1].defined()) planned.mlp.up = forms[1];
    if (forms[2].defined()) planned.mlp.down = forms[2];
    return planned;
}

GatedMlp plannedMlp(const GatedMlp& own, const PlannedLayer& plan, const std::vector<Linear>& forms)
{
    GatedMlp mlp = own;
    const std::size_t first = 3 * plan.bodies.size();
    if (forms.size() < first + 3) return mlp;
    if (forms[first].defined()) mlp.gate = forms[first];
    if (forms[first + 1].defined()) mlp.up = forms[first + 1];
    if (forms[first + 2].defined()) mlp.down = forms[first + 2];
    return mlp;
}

at::Tensor RoutedBatch::selectedIds(const PlannedLayer& plan) const
{
    if (plan.allColumns) return tokens.selected;
    return plan.columnIndex.index_select(0, tokens.selected.view({-1})).view_as(tokens.selected);
}

BodyTokens RoutedBatch::tokensOf(std::size_t body) const
{
    const std::int64_t begin = groups.offsets[body];
    const std::int64_t count = slotsOf(body);
    BodyTokens result{groups.order.narrow(0, begin, count), weights.narrow(0, begin, count), {}};
    // Slots are in the order of tokens, those of one token by weight.
    const auto* token = result.tokens.const_data_ptr<std::int64_t>();
    if (std::adjacent_find(token, token + count) == token + count) return result;
    const auto* weight = result.weights.const_data_ptr<float>();
    std::vector<std::int64_t> tokens;
    std::vector<float> sums;
    for (std::int64_t i = 0; i < count; ++i) {
        if (tokens.empty() || tokens.back() != token[i]) {
            tokens.push_back(token[i]);
            sums.push_back(weight[i]);
        } else {
            sums.back() += weight[i];
        }
        result.rowOf.push_back(std::ssize(tokens) - 1);
    }
    result.tokens = at::tensor(tokens, at::kLong);
    result.weights = at::tensor(sums, at::kFloat);
    return result;
}

RoutedBatch routeBatch(const at::Tensor& x, const LayerWeights& weights, const PlannedLayer& plan, const MoeArithmetic& arithmetic)
{
    RoutedBatch batch;
    if (plan.routerRows.defined())
        batch.rows = plan.routerRows;
    else
        batch.rows = plan.allColumns ? weights.router : weights.router.index_select(0, plan.columnIndex.to(x.device()));
    batch.logits = onHost((arithmetic.routerInFp32 ? at::linear(x.to(at::kFloat), batch.rows) : at::linear(x, batch.rows)).to(at::kFloat))
                       .contiguous();
    batch.bias =
        plan.allColumns || !weights.routerBias.defined() ? weights.routerBias : weights.routerBias.index_select(0, plan.columnIndex);
    batch.tokens =
        routeTokens(plan.router, batch.logits, batch.bias, arithmetic.weightsRounded ? arithmetic.compute : at::ScalarType::Float);
    const at::Tensor& selected = batch.tokens.selected;
    batch.groups = groupTokens(plan.bodyIndex.defined() ? plan.bodyIndex.index_select(0, selected.view({-1})).view_as(selected) : selected,
                               static_cast<int>(plan.bodies.size()), batch.tokens.skipped);
    batch.weights = at::empty({std::ssize(batch.groups.slots)}, at::kFloat);
    const float* bySlot = batch.tokens.weights.const_data_ptr<float>();
    float* out = batch.weights.mutable_data_ptr<float>();
    for (const std::int64_t slot : batch.groups.slots)
        *out++ = bySlot[slot];
    return batch;
}

at::Tensor moeForward(int layer, const at::Tensor& x, const LayerWeights& weights, const PlannedLayer& plan,
                      const std::vector<Linear>& forms, const MoeArithmetic& arithmetic, LayerObserver* observer)
{
    return moeForward(layer, x, weights, plan, forms, routeBatch(x, weights, plan, arithmetic), observer);
}

at::Tensor moeForward(int layer, const at::Tensor& x, const LayerWeights& weights, const PlannedLayer& plan,
                      const std::vector<Linear>& forms, const RoutedBatch& routed, LayerObserver* observer)
{
    std::vector<ExpertRows> work;
    for (std::size_t body = 0; body < plan.bodies.size(); ++body) {
        if (routed.slotsOf(body) == 0) continue;
        ExpertRows rows;
        rows.body = &plan.bodies[body];
        if (rows.body->constant.defined()) {
            rows.constant = true;
            rows.out = rows.body->constant;
        }
        BodyTokens own = routed.tokensOf(body);
        if (observer && plan.bodyIndex.defined() && !rows.constant) rows.columns = columnsOf(routed, plan, body, own);
        rows.tokens = std::move(own.tokens);
        rows.weights = std::move(own.weights);
        rows.forms = forms.empty() ? nullptr : &forms[3 * body];
        work.push_back(std::move(rows));
    }
    at::Tensor sum;
    if (takesPortableWay(x)) {
        sum = runPortably(layer, x, weights, work, observer);
    } else {
        runExperts(layer, x, weights, work, observer);
        sum = combined(x, work, plan.router.topK, plan.bodyIndex.defined() || routed.tokens.skipped.defined());
    }
    at::Tensor out = sum;

    if (weights.shared.defined()) {
        const GatedMlp mlp = plannedMlp(weights.shared, plan, forms);
        const at::Tensor hidden = mlp.hidden(x);
        const at::Tensor shared = mlp.down(hidden);
        const at::Tensor gate = weights.sharedGate.defined() ? at::sigmoid(at::linear(x, weights.sharedGate)) : at::Tensor();
        out = gate.defined() ? sum + gate * shared : sum + shared;
        if (observer) observer->shared(layer, onHost(hidden), gate.defined() ? onHost(gate) : gate);
    }
    if (observer) {
        MoeBatch batch;
        batch.layer = layer;
        batch.input = onHost(x);
        batch.kept = plan.columnIndex;
        batch.routerLogits = routed.logits;
        batch.selectionBias = routed.bias;
        batch.selected = routed.selectedIds(plan);
        batch.weights = routed.tokens.weights;
        batch.routed = onHost(sum);
        batch.output = onHost(out);
        observer->moe(batch);
    }
    return out;
}

}  // namespace espalier
