#include "shell/engine/engine_client.h"

#include "look/error_text.h"
#include "rpc/messages.h"
#include "shell/engine/engine_worker.h"

#include <QCoreApplication>
#include <QPointer>

namespace espalier
{

namespace
{
constexpr int kLogLines = 200;
constexpr int kPingMsec = 2000;
constexpr int kSilentMsec = 10000;  // stuck, not busy: the reader thread answers pings while the compute thread works
}  // namespace

// ---- worker

template <typename F>
void EngineWorker::post(F&& call)
{
    QMetaObject::invokeMethod(m_client, std::forward<F>(call), Qt::QueuedConnection);
}

void EngineWorker::start()
{
    m_process = new QProcess(this);
    m_process->setProcessChannelMode(QProcess::SeparateChannels);
    connect(m_process, &QProcess::readyReadStandardOutput, this, &EngineWorker::readOutput);
    connect(m_process, &QProcess::readyReadStandardError, this, &EngineWorker::readLog);
    connect(m_process, &QProcess::started, this,
            [this] { post([client = m_client, g = m_generation, pid = m_process->processId()] { client->onStarted(g, pid); }); });
    connect(m_process, &QProcess::errorOccurred, this, [this](QProcess::ProcessError error) {
        if (error == QProcess::FailedToStart)
            end(EngineClient::tr("%1 cannot be started: %2.").arg(m_command.value(0), m_process->errorString()));
    });
    connect(m_process, &QProcess::finished, this, [this](int code, QProcess::ExitStatus status) {
        readOutput();
        readLog();
        // After a signal the code is its number. 9 is what the kernel sends when memory runs out.
        if (status == QProcess::CrashExit)
            end(code == 9 ? EngineClient::tr("killed by signal 9, possibly out of memory")
                          : EngineClient::tr("ended by signal %1").arg(code));
        else if (code == 255)
            end(EngineClient::tr("the engine or the connection ended with status 255"));
        else
            end(EngineClient::tr("ended with status %1").arg(code));
    });
    m_process->start(m_command.value(0), m_command.mid(1));
}

void EngineWorker::write(const QByteArray& bytes)
{
    if (m_process && m_process->state() == QProcess::Running) m_process->write(bytes);
}

void EngineWorker::stop()
{
    m_stopping = true;
    if (!m_process || m_process->state() == QProcess::NotRunning) return;
    m_process->write(QByteArray::fromStdString(
        frameMessage(serialise(Request{RequestId(std::int64_t(-1)), ShutdownRequest::kMethod, toJson(ShutdownRequest{})}))));
    m_process->write(QByteArray::fromStdString(frameMessage(serialise(Notification{kExitMethod, Json::object()}))));
    m_process->closeWriteChannel();
    if (!m_process->waitForFinished(5000)) {
        m_process->terminate();
        if (!m_process->waitForFinished(2000)) {
            m_process->kill();
            m_process->waitForFinished(1000);
        }
    }
}

void EngineWorker::readOutput()
{
    if (m_ended) return;
    const QByteArray bytes = m_process->readAllStandardOutput();
    m_decoder.feed(std::string_view(bytes.constData(), static_cast<std::size_t>(bytes.size())));
    for (;;) {
        Result<std::optional<std::string>> body = m_decoder.next();
        if (!body.ok()) {
            end(causeText(body.error()));
            m_process->kill();
            m_process->waitForFinished(1000);
            return;
        }
        if (!body->has_value()) return;
        const std::variant<Message, BadMessage> parsed = parseMessage(**body);
        const Message* message = std::get_if<Message>(&parsed);
        if (!message) {
            end(EngineClient::tr("sent a message that cannot be understood: %1")
                    .arg(QString::fromStdString(std::get<BadMessage>(parsed).error.message)));
            m_process->kill();
            m_process->waitForFinished(1000);
            return;
        }
        if (const Response* response = std::get_if<Response>(message)) {
            const std::int64_t* id = std::get_if<std::int64_t>(&response->id);
            if (!id) continue;
            EngineReply reply;
            if (const RpcError* error = std::get_if<RpcError>(&response->outcome)) {
                reply.outcome = error->code == rpc::kCancelled    ? EngineReply::Outcome::Cancelled
                                : error->code == rpc::kSuperseded ? EngineReply::Outcome::Superseded
                                                                  : EngineReply::Outcome::Failed;
                reply.error = errorFrom(*error);
            } else {
                reply.outcome = EngineReply::Outcome::Finished;
                reply.result = std::get<Json>(response->outcome);
            }
            post([client = m_client, g = m_generation, id = *id, reply] { client->onAnswer(g, id, reply); });
        } else if (const Notification* note = std::get_if<Notification>(message)) {
            const auto numberOf = [](const RequestId& id) { return std::get_if<std::int64_t>(&id) ? std::get<std::int64_t>(id) : 0; };
            if (note->method == ProgressNote::kMethod) {
                if (const auto progress = fromJson<ProgressNote>(note->params); progress.ok())
                    post([client = m_client, g = m_generation, id = numberOf(progress->id), progress = *progress] {
                        client->onProgress(g, id, progress);
                    });
                else
                    passedOver(*note, progress.error());
            } else if (note->method == PartialNote::kMethod) {
                if (const auto partial = fromJson<PartialNote>(note->params); partial.ok())
                    post([client = m_client, g = m_generation, id = numberOf(partial->id), value = partial->value] {
                        client->onPartial(g, id, value);
                    });
                else
                    passedOver(*note, partial.error());
            }
        }
    }
}

void EngineWorker::passedOver(const Notification& note, const Error& error)
{
    const QString line =
        EngineClient::tr("%1 passed over: %2").arg(QString::fromStdString(note.method), QString::fromStdString(error.message));
    post([client = m_client, line] { client->onLog(line); });
}

void EngineWorker::readLog()
{
    m_logBuffer += m_process->readAllStandardError();
    for (qsizetype at; (at = m_logBuffer.indexOf('\n')) >= 0; m_logBuffer.remove(0, at + 1)) {
        logLine(m_logBuffer.left(at));
    }
    if (m_logBuffer.size() > 64 * 1024) m_logBuffer.clear();
}

void EngineWorker::logLine(const QByteArray& bytes)
{
    const QString line = QString::fromUtf8(bytes).trimmed();
    if (!line.isEmpty()) post([client = m_client, line] { client->onLog(line); });
}

void EngineWorker::end(const QString& cause)
{
    if (std::exchange(m_ended, true) || m_stopping) return;
    // What it said last is known before its end is; a last line need not be ended.
    readLog();
    if (!m_logBuffer.isEmpty()) logLine(std::exchange(m_logBuffer, {}));
    post([client = m_client, g = m_generation, cause] { client->onEnded(g, cause); });
}

// ---- client

EngineClient::EngineClient(QObject* parent) : QObject(parent)
{
    m_thread.setObjectName(QStringLiteral("engine pipe"));
    m_thread.start();
    m_ping.setInterval(kPingMsec);
    connect(&m_ping, &QTimer::timeout, this, [this] {
        if (m_state == EngineState::NotStarted || m_state == EngineState::Lost || m_state == EngineState::Incompatible) return;
        if (m_lastAnswer.elapsed() > kSilentMsec && m_state != EngineState::NotResponding)
            setState(EngineState::NotResponding, tr("not responding"));
        if (m_serverInfo) ask(PingRequest{}, {}, [](const EngineAnswer<PingAnswer>&) {});
    });
}

EngineClient::~EngineClient()
{
    m_closing = true;
    // quit() alone may end the loop before the queued stop() ran, and the engine would be killed instead of told to finish.
    if (m_worker)
        connect(m_worker, &QObject::destroyed, &m_thread, &QThread::quit, Qt::DirectConnection);
    else
        m_thread.quit();
    stopWorker();
    m_thread.wait(9000);
}

void EngineClient::setCommand(const QStringList& command, const QString& name)
{
    m_command = command;
    m_name = name;
}

QString EngineClient::name() const { return m_name.isEmpty() ? m_command.join(QLatin1Char(' ')) : m_name; }

void EngineClient::stopWorker()
{
    if (!m_worker) return;
    QMetaObject::invokeMethod(m_worker, &EngineWorker::stop, Qt::QueuedConnection);
    m_worker->deleteLater();
    m_worker = nullptr;
}

void EngineClient::start()
{
    stopWorker();
    endAllAsLost(tr("restarted"));
    ++m_generation;
    m_serverInfo.reset();
    m_log.clear();  // what the one before said is not this one's cause
    m_worker = new EngineWorker(this, m_generation, m_command);
    m_worker->moveToThread(&m_thread);
    setState(EngineState::Starting, tr("starting"));
    QMetaObject::invokeMethod(m_worker, &EngineWorker::start, Qt::QueuedConnection);
}

void EngineClient::onStarted(std::uint64_t generation, qint64 processId)
{
    if (generation != m_generation) return;
    m_processId = processId;
    initialize();
}

void EngineClient::initialize()
{
    m_lastAnswer.start();
    m_ping.start();
    InitializeRequest hello;
    hello.clientVersion = ESPALIER_VERSION;
    // As it stands on the wire: of an engine of another protocol only that can be read.
    request(InitializeRequest::kMethod, toJson(hello), [this](const EngineReply& reply) {
        if (!reply.ok()) {
            if (reply.outcome == EngineReply::Outcome::Failed) setState(EngineState::Incompatible, causeText(reply.error));
            return;
        }
        const Result<std::int64_t> protocol = protocolOf(reply.result);
        if (protocol.ok() && *protocol != kProtocolVersion) {
            setState(EngineState::Incompatible, tr("this window speaks protocol %1, the engine %2").arg(kProtocolVersion).arg(*protocol));
            return;
        }
        Result<InitializeAnswer> info = fromJson<InitializeAnswer>(reply.result);
        if (!info.ok()) {
            setState(EngineState::Incompatible, QString::fromStdString(notUnderstood(InitializeRequest::kMethod, info.error()).message));
            return;
        }
        m_serverInfo = std::move(info).value();
        setState(EngineState::Ready, tr("ready"));
        emit ready();
    });
}

std::int64_t EngineClient::request(const std::string& method, Json params, Done done, Progress progress, Partial partial)
{
    const std::int64_t id = m_nextId++;
    const bool first = method == InitializeRequest::kMethod;
    const bool spoken =
        m_state == EngineState::Ready || m_state == EngineState::Busy || (m_state == EngineState::NotResponding && m_serverInfo);
    if (!m_worker || (!first && !spoken)) {
        EngineReply reply;
        reply.outcome = EngineReply::Outcome::Lost;
        reply.error = resourceError("engine.lost", "engine", tr("There is no engine to do this.").toStdString(),
                                    tr("Restart the engine.").toStdString());
        QMetaObject::invokeMethod(
            this, [done, reply] { done(reply); }, Qt::QueuedConnection);
        return id;
    }
    m_open.emplace(id, Open{std::move(done), std::move(progress), std::move(partial)});
    send(serialise(Request{RequestId(id), method, std::move(params)}));
    return id;
}

void EngineClient::send(const std::string& body)
{
    if (!m_worker) return;
    const QByteArray bytes = QByteArray::fromStdString(frameMessage(body));
    QMetaObject::invokeMethod(
        m_worker, [worker = m_worker, bytes] { worker->write(bytes); }, Qt::QueuedConnection);
}

void EngineClient::cancel(std::int64_t id)
{
    if (m_open.contains(id)) send(serialise(Notification{CancelNote::kMethod, toJson(CancelNote{id})}));
}

EngineClient::Open* EngineClient::openOf(std::uint64_t generation, std::int64_t id)
{
    if (generation != m_generation) return nullptr;
    m_lastAnswer.start();
    if (m_state == EngineState::NotResponding && m_serverInfo) setState(EngineState::Ready, tr("ready"));
    const auto it = m_open.find(id);
    return it == m_open.end() ? nullptr : &it->second;
}

void EngineClient::onProgress(std::uint64_t generation, std::int64_t id, const ProgressNote& note)
{
    // What is called may end the request.
    if (const Open* open = openOf(generation, id); open && open->progress) Progress(open->progress)(note);
}

void EngineClient::onPartial(std::uint64_t generation, std::int64_t id, const Json& value)
{
    if (const Open* open = openOf(generation, id); open && open->partial) Partial(open->partial)(value);
}

void EngineClient::onAnswer(std::uint64_t generation, std::int64_t id, const EngineReply& reply)
{
    const Open* found = openOf(generation, id);
    if (!found) return;
    const Open open = *found;
    m_open.erase(id);
    open.done(reply);
}

Error EngineClient::notUnderstood(const char* method, const Error& field)
{
    return resourceError("engine.answer", method,
                         tr("The engine's answer to %1 cannot be understood: %2")
                             .arg(QString::fromLatin1(method), QString::fromStdString(field.message))
                             .toStdString(),
                         tr("Restart the engine, or choose one of this version.").toStdString());
}

void EngineClient::onEnded(std::uint64_t generation, const QString& cause)
{
    if (generation != m_generation || m_closing) return;
    m_ping.stop();
    m_processId = 0;
    if (m_worker) m_worker->deleteLater();
    m_worker = nullptr;
    setState(EngineState::Lost, tr("stopped"));
    endAllAsLost(cause);
    emit lost(cause, m_log.isEmpty() ? QString() : m_log.last());
}

void EngineClient::endAllAsLost(const QString& cause)
{
    std::map<std::int64_t, Open> open;
    open.swap(m_open);
    for (auto& [id, request] : open) {
        EngineReply reply;
        reply.outcome = EngineReply::Outcome::Lost;
        reply.error = resourceError("engine.lost", "engine", tr("The engine stopped (%1).").arg(cause).toStdString(),
                                    tr("Restart the engine.").toStdString());
        request.done(reply);
    }
}

void EngineClient::onLog(const QString& line)
{
    m_log.append(line);
    while (m_log.size() > kLogLines)
        m_log.removeFirst();
}

QStringList EngineClient::lastLogLines() const { return m_log; }

void EngineClient::setState(EngineState state, const QString& text)
{
    m_state = state;
    m_stateText = text;
    emit stateChanged();
}

}  // namespace espalier
