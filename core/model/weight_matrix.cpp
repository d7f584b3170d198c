#include "model/weight_matrix.h"

#include <ATen/core/dispatch/Dispatcher.h>

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

// The operators that PyTorch's compiler uses for frozen weights. They are not in any header: looked up by name, once.
struct BlockedProducts {
    std::optional<c10::TypedOperatorHandle<Reorder>> reorder;
    std::optional<c10::TypedOperatorHandle<Product>> product;

    BlockedProducts()
    {
        if (!at::hasMKLDNN()) return;
        const auto reorderSchema = c10::Dispatcher::singleton().findSchema({"mkldnn::_reorder_linear_weight", ""});
        const auto productSchema = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
        if (!reorderSchema || !productSchema || !reorderSchema->hasKernelForDispatchKey(c10::DispatchKey::CPU)) return;
        reorder = reorderSchema->typed<Reorder>();
        product = productSchema->typed<Product>();
    }
    bool available() const { return product.has_value(); }
};

const BlockedProducts& blocked()
{
    static const BlockedProducts products;
    return products;
}

// The layout is chosen for so many rows; it is the same, and as fast, from 1 to 2,048 (measured).
constexpr std::int64_t kTypicalRows = 256;

}  // namespace

WeightMatrix WeightMatrix::packed(const at::Tensor& rows)
{
    if (!blocked().available() || !rows.device().is_cpu()) return plain(rows.clone());
    WeightMatrix matrix;
    matrix.m_rows = rows.size(0);
    matrix.m_columns = rows.size(1);
    matrix.m_matrix = blocked().reorder->call(rows.contiguous(), c10::SymInt(kTypicalRows));
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

std::int64_t WeightMatrix::bytes() const
{
    return defined() ? m_rows * m_columns * static_cast<std::int64_t>(c10::elementSize(m_matrix.scalar_type())) : 0;
}

at::Tensor WeightMatrix::product(const at::Tensor& x, const at::Tensor& bias) const
{
    // Row-major matrices take the same way, which rearranges them: still faster than the other library in fp32. It records no gradients.
    if (!m_packed && (x.requires_grad() || !blocked().available() || !x.device().is_cpu())) return at::linear(x, m_matrix, bias);
    const std::optional<at::Tensor> added = bias.defined() ? std::optional(bias) : std::nullopt;
    return blocked().product->call(x, m_matrix, added, "none", c10::List<std::optional<at::Scalar>>(), "");
}

at::Tensor WeightMatrix::rowMajor() const { return m_packed ? m_matrix.to_dense() : m_matrix; }

}  // namespace espalier
