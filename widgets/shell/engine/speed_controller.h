// How much faster a plan is than the dense model on this engine's machine; measured on request. GUI thread.
#pragma once

#include "perplexity/status_bar.h"
#include "plan/compression_plan.h"
#include "rpc/protocol_generate.h"
#include "shell/engine/engine_client.h"

#include <QObject>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

class SpeedController final : public QObject
{
    Q_OBJECT
public:
    explicit SpeedController(EngineClient* engine, QObject* parent = nullptr);

    void setModel(const std::string& path);  // what was measured goes
    // Plan and dense model in turn. A newer request takes the place of one that runs.
    void measure(const CompressionPlan& plan, const QString& name, const std::vector<std::filesystem::path>& profiles);
    void cancel();
    bool busy() const { return m_job.has_value(); }
    const std::optional<JobState>& job() const { return m_job; }

    QString brief(const std::string& planHash) const;  // "1.31x faster, measured here"; empty: not measured
    QString words(const std::string& planHash) const;  // with all that belongs to it, by lines

signals:
    void changed();
    void jobChanged(const std::optional<espalier::JobState>& job);
    void failed(const espalier::Error& error);
    void warned(const std::vector<std::string>& sentences);

private:
    void setJob(std::optional<JobState> job);

    EngineClient* m_engine;
    std::string m_path;
    std::map<std::string, SpeedAnswer> m_measured;  // by plan hash, with both sides
    std::optional<JobState> m_job;
    std::int64_t m_request = 0;
    int m_epoch = 0;  // counts requests and models: answers of an earlier one are dropped
};

}  // namespace espalier
