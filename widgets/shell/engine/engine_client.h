// The window's end of the engine: a child process that speaks JSON-RPC. The pipe, framing and JSON parsing live on a thread of their
// own; the GUI thread receives parsed values. Every request ends exactly once: with its answer, or with "engine lost".
// All functions belong to the GUI thread; callbacks run there.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "perplexity/status_bar.h"

#include <QElapsedTimer>
#include <QObject>
#include <QStringList>
#include <QThread>
#include <QTimer>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>

namespace espalier
{

class EngineWorker;

// How a request ended.
struct EngineReply {
    enum class Outcome { Finished, Cancelled, Superseded, Failed, Lost };
    Outcome outcome = Outcome::Failed;
    Json result;  // Finished
    Error error;  // Failed, Lost
    bool ok() const { return outcome == Outcome::Finished; }
};

struct EngineProgress {
    std::int64_t done = 0;
    std::int64_t total = 0;
    std::string phase;
    std::optional<double> etaSeconds;
};

class EngineClient final : public QObject
{
    Q_OBJECT
public:
    using Done = std::function<void(const EngineReply&)>;
    using Partial = std::function<void(const Json&)>;
    using Progress = std::function<void(const EngineProgress&)>;

    explicit EngineClient(QObject* parent = nullptr);
    ~EngineClient() override;  // shutdown, then terminate, then kill; bounded

    // Program and arguments, run without a shell. The engine is called by `name`, and by the command itself where there is none.
    void setCommand(const QStringList& command, const QString& name = {});
    const QStringList& command() const { return m_command; }
    QString name() const;
    bool isOwn() const { return !m_name.isEmpty(); }  // the one that comes with this window, not one that was chosen
    void start();                                     // also restarts; open requests end as lost first

    EngineState state() const { return m_state; }
    QString stateText() const { return m_stateText; }
    bool usable() const { return m_state == EngineState::Ready || m_state == EngineState::Busy; }
    const Json& serverInfo() const { return m_serverInfo; }  // answer to initialize
    qint64 processId() const { return m_processId; }
    QStringList lastLogLines() const;

    // Sent at once, or ended as lost when there is no engine.
    std::int64_t request(const std::string& method, Json params, Done done, Progress progress = {}, Partial partial = {});
    void cancel(std::int64_t id);
    int openRequests() const { return static_cast<int>(m_open.size()); }

signals:
    void stateChanged();
    void ready();                                              // initialize was answered
    void lost(const QString& cause, const QString& lastLine);  // the process ended or cannot be understood
    void outputReady(const QByteArray& bytes);                 // to the worker
    void stopRequested();

private:
    friend class EngineWorker;
    struct Open {
        Done done;
        Progress progress;
        Partial partial;
    };
    void setState(EngineState state, const QString& text);
    void onStarted(std::uint64_t generation, qint64 processId);
    void onMessage(std::uint64_t generation, const std::string& kind, std::int64_t id, const Json& value, int errorCode);
    void onEnded(std::uint64_t generation, const QString& cause);
    void onLog(const QString& line);
    void endAllAsLost(const QString& cause);
    void send(const std::string& body);
    void initialize();
    void stopWorker();

    QStringList m_command;
    QString m_name;
    QThread m_thread;
    EngineWorker* m_worker = nullptr;  // lives on m_thread, deleted there
    std::uint64_t m_generation = 0;
    std::map<std::int64_t, Open> m_open;
    std::int64_t m_nextId = 1;
    EngineState m_state = EngineState::NotStarted;
    QString m_stateText;
    Json m_serverInfo = Json::object();
    qint64 m_processId = 0;
    QStringList m_log;
    QTimer m_ping;
    QElapsedTimer m_lastAnswer;
    bool m_closing = false;
};

}  // namespace espalier
