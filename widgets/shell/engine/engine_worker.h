// The pipe's own thread: owns the QProcess, frames and parses. Private to engine_client.cpp.
#pragma once

#include "rpc/framing.h"
#include "rpc/messages.h"

#include <QByteArray>
#include <QObject>
#include <QProcess>
#include <QStringList>

#include <cstdint>

namespace espalier
{

class EngineClient;

class EngineWorker final : public QObject
{
    Q_OBJECT
public:
    EngineWorker(EngineClient* client, std::uint64_t generation, QStringList command)
        : m_client(client), m_generation(generation), m_command(std::move(command))
    {
    }

public slots:
    void start();
    void write(const QByteArray& bytes);
    void stop();  // shutdown and exit, then terminate, then kill

private:
    void readOutput();
    void readLog();
    void logLine(const QByteArray& bytes);
    void end(const QString& cause);
    void passedOver(const Notification& note, const Error& error);
    template <typename F>
    void post(F&& call);

    EngineClient* m_client;
    std::uint64_t m_generation;
    QStringList m_command;
    QProcess* m_process = nullptr;
    FrameDecoder m_decoder;
    QByteArray m_logBuffer;
    bool m_ended = false;
    bool m_stopping = false;
};

}  // namespace espalier
