// Writing a smaller checkpoint and holding it against the plan.
#pragma once

#include "rpc/measurement.h"
#include "rpc/protocol.h"
#include "rpc/speed_measurement.h"
#include "rpc/text_selection.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct ExportedFile {
    std::string name;
    std::int64_t bytes = 0;
};
ESPALIER_PROTOCOL_TYPE(ExportedFile);

struct ExportReport {
    std::string flavor;
    std::filesystem::path out;
    std::vector<ExportedFile> files;
    std::int64_t bytes = 0;        // of all files
    std::int64_t tensorBytes = 0;  // of the tensors in them
    std::string planHash;
    int resumedFiles = 0;  // found finished in an interrupted export
    bool dryRun = false;
    std::vector<std::string> warnings;
};
ESPALIER_PROTOCOL_TYPE(ExportReport);

struct VerifyCheck {
    std::string name;  // "plan", "files", "config", "runtime", "tensor-list", "untouched-tensors", "sliced-tensors", "factors", "forward"
    bool holds = false;
    std::string detail;  // what was compared, or the first difference and how many there are
};
ESPALIER_PROTOCOL_TYPE(VerifyCheck);

struct VerifyReport {
    bool holds = false;
    std::string flavor;
    std::string planHash;
    std::vector<VerifyCheck> checks;
    std::optional<double> maxAbsLogitDifference;  // absent where the model cannot be run (or a check before it failed to open)
    std::optional<double> pplPreview;             // source under the plan
    std::optional<double> pplExport;
    int windows = 0;
    std::vector<std::string> warnings;
};
ESPALIER_PROTOCOL_TYPE(VerifyReport);

struct ExportAnswer {
    ExportReport report;
    std::optional<VerifyReport> verify;
};
ESPALIER_PROTOCOL_TYPE(ExportAnswer);

struct ExportRequest {
    static constexpr const char* kMethod = "export";
    using Answer = ExportAnswer;
    std::string path;
    Json plan;  // as core/plan writes it
    std::filesystem::path out;
    std::string flavor;  // empty: the first one that the plan allows
    bool force = false;
    bool resume = false;
    bool dryRun = false;
    bool unfuse = false;
    std::optional<std::int64_t> shardSize;  // bytes
    std::vector<Measurement> measured;
    std::vector<TaskMeasurement> measuredTasks;
    std::optional<SpeedMeasurement> measuredSpeed;
    std::vector<std::filesystem::path> profiles;  // that factors and constants come from
    bool verify = true;
    TextSelection text;          // for the verification
    std::optional<int> windows;  // of it, the first ones; nobody asked: 2
    int spread = 0;              // so many of these, spread evenly; 0: all
};
ESPALIER_PROTOCOL_TYPE(ExportRequest);

}  // namespace espalier
