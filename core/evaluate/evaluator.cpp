#include "evaluate/evaluator.h"

#include "base/exception.h"
#include "base/freed_memory.h"
#include "base/window_spread.h"
#include "model/moe_model_torch.h"
#include "rpc/values_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <list>
#include <map>
#include <set>
#include <unordered_map>

namespace espalier
{

namespace
{

constexpr int kMaxWindowsPerGroup = 8;
constexpr std::size_t kMaxTokensPerGroup = 2048;
constexpr std::size_t kBlock = 128;  // windows that are spread over
// Residual streams that a layer-by-layer wave may hold beside the cache when weights are streamed.
constexpr std::int64_t kMinWaveBytes = 256ll << 20;

// What was done below the MoE module of a layer, attention included, in hex: no plan that does otherwise there can meet it.
std::string boundaryKey(int owner, const std::string& entry, int layer, int group)
{
    return fmt::format("{}/{}/{}/{}", owner, entry, layer, group);
}

std::int64_t tensorBytes(const at::Tensor& tensor)
{
    return static_cast<std::int64_t>(tensor.numel()) * static_cast<std::int64_t>(tensor.element_size());
}

}  // namespace

// Residual streams at the entry of MoE modules by (evaluator, what the plan does below, group), least recently used first out.
class StreamCache
{
public:
    explicit StreamCache(std::int64_t limit) : m_limit(limit) {}

    int newOwner() { return m_owners++; }

    const at::Tensor* find(const std::string& key)
    {
        const auto found = m_entries.find(key);
        if (found == m_entries.end()) return nullptr;
        m_order.splice(m_order.end(), m_order, found->second.position);
        return &found->second.tensor;
    }
    bool contains(const std::string& key) const { return m_entries.contains(key); }

    void insert(int owner, const std::string& key, const at::Tensor& tensor)
    {
        const std::int64_t bytes = tensorBytes(tensor);
        if (bytes > m_limit || m_entries.contains(key)) return;
        while (m_bytes + bytes > m_limit && !m_order.empty()) {
            const auto oldest = m_entries.find(m_order.front());
            m_bytes -= tensorBytes(oldest->second.tensor);
            m_entries.erase(oldest);
            m_order.pop_front();
        }
        // A view would keep a larger storage alive than what is counted here.
        const bool whole = tensor.is_contiguous() && static_cast<std::int64_t>(tensor.storage().nbytes()) == bytes;
        m_order.push_back(key);
        m_entries.emplace(key, Entry{whole ? tensor : tensor.clone(), owner, std::prev(m_order.end())});
        m_bytes += bytes;
    }

    void drop(int owner)
    {
        for (auto it = m_entries.begin(); it != m_entries.end();) {
            if (it->second.owner != owner) {
                ++it;
                continue;
            }
            m_bytes -= tensorBytes(it->second.tensor);
            m_order.erase(it->second.position);
            it = m_entries.erase(it);
        }
    }
    std::int64_t limit() const { return m_limit; }
    void countOf(int owner, EvaluatorUsage& usage) const
    {
        for (const auto& [key, entry] : m_entries)
            if (entry.owner == owner) {
                usage.cacheBytes += tensorBytes(entry.tensor);
                ++usage.boundaries;
            }
    }

private:
    struct Entry {
        at::Tensor tensor;
        int owner = 0;
        std::list<std::string>::iterator position;
    };
    std::unordered_map<std::string, Entry> m_entries;
    std::list<std::string> m_order;
    const std::int64_t m_limit = 0;
    std::int64_t m_bytes = 0;
    int m_owners = 0;
};

std::shared_ptr<StreamCache> makeStreamCache(std::int64_t bytes) { return std::make_shared<StreamCache>(std::max<std::int64_t>(bytes, 0)); }

namespace
{

std::size_t windowsPerGroup(std::size_t length)
{
    return std::clamp<std::size_t>(kMaxTokensPerGroup / std::max<std::size_t>(length, 1), 1, kMaxWindowsPerGroup);
}

void appendGroups(const std::vector<int>& windows, std::size_t most, std::vector<std::vector<int>>& groups)
{
    for (std::size_t at = 0; at < windows.size(); at += most)
        groups.emplace_back(windows.begin() + static_cast<std::ptrdiff_t>(at),
                            windows.begin() + static_cast<std::ptrdiff_t>(std::min(at + most, windows.size())));
}

}  // namespace

std::vector<std::vector<int>> evaluationGroups(const std::vector<std::vector<int>>& rows)
{
    std::vector<std::vector<int>> groups;
    for (std::size_t first = 0; first < rows.size();) {
        std::size_t last = first + 1;
        while (last < rows.size() && last - first < kBlock && rows[last].size() == rows[first].size())
            ++last;
        const std::vector<int> spread = spreadWindows(static_cast<int>(last - first), kSpreadWindows);
        std::vector<int> leading;
        for (const std::size_t start : {std::size_t{0}, std::size_t{1}})
            for (std::size_t i = start; i < spread.size(); i += 2)
                leading.push_back(static_cast<int>(first) + spread[i]);
        std::vector<int> others;
        for (int w = 0; w < static_cast<int>(last - first); ++w)
            if (!std::binary_search(spread.begin(), spread.end(), w)) others.push_back(static_cast<int>(first) + w);
        const std::size_t most = windowsPerGroup(rows[first].size());
        appendGroups(leading, most, groups);
        appendGroups(others, most, groups);
        first = last;
    }
    return groups;
}

std::vector<std::pair<int, int>> windowGroups(const std::vector<std::vector<int>>& rows)
{
    std::vector<std::pair<int, int>> groups;
    for (std::size_t first = 0; first < rows.size();) {
        const std::size_t most = windowsPerGroup(rows[first].size());
        std::size_t last = first + 1;
        while (last < rows.size() && last - first < most && rows[last].size() == rows[first].size())
            ++last;
        groups.emplace_back(static_cast<int>(first), static_cast<int>(last));
        first = last;
    }
    return groups;
}

std::vector<int> firstWindows(int count)
{
    std::vector<int> indices(static_cast<std::size_t>(std::max(count, 0)));
    for (std::size_t i = 0; i < indices.size(); ++i)
        indices[i] = static_cast<int>(i);
    return indices;
}

struct Evaluator::State {
    State(MoeModel& m, TokenWindows w) : model(m), windows(std::move(w))
    {
        groups = evaluationGroups(windows.rows);
        groupOf.resize(windows.rows.size());
        for (std::size_t g = 0; g < groups.size(); ++g)
            for (const int w : groups[g])
                groupOf[static_cast<std::size_t>(w)] = static_cast<int>(g);
    }
    ~State()
    {
        if (cache) cache->drop(owner);
    }
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    MoeModel& model;
    TokenWindows windows;
    std::shared_ptr<StreamCache> cache;
    int owner = 0;  // in the cache
    std::vector<std::vector<int>> groups;
    std::vector<int> groupOf;  // by window
    std::unordered_map<std::string, std::map<int, WindowLoss>> losses;
    EvaluatorUsage usage;

    at::Tensor ids(int group) const;
    std::int64_t streamBytes(int group) const;
    Status measure(const CompressionPlan& plan, const std::vector<int>& pending, const std::set<int>& wanted, JobContext& job);
};

at::Tensor Evaluator::State::ids(int group) const
{
    const std::vector<int>& members = groups[static_cast<std::size_t>(group)];
    const auto length = static_cast<std::int64_t>(windows.rows[static_cast<std::size_t>(members.front())].size());
    at::Tensor result = at::empty({static_cast<std::int64_t>(members.size()), length}, at::kLong);
    auto* out = result.mutable_data_ptr<std::int64_t>();
    for (const int w : members)
        for (const int id : windows.rows[static_cast<std::size_t>(w)])
            *out++ = id;
    return result;
}

std::int64_t Evaluator::State::streamBytes(int group) const
{
    const std::vector<int>& members = groups[static_cast<std::size_t>(group)];
    const std::int64_t element = model.options().compute == ComputeType::Fp32 ? 4 : 2;
    return static_cast<std::int64_t>(members.size()) *
           static_cast<std::int64_t>(windows.rows[static_cast<std::size_t>(members.front())].size()) * model.shape().hiddenSize * element;
}

// Runs the groups of `pending` under the plan and records the loss of every window in them; those in `wanted` are reported.
Status Evaluator::State::measure(const CompressionPlan& plan, const std::vector<int>& pending, const std::set<int>& wanted, JobContext& job)
{
    const c10::InferenceMode inference;
    const int layers = model.layerCount();
    ESPALIER_TRY(const PreparedPlan prepared, model.prepare(plan));
    std::vector<std::string> entries;
    entries.reserve(static_cast<std::size_t>(layers));
    for (int l = 0; l < layers; ++l)
        entries.push_back(hexOf(plan.entryDigest(l, CompressionPlan::Half::Experts)));
    const auto key = [&](int boundary, int group) {
        return boundaryKey(owner, entries[static_cast<std::size_t>(boundary)], boundary, group);
    };

    // Every stride-th boundary, so that what one evaluation leaves behind fits half the cache beside what the next one leaves.
    std::int64_t all = 0;
    for (const int g : pending)
        all += streamBytes(g) * layers;
    const std::int64_t half = std::max<std::int64_t>(cache->limit() / 2, 1);
    const std::int64_t stride = std::max<std::int64_t>(1, (all + half - 1) / half);

    auto& results = losses[plan.hash()];
    const std::int64_t total = static_cast<std::int64_t>(pending.size()) * layers;
    std::int64_t done = 0;
    job.progress(done, total, "layer");

    struct Run {
        int group = 0;
        int next = 0;           // layer to run next
        bool attended = false;  // its first half was done: hidden is what enters its MoE module
        at::Tensor ids;
        at::Tensor hidden;
    };
    const bool layerByLayer = model.streamsWeights();
    const std::int64_t waveBytes = std::max(cache->limit(), kMinWaveBytes);
    for (std::size_t position = 0; position < pending.size();) {
        // Resident weights: group after group, the first losses come early. Streamed weights: layer after layer over as many
        // groups as memory allows, each layer is read once per wave. Either way every group computes the same bits.
        std::vector<Run> wave;
        std::int64_t bytes = 0;
        while (position < pending.size() && (wave.empty() || (layerByLayer && bytes + streamBytes(pending[position]) <= waveBytes))) {
            Run run;
            run.group = pending[position++];
            run.ids = ids(run.group);
            for (int l = layers - 1; l >= 0 && !run.attended; --l)
                if (cache->contains(key(l, run.group))) {
                    // The boundaries below were needed to get here and will be needed by the next edit further up: keep them young.
                    for (int below = 0; below <= l; ++below)
                        if (const at::Tensor* found = cache->find(key(below, run.group))) run.hidden = *found;
                    run.next = l;
                    run.attended = true;
                }
            bytes += streamBytes(run.group);
            usage.layersSkipped += run.next;
            done += run.next;
            wave.push_back(std::move(run));
        }
        job.progress(done, total, "layer");
        for (Run& run : wave)
            if (!run.hidden.defined()) {
                ESPALIER_TRY(run.hidden, model.embed(run.ids));
            }
        for (int l = 0; l < layers; ++l)
            for (Run& run : wave) {
                if (run.next != l) continue;
                if (!run.attended) {
                    ESPALIER_TRY(run.hidden, model.attend(l, run.hidden, prepared));
                    run.attended = true;
                    if (l % stride == 0) cache->insert(owner, key(l, run.group), run.hidden);
                }
                // Here, where everything that was computed can be found again.
                if (job.stopRequested()) return cancelledError();
                ESPALIER_TRY(run.hidden, model.feedForward(l, run.hidden, prepared));
                run.attended = false;
                run.next = l + 1;
                ++usage.layersRun;
                job.progress(++done, total, "layer");
            }
        for (Run& run : wave) {
            if (job.stopRequested()) return cancelledError();
            ESPALIER_TRY(at::Tensor nll, model.tokenNll(run.hidden, run.ids));
            nll = nll.to(at::kDouble).contiguous();
            const std::int64_t scored = nll.size(1);
            const double* values = nll.const_data_ptr<double>();
            for (const int w : groups[static_cast<std::size_t>(run.group)]) {
                WindowLoss loss{w, 0.0, static_cast<int>(scored)};
                for (std::int64_t t = 0; t < scored; ++t)
                    loss.nll += *values++;
                // A loss that was given as known stays: one number per window, whatever ran beside it.
                results.emplace(w, loss);
                if (wanted.contains(w)) job.partial(toJson(loss));
            }
            run.hidden.reset();
        }
        giveBackFreedMemory();
    }
    return {};
}

Evaluator::Evaluator(MoeModel& model, TokenWindows windows, std::int64_t cacheBytes)
    : m_state(std::make_unique<State>(model, std::move(windows)))
{
    std::int64_t all = 0;
    for (std::size_t g = 0; g < m_state->groups.size(); ++g)
        all += m_state->streamBytes(static_cast<int>(g)) * model.layerCount();
    m_state->cache = makeStreamCache(std::min(cacheBytes, 2 * all));
    m_state->owner = m_state->cache->newOwner();
}
Evaluator::Evaluator(MoeModel& model, TokenWindows windows, std::shared_ptr<StreamCache> cache)
    : m_state(std::make_unique<State>(model, std::move(windows)))
{
    m_state->cache = std::move(cache);
    m_state->owner = m_state->cache->newOwner();
}
Evaluator::~Evaluator() = default;
Evaluator::Evaluator(Evaluator&&) noexcept = default;
Evaluator& Evaluator::operator=(Evaluator&&) noexcept = default;

Result<std::vector<WindowLoss>> Evaluator::run(const CompressionPlan& plan, std::span<const int> windowIndices,
                                               const std::vector<WindowLoss>& known, JobContext& job)
{
    State& state = *m_state;
    for (const int w : windowIndices)
        if (w < 0 || w >= windowCount())
            return badInput(
                "evaluate.window_out_of_range", fmt::format("window {}", w),
                {"Window {w} was asked for; the text has windows 0 to {window_count}.", {{"w", w}, {"window_count", windowCount() - 1}}});
    auto& results = state.losses[plan.hash()];
    for (const WindowLoss& loss : known)
        if (loss.window >= 0 && loss.window < windowCount()) results.emplace(loss.window, loss);

    std::set<int> wanted;
    std::set<int> groups;
    for (const int w : windowIndices) {
        const auto found = results.find(w);
        if (found != results.end()) {
            job.partial(toJson(found->second));
        } else {
            wanted.insert(w);
            groups.insert(state.groupOf[static_cast<std::size_t>(w)]);
        }
    }
    if (!groups.empty()) {
        try {
            const Status status = state.measure(plan, {groups.begin(), groups.end()}, wanted, job);
            if (!status.ok()) {
                Error error = status.error();
                if (error.kept.empty()) {
                    const auto measuredNow = std::count_if(wanted.begin(), wanted.end(), [&](int w) { return results.contains(w); });
                    error.kept =
                        fmt::format("{} of {} windows were measured and are kept.",
                                    windowIndices.size() - wanted.size() + static_cast<std::size_t>(measuredNow), windowIndices.size());
                }
                return error;
            }
        } catch (const std::exception& failure) {
            return errorOf(
                failure,
                resourceError("evaluate.out_of_memory", "memory", "There was not enough memory to run the model on these windows.",
                              "Set a smaller memory budget, or use fewer or shorter windows."),
                "The forward pass");
        }
    }
    std::vector<WindowLoss> losses;
    losses.reserve(windowIndices.size());
    for (const int w : windowIndices)
        losses.push_back(results.at(w));
    return losses;
}

std::vector<WindowLoss> Evaluator::measured(const std::string& planHash) const
{
    std::vector<WindowLoss> losses;
    const auto found = m_state->losses.find(planHash);
    if (found != m_state->losses.end())
        for (const auto& [window, loss] : found->second)
            losses.push_back(loss);
    return losses;
}

const TokenWindows& Evaluator::windows() const { return m_state->windows; }

int Evaluator::windowCount() const { return static_cast<int>(m_state->windows.rows.size()); }

EvaluatorUsage Evaluator::usage() const
{
    EvaluatorUsage usage = m_state->usage;
    m_state->cache->countOf(m_state->owner, usage);
    return usage;
}

void Evaluator::clearCache() { m_state->cache->drop(m_state->owner); }

const std::vector<std::vector<int>>& Evaluator::groups() const { return m_state->groups; }

}  // namespace espalier
