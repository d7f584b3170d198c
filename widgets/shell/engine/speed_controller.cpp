#include "shell/engine/speed_controller.h"

#include "look/format.h"

namespace espalier
{

SpeedController::SpeedController(EngineClient* engine, QObject* parent) : RequestedJob(engine, parent) {}

void SpeedController::setModel(const std::string& path)
{
    changeModel(path);
    m_measured.clear();
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
            m_measured[hash] = reply.value;
            if (!reply->warnings.empty()) emit warned(reply->warnings);
        }
        end(reply);
    });
}

// Of the prompt: what papers report.
QString SpeedController::brief(const std::string& planHash) const
{
    const auto found = m_measured.find(planHash);
    if (found == m_measured.end() || !found->second.ratio) return {};
    const double ratio = found->second.ratio->prefill;
    if (!(ratio > 0)) return {};
    // Nearer to 1 than its own spread it is neither.
    if (found->second.ratio->low <= 1 && found->second.ratio->high >= 1) return tr("as fast as dense, measured here");
    return ratio > 1 ? tr("%1x faster, measured here").arg(format::number(ratio, 2))
                     : tr("%1x slower, measured here").arg(format::number(1 / ratio, 2));
}

QString SpeedController::words(const std::string& planHash) const
{
    const auto found = m_measured.find(planHash);
    if (found == m_measured.end() || !found->second.ratio || !found->second.plan) return {};
    const SpeedAnswer& of = found->second;
    const auto line = [&](const QString& what, double plan, double dense, double ratio, double low, double high) {
        return tr("%1: %2 tokens/s, dense %3: %4x (%5 to %6)")
            .arg(what, format::number(plan, 1), format::number(dense, 1), format::number(ratio, 2), format::number(low, 2),
                 format::number(high, 2));
    };
    return QStringList{line(tr("prompt of %n token(s)", nullptr, of.prefill), of.plan->prefillTokensPerSecond,
                            of.dense.prefillTokensPerSecond, of.ratio->prefill, of.ratio->low, of.ratio->high),
                       line(tr("%n token(s) behind it", nullptr, of.decode), of.plan->decodeTokensPerSecond, of.dense.decodeTokensPerSecond,
                            of.ratio->decode, of.ratio->decodeLow, of.ratio->decodeHigh),
                       tr("medians of %n round(s) in turn, %1, on %2 threads", nullptr, of.rounds)
                           .arg(QString::fromStdString(of.dtype), format::count(of.threads))}
        .join(QLatin1Char('\n'));
}

}  // namespace espalier
