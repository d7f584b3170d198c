#include "profile/factor_builder.h"

#include "checkpoint/checkpoint.h"
#include "lowrank/whitened_svd.h"
#include "model/layer_weights.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

namespace espalier
{

namespace
{

// Tokens whose products are summed in fp32: short sums, long enough for an efficient product.
constexpr std::int64_t kProductRows = 512;
// Columns of a moment that are formed at a time.
constexpr std::int64_t kPanel = 256;
// Tokens of an expert per batch from which the mean gains are taken: averages over a whole pass need no more.
constexpr std::int64_t kGainRows = 32;

std::size_t triangle(std::int64_t size) { return static_cast<std::size_t>(size * (size + 1) / 2); }

// Rows first .. of the packed lower triangle += product, which holds these rows up to their last column.
void addRows(std::vector<double>& packed, std::int64_t first, const at::Tensor& product)
{
    const std::int64_t columns = product.size(1);
    const float* from = product.const_data_ptr<float>();
    double* to = packed.data();
    at::parallel_for(0, product.size(0), 64, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t a = first + i;
            const float* row = from + i * columns;
            double* target = to + a * (a + 1) / 2;
            for (std::int64_t b = 0; b <= a; ++b)
                target[b] += static_cast<double>(row[b]);
        }
    });
}

}  // namespace

// In panels of columns, so that little above the diagonal is computed.
void addProducts(std::vector<double>& packed, const at::Tensor& rows)
{
    const at::Tensor values = rows.to(at::kFloat);
    const std::int64_t side = values.size(1);
    if (packed.empty()) packed.assign(triangle(side), 0.0);
    for (std::int64_t first = 0; first < values.size(0); first += kProductRows) {
        const at::Tensor part = values.narrow(0, first, std::min(kProductRows, values.size(0) - first));
        for (std::int64_t begin = 0; begin < side; begin += kPanel) {
            const std::int64_t width = std::min(kPanel, side - begin);
            addRows(packed, begin, at::mm(part.narrow(1, begin, width).t(), part.narrow(1, 0, begin + width)).contiguous());
        }
    }
}

namespace
{

at::Tensor unpacked(const std::vector<double>& packed, std::int64_t size)
{
    at::Tensor full = at::empty({size, size}, at::kDouble);
    double* to = full.mutable_data_ptr<double>();
    const double* from = packed.data();
    for (std::int64_t a = 0; a < size; ++a)
        for (std::int64_t b = 0; b <= a; ++b, ++from)
            to[a * size + b] = to[b * size + a] = *from;
    return full;
}

FactorBasis toBasis(const at::Tensor& q)
{
    const at::Tensor values = q.to(at::kFloat).contiguous();
    const float* data = values.const_data_ptr<float>();
    return {.rows = static_cast<int>(values.size(0)), .columns = static_cast<int>(values.size(1)), .values = {data, data + values.numel()}};
}

}  // namespace

std::int64_t momentBytes(const LayerShape& layer, int hiddenSize)
{
    return static_cast<std::int64_t>((triangle(hiddenSize) + triangle(layer.expertWidth)) * sizeof(double));
}

MomentCollector::MomentCollector(MoeModel& model, const LayerShape& layer, const std::vector<int>& experts) : m_model(model), m_layer(layer)
{
    for (const int expert : experts)
        m_sums[expert];
}

void MomentCollector::expert(int, int expert, const at::Tensor& tokens, const at::Tensor& x, const at::Tensor& h, const at::Tensor&,
                             const at::Tensor& w)
{
    const auto it = m_sums.find(expert);
    if (it == m_sums.end() || tokens.numel() == 0 || !m_status.ok()) return;
    Sums& sums = it->second;
    sums.tokens += tokens.numel();
    addProducts(sums.input, x);
    addProducts(sums.hidden, h);
    sums.weightSquared += w.to(at::kDouble).square().sum().item<double>();

    const std::int64_t rows = std::min(kGainRows, x.size(0));
    auto both = m_model.expertPreActivation(m_layer.index, expert, x.narrow(0, 0, rows));
    if (!both.ok()) {
        m_status = std::move(both).error();
        return;
    }
    const auto width = static_cast<std::size_t>(m_layer.expertWidth);
    const at::Tensor values = both->to(at::kDouble).contiguous();
    if (sums.gateGain.empty()) {
        sums.gateGain.assign(width, 0.0);
        sums.upGain.assign(width, 0.0);
    }
    // A column is one thread's, and its tokens are added up in order.
    at::parallel_for(0, m_layer.expertWidth, 64, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = 0; t < rows; ++t) {
            const double* gate = values.const_data_ptr<double>() + static_cast<std::size_t>(t) * 2 * width;
            const double* up = gate + width;
            for (auto c = static_cast<std::size_t>(begin); c < static_cast<std::size_t>(end); ++c) {
                const double sigmoid = 1.0 / (1.0 + std::exp(-gate[c]));
                const double act = gate[c] * sigmoid;
                const double slope = sigmoid * (1.0 + gate[c] * (1.0 - sigmoid));
                sums.upGain[c] += act * act;
                sums.gateGain[c] += slope * slope * up[c] * up[c];
            }
        }
    });
    sums.gainTokens += rows;
}

// The matrices of one expert that share an input: gate and up, or down.
struct FactorBuilder::Task {
    int expert = 0;
    bool hidden = false;
    const std::vector<double>* moment = nullptr;  // packed; null: no tokens and nothing to stand in for them
    MomentCollector::Sums* sums = nullptr;        // null: an expert without tokens
    ExpertParts* parts = nullptr;
};

FactorBuilder::FactorBuilder(const Checkpoint& checkpoint, const LayerShape& layer, int hiddenSize, FactorWishes wishes,
                             std::int64_t budget, LayerProfile& profile)
    : m_checkpoint(checkpoint), m_layer(layer), m_hiddenSize(hiddenSize), m_wishes(wishes), m_budget(budget), m_profile(profile)
{
    const auto n = static_cast<std::size_t>(layer.experts);
    if (profile.weightSquared.empty()) {
        for (auto* sums : {&profile.weightSquared, &profile.gateGain, &profile.upGain})
            sums->assign(n, 0.0);
        profile.gainTokens.assign(n, 0);
    }
    if (wishes.curves || wishes.bases) {
        profile.spectrumLength = std::min(hiddenSize, layer.expertWidth);
        profile.spectra.assign(n * 3 * static_cast<std::size_t>(profile.spectrumLength), 0.0f);
    }
}

Result<std::vector<ExpertParts>> FactorBuilder::add(std::map<int, MomentCollector::Sums>& sums)
{
    std::vector<ExpertParts> parts(sums.size());
    std::vector<Task> tasks;
    std::size_t next = 0;
    for (auto& [expert, part] : sums) {
        ExpertParts& mine = parts[next++];
        mine.expert = expert;
        if (part.tokens == 0) {
            m_unused.push_back(expert);
            if (!m_wishes.moments) continue;
            part.input.assign(triangle(m_hiddenSize), 0.0);
            part.hidden.assign(triangle(m_layer.expertWidth), 0.0);
            continue;
        }
        if (m_pooled.empty()) m_pooled.assign(part.input.size(), 0.0);
        for (std::size_t i = 0; i < m_pooled.size(); ++i)
            m_pooled[i] += part.input[i];
        tasks.push_back({.expert = expert, .hidden = false, .moment = &part.input, .sums = &part, .parts = &mine});
        tasks.push_back({.expert = expert, .hidden = true, .moment = &part.hidden, .sums = &part, .parts = &mine});
    }
    ESPALIER_CHECK_OK(run(tasks));
    next = 0;
    for (auto& [expert, part] : sums) {
        ExpertParts& mine = parts[next++];
        if (!m_wishes.moments) continue;
        mine.inputMoment = std::move(part.input);
        mine.hiddenMoment = std::move(part.hidden);
    }
    sums.clear();
    return parts;
}

Result<std::vector<ExpertParts>> FactorBuilder::finish()
{
    std::vector<ExpertParts> parts(m_wishes.bases ? m_unused.size() : 0);
    std::vector<Task> tasks;
    for (std::size_t i = 0; i < parts.size(); ++i) {
        parts[i].expert = m_unused[i];
        const std::vector<double>* pooled = m_pooled.empty() ? nullptr : &m_pooled;
        tasks.push_back({.expert = m_unused[i], .hidden = false, .moment = pooled, .parts = &parts[i]});
        tasks.push_back({.expert = m_unused[i], .hidden = true, .parts = &parts[i]});
    }
    ESPALIER_CHECK_OK(run(tasks));
    return parts;
}

Status FactorBuilder::run(std::vector<Task>& tasks)
{
    // Two one-thread decompositions side by side beat one with two threads; each needs several matrices of the larger side.
    const std::int64_t side = std::max(m_hiddenSize, m_layer.expertWidth);
    const std::int64_t need = side * side * static_cast<std::int64_t>(sizeof(double)) * 8;
    const std::int64_t together = std::clamp<std::int64_t>(m_budget / std::max<std::int64_t>(need, 1), 1, at::get_num_threads());
    for (std::size_t first = 0; first < tasks.size(); first += static_cast<std::size_t>(together)) {
        const std::size_t last = std::min(tasks.size(), first + static_cast<std::size_t>(together));
        std::vector<std::optional<Error>> errors(last - first);
        const auto one = [&](std::size_t i) {
            const c10::InferenceMode guard;
            if (Status status = decompose(tasks[i]); !status.ok()) {
                errors[i - first] = std::move(status).error();
                errors[i - first]->subject = fmt::format("layer {}, expert {}", m_layer.index, tasks[i].expert);
            }
        };
        if (together == 1) {
            one(first);
        } else {
            at::parallel_for(static_cast<std::int64_t>(first), static_cast<std::int64_t>(last), 1,
                             [&](std::int64_t begin, std::int64_t end) {
                                 for (std::int64_t i = begin; i < end; ++i)
                                     one(static_cast<std::size_t>(i));
                             });
        }
        for (const auto& error : errors)
            if (error) return *error;
    }
    return m_checkpoint.checkUnchanged();
}

Status FactorBuilder::decompose(Task& task)
{
    const auto e = static_cast<std::size_t>(task.expert);
    const auto matrix = [&](int which) { return loadExpertMatrix(m_checkpoint, m_layer.index, task.expert, which); };
    at::Tensor down;
    if (task.hidden) {
        ESPALIER_TRY(const StoredMatrix stored, matrix(2));
        down = stored.weight;
        if (task.sums) {
            m_profile.weightSquared[e] += task.sums->weightSquared;
            m_profile.gainTokens[e] += task.sums->gainTokens;
            const at::Tensor norms = down.to(at::kDouble).square().sum({0}).contiguous();  // [I]
            for (std::int64_t c = 0; c < norms.numel() && !task.sums->gateGain.empty(); ++c) {
                const double share = norms.const_data_ptr<double>()[c] / static_cast<double>(m_layer.expertWidth);
                m_profile.gateGain[e] += task.sums->gateGain[static_cast<std::size_t>(c)] * share;
                m_profile.upGain[e] += task.sums->upGain[static_cast<std::size_t>(c)] * share;
            }
        }
    }
    if (!m_wishes.curves && !m_wishes.bases) return {};

    const std::int64_t in = task.hidden ? m_layer.expertWidth : m_hiddenSize;
    const at::Tensor moment = task.moment ? unpacked(*task.moment, in) : at::zeros({in, in}, at::kDouble);
    for (const int which : task.hidden ? std::vector<int>{2} : std::vector<int>{0, 1}) {
        at::Tensor weight = down;
        if (which != 2) {
            ESPALIER_TRY(const StoredMatrix stored, matrix(which));
            weight = stored.weight;
        }
        WhitenedSvd svd;
        at::Tensor curve;
        if (m_wishes.bases) {
            ESPALIER_TRY(svd, WhitenedSvd::of(weight, moment));
            curve = svd.energies();
        } else {
            ESPALIER_TRY(curve, whitenedEnergies(weight, moment));
        }
        if (task.sums) {
            const double* energies = curve.const_data_ptr<double>();
            float* spectrum =
                m_profile.spectra.data() + (e * 3 + static_cast<std::size_t>(which)) * static_cast<std::size_t>(m_profile.spectrumLength);
            for (int i = 0; i < m_profile.spectrumLength; ++i)
                spectrum[i] = static_cast<float>(energies[i]);
        }
        if (!m_wishes.bases) continue;
        const int most = std::min(breakEvenRank(weight.size(0), weight.size(1)), svd.maxRank());
        const auto w = static_cast<std::size_t>(which);
        if (!task.sums) {
            task.parts->own[w] = toBasis(svd.basis(most));
            continue;
        }
        const auto enough = static_cast<int>(std::min<std::int64_t>(most, task.sums->tokens / 2));
        if (enough > 0) task.parts->own[w] = toBasis(svd.basis(enough));
        if (enough == most) continue;
        ESPALIER_TRY(const WhitenedSvd thin, WhitenedSvd::of(weight, moment, kThinRidge));
        task.parts->thin[w] = toBasis(thin.basis(most));
    }
    return {};
}

std::vector<std::vector<int>> expertChunks(const std::vector<int>& experts, std::int64_t bytesPerExpert, std::int64_t budget)
{
    const auto size = static_cast<std::size_t>(std::clamp<std::int64_t>(
        budget / std::max<std::int64_t>(bytesPerExpert, 1), 1, std::max<std::int64_t>(static_cast<std::int64_t>(experts.size()), 1)));
    std::vector<std::vector<int>> chunks;
    for (std::size_t first = 0; first < experts.size(); first += size)
        chunks.emplace_back(experts.begin() + static_cast<std::ptrdiff_t>(first),
                            experts.begin() + static_cast<std::ptrdiff_t>(std::min(first + size, experts.size())));
    return chunks;
}

}  // namespace espalier
