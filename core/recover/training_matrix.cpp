#include "recover/training_matrix.h"

#include "base/random.h"

#include <ATen/CPUGeneratorImpl.h>

#include <utility>

namespace espalier
{

at::Tensor Dropout::mask(std::uint64_t place, at::IntArrayRef shape, c10::Device device) const
{
    if (share <= 0) return {};
    at::Tensor mask = at::empty(shape, at::kFloat);
    Random random = Random::forPurpose(seed, "dropout", place);
    const auto kept = static_cast<float>(1 / (1 - share));
    const auto bound = static_cast<std::uint32_t>(share * 4294967296.0);
    auto* to = mask.mutable_data_ptr<float>();
    const std::int64_t count = mask.numel();
    // Two numbers of 32 bits from one of 64.
    for (std::int64_t i = 0; i < count; i += 2) {
        const std::uint64_t bits = random.next();
        to[i] = static_cast<std::uint32_t>(bits) < bound ? 0.0f : kept;
        if (i + 1 < count) to[i + 1] = static_cast<std::uint32_t>(bits >> 32) < bound ? 0.0f : kept;
    }
    return mask.to(device);
}

namespace
{

at::Tensor masked(const at::Tensor& x, const at::Tensor& mask) { return mask.defined() ? x * mask : x; }

// y += scale * b (a seen)
void add(const Adapter& adapter, const at::Tensor& seen, double scale, at::Tensor& y, AdapterTape* tape)
{
    at::Tensor low = at::mm(seen, adapter.a.t());
    y.addmm_(low, adapter.b.t(), 1, scale);
    if (!tape) return;
    tape->seen = seen;
    tape->low = std::move(low);
}

// The gradient of what a saw is added to `dseen`, where that is defined.
void addGradients(const Adapter& adapter, const AdapterTape& tape, const at::Tensor& dy, double scale, at::Tensor& dseen)
{
    at::Tensor gradientB = adapter.gradientB;
    at::Tensor gradientA = adapter.gradientA;
    gradientB.addmm_(dy.t(), tape.low, 1, scale);
    const at::Tensor dlow = at::mm(dy, adapter.b);
    gradientA.addmm_(dlow.t(), tape.seen, 1, scale);
    if (dseen.defined()) dseen.addmm_(dlow, adapter.a, 1, scale);
}

}  // namespace

at::Tensor forwardMatrix(const Linear& linear, const MatrixAdapters& adapters, const at::Tensor& x, const at::Tensor& seen,
                         const AdapterPass& pass, MatrixTape* tape)
{
    at::Tensor y;
    if (linear.u.defined()) {
        at::Tensor between = linear.v.product(x);
        if (adapters.v.defined()) add(adapters.v, seen, pass.scale, between, tape ? &tape->v : nullptr);
        y = linear.u.product(between, linear.bias);
        if (adapters.u.defined()) {
            const at::Tensor mask = pass.dropout.mask(adapters.u.index, between.sizes(), x.device());
            add(adapters.u, masked(between, mask), pass.scale, y, tape ? &tape->u : nullptr);
            if (tape) tape->u.mask = mask;
        }
        if (tape) tape->between = between;
        if (linear.weight.defined()) y.add_(linear.weight.product(x));
    } else {
        y = linear.weight.product(x, linear.bias);
    }
    if (adapters.weight.defined()) add(adapters.weight, seen, pass.scale, y, tape ? &tape->weight : nullptr);
    return y;
}

void backwardMatrix(const Linear& linear, const MatrixAdapters& adapters, const MatrixTape& tape, const at::Tensor& dy,
                    const AdapterPass& pass, at::Tensor& dx, at::Tensor& dseen)
{
    if (adapters.weight.defined()) addGradients(adapters.weight, tape.weight, dy, pass.scale, dseen);
    if (linear.u.defined()) {
        at::Tensor between = at::mm(dy, linear.u.rowMajor());
        if (adapters.u.defined()) {
            if (tape.u.mask.defined()) {
                at::Tensor dropped = at::zeros_like(between);
                addGradients(adapters.u, tape.u, dy, pass.scale, dropped);
                between.addcmul_(dropped, tape.u.mask);
            } else {
                addGradients(adapters.u, tape.u, dy, pass.scale, between);
            }
        }
        if (adapters.v.defined()) addGradients(adapters.v, tape.v, between, pass.scale, dseen);
        if (dx.defined()) dx.addmm_(between, linear.v.rowMajor());
    }
    if (linear.weight.defined() && dx.defined()) dx.addmm_(dy, linear.weight.rowMajor());
}

namespace
{

const MatrixAdapters kNone;

const MatrixAdapters& of(const MlpAdapters* adapters, std::size_t matrix) { return adapters ? (*adapters)[matrix] : kNone; }

bool seesInput(const MatrixAdapters& adapters) { return adapters.weight.defined() || adapters.v.defined(); }

std::uint64_t placeOf(const MatrixAdapters& adapters) { return adapters.weight.defined() ? adapters.weight.index : adapters.v.index; }

}  // namespace

at::Tensor forwardMlp(const GatedMlp& mlp, const MlpAdapters* adapters, const at::Tensor& x, const at::Tensor& seen,
                      const AdapterPass& pass, MlpTape* tape)
{
    at::Tensor gate = forwardMatrix(mlp.gate, of(adapters, 0), x, seen, pass, tape ? &tape->matrices[0] : nullptr);
    at::Tensor up = forwardMatrix(mlp.up, of(adapters, 1), x, seen, pass, tape ? &tape->matrices[1] : nullptr);
    const at::Tensor hidden = at::silu(gate).mul_(up);
    const MatrixAdapters& down = of(adapters, 2);
    const at::Tensor mask = seesInput(down) ? pass.dropout.mask(placeOf(down), hidden.sizes(), x.device()) : at::Tensor();
    at::Tensor y = forwardMatrix(mlp.down, down, hidden, masked(hidden, mask), pass, tape ? &tape->matrices[2] : nullptr);
    if (tape) {
        tape->x = x;
        tape->seen = seen;
        tape->gate = std::move(gate);
        tape->up = std::move(up);
        tape->hidden = hidden;
        tape->hiddenMask = mask;
    }
    return y;
}

void backwardMlp(const GatedMlp& mlp, const MlpAdapters* adapters, const MlpTape& tape, const at::Tensor& dy, const AdapterPass& pass,
                 at::Tensor& dx, at::Tensor& dseen)
{
    at::Tensor dhidden = at::zeros_like(tape.hidden);
    if (tape.hiddenMask.defined()) {
        at::Tensor dropped = at::zeros_like(tape.hidden);
        backwardMatrix(mlp.down, of(adapters, 2), tape.matrices[2], dy, pass, dhidden, dropped);
        dhidden.addcmul_(dropped, tape.hiddenMask);
    } else {
        backwardMatrix(mlp.down, of(adapters, 2), tape.matrices[2], dy, pass, dhidden, dhidden);
    }
    const at::Tensor dup = at::silu(tape.gate).mul_(dhidden);
    const at::Tensor dgate = at::silu_backward(dhidden.mul_(tape.up), tape.gate);
    backwardMatrix(mlp.gate, of(adapters, 0), tape.matrices[0], dgate, pass, dx, dseen);
    backwardMatrix(mlp.up, of(adapters, 1), tape.matrices[1], dup, pass, dx, dseen);
}

}  // namespace espalier
