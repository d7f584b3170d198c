// How much faster a plan is than the dense model, measured on request: of one plan on one computer, which the words name. GUI thread.
#pragma once

#include "perplexity/status_bar.h"
#include "plan/compression_plan.h"
#include "rpc/speed_measurement.h"
#include "shell/engine/requested_job.h"

#include <QObject>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct PlanSpeed {
    SpeedMeasurement measured;
    QString computer;       // on which, its name
    std::int64_t time = 0;  // seconds since 1970
};

class SpeedController final : public RequestedJob
{
    Q_OBJECT
public:
    explicit SpeedController(EngineClient* engine, QObject* parent = nullptr);

    void setModel(const std::string& path);  // what was measured goes
    // Plan and dense model in turn. A newer request takes the place of one that runs.
    void measure(const CompressionPlan& plan, const QString& name, const std::vector<std::filesystem::path>& profiles);

    QString brief(const std::string& planHash) const;                                // "1.31x faster, measured here"; empty: not measured
    QString words(const std::string& planHash) const;                                // with all that belongs to it, by lines
    std::optional<SpeedMeasurement> measurement(const std::string& planHash) const;  // as exports record it

    const std::map<std::string, PlanSpeed>& speeds() const { return m_speeds; }  // by plan hash
    void restore(const std::string& planHash, PlanSpeed speed);

signals:
    void speedsChanged();  // something new is worth saving

private:
    std::map<std::string, PlanSpeed> m_speeds;
};

}  // namespace espalier
