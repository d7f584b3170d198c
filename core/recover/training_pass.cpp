#include "recover/training_pass.h"

#include "checkpoint/checkpoint.h"
#include "model/layer_gradient.h"
#include "model/norm.h"
#include "model/row_operations.h"
#include "recover/training_layer.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace espalier
{

namespace
{

Error notFinite(const std::string& where)
{
    return badInput("model.not_finite", where, {"The numbers of {where} are not finite although all its weights are.", {{"where", where}}},
                    "Use a lower learning rate.");
}

bool counts(const std::vector<bool>& scored, std::size_t token) { return token > 0 && (scored.empty() || scored[token]); }

std::size_t ownLength(const TrainingBatch& batch, std::size_t window)
{
    return batch.lengths.empty() ? batch.rows[window].size() : static_cast<std::size_t>(batch.lengths[window]);
}

// [B T] fp64, 1 for a token that is a window's own; undefined: all are.
at::Tensor ownTokens(const TrainingBatch& batch)
{
    if (batch.lengths.empty()) return {};
    const std::size_t length = batch.rows.front().size();
    at::Tensor own = at::zeros({static_cast<std::int64_t>(batch.rows.size() * length)}, at::kDouble);
    for (std::size_t w = 0; w < batch.rows.size(); ++w)
        own.narrow(0, static_cast<std::int64_t>(w * length), batch.lengths[w]).fill_(1);
    return own;
}

ScoredRows scoredRows(const TrainingBatch& batch, c10::Device device)
{
    std::vector<std::int64_t> rows, targets;
    const std::size_t length = batch.rows.front().size();
    static const std::vector<bool> all;
    for (std::size_t w = 0; w < batch.rows.size(); ++w)
        for (std::size_t t = 1; t < length; ++t)
            if (t < ownLength(batch, w) && counts(batch.scored.empty() ? all : batch.scored[w], t)) {
                rows.push_back(static_cast<std::int64_t>(w * length + t - 1));
                targets.push_back(batch.rows[w][t]);
            }
    return {at::tensor(rows, at::kLong).to(device), at::tensor(targets, at::kLong).to(device)};
}

}  // namespace

void addWindow(TrainingBatch& batch, const std::vector<int>& row, const std::vector<bool>& scored)
{
    const std::size_t longest = std::max(row.size(), batch.rows.empty() ? 0 : batch.rows.front().size());
    const bool even = batch.rows.empty() || row.size() == batch.rows.front().size();
    if (!even && batch.lengths.empty()) batch.lengths.assign(batch.rows.size(), static_cast<int>(batch.rows.front().size()));
    batch.rows.push_back(row);
    if (!batch.lengths.empty()) batch.lengths.push_back(static_cast<int>(row.size()));
    if (!scored.empty()) batch.scored.push_back(scored);
    for (std::vector<int>& one : batch.rows)
        one.resize(longest, 0);
    for (std::vector<bool>& one : batch.scored)
        one.resize(longest, false);
}

std::int64_t scoredTokens(const std::vector<int>& row, const std::vector<bool>& scored)
{
    std::int64_t count = 0;
    for (std::size_t t = 1; t < row.size(); ++t)
        count += counts(scored, t);
    return count;
}

struct TrainingPass::Forward {
    at::Tensor hidden;                   // after the last layer, [B,T,H]
    std::vector<at::Tensor> boundaries;  // input of each layer whose tape was not kept
    std::map<int, LayerTape> tapes;
    std::map<int, LayerParts> parts;  // of layers with a tape
    ScoredRows scored;
    at::Tensor own;
    double entropy = 0;
    std::uint64_t selection = 0;
};

TrainingPass::TrainingPass(ModelParts& model, const PreparedPlan& plan, Trainables* trainables)
    : m_model(model), m_plan(plan), m_trainables(trainables), m_layers(plan.data().layers), m_room(model.spareBytes())
{
    const auto& shapes = model.checkpoint().shape().layers;
    for (std::size_t l = 0; l < m_layers.size(); ++l) {
        m_moeLayers += shapes[l].moe && m_layers[l].runsExperts;
        if (trainables == nullptr) continue;
        if (const at::Tensor& router = trainables->layer(static_cast<int>(l)).router; router.defined()) m_layers[l].routerRows = router;
    }
}

int TrainingPass::keptLayers(std::int64_t tokens) const
{
    // Weights that come and go may not be held by a tape.
    if (m_trainables == nullptr || m_model.streamsWeights()) return 0;
    const auto layers = static_cast<int>(m_layers.size());
    std::int64_t left = m_room - 4 * 4 * m_trainables->count() - tokens * m_model.checkpoint().shape().hiddenSize * 4 * (layers + 4);
    int kept = 0;
    for (int l = layers - 1; l >= m_trainables->lowestLayer(); --l) {
        const std::int64_t bytes =
            tokens * tapeBytesPerToken(m_model.checkpoint(), m_plan, l, m_trainables->layer(l), m_trainables->dropout() > 0);
        // The layer that is computed again needs as much once more.
        if (left < (l > m_trainables->lowestLayer() ? 2 : 1) * bytes) break;
        left -= bytes;
        ++kept;
    }
    return kept;
}

Result<TrainingPass::Forward> TrainingPass::forward(const TrainingBatch& batch, const PassSettings& settings, const JobContext& job,
                                                    bool gradients)
{
    const at::AutoGradMode off(false);
    Forward result;
    const auto layers = static_cast<int>(m_layers.size());
    const auto count = static_cast<std::int64_t>(batch.rows.size());
    const auto length = static_cast<std::int64_t>(batch.rows.front().size());
    std::vector<std::int64_t> ids;
    const std::int64_t vocabulary = m_model.checkpoint().embed().shape.front();
    for (const std::vector<int>& row : batch.rows)
        for (const int id : row) {
            if (id < 0 || id >= vocabulary)
                return badInput("model.token_out_of_range", std::to_string(id),
                                {"Token {id} does not exist: the model has {rows} embedding rows.", {{"id", id}, {"rows", vocabulary}}},
                                "Use the tokenizer that belongs to the model.");
            ids.push_back(id);
        }
    result.scored = scoredRows(batch, m_model.placement().device);
    result.own = ownTokens(batch);
    ESPALIER_TRY(const at::Tensor embedded, embeddingRows(m_model.checkpoint(), ids, at::kFloat));
    if (!allFinite(embedded)) return notFinite("the embedding");
    at::Tensor hidden = embedded.to(m_model.placement().device).view({count, length, -1}).clone();
    const int firstKept = gradients ? layers - keptLayers(count * length) : layers;
    const int lowest = m_trainables ? m_trainables->lowestLayer() : layers;
    const double entropyWeight = m_moeLayers > 0 ? settings.entropyWeight / m_moeLayers / static_cast<double>(settings.stepTokens) : 0;
    result.boundaries.resize(static_cast<std::size_t>(layers));
    for (int l = 0; l < layers; ++l) {
        if (job.stopRequested()) return cancelledError();
        PlannedLayer& planned = m_layers[static_cast<std::size_t>(l)];
        const int ofPlan = m_plan.data().layers[static_cast<std::size_t>(l)].router.topK;
        const int ofModel = m_model.checkpoint().shape().layers[static_cast<std::size_t>(l)].router.topK;
        const int most = std::max(ofPlan, std::min(ofModel, static_cast<int>(planned.columns.size())));
        planned.router.topK = std::clamp(settings.topK.value_or(ofPlan), ofPlan, most);
        ESPALIER_TRY(LayerParts parts, m_model.layer(l, m_plan, 1));
        LayerTape* tape = nullptr;
        if (gradients && l >= firstKept && l >= lowest) {
            tape = &result.tapes[l];
            parts = result.parts[l] = std::move(parts);
        } else if (gradients && l >= lowest) {
            result.boundaries[static_cast<std::size_t>(l)] = hidden;
        }
        const LayerPass pass{
            m_model,
            parts,
            planned,
            m_trainables ? &m_trainables->layer(l) : nullptr,
            {m_trainables ? m_trainables->scale() : 1, {gradients && m_trainables ? m_trainables->dropout() : 0, settings.dropoutSeed}},
            l,
            m_model.checkpoint().shape().layers[static_cast<std::size_t>(l)].moe,
            entropyWeight,
            result.own};
        LayerOutput out = forwardLayer(pass, hidden, tape);
        hidden = out.hidden;
        result.entropy += out.entropy;
        result.selection = result.selection * 0x100000001b3u + out.selection;
        if (!allFinite(hidden)) return notFinite(fmt::format("layer {}", l));
    }
    result.hidden = hidden;
    if (m_moeLayers > 0) result.entropy /= static_cast<double>(m_moeLayers) * static_cast<double>(settings.stepTokens);
    return result;
}

Result<PassLoss> TrainingPass::gradients(const TrainingBatch& batch, const PassSettings& settings, const JobContext& job)
{
    const at::AutoGradMode off(false);
    ESPALIER_TRY(Forward pass, forward(batch, settings, job, true));
    ESPALIER_TRY(const auto globals, m_model.globals());
    const std::int64_t width = pass.hidden.size(2);
    const at::Tensor rows = pass.hidden.view({-1, width}).index_select(0, pass.scored.rows);
    const at::Tensor normed = rmsNorm(rows, globals->finalNorm, m_model.eps());
    const LossSum loss = batch.teacher ? divergenceLoss(normed, *batch.teacher, settings.temperature, *globals, settings.weight, true)
                                       : nllLoss(normed, pass.scored.targets, *globals, settings.weight, true);
    at::Tensor gradient = at::zeros({pass.hidden.numel() / width, width}, pass.hidden.options());
    gradient.index_copy_(0, pass.scored.rows, rmsNormGradient(rows, globals->finalNorm, loss.gradient, m_model.eps()));
    gradient = gradient.view(pass.hidden.sizes());
    const double entropyWeight = m_moeLayers > 0 ? settings.entropyWeight / m_moeLayers / static_cast<double>(settings.stepTokens) : 0;
    for (int l = static_cast<int>(m_layers.size()) - 1; l >= m_trainables->lowestLayer(); --l) {
        if (job.stopRequested()) return cancelledError();
        LayerTape tape;
        LayerParts parts;
        const bool kept = pass.tapes.contains(l);
        if (kept) {
            tape = std::move(pass.tapes.at(l));
            parts = std::move(pass.parts.at(l));
            pass.tapes.erase(l);
            pass.parts.erase(l);
        } else {
            ESPALIER_TRY(parts, m_model.layer(l, m_plan, -1));
        }
        const LayerPass own{m_model,
                            parts,
                            m_layers[static_cast<std::size_t>(l)],
                            &m_trainables->layer(l),
                            {m_trainables->scale(), {m_trainables->dropout(), settings.dropoutSeed}},
                            l,
                            m_model.checkpoint().shape().layers[static_cast<std::size_t>(l)].moe,
                            entropyWeight,
                            pass.own};
        if (!kept) {
            forwardLayer(own, std::exchange(pass.boundaries[static_cast<std::size_t>(l)], {}), &tape);
        }
        gradient = backwardLayer(own, tape, gradient);
        if (!allFinite(gradient)) return notFinite(fmt::format("the gradient of layer {}", l));
    }
    return PassLoss{loss.sum, pass.entropy, pass.selection};
}

Result<PassLoss> TrainingPass::loss(const TrainingBatch& batch, const PassSettings& settings, const JobContext& job)
{
    const at::AutoGradMode off(false);
    ESPALIER_TRY(const Forward pass, forward(batch, settings, job, false));
    ESPALIER_TRY(const auto globals, m_model.globals());
    const at::Tensor rows = pass.hidden.view({-1, pass.hidden.size(2)}).index_select(0, pass.scored.rows);
    const at::Tensor normed = rmsNorm(rows, globals->finalNorm, m_model.eps());
    const LossSum loss = batch.teacher ? divergenceLoss(normed, *batch.teacher, settings.temperature, *globals, settings.weight, false)
                                       : nllLoss(normed, pass.scored.targets, *globals, settings.weight, false);
    return PassLoss{loss.sum, pass.entropy, pass.selection};
}

Result<TeacherRows> TrainingPass::teach(const TrainingBatch& batch, double temperature, const JobContext& job)
{
    const at::AutoGradMode off(false);
    ESPALIER_TRY(const Forward pass, forward(batch, {}, job, false));
    ESPALIER_TRY(const auto globals, m_model.globals());
    const at::Tensor rows = pass.hidden.view({-1, pass.hidden.size(2)}).index_select(0, pass.scored.rows);
    const at::Tensor normed = rmsNorm(rows, globals->finalNorm, m_model.eps());
    std::vector<TeacherRows> parts;
    constexpr std::int64_t kRows = 256;
    for (std::int64_t begin = 0; begin < normed.size(0); begin += kRows)
        parts.push_back(teacherRows(headProduct(normed.narrow(0, begin, std::min(kRows, normed.size(0) - begin)), *globals), temperature));
    return joinedRows(parts);
}

}  // namespace espalier
