#include "model/weight_matrix.h"

#include "base/exception.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/InferenceMode.h>

#include <optional>
#include <string_view>
#include <utility>

namespace espalier
{

namespace
{

using Reorder = at::Tensor(const at::Tensor&, std::optional<c10::SymInt>);
using Product = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                           c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);

// The layout is chosen for so many rows; it is the same, and as fast, from 1 to 2,048 (measured).
constexpr std::int64_t kTypicalRows = 256;

// The operators that PyTorch's compiler uses for frozen weights. They are not in any header: looked up by name, once, and tried once for
// every type, because an operator that exists may still throw for want of an instruction set.
struct BlockedProducts {
    std::optional<c10::TypedOperatorHandle<Reorder>> reorder;
    std::optional<c10::TypedOperatorHandle<Product>> product;

    BlockedProducts() = default;  // none
    explicit BlockedProducts(at::ScalarType type)
    {
        if (!at::hasMKLDNN()) return;
        const auto reorderSchema = c10::Dispatcher::singleton().findSchema({"mkldnn::_reorder_linear_weight", ""});
        const auto productSchema = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
        if (!reorderSchema || !productSchema || !reorderSchema->hasKernelForDispatchKey(c10::DispatchKey::CPU)) return;
        reorder = reorderSchema->typed<Reorder>();
        product = productSchema->typed<Product>();
        if (!multiplies(type)) product.reset();
    }
    bool available() const { return product.has_value(); }
    at::Tensor pack(const at::Tensor& rows) const { return reorder->call(rows.contiguous(), c10::SymInt(kTypicalRows)); }
    at::Tensor multiply(const at::Tensor& x, const at::Tensor& matrix, const std::optional<at::Tensor>& bias) const
    {
        return product->call(x, matrix, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
    }

private:
    bool multiplies(at::ScalarType type) const
    {
        const c10::InferenceMode guard;
        const auto full = [&](std::int64_t rows, double value) { return at::full({rows, 64}, value, at::TensorOptions(type)); };
        try {
            // Sums that are exact in any type.
            const at::Tensor matrix = full(64, 0.5);
            const at::Tensor packed = pack(matrix);
            const at::Tensor x = full(kTypicalRows, 1.0);
            const at::Tensor expected = full(kTypicalRows, 32.0);
            return at::equal(multiply(x, packed, {}), expected) && at::equal(multiply(x, matrix, {}), expected) &&
                   at::equal(packed.to_dense(), matrix);
        } catch (const std::exception& failure) {
            if (isOutOfMemory(failure)) throw;  // says nothing about the processor
            return false;
        }
    }
};

const BlockedProducts& blocked(at::ScalarType type)
{
    static const BlockedProducts none;
    if (type == at::kFloat) {
        static const BlockedProducts fp32(at::kFloat);
        return fp32;
    }
    if (type == at::kBFloat16) {
        static const BlockedProducts bf16(at::kBFloat16);
        return bf16;
    }
    return none;
}

}  // namespace

WeightMatrix WeightMatrix::packed(const at::Tensor& rows)
{
    const BlockedProducts& products = blocked(rows.scalar_type());
    if (!products.available() || !rows.device().is_cpu()) return plain(rows.clone());
    WeightMatrix matrix;
    matrix.m_rows = rows.size(0);
    matrix.m_columns = rows.size(1);
    matrix.m_matrix = products.pack(rows);
    matrix.m_packed = true;
    return matrix;
}

WeightMatrix WeightMatrix::plain(at::Tensor rows)
{
    WeightMatrix matrix;
    matrix.m_rows = rows.size(0);
    matrix.m_columns = rows.size(1);
    matrix.m_matrix = std::move(rows);
    return matrix;
}

bool WeightMatrix::hasBlockedProducts(at::ScalarType type) { return blocked(type).available(); }

std::int64_t WeightMatrix::bytes() const
{
    return defined() ? m_rows * m_columns * static_cast<std::int64_t>(c10::elementSize(m_matrix.scalar_type())) : 0;
}

at::Tensor WeightMatrix::product(const at::Tensor& x, const at::Tensor& bias) const
{
    // Row-major matrices take the same way, which rearranges them: still faster than the other library in fp32. It records no gradients.
    if (!m_packed && (x.requires_grad() || !x.device().is_cpu())) return at::linear(x, m_matrix, bias);
    const BlockedProducts& products = blocked(m_matrix.scalar_type());
    if (products.available()) return products.multiply(x, m_matrix, bias.defined() ? std::optional(bias) : std::nullopt);
    if (m_matrix.scalar_type() != at::kBFloat16 || !blocked(at::kFloat).available()) return at::linear(x, m_matrix, bias);
    const std::optional<at::Tensor> added = bias.defined() ? std::optional(bias.to(at::kFloat)) : std::nullopt;
    return blocked(at::kFloat).multiply(x.to(at::kFloat), m_matrix.to(at::kFloat), added).to(at::kBFloat16);
}

at::Tensor WeightMatrix::rowMajor() const { return m_packed ? m_matrix.to_dense() : m_matrix; }

}  // namespace espalier
