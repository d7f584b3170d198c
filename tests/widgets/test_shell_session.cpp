// Sessions, recovery, closing and opening: what was made stays.
#include "core/values_sample.h"
#include "widgets/shell_fixture.h"

#include "perplexity/history_panel.h"
#include "perplexity/status_bar.h"
#include "session/session_file.h"

#include <QLineEdit>

using namespace espalier;
using namespace espalier::test;

class ShellSessionTest final : public ShellTestBase
{
    Q_OBJECT

private slots:
    void planName_isKeptAndBelongsToItsPlan()
    {
        Home home;
        const QString file = home.path("named.espalier");
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            QCOMPARE(shell.workbench.planName(), QStringLiteral("dense"));
            shell.plans().toggleExpert(0, 1);
            QCOMPARE(shell.workbench.planName(), QStringLiteral("31 of 32 experts"));
            shell.plans().undo();
            shell.plans().toggleExpert(0, 2);
            // Does as much as the first one, and is another plan.
            QCOMPARE(shell.workbench.planName(), QStringLiteral("31 of 32 experts (2)"));
            shell.window.action(QStringLiteral("plan.name"))->trigger();
            auto* line = shell.window.findChild<QLineEdit*>(QStringLiteral("history.name"));
            QVERIFY(line);
            QTest::keyClicks(line, QStringLiteral("without two"));
            QTest::keyClick(line, Qt::Key_Return);
            QTRY_COMPARE_WITH_TIMEOUT(shell.workbench.planName(), QStringLiteral("without two"), kLimit);
            shell.window.action(QStringLiteral("file.export"))->trigger();
            auto* folder = shell.window.findChild<QLineEdit*>(QStringLiteral("export.folder"));
            QVERIFY(folder);
            QVERIFY2(folder->text().endsWith(QStringLiteral("/espalier-demo-moe-without-two")), qPrintable(folder->text()));
            SAVE(shell, file);
        }
        Shell shell(home);
        shell.engine().start();
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QCOMPARE(shell.workbench.planName(), QStringLiteral("without two"));
        shell.plans().jumpTo(0);
        QCOMPARE(shell.workbench.planName(), QStringLiteral("dense"));
    }

    void session_reopensAsItWas()
    {
        Home home;
        const QString file = home.path("work.espalier");
        std::string hash;
        PlanHistory history;
        std::map<std::string, PlanRun> runs;
        std::map<std::string, ExpertScores> scores;
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            shell.plans().setKeep(0, 5);
            QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
            shell.plans().toggleProtected(1, 3);
            shell.plans().toggleLocked(2);
            shell.plans().setKeep(3, 4);
            QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
            QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
            shell.plans().undo();
            QVERIFY(shell.workbench.modified());
            SAVE(shell, file);
            QVERIFY(!shell.workbench.modified());
            QCOMPARE(shell.window.isWindowModified(), false);
            hash = shell.hash();
            history = shell.plans().history();
            runs = shell.evaluation().runs();
            scores = shell.workbench.scores();
            QVERIFY(runs.size() >= 3);
        }
        QFile::remove(home.log);
        Shell shell(home);
        shell.engine().start();
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QCOMPARE(shell.hash(), hash);
        QVERIFY(shell.plans().plan() == history.current().plan);
        QCOMPARE(shell.plans().history().entries().size(), history.entries().size());
        QCOMPARE(shell.plans().history().currentId(), history.currentId());
        for (std::size_t i = 0; i < history.entries().size(); ++i) {
            QVERIFY(shell.plans().history().entries()[i].plan == history.entries()[i].plan);
            QCOMPARE(shell.plans().history().entries()[i].text, history.entries()[i].text);
        }
        QCOMPARE(shell.evaluation().runs().size(), runs.size());
        for (const auto& [plan, run] : runs) {
            const auto& again = shell.evaluation().runs().at(plan);
            QCOMPARE(again.losses.size(), run.losses.size());
            for (const auto& [window, loss] : run.losses)
                QCOMPARE(again.losses.at(window).nll, loss.nll);
        }
        QCOMPARE(shell.workbench.scores().size(), scores.size());
        for (const auto& [method, of] : scores)
            QVERIFY(shell.workbench.scores().at(method).values == of.values);
        QCOMPARE(shell.measured(), kQuick);
        QVERIFY(shell.plans().canRedo());
        QVERIFY(!shell.workbench.modified());
        // Nothing had to be computed again.
        QTRY_COMPARE_WITH_TIMEOUT(home.logLines(QStringLiteral("open_model")).size(), 1, kLimit);
        QCOMPARE(home.logLines(QStringLiteral("profile")).size(), 0);
        QCOMPARE(home.logLines(QStringLiteral("evaluate")).size(), 0);
        QCOMPARE(shell.window.banners()->count(), 0);
    }

    // A session whose plan reads stored numbers, which lie elsewhere now. The engine is told where they are.
    void session_findsValuesFilesThatWereMoved()
    {
        Home home;
        const std::string bytes = valuesBytes("layers.1.experts.0.constant", std::vector<float>(8, 0.25F));
        const ValuesId id = sha256Hex(bytes);
        const QString file = home.path("work.espalier");
        std::string hash;
        const auto write = [&](const QString& path) {
            QFile values(path);
            return values.open(QIODevice::WriteOnly) && values.write(QByteArray::fromStdString(bytes)) > 0;
        };
        QVERIFY(write(home.path("first.values.safetensors")));
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            const ModelShape& shape = shell.plans().shape();
            const auto stored = CompressionPlan::identity(shape).with(shape, 1, layerWithStoredConstant(shape.layers[1].experts, id));
            QVERIFY(stored.ok());
            shell.plans().replacePlan(stored->withValues({{id, home.path("first.values.safetensors").toStdString(), {}}}),
                                      QStringLiteral("stored"));
            QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
            hash = shell.hash();
            SAVE(shell, file);
        }
        const auto placeOf = [](Shell& shell) { return QString::fromStdString(shell.plans().plan().values().front().file); };
        // Beside the session, under another name: found while it opens.
        QVERIFY(QFile::rename(home.path("first.values.safetensors"), home.path("second.safetensors")));
        {
            Shell shell(home);
            shell.engine().start();
            shell.workbench.openSession(file);
            QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
            QCOMPARE(shell.hash(), hash);
            QCOMPARE(placeOf(shell), home.path("second.safetensors"));
            QCOMPARE(shell.window.banners()->count(), 0);
            QVERIFY(!shell.workbench.modified());
        }
        // In the program's own folder.
        QVERIFY(QDir().mkpath(home.path("data/values")));
        QVERIFY(QFile::rename(home.path("second.safetensors"), home.path("data/values/third.safetensors")));
        {
            Shell shell(home);
            shell.engine().start();
            shell.workbench.openSession(file);
            QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
            QCOMPARE(placeOf(shell), home.path("data/values/third.safetensors"));
        }
        // Nowhere that is looked at: told once, with what is kept and the way out; another file is not taken for it.
        QVERIFY(QDir().mkpath(home.path("away")));
        QVERIFY(QFile::rename(home.path("data/values/third.safetensors"), home.path("away/fourth.safetensors")));
        Shell shell(home);
        shell.engine().start();
        shell.workbench.openSession(file);
        QTRY_COMPARE_WITH_TIMEOUT(shell.window.banners()->count(), 1, kLimit);
        const QString told = shell.banners();
        QVERIFY2(told.contains(QStringLiteral("first.values.safetensors, is not where it was")), qPrintable(told));
        QVERIFY2(told.contains(QStringLiteral("what was measured are kept")), qPrintable(told));
        QVERIFY2(told.contains(home.path("first.values.safetensors")), qPrintable(told));
        QVERIFY(shell.bannerButton(QStringLiteral("Find it…")));
        // Its constant is in that file: that no profile is here either is nothing to tell of.
        QTRY_VERIFY_WITH_TIMEOUT(!shell.plans().constantsProblem().isEmpty() && shell.workbench.forwardSupported(), kLimit);
        QCOMPARE(shell.window.banners()->count(), 1);
        QVERIFY(!shell.evaluation().measurable(shell.plans().plan()));
        QTRY_VERIFY_WITH_TIMEOUT(shell.engine().usable(), kLimit);
        QVERIFY(write(home.path("away/other.safetensors")));
        QFile other(home.path("away/other.safetensors"));
        QVERIFY(other.open(QIODevice::Append) && other.write("x") == 1);
        other.close();
        QVERIFY(QDir().mkpath(home.path("alone")));
        QVERIFY(QFile::rename(home.path("away/other.safetensors"), home.path("alone/other.safetensors")));
        shell.workbench.findValues(home.path("alone/other.safetensors"));
        QTRY_VERIFY_WITH_TIMEOUT(shell.banners().contains(QStringLiteral("other.safetensors is no values file")), kLimit);
        QVERIFY(!shell.evaluation().measurable(shell.plans().plan()));
        shell.workbench.findValues(home.path("away/fourth.safetensors"));
        QTRY_COMPARE_WITH_TIMEOUT(shell.window.banners()->count(), 0, kLimit);
        QCOMPARE(placeOf(shell), home.path("away/fourth.safetensors"));
        QVERIFY(shell.evaluation().measurable(shell.plans().plan()));
        QCOMPARE(shell.hash(), hash);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        // Where it lies now is worth saving, and is no edit.
        QVERIFY(shell.workbench.modified());
        QCOMPARE(static_cast<int>(shell.plans().history().entries().size()), 2);
    }

    void session_reopensWithTheViewAsItWas()
    {
        Home home;
        const QString file = home.path("work.espalier");
        const auto budget = [](Shell& shell) { return shell.window.findChild<BudgetBar*>()->intent(); };
        HeatmapOptions options;
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            shell.plans().setKeep(0, 5);
            shell.workbench.chooseScore("reap");
            options = shell.window.heatmap()->options();
            QCOMPARE(options.score, QStringLiteral("reap"));
            options.sort = ExpertSort::Score;
            options.map = ColourMap::Magma;
            options.norm.perLayer = true;
            options.norm.norm = Norm::Sqrt;
            options.norm.clipPercent = 2;
            shell.window.heatmap()->setOptions(options);
            shell.window.heatmap()->setZoom(QRect(1, 1, 4, 3));
            shell.window.selection()->setCurrent({2, 3});
            shell.window.selection()->select({{2, 3}, {2, 4}});
            AllocationIntent choice;
            choice.method = "importance";
            choice.params["alpha"] = 0.6;
            choice.equalCounts = true;
            shell.window.findChild<BudgetBar*>()->setChoice(choice);
            QSignalSpy saved(&shell.workbench, &Workbench::saved);
            shell.workbench.saveSession(file);
            QTRY_COMPARE_WITH_TIMEOUT(saved.size(), 1, kLimit);
            shell.window.action(QStringLiteral("file.save"))->trigger();
            QTRY_COMPARE_WITH_TIMEOUT(saved.size(), 2, kLimit);
        }
        Shell shell(home);
        shell.engine().start();
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        const HeatmapOptions& now = shell.window.heatmap()->options();
        QCOMPARE(now.score, options.score);
        QCOMPARE(now.sort, options.sort);
        QCOMPARE(now.map, options.map);
        QCOMPARE(now.norm.norm, options.norm.norm);
        QCOMPARE(now.norm.perLayer, options.norm.perLayer);
        QCOMPARE(now.norm.clipPercent, options.norm.clipPercent);
        QCOMPARE(shell.window.heatmap()->zoom(), QRect(1, 1, 4, 3));
        QVERIFY((shell.window.selection()->current() == CellId{2, 3}));
        QVERIFY((shell.window.selection()->selected() == std::set<CellId>{{2, 3}, {2, 4}}));
        QCOMPARE(budget(shell).method, std::string("importance"));
        QVERIFY(std::abs(budget(shell).params.at("alpha").get<double>() - 0.6) < 0.02);
        QVERIFY(budget(shell).equalCounts);
    }

    // One plan is of a version to come: its row is grey and says why, and the session works.
    void session_withAPlanThatCannotBeReadWorks()
    {
        Home home;
        const QString file = home.path("work.espalier");
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            shell.plans().toggleExpert(0, 1);
            shell.plans().toggleExpert(0, 2);
            SAVE(shell, file);
        }
        const Json content = {{"version", 9}, {"layers", Json::array()}, {"merged", true}};
        {
            SessionData data = std::move(readSession(file.toStdString())).value();
            std::vector<HistoryEntry> entries = data.history.entries();
            QCOMPARE(entries.size(), std::size_t{3});
            entries[2].plan = CompressionPlan();
            entries[2].unread = std::make_shared<const UnreadPlan>(UnreadPlan{.content = content, .reason = {}});
            data.history = PlanHistory::restore(entries, 1);
            QVERIFY(writeSession(file.toStdString(), data).ok());
        }
        Shell shell(home);
        shell.engine().start();
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QCOMPARE(shell.plans().history().currentId(), 1);
        auto* panel = shell.window.findChild<HistoryPanel*>();
        const QModelIndex row = panel->model()->index(0, 0);
        QCOMPARE(row.data(HistoryModel::IdRole).toInt(), 2);
        QVERIFY(!row.data(HistoryModel::ReadableRole).toBool());
        QVERIFY(!row.flags().testFlag(Qt::ItemIsEnabled));
        const QString tip = row.data(Qt::ToolTipRole).toString();
        QVERIFY2(tip.contains(QStringLiteral("made by a newer Espalier: cannot be shown")), qPrintable(tip));
        QVERIFY2(tip.contains(QStringLiteral("version 9")), qPrintable(tip));
        QVERIFY(panel->model()->index(1, 0).flags().testFlag(Qt::ItemIsEnabled));

        QTest::mouseClick(panel->viewport(), Qt::LeftButton, {}, panel->visualRect(row).center());
        shell.plans().jumpTo(2);
        shell.plans().redo();
        QCOMPARE(shell.plans().history().currentId(), 1);
        shell.plans().undo();
        QCOMPARE(shell.plans().history().currentId(), 0);
        shell.plans().toggleExpert(0, 4);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        SAVE(shell, file);
        const SessionData saved = std::move(readSession(file.toStdString())).value();
        QCOMPARE(saved.history.entries().size(), std::size_t{4});
        QVERIFY(saved.history.entries()[2].unread && saved.history.entries()[2].unread->content == content);
    }

    void session_thatIsDamagedSaysSo()
    {
        Home home;
        QFile file(home.path("broken.espalier"));
        QVERIFY(file.open(QIODevice::WriteOnly));
        file.write("not a session at all");
        file.close();
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        const std::string hash = shell.hash();
        shell.workbench.openSession(file.fileName());
        QTRY_COMPARE_WITH_TIMEOUT(shell.window.banners()->count(), 1, kLimit);
        QVERIFY2(shell.banners().contains(QStringLiteral("broken.espalier")), qPrintable(shell.banners()));
        QVERIFY(shell.workbench.isOpen());
        QCOMPARE(shell.hash(), hash);
    }

    void session_worksWithoutAnEngine()
    {
        Home home;
        const QString file = home.path("work.espalier");
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            shell.plans().setKeep(0, 5);
            QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
            SAVE(shell, file);
        }
        Shell shell(home);
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.isOpen(), kLimit);
        QCOMPARE(shell.measured(), kQuick);
        shell.plans().setKeep(1, 4);
        QCOMPARE(shell.plans().history().entries().size(), std::size_t(3));
        QVERIFY(!shell.window.action(QStringLiteral("evaluate.full"))->isEnabled());
        // The engine that comes later opens the model and measures the edit.
        shell.engine().start();
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        QCOMPARE(shell.plans().history().entries().size(), std::size_t(3));
    }

    void recovery_bringsTheEditsBack()
    {
        Home home;
        std::string hash;
        std::size_t entries = 0;
        {
            Shell shell(home);
            OPEN_AND_SETTLE(shell);
            shell.plans().setKeep(0, 5);
            shell.plans().toggleExpert(1, 2);
            shell.plans().setKeep(3, 4);
            hash = shell.hash();
            entries = shell.plans().history().entries().size();
            shell.workbench.store()->flush();
            // What a killed process leaves: its recovery folder as it is now.
            const QDir from(home.path("data/recovery"));
            QVERIFY(QDir().mkpath(home.path("after-kill/recovery")));
            const QStringList names = from.entryList(QDir::Files | QDir::Hidden);
            QVERIFY(!names.isEmpty());
            for (const QString& name : names)
                QVERIFY(QFile::copy(from.filePath(name), home.path("after-kill/recovery/") + name));
            // The living one is not offered to a second window.
            Shell second(home);
            second.window.offerRecovery();
            second.workbench.store()->flush();
            QCoreApplication::processEvents();
            QCOMPARE(second.window.banners()->repeats(QStringLiteral("recovery")), 0);
        }
        // A clean end leaves nothing.
        QCOMPARE(QDir(home.path("data/recovery")).entryList({QStringLiteral("*.espalier-recovery")}, QDir::Files).size(), 0);

        Shell shell(home, {}, "after-kill");
        shell.engine().start();
        shell.window.offerRecovery();
        QTRY_COMPARE_WITH_TIMEOUT(shell.window.banners()->repeats(QStringLiteral("recovery")), 1, kLimit);
        QVERIFY2(shell.banners().contains(QStringLiteral("not closed cleanly")), qPrintable(shell.banners()));
        QPushButton* recover = shell.bannerButton(QStringLiteral("Recover"));
        QVERIFY(recover);
        recover->click();
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.isOpen(), kLimit);
        QCOMPARE(shell.hash(), hash);
        QCOMPARE(shell.plans().history().entries().size(), entries);
        QVERIFY(shell.workbench.modified());
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        // Offered once.
        shell.workbench.store()->flush();
        Shell third(home, {}, "after-kill");
        third.window.offerRecovery();
        third.workbench.store()->flush();
        QCoreApplication::processEvents();
        QCOMPARE(third.window.banners()->repeats(QStringLiteral("recovery")), 0);
    }

    // Said once, whatever is edited meanwhile, and withdrawn when there is room again.
    void recovery_thatCannotBeWrittenIsSaidOnce()
    {
        Home home;
        // A file where the folder would be: this holds for root as well.
        QVERIFY(QDir().mkpath(home.path("data")));
        QFile inTheWay(home.path("data/recovery"));
        QVERIFY(inTheWay.open(QIODevice::WriteOnly));
        inTheWay.close();
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        const QString id = QStringLiteral("recovery-unwritable");
        shell.plans().setKeep(0, 5);
        QTRY_COMPARE_WITH_TIMEOUT(shell.window.banners()->repeats(id), 1, kLimit);
        QVERIFY2(shell.banners().contains(QStringLiteral("Unsaved work cannot be kept")), qPrintable(shell.banners()));
        QVERIFY2(shell.banners().contains(QStringLiteral("save often")), qPrintable(shell.banners()));
        shell.plans().setKeep(1, 5);
        shell.workbench.store()->flush();
        QCoreApplication::processEvents();
        QCOMPARE(shell.window.banners()->repeats(id), 1);

        QVERIFY(inTheWay.remove());
        shell.plans().setKeep(2, 5);
        QTRY_COMPARE_WITH_TIMEOUT(shell.window.banners()->repeats(id), 0, kLimit);
        shell.workbench.store()->flush();
        QCOMPARE(QDir(home.path("data/recovery")).entryList({QStringLiteral("*.espalier-recovery")}, QDir::Files).size(), 1);
    }

    void closing_asksInABannerOnce()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        QVERIFY(!shell.window.close());
        QCOMPARE(shell.window.banners()->repeats(QStringLiteral("close")), 1);
        QVERIFY(shell.window.isVisible());
        QPushButton* keep = shell.bannerButton(QStringLiteral("Keep working"));
        QVERIFY(keep);
        keep->click();
        QVERIFY(!shell.window.close());
        QVERIFY(shell.window.close());
    }

    void recovery_holdsResultsToo()
    {
        Home home;
        std::size_t measured = 0;
        std::string hash;
        {
            Shell shell(home);
            shell.workbench.setAutosaveInterval(0);
            OPEN_AND_SETTLE(shell);
            shell.plans().setKeep(0, 5);
            shell.evaluation().evaluateFull();
            QTRY_COMPARE_WITH_TIMEOUT(shell.evaluation().state().full.windows.size(), std::size_t(kFull), kLimit);
            QTRY_VERIFY_WITH_TIMEOUT(!shell.evaluation().busy(), kLimit);
            QCoreApplication::processEvents();
            shell.workbench.store()->flush();
            hash = shell.hash();
            measured = shell.evaluation().runs().at(hash).losses.size();
            QVERIFY(QDir().mkpath(home.path("after-kill/recovery")));
            const QDir from(home.path("data/recovery"));
            for (const QString& name : from.entryList(QDir::Files | QDir::Hidden))
                QVERIFY(QFile::copy(from.filePath(name), home.path("after-kill/recovery/") + name));
        }
        QCOMPARE(measured, std::size_t(kFull));
        Shell shell(home, {}, "after-kill");
        shell.window.offerRecovery();
        QTRY_COMPARE_WITH_TIMEOUT(shell.window.banners()->repeats(QStringLiteral("recovery")), 1, kLimit);
        QVERIFY2(shell.banners().contains(QStringLiteral("1 edit")), qPrintable(shell.banners()));
        shell.bannerButton(QStringLiteral("Recover"))->click();
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.isOpen(), kLimit);
        QCOMPARE(shell.evaluation().runs().at(hash).losses.size(), measured);
    }

    void recovery_isNotOfferedForWhatWasOnlyOpened()
    {
        Home home;
        const QString file = home.path("work.espalier");
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        QTRY_COMPARE_WITH_TIMEOUT(shell.measured(), kQuick, kLimit);
        SAVE(shell, file);
        shell.workbench.openSession(file);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled() && !shell.workbench.modified(), kLimit);
        shell.workbench.store()->flush();
        QCOMPARE(QDir(home.path("data/recovery")).entryList({QStringLiteral("*.espalier-recovery")}, QDir::Files).size(), 0);
    }

    void closing_discardingReallyCloses()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        QVERIFY(!shell.window.close());
        QPushButton* discard = shell.bannerButton(QStringLiteral("Discard and quit"));
        QVERIFY(discard);
        discard->click();
        QVERIFY(!shell.window.isVisible());
    }

    void opening_neverEndsUnsavedEditsUnasked()
    {
        Home home;
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        const std::string edited = shell.hash();
        shell.window.action(QStringLiteral("file.demo"))->trigger();
        QCOMPARE(shell.window.banners()->repeats(QStringLiteral("replace")), 1);
        QCOMPARE(shell.hash(), edited);
        QPushButton* keep = shell.bannerButton(QStringLiteral("Keep working"));
        QVERIFY(keep);
        keep->click();
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QCOMPARE(shell.hash(), edited);
        shell.window.action(QStringLiteral("file.demo"))->trigger();
        QPushButton* discard = shell.bannerButton(QStringLiteral("Discard and open"));
        QVERIFY(discard);
        discard->click();
        QTRY_COMPARE_WITH_TIMEOUT(shell.plans().history().entries().size(), std::size_t(1), kLimit);
    }

    void opening_savesAndOpens()
    {
        Home home;
        const QString file = home.path("work.espalier");
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        shell.plans().setKeep(0, 5);
        SAVE(shell, file);
        shell.plans().setKeep(1, 5);
        const std::string edited = shell.hash();
        shell.window.action(QStringLiteral("file.demo"))->trigger();
        QPushButton* save = shell.bannerButton(QStringLiteral("Save and open"));
        QVERIFY(save);
        save->click();
        QTRY_COMPARE_WITH_TIMEOUT(shell.plans().history().entries().size(), std::size_t(1), kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        shell.workbench.openSession(file);
        QTRY_COMPARE_WITH_TIMEOUT(shell.hash(), edited, kLimit);
        // Closing too; and what only saves ends nothing.
        shell.plans().setKeep(2, 5);
        shell.window.action(QStringLiteral("file.close"))->trigger();
        QCOMPARE(shell.window.banners()->repeats(QStringLiteral("close-model")), 1);
        SAVE(shell, file);
        QCOMPARE(shell.window.banners()->count(), 0);
        QVERIFY(shell.workbench.isOpen());
        shell.plans().setKeep(3, 5);
        shell.window.action(QStringLiteral("file.close"))->trigger();
        shell.bannerButton(QStringLiteral("Save and close"))->click();
        QTRY_VERIFY_WITH_TIMEOUT(!shell.workbench.isOpen(), kLimit);
    }

    void opening_takesTheBannersOfTheLastModelAway()
    {
        Home home;
        const QString file = home.path("work.espalier");
        Shell shell(home);
        OPEN_AND_SETTLE(shell);
        SAVE(shell, file);
        for (const char* name : {"one", "two", "three"}) {
            QFile broken(home.path(name) + QStringLiteral(".espalier"));
            QVERIFY(broken.open(QIODevice::WriteOnly));
            broken.write("not a session");
            broken.close();
            shell.workbench.openSession(broken.fileName());
            QTRY_VERIFY_WITH_TIMEOUT(shell.banners().contains(QString::fromLatin1(name) + QStringLiteral(".espalier")), kLimit);
            QCOMPARE(shell.window.banners()->count(), 1);  // of attempts the last
        }
        for (int i = 0; i < 16; ++i) {
            Error error;
            error.code = "memory.exhausted";
            error.message = "There were " + std::to_string(100 + i) + " MiB too few.";
            emit shell.workbench.notice(error, QStringLiteral("problem:") + QString::fromStdString(error.message));
        }
        QCOMPARE(shell.window.banners()->count(), 2);  // one cause, whatever its numbers
        shell.workbench.openSession(file);
        QTRY_COMPARE_WITH_TIMEOUT(shell.window.banners()->count(), 0, kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
    }

    void opening_anotherTextDropsTheProfileUnderWay()
    {
        Home home;
        Shell shell(home, {QStringLiteral("--hold"), QStringLiteral("profile")});
        shell.engine().start();
        shell.workbench.openDemo();
        QTRY_VERIFY_WITH_TIMEOUT(shell.workbench.profiling() && !shell.workbench.scores().empty(), kLimit);
        QFile text(home.path("other.txt"));
        QVERIFY(text.open(QIODevice::WriteOnly));
        text.write("Another text.\n");
        text.close();
        shell.workbench.setCalibrationText(text.fileName());
        // Once the engine has read the new text, the rows that had arrived are of another one.
        QTRY_COMPARE_WITH_TIMEOUT(shell.workbench.calibrationText(), text.fileName(), kLimit);
        QTRY_VERIFY_WITH_TIMEOUT(shell.settled(), kLimit);
        QCOMPARE(home.logLines(QStringLiteral("profile")).size(), 2);
        QCOMPARE(shell.window.banners()->count(), 0);
    }

    void session_openElsewhereIsNotWrittenOver()
    {
        Home home;
        const QString file = home.path("work.espalier");
        Shell first(home);
        OPEN_AND_SETTLE(first);
        first.plans().setKeep(0, 5);
        QSignalSpy saved(&first.workbench, &Workbench::saved);
        first.workbench.saveSession(file);
        QTRY_COMPARE_WITH_TIMEOUT(saved.size(), 1, kLimit);

        Shell second(home, {}, "second");
        second.workbench.openSession(file);
        QTRY_COMPARE_WITH_TIMEOUT(second.window.banners()->repeats(QStringLiteral("session-lock")), 1, kLimit);
        QCOMPARE(second.hash(), first.hash());
        QVERIFY2(second.window.windowTitle().contains(QStringLiteral("read-only")), qPrintable(second.window.windowTitle()));
        const auto marked = [&second] { return second.window.findChild<StatusBar*>()->text().contains(QStringLiteral("read-only")); };
        QVERIFY(marked());
        second.window.banners()->dismissAll();
        second.plans().setKeep(1, 4);
        QVERIFY(marked());
        QCOMPARE(second.window.banners()->repeats(QStringLiteral("session-lock")), 0);
        QSignalSpy savedToo(&second.workbench, &Workbench::saved);
        second.workbench.saveSession(file);
        QTRY_COMPARE_WITH_TIMEOUT(second.window.banners()->repeats(QStringLiteral("save")), 1, kLimit);
        QCOMPARE(savedToo.size(), 0);
        second.workbench.saveSession(home.path("copy.espalier"));
        QTRY_COMPARE_WITH_TIMEOUT(savedToo.size(), 1, kLimit);
        QVERIFY(!marked());
    }
};

int main(int argc, char** argv) { return runShellTest<ShellSessionTest>(argc, argv); }

#include "test_shell_session.moc"
