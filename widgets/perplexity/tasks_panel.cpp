#include "perplexity/tasks_panel.h"

#include "look/controls.h"
#include "look/format.h"
#include "look/icon.h"
#include "look/number_page.h"
#include "look/theme.h"
#include "perplexity/task_bars.h"

#include <QComboBox>
#include <QEvent>
#include <QHBoxLayout>
#include <QLabel>
#include <QPushButton>
#include <QScrollArea>
#include <QSignalBlocker>
#include <QStackedLayout>
#include <QVBoxLayout>

#include <algorithm>

namespace espalier
{

namespace
{

constexpr int kFirst[] = {0, 50, 100, 200, 500, 1000};

}  // namespace

class TasksPanel::Private
{
public:
    TasksState state;

    QStackedLayout* stack = nullptr;
    EmptyState* empty = nullptr;
    QWidget* page = nullptr;
    QWidget* left = nullptr;
    QLabel* clock = nullptr;
    QLabel* number = nullptr;
    QLabel* second = nullptr;
    QLabel* basis = nullptr;
    QLabel* note = nullptr;
    Segment* metric = nullptr;
    QComboBox* questions = nullptr;
    QPushButton* measure = nullptr;
    QScrollArea* scroll = nullptr;
    TaskBars* bars = nullptr;

    TaskMetric chosen() const { return metric->current() == 1 ? TaskMetric::Norm : TaskMetric::Acc; }
    void refresh();
    void refreshStrip(const std::vector<TaskRow>& rows);
    void setSmall(QLabel* label, const QString& text) const;
};

TasksPanel::TasksPanel(QWidget* parent) : QWidget(parent), d(std::make_unique<Private>())
{
    setWhatsThis(
        tr("How many multiple-choice questions the plan answers rightly, beside the dense model on the same questions. The bars are "
           "accuracies with one standard error; Δ is the paired difference, by which a plan is judged."));
    const NumberPage laid(this);
    d->stack = laid.stack;
    d->empty = laid.empty;
    d->page = laid.page;
    d->left = laid.left;
    QVBoxLayout* column = laid.column;
    connect(d->empty, &EmptyState::buttonClicked, this, &TasksPanel::measureRequested);

    auto* top = new QHBoxLayout;
    top->setSpacing(6);
    d->clock = new QLabel(d->left);
    d->number = new QLabel(d->left);
    d->number->setTextInteractionFlags(Qt::TextSelectableByMouse);
    d->number->setAccessibleName(tr("Mean accuracy"));
    top->addWidget(d->clock);
    top->addWidget(d->number);
    top->addStretch(1);
    column->addLayout(top);
    d->second = new QLabel(d->left);
    column->addWidget(d->second);
    for (QLabel** label : {&d->basis, &d->note}) {
        *label = new QLabel(d->left);
        (*label)->setProperty("role", QStringLiteral("muted"));
        column->addWidget(*label);
    }
    d->basis->setAccessibleName(tr("what the accuracy is measured on"));
    column->addStretch(1);
    auto* choices = new QHBoxLayout;
    choices->setSpacing(pixelsOf(8));
    d->metric = new Segment({QStringLiteral("acc"), QStringLiteral("acc_norm")}, d->left);
    d->metric->setObjectName(QStringLiteral("tasks.metric"));
    d->metric->setAccessibleName(tr("How an answer is chosen"));
    d->metric->setSizePolicy(QSizePolicy::Fixed, QSizePolicy::Fixed);
    d->metric->setToolTip(tr("acc: the choice with the largest log-likelihood\nacc_norm: the largest per character of the choice"));
    choices->addWidget(d->metric);
    choices->addStretch(1);
    column->addLayout(choices);
    auto* asked = new QHBoxLayout;
    asked->setSpacing(pixelsOf(8));
    d->measure = new QPushButton(tr("Measure tasks"), d->left);
    d->measure->setObjectName(QStringLiteral("tasks.measure"));
    asked->addWidget(d->measure);
    d->questions = new QComboBox(d->left);
    d->questions->setObjectName(QStringLiteral("tasks.questions"));
    d->questions->setAccessibleName(tr("Questions of each task"));
    d->questions->setToolTip(tr("Questions of each task that are asked, the first ones"));
    for (const int first : kFirst)
        d->questions->addItem(first == 0 ? tr("all") : tr("first %1").arg(format::count(first)), first);
    asked->addWidget(d->questions);
    asked->addStretch(1);
    column->addLayout(asked);
    laid.across->addWidget(d->left);

    d->scroll = new QScrollArea(d->page);
    d->scroll->setFrameShape(QFrame::NoFrame);
    d->scroll->setWidgetResizable(true);
    d->scroll->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    d->scroll->setFocusPolicy(Qt::NoFocus);
    d->scroll->setProperty("role", QStringLiteral("base"));
    d->bars = new TaskBars;
    d->scroll->setWidget(d->bars);
    laid.across->addWidget(d->scroll, 1);
    connect(d->bars, &TaskBars::currentChanged, this,
            [this](const QRect& row) { d->scroll->ensureVisible(row.center().x(), row.center().y(), 0, row.height()); });
    connect(d->measure, &QPushButton::clicked, this, &TasksPanel::measureRequested);
    connect(d->metric, &Segment::chosen, this, [this] {
        d->refresh();
        emit choicesChanged();
    });
    connect(d->questions, &QComboBox::activated, this, &TasksPanel::choicesChanged);
    d->refresh();
}

TasksPanel::~TasksPanel() = default;

TaskMetric TasksPanel::taskMetric() const { return d->chosen(); }

void TasksPanel::setMetric(TaskMetric metric)
{
    d->metric->setCurrent(metric == TaskMetric::Norm ? 1 : 0);
    d->refresh();
}

int TasksPanel::questions() const { return d->questions->currentData().toInt(); }

void TasksPanel::setQuestions(int first)
{
    const QSignalBlocker blocked(d->questions);
    d->questions->setCurrentIndex(std::max(0, d->questions->findData(first)));
}

const TaskBars* TasksPanel::bars() const { return d->bars; }

QWidget* TasksPanel::firstControl() const
{
    if (d->stack->currentWidget() == d->page) return d->bars;
    return d->empty->findChild<QPushButton*>();
}

QString TasksPanel::text() const
{
    if (d->stack->currentWidget() != d->page) return {};
    QStringList lines;
    for (const QLabel* label : {d->number, d->second, d->basis, d->note})
        if (!label->text().isEmpty()) lines += label->toolTip().isEmpty() ? label->text() : label->toolTip();
    for (int row = 0; row < d->bars->tableRows(); ++row)
        lines += d->bars->rowText(row).replace(QLatin1Char('\n'), QStringLiteral(" | "));
    return lines.join(QLatin1Char('\n'));
}

void TasksPanel::Private::setSmall(QLabel* label, const QString& text) const
{
    label->setFont(fontFor(FontRole::Small));
    label->setText(label->fontMetrics().elidedText(text, Qt::ElideRight, left->minimumWidth() - pixelsOf(24)));
    label->setToolTip(text);
    label->setVisible(!text.isEmpty());
}

void TasksPanel::Private::refreshStrip(const std::vector<TaskRow>& rows)
{
    const Theme& t = theme();
    const bool stale = !state.age.isEmpty();
    const TaskRow* head = headlineRow(rows);
    number->setFont(fontFor(FontRole::Number));
    QPalette palette = number->palette();
    palette.setColor(QPalette::WindowText, stale ? t.stale : t.text);
    number->setPalette(palette);
    number->setText(head && head->plan ? accuracyText(*head->plan) : QStringLiteral("–"));
    clock->setVisible(stale);
    if (stale) clock->setPixmap(iconPixmap(QStringLiteral("history"), t.stale, pixelsOf(16), page->devicePixelRatioF()));
    QString line;
    if (head && head->delta)
        line = tr("Δ %1, paired").arg(accuracyDelta(*head->delta));
    else if (head && head->plan && state.planIsDense)
        line = tr("dense");
    else if (state.plan.empty() && state.running.isEmpty())
        line = tr("this plan is not measured");
    second->setPalette(palette);
    second->setText(line);
    second->setToolTip(head && head->delta ? tr("Difference to the dense model on the same questions, with its standard error")
                                           : QString());
    QStringList of;
    if (head) {
        const auto tasks = std::count_if(rows.begin(), rows.end(), [](const TaskRow& row) { return row.kind == TaskRow::Kind::Task; });
        of += head->kind == TaskRow::Kind::Task ? head->name : tr("mean of %n task(s)", nullptr, static_cast<int>(tasks));
        of += head->questions < head->wanted ? tr("%1 questions").arg(format::countOf(head->questions, head->wanted))
                                             : tr("%n question(s)", nullptr, head->questions);
    }
    if (state.first > 0) of += tr("the first %1 of each").arg(format::count(state.first));
    if (!of.isEmpty()) of += state.folder;
    // The number is never cut; lines below it are, with the whole in their tool tips.
    const int top = number->sizeHint().width() + (stale ? clock->sizeHint().width() + pixelsOf(6) : 0);
    const int asked = measure->sizeHint().width() + questions->sizeHint().width() + pixelsOf(8);
    left->setFixedWidth(std::max({pixelsOf(216), top + pixelsOf(26), asked + pixelsOf(26), metric->sizeHint().width() + pixelsOf(26),
                                  second->sizeHint().width() + pixelsOf(26)}));
    setSmall(basis, of.join(format::kDot));
    QStringList notes;
    if (stale) notes += tr("%1, %2").arg(state.planName, state.age);
    if (!state.running.isEmpty()) notes += tr("measuring %1").arg(state.running);
    setSmall(note, notes.join(format::kDot));
}

void TasksPanel::Private::refresh()
{
    const bool stale = !state.age.isEmpty();
    std::vector<TaskRow> rows = taskRows(state.plan, state.dense, state.planIsDense && !stale, chosen());
    if (rows.empty()) {
        const bool runs = !state.running.isEmpty();
        empty->set(EmptyState::Kind::Empty, QStringLiteral("circle-check"), runs ? tr("Reading the tasks") : tr("Tasks not measured yet"),
                   runs ? tr("Bars appear as questions are answered.")
                        : tr("How many multiple-choice questions this plan and the dense model answer rightly, of the folder %1.")
                              .arg(state.folder),
                   runs ? QString() : tr("Measure tasks"));
        stack->setCurrentWidget(empty);
        return;
    }
    stack->setCurrentWidget(page);
    refreshStrip(rows);
    bars->setRows(std::move(rows), chosen(), stale, state.planIsDense && !stale);
}

void TasksPanel::setState(const TasksState& state)
{
    d->state = state;
    d->refresh();
}

void TasksPanel::setMeasureEnabled(bool enabled, const QString& reason)
{
    d->empty->setButtonEnabled(enabled, reason);
    d->measure->setEnabled(enabled);
    d->measure->setToolTip(enabled ? QString() : reason);
}

void TasksPanel::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if (event->type() == QEvent::StyleChange && d != nullptr && d->bars != nullptr) d->refresh();
}

void TasksPanel::resizeEvent(QResizeEvent* event)
{
    QWidget::resizeEvent(event);
    if (d != nullptr && d->bars != nullptr) d->refresh();
}

}  // namespace espalier
