#include "search_panel.h"

#include "controls.h"
#include "format.h"
#include "search_plots.h"
#include "theme.h"

#include <QEvent>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QPointer>
#include <QPushButton>
#include <QStackedLayout>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>
#include <utility>

namespace espalier
{

namespace
{

constexpr int kFacts = 6;
constexpr int kNllDecimals = 4;

struct Facts {
    QString number;
    bool muted = false;  // the number is a word
    QString line;
    std::vector<std::pair<QString, QString>> rows;
};

QString gainText(double gain)
{
    return std::abs(gain) < 0.0005 ? QStringLiteral("0\u00A0%")
                                   : format::signedNumber(100 * gain, std::abs(gain) < 0.0995 ? 1 : 0) + QStringLiteral("\u00A0%");
}

QString layersText(const std::vector<int>& layers)
{
    if (layers.empty()) return {};
    return layers.size() == 1 ? QString::number(layers.front()) : QStringLiteral("%1–%2").arg(layers.front()).arg(layers.back());
}

QString namedLayers(const std::vector<int>& layers)
{
    return (layers.size() == 1 ? SearchPanel::tr("layer %1") : SearchPanel::tr("layers %1")).arg(layersText(layers));
}

QString nll(double value) { return format::number(value, kNllDecimals); }

}  // namespace

class SearchPanel::Private
{
public:
    enum View { Plans, Layers, Blocks };

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
    QPushButton* stop = nullptr;
    QPointer<QWidget> chooserBox;  // the header's once it is added there, and may go before the view
    QPointer<Segment> segment;
    SearchCurvePlot* curve = nullptr;
    SearchBarPlot* bars = nullptr;

    void refresh();
    void refreshViews();
    int shownLayer() const;
    int shownBlock() const;
    Facts layerFacts() const;
    Facts planFacts() const;
    Facts blockFacts() const;
    void showLayers();
    void showPlans();
    void showBlocks();
    QString statusText() const;
    QString lineOf(int layer) const
    {
        return (compact ? tr("layer %1 against %2") : tr("layer %1 against the choice by %2")).arg(layer).arg(state.scoreName);
    }
    QString byScore() const { return SearchPanel::tr("by %1").arg(state.scoreName); }
};

SearchPanel::SearchPanel(QWidget* parent) : QWidget(parent), d(std::make_unique<Private>())
{
    d->stack = new QStackedLayout(this);
    d->empty = new EmptyState(this);
    d->empty->set(EmptyState::Kind::Empty, QStringLiteral("search"), tr("No search yet"),
                  tr("A pipeline shares a target between the layers and searches which experts stay. Its best-so-far curve appears here."),
                  tr("Open the pipeline"));
    connect(d->empty, &EmptyState::buttonClicked, this, &SearchPanel::pipelineRequested);
    d->page = new QWidget(this);
    d->stack->addWidget(d->empty);
    d->stack->addWidget(d->page);

    auto* across = new QHBoxLayout(d->page);
    across->setContentsMargins(0, 0, 0, 0);
    across->setSpacing(0);
    d->left = new QWidget(d->page);
    d->left->setAutoFillBackground(true);
    auto* column = new QVBoxLayout(d->left);
    column->setContentsMargins(pixelsOf(12), pixelsOf(8), pixelsOf(12), pixelsOf(8));
    column->setSpacing(pixelsOf(2));
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
    d->stop = new QPushButton(d->left);
    d->stop->setObjectName(QStringLiteral("search.stop"));
    column->addWidget(d->stop, 0, Qt::AlignLeft);
    connect(d->stop, &QPushButton::clicked, this, [this] {
        if (d->state.running())
            emit stopRequested();
        else
            emit keepRequested();
    });
    across->addWidget(d->left);
    d->curve = new SearchCurvePlot(d->page);
    d->bars = new SearchBarPlot(d->page);
    across->addWidget(d->curve, 4);
    across->addWidget(d->bars, 3);
    connect(d->bars, &SearchBarPlot::chosen, this, [this](int id) {
        d->pinned = id;
        if (d->view == Private::Layers) d->selectedLayer = id;
        d->refresh();
        if (d->view != Private::Blocks) emit layerChosen(id);
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
    const bool verified = state.recipe.allocate.method == "verified";
    if (verified) views.push_back(Plans);
    if (!verified || !state.layers.empty()) views.push_back(Layers);
    if (!state.blocks.empty() || state.stage == "receptive-field") views.push_back(Blocks);
    // What runs is in front until another part is chosen by hand.
    if (!viewChosen || std::find(views.begin(), views.end(), view) == views.end()) {
        if (state.stage == "receptive-field" || (state.stage == "rank" && !state.blocks.empty()))
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
        texts << (each == Plans ? tr("Plans") : each == Layers ? tr("Layers") : tr("Blocks"));
    }
    if (texts != segment->texts()) segment->setTexts(texts);
    segment->setCurrent(current);
}

Facts SearchPanel::Private::layerFacts() const
{
    Facts facts;
    const int layer = shownLayer();
    const auto it = state.layers.find(layer);
    if (it == state.layers.end()) {
        facts.number = tr("starting");
        facts.muted = true;
        facts.line = state.stage == "allocate" ? tr("sharing the target between the layers") : tr("reading the profile");
        if (!state.running()) {
            facts.number = tr("no layer searched");
            facts.line.clear();
        }
        return facts;
    }
    const LayerSearch& search = it->second;
    if (const auto gain = search.gain()) {
        facts.number = gainText(*gain);
        facts.line = lineOf(layer);
    } else if (search.trace.size() > 1 && search.trace.front() > 0) {
        facts.number = gainText(search.trace.back() / search.trace.front() - 1);
        facts.line = tr("layer %1 since its first generation").arg(layer);
    } else {
        facts.number = tr("layer %1").arg(layer);
        facts.line = tr("%1 of %2 layers searched").arg(state.layersFinished()).arg(state.layersToSearch());
    }
    QString where = QString::number(layer);
    if (search.finished)
        where += format::kDot + tr("searched");
    else if (search.generation >= 0)
        where += format::kDot + (state.generations > 0 ? tr("generation %1").arg(format::countOf(search.generation, state.generations))
                                                       : tr("step %1").arg(format::count(search.generation)));
    facts.rows.emplace_back(tr("layer"), where);
    if (!search.kept.empty())
        facts.rows.emplace_back(
            tr("kept"), format::keptOf(static_cast<int>(search.kept.size()), state.shape.layers[static_cast<std::size_t>(layer)].experts));
    if (search.best) facts.rows.emplace_back(tr("best error"), format::score(*search.best));
    if (search.reference) facts.rows.emplace_back(byScore(), format::score(*search.reference));
    if (search.evaluated > 0) facts.rows.emplace_back(tr("candidates"), format::count(search.evaluated));
    if (state.stochastic)
        facts.rows.emplace_back(tr("seed"),
                                QString::number(state.recipe.seed) + (compact ? QString() : format::kDot + tr("same result every time")));
    return facts;
}

Facts SearchPanel::Private::planFacts() const
{
    Facts facts;
    const auto& plans = state.measured;
    if (plans.empty()) {
        facts.number = state.running() ? tr("starting") : tr("nothing measured");
        facts.muted = true;
        facts.line = state.alone.empty() ? (state.curves > 0 ? tr("error curves of %n layer(s) so far", nullptr, state.curves) : QString())
                                         : tr("%n layer(s) measured alone", nullptr, static_cast<int>(state.alone.size()));
        return facts;
    }
    std::size_t best = 0;
    for (std::size_t i = 0; i < plans.size(); ++i)
        if (plans[i].accepted) best = i;
    const double gain = plans[best].nll - plans.front().nll;
    facts.number = best == 0 ? QStringLiteral("0") : format::signedNumber(gain, kNllDecimals);
    facts.line = tr("NLL per token against \"%1\"").arg(plans.front().name);
    facts.rows.emplace_back(tr("best"), plans[best].name);
    facts.rows.emplace_back(tr("NLL"), nll(plans[best].nll));
    facts.rows.emplace_back(tr("first"), nll(plans.front().nll));
    facts.rows.emplace_back(tr("measured"), tr("%n plan(s)", nullptr, static_cast<int>(plans.size())));
    const MeasuredPlan& last = plans.back();
    if (plans.size() > 1) {
        facts.rows.emplace_back(tr("last"), last.name);
        facts.rows.emplace_back(QString(), tr("Δ %1").arg(format::signedNumber(last.change, kNllDecimals) + QStringLiteral(" ± ") +
                                                          format::number(last.error, kNllDecimals)) +
                                               format::kDot + (last.accepted ? tr("taken") : tr("not taken")));
    }
    return facts;
}

Facts SearchPanel::Private::blockFacts() const
{
    Facts facts;
    const int shown = shownBlock();
    if (shown < 0) {
        facts.number = state.running() ? tr("starting") : tr("no block tried");
        facts.muted = true;
        facts.line = tr("blocks of %n layer(s)", nullptr, state.recipe.blockSize);
        return facts;
    }
    const SearchBlock& block = state.blocks[static_cast<std::size_t>(shown)];
    if (const auto gain = block.gain()) facts.number = gainText(*gain);
    facts.line =
        (compact ? tr("block %1 against own best sets") : tr("block %1 against every layer's own best")).arg(layersText(block.layers));
    facts.rows.emplace_back(tr("block"), namedLayers(block.layers) + format::kDot + format::countOf(shown + 1, state.blocksToTry()));
    QStringList choice;
    for (const int set : block.choice)
        choice << QString::number(set + 1);
    facts.rows.emplace_back(tr("best trial"), tr("sets %1").arg(choice.join(QStringLiteral(", "))));
    facts.rows.emplace_back(tr("error"), format::score(block.best));
    if (!block.trials.empty()) facts.rows.emplace_back(tr("own best"), format::score(block.trials.front()));
    facts.rows.emplace_back(tr("trials"), format::count(static_cast<std::int64_t>(block.trials.size())));
    return facts;
}

void SearchPanel::Private::showLayers()
{
    const int layer = shownLayer();
    SearchCurve line;
    line.title = layer >= 0 ? tr("layer output error, layer %1").arg(layer) : tr("layer output error");
    line.xLabel = state.generations > 0 ? tr("generation") : tr("step");
    line.bestName = tr("best");
    if (const auto it = state.layers.find(layer); it != state.layers.end()) {
        line.best = it->second.trace;
        if (line.best.empty() && it->second.best) line.best = {*it->second.best};
        line.reference = it->second.reference;
        line.referenceName = byScore();
        line.most = it->second.finished ? 0 : state.generations;
        line.growing = !it->second.finished && state.running();
    }
    curve->setCurve(std::move(line));

    SearchBars all;
    all.title = (compact ? tr("error against %1") : tr("error against the choice by %1")).arg(state.scoreName);
    all.xLabel = tr("layer");
    all.current = layer;
    for (const LayerShape& shape : state.shape.layers) {
        if (shape.experts == 0) continue;
        SearchBar bar;
        bar.id = shape.index;
        bar.label = QString::number(shape.index);
        bar.name = tr("Layer %1").arg(shape.index);
        const auto it = state.layers.find(shape.index);
        if (!state.searches(shape.index)) {
            bar.state = SearchBar::State::Locked;
            bar.words = tr("locked, not searched");
        } else if (it == state.layers.end()) {
            bar.words = state.running() ? tr("not searched yet") : tr("not searched");
        } else {
            bar.state = it->second.finished ? SearchBar::State::Done
                        : state.running()   ? SearchBar::State::Running
                                            : SearchBar::State::Waiting;
            bar.value = it->second.gain();
            bar.words = bar.value         ? tr("%1 against the choice by %2").arg(gainText(*bar.value), state.scoreName)
                        : it->second.best ? tr("error %1").arg(format::score(*it->second.best))
                                          : tr("searching");
            if (!it->second.finished && !state.running()) bar.words = tr("not finished");
        }
        all.bars.push_back(std::move(bar));
    }
    bars->setBars(std::move(all));
}

void SearchPanel::Private::showPlans()
{
    SearchCurve line;
    line.title = tr("NLL per token of measured plans");
    line.xLabel = tr("plan");
    line.first = 1;
    line.bestName = tr("best");
    line.decimals = kNllDecimals;
    line.growing = state.running();
    double best = std::nan("");
    for (const MeasuredPlan& plan : state.measured) {
        if (plan.accepted || std::isnan(best)) best = plan.nll;
        line.best.push_back(best);
        QString words = plan.name + format::kDot + nll(plan.nll);
        if (plan.error > 0)
            words += format::kDot + tr("Δ %1").arg(format::signedNumber(plan.change, kNllDecimals) + QStringLiteral(" ± ") +
                                                   format::number(plan.error, kNllDecimals));
        words += format::kDot + (plan.accepted ? tr("taken") : tr("not taken"));
        line.points.push_back({plan.nll, plan.error, plan.accepted, words});
    }
    if (!state.measured.empty()) {
        line.reference = state.measured.front().nll;
        line.referenceName = tr("first");
    }
    curve->setCurve(std::move(line));

    SearchBars all;
    all.title = compact ? tr("NLL, one layer pruned") : tr("rise of NLL, one layer pruned");
    all.xLabel = tr("layer");
    all.percent = false;
    // As a rise over the layer that matters least: the losses themselves differ by little.
    double least = 1e300;
    for (const auto& [layer, loss] : state.alone)
        least = std::min(least, loss);
    for (const LayerShape& shape : state.shape.layers) {
        if (shape.experts == 0) continue;
        SearchBar bar;
        bar.id = shape.index;
        bar.label = QString::number(shape.index);
        bar.name = tr("Layer %1").arg(shape.index);
        if (!state.searches(shape.index)) {
            bar.state = SearchBar::State::Locked;
            bar.words = tr("locked");
        } else if (const auto it = state.alone.find(shape.index); it != state.alone.end()) {
            bar.state = SearchBar::State::Done;
            bar.value = it->second - least;
            bar.words = tr("NLL %1 when only this layer is pruned").arg(nll(it->second));
        } else {
            bar.words = tr("not measured alone");
        }
        all.bars.push_back(std::move(bar));
    }
    all.current = selectedLayer;
    bars->setBars(std::move(all));
}

void SearchPanel::Private::showBlocks()
{
    const int shown = shownBlock();
    SearchCurve line;
    line.title = tr("error behind the block");
    line.xLabel = tr("trial");
    line.first = 1;
    line.bestName = tr("best");
    if (shown >= 0) {
        const SearchBlock& block = state.blocks[static_cast<std::size_t>(shown)];
        line.title = tr("error behind the block, %1").arg(namedLayers(block.layers));
        double best = std::nan("");
        for (const double loss : block.trials) {
            const bool taken = std::isnan(best) || loss < best;
            if (taken) best = loss;
            line.best.push_back(best);
            line.points.push_back({loss, 0, taken, format::score(loss)});
        }
        if (!block.trials.empty()) {
            line.reference = block.trials.front();
            line.referenceName = tr("own best");
        }
    }
    curve->setCurve(std::move(line));

    SearchBars all;
    all.title = compact ? tr("error against own best") : tr("error against every layer's own best");
    all.xLabel = tr("block");
    all.current = shown;
    const int count = std::max(state.blocksToTry(), static_cast<int>(state.blocks.size()));
    for (int i = 0; i < count; ++i) {
        SearchBar bar;
        bar.id = i;
        bar.label = QString::number(i + 1);
        bar.name = tr("Block %1").arg(i + 1);
        if (i < static_cast<int>(state.blocks.size())) {
            const SearchBlock& block = state.blocks[static_cast<std::size_t>(i)];
            bar.state = SearchBar::State::Done;
            bar.value = block.gain();
            bar.words = namedLayers(block.layers) + (bar.value ? format::kDot + gainText(*bar.value) : QString());
        } else {
            bar.state =
                i == static_cast<int>(state.blocks.size()) && state.running() ? SearchBar::State::Running : SearchBar::State::Waiting;
            bar.words = tr("not tried yet");
        }
        all.bars.push_back(std::move(bar));
    }
    bars->setBars(std::move(all));
}

QString SearchPanel::Private::statusText() const
{
    const QString at = format::time(state.ended, QDateTime::currentDateTime());
    switch (state.phase) {
        case SearchState::Phase::None:
        case SearchState::Phase::Running:
            return {};
        case SearchState::Phase::Cancelling:
            return tr("stopping");
        case SearchState::Phase::Finished:
            return tr("finished %1").arg(at) + format::kDot + format::duration(state.seconds);
        case SearchState::Phase::Stopped:
            return tr("stopped %1, best so far kept").arg(at) +
                   (state.planReachesTarget ? QString() : QStringLiteral(", ") + tr("without ranks"));
        case SearchState::Phase::Cancelled:
            return tr("cancelled %1, the plan is unchanged").arg(at);
        case SearchState::Phase::Failed:
            return tr("broke off %1, the plan is unchanged").arg(at);
    }
    return {};
}

void SearchPanel::Private::refresh()
{
    const bool any = state.phase != SearchState::Phase::None;
    stack->setCurrentWidget(any ? page : empty);
    refreshViews();
    if (segment) segment->setVisible(any && views.size() > 1);
    if (!any) return;
    Facts facts;
    switch (view) {
        case Plans:
            facts = planFacts();
            showPlans();
            break;
        case Layers:
            facts = layerFacts();
            showLayers();
            break;
        case Blocks:
            facts = blockFacts();
            showBlocks();
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
    for (const QString& caption : {tr("candidates"), tr("best error"), tr("best trial"), tr("measured"), byScore()})
        captions = std::max(captions, body.horizontalAdvance(caption));
    const int inner = std::clamp(
        std::max(body.horizontalAdvance(lineOf(88)),
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
    status->setText(statusText());
    status->setFont(fontFor(FontRole::Small));
    status->setVisible(!status->text().isEmpty());
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
