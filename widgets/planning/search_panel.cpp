#include "planning/search_panel.h"

#include "look/controls.h"
#include "look/format.h"
#include "look/number_page.h"
#include "look/theme.h"
#include "planning/search_facts.h"
#include "planning/search_plots.h"

#include <QEvent>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QPointer>
#include <QPushButton>
#include <QStackedLayout>
#include <QVBoxLayout>

#include <algorithm>
#include <utility>

namespace espalier
{

namespace
{

constexpr int kFacts = 6;
}  // namespace

class SearchPanel::Private
{
public:
    enum View { Plans, Layers, Blocks, Recovery };

    SearchState state;
    bool keepable = false;
    bool compact = false;
    int selectedLayer = -1;
    int pinned = -1;  // layer or block chosen by hand while it runs
    View view = Layers;
    bool viewChosen = false;
    std::vector<View> views;

    QStackedLayout* stack = nullptr;
    EmptyState* empty = nullptr;
    QWidget* page = nullptr;
    QWidget* left = nullptr;
    QLabel* number = nullptr;
    QLabel* line = nullptr;
    QLabel* names[kFacts] = {};
    QLabel* values[kFacts] = {};
    QLabel* status = nullptr;
    QLabel* notes = nullptr;  // of the answer, in one line; the tooltip has them whole
    QPushButton* stop = nullptr;
    QPointer<QWidget> chooserBox;  // the header's once it is added there, and may go before the view
    QPointer<Segment> segment;
    SearchCurvePlot* curve = nullptr;
    SearchBarPlot* bars = nullptr;

    void refresh();
    void refreshViews();
    int shownLayer() const;
    int shownBlock() const;
};

SearchPanel::SearchPanel(QWidget* parent) : QWidget(parent), d(std::make_unique<Private>())
{
    const NumberPage laid(this);
    d->stack = laid.stack;
    d->empty = laid.empty;
    d->page = laid.page;
    d->left = laid.left;
    QVBoxLayout* column = laid.column;
    d->empty->set(EmptyState::Kind::Empty, QStringLiteral("search"), tr("No search yet"),
                  tr("A pipeline shares a target between the layers and searches which experts stay. Its best-so-far curve appears here."),
                  tr("Open the pipeline"));
    connect(d->empty, &EmptyState::buttonClicked, this, &SearchPanel::pipelineRequested);
    d->number = new QLabel(d->left);
    d->number->setAccessibleName(tr("Gain of the search"));
    d->line = new QLabel(d->left);
    column->addWidget(d->number);
    column->addWidget(d->line);
    column->addSpacing(pixelsOf(6));
    auto* grid = new QGridLayout;
    grid->setHorizontalSpacing(pixelsOf(14));
    grid->setVerticalSpacing(pixelsOf(2));
    for (int i = 0; i < kFacts; ++i) {
        d->names[i] = new QLabel(d->left);
        d->names[i]->setProperty("role", QStringLiteral("muted"));
        d->values[i] = new QLabel(d->left);
        d->values[i]->setTextFormat(Qt::PlainText);
        grid->addWidget(d->names[i], i, 0);
        grid->addWidget(d->values[i], i, 1);
    }
    grid->setColumnStretch(1, 1);
    column->addLayout(grid);
    column->addStretch(1);
    d->status = new QLabel(d->left);
    d->status->setProperty("role", QStringLiteral("muted"));
    d->status->setWordWrap(true);
    column->addWidget(d->status);
    d->notes = new QLabel(d->left);
    d->notes->setObjectName(QStringLiteral("search.notes"));
    d->notes->setTextFormat(Qt::PlainText);
    column->addWidget(d->notes);
    d->stop = new QPushButton(d->left);
    d->stop->setObjectName(QStringLiteral("search.stop"));
    column->addWidget(d->stop, 0, Qt::AlignLeft);
    connect(d->stop, &QPushButton::clicked, this, [this] {
        if (d->state.running())
            emit stopRequested();
        else
            emit keepRequested();
    });
    laid.across->addWidget(d->left);
    d->curve = new SearchCurvePlot(d->page);
    d->bars = new SearchBarPlot(d->page);
    laid.across->addWidget(d->curve, 4);
    laid.across->addWidget(d->bars, 3);
    connect(d->bars, &SearchBarPlot::chosen, this, [this](int id) {
        d->pinned = id;
        if (d->view == Private::Layers) d->selectedLayer = id;
        d->refresh();
        if (d->view == Private::Plans || d->view == Private::Layers) emit layerChosen(id);
    });

    d->chooserBox = new QWidget;
    auto* chooserRow = new QHBoxLayout(d->chooserBox);
    chooserRow->setContentsMargins(0, 0, 0, 0);
    d->segment = new Segment(QStringList{tr("Layers")}, d->chooserBox);
    chooserRow->addWidget(d->segment);
    d->segment->setAccessibleName(tr("Part of the search"));
    d->segment->setSizePolicy(QSizePolicy::Fixed, QSizePolicy::Fixed);
    connect(d->segment, &Segment::chosen, this, [this](int index) {
        if (index < 0 || index >= static_cast<int>(d->views.size())) return;
        d->view = d->views[static_cast<std::size_t>(index)];
        d->viewChosen = true;
        d->pinned = -1;
        d->refresh();
    });
    d->refresh();
}

SearchPanel::~SearchPanel()
{
    if (d->chooserBox && d->chooserBox->parent() == nullptr) delete d->chooserBox.data();
}

SearchCurvePlot* SearchPanel::curvePlot() const { return d->curve; }
SearchBarPlot* SearchPanel::barPlot() const { return d->bars; }
QWidget* SearchPanel::choosers() const { return d->chooserBox; }
QWidget* SearchPanel::firstControl() const
{
    return d->stack->currentWidget() == d->page ? static_cast<QWidget*>(d->curve) : d->empty->findChild<QPushButton*>();
}

QString SearchPanel::text() const
{
    QStringList lines = {d->number->text(), d->line->toolTip()};
    for (int i = 0; i < kFacts; ++i)
        if (!d->names[i]->isHidden()) lines << d->names[i]->text() + QLatin1Char(' ') + d->values[i]->toolTip();
    lines << d->status->text();
    if (!d->notes->isHidden()) lines << d->notes->toolTip();
    return lines.join(QLatin1Char('\n'));
}

int SearchPanel::Private::shownLayer() const
{
    if (state.running() && pinned < 0) return state.currentLayer;
    const int wanted = state.running() ? pinned : selectedLayer;
    if (state.layers.contains(wanted)) return wanted;
    return state.currentLayer;
}

int SearchPanel::Private::shownBlock() const
{
    const int last = static_cast<int>(state.blocks.size()) - 1;
    return pinned >= 0 && pinned <= last ? pinned : last;
}

void SearchPanel::Private::refreshViews()
{
    views.clear();
    const bool verified = state.measures;
    const bool recovers = state.recoverOnly || !state.recovery.empty() || state.stage == "recover";
    if (verified) views.push_back(Plans);
    if ((!verified || !state.layers.empty()) && !state.recoverOnly) views.push_back(Layers);
    if (!state.blocks.empty() || state.stage == "receptive-field") views.push_back(Blocks);
    if (recovers) views.push_back(Recovery);
    // What runs is in front until another part is chosen by hand.
    if (!viewChosen || std::find(views.begin(), views.end(), view) == views.end()) {
        if (state.recoverOnly || state.stage == "recover")
            view = Recovery;
        else if (state.stage == "receptive-field" || (state.stage == "rank" && !state.blocks.empty()))
            view = Blocks;
        else if (verified && (state.stage == "allocate" || state.stage.empty()))
            view = Plans;
        else if (state.running() || !verified)
            view = state.running() || state.blocks.empty() ? Layers : view;
        if (std::find(views.begin(), views.end(), view) == views.end()) view = views.front();
    }
    if (!segment) return;
    QStringList texts;
    int current = 0;
    for (const View each : views) {
        if (each == view) current = static_cast<int>(texts.size());
        texts << (each == Plans ? tr("Plans") : each == Layers ? tr("Layers") : each == Blocks ? tr("Blocks") : tr("Recovery"));
    }
    if (texts != segment->texts()) segment->setTexts(texts);
    segment->setCurrent(current);
}

void SearchPanel::Private::refresh()
{
    const bool any = state.phase != SearchState::Phase::None;
    stack->setCurrentWidget(any ? page : empty);
    refreshViews();
    if (segment) segment->setVisible(any && views.size() > 1);
    if (!any) return;
    const SearchFactsOf of(state, compact);
    SearchFacts facts;
    switch (view) {
        case Plans:
            facts = of.plans();
            curve->setCurve(of.planCurve());
            bars->setBars(of.planBars(selectedLayer));
            break;
        case Layers:
            facts = of.layer(shownLayer());
            curve->setCurve(of.layerCurve(shownLayer()));
            bars->setBars(of.layerBars(shownLayer()));
            break;
        case Blocks:
            facts = of.block(shownBlock());
            curve->setCurve(of.blockCurve(shownBlock()));
            bars->setBars(of.blockBars(shownBlock()));
            break;
        case Recovery:
            facts = of.recovery();
            curve->setCurve(of.recoveryCurve());
            bars->setBars(of.recoveryBars());
            break;
    }
    const Theme& t = theme();
    number->setFont(fontFor(FontRole::Number));
    number->setText(facts.number);
    QPalette palette = number->palette();
    palette.setColor(QPalette::WindowText, facts.muted ? t.muted : t.text);
    number->setPalette(palette);
    // Room for the longest texts, so that the plots stay where they are when numbers change.
    const QFontMetrics body(line->font());
    const int gap = pixelsOf(14);
    int captions = 0;
    for (const QString& caption : {tr("candidates"), tr("best error"), tr("best trial"), tr("measured"), of.byScore()})
        captions = std::max(captions, body.horizontalAdvance(caption));
    const int inner = std::clamp(
        std::max(body.horizontalAdvance(of.layerLine(88)),
                 captions + gap +
                     body.horizontalAdvance(QStringLiteral("88") + format::kDot +
                                            (compact ? tr("generation %1").arg(format::countOf(88, 88)) : tr("same result every time")))),
        pixelsOf(180), pixelsOf(compact ? 236 : 306));
    left->setFixedWidth(inner + pixelsOf(24) + 2);
    line->setText(body.elidedText(facts.line, Qt::ElideRight, inner));
    line->setToolTip(facts.line);
    line->setVisible(!facts.line.isEmpty());
    const int most = compact ? kFacts - 2 : kFacts;
    int widest = 0;
    for (int i = 0; i < std::min(most, static_cast<int>(facts.rows.size())); ++i)
        widest = std::max(widest, body.horizontalAdvance(facts.rows[static_cast<std::size_t>(i)].first));
    for (int i = 0; i < kFacts; ++i) {
        const bool shown = i < static_cast<int>(facts.rows.size()) && i < most;
        names[i]->setVisible(shown);
        values[i]->setVisible(shown);
        if (!shown) continue;
        const auto& [name, value] = facts.rows[static_cast<std::size_t>(i)];
        names[i]->setText(name);
        values[i]->setText(body.elidedText(value, Qt::ElideRight, inner + 2 - widest - gap));
        values[i]->setToolTip(value);
    }
    status->setText(of.status());
    status->setFont(fontFor(FontRole::Small));
    status->setVisible(!status->text().isEmpty());
    const QString first = state.notes.value(0);
    const QString told = state.notes.size() > 1 ? tr("%n note(s): %1", nullptr, static_cast<int>(state.notes.size())).arg(first) : first;
    notes->setFont(fontFor(FontRole::Small));
    notes->setText(QFontMetrics(notes->font()).elidedText(told, Qt::ElideRight, inner));
    notes->setToolTip(state.notes.join(QLatin1Char('\n')));
    notes->setVisible(!told.isEmpty());
    const bool offers = state.running() || keepable;
    stop->setVisible(offers);
    stop->setText(state.running() ? tr("Stop and keep best") : tr("Keep best so far"));
    stop->setEnabled(keepable && state.phase != SearchState::Phase::Cancelling);
    stop->setToolTip(!keepable         ? tr("There is no complete plan yet.")
                     : state.running() ? tr("The layers searched so far become one history entry")
                                       : tr("What was found before the search ended becomes one history entry"));
}

void SearchPanel::setState(const SearchState& state, bool keepable)
{
    const bool fresh = state.phase == SearchState::Phase::None || (state.running() && !d->state.running());
    if (fresh) {
        d->viewChosen = false;
        d->pinned = -1;
    }
    // The running layer was in front; it stays there.
    if (d->state.running() && !state.running() && d->pinned < 0) d->selectedLayer = state.currentLayer;
    d->state = state;
    d->keepable = keepable;
    d->refresh();
}

void SearchPanel::setLayer(int layer)
{
    d->selectedLayer = layer;
    if (!d->state.running() || d->view == Private::Plans) d->refresh();
}

void SearchPanel::setCompact(bool compact)
{
    if (std::exchange(d->compact, compact) != compact) d->refresh();
}

void SearchPanel::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if (event->type() == QEvent::StyleChange && d != nullptr && d->bars != nullptr) d->refresh();
}

}  // namespace espalier
