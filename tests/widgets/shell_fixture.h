// Scaffolding of the window's tests: a home of its own for every test, the program without main(), a scripted engine. Offscreen.
#pragma once

#include "core/shapes.h"
#include "heatmap/heatmap_view.h"
#include "look/banner.h"
#include "look/plurals.h"
#include "look/theme.h"
#include "planning/budget_bar.h"
#include "shell/engine/engine_client.h"
#include "shell/engine/evaluation_controller.h"
#include "shell/plan/plan_controller.h"
#include "shell/plan/workbench.h"
#include "shell/window/main_window.h"

#include <QAction>
#include <QApplication>
#include <QDir>
#include <QFile>
#include <QPushButton>
#include <QSettings>
#include <QSignalSpy>
#include <QTemporaryDir>
#include <QtTest>

#include <random>

namespace espalier::test
{

inline constexpr int kLimit = 15000;  // ms; never reached by a run that works
inline constexpr int kQuick = 16;
inline constexpr int kFull = 128;

// Notes every modal window that is ever shown.
class ModalWatch final : public QObject
{
public:
    QStringList seen;

protected:
    bool eventFilter(QObject* watched, QEvent* event) override
    {
        if (event->type() == QEvent::Show)
            if (const auto* widget = qobject_cast<QWidget*>(watched); widget && widget->isWindow() && widget->isModal())
                seen << QString::fromLatin1(widget->metaObject()->className());
        return false;
    }
};

// A folder with everything that one user has; programs come and go in it.
struct Home {
    QTemporaryDir folder;
    QString log = path("engine.log");
    QString once = path("once");

    Home()
    {
        QDir(folder.path()).mkpath(QStringLiteral("demo/espalier-demo-moe"));
        for (const char* name : {"demo/calibration.txt", "demo/validation.txt", "demo/test.txt"})
            if (QFile text(path(name)); text.open(QIODevice::WriteOnly)) text.write(QByteArray("Some text to measure on: ") + name + '\n');
        QSettings::setPath(QSettings::NativeFormat, QSettings::UserScope, path("config"));
    }
    QString path(const char* name) const { return QDir(folder.path()).filePath(QString::fromLatin1(name)); }
    QStringList logLines(const QString& start) const
    {
        QFile file(log);
        if (!file.open(QIODevice::ReadOnly)) return {};
        return QString::fromUtf8(file.readAll())
            .split(QLatin1Char('\n'), Qt::SkipEmptyParts)
            .filter(QRegularExpression(QStringLiteral("^") + QRegularExpression::escape(start)));
    }
};

// The program without main().
struct Shell {
    ThemeController themes;
    Workbench workbench;
    MainWindow window;

    explicit Shell(const Home& home, const QStringList& script = {}, const char* data = "data")
        : workbench({home.path("demo"), home.path(data)}), window(prepared(workbench, home, script), &themes, {})
    {
        // Tests of the deep profile let it start; to others it would be one more job that comes at its own time.
        workbench.setDeepRest(-1);
        window.show();
    }
    static Workbench* prepared(Workbench& workbench, const Home& home, const QStringList& script)
    {
        workbench.engine()->setCommand(
            QStringList{QStringLiteral(ESPALIER_FAKE_ENGINE), QStringLiteral("--log"), home.log, QStringLiteral("--once"), home.once} +
            script);
        return &workbench;
    }

    PlanController& plans() { return *workbench.plans(); }
    EvaluationController& evaluation() { return *workbench.evaluation(); }
    EngineClient& engine() { return *workbench.engine(); }
    std::string hash() { return plans().plan().hash(); }
    int measured()
    {
        return evaluation().state().quick.staleNote.isEmpty() ? static_cast<int>(evaluation().state().quick.windows.size()) : 0;
    }
    bool settled() { return workbench.settled(); }

    // The banner's button with this text.
    QPushButton* bannerButton(const QString& text)
    {
        for (QPushButton* button : window.banners()->findChildren<QPushButton*>())
            if (button->text() == text) return button;
        return nullptr;
    }
    QString banners() { return window.banners()->text(); }
};

// What is drawn without a clock belongs to the plan on screen.
inline QString numbersBelongToThePlan(Shell& shell)
{
    const PerplexityState state = shell.evaluation().state();
    const auto& runs = shell.evaluation().runs();
    const auto run = runs.find(shell.hash());
    for (const TierState* tier : {&state.quick, &state.full}) {
        if (tier->windows.empty() || !tier->staleNote.isEmpty()) continue;
        if (run == runs.end()) return QStringLiteral("numbers without a run of the plan on screen");
        for (const WindowLoss& loss : tier->windows) {
            const auto known = run->second.losses.find(loss.window);
            if (known == run->second.losses.end() || known->second.nll != loss.nll)
                return QStringLiteral("window %1 is of another plan").arg(loss.window);
        }
    }
    return {};
}

inline ModelShape smallShape() { return evenShape(4, 8, 2); }

inline ExpertScores smallScores()
{
    ExpertScores scores;
    scores.method = "reap";
    for (int layer = 0; layer < 4; ++layer) {
        std::vector<double> row;
        for (int e = 0; e < 8; ++e)
            row.push_back(static_cast<double>((e * 5 + layer * 3) % 8));
        scores.values.rows.push_back(row);
    }
    return scores;
}

inline void randomEdit(PlanController& plans, std::mt19937& random)
{
    const auto below = [&random](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    const int layer = below(4);
    switch (below(6)) {
        case 0:
            plans.setKeep(layer, below(12) - 2);
            break;
        case 1:
            plans.toggleExpert(layer, below(8));
            break;
        case 2:
            plans.toggleProtected(layer, below(8));
            break;
        case 3:
            plans.toggleLocked(layer);
            break;
        case 4:
            plans.stepKeep(layer, below(5) - 2);
            break;
        default:
            plans.beginGesture();
            for (int i = 0, moves = below(6); i < moves; ++i)
                plans.setKeep(layer, below(9));
            if (below(4) == 0)
                plans.cancelGesture();
            else
                plans.finishGesture();
    }
}

// Base of the test classes: no test may ever show a modal window.
class ShellTestBase : public QObject
{
    Q_OBJECT

private slots:
    void initTestCase() { qApp->installEventFilter(&m_modal); }
    void cleanup()
    {
        QVERIFY(!QApplication::activeModalWidget());
        QVERIFY2(m_modal.seen.isEmpty(), qPrintable(m_modal.seen.join(QStringLiteral(", "))));
    }

private:
    ModalWatch m_modal;
};

// Before any path is asked for: nothing of the user's is read or written.
template <class Test>
int runShellTest(int argc, char** argv)
{
    const QTemporaryDir xdg;
    for (const char* name : {"XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"})
        qputenv(name, (xdg.path() + QLatin1Char('/') + QLatin1String(name)).toUtf8());
    if (!qEnvironmentVariableIsSet("QT_QPA_PLATFORM")) qputenv("QT_QPA_PLATFORM", "offscreen");
    qputenv("HDF5_USE_FILE_LOCKING", "FALSE");
    QApplication application(argc, argv);
    EnglishPlurals plurals;
    QApplication::installTranslator(&plurals);
    QApplication::setApplicationName(QStringLiteral("espalier-test"));
    QApplication::setQuitOnLastWindowClosed(false);
    QLocale::setDefault(QLocale(QLocale::English, QLocale::UnitedStates));
    Test test;
    return QTest::qExec(&test, argc, argv);
}

}  // namespace espalier::test

#define SAVE(shell, file)                                        \
    do {                                                         \
        QSignalSpy saved(&(shell).workbench, &Workbench::saved); \
        (shell).workbench.saveSession(file);                     \
        QTRY_COMPARE_WITH_TIMEOUT(saved.size(), 1, kLimit);      \
    } while (false)

#define OPEN_AND_SETTLE(shell)                               \
    do {                                                     \
        (shell).engine().start();                            \
        (shell).workbench.openDemo();                        \
        QTRY_VERIFY_WITH_TIMEOUT((shell).settled(), kLimit); \
        QCOMPARE((shell).window.banners()->count(), 0);      \
    } while (false)
