// The report of `compress`: one HTML file that a person can read and that needs nothing else (pictures are SVG inside it).
#pragma once

#include "base/json.h"
#include "base/statistics.h"
#include "pipeline/make_plan.h"
#include "plan/compression_plan.h"
#include "plan/cost_model.h"
#include "plan/expert_grid.h"
#include "rpc/speed_measurement.h"
#include "statistics/profile_data.h"

#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct ReportFacts {
    std::string model;  // folder name
    ModelShape shape;
    const ProfileData* profile = nullptr;
    ExpertScores importance;
    CompressionPlan plan;
    Json recipe;
    std::vector<PlanStage> stages;
    PlanCost cost;
    PlanCost dense;
    // Measured on one text, paired by window.
    std::string text;
    bool calibrationText = false;  // the text that was searched on: the numbers flatter
    int windowLength = 0;
    std::string dtype;
    std::vector<WindowLoss> before;
    std::vector<WindowLoss> after;
    std::optional<Json> tasks;  // as `tasks --json`, beside the dense model
    std::optional<SpeedMeasurement> speed;
    std::optional<Json> verification;
    std::vector<std::pair<std::string, double>> seconds;  // of every stage
    std::vector<std::string> warnings;
    std::string command;
};

std::string htmlReport(const ReportFacts& facts);

}  // namespace espalier
