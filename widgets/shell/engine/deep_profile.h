// The second profile of the open model: spectra, bases for low-rank factors and gradients, in a file of its own beside the first one.
// Finds it, measures it in the background (gives way to whatever the user asks for, goes on from the layers it has), says how it stands.
// GUI thread.
#pragma once

#include "rpc/protocol_profile.h"
#include "shell/engine/engine_client.h"
#include "shell/engine/evaluation_controller.h"

#include <QObject>
#include <QString>
#include <QTimer>

#include <optional>
#include <string>
#include <vector>

namespace espalier
{

class SessionStore;

class DeepProfile final : public QObject
{
    Q_OBJECT
public:
    enum class State {
        None,     // no model, or one that cannot run here
        Looking,  // for the file
        Missing,  // can be measured: by itself once allowed, or by hand
        Running,
        Waiting,  // gave way to something else, goes on by itself
        Ready,
        Failed,
    };
    struct Target {
        std::string model;
        EvaluationText text;
        int windows = 0;
        int layers = 0;
        QString file;
        // Of an opened session, if it knew one: taken where `file` is not there and the content is still the same.
        QString otherFile;
        std::string otherSha256;
    };

    static const std::vector<std::string>& statistics();  // what it collects

    DeepProfile(EngineClient* engine, SessionStore* store, QObject* parent = nullptr);

    void open(Target target);
    void close();
    State state() const { return m_state; }
    bool ready() const { return m_state == State::Ready; }
    const QString& file() const { return m_file; }                // of a ready one
    const std::string& sha256() const { return m_sha256; }        // of its content
    const std::optional<JobState>& job() const { return m_job; }  // while it runs
    QString progress() const;                                     // "layer 3 of 6"

    // By itself after `msec` of rest, by hand at once. Nothing happens where it runs, is there or failed before (by hand: tries again).
    void startAfterRest(int msec);
    void start();
    // Something more urgent wants the engine: stops after the layer it works on; startAfterRest() goes on from there.
    void giveWay();
    void cancel();
    // The file turned out to be unusable: it is measured again when asked for.
    void discard();

signals:
    void changed();  // state
    void jobChanged();
    void measured(const espalier::ScoresByMethod& scores);
    void failed(const espalier::Error& error);

private:
    void found(const QString& file, const std::string& sha256);
    void look(const QString& file, const std::string& wanted, bool last);
    void finished(const EngineAnswer<ProfileAnswer>& reply);
    void setState(State state);

    EngineClient* m_engine;
    SessionStore* m_store;
    Target m_target;
    State m_state = State::None;
    QString m_file;
    std::string m_sha256;
    std::int64_t m_request = 0;
    bool m_givingWay = false;
    std::optional<JobState> m_job;
    QTimer m_rest;
    int m_epoch = 0;  // counts targets: what belongs to an earlier one is dropped
};

}  // namespace espalier
