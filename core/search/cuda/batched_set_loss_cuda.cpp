#include "base/text.h"
#include "search/cuda/set_loss_kernels.h"
#include "search/cuda/tables.h"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <string_view>

namespace espalier
{

namespace
{

struct DeviceFree {
    void operator()(void* memory) const noexcept { cudaFree(memory); }
};
struct HostFree {
    void operator()(void* memory) const noexcept { cudaFreeHost(memory); }
};
struct StreamDestroy {
    void operator()(CUstream_st* stream) const noexcept { cudaStreamDestroy(stream); }
};
template <typename T>
using DeviceArray = std::unique_ptr<T[], DeviceFree>;
template <typename T>
using PinnedArray = std::unique_ptr<T[], HostFree>;  // copied without a detour through the driver's own buffer

// `doing`: what failed, for "while ...".
Error deviceError(int code, int device, std::string_view doing)
{
    const auto error = static_cast<cudaError_t>(code);
    const std::string subject = fmt::format("cuda:{}", device);
    const std::string cause = fmt::format("{} ({})", cudaGetErrorString(error), cudaGetErrorName(error));
    constexpr const char* kOnCpu = "Search on the CPU.";
    switch (error) {
        case cudaErrorNoDevice:
        case cudaErrorInvalidDevice:
        case cudaErrorInsufficientDriver:
        case cudaErrorInitializationError:
        case cudaErrorDevicesUnavailable:
        case cudaErrorStubLibrary:
            return resourceError("device.unavailable", subject,
                                 {"The device {subject} is not available: {cause}.", {{"subject", subject}, {"cause", cause}}},
                                 "Search on the CPU, or install a driver for the device.");
        case cudaErrorNoKernelImageForDevice:
        case cudaErrorUnsupportedPtxVersion:
            return unsupported("device.architecture", subject,
                               {"This build has no kernels for {subject}: {cause}.", {{"subject", subject}, {"cause", cause}}},
                               "Search on the CPU, or build with CMAKE_CUDA_ARCHITECTURES of this device.");
        case cudaErrorMemoryAllocation:
            return resourceError("device.out_of_memory", subject,
                                 {"Out of memory of {subject} while {doing}.", {{"subject", subject}, {"doing", doing}}},
                                 "Search fewer layers at a time, take a profile of fewer tokens, or search on the CPU.");
        default:
            return resourceError("device.failed", subject,
                                 {"{subject} failed while {doing}: {cause}.", {{"subject", subject}, {"doing", doing}, {"cause", cause}}},
                                 kOnCpu);
    }
}

class CudaSetLoss final : public BatchedSetLoss
{
public:
    CudaSetLoss(const SetLossTables& tables, const CudaSetLossOptions& options)
        : m_device(options.device),
          m_tokens(tables.tokens),
          m_words(static_cast<std::size_t>(tables.experts + 63) / 64),
          m_setsPerPass(static_cast<std::size_t>(std::max(options.candidatesPerPass, 1))),
          m_terms(batched::termsOf(m_tokens, batched::strideOf(m_setsPerPass), options.workspaceBytes)),
          m_layer(batched::layerTables(tables))
    {
    }

    // Everything is allocated here, so that a search that began does not run out of memory of the device.
    Status open(const SetLossTables& tables)
    {
        ESPALIER_CHECK_OK(select());
        CUstream_st* stream = nullptr;
        ESPALIER_CHECK_OK(status(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream"));
        m_stream.reset(stream);
        const std::size_t stride = batched::strideOf(m_setsPerPass);
        ESPALIER_CHECK_OK(allocate(m_squared, m_terms));
        ESPALIER_CHECK_OK(allocate(m_uncovered, m_terms));
        ESPALIER_CHECK_OK(allocate(m_keptWords, m_words * stride));
        ESPALIER_CHECK_OK(allocate(m_squaredSum, stride));
        ESPALIER_CHECK_OK(allocate(m_uncoveredSum, stride));
        ESPALIER_CHECK_OK(pin(m_hostWords, m_words * stride));
        ESPALIER_CHECK_OK(pin(m_hostSquared, stride));
        ESPALIER_CHECK_OK(pin(m_hostUncovered, stride));
        ESPALIER_CHECK_OK(copy(m_list, m_layer.list, tables.list));
        ESPALIER_CHECK_OK(copy(m_products, m_layer.products, tables.products));
        ESPALIER_CHECK_OK(copy(m_energy, m_layer.routedEnergy, tables.routedEnergy));
        const std::vector<double> listed = batched::listProbability(tables);
        ESPALIER_CHECK_OK(copy(m_listProbability, m_layer.listProbability, std::span<const double>(listed)));
        m_layer.probability = nullptr;
        if (!m_layer.renormalised) ESPALIER_CHECK_OK(copy(m_probability, m_layer.probability, tables.probability));
        return status(cudaStreamSynchronize(m_stream.get()), kCopying);
    }

    Result<std::vector<BatchedLoss>> evaluate(std::span<const ExpertBits> kept) override
    {
        ESPALIER_CHECK_OK(select());
        std::vector<BatchedLoss> losses;
        losses.reserve(kept.size());
        while (losses.size() < kept.size())
            ESPALIER_CHECK_OK(evaluatePass(kept.subspan(losses.size(), std::min(m_setsPerPass, kept.size() - losses.size())), losses));
        return losses;
    }

private:
    static constexpr const char* kCopying = "copying a layer's tables";
    static constexpr const char* kEvaluating = "evaluating kept sets";

    Status status(cudaError_t error, std::string_view doing) const
    {
        if (error == cudaSuccess) return {};
        cudaGetLastError();  // or the next launch would report it once more
        return deviceError(error, m_device, doing);
    }

    // The device is a thread's property, and layers are searched on a pool of threads.
    Status select() const { return status(cudaSetDevice(m_device), "selecting the device"); }

    template <typename T>
    Status allocate(DeviceArray<T>& array, std::size_t count) const
    {
        void* memory = nullptr;
        const std::size_t bytes = std::max<std::size_t>(count, 1) * sizeof(T);
        ESPALIER_CHECK_OK(
            status(cudaMalloc(&memory, bytes), fmt::format("taking {} for a layer", formatBytes(static_cast<std::int64_t>(bytes)))));
        array.reset(static_cast<T*>(memory));
        return {};
    }

    template <typename T>
    Status pin(PinnedArray<T>& array, std::size_t count) const
    {
        void* memory = nullptr;
        ESPALIER_CHECK_OK(status(cudaMallocHost(&memory, count * sizeof(T)), "pinning memory for a batch"));
        array.reset(static_cast<T*>(memory));
        return {};
    }

    // Queues the copy of a table and lets the kernels' pointer to it be the device's.
    template <typename T>
    Status copy(DeviceArray<T>& array, const T*& pointer, std::span<const T> values) const
    {
        ESPALIER_CHECK_OK(allocate(array, values.size()));
        pointer = array.get();
        return status(cudaMemcpyAsync(array.get(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice, m_stream.get()), kCopying);
    }

    Status evaluatePass(std::span<const ExpertBits> kept, std::vector<BatchedLoss>& losses)
    {
        batched::Pass pass;
        pass.sets = static_cast<int>(kept.size());
        pass.stride = batched::strideOf(kept.size());
        pass.words = m_keptWords.get();
        pass.squared = m_squared.get();
        pass.uncovered = m_uncovered.get();
        pass.squaredSum = m_squaredSum.get();
        pass.uncoveredSum = m_uncoveredSum.get();
        for (std::size_t w = 0; w < m_words; ++w)
            for (std::size_t i = 0; i < kept.size(); ++i)
                m_hostWords[w * pass.stride + i] = kept[i].words()[w];

        CUstream_st* stream = m_stream.get();
        const auto queue = [&]() -> Status {
            ESPALIER_CHECK_OK(status(cudaMemcpyAsync(m_keptWords.get(), m_hostWords.get(), m_words * pass.stride * sizeof(std::uint64_t),
                                                     cudaMemcpyHostToDevice, stream),
                                     kEvaluating));
            ESPALIER_CHECK_OK(status(cudaMemsetAsync(pass.squaredSum, 0, pass.stride * sizeof(double), stream), kEvaluating));
            ESPALIER_CHECK_OK(status(cudaMemsetAsync(pass.uncoveredSum, 0, pass.stride * sizeof(std::int64_t), stream), kEvaluating));
            const std::int64_t most = batched::tokensPerPass(pass.stride, m_terms);
            for (std::int64_t first = 0; first < m_tokens; first += most) {
                pass.firstToken = static_cast<std::size_t>(first);
                pass.tokens = std::min(most, m_tokens - first);
                ESPALIER_CHECK_OK(status(static_cast<cudaError_t>(batched::launchPass(m_layer, pass, stream)), kEvaluating));
            }
            ESPALIER_CHECK_OK(
                status(cudaMemcpyAsync(m_hostSquared.get(), pass.squaredSum, kept.size() * sizeof(double), cudaMemcpyDeviceToHost, stream),
                       kEvaluating));
            return status(cudaMemcpyAsync(m_hostUncovered.get(), pass.uncoveredSum, kept.size() * sizeof(std::int64_t),
                                          cudaMemcpyDeviceToHost, stream),
                          kEvaluating);
        };
        const Status queued = queue();
        // Also after an error: the pinned buffers may still be in use.
        const Status done = status(cudaStreamSynchronize(stream), kEvaluating);
        ESPALIER_CHECK_OK(queued);
        ESPALIER_CHECK_OK(done);
        for (std::size_t i = 0; i < kept.size(); ++i)
            losses.push_back({m_hostSquared[i], m_hostUncovered[i]});
        return {};
    }

    int m_device;
    std::int64_t m_tokens;
    std::size_t m_words;  // of a set
    std::size_t m_setsPerPass;
    std::size_t m_terms;           // held on the device
    batched::LayerTables m_layer;  // pointers of the device
    std::unique_ptr<CUstream_st, StreamDestroy> m_stream;
    DeviceArray<std::uint16_t> m_list;
    DeviceArray<double> m_products, m_listProbability, m_probability, m_energy;
    DeviceArray<double> m_squared, m_squaredSum;
    DeviceArray<std::uint8_t> m_uncovered;
    DeviceArray<std::int64_t> m_uncoveredSum;
    DeviceArray<std::uint64_t> m_keptWords;
    PinnedArray<std::uint64_t> m_hostWords;
    PinnedArray<double> m_hostSquared;
    PinnedArray<std::int64_t> m_hostUncovered;
};

}  // namespace

Result<std::unique_ptr<BatchedSetLoss>> makeCudaSetLoss(const SetLossTables& tables, const CudaSetLossOptions& options)
{
    ESPALIER_CHECK_OK(batched::check(tables));
    auto loss = std::make_unique<CudaSetLoss>(tables, options);
    ESPALIER_CHECK_OK(loss->open(tables));
    return std::unique_ptr<BatchedSetLoss>(std::move(loss));
}

}  // namespace espalier
