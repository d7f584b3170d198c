// Opening, saving and closing, and the part of the view that a session keeps.
#include "shell/window/main_window.h"

#include "heatmap/heatmap_table.h"
#include "heatmap/heatmap_view.h"
#include "layers/layers_panel.h"
#include "look/panel.h"
#include "perplexity/perplexity_panel.h"
#include "planning/budget_bar.h"
#include "planning/pipeline_panel.h"
#include "shell/session/texts_dialog.h"
#include "shell/window/start_page.h"

#include <QCloseEvent>
#include <QCryptographicHash>
#include <QDir>
#include <QDragEnterEvent>
#include <QFileDialog>
#include <QFileInfo>
#include <QMimeData>
#include <QSettings>

#include <algorithm>
#include <set>
#include <utility>

namespace espalier
{

namespace
{
constexpr int kRecent = 8;

// Paths are no keys: a slash begins a group.
QString textsKey(const QString& folder)
{
    const QByteArray name = QDir(folder).absolutePath().toUtf8();
    return QStringLiteral("texts/") + QString::fromLatin1(QCryptographicHash::hash(name, QCryptographicHash::Sha1).toHex());
}
}  // namespace

void MainWindow::openPath(const QString& path)
{
    replaceSession([this, path] {
        if (path.endsWith(QLatin1String(".espalier")))
            m_workbench->openSession(path);
        else {
            const QString folder = QFileInfo(path).isFile() ? QFileInfo(path).path() : path;
            m_workbench->openModel(folder, textsOf(folder));
        }
    });
}

void MainWindow::replaceSession(std::function<void()> next)
{
    if (!m_workbench->isOpen() || m_workbench->plans()->history().entries().size() < 2 || !m_workbench->modified()) {
        next();
        return;
    }
    Banner banner;
    banner.id = QStringLiteral("replace");
    banner.cause = tr("The session has changes that are not saved.");
    banner.consequence = tr("Opening something else ends its plan and history.");
    banner.actions = {
        {tr("Save and open"), [this, next] { saveThen(next); }, true}, {tr("Discard and open"), next}, {tr("Keep working"), [] {}}};
    m_banners->show(banner);
}

void MainWindow::saveThen(std::function<void()> next)
{
    m_afterSave = std::move(next);
    save(false);
}

// Not modal. Begins where the user was last for this kind of file.
QFileDialog* MainWindow::fileDialog(const QString& title, const QString& filter, const QString& key)
{
    const QString setting = QStringLiteral("folder/") + key;
    auto* dialog = new QFileDialog(this, title, settings().value(setting, QDir::homePath()).toString(), filter);
    dialog->setAttribute(Qt::WA_DeleteOnClose);
    dialog->setModal(false);
    connect(dialog, &QFileDialog::fileSelected, this,
            [this, setting](const QString& file) { settings().setValue(setting, QFileInfo(file).path()); });
    return dialog;
}

void MainWindow::askModel()
{
    QFileDialog* dialog = fileDialog(tr("Open model"), {}, QStringLiteral("model"));
    dialog->setFileMode(QFileDialog::Directory);
    connect(dialog, &QFileDialog::fileSelected, this, [this](const QString& folder) { askTexts(folder); });
    dialog->show();
}

void MainWindow::askSession()
{
    QFileDialog* dialog = fileDialog(tr("Open session"), tr("Espalier sessions (*.espalier)"), QStringLiteral("session"));
    dialog->setFileMode(QFileDialog::ExistingFile);
    connect(dialog, &QFileDialog::fileSelected, this,
            [this](const QString& file) { replaceSession([this, file] { m_workbench->openSession(file); }); });
    dialog->show();
}

void MainWindow::askTexts(const QString& folder)
{
    delete m_texts;
    const bool opens = !folder.isEmpty();
    const QString model = opens ? QFileInfo(folder).fileName() : m_workbench->modelName();
    m_texts = new TextsDialog(model, opens, opens ? textsOf(folder) : m_workbench->texts(), m_workbench->builtInTexts(), this);
    m_texts->setAttribute(Qt::WA_DeleteOnClose);
    connect(m_texts, &TextsDialog::browseRequested, this, [this](TextsDialog::Role role, const QString& title) {
        QFileDialog* files = fileDialog(title, tr("Text (*.txt *.md);;All files (*)"), QStringLiteral("text"));
        files->setFileMode(QFileDialog::ExistingFile);
        connect(files, &QFileDialog::fileSelected, m_texts.data(),
                [texts = m_texts, role](const QString& file) { texts->setFile(role, file); });
        files->show();
    });
    connect(m_texts, &TextsDialog::chosen, this, [this, folder, opens](const TextChoice& texts) {
        if (opens)
            replaceSession([this, folder, texts] { m_workbench->openModel(folder, texts); });
        else
            m_workbench->setTexts(texts);
    });
    m_texts->show();
}

// As they were chosen last for this model; the built-in ones at first.
TextChoice MainWindow::textsOf(const QString& folder) const
{
    const QStringList kept = settings().value(textsKey(folder)).toStringList();
    return kept.size() == 3 && QFileInfo::exists(kept[0]) ? TextChoice{kept[0], kept[1], kept[2]} : m_workbench->builtInTexts();
}

void MainWindow::rememberTexts()
{
    const TextChoice& texts = m_workbench->texts();
    if (texts == m_workbench->builtInTexts())
        settings().remove(textsKey(m_workbench->modelPath()));
    else
        settings().setValue(textsKey(m_workbench->modelPath()), QStringList{texts.calibration, texts.live, texts.locked});
}

void MainWindow::noteTexts(const QString& cause, const QString& consequence)
{
    rememberTexts();
    m_banners->dismiss(QStringLiteral("texts"));
    if (cause.isEmpty()) return;
    Banner banner;
    banner.id = QStringLiteral("texts");
    banner.kind = Banner::Kind::Info;
    banner.cause = cause;
    banner.consequence = consequence;
    banner.actions = {{tr("Choose texts…"), [this] { askTexts({}); }}};
    m_banners->show(banner);
}

// Opening the locked text takes a second click: each look makes it less of a check.
void MainWindow::askLocked()
{
    LockedController* locked = m_workbench->locked();
    const LockedState state = locked->state(m_workbench->plans()->committed().hash());
    Banner banner;
    banner.id = QStringLiteral("locked");
    banner.kind = Banner::Kind::Info;
    banner.cause = state.openings == 0 ? tr("The locked text %1 was not opened yet.").arg(state.textName)
                                       : tr("The locked text %1 was opened %n time(s), for %2.", nullptr, state.openings)
                                             .arg(state.textName, tr("%n plan(s)", nullptr, state.plans));
    banner.consequence =
        tr("Choosing plans by it makes it one more text that they are fitted to. Every opening is counted and saved with the session.");
    banner.actions = {{tr("Measure %1 on it").arg(m_workbench->planName()), [this] { m_workbench->measureLocked(); }},
                      {tr("Not now"), [] {}}};
    m_banners->show(banner);
}

void MainWindow::save(bool as)
{
    if (!m_workbench->isOpen()) return;
    m_workbench->setViewState(viewState());
    // What was opened read-only is kept under another name.
    if (!as && !m_workbench->sessionFile().isEmpty() && m_workbench->readOnly().isEmpty()) {
        m_workbench->saveSession(m_workbench->sessionFile());
        return;
    }
    QFileDialog* dialog = fileDialog(tr("Save session"), tr("Espalier sessions (*.espalier)"), QStringLiteral("session"));
    dialog->setAcceptMode(QFileDialog::AcceptSave);
    dialog->setDefaultSuffix(QStringLiteral("espalier"));
    const QString name = m_workbench->readOnly().isEmpty() ? m_workbench->modelName()
                                                           : tr("%1-copy").arg(QFileInfo(m_workbench->sessionFile()).completeBaseName());
    dialog->selectFile(name + QStringLiteral(".espalier"));
    connect(dialog, &QFileDialog::fileSelected, m_workbench, &Workbench::saveSession);
    connect(dialog, &QFileDialog::rejected, this, [this] { m_afterSave = {}; });
    dialog->show();
}

void MainWindow::closeEvent(QCloseEvent* event)
{
    // Closing asks in a banner, once; a second close goes through.
    const bool unsaved = m_workbench->isOpen() && m_workbench->plans()->history().entries().size() > 1 && m_workbench->modified();
    if (unsaved && !m_leaving && m_banners->repeats(QStringLiteral("close")) == 0 && !m_options.safeMode) {
        Banner banner;
        banner.id = QStringLiteral("close");
        banner.cause = tr("The session has changes that are not saved.");
        banner.consequence = m_jobRunning ? tr("A job is running.") : QString();
        banner.actions = {{tr("Save and quit"),
                           [this] {
                               saveThen([this] {
                                   m_leaving = true;
                                   close();
                               });
                           },
                           true},
                          {tr("Discard and quit"),
                           [this] {
                               m_leaving = true;
                               close();
                           }},
                          {tr("Keep working"), [] {}}};
        m_banners->show(banner);
        event->ignore();
        return;
    }
    finishClose();
    event->accept();
}

void MainWindow::finishClose()
{
    if (!m_options.safeMode) {
        setRankView(false);  // the layout that is kept is the first one
        if (m_layoutApplied) settings().setValue(QStringLiteral("layout"), m_docks->saveState());
        settings().setValue(QStringLiteral("geometry"), saveGeometry());
    }
    m_workbench->store()->clearRecovery();
}

void MainWindow::dragEnterEvent(QDragEnterEvent* event)
{
    if (event->mimeData()->hasUrls() && event->mimeData()->urls().first().isLocalFile()) event->acceptProposedAction();
}

void MainWindow::dropEvent(QDropEvent* event) { openPath(event->mimeData()->urls().first().toLocalFile()); }

void MainWindow::rememberRecent(const QString& path)
{
    QStringList paths = recent();
    paths.removeAll(path);
    paths.prepend(path);
    while (paths.size() > kRecent)
        paths.removeLast();
    settings().setValue(QStringLiteral("recent"), paths);
    m_start->setRecent(paths);
}

QStringList MainWindow::recent() const { return settings().value(QStringLiteral("recent")).toStringList(); }

Json MainWindow::viewState() const
{
    const HeatmapOptions& options = m_heatmap->options();
    const AllocationIntent budget = m_layers->budget()->intent();
    Json params = Json::object();
    for (const auto& [key, value] : budget.params)
        params[key] = value;
    Json selected = Json::array();
    for (const CellId& cell : m_selection.selected())
        selected.push_back({cell.layer, cell.expert});
    const QRect zoom = m_heatmap->zoom();
    return {{"budget",
             {{"method", budget.method}, {"params", params}, {"equal_counts", budget.equalCounts}, {"ranking", m_workbench->ranking()}}},
            {"difference", m_perplexity->showsDelta()},
            {"pipeline", viewJson(m_pipeline->recipe())},
            {"search", viewJson(m_workbench->planning()->state())},
            {"selected", selected},
            {"table", m_heatmapFrame->currentPage() == m_heatmapTable},
            {"zoom", zoom.isNull() ? Json() : Json({zoom.left(), zoom.top(), zoom.width(), zoom.height()})},
            {"score", m_workbench->chosenScore()},
            {"ranks", rankViewState()},
            {"norm", normId(options.norm.norm).toStdString()},
            {"clip_percent", options.norm.clipPercent},
            {"per_layer", options.norm.perLayer},
            {"sort", expertSortId(options.sort).toStdString()},
            {"colour_map", colourMapId(options.map).toStdString()},
            {"layer", m_selection.current().layer},
            {"expert", m_selection.current().expert}};
}

void MainWindow::restoreViewState(const Json& view)
{
    if (!view.is_object() || view.empty()) return;
    HeatmapOptions options = m_heatmap->options();
    const auto text = [&](const char* key, const QString& fallback) {
        const Json value = view.value(key, Json());
        return value.is_string() ? QString::fromStdString(value.get<std::string>()) : fallback;
    };
    options.score = text("score", options.ranks() ? QString::fromStdString(m_workbench->chosenScore()) : options.score);
    options.norm.norm = normFromId(text("norm", normId(options.norm.norm)));
    options.sort = expertSortFromId(text("sort", expertSortId(options.sort)));
    options.map = colourMapFromId(text("colour_map", colourMapId(options.map)));
    if (const Json clip = view.value("clip_percent", Json()); clip.is_number()) options.norm.clipPercent = clip.get<double>();
    if (const Json perLayer = view.value("per_layer", Json()); perLayer.is_boolean()) options.norm.perLayer = perLayer.get<bool>();
    m_heatmap->setOptions(options);
    const auto integers = [](const Json& list, std::size_t count) {
        return list.is_array() && list.size() == count &&
               std::all_of(list.begin(), list.end(), [](const Json& x) { return x.is_number_integer(); });
    };
    const auto flag = [&](const char* key) { return view.value(key, Json()) == Json(true); };
    const Json zoom = view.value("zoom", Json());
    m_heatmap->setZoom(integers(zoom, 4) ? QRect(zoom[0].get<int>(), zoom[1].get<int>(), zoom[2].get<int>(), zoom[3].get<int>()) : QRect());
    const Json layer = view.value("layer", Json());
    const Json expert = view.value("expert", Json());
    if (layer.is_number_integer() && expert.is_number_integer()) m_selection.setCurrent({layer.get<int>(), expert.get<int>()});
    std::set<CellId> selected;
    for (const Json& cell : view.value("selected", Json::array()))
        if (integers(cell, 2)) selected.insert({cell[0].get<int>(), cell[1].get<int>()});
    m_selection.select(std::move(selected));
    if (const Json budget = view.value("budget", Json()); budget.is_object() && budget.value("method", Json()).is_string()) {
        AllocationIntent choice;
        choice.method = budget["method"].get<std::string>();
        choice.equalCounts = budget.value("equal_counts", Json()) == Json(true);
        if (const Json params = budget.value("params", Json()); params.is_object())
            for (const auto& [key, value] : params.items())
                choice.params[key] = value;
        m_layers->budget()->setChoice(choice);
    }
    if (SearchState search = searchFromViewJson(view.value("search", Json()), m_workbench->plans()->shape());
        search.phase != SearchState::Phase::None)
        m_workbench->planning()->show(std::move(search));
    if (const Json pipeline = view.value("pipeline", Json()); pipeline.is_object())
        m_pipeline->setRecipe(recipeFromViewJson(pipeline, m_pipeline->recipe()));
    restoreRankView(view.value("ranks", Json()));
    m_perplexity->setShowsDelta(flag("difference"));
    m_actions[QStringLiteral("view.table")]->setChecked(flag("table"));
    m_heatmapFrame->setCurrentPage(flag("table") ? 1 : 0);
}

}  // namespace espalier
