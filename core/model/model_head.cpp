#include "model/moe_model_impl.h"

#include "model/layer_gradient.h"
#include "model/norm.h"
#include "model/row_operations.h"

#include <algorithm>
#include <utility>

namespace espalier
{

namespace
{

// Rows of a block in tokenNll: about 16 MB of logits, enough rows for a product that is not bound by reading the head.
constexpr std::int64_t kHeadElements = std::int64_t{1} << 22;
constexpr std::int64_t kHeadRowsMin = 128;
constexpr std::int64_t kHeadRowsMax = 1024;

std::int64_t headRows(std::int64_t vocabulary) { return std::clamp<std::int64_t>(kHeadElements / vocabulary, kHeadRowsMin, kHeadRowsMax); }

// Products of all rows with some rows of the head, some rows at a time, each handed on with the first of its rows. fp32 products of wide
// models run at 1.2 times the speed in oneDNN. Elsewhere one buffer serves all of them: fresh pages for every product would cost more than
// that.
template <typename HandOn>
void eachHeadProduct(const at::Tensor& normed, const at::Tensor& head, std::int64_t most, HandOn&& handOn)
{
    const std::int64_t count = normed.size(0);
    const bool wide = normed.scalar_type() == at::kFloat ? normed.size(1) >= 512 : !WeightMatrix::hasBlockedProducts(normed.scalar_type());
    const WeightMatrix matrix = WeightMatrix::plain(head);
    at::Tensor buffer;
    if (!wide) buffer = at::empty({std::min(most, count), head.size(0)}, normed.options());
    for (std::int64_t begin = 0; begin < count; begin += most) {
        const std::int64_t rows = std::min(most, count - begin);
        at::Tensor product;
        if (wide) {
            product = matrix.product(normed.narrow(0, begin, rows));
        } else {
            product = buffer.narrow(0, 0, rows);
            at::mm_out(product, normed.narrow(0, begin, rows), head.t());
        }
        handOn(product, begin);
    }
}

Status checkTargets(const at::Tensor& targets, std::int64_t vocabulary)
{
    const auto* target = targets.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < targets.numel(); ++i)
        if (target[i] < 0 || target[i] >= vocabulary)
            return badInput(
                "model.token_out_of_range", std::to_string(target[i]),
                {"Token {i} does not exist: the model has {vocabulary} output rows.", {{"i", target[i]}, {"vocabulary", vocabulary}}},
                "Use the tokenizer that belongs to the model.");
    return {};
}

}  // namespace

std::int64_t MoeModel::headBytes() const { return std::int64_t{shape().vocabularySize} * shape().hiddenSize * m_impl->valueBytes(); }

Result<at::Tensor> MoeModel::Impl::normed(const at::Tensor& hidden)
{
    ESPALIER_TRY(const auto globals, store->globals());
    if (!globals->normNonFinite.empty()) return notFiniteWeight(globals->normNonFinite);
    return rmsNorm(placed(hidden), globals->finalNorm, eps);
}

Result<at::Tensor> MoeModel::finalNorm(const at::Tensor& hidden)
{
    const c10::InferenceMode guard;
    const PortableScope scope(m_impl->placement.portable);
    ESPALIER_TRY(const at::Tensor normed, m_impl->normed(hidden));
    return normed.to(at::kCPU);
}

Result<at::Tensor> MoeModel::logits(const at::Tensor& normedRows)
{
    const c10::InferenceMode guard;
    ESPALIER_TRY(const auto globals, m_impl->store->globals());
    if (!globals->headNonFinite.empty()) return notFiniteWeight(globals->headNonFinite);
    at::Tensor product = headProduct(m_impl->placed(normedRows), *globals).to(at::kCPU, at::kFloat);
    ESPALIER_CHECK_OK(m_impl->checkpoint->checkUnchanged());
    return product;
}

Result<at::Tensor> MoeModel::tokenNll(const at::Tensor& hidden, const at::Tensor& ids)
{
    const c10::InferenceMode guard;
    const PortableScope scope(m_impl->placement.portable);
    const std::int64_t batch = hidden.size(0);
    const std::int64_t scored = hidden.size(1) - 1;
    at::Tensor nll = at::empty({batch, std::max<std::int64_t>(scored, 0)}, at::kDouble);
    if (scored <= 0) return nll;
    ESPALIER_TRY(const at::Tensor normed, m_impl->normed(hidden.narrow(1, 0, scored).reshape({batch * scored, hidden.size(2)})));
    const at::Tensor targets = ids.to(at::kLong).narrow(1, 1, scored).reshape({batch * scored}).contiguous();
    const auto* target = targets.const_data_ptr<std::int64_t>();
    auto* out = nll.mutable_data_ptr<double>();
    ESPALIER_TRY(const auto globals, m_impl->store->globals());
    if (!globals->headNonFinite.empty()) return notFiniteWeight(globals->headNonFinite);
    const std::int64_t vocabulary = globals->vocabulary;
    ESPALIER_CHECK_OK(checkTargets(targets, vocabulary));
    const std::int64_t headBlock = headBlockRows(vocabulary, normed.size(1));
    if (headBlock < vocabulary && !m_impl->placement.portable) {
        BlockedNll sums({target, static_cast<std::size_t>(targets.numel())});
        for (std::int64_t first = 0; first < vocabulary; first += headBlock)
            eachHeadProduct(normed, globals->headRows(first, std::min(headBlock, vocabulary - first)), kHeadRowsMax,
                            [&](const at::Tensor& logits, std::int64_t row) { sums.add(logits, row, first); });
        sums.finish(out);
    } else {
        eachHeadProduct(normed, globals->headRows(0, vocabulary), headRows(vocabulary),
                        [&](const at::Tensor& logits, std::int64_t row) { negativeLogLikelihood(logits, target + row, out + row); });
    }
    ESPALIER_CHECK_OK(m_impl->checkpoint->checkUnchanged());
    if (!at::isfinite(nll).all().item<bool>()) return notFiniteResult("the output head");
    return nll;
}

namespace
{

// Positions that are scored, without the last of each window.
at::Tensor scoredRows(const at::Tensor& hidden)
{
    const std::int64_t scored = hidden.size(1) - 1;
    return hidden.narrow(1, 0, scored).reshape({hidden.size(0) * scored, hidden.size(2)});
}

}  // namespace

Result<at::Tensor> MoeModel::headGradient(const at::Tensor& hidden, const at::Tensor& targets)
{
    const c10::InferenceMode guard;
    at::Tensor gradient = at::zeros(hidden.sizes(), hidden.options().dtype(at::kFloat));
    if (hidden.size(1) < 2) return gradient;
    const PortableScope scope(m_impl->placement.portable);
    const at::Tensor rows = m_impl->placed(scoredRows(hidden));
    ESPALIER_TRY(const at::Tensor normed, m_impl->normed(rows));
    ESPALIER_TRY(const auto globals, m_impl->store->globals());
    if (!globals->headNonFinite.empty()) return notFiniteWeight(globals->headNonFinite);
    const at::Tensor flat = targets.to(at::kLong).reshape({-1}).contiguous();
    if (flat.numel() != rows.size(0)) return internalError("headGradient: targets do not fit the hidden states");
    const std::int64_t vocabulary = globals->vocabulary;
    ESPALIER_CHECK_OK(checkTargets(flat, vocabulary));
    const at::Tensor above = espalier::headGradient(normed, m_impl->placed(flat), *globals, headRows(vocabulary));
    const at::Tensor below = rmsNormGradient(rows, globals->finalNorm, above, m_impl->eps);
    gradient.narrow(1, 0, hidden.size(1) - 1).copy_(below.view({hidden.size(0), hidden.size(1) - 1, hidden.size(2)}));
    ESPALIER_CHECK_OK(m_impl->checkpoint->checkUnchanged());
    if (!allFinite(gradient)) return notFiniteResult("the output head");
    return gradient;
}

Result<at::Tensor> MoeModel::drawTokens(const at::Tensor& hidden, const at::Tensor& uniform)
{
    const c10::InferenceMode guard;
    const std::int64_t scored = std::max<std::int64_t>(hidden.size(1) - 1, 0);
    at::Tensor drawn = at::empty({hidden.size(0), scored}, at::kLong);
    if (scored == 0) return drawn;
    const PortableScope scope(m_impl->placement.portable);
    ESPALIER_TRY(const at::Tensor normed, m_impl->normed(scoredRows(hidden)));
    ESPALIER_TRY(const auto globals, m_impl->store->globals());
    if (!globals->headNonFinite.empty()) return notFiniteWeight(globals->headNonFinite);
    const std::int64_t vocabulary = globals->vocabulary;
    const std::int64_t blockRows = headRows(vocabulary);
    const at::Tensor at = m_impl->placed(uniform.to(at::kDouble).reshape({-1, 1}));
    at::Tensor flat = drawn.view({-1});
    for (std::int64_t begin = 0; begin < flat.numel(); begin += blockRows) {
        const std::int64_t rows = std::min(blockRows, flat.numel() - begin);
        const at::Tensor logits = headProduct(normed.narrow(0, begin, rows), *globals).to(at::kDouble);
        const at::Tensor reached = at::softmax(logits, 1).cumsum(1);
        // The sum of all probabilities may end a little below 1.
        flat.narrow(0, begin, rows).copy_((reached <= at.narrow(0, begin, rows)).sum({1}).clamp_max(vocabulary - 1));
    }
    ESPALIER_CHECK_OK(m_impl->checkpoint->checkUnchanged());
    return drawn;
}

}  // namespace espalier
