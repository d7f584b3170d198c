// Session files (.espalier): everything the window shows, in one HDF5 file that is replaced as a whole.
//
// Saving writes a new file beside the old one, flushes, fsyncs and renames it: a kill leaves the old or the new file. The engine's
// profile stays outside and is referred to by path and fingerprint; the small score matrices are inside, so that every heatmap opens
// without an engine. A 512-byte user block carries kind, version, length and SHA-256: damage is found before HDF5 parses a byte.
// All functions may be called from any one I/O thread; calls of a process are serialised. Nothing here holds a file open.
#pragma once

#include "base/error.h"
#include "base/json.h"
#include "base/statistics.h"
#include "plan/expert_grid.h"
#include "plan/model_shape.h"
#include "plan/plan_history.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace espalier
{

struct SessionModel {
    std::filesystem::path path;  // as given; a remote path is kept as text
    std::string fingerprint;
    std::string configSha256;
    std::string weightsSha256;
};

struct SessionSnapshot {
    std::string name;
    std::string note;
    std::string colour;  // "#rrggbb"
    CompressionPlan plan;
    std::int64_t time = 0;                          // seconds since 1970
    std::shared_ptr<const UnreadPlan> unread = {};  // as in HistoryEntry
};

// One evaluation of one plan on one text. A run may be incomplete (quick tier, cancelled): `losses` holds what was measured.
struct SessionRun {
    std::string planHash;
    std::string tier;  // "quick" or "full"
    std::string textSha256;
    std::string tokenizerSha256;
    int windowLength = 0;
    bool bos = false;
    std::string dtype;               // numeric mode
    std::vector<WindowLoss> losses;  // by window
    Json settings = Json::object();  // whatever else the window wants to remember
    std::int64_t time = 0;
};

// Windows of a text file. Sessions of format 1.0 have a calibration text only, and their runs are measured on it.
struct SessionText {
    std::string role;  // "calibration", "live", "locked"; "profile" where the kept profile is of another text
    std::filesystem::path path;
    int firstWindow = 0;          // windows of the file before these
    int windows = 0;              // at most; 0 = all
    bool part = false;            // others of the file's windows are another text's
    std::string textSha256 = {};  // of the token windows, once something was measured on them
};

// One look at the locked text: what it showed of which plan. Plan and dense model on the same windows.
struct SessionOpening {
    std::string planHash;
    std::string planName;
    std::filesystem::path text;
    std::string textSha256;
    int windows = 0;
    int windowLength = 0;
    std::int64_t time = 0;  // seconds since 1970
    double ppl = 0;
    double pplError = 0;
    double densePpl = 0;
    double deltaNll = 0;  // nats per token, paired
    double deltaNllError = 0;
};

// What one plan answered of one multiple-choice task. Marks: a character per question in the order of the file, '1' right, '0' wrong, '-'
// not answered.
struct SessionTask {
    std::string planHash;
    std::string planName;
    std::filesystem::path folder;
    std::string name;
    std::string rules;
    std::string fileSha256;
    int hidden = 0;     // questions without a right answer in the file
    std::string acc;    // marks by the sum of log-likelihoods
    std::string norm;   // by the sum per character; may be empty
    int first = 0;      // questions that were asked for; 0: all
    std::string dtype;  // computed in
    std::int64_t time = 0;
};

// How fast one plan was beside the dense model.
struct SessionSpeed {
    std::string planHash;
    std::string computer;            // on which, its name
    Json measured = Json::object();  // rates, ratios and what they were measured with, as whoever measured writes them
    std::int64_t time = 0;
};

struct SessionData {
    SessionModel model;
    ModelShape shape;
    std::vector<SessionText> texts;
    PlanHistory history;
    std::vector<SessionSnapshot> snapshots;
    std::vector<SessionRun> runs;
    std::vector<SessionOpening> openings;          // of the locked text, oldest first
    std::vector<SessionTask> tasks;                // those of a plan and folder in the folder's order
    std::vector<SessionSpeed> speeds;              // one per plan
    std::map<std::string, std::string> planNames;  // given by the user, by plan hash
    std::vector<ExpertScores> scores;
    ExpertGrid usage;                // share of tokens per expert, for the router view; may be empty
    std::filesystem::path profile;   // the engine's profile file; may be missing on this machine
    std::string profileFingerprint;  // profileSha256 of it when the scores were taken
    Json view = Json::object();      // window layout, method and parameter choices, selection

    // Set by readSession, kept for writeSession.
    bool readOnly = false;       // written by a newer major version: shown as far as understood, not to be saved over
    bool newerMinor = false;     // written by a newer minor version: a notice; what is not understood survives saving
    bool currentUnread = false;  // the plan that was current cannot be read: another entry is
    // Parts of the file that this version does not know, as an HDF5 image. Copies share it.
    std::shared_ptr<const std::vector<std::byte>> unknown;
    Json unknownFields = Json::object();
};

// Major.minor of the session format written by this version.
inline constexpr int kSessionMajor = 1;
// 1.1: windows of texts, openings of the locked text, names of plans; 1.2: answers to tasks; 1.3: speeds.
inline constexpr int kSessionMinor = 3;

// Replaces `path`. Errors: session.read_only (data.readOnly), output.unwritable, output.disk_full.
Status writeSession(const std::filesystem::path& path, const SessionData& data);

// Errors: session.missing, session.unreadable, session.not_a_session, session.truncated, session.damaged (checksum),
// session.invalid (well-formed HDF5 whose content does not fit together), session.newer_version (a newer major version of which not
// even the model can be read).
// A plan that cannot be read, one of a newer version say, keeps its entry in the history (HistoryEntry::unread) and its content when the
// session is saved; the rest is as it was. Where not one can be read, a plan of all experts is added below the first.
Result<SessionData> readSession(const std::filesystem::path& path);

// SHA-256 over everything but the view state: "modified" means that it differs from the last saved one.
std::string sessionContentHash(const SessionData& data);

// Says who works on a session: `path` + ".lock" with host, process and user, held with flock while the object lives, removed after.
// A second opener gets session.locked, whose subject is the session and whose message names the holder. Where the lock cannot be
// written (read-only folder): session.lock_unwritable.
class SessionLock
{
public:
    static Result<SessionLock> acquire(const std::filesystem::path& session);
    SessionLock(SessionLock&& other) noexcept;
    SessionLock& operator=(SessionLock&& other) noexcept;
    ~SessionLock();

private:
    SessionLock() = default;
    std::filesystem::path m_path;
    int m_descriptor = -1;
};

// ---- Recovery: copies of unsaved work, in a folder of the program's own, never beside the user's file.

struct RecoveryInfo {
    std::filesystem::path session;  // the user's file; empty when never saved
    std::int64_t savedAt = 0;       // when that file was last saved, 0 = never
    std::int64_t writtenAt = 0;     // when this copy was written
    int edits = 0;                  // commits since the save
};

// The recovery file of one open session of this process. Held with flock, so that other instances do not take it for a leftover;
// the file is removed by finish() only (a clean end), so whatever else ends the process leaves it.
class RecoveryFile
{
public:
    static Result<RecoveryFile> create(const std::filesystem::path& folder);
    RecoveryFile(RecoveryFile&& other) noexcept;
    RecoveryFile& operator=(RecoveryFile&& other) noexcept;
    ~RecoveryFile();

    Status write(const SessionData& data, const RecoveryInfo& info);  // replaces the copy
    void clear() noexcept;                                            // after a save: nothing to recover
    void finish() noexcept;                                           // clean end
    const std::filesystem::path& path() const noexcept { return m_path; }

private:
    RecoveryFile() = default;
    std::filesystem::path m_path;
    std::filesystem::path m_lockPath;
    int m_descriptor = -1;
};

struct RecoveryEntry {
    std::filesystem::path file;
    RecoveryInfo info;
};

// Copies left by processes that are gone, newest first. Damaged copies are set aside and not listed. An empty or missing folder
// gives an empty list.
std::vector<RecoveryEntry> findRecovery(const std::filesystem::path& folder);

// Renames the copy before it is used, so that one that crashes the program is offered once, and reads it. The renamed file stays
// until discardRecovery. Errors: session.recovery_gone (somebody else took it), those of readSession.
struct RecoveredSession {
    SessionData data;
    RecoveryEntry entry;  // with the new file name
};
Result<RecoveredSession> takeRecovery(const RecoveryEntry& entry);
void discardRecovery(const RecoveryEntry& entry) noexcept;

}  // namespace espalier
