#include "shell/session/session_store.h"

#include "session/profile_file.h"
#include "session/profile_parts.h"
#include "session/session_values.h"

#include <QSemaphore>

#include <mutex>

namespace espalier
{

struct SessionStore::Recovery {
    std::mutex mutex;
    std::optional<std::pair<SessionData, RecoveryInfo>> waiting;
    // I/O thread only
    std::optional<RecoveryFile> file;
    std::optional<SessionLock> lock;
    std::filesystem::path locked;
    bool failed = false;  // and this was told

    // Where no lock can be written (a read-only folder, some network disks) work goes on without.
    Status take(const std::filesystem::path& path)
    {
        if (lock && locked == path) return {};
        Result<SessionLock> taken = SessionLock::acquire(path);
        if (!taken.ok()) return taken.error().code == "session.locked" ? Status(taken.error()) : Status();
        lock.emplace(std::move(taken).value());
        locked = path;
        return {};
    }
};

namespace
{

std::filesystem::path pathOf(const QString& path) { return path.toStdString(); }

void placeValues(SessionData& data, const std::filesystem::path& session, const std::filesystem::path& kept)
{
    ValuesSearch search({session.parent_path(), kept});
    findLostValues(data, search);
}

}  // namespace

SessionStore::SessionStore(const QString& recoveryFolder, const QString& valuesFolder, QObject* parent)
    : QObject(parent), m_folder(recoveryFolder), m_valuesFolder(valuesFolder), m_recovery(std::make_shared<Recovery>())
{
    m_worker = new QObject;
    m_worker->moveToThread(&m_thread);
    m_thread.setObjectName(QStringLiteral("session I/O"));
    m_thread.start();
}

SessionStore::~SessionStore()
{
    post([recovery = m_recovery] {
        if (recovery->file) recovery->file->finish();
        recovery->file.reset();
        recovery->lock.reset();
    });
    flush();
    m_worker->deleteLater();
    m_thread.quit();
    m_thread.wait();
}

void SessionStore::post(std::function<void()> work) { QMetaObject::invokeMethod(m_worker, std::move(work), Qt::QueuedConnection); }

void SessionStore::read(const QString& file, std::function<void(Result<SessionData>)> done)
{
    post([this, recovery = m_recovery, path = pathOf(file), kept = pathOf(m_valuesFolder), done = std::move(done)] {
        auto result = std::make_shared<Result<SessionData>>(readSession(path));
        if (result->ok()) {
            noteSessionValues(kept, **result, path);
            placeValues(**result, path, kept);
        }
        const Status held = result->ok() ? recovery->take(path) : Status();
        QMetaObject::invokeMethod(
            this,
            [this, result, held, done] {
                done(std::move(*result));
                if (!held.ok()) emit heldElsewhere(held.error());
            },
            Qt::QueuedConnection);
    });
}

void SessionStore::release()
{
    post([recovery = m_recovery] { recovery->lock.reset(); });
}

void SessionStore::write(const QString& file, SessionData data, std::function<void(Status)> done)
{
    post([this, recovery = m_recovery, path = pathOf(file), kept = pathOf(m_valuesFolder), data = std::move(data), done = std::move(done)] {
        auto status = std::make_shared<Status>(recovery->take(path));
        // Noted before: a session that was written and not noted could lose what it names.
        if (status->ok()) noteSessionValues(kept, data, path);
        if (status->ok()) *status = writeSession(path, data);
        QMetaObject::invokeMethod(
            this, [status, done] { done(std::move(*status)); }, Qt::QueuedConnection);
    });
}

void SessionStore::writeRecovery(SessionData data, RecoveryInfo info)
{
    {
        const std::scoped_lock lock(m_recovery->mutex);
        const bool queued = m_recovery->waiting.has_value();
        m_recovery->waiting.emplace(std::move(data), std::move(info));
        if (queued) return;
    }
    post([this, recovery = m_recovery, folder = std::filesystem::path(m_folder.toStdString())] {
        std::optional<std::pair<SessionData, RecoveryInfo>> job;
        {
            const std::scoped_lock lock(recovery->mutex);
            job.swap(recovery->waiting);
        }
        if (!job) return;
        if (!recovery->file) {
            Result<RecoveryFile> file = RecoveryFile::create(folder);
            if (!file.ok()) return tellRecovery(file.error());
            recovery->file.emplace(std::move(file).value());
        }
        tellRecovery(recovery->file->write(job->first, job->second));
    });
}

// On the I/O thread.
void SessionStore::tellRecovery(const Status& written)
{
    if (written.ok() != m_recovery->failed) return;
    m_recovery->failed = !written.ok();
    QMetaObject::invokeMethod(
        this,
        [this, written] {
            if (written.ok())
                emit recoveryWorks();
            else
                emit recoveryFailed(written.error());
        },
        Qt::QueuedConnection);
}

void SessionStore::clearRecovery()
{
    {
        const std::scoped_lock lock(m_recovery->mutex);
        m_recovery->waiting.reset();
    }
    post([recovery = m_recovery] {
        if (recovery->file) recovery->file->clear();
    });
}

void SessionStore::findLeftovers(std::function<void(std::vector<RecoveryEntry>)> done)
{
    post([this, folder = std::filesystem::path(m_folder.toStdString()), done = std::move(done)] {
        std::vector<RecoveryEntry> entries = findRecovery(folder);
        QMetaObject::invokeMethod(
            this, [entries = std::move(entries), done] { done(entries); }, Qt::QueuedConnection);
    });
}

void SessionStore::take(const RecoveryEntry& entry, std::function<void(Result<RecoveredSession>)> done)
{
    post([this, entry, kept = pathOf(m_valuesFolder), done = std::move(done)] {
        auto result = std::make_shared<Result<RecoveredSession>>(takeRecovery(entry));
        if (result->ok()) placeValues((*result)->data, entry.info.session, kept);
        QMetaObject::invokeMethod(
            this, [result, done] { done(std::move(*result)); }, Qt::QueuedConnection);
    });
}

void SessionStore::discard(const RecoveryEntry& entry)
{
    post([entry] { discardRecovery(entry); });
}

void SessionStore::profileHash(const QString& file, std::function<void(Result<std::string>)> done)
{
    post([this, path = std::filesystem::path(file.toStdString()), done = std::move(done)] {
        auto result = std::make_shared<Result<std::string>>(profileSha256(path));
        QMetaObject::invokeMethod(
            this, [result, done] { done(std::move(*result)); }, Qt::QueuedConnection);
    });
}

void SessionStore::constantsIn(const QString& file, int layer, std::function<void(Result<std::string>)> done)
{
    post([this, path = std::filesystem::path(file.toStdString()), layer, done = std::move(done)] {
        const auto found = [&]() -> Result<std::string> {
            ESPALIER_TRY(const auto parts, ProfileParts::open(path));
            ESPALIER_TRY(const std::vector<float> constant, parts->constant(layer, 0, ConstantKind::Mean));
            return parts->profileSha256();
        };
        auto result = std::make_shared<Result<std::string>>(found());
        QMetaObject::invokeMethod(
            this, [result, done] { done(std::move(*result)); }, Qt::QueuedConnection);
    });
}

void SessionStore::findValues(const QString& file, std::vector<ValuesInfo> wanted,
                              std::function<void(std::map<ValuesId, std::string>)> done)
{
    post([this, path = pathOf(file), wanted = std::move(wanted), done = std::move(done)] {
        ValuesSearch search({path.parent_path()});
        std::map<ValuesId, std::string> found;
        for (const ValuesInfo& info : wanted) {
            if (search.holds(path, info.id))
                found[info.id] = path.string();
            else if (const auto beside = search.find(info))
                found[info.id] = beside->string();
        }
        QMetaObject::invokeMethod(
            this, [found = std::move(found), done] { done(found); }, Qt::QueuedConnection);
    });
}

void SessionStore::cleanValues(SessionData open)
{
    post([kept = pathOf(m_valuesFolder), copies = pathOf(m_folder), open = std::move(open)] { cleanValuesFolder(kept, copies, open); });
}

void SessionStore::flush()
{
    auto done = std::make_shared<QSemaphore>();
    post([done] { done->release(); });
    done->tryAcquire(1, 10000);
}

}  // namespace espalier
