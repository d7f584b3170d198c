#include "shell/window/export_dialog.h"

#include "experts/expert_view.h"
#include "look/error_text.h"
#include "look/format.h"
#include "look/theme.h"
#include "plan/plan_name.h"
#include "planning/budget_bar.h"

#include <QButtonGroup>
#include <QCheckBox>
#include <QCloseEvent>
#include <QDir>
#include <QFileDialog>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QPointer>
#include <QProgressBar>
#include <QPushButton>
#include <QRadioButton>
#include <QScrollArea>
#include <QVBoxLayout>

#include <cmath>
#include <utility>

namespace espalier
{

namespace
{

constexpr double kSamePerplexity = 1e-4;  // relative
// Products of factors are rounded to the checkpoint's type once more: the limit that verify has for them.
constexpr double kRoundedAgain = 0.02;

QString flavourTitle(const std::string& id)
{
    if (id == "stock") return ExportDialog::tr("Stock");
    if (id == "factored") return ExportDialog::tr("Factored / non-uniform");
    if (id == "reconstructed") return ExportDialog::tr("Reconstructed");
    return ExportDialog::tr("Plan only");
}

QString told(const Error& error)
{
    QStringList parts = {causeText(error), keptText(error), adviceText(error)};
    parts.removeAll(QString());
    return parts.join(QLatin1Char(' '));
}

bool countsDiffer(const ModelShape& shape, const CompressionPlan& plan)
{
    std::size_t first = 0;
    for (const LayerShape& layer : shape.layers) {
        if (!runsExperts(shape, plan, layer.index)) continue;
        const std::size_t kept = plan.layer(layer.index).columns().size();
        if (first == 0) first = kept;
        if (kept != first) return true;
    }
    return false;
}

QLabel* small(const QString& text)
{
    auto* label = new QLabel(text);
    label->setFont(fontFor(FontRole::Small));
    label->setWordWrap(true);
    label->setProperty("role", QStringLiteral("muted"));
    return label;
}

// Texts come and go inside both columns; the dialog keeps its height.
std::pair<QScrollArea*, QVBoxLayout*> scrollingColumn(QWidget* parent)
{
    auto* scroll = new QScrollArea(parent);
    scroll->setFrameShape(QFrame::NoFrame);
    scroll->setFocusPolicy(Qt::NoFocus);
    scroll->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    scroll->setWidgetResizable(true);
    auto* page = new QWidget;
    scroll->setWidget(page);
    auto* rows = new QVBoxLayout(page);
    rows->setContentsMargins(0, 0, pixelsOf(8), 0);
    return {scroll, rows};
}

}  // namespace

ExportDialog::ExportDialog(Workbench* workbench, QWidget* parent) : QDialog(parent), m_workbench(workbench)
{
    setWindowTitle(tr("Export model"));
    setModal(false);
    setMinimumWidth(pixelsOf(820));

    const auto [leftScroll, left] = scrollingColumn(this);
    makeWhat(left);
    left->addStretch();
    m_bar = new QProgressBar;
    m_bar->setTextVisible(false);
    m_bar->hide();

    const auto [rightScroll, right] = scrollingColumn(this);
    makeForms(right);
    right->addSpacing(8);
    makeFolder(right);
    right->addStretch();

    auto* columns = new QHBoxLayout;
    columns->addWidget(leftScroll, 1);
    columns->addSpacing(16);
    columns->addWidget(rightScroll, 1);
    auto* buttons = new QHBoxLayout;
    buttons->addWidget(m_bar, 1);
    buttons->addStretch(1);
    m_cancel = new QPushButton(tr("Close"));
    m_export = new QPushButton(tr("Export"));
    m_export->setObjectName(QStringLiteral("export.start"));
    m_export->setProperty("filled", true);
    m_export->setDefault(true);
    buttons->addWidget(m_cancel);
    buttons->addWidget(m_export);
    auto* all = new QVBoxLayout(this);
    all->setContentsMargins(16, 16, 16, 12);
    all->addLayout(columns, 1);
    all->addSpacing(8);
    all->addLayout(buttons);
    resize(sizeHint().expandedTo({pixelsOf(820), pixelsOf(500)}));

    connect(m_export, &QPushButton::clicked, this, &ExportDialog::startExport);
    connect(m_cancel, &QPushButton::clicked, this, &ExportDialog::cancelOrClose);
    connect(m_flavours, &QButtonGroup::buttonClicked, this, &ExportDialog::dryRun);
    connect(workbench->plans(), &PlanController::historyChanged, this, &ExportDialog::refresh);
    connect(workbench->evaluation(), &EvaluationController::runsChanged, this, &ExportDialog::showMeasured);
    connect(workbench->tasks(), &TasksController::runsChanged, this, &ExportDialog::showMeasured);
    connect(workbench->speed(), &SpeedController::speedsChanged, this, &ExportDialog::showMeasured);
    connect(workbench, &Workbench::closed, this, &QDialog::close);
    connect(workbench->plans(), &PlanController::explained, this, &ExportDialog::explain);
    refresh();
}

void ExportDialog::makeWhat(QVBoxLayout* rows)
{
    auto* what = new QLabel(tr("What is written"));
    what->setFont(fontFor(FontRole::Head));
    rows->addWidget(what);
    m_plan = new QLabel;
    m_plan->setWordWrap(true);
    rows->addWidget(m_plan);
    m_measured = new QLabel;
    m_measured->setObjectName(QStringLiteral("export.measured"));
    m_measured->setWordWrap(true);
    m_measured->setTextInteractionFlags(Qt::TextSelectableByMouse);
    rows->addWidget(m_measured);
    m_size = new QLabel;
    m_size->setWordWrap(true);
    m_size->setTextInteractionFlags(Qt::TextSelectableByMouse);
    rows->addWidget(m_size);
    m_result = new QLabel;
    m_result->setWordWrap(true);
    m_result->setTextInteractionFlags(Qt::TextSelectableByMouse);
    m_result->setAccessibleName(tr("result"));
    rows->addWidget(m_result);
    m_unlock = new QPushButton;
    m_unlock->setObjectName(QStringLiteral("export.unlock"));
    m_unlock->setAutoDefault(false);
    m_unlock->hide();
    rows->addWidget(m_unlock, 0, Qt::AlignLeft);
    connect(m_unlock, &QPushButton::clicked, m_workbench->plans(), &PlanController::retryUnlocked);
}

void ExportDialog::makeForms(QVBoxLayout* rows)
{
    auto* form = new QLabel(tr("Form"));
    form->setFont(fontFor(FontRole::Head));
    rows->addWidget(form);
    m_flavours = new QButtonGroup(this);
    for (const FlavourChoice& choice : flavoursFor(m_workbench->plans()->shape(), m_workbench->plans()->plan())) {
        auto* button = new QRadioButton(flavourTitle(choice.id));
        button->setObjectName(QStringLiteral("export.%1").arg(QString::fromStdString(choice.id)));
        button->setProperty("flavour", QString::fromStdString(choice.id));
        m_flavours->addButton(button);
        rows->addWidget(button);
        auto* note = small({});
        note->setContentsMargins(pixelsOf(24), 0, 0, pixelsOf(6));
        m_reasons.push_back(note);
        rows->addWidget(note);
        if (choice.id == "stock") {
            m_equalise = new QPushButton(tr("Equalise counts"));
            m_equalise->setObjectName(QStringLiteral("export.equalise"));
            m_equalise->setToolTip(tr("One count for all layers, as near as possible to what the plan keeps"));
            m_equalise->setAutoDefault(false);
            connect(m_equalise, &QPushButton::clicked, this, &ExportDialog::equaliseRequested);
            auto* line = new QHBoxLayout;
            line->setContentsMargins(pixelsOf(24), 0, 0, pixelsOf(6));
            line->addWidget(m_equalise);
            line->addStretch();
            rows->addLayout(line);
        }
    }
}

void ExportDialog::makeFolder(QVBoxLayout* rows)
{
    auto* where = new QLabel(tr("Folder"));
    where->setFont(fontFor(FontRole::Head));
    rows->addWidget(where);
    auto* row = new QHBoxLayout;
    m_folder = new QLineEdit(QDir::home().filePath(folderName()));
    m_folder->setObjectName(QStringLiteral("export.folder"));
    m_folder->setAccessibleName(tr("folder to write"));
    auto* browseButton = new QPushButton(tr("Browse…"));
    row->addWidget(m_folder, 1);
    row->addWidget(browseButton);
    rows->addLayout(row);
    m_replace = new QCheckBox(tr("Replace an existing export"));
    rows->addWidget(m_replace);
    connect(browseButton, &QPushButton::clicked, this, &ExportDialog::browse);
}

void ExportDialog::cancelOrClose()
{
    if (m_request != 0) {
        // The button stays, and with it the keyboard in this dialog.
        m_workbench->engine()->cancel(m_request);
        m_cancel->setText(tr("Cancelling"));
        m_size->setText(tr("cancelling"));
    } else {
        close();
    }
}

// Why counts cannot be equalised: the line in the panel may lie behind this dialog.
void ExportDialog::explain(const QString& text, bool isError, const std::vector<int>& locks)
{
    if (m_request != 0) return;
    // What goes elsewhere goes here; what was only a remark is no result.
    const bool told = !text.isEmpty() && (isError || !locks.empty());
    if (m_unlock->hasFocus()) focusForm();
    m_unlock->setText(unlockText(locks));
    m_unlock->setVisible(told && !locks.empty());
    if (told || m_explained) showResult(told ? text : QString(), isError);
    m_explained = told;
}

// Not before: what lies in a scroll area cannot hand the keyboard up to a window that was never shown.
void ExportDialog::showEvent(QShowEvent* event)
{
    QDialog::showEvent(event);
    if (focusWidget() == nullptr) focusForm();
}

void ExportDialog::focusForm()
{
    if (QAbstractButton* chosen = m_flavours->checkedButton()) chosen->setFocus(Qt::OtherFocusReason);
}

QString ExportDialog::flavour() const
{
    return m_flavours->checkedButton() ? m_flavours->checkedButton()->property("flavour").toString() : QString();
}

void ExportDialog::refresh()
{
    if (m_request != 0 || !m_workbench->isOpen()) return;
    const ModelShape& shape = m_workbench->plans()->shape();
    const CompressionPlan& plan = m_workbench->plans()->plan();
    const PlanCost cost = m_workbench->cost();
    // What somebody typed stays; a proposal follows the plan.
    if (!m_folder->isModified() && !m_folderChosen) m_folder->setText(QDir::home().filePath(folderName()));
    std::int64_t experts = 0;  // in the layers that are written
    for (const LayerShape& layer : shape.layers)
        experts += runsExperts(shape, plan, layer.index) ? layer.experts : 0;
    m_plan->setText(tr("%1: %2 experts kept, %3, %4 parameters")
                        .arg(m_workbench->planName(), format::countOf(plan.keptExperts(), experts), format::bytes(cost.bytes),
                             format::parameters(cost.parameters)));
    const std::vector<FlavourChoice> choices = flavoursFor(shape, plan);
    const QList<QAbstractButton*> buttons = m_flavours->buttons();
    QAbstractButton* firstAllowed = nullptr;
    for (int i = 0; i < buttons.size(); ++i) {
        const FlavourChoice& choice = choices[static_cast<std::size_t>(i)];
        buttons[i]->setEnabled(choice.allowed);
        QString text = tr("Loads in %1.").arg(QString::fromStdString(choice.loadsIn));
        if (!choice.allowed) text += QLatin1Char(' ') + QString::fromStdString(choice.reason);
        m_reasons[static_cast<std::size_t>(i)]->setText(text);
        if (choice.allowed && !firstAllowed) firstAllowed = buttons[i];
    }
    // A control that goes or greys hands the keyboard on within the dialog.
    const QWidget* focus = focusWidget();
    const bool differ = !choices.empty() && choices.front().id == "stock" && !choices.front().allowed && countsDiffer(shape, plan);
    bool lost = focus == m_equalise && !differ;
    for (const QAbstractButton* button : buttons)
        lost = lost || (focus == button && !button->isEnabled());
    if (!m_flavours->checkedButton() || !m_flavours->checkedButton()->isEnabled())
        if (firstAllowed) firstAllowed->setChecked(true);
    if (lost) focusForm();
    if (m_equalise) m_equalise->setVisible(differ);
    if (!m_explained) m_result->clear();
    showMeasured();
    dryRun();
}

void ExportDialog::showMeasured()
{
    if (!m_workbench->isOpen()) return;
    const std::string& hash = m_workbench->plans()->plan().hash();
    const auto measured = m_workbench->evaluation()->measuredOf(hash);
    QString text = tr("Its perplexity is not measured.");
    if (measured) {
        const Measurement& of = measured->measurement;
        text = tr("Perplexity %1, dense %2, on %3")
                   .arg(format::perplexity(of.ppl), format::perplexity(of.densePpl.value_or(std::nan(""))),
                        basisText(QString::fromStdString(of.text), of.windows, measured->windowsOf, of.windowLength));
    }
    if (const QString tasks = m_workbench->tasks()->words(hash); !tasks.isEmpty()) text += QLatin1Char('\n') + tasks;
    if (const QString speed = m_workbench->speed()->brief(hash); !speed.isEmpty()) text += QLatin1Char('\n') + speed;
    m_measured->setText(text);
}

void ExportDialog::closeEvent(QCloseEvent* event)
{
    if (m_request == 0) {
        QDialog::closeEvent(event);
        return;
    }
    hide();
    event->ignore();
}

void ExportDialog::reject()
{
    if (m_request == 0)
        QDialog::reject();
    else
        hide();
}

QString ExportDialog::folderName() const
{
    const QString plan = QString::fromStdString(fileNamePart(m_workbench->planName().toStdString()));
    return m_workbench->modelName() + QLatin1Char('-') + (plan.isEmpty() ? QStringLiteral("smaller") : plan);
}

void ExportDialog::browse()
{
    auto* dialog = new QFileDialog(this, tr("Folder to write"), QFileInfo(m_folder->text()).path());
    dialog->setAttribute(Qt::WA_DeleteOnClose);
    dialog->setFileMode(QFileDialog::Directory);
    dialog->setModal(false);
    connect(dialog, &QFileDialog::fileSelected, this, [this](const QString& folder) {
        m_folder->setText(QDir(folder).filePath(folderName()));
        m_folderChosen = true;
    });
    dialog->show();
}

void ExportDialog::dryRun()
{
    if (!m_workbench->engine()->usable()) {
        m_size->setText(tr("Without an engine nothing can be written."));
        m_export->setEnabled(false);
        return;
    }
    m_export->setEnabled(true);
    const CompressionPlan plan = m_workbench->plans()->plan();
    ExportRequest request;
    request.path = m_workbench->modelPath().toStdString();
    request.plan = toJson(plan);
    request.profiles = m_workbench->evaluation()->profilesFor(plan);
    request.flavor = flavour().toStdString();
    request.out = QString(m_folder->text() + QStringLiteral(".dry-run")).toStdString();
    request.dryRun = true;
    request.force = true;
    request.verify = false;
    m_workbench->engine()->ask(
        request, {"export-dry", Lane::Interactive}, [this, alive = QPointer<ExportDialog>(this)](const EngineAnswer<ExportAnswer>& reply) {
            if (!alive || m_request != 0) return;
            if (reply.ok()) {
                m_size->setText(
                    tr("%n file(s), %1", nullptr, static_cast<int>(reply->report.files.size())).arg(format::bytes(reply->report.bytes)));
            } else if (reply.outcome == EngineReply::Outcome::Failed) {
                m_size->setText(told(reply.error));
            }
        });
}

void ExportDialog::setRunning(bool running)
{
    if (running) m_cancel->setFocus(Qt::OtherFocusReason);
    m_bar->setVisible(running);
    m_bar->setRange(0, 0);
    m_export->setEnabled(!running);
    m_folder->setEnabled(!running);
    for (QAbstractButton* button : m_flavours->buttons())
        button->setEnabled(!running);
    m_cancel->setText(running ? tr("Cancel") : tr("Close"));
}

void ExportDialog::showResult(const QString& text, bool isError)
{
    QPalette palette = m_result->palette();
    palette.setColor(QPalette::WindowText, isError ? theme().error : theme().text);
    m_result->setPalette(palette);
    m_result->setText(text);
}

void ExportDialog::startExport()
{
    m_exporting = m_workbench->plans()->plan();
    const EvaluationText text = m_workbench->evaluation()->text();
    const QString folder = m_folder->text();
    setRunning(true);
    m_result->clear();
    ExportRequest request;
    request.path = m_workbench->modelPath().toStdString();
    request.plan = toJson(m_exporting);
    request.profiles = m_workbench->evaluation()->profilesFor(m_exporting);
    request.flavor = flavour().toStdString();
    request.out = folder.toStdString();
    request.force = m_replace->isChecked();
    request.text = selectionOf(text);
    request.windows = text.fullWindows;
    request.spread = text.quickWindows;  // those of the quick number in the window
    if (const auto measured = m_workbench->evaluation()->measuredOf(m_exporting.hash())) request.measured = {measured->measurement};
    request.measuredTasks = m_workbench->tasks()->measurements(m_exporting.hash());
    request.measuredSpeed = m_workbench->speed()->measurement(m_exporting.hash());
    m_request = m_workbench->engine()->ask(
        request, {"export", Lane::Export},
        [this, alive = QPointer<ExportDialog>(this), folder, text,
         limit = flavour() == QLatin1String("reconstructed") ? kRoundedAgain : kSamePerplexity](const EngineAnswer<ExportAnswer>& reply) {
            if (!alive) return;
            m_request = 0;
            setRunning(false);
            m_explained = false;
            refresh();
            // Comes back beside the work that goes on, and takes no key of it.
            setAttribute(Qt::WA_ShowWithoutActivating, !isVisible());
            show();
            setAttribute(Qt::WA_ShowWithoutActivating, false);
            if (reply.outcome == EngineReply::Outcome::Cancelled) {
                showResult(tr("Cancelled. Nothing was written."), false);
                return;
            }
            if (!reply.ok()) {
                QString line = told(reply.error);
                if (reply.error.code == "output.exists") line += QLatin1Char(' ') + tr("Or tick \"%1\".").arg(m_replace->text());
                showResult(line, true);
                return;
            }
            QString line = tr("Written to %1.").arg(folder);
            if (const auto& verify = reply->verify) {
                const std::optional<double>& preview = verify->pplPreview;
                const std::optional<double>& exported = verify->pplExport;
                bool holds = verify->holds;
                // What the window measured, or what the engine measures of the plan on the source.
                const std::optional<double> shown = m_workbench->evaluation()->perplexityOf(m_exporting.hash(), false);
                const auto windows = static_cast<int>(m_workbench->evaluation()->tierWindows(false).size());
                if (exported && (shown || preview))
                    line += QLatin1Char('\n') +
                            tr("Reopened: perplexity %1, in the window %2, on the same %n window(s) of %3.", nullptr, windows)
                                .arg(format::number(*exported, 4), format::number(shown ? *shown : *preview, 4), textName(text));
                const double differs = shown && exported ? std::abs(*exported / *shown - 1) : 0.0;
                if (differs > limit)
                    holds = false;
                else if (differs > kSamePerplexity)
                    line += QLatin1Char(' ') + tr("They differ because the products of the factors are rounded once more.");
                line += QLatin1Char('\n') +
                        (holds ? tr("Verified: every check holds.") : tr("The export does not match the plan: do not use it."));
                if (!holds)
                    for (const VerifyCheck& check : verify->checks)
                        if (!check.holds) line += QLatin1Char('\n') + QString::fromStdString(check.name + ": " + check.detail);
                showResult(line, !holds);
            } else {
                showResult(line, false);
            }
        },
        [this, alive = QPointer<ExportDialog>(this)](const EngineProgress& progress) {
            if (!alive || progress.total <= 0) return;
            m_bar->setRange(0, 1000);
            m_bar->setValue(static_cast<int>(1000.0 * static_cast<double>(progress.done) / static_cast<double>(progress.total)));
        });
}

}  // namespace espalier
