#include "shell/engine/speed_controller.h"

#include "look/format.h"
#include "rpc/protocol_generate.h"

#include <QDateTime>
#include <QSysInfo>

namespace espalier
{

SpeedController::SpeedController(EngineClient* engine, QObject* parent) : RequestedJob(engine, parent) {}

void SpeedController::setModel(const std::string& path)
{
    changeModel(path);
    m_speeds.clear();
    emit changed();
}

void SpeedController::measure(const CompressionPlan& plan, const QString& name, const std::vector<std::filesystem::path>& profiles)
{
    if (!canAsk()) return;
    SpeedRequest request;
    request.path = path();
    request.plan = toJson(plan);
    request.profiles = profiles;
    ask(request, {"speed", Lane::Attended}, tr("Speed · %1").arg(name), [this, hash = plan.hash()](const EngineAnswer<SpeedAnswer>& reply) {
        if (reply.ok()) {
            if (std::optional<SpeedMeasurement> measured = speedMeasurementOf(reply.value)) {
                m_speeds[hash] = {std::move(*measured), QSysInfo::machineHostName(), QDateTime::currentSecsSinceEpoch()};
                emit speedsChanged();
            }
            if (!reply->warnings.empty()) emit warned(reply->warnings);
        }
        end(reply);
    });
}

void SpeedController::restore(const std::string& planHash, PlanSpeed speed) { m_speeds[planHash] = std::move(speed); }

std::optional<SpeedMeasurement> SpeedController::measurement(const std::string& planHash) const
{
    const auto found = m_speeds.find(planHash);
    return found == m_speeds.end() ? std::nullopt : std::optional(found->second.measured);
}

// Of the prompt: what papers report.
QString SpeedController::brief(const std::string& planHash) const
{
    const auto found = m_speeds.find(planHash);
    if (found == m_speeds.end()) return {};
    const auto& [measured, computer, time] = found->second;
    const QString where = computer == QSysInfo::machineHostName() ? tr("measured here") : tr("measured on %1").arg(computer);
    const SpeedMeasurement::Phase& prompt = measured.prefill;
    // Nearer to 1 than its own spread it is neither.
    if (prompt.low <= 1 && prompt.high >= 1) return tr("as fast as dense, %1").arg(where);
    return prompt.ratio > 1 ? tr("%1x faster, %2").arg(format::number(prompt.ratio, 2), where)
                            : tr("%1x slower, %2").arg(format::number(1 / prompt.ratio, 2), where);
}

QString SpeedController::words(const std::string& planHash) const
{
    const auto found = m_speeds.find(planHash);
    if (found == m_speeds.end()) return {};
    const SpeedMeasurement& of = found->second.measured;
    const auto line = [&](const QString& what, const SpeedMeasurement::Phase& phase) {
        return tr("%1: %2 tokens/s, dense %3: %4x (%5 to %6)")
            .arg(what, format::number(phase.plan, 1), format::number(phase.dense, 1), format::number(phase.ratio, 2),
                 format::number(phase.low, 2), format::number(phase.high, 2));
    };
    return QStringList{line(tr("prompt of %n token(s)", nullptr, of.prefill.tokens), of.prefill),
                       line(tr("%n token(s) behind it", nullptr, of.decode.tokens), of.decode),
                       tr("medians of %n round(s) in turn, %1, on %2 threads of %3", nullptr, of.rounds)
                           .arg(QString::fromStdString(of.dtype), format::count(of.threads), found->second.computer)}
        .join(QLatin1Char('\n'));
}

}  // namespace espalier
