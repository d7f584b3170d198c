#include "evaluate/choice_scoring.h"

#include "base/exception.h"
#include "base/freed_memory.h"
#include "model/moe_model_torch.h"
#include "model/token_tree.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

namespace espalier
{

namespace
{

// Tokens of one row. Attention compares all of them with each other: rows much longer cost more there than they save in the products.
constexpr std::size_t kRowTokens = 768;
// Streams of the rows that go through the layers together where weights are read from the disk.
constexpr std::int64_t kWaveBytes = std::int64_t{256} << 20;
// Logits of a block: about 16 MB.
constexpr std::int64_t kBlockElements = std::int64_t{1} << 22;

// A token whose logits are needed, and the token that follows it in a request.
struct Target {
    int token = 0;  // index in the row
    int id = 0;     // that follows
};

struct Scored {
    std::size_t request = 0;
    std::vector<std::size_t> targets;  // of the row
};

struct Row {
    std::vector<int> ids;
    std::vector<int> parents;
    std::vector<Target> targets;
    std::vector<Scored> scored;
    std::optional<TokenTree> tree;
    at::Tensor hidden;
};

// Sorted requests into rows: of each only what the one before did not have.
std::vector<Row> rowsOf(std::span<const ChoiceRequest> requests)
{
    std::vector<std::size_t> order(requests.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return requests[a].ids != requests[b].ids ? requests[a].ids < requests[b].ids : a < b; });
    std::vector<Row> rows;
    std::vector<int> path;     // tokens of the row that the last request went through
    std::vector<int> pathIds;  // and what they are
    for (const std::size_t index : order) {
        const ChoiceRequest& request = requests[index];
        const std::size_t fed = request.ids.size() - 1;
        const auto common = [&] {
            std::size_t same = 0;
            while (same < std::min(fed, pathIds.size()) && pathIds[same] == request.ids[same])
                ++same;
            return same;
        };
        std::size_t same = common();
        if (rows.empty() || (!rows.back().ids.empty() && rows.back().ids.size() + fed - same > kRowTokens)) {
            rows.emplace_back();
            path.clear();
            pathIds.clear();
            same = 0;
        }
        Row& row = rows.back();
        path.resize(same);
        pathIds.resize(same);
        for (std::size_t i = same; i < fed; ++i) {
            row.parents.push_back(path.empty() ? -1 : path.back());
            path.push_back(static_cast<int>(row.ids.size()));
            row.ids.push_back(request.ids[i]);
            pathIds.push_back(request.ids[i]);
        }
        // An equal request was the one before, or its tokens are the same: one target each.
        Scored scored{index, {}};
        for (std::size_t i = fed - static_cast<std::size_t>(request.scored); i < fed; ++i) {
            const Target target{path[i], request.ids[i + 1]};
            const auto found = std::find_if(row.targets.rbegin(), row.targets.rend(),
                                            [&](const Target& other) { return other.token == target.token && other.id == target.id; });
            if (found != row.targets.rend()) {
                scored.targets.push_back(static_cast<std::size_t>(row.targets.rend() - found) - 1);
            } else {
                scored.targets.push_back(row.targets.size());
                row.targets.push_back(target);
            }
        }
        row.scored.push_back(std::move(scored));
    }
    for (Row& row : rows)
        row.tree.emplace(row.parents);
    return rows;
}

// Log-probability of every target of the row, and whether it is the most likely token there.
struct Judged {
    std::vector<double> logProbability;
    std::vector<bool> first;
};

Result<Judged> judged(MoeModel& model, const Row& row)
{
    const auto count = static_cast<std::int64_t>(row.targets.size());
    at::Tensor token = at::empty({count}, at::kLong);
    at::Tensor id = at::empty({count, 1}, at::kLong);
    for (std::int64_t i = 0; i < count; ++i) {
        token.mutable_data_ptr<std::int64_t>()[i] = row.targets[static_cast<std::size_t>(i)].token;
        id.mutable_data_ptr<std::int64_t>()[i] = row.targets[static_cast<std::size_t>(i)].id;
    }
    ESPALIER_TRY(const at::Tensor normed, model.finalNorm(row.hidden.squeeze(0).index_select(0, token)));
    Judged result;
    const std::int64_t block = std::clamp<std::int64_t>(kBlockElements / model.shape().vocabularySize, 16, 1024);
    for (std::int64_t begin = 0; begin < count; begin += block) {
        const std::int64_t rows = std::min(block, count - begin);
        ESPALIER_TRY(const at::Tensor logits, model.logits(normed.narrow(0, begin, rows)));
        const at::Tensor wanted = id.narrow(0, begin, rows);
        const at::Tensor chosen = logits.gather(1, wanted).squeeze(1).to(at::kDouble);
        const at::Tensor values = (chosen - at::logsumexp(logits, {1}).to(at::kDouble)).contiguous();
        const at::Tensor first = (logits.argmax(1) == wanted.squeeze(1)).contiguous();
        for (std::int64_t i = 0; i < rows; ++i) {
            result.logProbability.push_back(values.const_data_ptr<double>()[i]);
            result.first.push_back(first.const_data_ptr<bool>()[i]);
        }
    }
    return result;
}

at::Tensor idsOf(const Row& row)
{
    at::Tensor ids = at::empty({1, static_cast<std::int64_t>(row.ids.size())}, at::kLong);
    std::copy(row.ids.begin(), row.ids.end(), ids.mutable_data_ptr<std::int64_t>());
    return ids;
}

}  // namespace

Status scoreChoices(MoeModel& model, const CompressionPlan& plan, std::span<const ChoiceRequest> requests, JobContext& job,
                    const std::function<Status(std::size_t, const ChoiceScore&)>& done, const WorkShare& processes,
                    const std::function<bool(std::size_t)>& wanted)
{
    const c10::InferenceMode inference;
    ESPALIER_TRY(const PreparedPlan prepared, model.prepare(plan));
    std::vector<Row> rows = rowsOf(requests);
    const auto isWanted = [&](const Scored& scored) { return !wanted || wanted(scored.request); };
    std::erase_if(rows, [&](const Row& row) { return std::none_of(row.scored.begin(), row.scored.end(), isWanted); });
    std::size_t number = 0;
    std::erase_if(rows, [&](const Row&) { return !processes.owns(number++); });
    const std::int64_t element = model.options().compute == ComputeType::Fp32 ? 4 : 2;
    std::int64_t total = 0;
    for (const Row& row : rows)
        total += static_cast<std::int64_t>(row.ids.size());
    total *= model.layerCount();
    std::int64_t progressed = 0;
    job.progress(0, total, "token");
    for (std::size_t begin = 0; begin < rows.size();) {
        std::size_t end = begin;
        std::int64_t bytes = 0;
        while (end < rows.size() && (end == begin || (model.streamsWeights() && bytes < kWaveBytes)))
            bytes += static_cast<std::int64_t>(rows[end++].ids.size()) * model.shape().hiddenSize * element;
        const std::span<Row> wave(rows.data() + begin, end - begin);
        for (Row& row : wave) {
            ESPALIER_TRY(row.hidden, model.embed(idsOf(row)));
        }
        for (int layer = 0; layer < model.layerCount(); ++layer)
            for (Row& row : wave) {
                if (job.stopRequested()) return cancelledError();
                ESPALIER_TRY(row.hidden, model.attend(layer, row.hidden, prepared, nullptr, &*row.tree));
                ESPALIER_TRY(row.hidden, model.feedForward(layer, row.hidden, prepared));
                progressed += static_cast<std::int64_t>(row.ids.size());
                job.progress(progressed, total, "token");
            }
        for (Row& row : wave) {
            ESPALIER_TRY(const Judged tokens, judged(model, row));
            for (const Scored& scored : row.scored) {
                ChoiceScore score{0, true};
                for (const std::size_t target : scored.targets) {
                    score.logLikelihood += tokens.logProbability[target];
                    score.greedy = score.greedy && tokens.first[target];
                }
                ESPALIER_CHECK_OK(done(scored.request, score));
            }
            row = Row();
        }
        giveBackFreedMemory();
        begin = end;
    }
    return {};
}

}  // namespace espalier
