// Values files of the plans of a session: found where they were moved, kept as long as anything may name them, removed afterwards.
#include "core/session_samples.h"
#include "core/values_sample.h"
#include "plan/values.h"
#include "session/session_values.h"

#include <gtest/gtest.h>

#include <chrono>

namespace espalier
{

namespace
{

namespace fs = std::filesystem;
using test::Folder;
using test::readBytes;
using test::writeBytes;

struct Stored {
    std::string bytes = test::valuesBytes("layers.1.experts.0.constant", std::vector<float>(8, 0.25F));
    ValuesId id = sha256Hex(bytes);

    explicit Stored(float number = 0.25F) : bytes(test::valuesBytes("layers.1.experts.0.constant", std::vector<float>(8, number))) {}
    CompressionPlan plan(const fs::path& file) const
    {
        const ModelShape shape = test::smallShape();
        return CompressionPlan::identity(shape)
            .with(shape, 1, test::layerWithStoredConstant(6, id))
            .value()
            .withValues({{id, file.string(), {}}});
    }
    SessionData session(const fs::path& file) const
    {
        SessionData data = test::sampleSession();
        data.history.commit(plan(file), "stored", 200);
        data.history.commit(CompressionPlan::identity(data.shape), "back", 201);
        SessionSnapshot snapshot;
        snapshot.name = "stored";
        snapshot.plan = plan(file);
        data.snapshots.push_back(snapshot);
        return data;
    }
    // In the program's folder, with a record, written some days ago.
    fs::path keep(const fs::path& folder, int daysAgo = 3) const
    {
        fs::create_directories(folder);
        fs::path file = keptValuesFile(folder, id);
        writeBytes(file, bytes);
        EXPECT_TRUE(beginValuesRecord(file).ok());
        fs::last_write_time(file, fs::file_time_type::clock::now() - std::chrono::hours(24 * daysAgo));
        return file;
    }
};

std::string placeIn(const SessionData& data)
{
    for (const HistoryEntry& entry : data.history.entries())
        if (!valuesOf(entry.plan).empty()) return entry.plan.values().front().file;
    return "no plan with values";
}

TEST(SessionValues, AreFoundWhereTheyWereMoved)
{
    const Stored stored;
    for (const char* place :
         {"stored.values.safetensors", "values/stored.values.safetensors", "any.safetensors", "data/by-hand.safetensors"}) {
        const Folder folder;
        fs::create_directories(folder / "values");
        fs::create_directories(folder / "data");
        // The same name with other numbers, weights, and a file that is cut off, are no reason to stop.
        writeBytes(folder / "values" / "a.safetensors", Stored(0.5F).bytes);
        writeBytes(folder / "b.safetensors", std::string(4096, 'x'));
        writeBytes(folder / "c.safetensors", stored.bytes.substr(0, stored.bytes.size() - 4));
        writeBytes(folder / "short.safetensors", "abc");
        writeBytes(folder / place, stored.bytes);
        SessionData data = stored.session("/gone/stored.values.safetensors");
        const std::string hash = data.history.entries()[data.history.entries().size() - 2].plan.hash();
        const int current = data.history.currentId();
        ASSERT_EQ(lostValues(data).size(), 1U);
        ValuesSearch search({folder.path(), folder / "data"});
        findLostValues(data, search);
        EXPECT_TRUE(lostValues(data).empty()) << place;
        EXPECT_EQ(placeIn(data), (folder / place).string());
        EXPECT_EQ(data.snapshots.back().plan.values().front().file, (folder / place).string());
        EXPECT_EQ(data.history.entries()[data.history.entries().size() - 2].plan.hash(), hash);
        EXPECT_EQ(data.history.currentId(), current);
        EXPECT_TRUE(data.history.canUndo());
    }
}

TEST(SessionValues, OtherNumbersAreNotTakenForThem)
{
    const Stored stored;
    const Folder folder;
    writeBytes(folder / "stored.values.safetensors", Stored(0.5F).bytes);
    writeBytes(folder / (stored.id + ".safetensors"), Stored(0.75F).bytes);
    SessionData data = stored.session("/gone/stored.values.safetensors");
    ValuesSearch search({folder.path()});
    findLostValues(data, search);
    ASSERT_EQ(lostValues(data).size(), 1U);
    EXPECT_EQ(lostValues(data).front().id, stored.id);
    EXPECT_EQ(placeIn(data), "/gone/stored.values.safetensors");
}

TEST(SessionValues, UnusedOnesGoAndNoOthers)
{
    const Folder folder;
    const fs::path kept = folder / "values", recovery = folder / "recovery";
    const SessionData open = test::sampleSession();
    const auto clean = [&](const SessionData& data) { return cleanValuesFolder(kept, recovery, data); };
    const Stored unused(1), young(2), shown(3), saved(4), recovered(5), exported(6), moved(7), old(8);
    const fs::path file = unused.keep(kept);
    young.keep(kept, 0);
    SessionData shows = shown.session(shown.keep(kept));
    const SessionData saves = saved.session(saved.keep(kept));
    ASSERT_TRUE(writeSession(folder / "saved.espalier", saves).ok());
    noteSessionValues(kept, saves, folder / "saved.espalier");
    auto copy = RecoveryFile::create(recovery);
    ASSERT_TRUE(copy.ok());
    ASSERT_TRUE(copy->write(recovered.session(recovered.keep(kept)), {}).ok());
    writeBytes(folder / "espalier_plan.json", canonicalJson(toJson(exported.plan(exported.keep(kept)))));
    noteValuesUser(keptValuesFile(kept, exported.id), folder / "espalier_plan.json");
    // A session that is not where it was may lie anywhere else.
    noteSessionValues(kept, moved.session(moved.keep(kept)), folder / "moved.espalier");
    // From before records were kept.
    fs::remove(old.keep(kept).string() + ".users");
    writeBytes(kept / "notes.txt", "mine");
    writeBytes(kept / "named-by-hand.safetensors", unused.bytes);

    EXPECT_EQ(clean(shows), std::vector<fs::path>{file});
    EXPECT_FALSE(fs::exists(file));
    EXPECT_FALSE(fs::exists(file.string() + ".users"));
    for (const Stored* stays : {&young, &shown, &saved, &recovered, &exported, &moved, &old})
        EXPECT_EQ(readBytes(keptValuesFile(kept, stays->id)), stays->bytes);
    EXPECT_TRUE(fs::exists(kept / "notes.txt"));
    EXPECT_TRUE(fs::exists(kept / "named-by-hand.safetensors"));

    // Now nothing names these three any more.
    ASSERT_TRUE(writeSession(folder / "saved.espalier", open).ok());
    copy->finish();
    writeBytes(folder / "espalier_plan.json", "{}");
    const auto gone = clean(open);
    EXPECT_EQ(gone.size(), 4U);  // what was shown is not open here
    for (const Stored* stays : {&young, &moved, &old})
        EXPECT_TRUE(fs::exists(keptValuesFile(kept, stays->id)));
}

TEST(SessionValues, WhatCannotBeReadNamesEverything)
{
    const Folder folder;
    const fs::path kept = folder / "values", recovery = folder / "recovery";
    const Stored stored;
    const fs::path file = stored.keep(kept);
    noteSessionValues(kept, stored.session(file), folder / "s.espalier");
    noteSessionValues(kept, stored.session(file), folder / "s.espalier");
    EXPECT_EQ(readBytes(file.string() + ".users"), (folder / "s.espalier").string() + "\n");
    writeBytes(folder / "s.espalier", "damaged");
    EXPECT_TRUE(cleanValuesFolder(kept, recovery, test::sampleSession()).empty());
    ASSERT_TRUE(writeSession(folder / "s.espalier", test::sampleSession()).ok());
    fs::create_directories(recovery);
    writeBytes(recovery / "1-2-3.espalier-recovery.damaged", "damaged");
    EXPECT_TRUE(cleanValuesFolder(kept, recovery, test::sampleSession()).empty());
    fs::remove(recovery / "1-2-3.espalier-recovery.damaged");
    // A plan of a newer version that has the id somewhere.
    SessionData newer = test::sampleSession();
    std::vector<HistoryEntry> entries = newer.history.entries();
    UnreadPlan unread{{{"version", 99}, {"numbers", {{"from", stored.id}}}}, badInput("plan.version", "plan", "newer")};
    entries.push_back({static_cast<int>(entries.size()), 0, "newer", {}, 300, std::make_shared<const UnreadPlan>(unread)});
    newer.history = PlanHistory::restore(entries, 0);
    EXPECT_TRUE(namesValues(newer, stored.id));
    EXPECT_TRUE(cleanValuesFolder(kept, recovery, newer).empty());
    EXPECT_EQ(cleanValuesFolder(kept, recovery, test::sampleSession()).size(), 1U);
}

}  // namespace

}  // namespace espalier
