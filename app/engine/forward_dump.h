// Everything a forward pass computes, into a safetensors file. No ATen in this header.
#pragma once

#include "base/error.h"
#include "base/job.h"
#include "base/json.h"
#include "plan/compression_plan.h"

#include <filesystem>
#include <vector>

namespace espalier
{

class MoeModel;

struct ForwardRequest {
    std::vector<std::vector<int>> ids;  // rows of one length
    CompressionPlan plan;
    bool hidden = false;
    bool routing = false;
    std::filesystem::path out;
};

// Writes logits [B,T,V], nll [B,T-1], hidden.L [B,T,H], router.L.ids and router.L.weights [B,T,k] and returns their names and
// shapes. Everything is held in memory until it is written: meant for a few rows. Errors: model.*, output.*.
Result<Json> forwardDump(MoeModel& model, const ForwardRequest& request, JobContext& job);

}  // namespace espalier
