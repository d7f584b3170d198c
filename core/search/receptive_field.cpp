#include "search/receptive_field.h"

#include "evaluate/evaluator.h"
#include "model/moe_model_torch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace espalier
{

namespace
{

using Streams = std::vector<at::Tensor>;  // residual streams of a wave of window groups

struct BlockSpan {
    std::vector<int> moeLayers;
    int first = 0;
    int last = 0;
};

// Every T MoE layers make a block; dense layers in front of one belong to it, those at the end to the last.
std::vector<BlockSpan> cutIntoBlocks(const ModelShape& shape, int blockSize)
{
    std::vector<BlockSpan> blocks;
    int next = 0;
    std::vector<int> moe;
    for (const LayerShape& layer : shape.layers) {
        if (layer.moe) moe.push_back(layer.index);
        if (static_cast<int>(moe.size()) == blockSize) {
            blocks.push_back({std::move(moe), next, layer.index});
            next = layer.index + 1;
            moe.clear();
        }
    }
    const int end = static_cast<int>(shape.layers.size()) - 1;
    if (!moe.empty()) blocks.push_back({std::move(moe), next, end});
    if (!blocks.empty()) blocks.back().last = end;
    return blocks;
}

double squaredNorm(const at::Tensor& x) { return x.to(at::kDouble).square().sum().item<double>(); }

class FieldSearch
{
public:
    FieldSearch(MoeModel& model, const TokenWindows& windows, const std::vector<Selection>& selections, const CompressionPlan& base,
                const ReceptiveFieldOptions& options, JobContext& job)
        : m_model(model),
          m_selections(selections),
          m_base(base),
          m_options(options),
          m_share(options.share ? *options.share : WorkShare::none()),
          m_job(job)
    {
        m_rows = windows.rows;
        if (options.windows > 0 && static_cast<int>(m_rows.size()) > options.windows)
            m_rows.resize(static_cast<std::size_t>(options.windows));
        const auto groups = windowGroups(m_rows);
        m_groupCount = groups.size();
        for (std::size_t g = 0; g < groups.size(); ++g)
            if (m_share.owns(g)) {
                m_groups.push_back(groups[g]);
                m_groupIndex.push_back(g);
            }
        m_blocks = cutIntoBlocks(model.shape(), options.blockSize);
    }

    Result<ReceptiveField> run()
    {
        ESPALIER_CHECK_OK(preparePlans());
        ESPALIER_CHECK_OK(agreeOnFinished());
        countRuns();
        m_job.progress(0, m_total, "layer");
        ESPALIER_CHECK_OK(embed());

        ReceptiveField field;
        field.choice.assign(m_model.shape().layers.size(), 0);
        for (std::size_t b = 0; b < m_blocks.size(); ++b) {
            const bool last = b + 1 == m_blocks.size();
            if (b < m_finished) {
                FieldBlock block = m_options.finished[b];
                take(field, block);
                ESPALIER_CHECK_OK(report(block, field.choice));
                field.blocks.push_back(std::move(block));
                if (last) break;
                ESPALIER_CHECK_OK(advance(m_blocks[b], field.choice, m_input));
                continue;
            }
            ESPALIER_TRY(FieldBlock block, search(m_blocks[b]));
            take(field, block);
            if (m_options.onBlock) m_options.onBlock(block);
            ESPALIER_CHECK_OK(report(block, field.choice));
            field.blocks.push_back(std::move(block));
            if (last) break;
            if (m_bestLeaf.empty()) {
                ESPALIER_CHECK_OK(advance(m_blocks[b], field.choice, m_input));
            } else {
                m_input = std::move(m_bestLeaf);
                m_bestLeaf.clear();
            }
        }
        ESPALIER_TRY(field.plan, applySelections(m_model.shape(), m_base, m_selections, field.choice));
        return field;
    }

private:
    int choices(int layer) const
    {
        const auto l = static_cast<std::size_t>(layer);
        if (m_base.isFixed(layer) || m_selections[l].best.empty()) return 1;
        return std::min(m_options.sets, static_cast<int>(m_selections[l].best.size()));
    }

    static void take(ReceptiveField& field, const FieldBlock& block)
    {
        for (std::size_t i = 0; i < block.moeLayers.size(); ++i)
            field.choice[static_cast<std::size_t>(block.moeLayers[i])] = block.best.choice[i];
    }

    Status report(const FieldBlock& block, const std::vector<int>& choice)
    {
        ESPALIER_TRY(const CompressionPlan plan, applySelections(m_model.shape(), m_base, m_selections, choice));
        m_job.partial(toJson(BlockChosen{block, toJson(plan)}));
        return {};
    }

    // Plan j has choice j in every layer: a layer run looks at its own layer only.
    Status preparePlans()
    {
        m_identity = m_model.identity();
        const std::size_t layers = m_model.shape().layers.size();
        for (int j = 0; j < m_options.sets; ++j) {
            ESPALIER_TRY(const CompressionPlan plan, applySelections(m_model.shape(), m_base, m_selections, std::vector<int>(layers, j)));
            ESPALIER_TRY(PreparedPlan prepared, m_model.prepare(plan));
            m_plans.push_back(std::move(prepared));
        }
        for (std::size_t b = 0; b < m_options.finished.size(); ++b) {
            if (b >= m_blocks.size() || m_options.finished[b].moeLayers != m_blocks[b].moeLayers)
                return badInput("search.shape", "finished blocks", "The blocks of the interrupted run do not belong to this one.",
                                "Start the run again.");
            const auto& choice = m_options.finished[b].best.choice;
            for (std::size_t i = 0; i < m_blocks[b].moeLayers.size(); ++i)
                if (i >= choice.size() || choice[i] < 0 || choice[i] >= choices(m_blocks[b].moeLayers[i]))
                    return badInput("search.shape", "finished blocks", "The interrupted run chose a set that does not exist.",
                                    "Start the run again.");
        }
        return {};
    }

    // Processes that were killed may have got to different blocks: all go on behind the last one that everyone has.
    Status agreeOnFinished()
    {
        m_finished = m_options.finished.size();
        if (!shared()) return {};
        ESPALIER_TRY(const std::vector<Json> parts, m_share.exchange(Json(m_finished)));
        for (const Json& part : parts)
            m_finished = std::min(m_finished, part.get<std::size_t>());
        return {};
    }
    bool shared() const { return !m_share.alone(); }

    Status embed()
    {
        for (const auto& [first, last] : m_groups) {
            const auto length = static_cast<std::int64_t>(m_rows[static_cast<std::size_t>(first)].size());
            at::Tensor ids = at::empty({last - first, length}, at::kLong);
            auto* out = ids.mutable_data_ptr<std::int64_t>();
            for (int w = first; w < last; ++w)
                out = std::copy(m_rows[static_cast<std::size_t>(w)].begin(), m_rows[static_cast<std::size_t>(w)].end(), out);
            ESPALIER_TRY(at::Tensor hidden, m_model.embed(ids));
            m_input.push_back(std::move(hidden));
        }
        return {};
    }

    // Whether the output of the best combination can be kept: it is the next block's input, unless parts of the windows are elsewhere or
    // had their turn before.
    bool keepsLeaf(const BlockSpan& block) const { return !shared() && waves(block).size() == 1; }

    // Groups that run together, by the memory their streams take: input, reference, best output and one per level of the tree.
    std::vector<std::pair<std::size_t, std::size_t>> waves(const BlockSpan& block) const
    {
        const auto streams = static_cast<std::int64_t>(block.moeLayers.size()) + 3;
        std::vector<std::pair<std::size_t, std::size_t>> result;
        for (std::size_t first = 0; first < m_groups.size();) {
            std::int64_t bytes = 0;
            std::size_t last = first;
            while (last < m_groups.size()) {
                const auto [a, b] = m_groups[last];
                const std::int64_t element = m_model.options().compute == ComputeType::Fp32 ? 4 : 2;
                bytes += streams * element * (b - a) * m_model.shape().hiddenSize *
                         static_cast<std::int64_t>(m_rows[static_cast<std::size_t>(a)].size());
                if (last > first && bytes > m_options.streamBytes) break;
                ++last;
            }
            result.emplace_back(first, last);
            first = last;
        }
        if (result.empty()) result.emplace_back(0, 0);  // more processes than groups: the trials are counted all the same
        return result;
    }

    struct Runs {
        std::int64_t trial = 0;
        std::int64_t reference = 0;
        std::int64_t advance = 0;
    };
    Runs runsOf(const BlockSpan& block) const
    {
        Runs runs;
        std::int64_t nodes = 1;
        bool choosing = false;
        for (int l = block.first; l <= block.last; ++l) {
            ++runs.reference;
            ++runs.advance;
            if (m_model.shape().layers[static_cast<std::size_t>(l)].moe) {
                choosing = true;
                nodes *= choices(l);
            }
            if (choosing) runs.trial += nodes;
        }
        return runs;
    }
    void countRuns()
    {
        const auto groups = static_cast<std::int64_t>(m_groups.size());
        for (std::size_t b = 0; b < m_blocks.size(); ++b) {
            const Runs runs = runsOf(m_blocks[b]);
            const bool last = b + 1 == m_blocks.size();
            if (b < m_finished) {
                if (!last) m_total += groups * runs.advance;
            } else {
                m_total += groups * (runs.trial + runs.reference);
                if (!last && !keepsLeaf(m_blocks[b])) m_total += groups * runs.advance;
            }
        }
    }

    Result<Streams> runLayer(int layer, const Streams& input, const PreparedPlan& plan)
    {
        Streams output;
        output.reserve(input.size());
        for (const at::Tensor& hidden : input) {
            if (m_job.stopRequested()) return cancelledError();
            ESPALIER_TRY(at::Tensor out, m_model.layer(layer, hidden, plan));
            output.push_back(std::move(out));
            m_job.progress(++m_done, m_total, "layer");
        }
        return output;
    }

    const PreparedPlan& planOf(int choice) const { return m_plans[static_cast<std::size_t>(choice)]; }

    Status advance(const BlockSpan& block, const std::vector<int>& choice, Streams& streams)
    {
        for (int l = block.first; l <= block.last; ++l) {
            ESPALIER_TRY(streams, runLayer(l, streams, planOf(choice[static_cast<std::size_t>(l)])));
        }
        return {};
    }

    Result<FieldBlock> search(const BlockSpan& span)
    {
        FieldBlock block;
        block.moeLayers = span.moeLayers;
        block.firstLayer = span.first;
        block.lastLayer = span.last;
        const auto parts = waves(span);
        Squares squares;
        for (const auto& [first, last] : parts) {
            m_keepLeaf = keepsLeaf(span) && &span != &m_blocks.back();
            Streams input(m_input.begin() + static_cast<std::ptrdiff_t>(first), m_input.begin() + static_cast<std::ptrdiff_t>(last));
            int start = span.first;
            block.trialRuns = 0;
            block.referenceRuns = 0;
            // Dense layers before the first choice: the same for the reference on the same input and for all trials.
            while (!m_model.shape().layers[static_cast<std::size_t>(start)].moe) {
                ESPALIER_TRY(input, runLayer(start, input, m_identity));
                ++start;
                ++block.referenceRuns;
            }
            Streams reference = input;
            for (int l = start; l <= span.last; ++l) {
                ESPALIER_TRY(reference, runLayer(l, reference, m_identity));
                ++block.referenceRuns;
            }
            for (const at::Tensor& tensor : reference)
                squares.reference.push_back(squaredNorm(tensor));

            m_leaf = 0;
            m_bestSquared = std::numeric_limits<double>::infinity();
            m_choice.clear();
            m_span = &span;
            m_block = &block;
            ESPALIER_CHECK_OK(descend(start, input, reference, squares));
        }

        ESPALIER_CHECK_OK(gather(squares));
        block.referenceNorm = std::sqrt(sumOf(squares.reference));
        std::size_t best = 0;
        std::vector<double> squared;
        for (const std::vector<double>& byGroup : squares.trial)
            squared.push_back(sumOf(byGroup));
        for (std::size_t i = 0; i < squared.size(); ++i) {
            block.trials[i].loss = std::sqrt(squared[i]);
            if (squared[i] < squared[best]) best = i;
        }
        block.best = block.trials[best];
        return block;
    }

    // Squared norms of a block by window group: added up in the order of the groups at the end, so that the sums do not depend on who ran
    // which group.
    struct Squares {
        std::vector<double> reference;
        std::vector<std::vector<double>> trial;
    };
    static double sumOf(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

    // Own groups in, all groups out.
    Status gather(Squares& squares) const
    {
        if (!shared()) return {};
        ESPALIER_TRY(const std::vector<Json> parts,
                     m_share.exchange(Json{{"groups", m_groupIndex}, {"reference", squares.reference}, {"trial", squares.trial}}));
        squares.reference.assign(m_groupCount, 0.0);
        for (std::vector<double>& byGroup : squares.trial)
            byGroup.assign(m_groupCount, 0.0);
        for (const Json& part : parts)
            for (std::size_t i = 0; i < part.at("groups").size(); ++i) {
                const auto group = part.at("groups").at(i).get<std::size_t>();
                squares.reference.at(group) = part.at("reference").at(i).get<double>();
                for (std::size_t t = 0; t < squares.trial.size(); ++t)
                    squares.trial[t].at(group) = part.at("trial").at(t).at(i).get<double>();
            }
        return {};
    }

    // Depth first: one stream per level is alive.
    Status descend(int layer, const Streams& input, const Streams& reference, Squares& squares)
    {
        if (layer > m_span->last) {
            if (m_leaf == squares.trial.size()) {
                squares.trial.emplace_back();
                m_block->trials.push_back({m_choice, 0});
            }
            std::vector<double>& byGroup = squares.trial[m_leaf++];
            for (std::size_t g = 0; g < input.size(); ++g)
                byGroup.push_back(squaredNorm(input[g].to(at::kDouble) - reference[g].to(at::kDouble)));
            const double sum = sumOf(byGroup);
            if (m_keepLeaf && sum < m_bestSquared) {
                m_bestSquared = sum;
                m_bestLeaf = input;
            }
            return {};
        }
        const bool moe = m_model.shape().layers[static_cast<std::size_t>(layer)].moe;
        const int count = moe ? choices(layer) : 1;
        for (int choice = 0; choice < count; ++choice) {
            if (moe) m_choice.push_back(choice);
            ESPALIER_TRY(const Streams output, runLayer(layer, input, planOf(choice)));
            ++m_block->trialRuns;
            ESPALIER_CHECK_OK(descend(layer + 1, output, reference, squares));
            if (moe) m_choice.pop_back();
        }
        return {};
    }

    MoeModel& m_model;
    const std::vector<Selection>& m_selections;
    const CompressionPlan& m_base;
    const ReceptiveFieldOptions& m_options;
    WorkShare& m_share;
    JobContext& m_job;
    std::vector<std::vector<int>> m_rows;
    std::vector<std::pair<int, int>> m_groups;  // windows of this process, in the groups of the whole text
    std::vector<std::size_t> m_groupIndex;
    std::size_t m_groupCount = 0;  // of all processes
    std::size_t m_finished = 0;    // blocks that are taken from an earlier run
    std::vector<BlockSpan> m_blocks;
    std::vector<PreparedPlan> m_plans;
    PreparedPlan m_identity;
    Streams m_input;  // X: output of the chosen prefix, by group
    std::int64_t m_done = 0;
    std::int64_t m_total = 0;
    // Of the block in work.
    const BlockSpan* m_span = nullptr;
    FieldBlock* m_block = nullptr;
    std::vector<int> m_choice;
    std::size_t m_leaf = 0;
    bool m_keepLeaf = false;
    double m_bestSquared = 0;
    Streams m_bestLeaf;
};

}  // namespace

Result<ReceptiveField> chooseByBlocks(MoeModel& model, const TokenWindows& windows, const std::vector<Selection>& selections,
                                      const CompressionPlan& base, const ReceptiveFieldOptions& options, JobContext& job)
{
    const c10::InferenceMode inference;
    const auto layers = model.shape().layers.size();
    if (selections.size() != layers || static_cast<std::size_t>(base.layerCount()) != layers)
        return badInput("search.shape", "selections",
                        {"The model has {layers} layers, the search result {selections}, the plan {layer_count}.",
                         {{"layers", layers}, {"selections", selections.size()}, {"layer_count", base.layerCount()}}},
                        "Use results of this model.");
    ESPALIER_CHECK_OK(checkFieldOptions(options));
    if (windows.rows.empty())
        return badInput("text.too_short", windows.source, "There is no text to run the blocks on.", "Give at least one window.");
    return FieldSearch(model, windows, selections, base, options, job).run();
}

}  // namespace espalier
