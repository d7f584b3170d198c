#include "search_device.h"

#include "search/cuda/batched_set_loss.h"

#include <cstdlib>

namespace espalier
{

BatchFactory batchFactoryFor(const std::string& device)
{
#ifdef ESPALIER_HAS_CUDA
    if (device.starts_with("cuda")) {
        const auto colon = device.find(':');
        const int index = colon == std::string::npos ? 0 : std::atoi(device.c_str() + colon + 1);
        return [index](const GramEvaluator& evaluator) -> Result<std::unique_ptr<BatchedSetLoss>> {
            const Result<SetLossTables> tables = setLossTables(evaluator);
            if (tables.ok()) return makeCudaSetLoss(*tables, {.device = index});
            if (tables.error().kind == ErrorKind::Unsupported) return std::unique_ptr<BatchedSetLoss>();
            return tables.error();
        };
    }
#else
    (void)device;
#endif
    return {};
}

}  // namespace espalier
