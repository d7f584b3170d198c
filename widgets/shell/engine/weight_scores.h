// Scores that read the model's weights, and no text or beside a profile: computed by the engine when first asked for, in the background,
// all experts once. Who asks keeps the answers. GUI thread.
#pragma once

#include "base/method_registry.h"
#include "rpc/protocol_profile.h"
#include "shell/engine/engine_client.h"

#include <QObject>

#include <map>
#include <optional>
#include <string>

namespace espalier
{

// Its needs name the weights: no profile has its values.
bool readsWeights(const MethodInfo& method);
// Nothing but the weights.
bool readsWeightsAlone(const MethodInfo& method);

class WeightScores final : public QObject
{
    Q_OBJECT
public:
    explicit WeightScores(EngineClient* engine, QObject* parent = nullptr);

    void setModel(const QString& path);  // its folder; what is asked of another one ends. Empty: none
    // One at a time; a second one waits. Again after it was answered: computed again.
    // `profile`: the file, for one that reads statistics too.
    void ask(const MethodInfo& method, const QString& profile);
    bool pending(const std::string& method) const { return m_wanted.contains(method); }
    void cancel();  // what runs and what waits

    const std::optional<JobState>& job() const { return m_job; }

signals:
    void arrived(const std::string& method, const espalier::ExpertScores& scores);
    void gaveUp(const std::string& method);  // cancelled, refused or the engine was lost: pending() no more
    void failed(const espalier::Error& error);
    void jobChanged();

private:
    void next();
    void finish(const std::string& method, const EngineAnswer<ExpertScores>& reply);

    EngineClient* m_engine;
    QString m_model;
    struct Wanted {
        std::string title;
        std::string profile;
    };
    std::map<std::string, Wanted> m_wanted;  // by id
    std::int64_t m_request = 0;
    std::optional<JobState> m_job;
    int m_epoch = 0;  // counts models: answers of an earlier one are dropped
};

}  // namespace espalier
