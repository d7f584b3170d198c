// Weights for steps of few tokens where layers are streamed: of a layer what every token needs, and of its experts those that these tokens
// chose. No page of another expert is read. What was read is kept within a budget, experts by when they were used last. Private to
// core/model.
#pragma once

#include "base/error.h"
#include "model/layer_weights.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace espalier
{

class Checkpoint;

class DemandStore
{
public:
    // `budget`: bytes of converted weights that may be kept between steps.
    DemandStore(std::shared_ptr<const Checkpoint> checkpoint, at::ScalarType compute, int layers, std::int64_t budget);

    // The layer without experts; its LayerWeights::expert reads them. Compute thread. Errors: those of loadLayer.
    Result<std::shared_ptr<const LayerWeights>> layer(int layer);
    // Starts reading the pages of an expert that is going to be wanted.
    void expect(int layer, int expert);
    std::int64_t bytes() const;
    void release();

    // Since the model was made: bytes of the compute type that were converted, and experts.
    std::int64_t bytesRead() const;
    std::int64_t expertsRead() const;

private:
    class Experts;
    using Key = std::pair<int, int>;  // layer, expert
    struct Held {
        Key key;
        std::shared_ptr<const GatedMlp> mlp;
        std::int64_t bytes = 0;
    };
    std::shared_ptr<const GatedMlp> expert(int layer, int expert, std::string& bad);  // any thread
    void shrink();                                                                    // with the lock held

    const std::shared_ptr<const Checkpoint> m_checkpoint;
    const at::ScalarType m_compute;
    const std::int64_t m_budget;
    std::vector<std::shared_ptr<const LayerWeights>> m_layers;  // those that are kept
    mutable std::mutex m_mutex;
    std::list<Held> m_held;  // last used first
    std::map<Key, std::list<Held>::iterator> m_places;
    std::int64_t m_layerBytes = 0;
    std::int64_t m_expertBytes = 0;
    std::int64_t m_bytesRead = 0;
    std::int64_t m_expertsRead = 0;
};

}  // namespace espalier
