// The window's end of the engine: a child process that speaks JSON-RPC. The pipe, framing and JSON parsing live on a thread of their
// own; the GUI thread receives parsed values. Every request ends exactly once: with its answer, or with "engine lost".
// All functions belong to the GUI thread; callbacks run there.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "perplexity/status_bar.h"
#include "rpc/protocol_engine.h"

#include <QElapsedTimer>
#include <QObject>
#include <QStringList>
#include <QThread>
#include <QTimer>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>

namespace espalier
{

class EngineWorker;

// How a request ended.
struct EngineEnd {
    enum class Outcome { Finished, Cancelled, Superseded, Failed, Lost };
    Outcome outcome = Outcome::Failed;
    Error error;  // Failed, Lost
    bool ok() const { return outcome == Outcome::Finished; }
};

struct EngineReply : EngineEnd {
    Json result;  // Finished
};

// The same, with the answer read.
template <typename Answer>
struct EngineAnswer : EngineEnd {
    Answer value = {};  // Finished
    const Answer* operator->() const { return &value; }
};

using EngineProgress = ProgressNote;

// What a request streams; nothing where its type names none.
struct NoPartial {
};
template <typename Request>
struct PartialOf {
    using Type = NoPartial;
};
template <typename Request>
requires requires { typename Request::Partial; }
struct PartialOf<Request> {
    using Type = typename Request::Partial;
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
    const std::optional<InitializeAnswer>& serverInfo() const { return m_serverInfo; }  // once it was answered
    qint64 processId() const { return m_processId; }
    QStringList lastLogLines() const;

    // Sent at once, or ended as lost when there is no engine. An answer or a partial result that is not of the agreed form ends the
    // request as failed, with the field that is wrong (engine.answer).
    template <typename Request>
    std::int64_t ask(const Request& request, const JobTag& tag, std::function<void(const EngineAnswer<typename Request::Answer>&)> done,
                     Progress progress = {}, std::function<void(const typename PartialOf<Request>::Type&)> partial = {});
    // The same as it stands on the wire.
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
    Open* openOf(std::uint64_t generation, std::int64_t id);  // null: another engine's, or ended
    void onProgress(std::uint64_t generation, std::int64_t id, const ProgressNote& note);
    void onPartial(std::uint64_t generation, std::int64_t id, const Json& value);
    void onAnswer(std::uint64_t generation, std::int64_t id, const EngineReply& reply);
    static Error notUnderstood(const char* method, const Error& field);
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
    std::optional<InitializeAnswer> m_serverInfo;
    qint64 m_processId = 0;
    QStringList m_log;
    QTimer m_ping;
    QElapsedTimer m_lastAnswer;
    bool m_closing = false;
};

template <typename Request>
std::int64_t EngineClient::ask(const Request& request, const JobTag& tag,
                               std::function<void(const EngineAnswer<typename Request::Answer>&)> done, Progress progress,
                               std::function<void(const typename PartialOf<Request>::Type&)> partial)
{
    struct Watched {
        std::int64_t id = 0;
        std::optional<Error> problem;  // of a partial result
    };
    const auto watched = std::make_shared<Watched>();
    Partial streamed;
    if constexpr (requires { typename Request::Partial; })
        if (partial)
            streamed = [this, watched, partial = std::move(partial)](const Json& json) {
                if (watched->problem) return;
                if (const auto value = fromJson<typename Request::Partial>(json); value.ok())
                    return partial(*value);
                else
                    watched->problem = notUnderstood(Request::kMethod, value.error());
                cancel(watched->id);
            };
    const auto ended = [watched, done = std::move(done)](const EngineReply& reply) {
        EngineAnswer<typename Request::Answer> answer;
        static_cast<EngineEnd&>(answer) = reply;
        if (watched->problem && reply.outcome != EngineEnd::Outcome::Lost) {
            answer.outcome = EngineEnd::Outcome::Failed;
            answer.error = *watched->problem;
        } else if (reply.ok()) {
            Result<typename Request::Answer> value = fromJson<typename Request::Answer>(reply.result);
            if (value.ok()) {
                answer.value = std::move(value).value();
            } else {
                answer.outcome = EngineEnd::Outcome::Failed;
                answer.error = notUnderstood(Request::kMethod, value.error());
            }
        }
        done(answer);
    };
    watched->id = this->request(Request::kMethod, withJobTag(toJson(request), tag), ended, std::move(progress), std::move(streamed));
    return watched->id;
}

}  // namespace espalier
