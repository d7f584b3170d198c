// The main window's actions, and the menus and tool bar that show them.
#include "shell/window/main_window.h"

#include "experts/expert_view.h"
#include "experts/inspector_panel.h"
#include "heatmap/heatmap_table.h"
#include "heatmap/heatmap_view.h"
#include "layers/kept_curve.h"
#include "layers/layers_panel.h"
#include "look/controls.h"
#include "look/icon.h"
#include "look/panel.h"
#include "perplexity/history_panel.h"
#include "perplexity/perplexity_panel.h"
#include "perplexity/status_bar.h"
#include "planning/budget_bar.h"
#include "planning/pipeline_panel.h"
#include "planning/search_panel.h"
#include "ranks/rank_panel.h"
#include "ranks/rank_plot.h"
#include "shell/window/export_dialog.h"
#include "shell/window/help_window.h"
#include "shell/window/start_page.h"

#include <QAbstractSpinBox>
#include <QApplication>
#include <QLineEdit>
#include <QMenuBar>
#include <QPushButton>
#include <QSettings>
#include <QStyle>
#include <QToolBar>

#include <utility>
#include <vector>

namespace espalier
{

QAction* MainWindow::addAction(const QString& id, const QString& text, const QString& iconName, const QList<QKeySequence>& shortcuts,
                               std::function<void()> run)
{
    auto* made = new QAction(text, this);
    made->setObjectName(id);
    if (!iconName.isEmpty()) made->setIcon(icon(iconName));
    made->setShortcuts(shortcuts);
    QString tip = text;
    tip.remove(QLatin1Char('&'));
    tip.remove(QStringLiteral("…"));
    if (!shortcuts.isEmpty()) tip += QStringLiteral(" (%1)").arg(shortcuts.first().toString(QKeySequence::NativeText));
    made->setToolTip(tip);
    connect(made, &QAction::triggered, this, [run = std::move(run)] { run(); });
    QMainWindow::addAction(made);
    m_actions.insert(id, made);
    return made;
}

void MainWindow::makeActions()
{
    const auto key = [](const char* text) { return QList<QKeySequence>{QKeySequence(QString::fromLatin1(text))}; };
    addAction(QStringLiteral("file.openModel"), tr("&Open model…"), QStringLiteral("box"), key("Ctrl+O"), [this] { askModel(); });
    addAction(QStringLiteral("file.openSession"), tr("Open sess&ion…"), QStringLiteral("folder-open"), key("Ctrl+Shift+O"),
              [this] { askSession(); });
    addAction(QStringLiteral("file.demo"), tr("Try the &demo"), QStringLiteral("sprout"), {},
              [this] { replaceSession([this] { m_workbench->openDemo(); }); });
    addAction(QStringLiteral("file.save"), tr("&Save session"), QStringLiteral("save"), key("Ctrl+S"), [this] { save(false); });
    addAction(QStringLiteral("file.saveAs"), tr("Save session &as…"), {}, key("Ctrl+Shift+S"), [this] { save(true); });
    addAction(QStringLiteral("file.export"), tr("&Export model…"), QStringLiteral("upload"), key("Ctrl+E"), [this] {
        if (!m_export) {
            m_export = new ExportDialog(m_workbench, this);
            m_export->setAttribute(Qt::WA_DeleteOnClose);
            connect(m_export, &ExportDialog::equaliseRequested, m_actions[QStringLiteral("plan.equal")], &QAction::trigger);
        }
        m_export->show();
        m_export->raise();
        m_export->activateWindow();  // raised alone it would lie in front while the keys still went to the plan
    });
    addAction(QStringLiteral("file.close"), tr("&Close model"), {}, key("Ctrl+W"), [this] {
        if (m_workbench->modified()) {
            Banner banner;
            banner.id = QStringLiteral("close-model");
            banner.cause = tr("The session has changes that are not saved.");
            banner.actions = {{tr("Save and close"), [this] { saveThen([this] { m_workbench->closeModel(); }); }, true},
                              {tr("Discard and close"), [this] { m_workbench->closeModel(); }},
                              {tr("Keep working"), [] {}}};
            m_banners->show(banner);
        } else {
            m_workbench->closeModel();
        }
    });
    addAction(QStringLiteral("file.quit"), tr("&Quit"), {}, key("Ctrl+Q"), [this] { close(); });
    addAction(QStringLiteral("edit.undo"), tr("&Undo"), QStringLiteral("undo-2"), key("Ctrl+Z"), [this] { m_workbench->plans()->undo(); });
    addAction(QStringLiteral("edit.redo"), tr("&Redo"), QStringLiteral("redo-2"),
              {QKeySequence(QStringLiteral("Ctrl+Shift+Z")), QKeySequence(QStringLiteral("Ctrl+Y"))}, [this] {
                  // A text field undoes and redoes its own text; not every platform gives it Ctrl+Y.
                  if (!typing()) m_workbench->plans()->redo();
              });
    addAction(QStringLiteral("plan.name"), tr("Name &this plan…"), {}, key("F2"), [this] {
        m_historyDock->setVisible(true);
        m_history->editName();
    });
    addAction(QStringLiteral("plan.dense"), tr("Keep &all experts"), {}, {}, [this] {
        m_workbench->plans()->cancelGesture();
        m_workbench->plans()->replacePlan(
            CompressionPlan::identity(m_workbench->plans()->shape()).withModel(m_workbench->plans()->plan().model()),
            tr("Keep all experts"));
    });
    addAction(QStringLiteral("plan.equal"), tr("&Equalise counts for a stock export"), {}, {}, [this] {
        AllocationIntent intent = m_layers->budget()->intent();
        intent.keepTotal = m_workbench->plans()->plan().keptExperts();
        intent.method = "uniform";
        intent.params.clear();
        intent.equalCounts = true;
        intent.change = AllocationIntent::Change::Equality;
        m_workbench->plans()->allocateTo(intent);
    });
    addAction(QStringLiteral("plan.rank"), tr("&Choose the experts anew by score"), {}, {}, [this] {
        m_workbench->plans()->cancelGesture();
        m_workbench->plans()->rankAnew();
    });
    addAction(QStringLiteral("plan.constants"), tr("&Dropped experts become constants"), {}, {},
              [this] { m_workbench->plans()->setDroppedAs(ConstantKind::Mean); });
    addAction(QStringLiteral("plan.constantsWeighted"), tr("Dropped experts become &weighted constants"), {}, {},
              [this] { m_workbench->plans()->setDroppedAs(ConstantKind::Weighted); });
    addAction(QStringLiteral("plan.dropConstants"), tr("C&onstants become dropped"), {}, {},
              [this] { m_workbench->plans()->setDroppedAs({}); });
    addAction(QStringLiteral("plan.skipLayer"), tr("S&kip the current layer"), {}, {}, [this] {
        const int layer = m_selection.currentLayer();
        if (layer < 0 || layer >= m_workbench->plans()->plan().layerCount()) return;
        m_workbench->plans()->setSkipped(layer, m_workbench->plans()->plan().layer(layer).run() != LayerRun::Skipped);
        updateFormActions();  // a refusal leaves it as it was
    })->setCheckable(true);
    makePipelineActions();
    makeRankActions();
    addAction(QStringLiteral("evaluate.full"), tr("&Evaluate all windows"), QStringLiteral("play"),
              {QKeySequence(QStringLiteral("Ctrl+Return")), QKeySequence(QStringLiteral("Ctrl+Enter"))},
              [this] { m_workbench->evaluation()->evaluateFull(); });
    addAction(QStringLiteral("evaluate.cancel"), tr("&Cancel the running job"), QStringLiteral("square"), key("Ctrl+."),
              [this] { m_workbench->cancelJob(); });
    addAction(QStringLiteral("evaluate.profile"), tr("Measure the &profile"), {}, {}, [this] { measureProfile(); });
    addAction(QStringLiteral("evaluate.locked"), tr("Measure on the &locked text…"), {}, {}, [this] { askLocked(); });
    addAction(QStringLiteral("evaluate.text"), tr("&Texts…"), {}, {}, [this] { askTexts({}); });
    addAction(QStringLiteral("engine.restart"), tr("&Restart the engine"), QStringLiteral("cpu"), {},
              [this] { m_workbench->engine()->start(); });
    addAction(QStringLiteral("view.resetLayout"), tr("Reset la&yout"), {}, {}, [this] { resetLayout(); });
    addAction(QStringLiteral("view.table"), tr("Heatmap as &table"), QStringLiteral("table-2"), {}, [this] {
        const bool table = m_actions[QStringLiteral("view.table")]->isChecked();
        m_heatmapFrame->setCurrentPage(table ? 1 : 0);
        m_heatmapTable->refresh();
    })->setCheckable(true);
    for (const auto& [id, text] :
         {std::pair(QStringLiteral("view.theme.system"), tr("&System")), std::pair(QStringLiteral("view.theme.light"), tr("&Light")),
          std::pair(QStringLiteral("view.theme.dark"), tr("&Dark"))}) {
        const QString choice = id.section(QLatin1Char('.'), 2);
        addAction(id, text, {}, {}, [this, choice] {
            m_themes->setChoice(themeChoiceFromId(choice));
            settings().setValue(QStringLiteral("theme"), choice);
        });
    }
    addAction(QStringLiteral("help.contents"), tr("&Help"), {}, key("F1"), [this] {
        if (!m_help) {
            m_help = new HelpWindow(m_options.helpFolder, this);
            m_help->setAttribute(Qt::WA_DeleteOnClose);
        }
        m_help->showPage(helpPage());
        m_help->show();
        m_help->raise();
        m_help->activateWindow();
    });
    addAction(QStringLiteral("help.keyboard"), tr("&Keyboard shortcuts"), QStringLiteral("keyboard"), key("Shift+F1"), [this] {
        m_actions[QStringLiteral("help.contents")]->trigger();
        m_help->showPage(QStringLiteral("keyboard"));
    });
    // In the export dialog and the help window too.
    for (const char* id : {"help.contents", "help.keyboard"})
        m_actions[QString::fromLatin1(id)]->setShortcutContext(Qt::ApplicationShortcut);
    addAction(QStringLiteral("view.nextPanel"), tr("&Next panel"), {}, key("F6"), [this] { focusPanel(1); });
    addAction(QStringLiteral("view.previousPanel"), tr("Pre&vious panel"), {}, key("Shift+F6"), [this] { focusPanel(-1); });
    addAction(QStringLiteral("help.about"), tr("&About Espalier"), {}, {}, [this] {
        Banner banner;
        banner.id = QStringLiteral("about");
        banner.kind = Banner::Kind::Info;
        banner.cause = tr("Espalier %1.").arg(QStringLiteral(ESPALIER_VERSION));
        banner.consequence = tr("Choose what a Mixture-of-Experts model keeps, and watch its perplexity while you do. GPL-3.0-or-later.");
        m_banners->show(banner);
    });
}

void MainWindow::makeMenus()
{
    const auto fill = [this](QMenu* menu, const QStringList& ids) {
        for (const QString& id : ids) {
            if (id.isEmpty())
                menu->addSeparator();
            else
                menu->addAction(m_actions.value(id));
        }
    };
    fill(menuBar()->addMenu(tr("&File")), {QStringLiteral("file.openModel"),
                                           QStringLiteral("file.openSession"),
                                           QStringLiteral("file.demo"),
                                           {},
                                           QStringLiteral("file.save"),
                                           QStringLiteral("file.saveAs"),
                                           {},
                                           QStringLiteral("file.export"),
                                           {},
                                           QStringLiteral("file.close"),
                                           QStringLiteral("file.quit")});
    fill(menuBar()->addMenu(tr("&Edit")), {QStringLiteral("edit.undo"), QStringLiteral("edit.redo")});
    QMenu* view = menuBar()->addMenu(tr("&View"));
    fill(view, {QStringLiteral("view.table"), QStringLiteral("view.ranks"), {}});
    QMenu* themes = view->addMenu(tr("Th&eme"));
    fill(themes, {QStringLiteral("view.theme.system"), QStringLiteral("view.theme.light"), QStringLiteral("view.theme.dark")});
    view->addSeparator();
    for (Panel* panel : {m_layersDock, m_inspectorDock, m_historyDock, m_perplexityDock, m_spectrumDock, m_energyDock}) {
        panel->toggleViewAction()->setObjectName(QStringLiteral("view.panel.%1").arg(panel->objectName()));
        view->addAction(panel->toggleViewAction());
    }
    fill(view, {{}, QStringLiteral("view.nextPanel"), QStringLiteral("view.previousPanel"), {}, QStringLiteral("view.resetLayout")});
    fill(menuBar()->addMenu(tr("&Plan")), {QStringLiteral("plan.find"),
                                           QStringLiteral("plan.run"),
                                           QStringLiteral("plan.stop"),
                                           QStringLiteral("plan.pipeline"),
                                           {},
                                           QStringLiteral("plan.name"),
                                           QStringLiteral("plan.dense"),
                                           QStringLiteral("plan.equal"),
                                           QStringLiteral("plan.rank"),
                                           {},
                                           QStringLiteral("plan.constants"),
                                           QStringLiteral("plan.constantsWeighted"),
                                           QStringLiteral("plan.dropConstants"),
                                           QStringLiteral("plan.skipLayer"),
                                           {},
                                           QStringLiteral("plan.matricesDense"),
                                           QStringLiteral("plan.measureRanks")});
    fill(menuBar()->addMenu(tr("Eva&luate")), {QStringLiteral("evaluate.full"),
                                               QStringLiteral("evaluate.locked"),
                                               QStringLiteral("evaluate.cancel"),
                                               {},
                                               QStringLiteral("evaluate.profile"),
                                               QStringLiteral("evaluate.text"),
                                               {},
                                               QStringLiteral("engine.restart")});
    fill(menuBar()->addMenu(tr("&Help")), {QStringLiteral("help.contents"), QStringLiteral("help.keyboard"), QStringLiteral("help.about")});
}

void MainWindow::makeToolBar()
{
    auto* bar = new QToolBar(tr("Tools"));
    m_toolBar = bar;
    bar->setObjectName(QStringLiteral("toolbar"));
    bar->setMovable(false);
    bar->setFloatable(false);
    bar->setContextMenuPolicy(Qt::PreventContextMenu);
    bar->setIconSize({18, 18});
    addToolBar(bar);
    for (const char* id : {"file.openModel", "file.save", "", "edit.undo", "edit.redo", "", "file.export"}) {
        if (*id == 0)
            bar->addSeparator();
        else
            bar->addAction(m_actions.value(QString::fromLatin1(id)));
    }
    auto* stretch = new QWidget;
    stretch->setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Preferred);
    bar->addWidget(stretch);
    m_auto = new Switch(tr("Auto"));
    m_auto->setCheckable(true);
    m_auto->setChecked(true);
    m_auto->setTextLeft(true);
    m_auto->setAccessibleName(tr("evaluate automatically"));
    m_auto->setToolTip(tr("Evaluate the quick windows of the live text after each edit"));
    connect(m_auto, &QAbstractButton::toggled, m_workbench->evaluation(), &EvaluationController::setAutomatic);
    bar->addWidget(m_auto);
    auto* gap = new QWidget;
    gap->setFixedWidth(12);
    bar->addWidget(gap);
    m_evaluate = new QPushButton;
    m_evaluate->setObjectName(QStringLiteral("evaluate"));
    m_evaluate->setProperty("filled", true);
    connect(m_evaluate, &QPushButton::clicked, this, [this] {
        const bool cancels = m_jobVisible && !(m_job && m_job->background);
        m_actions[cancels ? QStringLiteral("evaluate.cancel") : QStringLiteral("evaluate.full")]->trigger();
    });
    bar->addWidget(m_evaluate);
    auto* end = new QWidget;
    end->setFixedWidth(8);
    bar->addWidget(end);
}

void MainWindow::updateActions()
{
    const bool open = m_workbench->isOpen();
    const bool engine = m_workbench->engine()->usable();
    const auto enable = [this](const char* id, bool on) {
        if (QAction* a = m_actions.value(QString::fromLatin1(id))) a->setEnabled(on);
    };
    enable("file.save", open);
    enable("file.saveAs", open);
    enable("file.export", open && engine);
    enable("file.close", open);
    enable("edit.undo", open && m_workbench->plans()->canUndo());
    enable("edit.redo", open && m_workbench->plans()->canRedo());
    enable("plan.name", open);
    enable("plan.dense", open);
    enable("plan.equal", open);
    enable("plan.rank", open);
    updateFormActions();
    enable("plan.pipeline", open);
    updatePipelineActions();
    enable("evaluate.full", open && engine);
    enable("evaluate.cancel", m_jobRunning);
    enable("evaluate.profile", open && engine && !m_workbench->profiling());
    enable("evaluate.text", open);
    enable("evaluate.locked", open && engine && m_workbench->forwardSupported() && !m_workbench->locked()->busy() &&
                                  !m_workbench->locked()->measured(m_workbench->plans()->committed().hash()));
    enable("view.table", open);
    enable("view.ranks", open);
    enable("plan.matricesDense", open && m_workbench->plans()->plan().hasRanks());
    const DeepProfile::State deep = m_workbench->deep()->state();
    enable("plan.measureRanks",
           open && engine && m_workbench->forwardSupported() && deep != DeepProfile::State::Ready && deep != DeepProfile::State::Running);
    if (!m_evaluate) return;
    m_auto->setEnabled(open);
    // What runs in the background is cancelled in the status bar; the button is for what is asked for here.
    const bool cancels = m_jobVisible && !(m_job && m_job->background);
    m_evaluate->setEnabled(cancels || (open && engine));
    m_evaluate->setText(cancels ? tr("Cancel") : tr("Evaluate"));
    m_evaluate->setIcon(
        icon(cancels ? QStringLiteral("square") : QStringLiteral("play"), cancels ? QStringLiteral("text") : QStringLiteral("on-accent")));
    if (m_evaluate->property("filled").toBool() == cancels) {
        m_evaluate->setProperty("filled", !cancels);
        // Makes the style look at the property again.
        m_evaluate->style()->unpolish(m_evaluate);
        m_evaluate->style()->polish(m_evaluate);
    }
    m_perplexity->setEvaluateEnabled(open && engine, engine ? QString() : tr("The engine is not running."));
}

void MainWindow::updateFormActions()
{
    PlanController* plans = m_workbench->plans();
    const bool open = m_workbench->isOpen();
    const bool hasConstants = open && plans->plan().hasConstants();
    const bool source = open && (plans->constantsProblem().isEmpty() || (hasConstants && !plans->plan().constantsProfile().empty()));
    const QString why = open && !source ? tr("No constants: %1").arg(plans->constantsProblem()) : QString();
    for (const char* id : {"plan.constants", "plan.constantsWeighted"}) {
        QAction* action = m_actions[QString::fromLatin1(id)];
        action->setEnabled(source && (plans->hasDropped() || hasConstants));
        action->setStatusTip(why);
    }
    m_actions[QStringLiteral("plan.dropConstants")]->setEnabled(hasConstants);
    const int layer = m_selection.currentLayer();
    QAction* skip = m_actions[QStringLiteral("plan.skipLayer")];
    const bool there = open && layer >= 0 && layer < plans->plan().layerCount();
    skip->setEnabled(there && whyNoSkip(plans->shape(), plans->plan(), layer).isEmpty());
    skip->setChecked(there && plans->plan().layer(layer).run() == LayerRun::Skipped);
}

// Whether the keyboard is in a field that takes text.
bool MainWindow::typing() const
{
    const QWidget* focus = QApplication::focusWidget();
    const auto* line = qobject_cast<const QLineEdit*>(focus);
    return (line && !line->isReadOnly()) || qobject_cast<const QAbstractSpinBox*>(focus);
}

// The page about what has the keyboard.
QString MainWindow::helpPage() const
{
    if (m_export && m_export->isActiveWindow()) return QStringLiteral("export");
    const QWidget* focus = QApplication::focusWidget();
    const auto in = [focus](const QWidget* part) { return part && focus && (part == focus || part->isAncestorOf(focus)); };
    if (in(m_heatmapFrame)) return QStringLiteral("heatmap");
    if (in(m_pipeline) || in(m_search)) return QStringLiteral("pipeline");
    if (in(m_ranks) || in(m_spectrumDock) || in(m_energyDock)) return QStringLiteral("ranks");
    if (in(m_layersDock) || in(m_inspectorDock)) return QStringLiteral("shaping-the-plan");
    if (in(m_perplexityDock)) return QStringLiteral("perplexity");
    return QStringLiteral("getting-started");
}

// Tab follows the eye: tool bar, left column, map, what is below it, right column.
void MainWindow::orderTabs()
{
    QList<QWidget*> all;
    QWidget* walk = this;
    do {
        if (walk != this && walk->focusPolicy() & Qt::TabFocus && !walk->focusProxy()) all << walk;
        walk = walk->nextInFocusChain();
    } while (walk && walk != this);
    QList<QWidget*> ordered;
    const std::vector<const QWidget*> parts = {m_banners,      m_start,          m_toolBar,      m_layersDock, m_heatmapFrame->header(),
                                               m_heatmapFrame, m_perplexityDock, m_spectrumDock, m_energyDock, m_inspectorDock,
                                               m_historyDock,  m_status};
    for (const QWidget* part : parts)
        for (QWidget* widget : all)
            if (part->isAncestorOf(widget) && !ordered.contains(widget)) ordered << widget;
    for (int i = 0; i + 1 < ordered.size(); ++i)
        setTabOrder(ordered[i], ordered[i + 1]);
}

void MainWindow::focusPanel(int step)
{
    if (!m_workbench->isOpen()) return;
    struct Stop {
        QWidget* part;
        QWidget* first;
    };
    const std::vector<Stop> stops = {
        {m_layersDock, m_layersDock->currentPage() == m_pipeline ? m_pipeline->firstControl()
                       : m_layersDock->currentPage() == m_ranks  ? m_ranks->curve()->focusTarget()
                                                                 : m_layers->curve()->focusTarget()},
        {m_heatmapFrame, m_heatmapFrame->currentPage() == m_heatmap ? m_heatmap->focusTarget() : m_heatmapFrame->currentPage()},
        {m_perplexityDock, m_perplexityDock->currentPage() == m_search ? m_search->firstControl() : m_perplexity->choosers()},
        {m_spectrumDock, rankStop()},
        {m_energyDock, m_energy->focusTarget()},
        {m_inspectorDock, m_inspector->firstControl()},
        {m_historyDock, m_history}};
    const int count = static_cast<int>(stops.size());
    const QWidget* focus = QApplication::focusWidget();
    int at = step > 0 ? -1 : count;
    for (int i = 0; i < count; ++i)
        if (focus && (stops[static_cast<std::size_t>(i)].part == focus || stops[static_cast<std::size_t>(i)].part->isAncestorOf(focus)))
            at = i;
    for (int tried = 0; tried < count; ++tried) {
        at = (at + step + count) % count;
        const Stop& stop = stops[static_cast<std::size_t>(at)];
        if (!stop.part->isVisible()) continue;
        stop.first->setFocus(Qt::ShortcutFocusReason);
        return;
    }
}

}  // namespace espalier
