// Reads and writes sessions and recovery copies on one I/O thread, so that the window never waits for HDF5. GUI thread API.
#pragma once

#include "session/session_file.h"

#include <QObject>
#include <QString>
#include <QThread>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

namespace espalier
{

class SessionStore final : public QObject
{
    Q_OBJECT
public:
    // valuesFolder: where the program keeps values files.
    SessionStore(const QString& recoveryFolder, const QString& valuesFolder, QObject* parent = nullptr);
    ~SessionStore() override;  // clean end: the recovery copy goes

    // Reading and writing take the session's lock, held until another session is read or written, or release(). Who opens what another
    // window holds may look and edit (heldElsewhere says so); writing it fails with session.locked.
    // Values files that have moved are looked for beside the session and in the folder of the program.
    void read(const QString& file, std::function<void(Result<SessionData>)> done);
    void write(const QString& file, SessionData data, std::function<void(Status)> done);
    // Replaces this process's recovery copy; of several that wait only the newest is written. recoveryFailed says once that it cannot be
    // written, recoveryWorks that it can again.
    void writeRecovery(SessionData data, RecoveryInfo info);
    void clearRecovery();
    void release();
    void findLeftovers(std::function<void(std::vector<RecoveryEntry>)> done);
    void take(const RecoveryEntry& entry, std::function<void(Result<RecoveredSession>)> done);
    void discard(const RecoveryEntry& entry);
    // SHA-256 of a profile's content, from its header.
    void profileHash(const QString& file, std::function<void(Result<std::string>)> done);
    // The same of a profile that constants can be made of, "outputs" of this layer's experts. Errors: profile.*,
    // plan.profile_without_constants.
    void constantsIn(const QString& file, int layer, std::function<void(Result<std::string>)> done);
    // The values file of each that is found: `file` itself where its content is one, or in its folder. Every one of them is read.
    void findValues(const QString& file, std::vector<ValuesInfo> wanted, std::function<void(std::map<ValuesId, std::string>)> done);
    // Removes from the program's folder the values files that no plan names any more (session/session_values.h).
    void cleanValues(SessionData open);
    // Waits until everything asked for is on disk (closing, tests).
    void flush();

signals:
    void heldElsewhere(const espalier::Error& error);
    void recoveryFailed(const espalier::Error& error);
    void recoveryWorks();

private:
    struct Recovery;
    void post(std::function<void()> work);
    void tellRecovery(const Status& written);

    QThread m_thread;
    QObject* m_worker = nullptr;
    QString m_folder;
    QString m_valuesFolder;
    std::shared_ptr<Recovery> m_recovery;
};

}  // namespace espalier
