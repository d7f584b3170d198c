#include "model/layer_weights.h"

#include "base/mapped_file.h"
#include "checkpoint/checkpoint.h"
#include "model/device_staging.h"
#include "model/kernels.h"
#include "model/layer_mix.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <thread>

namespace espalier
{

namespace
{

// Converts values of a view to fp32; returns whether all are finite.
bool toFloat(const TensorView& view, std::int64_t first, float* out, std::int64_t count)
{
    const std::byte* in = view.bytes.data() + first * dtypeBits(view.dtype) / 8;
    switch (view.dtype) {
        case DType::BF16:
            return kernels::floatFromBf16(in, out, count);
        case DType::F16:
            return kernels::floatFromHalf(in, out, count);
        case DType::F64:
            return kernels::floatFromDouble(in, out, count);
        default:
            return kernels::floatFromFloat(in, out, count);
    }
}

std::int64_t elements(const TensorView& view)
{
    std::int64_t count = 1;
    for (const std::int64_t size : view.shape)
        count *= size;
    return count;
}

// Values of a view, from `first` on, in the compute type; returns whether all are finite.
bool convert(const TensorView& view, std::int64_t first, std::int64_t count, at::ScalarType type, void* out)
{
    if (type == at::kFloat) return toFloat(view, first, static_cast<float*>(out), count);
    auto* to = static_cast<std::uint16_t*>(out);
    if (view.dtype == DType::BF16) {
        std::memcpy(to, view.bytes.data() + first * 2, static_cast<std::size_t>(count) * sizeof(std::uint16_t));
        return kernels::allFiniteBf16(to, count);
    }
    bool finite = true;
    float block[2048];
    for (std::int64_t begin = 0; begin < count; begin += std::ssize(block)) {
        const std::int64_t size = std::min<std::int64_t>(std::ssize(block), count - begin);
        finite = toFloat(view, first + begin, block, size) && finite;
        kernels::bf16FromFloat(block, to + begin, size);
    }
    return finite;
}

// Some rows of a matrix, by all threads.
at::Tensor convertedRows(const TensorView& view, std::int64_t first, std::int64_t count, at::ScalarType type)
{
    const std::int64_t width = view.shape.back();
    at::Tensor out = at::empty({count, width}, type);
    auto* to = static_cast<std::byte*>(out.mutable_data_ptr());
    const std::int64_t rowBytes = width * static_cast<std::int64_t>(out.element_size());
    at::parallel_for(0, count, 64, [&](std::int64_t begin, std::int64_t end) {
        convert(view, (first + begin) * width, (end - begin) * width, type, to + begin * rowBytes);
    });
    return out;
}

class Loader
{
public:
    // `exact`: no page is read that no tensor lies in: a fault reads its neighbours too, unless they were asked for.
    explicit Loader(at::ScalarType compute, DeviceStaging* staging = nullptr, bool exact = false, std::shared_ptr<const LayerMix> mix = {})
        : m_compute(compute), m_staging(staging), m_exact(exact), m_mix(std::move(mix))
    {
    }

    // The first non-finite tensor goes to `bad` (kept if it already names one).
    at::Tensor load(const TensorView& view, std::string& bad) { return load(view, bad, m_compute); }
    at::Tensor load(const TensorView& view, std::string& bad, at::ScalarType type)
    {
        at::Tensor out = m_staging ? m_staging->buffer(view.shape, type) : at::empty(view.shape, type);
        fill(view, out, bad);
        return m_staging ? m_staging->send(out) : out;
    }
    at::Tensor loadOnHost(const TensorView& view, std::string& bad, at::ScalarType type)
    {
        at::Tensor out = at::empty(view.shape, type);
        fill(view, out, bad);
        return out;
    }
    // As a matrix that is multiplied with. Straight from the file's pages where they hold the compute type already.
    WeightMatrix matrix(const TensorView& view, std::string& bad)
    {
        const std::int64_t count = elements(view);
        const auto address = reinterpret_cast<std::uintptr_t>(view.bytes.data());
        if (!m_staging && !m_mix && m_compute == at::kBFloat16 && view.dtype == DType::BF16 && address % alignof(std::uint16_t) == 0) {
            m_bytes += count * 2;
            if (m_exact) MappedFile::willNeed(view.bytes);
            const auto* values = reinterpret_cast<const std::uint16_t*>(view.bytes.data());
            if (bad.empty() && !kernels::allFiniteBf16(values, count)) bad = view.name;
            return WeightMatrix::packed(at::from_blob(const_cast<std::uint16_t*>(values), view.shape, at::kBFloat16));
        }
        at::Tensor rows = scratch(view.shape);
        fill(view, rows, bad);
        return placed(rows);
    }
    // Several matrices with equal columns, one below the other.
    WeightMatrix stack(std::span<const TensorView> views, std::string& bad)
    {
        at::Tensor rows = scratch(stackedShape(views));
        fillRows(views, rows, bad);
        return placed(rows);
    }
    at::Tensor stackVectors(std::span<const TensorView> views, std::string& bad)
    {
        const std::vector<std::int64_t> shape = stackedShape(views);
        at::Tensor rows = m_staging ? m_staging->buffer(shape, m_compute) : at::empty(shape, m_compute);
        fillRows(views, rows, bad);
        return m_staging ? m_staging->send(rows) : rows;
    }
    Linear linear(const LinearView& view, std::string& bad)
    {
        Linear linear;
        if (view.factored) {
            linear.u = matrix(view.u, bad);
            linear.v = matrix(view.v, bad);
        } else {
            linear.weight = matrix(view.dense, bad);
        }
        if (view.biased) linear.bias = load(view.bias, bad);
        return linear;
    }
    GatedMlp mlp(const LinearView& gate, const LinearView& up, const LinearView& down, std::string& bad)
    {
        return {.gate = linear(gate, bad), .up = linear(up, bad), .down = linear(down, bad)};
    }
    // Names the first non-finite tensor of an expert that is not converted.
    static void lookThrough(std::initializer_list<LinearView> matrices, std::string& bad)
    {
        float block[2048];
        for (const LinearView& matrix : matrices)
            for (const TensorView* view : {&matrix.dense, &matrix.u, &matrix.v, &matrix.bias}) {
                const std::int64_t count = view->bytes.empty() ? 0 : elements(*view);
                bool finite = true;
                for (std::int64_t begin = 0; begin < count; begin += std::ssize(block))
                    finite = toFloat(*view, begin, block, std::min<std::int64_t>(std::ssize(block), count - begin)) && finite;
                if (!finite && bad.empty()) bad = view->name;
            }
    }
    std::int64_t bytes() const { return m_bytes; }
    at::ScalarType compute() const { return m_compute; }
    const std::shared_ptr<const LayerMix>& mix() const { return m_mix; }

private:
    // Memory for a matrix on its way into the blocked layout. One for all: freed and taken again it would leave holes between the matrices
    // that stay.
    at::Tensor scratch(at::IntArrayRef shape)
    {
        if (m_staging) return m_staging->buffer(shape, m_compute);
        const std::int64_t count = c10::multiply_integers(shape);
        if (!m_scratch.defined() || m_scratch.numel() < count) m_scratch = at::empty({count}, m_compute);
        return m_scratch.narrow(0, 0, count).view(shape);
    }
    WeightMatrix placed(const at::Tensor& rows) const
    {
        return m_staging ? WeightMatrix::plain(m_staging->send(rows)) : WeightMatrix::packed(rows);
    }
    static std::vector<std::int64_t> stackedShape(std::span<const TensorView> views)
    {
        std::vector<std::int64_t> shape = views.front().shape;
        shape.front() = 0;
        for (const TensorView& view : views)
            shape.front() += view.shape.front();
        return shape;
    }
    void fillRows(std::span<const TensorView> views, at::Tensor& out, std::string& bad)
    {
        std::int64_t row = 0;
        for (const TensorView& view : views) {
            at::Tensor part = out.narrow(0, row, view.shape.front());
            fill(view, part, bad);
            row += view.shape.front();
        }
    }
    void fill(const TensorView& view, at::Tensor& out, std::string& bad)
    {
        const std::int64_t count = elements(view);
        m_bytes += count * static_cast<std::int64_t>(out.element_size());
        if (m_mix) {
            const auto mixed = m_mix->numbers(view, 0, count);
            if (mixed.ok()) out.copy_(mixed->view(out.sizes()));
            if (bad.empty() && (!mixed.ok() || !at::isfinite(*mixed).all().item<bool>())) bad = view.name;
            return;
        }
        if (m_exact) MappedFile::willNeed(view.bytes);
        const bool finite = convert(view, 0, count, out.scalar_type(), out.mutable_data_ptr());
        if (!finite && bad.empty()) bad = view.name;
    }

    at::ScalarType m_compute;
    DeviceStaging* m_staging;
    bool m_exact;
    std::shared_ptr<const LayerMix> m_mix;
    at::Tensor m_scratch;
    std::int64_t m_bytes = 0;
};

Status checkDtype(const TensorView& view)
{
    if (isFloating(view.dtype)) return {};
    return unsupported("model.unsupported_dtype", view.name,
                       {"The tensor {name} is stored as {dtype_name}, which cannot be computed with.",
                        {{"name", view.name}, {"dtype_name", dtypeName(view.dtype)}}},
                       "Use a checkpoint in BF16, F16 or F32.");
}

Status checkDtype(const LinearView& view)
{
    ESPALIER_CHECK_OK(checkDtype(view.factored ? view.u : view.dense));
    return view.biased ? checkDtype(view.bias) : Status();
}

struct ExpertViews {
    int expert = 0;
    LinearView gate, up, down;

    const std::byte* begin() const { return (gate.factored ? gate.u : gate.dense).bytes.data(); }
};

// Of the experts that the checkpoint stores as their own.
Result<std::vector<ExpertViews>> expertViews(const Checkpoint& checkpoint, int layer)
{
    const LayerConfig& config = checkpoint.config().layers[static_cast<std::size_t>(layer)];
    std::vector<ExpertViews> experts;
    for (int e = 0; e < config.experts; ++e) {
        if (config.isConstant(e) || config.bodyOf(e) != e) continue;
        experts.push_back({e, checkpoint.expert(layer, e, Matrix::Gate), checkpoint.expert(layer, e, Matrix::Up),
                           checkpoint.expert(layer, e, Matrix::Down)});
        for (const LinearView* view : {&experts.back().gate, &experts.back().up, &experts.back().down})
            ESPALIER_CHECK_OK(checkDtype(view->factored ? view->u : view->dense));
    }
    return experts;
}

// In the order of the file, behind whoever reads its pages ahead; on more threads where somebody waits for the layer. Returns the bytes
// that loaders other than `loader` have made.
std::int64_t loadExperts(std::vector<ExpertViews> experts, Loader& loader, const LayerLoading& loading, LayerWeights& weights)
{
    std::sort(experts.begin(), experts.end(),
              [](const ExpertViews& a, const ExpertViews& b) { return std::less<>()(a.begin(), b.begin()); });
    std::atomic<std::size_t> next = 0;
    const auto work = [&](Loader& own) {
        for (std::size_t i = next++; i < experts.size(); i = next++) {
            const ExpertViews& views = experts[i];
            ExpertWeights& expert = weights.experts[static_cast<std::size_t>(views.expert)];
            if (loading.heldExperts < 0 || views.expert < loading.heldExperts)
                expert.mlp = own.mlp(views.gate, views.up, views.down, expert.nonFinite);
            else
                Loader::lookThrough({views.gate, views.up, views.down}, expert.nonFinite);
        }
    };
    const int threads = loading.staging ? 1 : loading.threads;
    std::vector<Loader> loaders(static_cast<std::size_t>(std::max(threads - 1, 0)), Loader(loader.compute(), nullptr, false, loader.mix()));
    std::vector<std::exception_ptr> failures(loaders.size() + 1);
    const auto guarded = [&](Loader& own, std::exception_ptr& failure) {
        const c10::InferenceMode guard;
        try {
            work(own);
        } catch (...) {
            failure = std::current_exception();
            next = experts.size();
        }
    };
    std::vector<std::thread> others;
    others.reserve(loaders.size());
    for (std::size_t i = 0; i < loaders.size(); ++i)
        others.emplace_back([&, i] { guarded(loaders[i], failures[i]); });
    guarded(loader, failures.back());
    for (std::thread& other : others)
        other.join();
    for (const std::exception_ptr& failure : failures)
        if (failure) std::rethrow_exception(failure);
    std::int64_t bytes = 0;
    for (const Loader& own : loaders)
        bytes += own.bytes();
    return bytes;
}

}  // namespace

ExpertReader::ExpertReader(const Checkpoint& checkpoint, int layer, at::ScalarType compute, int most)
    : m_checkpoint(checkpoint), m_layer(layer), m_compute(compute), m_left(std::max(most, 1))
{
}

std::shared_ptr<const GatedMlp> ExpertReader::read(int expert)
{
    {
        std::unique_lock lock(m_mutex);
        m_freed.wait(lock, [&] { return m_left > 0; });
        --m_left;
    }
    // A place of this reader; what it was taken for is gone before it is given back.
    struct Place {
        explicit Place(std::shared_ptr<ExpertReader> of) : reader(std::move(of)) {}
        Place(const Place&) = delete;
        Place& operator=(const Place&) = delete;
        ~Place()
        {
            mlp = {};
            const std::lock_guard lock(reader->m_mutex);
            ++reader->m_left;
            reader->m_freed.notify_one();
        }
        std::shared_ptr<ExpertReader> reader;
        GatedMlp mlp;
    };
    const auto place = std::make_shared<Place>(shared_from_this());
    Loader loader(m_compute);
    std::string bad;  // known since the layer was loaded
    place->mlp = loader.mlp(m_checkpoint.expert(m_layer, expert, Matrix::Gate), m_checkpoint.expert(m_layer, expert, Matrix::Up),
                            m_checkpoint.expert(m_layer, expert, Matrix::Down), bad);
    return {place, &place->mlp};
}

std::shared_ptr<const GatedMlp> loadExpert(const Checkpoint& checkpoint, int layer, int expert, at::ScalarType compute, std::string& bad,
                                           std::int64_t& bytes)
{
    Loader loader(compute);
    auto mlp =
        std::make_shared<GatedMlp>(loader.mlp(checkpoint.expert(layer, expert, Matrix::Gate), checkpoint.expert(layer, expert, Matrix::Up),
                                              checkpoint.expert(layer, expert, Matrix::Down), bad));
    bytes = loader.bytes();
    return mlp;
}

std::shared_ptr<const GatedMlp> LayerWeights::expert(int id) const
{
    const GatedMlp& held = experts[static_cast<std::size_t>(id)].mlp;
    if (held.defined() || !reader) return {std::shared_ptr<const GatedMlp>(), &held};
    return reader->read(id);
}

Result<std::shared_ptr<const LayerWeights>> loadLayer(const Checkpoint& checkpoint, int layer, const LayerLoading& loading)
{
    const at::ScalarType compute = loading.compute;
    DeviceStaging* const staging = loading.staging;
    const c10::InferenceMode guard;
    const ModelConfig& config = checkpoint.config();
    const LayerConfig& layerConfig = config.layers[static_cast<std::size_t>(layer)];
    auto weights = std::make_shared<LayerWeights>();
    std::string& bad = weights->nonFinite;
    Loader loader(compute, staging, loading.experts != nullptr,
                  loading.merge ? std::make_shared<const LayerMix>(checkpoint, layer, *loading.merge) : std::shared_ptr<const LayerMix>());

    const auto named = [&](std::string_view suffix) -> Result<TensorView> {
        ESPALIER_TRY(TensorView view, checkpoint.layerTensor(layer, suffix));
        ESPALIER_CHECK_OK(checkDtype(view));
        return view;
    };
    const auto linear = [&](std::string_view projection) -> Result<Linear> {
        const LinearView view = checkpoint.linear(layer, fmt::format("self_attn.{}", projection));
        ESPALIER_CHECK_OK(checkDtype(view));
        return loader.linear(view, bad);
    };
    const auto vector = [&](std::string_view suffix) -> Result<at::Tensor> {
        ESPALIER_TRY(const TensorView view, named(suffix));
        return loader.load(view, bad);
    };

    ESPALIER_TRY(weights->inputNorm, vector("input_layernorm.weight"));
    if (config.mla) {
        if (config.mla->qLoraRank > 0) {
            ESPALIER_TRY(weights->queryA, linear("q_a_proj"));
            ESPALIER_TRY(weights->queryNorm, vector("self_attn.q_a_layernorm.weight"));
            ESPALIER_TRY(weights->queryB, linear("q_b_proj"));
        } else {
            ESPALIER_TRY(weights->queryB, linear("q_proj"));
        }
        ESPALIER_TRY(weights->latentA, linear("kv_a_proj_with_mqa"));
        ESPALIER_TRY(weights->keyNorm, vector("self_attn.kv_a_layernorm.weight"));
        ESPALIER_TRY(weights->latentB, linear("kv_b_proj"));
    } else {
        std::vector<LinearView> views;
        std::vector<TensorView> matrices, biases;
        for (const char* projection : {"q_proj", "k_proj", "v_proj"}) {
            views.push_back(checkpoint.linear(layer, fmt::format("self_attn.{}", projection)));
            ESPALIER_CHECK_OK(checkDtype(views.back()));
            matrices.push_back(views.back().dense);
            if (views.back().biased) biases.push_back(views.back().bias);
        }
        if (std::any_of(views.begin(), views.end(), [](const LinearView& view) { return view.factored; })) {
            weights->query = loader.linear(views[0], bad);
            weights->key = loader.linear(views[1], bad);
            weights->value = loader.linear(views[2], bad);
        } else {
            weights->qkv.weight = loader.stack(matrices, bad);
            if (!biases.empty()) weights->qkv.bias = loader.stackVectors(biases, bad);
        }
        if (config.qkNorm != QkNorm::None) {
            ESPALIER_TRY(weights->queryNorm, vector("self_attn.q_norm.weight"));
            ESPALIER_TRY(weights->keyNorm, vector("self_attn.k_norm.weight"));
        }
    }
    ESPALIER_TRY(weights->output, linear("o_proj"));
    ESPALIER_TRY(weights->postNorm, vector("post_attention_layernorm.weight"));

    if (!layerConfig.moe) {
        const LinearView gate = checkpoint.denseMlp(layer, Matrix::Gate);
        ESPALIER_CHECK_OK(checkDtype(gate));
        weights->dense = loader.mlp(gate, checkpoint.denseMlp(layer, Matrix::Up), checkpoint.denseMlp(layer, Matrix::Down), bad);
        weights->bytes = loader.bytes();
        if (staging) staging->finish();
        return std::shared_ptr<const LayerWeights>(std::move(weights));
    }

    const TensorView router = checkpoint.router(layer);
    ESPALIER_CHECK_OK(checkDtype(router));
    weights->router = loader.load(router, weights->routerNonFinite, config.routerFp32 ? at::kFloat : compute);
    if (const auto bias = checkpoint.routerBias(layer)) {
        ESPALIER_CHECK_OK(checkDtype(*bias));
        weights->routerBias = loader.loadOnHost(*bias, weights->routerNonFinite, at::kFloat);
    }
    weights->experts.resize(static_cast<std::size_t>(layerConfig.experts));
    ESPALIER_TRY(std::vector<ExpertViews> experts, expertViews(checkpoint, layer));
    const std::int64_t expertBytes = loading.experts ? 0 : loadExperts(std::move(experts), loader, loading, *weights);
    if (loading.experts)
        weights->reader = loading.experts;
    else if (loading.heldExperts >= 0 && loading.heldExperts < layerConfig.experts)
        weights->reader = std::make_shared<ExpertReader>(checkpoint, layer, compute, loading.mostRead);
    if (const auto gate = checkpoint.sharedExpert(layer, Matrix::Gate)) {
        ESPALIER_CHECK_OK(checkDtype(*gate));
        weights->shared =
            loader.mlp(*gate, *checkpoint.sharedExpert(layer, Matrix::Up), *checkpoint.sharedExpert(layer, Matrix::Down), bad);
        if (const auto sharedGate = checkpoint.sharedGate(layer)) weights->sharedGate = loader.load(*sharedGate, bad);
    }
    weights->bytes = loader.bytes() + expertBytes;
    if (staging) staging->finish();
    return std::shared_ptr<const LayerWeights>(std::move(weights));
}

at::ScalarType storedType(const TensorView& view)
{
    return view.dtype == DType::BF16 ? at::kBFloat16 : view.dtype == DType::F16 ? at::kHalf : at::kFloat;
}

at::ScalarType storedType(const LinearView& view) { return storedType(view.factored ? view.u : view.dense); }

Result<at::Tensor> loadVector(const TensorView& view)
{
    ESPALIER_CHECK_OK(checkDtype(view));
    std::string bad;
    Loader loader(at::kFloat);
    at::Tensor values = loader.loadOnHost(view, bad, at::kFloat);
    if (!bad.empty())
        return badInput("model.not_finite", bad, {"The tensor {bad} holds values that are not finite (NaN or infinity).", {{"bad", bad}}},
                        "Get the checkpoint again, or prune the expert the tensor belongs to.");
    return values.clone();
}

Result<StoredMatrix> loadExpertMatrix(const Checkpoint& checkpoint, int layer, int expert, int matrix)
{
    return loadMatrix(checkpoint.expert(layer, expert, static_cast<Matrix>(matrix)));
}

Result<StoredMatrix> loadMatrix(const LinearView& view)
{
    const TensorView& stored = view.factored ? view.u : view.dense;
    ESPALIER_CHECK_OK(checkDtype(stored));
    StoredMatrix result;
    result.stored = storedType(view);
    std::string bad;
    Loader loader(at::kFloat);
    const at::Tensor first = loader.load(stored, bad);
    result.weight = view.factored ? at::mm(first, loader.load(view.v, bad)) : first;
    if (!bad.empty())
        return badInput("model.not_finite", bad, {"The tensor {bad} holds values that are not finite (NaN or infinity).", {{"bad", bad}}},
                        "Get the checkpoint again, or prune the expert the tensor belongs to.");
    return result;
}

Result<at::Tensor> embeddingRows(const Checkpoint& checkpoint, std::span<const std::int64_t> ids, at::ScalarType compute)
{
    const c10::InferenceMode guard;
    const TensorView table = checkpoint.embed();
    ESPALIER_CHECK_OK(checkDtype(table));
    const std::int64_t width = table.shape.back();
    at::Tensor rows = at::empty({std::ssize(ids), width}, at::kFloat);
    auto* to = rows.mutable_data_ptr<float>();
    for (const std::int64_t id : ids) {
        toFloat(table, id * width, to, width);
        to += width;
    }
    return rows.to(compute);
}

std::int64_t headBlockRows(std::int64_t vocabulary, std::int64_t hiddenSize)
{
    constexpr std::int64_t kElements = std::int64_t{1} << 24;
    constexpr std::int64_t kStep = 64;
    return std::min(vocabulary, std::max(kElements / hiddenSize / kStep, std::int64_t{1}) * kStep);
}

at::Tensor headProduct(const at::Tensor& rows, const GlobalWeights& globals)
{
    const std::int64_t vocabulary = globals.vocabulary;
    const std::int64_t block = headBlockRows(vocabulary, rows.size(1));
    if (block == vocabulary) return at::linear(rows, globals.headRows(0, vocabulary));
    at::Tensor out = at::empty({rows.size(0), vocabulary}, rows.options());
    for (std::int64_t first = 0; first < vocabulary; first += block) {
        const std::int64_t count = std::min(block, vocabulary - first);
        out.narrow(1, first, count).copy_(at::linear(rows, globals.headRows(first, count)));
    }
    return out;
}

Result<std::shared_ptr<const GlobalWeights>> loadGlobals(const Checkpoint& checkpoint, at::ScalarType compute, bool headInBlocks,
                                                         DeviceStaging* staging)
{
    const c10::InferenceMode guard;
    auto globals = std::make_shared<GlobalWeights>();
    Loader loader(compute, staging);
    const TensorView head = checkpoint.lmHead();
    for (const TensorView& view : {head, checkpoint.finalNorm()})
        ESPALIER_CHECK_OK(checkDtype(view));
    globals->vocabulary = head.shape.front();
    if (headInBlocks) {
        LinearView whole;
        whole.dense = head;
        Loader::lookThrough({whole}, globals->headNonFinite);
        globals->readHead = [head, compute](std::int64_t first, std::int64_t count) { return convertedRows(head, first, count, compute); };
    } else {
        globals->head = loader.load(head, globals->headNonFinite);
    }
    globals->finalNorm = loader.load(checkpoint.finalNorm(), globals->normNonFinite);
    globals->bytes = loader.bytes();
    if (staging) staging->finish();
    return std::shared_ptr<const GlobalWeights>(std::move(globals));
}

}  // namespace espalier
