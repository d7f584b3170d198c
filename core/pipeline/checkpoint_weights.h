// The experts' weights of a checkpoint, for scores that read them.
#pragma once

#include "checkpoint/checkpoint.h"
#include "score/expert_matrices.h"

#include <memory>
#include <utility>

namespace espalier
{

// Reads from the mapped files, one matrix at a time. A factored matrix is multiplied out. Errors: checkpoint.weights_unreadable (a type
// that is no floating-point number).
class CheckpointWeights final : public ExpertMatrices
{
public:
    explicit CheckpointWeights(std::shared_ptr<const Checkpoint> checkpoint) : m_checkpoint(std::move(checkpoint)) {}
    Result<std::vector<float>> matrix(int layer, int expert, int matrix) const override;

private:
    std::shared_ptr<const Checkpoint> m_checkpoint;
};

}  // namespace espalier
