// How much faster a plan is than the dense model on this engine's machine; measured on request. GUI thread.
#pragma once

#include "perplexity/status_bar.h"
#include "plan/compression_plan.h"
#include "rpc/protocol_generate.h"
#include "shell/engine/requested_job.h"

#include <QObject>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

class SpeedController final : public RequestedJob
{
    Q_OBJECT
public:
    explicit SpeedController(EngineClient* engine, QObject* parent = nullptr);

    void setModel(const std::string& path);  // what was measured goes
    // Plan and dense model in turn. A newer request takes the place of one that runs.
    void measure(const CompressionPlan& plan, const QString& name, const std::vector<std::filesystem::path>& profiles);

    QString brief(const std::string& planHash) const;  // "1.31x faster, measured here"; empty: not measured
    QString words(const std::string& planHash) const;  // with all that belongs to it, by lines

private:
    std::map<std::string, SpeedAnswer> m_measured;  // by plan hash, with both sides
};

}  // namespace espalier
