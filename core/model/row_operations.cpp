#include "model/row_operations.h"

#include "model/kernels.h"
#include "model/placement.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace espalier
{

namespace
{

bool inFp32(const at::Tensor& x) { return x.scalar_type() == at::kFloat; }

const std::uint16_t* bits(const at::Tensor& x) { return reinterpret_cast<const std::uint16_t*>(x.const_data_ptr<at::BFloat16>()); }
std::uint16_t* bits(at::Tensor& x) { return reinterpret_cast<std::uint16_t*>(x.mutable_data_ptr<at::BFloat16>()); }

}  // namespace

std::int64_t paddedRows(std::int64_t rows)
{
    // At most an eighth more beyond 64 rows; tiles of the matrix units are 16 rows high.
    const std::int64_t step = rows <= 32 ? 4 : rows <= 128 ? 8 : 16;
    return (rows + step - 1) / step * step;
}

at::Tensor gatherPadded(const at::Tensor& x, const at::Tensor& index)
{
    if (takesPortableWay(x)) return x.index_select(0, index.to(x.device()));
    const std::int64_t rows = index.numel();
    at::Tensor out = at::empty({paddedRows(rows), x.size(1)}, x.options());
    kernels::gatherRows(static_cast<const std::byte*>(x.const_data_ptr()), index.const_data_ptr<std::int64_t>(),
                        static_cast<std::byte*>(out.mutable_data_ptr()), rows, x.size(1) * static_cast<std::int64_t>(x.element_size()));
    out.narrow(0, rows, out.size(0) - rows).zero_();
    return out;
}

at::Tensor padded(const at::Tensor& x)
{
    const std::int64_t rows = x.size(0);
    if (takesPortableWay(x) || paddedRows(rows) == rows) return x;
    at::Tensor out = at::empty({paddedRows(rows), x.size(1)}, x.options());
    out.narrow(0, 0, rows).copy_(x);
    out.narrow(0, rows, out.size(0) - rows).zero_();
    return out;
}

void sumWeightedRows(std::span<const std::byte* const> rows, std::span<const float> weight, int k, at::Tensor& out)
{
    if (inFp32(out))
        kernels::sumWeightedRows(rows.data(), weight.data(), k, out.mutable_data_ptr<float>(), out.size(0), out.size(1));
    else
        kernels::sumWeightedRows(rows.data(), weight.data(), k, bits(out), out.size(0), out.size(1));
}

void siluMul(at::Tensor& gate, const at::Tensor& up)
{
    if (takesPortableWay(gate))
        gate = at::silu(gate).mul_(up);
    else if (inFp32(gate))
        kernels::siluMul(gate.mutable_data_ptr<float>(), up.const_data_ptr<float>(), gate.numel());
    else
        kernels::siluMul(bits(gate), bits(up), gate.numel());
}

RowEnergy rowEnergy(const at::Tensor& x)
{
    const at::Tensor dense = x.contiguous();
    const std::int64_t rows = dense.size(0);
    RowEnergy result{std::vector<double>(static_cast<std::size_t>(rows)), std::vector<float>(static_cast<std::size_t>(rows))};
    if (inFp32(dense))
        kernels::rowEnergy(dense.const_data_ptr<float>(), result.energy.data(), result.largest.data(), rows, dense.size(1));
    else
        kernels::rowEnergy(bits(dense), result.energy.data(), result.largest.data(), rows, dense.size(1));
    return result;
}

void pairProducts(const at::Tensor& x, std::int64_t size, double* out)
{
    if (inFp32(x))
        kernels::pairProducts(x.const_data_ptr<float>(), x.size(0) / size, size, x.size(1), out);
    else
        kernels::pairProducts(bits(x), x.size(0) / size, size, x.size(1), out);
}

bool allFinite(const at::Tensor& x)
{
    if (takesPortableWay(x)) return at::isfinite(x).all().item<bool>();
    if (!x.is_contiguous()) return allFinite(x.contiguous());
    return inFp32(x) ? kernels::allFinite(x.const_data_ptr<float>(), x.numel()) : kernels::allFiniteBf16(bits(x), x.numel());
}

void negativeLogLikelihood(const at::Tensor& logits, const std::int64_t* target, double* out)
{
    if (takesPortableWay(logits)) {
        at::Tensor index = at::empty({logits.size(0), 1}, at::kLong);
        std::copy_n(target, logits.size(0), index.mutable_data_ptr<std::int64_t>());
        const at::Tensor picked = at::log_softmax(logits.to(at::kFloat), 1).gather(1, index.to(logits.device()));
        const at::Tensor nll = picked.neg().to(at::kCPU, at::kDouble).contiguous();
        std::copy_n(nll.const_data_ptr<double>(), logits.size(0), out);
        return;
    }
    if (inFp32(logits))
        kernels::negativeLogLikelihood(logits.const_data_ptr<float>(), target, out, logits.size(0), logits.size(1));
    else
        kernels::negativeLogLikelihood(bits(logits), target, out, logits.size(0), logits.size(1));
}

BlockedNll::BlockedNll(std::span<const std::int64_t> targets)
    : m_targets(targets),
      m_largest(targets.size(), -std::numeric_limits<double>::infinity()),
      m_sum(targets.size(), 0.0),
      m_logit(targets.size(), 0.0)
{
}

void BlockedNll::add(const at::Tensor& logits, std::int64_t row, std::int64_t column)
{
    const std::int64_t rows = logits.size(0);
    const std::int64_t width = logits.size(1);
    if (inFp32(logits))
        kernels::addExponentials(logits.const_data_ptr<float>(), m_largest.data() + row, m_sum.data() + row, rows, width);
    else
        kernels::addExponentials(bits(logits), m_largest.data() + row, m_sum.data() + row, rows, width);
    for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t at = m_targets[static_cast<std::size_t>(row + r)] - column;
        if (at < 0 || at >= width) continue;
        const std::int64_t place = r * width + at;
        m_logit[static_cast<std::size_t>(row + r)] =
            inFp32(logits) ? logits.const_data_ptr<float>()[place] : static_cast<float>(logits.const_data_ptr<at::BFloat16>()[place]);
    }
}

void BlockedNll::finish(double* out) const
{
    for (std::size_t i = 0; i < m_targets.size(); ++i)
        out[i] = std::log(m_sum[i]) + m_largest[i] - m_logit[i];
}

}  // namespace espalier
