// Mending by least squares (README.md here): layer after layer on the compressed prefix, towards the dense model's hidden states.
#include "base/journal_file.h"
#include "profile/hidden_states.h"
#include "recover/least_squares_targets.h"
#include "recover/recover_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;

constexpr std::int64_t kBatchTokens = 2048;
constexpr std::int64_t kLeastRoom = std::int64_t{256} << 20;
constexpr std::int64_t kBlockRows = 256;  // rows of the maps that are solved together

class Mending
{
public:
    Mending(RecoverRun& run, JobContext& job)
        : m_run(run),
          m_job(job),
          m_model(run.model),
          m_shape(run.model.shape()),
          m_ridge(run.params.at("ridge").get<double>()),
          m_sweeps(run.params.at("sweeps").get<int>()),
          m_towardsDense(run.params.at("target") == "dense"),
          m_shared(run.params.at("shared").get<bool>()),
          m_attention(run.params.at("attention").get<bool>() && m_towardsDense),
          m_plan(run.plan)
    {
        m_batches = makeBatches(run.text.windows, {.batchTokens = kBatchTokens, .mostWindows = 1U << 20});
        for (const WindowBatch& batch : m_batches) {
            m_firstRow.push_back(m_tokens);
            m_tokens += static_cast<std::int64_t>(batch.count) * batch.length;
        }
    }

    Result<Recovered> run()
    {
        const Status done = allLayers();
        if (done.ok()) return Recovered{m_plan, m_parts, false};
        // The layers until here are mended towards the dense model, and those above run on what they give.
        if (m_run.bestSoFar && done.error().kind == ErrorKind::Cancelled && !m_parts.empty()) return Recovered{m_plan, m_parts, true};
        return done.error();
    }

private:
    Status allLayers()
    {
        const c10::InferenceMode guard;
        ESPALIER_CHECK_OK(findRoom());
        ESPALIER_CHECK_OK(checkRoom(m_run.plan.firstDifference(CompressionPlan::identity(m_shape))));
        ESPALIER_TRY(JournalFile journal, openJournal());
        const int first = m_done;
        const auto type = m_model.options().compute == ComputeType::Bf16 ? at::kBFloat16 : at::kFloat;
        HiddenStates dense(m_batches, m_shape.hiddenSize, type);
        HiddenStates planned(m_batches, m_shape.hiddenSize, type);
        ESPALIER_CHECK_OK(useFiles(dense, "dense", first));
        ESPALIER_CHECK_OK(useFiles(planned, "plan", first));
        m_identity = m_model.identity();
        for (std::size_t b = 0; first == 0 && b < m_batches.size(); ++b) {
            ESPALIER_TRY(const at::Tensor embedded, m_model.embed(idTensor(m_run.text.windows, m_batches[b])));
            dense.setInput(b, embedded);
            planned.setInput(b, embedded);
        }
        const int layers = m_model.layerCount();
        const int apart = m_run.plan.firstDifference(CompressionPlan::identity(m_shape));
        for (int l = first; l < layers; ++l) {
            m_job.progress(l, layers, "layer");
            ESPALIER_CHECK_OK(prepare());
            // Below the first layer in which anything happens the two are one model.
            ESPALIER_CHECK_OK(l < apart ? together(l, dense, planned) : mend(l, dense, planned));
            ESPALIER_CHECK_OK(dense.advance());
            ESPALIER_CHECK_OK(planned.advance());
            ESPALIER_CHECK_OK(record(journal, l));
        }
        m_job.progress(layers, layers, "layer");
        if (m_left)
            m_run.warnings.emplace_back(
                "Matrices on a grid of few points, with masks, bases or fewer channels, and those that the checkpoint stores factored, "
                "stay as they are.");
        if (m_tooWide > 0)
            m_run.warnings.push_back(
                fmt::format("{} matrices of experts stay as they are: their moments do not fit in {} MiB beside the "
                            "weights. Allow more memory with --memory-budget, or take fewer windows.",
                            m_tooWide, m_room >> 20));
        return {};
    }

    // {"layer","parts","losses"} for each layer that is finished. What is not whole, or what processes do not agree on, is begun again: the
    // residual streams are those of the last layer.
    Result<JournalFile> openJournal()
    {
        const fs::path path =
            m_run.folder / (m_run.share.first() ? "layers.jsonl" : fmt::format("layers-{}.jsonl", m_run.share.rank() + 1));
        const Json header = {{"method", "least-squares"}, {"tokens", m_tokens}};
        const auto open = [&](bool resume) {
            return JournalFile::open(path, header, {.resume = resume, .area = "recover", .maxBytes = std::size_t{64} << 20, .locked = {}},
                                     [&](const JournalLine& line) -> Result<bool> {
                                         if (line.json.ok() && line.first) return *line.json == header;
                                         if (line.json.ok()) {
                                             ESPALIER_TRY(const bool taken, resumed(*line.json));
                                             if (taken) return true;
                                         }
                                         m_whole = false;
                                         return false;
                                     });
        };
        Result<JournalFile> journal = open(m_run.resume);
        if (!m_run.resume) return journal;
        ESPALIER_TRY(const std::vector<Json> all,
                     m_run.share.exchange(journal.ok() ? Result<Json>(Json(m_whole ? m_done : -1)) : Result<Json>(journal.error())));
        if (m_whole && std::all_of(all.begin(), all.end(), [&](const Json& done) { return done == m_done; })) {
            for (const auto& [layer, losses] : m_earlier)
                for (const double loss : losses)
                    report(layer, loss);
            return journal;
        }
        m_done = 0;
        m_plan = m_run.plan;
        m_parts.clear();
        return open(false);
    }
    Result<bool> resumed(const Json& line)
    {
        if (!line.is_object() || line.value("layer", -1) != m_done || m_done >= m_model.layerCount()) return false;
        for (const Json& part : line.value("parts", Json::array())) {
            const std::string id = part.value("id", "");
            const auto opened = openValuesFile(m_run.folder / (id + ".safetensors"), id);
            if (!opened.ok()) return false;
            ESPALIER_CHECK_OK(adopt(m_done, *opened, part.value("bodies", std::vector<std::size_t>()),
                                    part.value("linears", std::vector<std::string>())));
        }
        m_earlier.emplace_back(m_done, line.value("losses", std::vector<double>()));
        ++m_done;
        return true;
    }
    Status record(JournalFile& journal, int layer)
    {
        const Json line = {{"layer", layer}, {"parts", std::exchange(m_written, Json::array())}, {"losses", std::exchange(m_losses, {})}};
        // Nobody begins the next layer, whose output takes the place of this one's input, before all have this one on the disk.
        return m_run.share.meet(journal.append(line));
    }
    Status useFiles(HiddenStates& states, const std::string& name, int layer)
    {
        const fs::path folder = m_run.folder / (m_run.share.alone() ? name : fmt::format("{}-{}", name, m_run.share.rank() + 1));
        ESPALIER_CHECK_OK(makeFolder(folder));
        return states.useFiles(folder, layer, layer > 0);
    }

    void report(int layer, double loss) { m_run.report({.step = ++m_step, .loss = loss, .layer = layer, .gateNll = {}}); }
    Status stopped() const { return m_job.stopRequested() ? Status(cancelled()) : Status(); }
    Error cancelled() const
    {
        Error error = cancelledError();
        error.kept = fmt::format("{} of {} layers are mended and kept.", m_done, m_model.layerCount());
        return error;
    }

    Status prepare()
    {
        m_sources = m_run.sources;
        m_sources.insert(m_sources.end(), m_parts.begin(), m_parts.end());
        m_model.setFactorSources(m_sources);
        ESPALIER_TRY(m_prepared, m_model.prepare(m_plan));
        return {};
    }

    Status together(int layer, HiddenStates& dense, HiddenStates& planned)
    {
        for (std::size_t b = 0; b < m_batches.size(); ++b) {
            ESPALIER_CHECK_OK(stopped());
            ESPALIER_TRY(const at::Tensor out, m_model.layer(layer, dense.input(b), m_identity));
            dense.setOutput(b, out);
            planned.setOutput(b, out);
        }
        ++m_done;
        return {};
    }

    Status load(std::vector<Target>& targets) const
    {
        ESPALIER_TRY(const auto factors, factorSourceFor(m_plan, m_sources, m_model.checkpoint().fingerprint()));
        return loadTargets({m_model.checkpoint(), factors.get(), m_sources}, m_plan, targets);
    }

    // Attention's half. Afterwards m_middle has the residual streams that reach the experts.
    Status mendAttention(int layer, const HiddenStates& dense, const HiddenStates& planned)
    {
        std::vector<Target> targets;
        if (m_attention) targets = attentionTarget(m_model.checkpoint(), m_plan, layer, m_left);
        ESPALIER_CHECK_OK(load(targets));
        TargetInputs inputs(m_plan, layer, targets, *m_scratch);
        at::Tensor residual;
        if (!targets.empty()) {
            ESPALIER_TRY(residual, m_scratch->empty({m_tokens, m_shape.hiddenSize}, at::kDouble));
        }
        double wanted = 0;
        m_middle.clear();
        for (std::size_t b = 0; b < m_batches.size(); ++b) {
            ESPALIER_CHECK_OK(stopped());
            inputs.firstRow = m_firstRow[b];
            ESPALIER_TRY(const at::Tensor middle, m_model.attend(layer, planned.input(b), m_prepared, targets.empty() ? nullptr : &inputs));
            ESPALIER_CHECK_OK(inputs.status);
            ESPALIER_TRY(at::Tensor kept, m_scratch->keep(middle));
            m_middle.push_back(std::move(kept));
            if (targets.empty()) continue;
            ESPALIER_TRY(const at::Tensor goal, m_model.attend(layer, dense.input(b), m_identity));
            wanted += missing(residual, b, goal, planned.input(b), middle);
        }
        if (targets.empty()) return {};
        ESPALIER_CHECK_OK(fit(layer, targets, residual, wanted));
        targets.clear();
        residual.reset();
        if (!std::exchange(m_changed, false)) return {};
        ESPALIER_CHECK_OK(prepare());
        for (std::size_t b = 0; b < m_batches.size(); ++b) {
            ESPALIER_TRY(const at::Tensor middle, m_model.attend(layer, planned.input(b), m_prepared));
            m_middle[b].copy_(middle);
        }
        return {};
    }

    // Fills in the rows of a batch: what `now` lacks of `goal`. The energy of what was to be added to `before`.
    double missing(at::Tensor& residual, std::size_t batch, const at::Tensor& goal, const at::Tensor& before, const at::Tensor& now) const
    {
        const at::Tensor rows = goal.to(at::kDouble).view({-1, m_shape.hiddenSize});
        residual.narrow(0, m_firstRow[batch], rows.size(0)).copy_(rows - now.to(at::kDouble).view_as(rows));
        return (rows - before.to(at::kDouble).view_as(rows)).square().sum().item<double>();
    }

    // What a layer's fit holds outside of the scratch: matrices in fp32, the changes of a block of rows, and one factorisation.
    std::int64_t heldBytes(int layer) const
    {
        bool left = false;
        std::int64_t matrices = 0, largest = 0;
        for (const Target& target : expertTargets(m_model.checkpoint(), m_plan, layer, m_shared, left)) {
            const std::int64_t width = widthOf(m_shape, m_plan, target);
            matrices += width * (4 * m_shape.hiddenSize + 8 * kBlockRows);
            largest = std::max(largest, factoriseBytes(m_tokens, width));
        }
        return matrices + largest;
    }

    Status mend(int layer, HiddenStates& dense, HiddenStates& planned)
    {
        // Where weights are streamed, what the budget leaves is for the layers that are read ahead.
        const std::int64_t spare = m_model.streamsWeights() ? 0 : m_model.spareBytes() - heldBytes(layer);
        m_scratch.emplace(m_run.folder, std::max<std::int64_t>(spare, 0) / 2);
        ESPALIER_CHECK_OK(mendAttention(layer, dense, planned));
        std::vector<Target> targets = expertTargets(m_model.checkpoint(), m_plan, layer, m_shared, m_left);
        ESPALIER_CHECK_OK(load(targets));
        TargetInputs inputs(m_plan, layer, targets, *m_scratch);
        at::Tensor residual;  // [tokens,H] fp64: what the layer lacks
        if (!targets.empty()) {
            ESPALIER_TRY(residual, m_scratch->empty({m_tokens, m_shape.hiddenSize}, at::kDouble));
        }
        double wanted = 0;
        for (std::size_t b = 0; b < m_batches.size(); ++b) {
            ESPALIER_CHECK_OK(stopped());
            ESPALIER_TRY(const at::Tensor whole, m_model.layer(layer, dense.input(b), m_identity));
            dense.setOutput(b, whole);
            inputs.firstRow = m_firstRow[b];
            ESPALIER_TRY(const at::Tensor out, m_model.feedForward(layer, m_middle[b], m_prepared, targets.empty() ? nullptr : &inputs));
            ESPALIER_CHECK_OK(inputs.status);
            planned.setOutput(b, out);
            if (targets.empty()) continue;
            at::Tensor goal = whole;
            if (!m_towardsDense) {
                ESPALIER_TRY(goal, m_model.feedForward(layer, m_middle[b], m_identity));
            }
            wanted += missing(residual, b, goal, m_middle[b], out);
        }
        if (!targets.empty()) ESPALIER_CHECK_OK(fit(layer, targets, residual, wanted));
        ++m_done;
        // The layer is read anew beside nothing of its fit.
        targets.clear();
        residual.reset();
        if (!std::exchange(m_changed, false)) return {};
        // What the layer gives now: the numbers as they are stored, not as they were solved for.
        ESPALIER_CHECK_OK(prepare());
        for (std::size_t b = 0; b < m_batches.size(); ++b) {
            ESPALIER_TRY(const at::Tensor out, m_model.feedForward(layer, m_middle[b], m_prepared));
            planned.setOutput(b, out);
        }
        return {};
    }

    // What a fit may take beside the weights; the least of all processes, so that all leave out the same.
    Status findRoom()
    {
        const std::int64_t own = std::max<std::int64_t>(m_model.spareBytes(), kLeastRoom);
        ESPALIER_TRY(const std::vector<Json> all, m_run.share.exchange(Json(own)));
        m_room = own;
        for (const Json& room : all)
            m_room = std::min(m_room, room.get<std::int64_t>());
        return {};
    }
    // Attention and the shared experts see every token, which is known before anything is computed; how many an expert sees is not.
    Status checkRoom(int first)
    {
        bool left = false;
        for (int l = first; l < m_model.layerCount(); ++l) {
            std::vector<Target> targets;
            if (m_attention) targets = attentionTarget(m_model.checkpoint(), m_plan, l, left);
            std::vector<Target> experts = expertTargets(m_model.checkpoint(), m_plan, l, m_shared, left);
            std::move(experts.begin(), experts.end(), std::back_inserter(targets));
            for (const Target& target : targets) {
                if (target.slot.linear.empty()) continue;
                const std::int64_t width = widthOf(m_shape, m_plan, target);
                const std::int64_t bytes = factoriseBytes(m_tokens, width);
                if (bytes <= m_room) continue;
                return resourceError(
                    "recover.memory", "memory",
                    {"Mending {matrix}, {width} columns on {tokens} tokens, takes {mib} MiB beside the weights; there are {room}.",
                     {{"matrix", target.slot.words()},
                      {"width", width},
                      {"tokens", m_tokens},
                      {"mib", bytes >> 20},
                      {"room", m_room >> 20}}},
                    "Take fewer windows, allow more memory with --memory-budget, or leave these matrices out (parameters shared, "
                    "attention).");
            }
        }
        return {};
    }
    // Experts that saw so many tokens that their moments do not fit stay as they are.
    void leaveWide(std::vector<Target>& targets)
    {
        m_tooWide +=
            std::erase_if(targets, [&](const Target& target) { return factoriseBytes(target.map.tokens(), target.map.width) > m_room; });
    }

    Status fit(int layer, std::vector<Target>& targets, const at::Tensor& residual, double wanted)
    {
        for (Target& target : targets)
            ESPALIER_CHECK_OK(target.flush(*m_scratch));
        const double before = residual.square().sum().item<double>();
        if (before == 0 || wanted == 0) return {};
        leaveWide(targets);
        if (targets.empty()) return {};
        std::vector<FittedMap> maps;
        std::vector<at::Tensor> fresh;
        for (Target& target : targets) {
            ESPALIER_CHECK_OK(stopped());
            ESPALIER_CHECK_OK(factorise(target.map, m_ridge, *m_scratch));
            maps.push_back(target.map);
            fresh.emplace_back();
            if (!target.map.factor.defined()) continue;
            ESPALIER_TRY(fresh.back(), m_scratch->empty(target.weight.sizes(), target.stored));
        }
        ESPALIER_TRY(const std::vector<SweepLoss> losses, solve(layer, targets, maps, residual, fresh));
        ESPALIER_CHECK_OK(write(layer, targets, fresh));
        std::vector<double> relative = {before / wanted};
        for (const SweepLoss& loss : losses)
            relative.push_back((loss.squares + loss.penalty) / wanted);
        for (const double loss : relative)
            report(layer, loss);
        m_losses.insert(m_losses.end(), relative.begin(), relative.end());
        return {};
    }

    // Blocks of rows, each by the process that owns it; everyone gets all of them.
    Result<std::vector<SweepLoss>> solve(int layer, const std::vector<Target>& targets, const std::vector<FittedMap>& maps,
                                         const at::Tensor& residual, std::vector<at::Tensor>& fresh)
    {
        const std::int64_t out = residual.size(1);
        Json own = Json::array();
        Status status;
        for (std::int64_t begin = 0; begin < out && status.ok(); begin += kBlockRows) {
            if (!m_run.share.owns(static_cast<std::size_t>(begin / kBlockRows))) continue;
            const std::int64_t rows = std::min(kBlockRows, out - begin);
            at::Tensor left = residual.narrow(1, begin, rows).contiguous();
            std::vector<at::Tensor> changes;
            changes.reserve(maps.size());
            for (const FittedMap& map : maps)
                changes.push_back(at::zeros({map.factor.defined() ? rows : 0, map.width}, at::kDouble));
            const std::vector<SweepLoss> losses = sweep(maps, m_sweeps, left, changes, [this] { return m_job.stopRequested(); });
            if (losses.empty()) status = cancelled();
            for (std::size_t i = 0; i < maps.size(); ++i)
                if (maps[i].factor.defined())
                    fresh[i].narrow(0, begin, rows).copy_(targets[i].weight.narrow(0, begin, rows).to(at::kDouble) + changes[i]);
            Json block = {{"begin", begin}, {"losses", Json::array()}};
            for (const SweepLoss& loss : losses)
                block["losses"].push_back({loss.squares, loss.penalty});
            own.push_back(std::move(block));
        }
        if (status.ok() && !m_run.share.alone()) status = handOver(layer, own, fresh);
        ESPALIER_TRY(const std::vector<Json> parts,
                     m_run.share.exchange(status.ok() ? Result<Json>(std::move(own)) : Result<Json>(status.error())));
        std::map<std::int64_t, Json> blocks;
        for (const Json& part : parts)
            for (const Json& block : part)
                blocks[block["begin"].get<std::int64_t>()] = block;
        std::vector<SweepLoss> sums(static_cast<std::size_t>(m_sweeps));
        Status taken;
        for (const auto& [begin, block] : blocks) {
            for (std::size_t i = 0; i < sums.size(); ++i) {
                sums[i].squares += block["losses"][i][0].get<double>();
                sums[i].penalty += block["losses"][i][1].get<double>();
            }
            if (block.contains("file") && !m_run.share.owns(static_cast<std::size_t>(begin / kBlockRows)) && taken.ok())
                taken = takeOver(begin, block, fresh);
        }
        ESPALIER_CHECK_OK(m_run.share.meet(taken));
        return sums;
    }
    // Rows of a block as a values file in the run's folder, which all processes see.
    Status handOver(int layer, Json& own, const std::vector<at::Tensor>& fresh) const
    {
        for (Json& block : own) {
            const auto begin = block["begin"].get<std::int64_t>();
            std::vector<at::Tensor> rows;
            std::vector<ValueToWrite> values;
            for (std::size_t i = 0; i < fresh.size(); ++i) {
                if (!fresh[i].defined()) continue;
                rows.push_back(fresh[i].narrow(0, begin, std::min(kBlockRows, fresh[i].size(0) - begin)).contiguous());
                values.push_back(
                    {{fmt::format("layers.{}.rows.{}.{}", layer, begin, i), storedAs(rows.back().scalar_type()), rows.back().sizes().vec()},
                     bytesOf(rows.back())});
            }
            const fs::path folder = m_run.folder / fmt::format("rows-{}", m_run.share.rank() + 1);
            ESPALIER_TRY(const ValuesInfo info, writeValuesFile(folder, values, Json::object()));
            block["file"] = info.file;
            block["layer"] = layer;
        }
        return {};
    }
    static Status takeOver(std::int64_t begin, const Json& block, std::vector<at::Tensor>& fresh)
    {
        ESPALIER_TRY(const SafetensorsFile file, SafetensorsFile::open(block["file"].get<std::string>()));
        for (std::size_t i = 0; i < fresh.size(); ++i) {
            if (!fresh[i].defined()) continue;
            const TensorInfo* info = file.find(fmt::format("layers.{}.rows.{}.{}", block["layer"].get<int>(), begin, i));
            if (!info) return internalError("rows of another process are not there");
            at::Tensor rows = fresh[i].narrow(0, begin, info->shape[0]);
            std::copy_n(file.bytes(*info).data(), file.bytes(*info).size(), static_cast<std::byte*>(rows.mutable_data_ptr()));
        }
        return {};
    }

    // New numbers as a part of the run, and the plan that reads them.
    Status write(int layer, const std::vector<Target>& targets, const std::vector<at::Tensor>& fresh)
    {
        ESPALIER_TRY(const TargetValues made, valuesOf(targets, fresh));
        if (made.values.empty()) return {};
        std::shared_ptr<const FactorSource> part;
        if (m_run.share.first()) {
            auto written = writePart(m_run.folder, made.values);
            ESPALIER_TRY([[maybe_unused]] const auto all,
                         m_run.share.exchange(written.ok() ? Result<Json>((*written)->stored()->id()) : Result<Json>(written.error())));
            part = *written;
        } else {
            ESPALIER_TRY(const auto all, m_run.share.exchange(Json()));
            const auto id = all.front().get<std::string>();
            ESPALIER_TRY(part, openValuesFile(m_run.folder / (id + ".safetensors"), id));
        }
        m_written.push_back({{"id", part->stored()->id()}, {"bodies", made.bodies}, {"linears", made.linears}});
        m_changed = true;
        return adopt(layer, part, made.bodies, made.linears);
    }
    Status adopt(int layer, const std::shared_ptr<const FactorSource>& part, const std::vector<std::size_t>& bodies,
                 const std::vector<std::string>& linears)
    {
        ESPALIER_TRY(m_plan, withStored(m_shape, m_plan, layer, bodies, linears, part->stored()->id()));
        m_parts.push_back(part);
        return {};
    }

    RecoverRun& m_run;
    JobContext& m_job;
    MoeModel& m_model;
    const ModelShape& m_shape;
    const double m_ridge;
    const int m_sweeps;
    const bool m_towardsDense;
    const bool m_shared;
    const bool m_attention;
    CompressionPlan m_plan;
    FactorSources m_parts;    // of the layers that are done
    FactorSources m_sources;  // the run's and the parts
    PreparedPlan m_prepared, m_identity;
    std::vector<WindowBatch> m_batches;
    std::vector<std::int64_t> m_firstRow;  // of each batch among all tokens
    std::int64_t m_tokens = 0;
    std::optional<Scratch> m_scratch;  // of the layer that runs
    std::vector<at::Tensor> m_middle;  // by batch: residual streams after its attention
    int m_done = 0;                    // layers
    int m_step = 0;
    std::int64_t m_room = 0;                                     // bytes
    std::size_t m_tooWide = 0;                                   // maps that did not fit there
    bool m_left = false;                                         // something is not of a kind that can be refitted
    bool m_changed = false;                                      // numbers were written since the plan was last made ready
    bool m_whole = true;                                         // what was found of an earlier run
    std::vector<std::pair<int, std::vector<double>>> m_earlier;  // losses of its layers
    // Of the layer that runs, for the journal.
    Json m_written = Json::array();
    std::vector<double> m_losses;
};

}  // namespace

Result<Recovered> runLeastSquares(RecoverRun& run, JobContext& job) { return Mending(run, job).run(); }

}  // namespace espalier
