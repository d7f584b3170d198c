#include "core/session_samples.h"
#include "session/hdf5.h"

#include <gmock/gmock.h>

#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <functional>

namespace espalier
{

namespace
{

using test::Folder;
using test::readBytes;
using test::sampleSession;
using test::writeBytes;

TEST(Session, RoundTripKeepsEverything)
{
    const Folder folder;
    const SessionData data = sampleSession();
    ASSERT_TRUE(writeSession(folder / "a.espalier", data).ok());
    const auto back = readSession(folder / "a.espalier");
    ASSERT_TRUE(back.ok()) << back.error().describe();
    EXPECT_EQ(sessionContentHash(*back), sessionContentHash(data));
    EXPECT_EQ(back->view, data.view);
    EXPECT_EQ(back->shape.layers.size(), 3u);
    ASSERT_EQ(back->history.entries().size(), 3u);
    EXPECT_EQ(back->history.currentId(), data.history.currentId());
    EXPECT_EQ(back->history.entries()[2].plan, data.history.entries()[2].plan);
    EXPECT_TRUE(back->history.current().plan.isLocked(2));
    EXPECT_EQ(back->runs[0].losses[1].nll, 1.0 / 3.0);
    ASSERT_EQ(back->texts.size(), 2u);
    EXPECT_EQ(back->texts[1].firstWindow, 96);
    EXPECT_EQ(back->texts[1].windows, 128);
    EXPECT_TRUE(back->texts[1].part);
    EXPECT_EQ(back->texts[1].textSha256, "t1");
    ASSERT_EQ(back->openings.size(), 1u);
    EXPECT_EQ(back->openings[0].planHash, data.openings[0].planHash);
    EXPECT_EQ(back->openings[0].time, 140);
    EXPECT_EQ(back->openings[0].densePpl, 40.25);
    EXPECT_EQ(back->openings[0].deltaNll, 0.1226);
    ASSERT_EQ(back->tasks.size(), 1u);
    EXPECT_EQ(back->tasks[0].planHash, data.tasks[0].planHash);
    EXPECT_EQ(back->tasks[0].folder, "/tasks");
    EXPECT_EQ(back->tasks[0].fileSha256, "f1");
    EXPECT_EQ(back->tasks[0].acc, "10-");
    EXPECT_EQ(back->tasks[0].norm, "01-");
    EXPECT_EQ(back->tasks[0].first, 3);
    ASSERT_EQ(back->speeds.size(), 1u);
    EXPECT_EQ(back->speeds[0].planHash, data.speeds[0].planHash);
    EXPECT_EQ(back->speeds[0].computer, "loft");
    EXPECT_EQ(back->speeds[0].measured, data.speeds[0].measured);
    EXPECT_EQ(back->speeds[0].time, 150);
    EXPECT_EQ(back->scores[0].values, data.scores[0].values);
    EXPECT_EQ(back->usage, data.usage);
    EXPECT_EQ(back->view, data.view);
    EXPECT_FALSE(back->readOnly);
    EXPECT_FALSE(back->newerMinor);
    // Equal content, equal bytes: nothing in the file depends on when it was written.
    ASSERT_TRUE(writeSession(folder / "b.espalier", *back).ok());
    EXPECT_EQ(readBytes(folder / "a.espalier"), readBytes(folder / "b.espalier"));
}

TEST(Session, EmptySessionRoundTrips)
{
    const Folder folder;
    SessionData data;
    data.shape = test::smallShape();
    ASSERT_TRUE(writeSession(folder / "a.espalier", data).ok());
    const auto back = readSession(folder / "a.espalier");
    ASSERT_TRUE(back.ok()) << back.error().describe();
    EXPECT_TRUE(back->history.empty());
    EXPECT_EQ(sessionContentHash(*back), sessionContentHash(data));
}

TEST(Session, ContentHashIgnoresTheViewOnly)
{
    SessionData data = sampleSession();
    const std::string hash = sessionContentHash(data);
    data.view["selected_layer"] = 1;
    EXPECT_EQ(sessionContentHash(data), hash);
    data.runs[0].losses[0].nll += 1e-12;
    EXPECT_NE(sessionContentHash(data), hash);
}

TEST(Session, EveryTruncationGivesACode)
{
    const Folder folder;
    ASSERT_TRUE(writeSession(folder / "a.espalier", sampleSession()).ok());
    const std::string bytes = readBytes(folder / "a.espalier");
    for (std::size_t size = 0; size < bytes.size(); size += 1 + bytes.size() / 97) {
        writeBytes(folder / "cut.espalier", bytes.substr(0, size));
        const auto result = readSession(folder / "cut.espalier");
        ASSERT_FALSE(result.ok()) << size;
        EXPECT_THAT(result.error().code, testing::AnyOf("session.truncated", "session.not_a_session", "session.damaged"));
    }
}

TEST(Session, EveryFlippedBitGivesACode)
{
    const Folder folder;
    ASSERT_TRUE(writeSession(folder / "a.espalier", sampleSession()).ok());
    const std::string bytes = readBytes(folder / "a.espalier");
    for (std::size_t at = 0; at < bytes.size(); at += at < 600 ? 1 : 41) {
        std::string damaged = bytes;
        damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
        writeBytes(folder / "bad.espalier", damaged);
        const auto result = readSession(folder / "bad.espalier");
        ASSERT_FALSE(result.ok()) << at;
        EXPECT_EQ(result.error().code.substr(0, 8), "session.") << at;
    }
}

TEST(Session, ForeignAndMissingFiles)
{
    const Folder folder;
    EXPECT_EQ(readSession(folder / "none.espalier").error().code, "session.missing");
    EXPECT_EQ(readSession(folder.path()).error().code, "session.unreadable");
    writeBytes(folder / "text.espalier", "Dear diary\n");
    EXPECT_EQ(readSession(folder / "text.espalier").error().code, "session.not_a_session");
    ASSERT_TRUE(writeProfile(folder / "p.h5", test::sampleProfile()).ok());
    EXPECT_EQ(readSession(folder / "p.h5").error().code, "session.not_a_session");
    EXPECT_EQ(writeSession(folder / "no-folder" / "a.espalier", sampleSession()).error().code, "output.unwritable");
}

TEST(Session, ReadOnlyDataAreNotSaved)
{
    const Folder folder;
    SessionData data = sampleSession();
    data.readOnly = true;
    EXPECT_EQ(writeSession(folder / "a.espalier", data).error().code, "session.read_only");
    EXPECT_FALSE(std::filesystem::exists(folder / "a.espalier"));
}

// The file `from` as a version `major`.`minor` would have written it: with parts that this one does not know.
void rewriteAs(const std::filesystem::path& from, const std::filesystem::path& to, int major, int minor, bool withHistory = true)
{
    const auto lock = h5::exclusive();
    const auto container = h5::openContainer(from, {"session", "session", kSessionMajor, kSessionMinor});
    ASSERT_TRUE(container.ok());
    const Status written = h5::writeContainer(to, {"session", "session", major, minor}, 0, [&](const h5::Group& root) {
        for (const std::string& name : container->root.links())
            if (name != "session" && (name != "history" || withHistory))
                H5Ocopy(container->root.id(), name.c_str(), root.id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
        Json json = container->root.readJson("session");
        json["mood"] = "sunny";
        root.writeJson("session", json);
        const h5::Group later = root.create("pareto");
        later.write("front", std::vector<double>{1, 2.5, 3});
        later.create("nested").writeJson("text", {{"a", 1}});
    });
    ASSERT_TRUE(written.ok()) << written.error().describe();
}

TEST(Session, PartsOfANewerMinorVersionSurvive)
{
    const Folder folder;
    ASSERT_TRUE(writeSession(folder / "a.espalier", sampleSession()).ok());
    rewriteAs(folder / "a.espalier", folder / "b.espalier", kSessionMajor, kSessionMinor + 7);
    auto data = readSession(folder / "b.espalier");
    ASSERT_TRUE(data.ok()) << data.error().describe();
    EXPECT_TRUE(data->newerMinor);
    EXPECT_FALSE(data->readOnly);
    EXPECT_EQ(data->view, sampleSession().view);
    data->view["method"] = "edited here";
    const Status saved = writeSession(folder / "c.espalier", *data);
    ASSERT_TRUE(saved.ok()) << saved.error().describe();
    const auto again = readSession(folder / "c.espalier");
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(sessionContentHash(*again), sessionContentHash(*data));
    EXPECT_EQ(again->unknownFields.at("mood"), "sunny");

    const auto lock = h5::exclusive();
    const auto container = h5::openContainer(folder / "c.espalier", {"session", "session", kSessionMajor, kSessionMinor});
    ASSERT_TRUE(container.ok());
    const h5::Group later = container->root.open("pareto");
    EXPECT_EQ(later.read<double>("front"), (std::vector<double>{1, 2.5, 3}));
    EXPECT_EQ(later.open("nested").readJson("text"), Json({{"a", 1}}));
}

// `from` with other plans: each is handed its number and may be changed.
void rewritePlans(const std::filesystem::path& from, const std::filesystem::path& to, const std::function<void(std::size_t, Json&)>& change)
{
    const auto lock = h5::exclusive();
    const auto container = h5::openContainer(from, {"session", "session", kSessionMajor, kSessionMinor});
    ASSERT_TRUE(container.ok());
    const Status written = h5::writeContainer(to, {"session", "session", kSessionMajor, kSessionMinor}, 0, [&](const h5::Group& root) {
        for (const std::string& name : container->root.links())
            if (name != "plans") H5Ocopy(container->root.id(), name.c_str(), root.id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
        Json plans = container->root.readJson("plans");
        for (std::size_t i = 0; i < plans.size(); ++i)
            change(i, plans[i]);
        root.writeJson("plans", plans);
    });
    ASSERT_TRUE(written.ok()) << written.error().describe();
}

Json plansOf(const std::filesystem::path& path)
{
    const auto lock = h5::exclusive();
    return h5::openContainer(path, {"session", "session", kSessionMajor, kSessionMinor})->root.readJson("plans");
}

Json planOfTomorrow()
{
    return {{"version", 9},
            {"layers", {{{"layer", 1}, {"bodies", {0, 0, 3}}, {"scale", 0.1}}}},
            {"recovery", {{"steps", 18446744073709551615u}}}};
}

// The plan of one entry is of a version to come: that entry keeps its place and its content, and everything else works.
TEST(Session, APlanThatCannotBeReadKeepsItsEntry)
{
    const Folder folder;
    const SessionData sample = sampleSession();
    ASSERT_EQ(sample.history.currentId(), 2);
    ASSERT_TRUE(writeSession(folder / "a.espalier", sample).ok());
    rewritePlans(folder / "a.espalier", folder / "b.espalier", [](std::size_t i, Json& plan) {
        if (i == 1) plan = planOfTomorrow();
    });
    auto data = readSession(folder / "b.espalier");
    ASSERT_TRUE(data.ok()) << data.error().describe();
    ASSERT_EQ(data->history.entries().size(), 3u);
    const HistoryEntry& unread = data->history.entries()[1];
    EXPECT_FALSE(unread.readable());
    EXPECT_EQ(unread.text, sample.history.entries()[1].text);
    EXPECT_EQ(unread.unread->reason.code, "plan.version");
    EXPECT_TRUE(data->history.entries()[0].readable());
    EXPECT_EQ(data->history.currentId(), 2);
    EXPECT_EQ(data->history.current().plan, sample.history.current().plan);
    EXPECT_FALSE(data->currentUnread);
    EXPECT_EQ(data->runs.size(), sample.runs.size());
    ASSERT_EQ(data->snapshots.size(), 1u) << "of the same plan";
    EXPECT_TRUE(data->snapshots[0].unread);

    data->history.jumpTo(1);
    EXPECT_EQ(data->history.currentId(), 2) << "it cannot be made current";
    const auto plan = data->history.current().plan.withKept(data->shape, 2, {0, 1});
    ASSERT_TRUE(plan.ok());
    const std::string before = sessionContentHash(*data);
    data->history.commit(*plan, "Another edit", 150);
    EXPECT_NE(sessionContentHash(*data), before);
    ASSERT_TRUE(writeSession(folder / "c.espalier", *data).ok());
    EXPECT_EQ(plansOf(folder / "c.espalier")[1], planOfTomorrow());
    const auto again = readSession(folder / "c.espalier");
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->history.entries().size(), 4u);
    EXPECT_EQ(sessionContentHash(*again), sessionContentHash(*data));
}

TEST(Session, WhereTheCurrentPlanCannotBeReadAnAncestorIsCurrent)
{
    const Folder folder;
    ASSERT_TRUE(writeSession(folder / "a.espalier", sampleSession()).ok());
    rewritePlans(folder / "a.espalier", folder / "b.espalier", [](std::size_t i, Json& plan) {
        if (i == 2) plan["layers"][0]["kept"] = {0, 99};
    });
    const auto data = readSession(folder / "b.espalier");
    ASSERT_TRUE(data.ok()) << data.error().describe();
    EXPECT_TRUE(data->currentUnread);
    EXPECT_EQ(data->history.currentId(), 0);
    EXPECT_FALSE(data->history.canUndo());

    // Not a single one: the model can still be worked on, and nothing is lost.
    rewritePlans(folder / "a.espalier", folder / "c.espalier", [](std::size_t, Json& plan) { plan = planOfTomorrow(); });
    const auto none = readSession(folder / "c.espalier");
    ASSERT_TRUE(none.ok()) << none.error().describe();
    ASSERT_EQ(none->history.entries().size(), 4u);
    EXPECT_TRUE(none->history.current().plan.isIdentity(none->shape));
    EXPECT_EQ(none->history.currentId(), 3);
    EXPECT_EQ(none->history.rows().size(), 4u);
    ASSERT_TRUE(writeSession(folder / "d.espalier", *none).ok());
    EXPECT_EQ(plansOf(folder / "d.espalier")[0], planOfTomorrow());
}

TEST(Session, NewerMajorVersionIsReadOnlyOrNamed)
{
    const Folder folder;
    ASSERT_TRUE(writeSession(folder / "a.espalier", sampleSession()).ok());
    rewriteAs(folder / "a.espalier", folder / "b.espalier", kSessionMajor + 1, 0);
    const auto data = readSession(folder / "b.espalier");
    ASSERT_TRUE(data.ok()) << data.error().describe();
    EXPECT_TRUE(data->readOnly);
    EXPECT_EQ(writeSession(folder / "b.espalier", *data).error().code, "session.read_only");
    rewriteAs(folder / "a.espalier", folder / "c.espalier", kSessionMajor + 1, 0, false);
    EXPECT_EQ(readSession(folder / "c.espalier").error().code, "session.newer_version");
    rewriteAs(folder / "a.espalier", folder / "d.espalier", kSessionMajor, 0, false);
    EXPECT_EQ(readSession(folder / "d.espalier").error().code, "session.invalid");
}

TEST(Session, KillDuringSaveLeavesOldOrNew)
{
    const Folder folder;
    const SessionData old = sampleSession();
    ASSERT_TRUE(writeSession(folder / "a.espalier", old).ok());
    SessionData changed = old;
    changed.view["method"] = "changed";
    const std::string oldHash = sessionContentHash(old);
    const std::string newHash = sessionContentHash(changed);
    for (int round = 0; round < 12; ++round) {
        const pid_t child = ::fork();
        if (child == 0) {
            for (;;)
                if (!writeSession(folder / "a.espalier", changed).ok()) ::_exit(1);
        }
        ::usleep(static_cast<useconds_t>(300 * round));
        ::kill(child, SIGKILL);
        int status = 0;
        ::waitpid(child, &status, 0);
        const auto back = readSession(folder / "a.espalier");
        ASSERT_TRUE(back.ok()) << back.error().describe();
        EXPECT_THAT(sessionContentHash(*back), testing::AnyOf(oldHash, newHash));
    }
}

TEST(SessionLock, SecondOpenerIsToldWhoHoldsIt)
{
    const Folder folder;
    {
        auto lock = SessionLock::acquire(folder / "a.espalier");
        ASSERT_TRUE(lock.ok());
        const auto second = SessionLock::acquire(folder / "a.espalier");
        ASSERT_FALSE(second.ok());
        EXPECT_EQ(second.error().code, "session.locked");
        EXPECT_THAT(second.error().message, testing::HasSubstr(std::to_string(::getpid())));
    }
    EXPECT_FALSE(std::filesystem::exists(folder / "a.espalier.lock"));
    EXPECT_TRUE(SessionLock::acquire(folder / "a.espalier").ok());
    // Left by a crash on this machine: stale. By another machine: not ours to judge.
    writeBytes(folder / "b.espalier.lock", "");
    EXPECT_TRUE(SessionLock::acquire(folder / "b.espalier").ok());
    writeBytes(folder / "c.espalier.lock", R"({"host":"elsewhere","process":7,"user":"ada"})");
    const auto remote = SessionLock::acquire(folder / "c.espalier");
    ASSERT_FALSE(remote.ok());
    EXPECT_THAT(remote.error().message, testing::HasSubstr("ada on elsewhere"));
}

TEST(Recovery, CopyOfADeadProcessIsOfferedOnce)
{
    const Folder folder;
    const RecoveryInfo info{.session = "/home/a.espalier", .savedAt = 50, .writtenAt = 60, .edits = 3};
    const pid_t child = ::fork();
    if (child == 0) {
        auto file = RecoveryFile::create(folder.path());
        ::_exit(file.ok() && file->write(sampleSession(), info).ok() ? 0 : 1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_EQ(status, 0);

    const auto entries = findRecovery(folder.path());
    ASSERT_EQ(entries.size(), 1u);
    EXPECT_EQ(entries[0].info.session, info.session);
    EXPECT_EQ(entries[0].info.edits, 3);
    EXPECT_EQ(entries[0].info.savedAt, 50);
    const auto taken = takeRecovery(entries[0]);
    ASSERT_TRUE(taken.ok()) << taken.error().describe();
    EXPECT_EQ(sessionContentHash(taken->data), sessionContentHash(sampleSession()));
    EXPECT_TRUE(findRecovery(folder.path()).empty());
    EXPECT_EQ(takeRecovery(entries[0]).error().code, "session.recovery_gone");
    discardRecovery(taken->entry);
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Recovery, LiveAndCleanlyEndedSessionsAreNotOffered)
{
    const Folder folder;
    auto file = RecoveryFile::create(folder.path());
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->write(sampleSession(), {}).ok());
    EXPECT_TRUE(findRecovery(folder.path()).empty());
    file->finish();
    EXPECT_TRUE(findRecovery(folder.path()).empty());
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
    writeBytes(folder / "1-2-3.espalier-recovery", "garbage");
    EXPECT_TRUE(findRecovery(folder.path()).empty());
    EXPECT_TRUE(std::filesystem::exists(folder / "1-2-3.espalier-recovery.damaged"));
    EXPECT_TRUE(findRecovery(folder / "missing").empty());
}

}  // namespace

}  // namespace espalier
