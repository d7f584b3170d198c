// The window's program: command line, paths, wiring. No arithmetic, no painting.
#include "look/plurals.h"
#include "look/theme.h"
#include "shell/plan/workbench.h"
#include "shell/window/main_window.h"

#include <QApplication>
#include <QCommandLineParser>
#include <QDir>
#include <QFileInfo>
#include <QIcon>
#include <QProcess>
#include <QStandardPaths>
#include <QTimer>

#include <cstdio>

using namespace espalier;

namespace
{

constexpr int kScreenshotLimitMsec = 180000;

// Installed: share/espalier beside bin. Build tree: the source tree's resources.
QString resourceFolder()
{
    const QString installed = QDir(QCoreApplication::applicationDirPath()).absoluteFilePath(QStringLiteral("../share/espalier"));
    if (QFileInfo::exists(installed + QStringLiteral("/demo"))) return QDir::cleanPath(installed);
    return QStringLiteral(ESPALIER_SOURCE_RESOURCES);
}

// Saves a picture of the window and quits: at once, or when nothing is on its way any more.
void takePicture(MainWindow& window, Workbench& workbench, const QString& file, bool ready)
{
    auto* poll = new QTimer(&window);
    auto* waited = new QElapsedTimer;
    waited->start();
    QObject::connect(poll, &QTimer::timeout, &window, [&, poll, waited, file, ready] {
        // That built-in texts are used is no reason to stop.
        const int notes = window.banners()->repeats(QStringLiteral("texts")) > 0 ? 1 : 0;
        const bool failed = workbench.engine()->state() == EngineState::Lost || workbench.engine()->state() == EngineState::Incompatible ||
                            window.banners()->count() > notes;
        const bool late = waited->elapsed() > kScreenshotLimitMsec;
        if (ready && !workbench.settled() && !late && !failed) return;
        poll->stop();
        // One more turn of the loop, so that everything queued is painted.
        QTimer::singleShot(200, &window, [&, file, late, failed] {
            const bool saved = window.grab().save(file);
            if (late || failed)
                std::fprintf(stderr, "espalier: the window was not complete when the picture was taken. %s\n",
                             qPrintable(window.banners()->text()));
            QCoreApplication::exit(!saved ? 4 : late || failed ? 3 : 0);
        });
    });
    poll->start(50);
}

}  // namespace

int main(int argc, char** argv)
{
    // Our own lock file says who holds a session; HDF5's fails on some network disks.
    qputenv("HDF5_USE_FILE_LOCKING", "FALSE");
    // What only prints needs no display.
    for (int i = 1; i < argc; ++i) {
        const QByteArray argument(argv[i]);
        if (argument == "--version" || argument == "-v" || argument == "--help" || argument == "-h" || argument == "--help-all")
            qputenv("QT_QPA_PLATFORM", "offscreen");
    }
    QApplication application(argc, argv);
    EnglishPlurals plurals;
    QApplication::installTranslator(&plurals);
    QApplication::setApplicationName(QStringLiteral("espalier"));
    // Where settings lie (~/.config/espalier); without one Qt makes a folder "Unknown Organization".
    QApplication::setOrganizationDomain(QStringLiteral("espalier"));
    QApplication::setApplicationDisplayName(QStringLiteral("Espalier"));
    QApplication::setWindowIcon(QIcon(QStringLiteral(":/icons/app/espalier.svg")));
    QApplication::setDesktopFileName(QStringLiteral("espalier"));
    QApplication::setApplicationVersion(QStringLiteral(ESPALIER_VERSION));

    QCommandLineParser parser;
    parser.setApplicationDescription(
        QCoreApplication::translate("main", "Choose what a Mixture-of-Experts model keeps, and watch its perplexity while you do."));
    parser.addHelpOption();
    parser.addVersionOption();
    parser.addPositionalArgument(QStringLiteral("what"), QCoreApplication::translate("main", "A model folder or a .espalier session."),
                                 QStringLiteral("[MODEL|SESSION.espalier]"));
    const QCommandLineOption demo(QStringLiteral("demo"), QCoreApplication::translate("main", "Open the demo model."));
    const QCommandLineOption engine(QStringLiteral("engine"),
                                    QCoreApplication::translate("main", "Command that starts the engine, run without a shell."),
                                    QStringLiteral("command"));
    const QCommandLineOption safe(QStringLiteral("safe-mode"),
                                  QCoreApplication::translate("main", "Ignore settings, layout and recovery."));
    const QCommandLineOption reset(QStringLiteral("reset-layout"), QCoreApplication::translate("main", "Start with the default layout."));
    const QCommandLineOption shot(QStringLiteral("screenshot"),
                                  QCoreApplication::translate("main", "Save a picture of the window and quit."),
                                  QStringLiteral("file.png"));
    const QCommandLineOption after(QStringLiteral("after"),
                                   QCoreApplication::translate("main", "When the picture is taken: start or ready."),
                                   QStringLiteral("moment"), QStringLiteral("ready"));
    const QCommandLineOption themeOption(QStringLiteral("theme"), QCoreApplication::translate("main", "system, light or dark."),
                                         QStringLiteral("theme"));
    const QCommandLineOption size(QStringLiteral("size"), QCoreApplication::translate("main", "Window size, for example 1600x1000."),
                                  QStringLiteral("WxH"));
    parser.addOptions({demo, engine, safe, reset, shot, after, themeOption, size});
    parser.process(application);

    const QString resources = resourceFolder();
    const bool picture = parser.isSet(shot);
    ThemeController themes;
    themes.apply();
    if (parser.isSet(themeOption)) themes.setChoice(themeChoiceFromId(parser.value(themeOption)));

    Workbench workbench({resources + QStringLiteral("/demo"), QStandardPaths::writableLocation(QStandardPaths::AppDataLocation)});
    const QStringList command = {QDir(QCoreApplication::applicationDirPath()).filePath(QStringLiteral("espalier-engine")),
                                 QStringLiteral("serve")};
    if (parser.isSet(engine))
        workbench.engine()->setCommand(QProcess::splitCommand(parser.value(engine)));
    else
        workbench.engine()->setCommand(command, QCoreApplication::translate("main", "This computer"));

    WindowOptions options;
    options.safeMode = parser.isSet(safe) || picture;
    options.resetLayout = parser.isSet(reset);
    options.helpFolder = resources + QStringLiteral("/help");
    MainWindow window(&workbench, &themes, options);
    if (parser.isSet(themeOption)) themes.setChoice(themeChoiceFromId(parser.value(themeOption)));
    if (const QStringList parts = parser.value(size).split(QLatin1Char('x')); parts.size() == 2)
        window.resize(parts[0].toInt(), parts[1].toInt());
    window.show();

    // The window first, the engine behind it.
    QTimer::singleShot(0, &window, [&] {
        workbench.engine()->start();
        window.offerRecovery();
        const QStringList arguments = parser.positionalArguments();
        if (parser.isSet(demo))
            workbench.openDemo();
        else if (!arguments.isEmpty())
            window.openPath(QFileInfo(arguments.first()).absoluteFilePath());
    });

    if (picture) takePicture(window, workbench, parser.value(shot), parser.value(after) == QStringLiteral("ready"));
    return QApplication::exec();
}
