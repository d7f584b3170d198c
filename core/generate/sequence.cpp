#include "generate/sequence.h"

#include <algorithm>
#include <vector>

namespace espalier
{

namespace
{

// Tokens that go through a layer together: as many as windows of an evaluation have.
constexpr std::int64_t kPart = 2048;

}  // namespace

Result<Sequence> Sequence::begin(MoeModel& model, PreparedPlan plan, std::int64_t capacity)
{
    ESPALIER_TRY(KvCache cache, model.makeCache(capacity));
    return Sequence(model, std::move(plan), std::move(cache));
}

Result<at::Tensor> Sequence::feed(std::span<const int> ids, JobContext& job)
{
    const c10::InferenceMode guard;
    const auto count = static_cast<std::int64_t>(ids.size());
    at::Tensor row = at::empty({1, count}, at::kLong);
    std::copy(ids.begin(), ids.end(), row.mutable_data_ptr<std::int64_t>());
    std::vector<at::Tensor> parts;
    for (std::int64_t begin = 0; begin < count; begin += kPart) {
        ESPALIER_TRY(parts.emplace_back(), m_model->embed(row.narrow(1, begin, std::min(kPart, count - begin))));
    }
    for (int layer = 0; layer < m_model->layerCount(); ++layer)
        for (at::Tensor& part : parts) {
            if (job.stopRequested()) return cancelledError();
            ESPALIER_TRY(part, m_model->extend(layer, part, m_plan, m_cache));
        }
    m_length += count;
    ESPALIER_TRY(const at::Tensor normed, m_model->finalNorm(parts.back().select(0, 0).narrow(0, parts.back().size(1) - 1, 1)));
    ESPALIER_TRY(at::Tensor logits, m_model->logits(normed));
    if (!at::isfinite(logits).all().item<bool>())
        return badInput("model.not_finite", "the output head", "The numbers of the output head are not finite.",
                        "The activations overflow: use fp32.");
    return logits.select(0, 0).contiguous();
}

}  // namespace espalier
