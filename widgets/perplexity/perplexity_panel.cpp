#include "perplexity/perplexity_panel.h"

#include "look/controls.h"
#include "look/format.h"
#include "look/icon.h"
#include "look/number_page.h"
#include "look/plot.h"
#include "look/theme.h"

#include <QEvent>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QPainter>
#include <QPointer>
#include <QStackedLayout>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

namespace espalier
{

namespace
{

constexpr int kLeastPlotWidth = 150;
constexpr int kMostLabelWidth = 150;  // of the plan's name at the end of its line

std::vector<WindowLoss> ordered(std::vector<WindowLoss> windows)
{
    std::sort(windows.begin(), windows.end(), [](const WindowLoss& a, const WindowLoss& b) { return a.window < b.window; });
    return windows;
}

// Perplexity, or paired difference to dense, after the first n windows.
struct Running {
    QVector<double> x;
    QVector<double> y;
    QVector<double> error;
    int settled = 0;  // windows after which the relative error stays under the limit; 0: not yet
    bool empty() const { return x.isEmpty(); }
};

Running runningPerplexity(const std::vector<WindowLoss>& windows, double limit)
{
    Running r;
    const std::vector<WindowLoss> list = ordered(windows);
    for (std::size_t n = 1; n <= list.size(); ++n) {
        const PerplexityEstimate e = perplexity(std::span(list.data(), n));
        r.x.append(static_cast<double>(n));
        r.y.append(e.ppl);
        r.error.append(e.pplError);
        if (n < 2 || !(e.ppl > 0) || e.pplError / e.ppl > limit)
            r.settled = 0;
        else if (r.settled == 0)
            r.settled = static_cast<int>(n);
    }
    return r;
}

Running runningDelta(const std::vector<WindowLoss>& windows, const std::vector<WindowLoss>& dense)
{
    Running r;
    const std::vector<WindowLoss> list = ordered(windows);
    for (std::size_t n = 2; n <= list.size(); ++n) {
        const auto delta = format::pairedDelta(std::span(list.data(), n), dense);
        if (!delta) continue;
        r.x.append(static_cast<double>(n));
        r.y.append(delta->value);
        r.error.append(delta->error);
    }
    return r;
}

}  // namespace

std::vector<WindowLoss> sameWindows(const std::vector<WindowLoss>& all, const std::vector<WindowLoss>& windows)
{
    std::set<int> wanted;
    for (const WindowLoss& loss : windows)
        wanted.insert(loss.window);
    std::vector<WindowLoss> same;
    for (const WindowLoss& loss : all)
        if (wanted.contains(loss.window)) same.push_back(loss);
    return same;
}

QString basisText(const QString& textName, int windows, int total, int windowLength)
{
    const QString count = total > windows ? format::countOf(windows, total) : format::count(windows);
    const QString of = windowLength > 0 ? PerplexityPanel::tr("%1 windows of %2 tokens").arg(count, format::count(windowLength))
                                        : PerplexityPanel::tr("%1 windows").arg(count);
    return textName.isEmpty() ? of : QString(textName + format::kDot + of);
}

static QString shortBasisText(const PerplexityState& state, int windows, int total)
{
    QString text = total > windows ? QStringLiteral("%1/%2").arg(format::count(windows), format::count(total)) : format::count(windows);
    if (state.windowLength > 0) text += QStringLiteral(" × ") + format::count(state.windowLength);
    return state.textName.isEmpty() ? text : QString(state.textName + QLatin1Char(' ') + text);
}

HeadlinePerplexity headline(const PerplexityState& state)
{
    HeadlinePerplexity h;
    const bool fullCurrent = !state.full.windows.empty() && state.full.staleNote.isEmpty();
    const bool quickCurrent = !state.quick.windows.empty() && state.quick.staleNote.isEmpty();
    const auto fill = [&](const TierState& tier) {
        const PerplexityEstimate e = perplexity(tier.windows);
        h.ppl = e.ppl;
        h.error = e.pplError;
        h.running = tier.running && static_cast<int>(tier.windows.size()) < tier.wanted;
        h.windows = e.windows;
        h.windowsOf = std::max({state.full.wanted, tier.wanted, e.windows});
        if (const auto delta = format::pairedDelta(tier.windows, state.dense)) {
            h.delta = delta->value;
            h.deltaError = delta->error;
        }
        h.basis = h.note = basisText(state.textName, h.windows, h.windowsOf, state.windowLength);
        h.shortBasis = shortBasisText(state, h.windows, h.windowsOf);
    };
    // A full run that has just begun says less than a quick one that is done.
    if (fullCurrent && (!quickCurrent || state.full.windows.size() >= state.quick.windows.size())) {
        h.kind = HeadlinePerplexity::Kind::Full;
        fill(state.full);
    } else if (quickCurrent) {
        h.kind = HeadlinePerplexity::Kind::Quick;
        fill(state.quick);
    } else if (state.estimatedDelta && state.estimateBase > 0) {
        h.kind = HeadlinePerplexity::Kind::Estimate;
        h.ppl = state.estimateBase + *state.estimatedDelta;
        h.delta = state.estimatedDelta;
        h.windows = state.estimateWindows;
        h.windowsOf = std::max(state.full.wanted, h.windows);
        h.basis = basisText(state.textName, h.windows, h.windowsOf, state.windowLength);
        h.shortBasis = shortBasisText(state, h.windows, h.windowsOf);
        h.note = state.estimateNote.isEmpty() ? h.basis : QString(h.basis + format::kDot + state.estimateNote);
    } else if (!state.full.windows.empty() || !state.quick.windows.empty()) {
        h.kind = HeadlinePerplexity::Kind::Stale;
        fill(state.full.windows.empty() ? state.quick : state.full);
        h.note = state.age.isEmpty() ? (state.full.windows.empty() ? state.quick : state.full).staleNote : state.age;
    }
    return h;
}

class PerplexityPanel::Private
{
public:
    PerplexityState state;
    bool showDelta = false;
    bool compact = false;

    QStackedLayout* stack = nullptr;
    EmptyState* empty = nullptr;
    QWidget* page = nullptr;
    QWidget* left = nullptr;
    QLabel* clock = nullptr;
    QLabel* number = nullptr;
    QLabel* second = nullptr;
    QLabel* basis = nullptr;  // text, windows, window length of the large number
    struct Row {
        QLabel* name = nullptr;
        QLabel* value = nullptr;
        QLabel* delta = nullptr;
        QLabel* note = nullptr;
    };
    Row rows[4];
    QPointer<Segment> mode;  // the panel's once it is added there, and may go before the view
    QCustomPlot* plot = nullptr;
    QCPGraph* planLine = nullptr;
    QCPGraph* planLow = nullptr;
    QCPGraph* planHigh = nullptr;
    QCPGraph* denseLine = nullptr;
    QCPGraph* denseLow = nullptr;
    QCPGraph* denseHigh = nullptr;

    Running plan;
    Running dense;
    bool planStale = false;
    bool planRunning = false;
    QString planLabel;
    QString planValue;
    QString denseValue;

    void refreshText();
    void refreshHeadline(const HeadlinePerplexity& h);
    void refreshTier(Row& row, const TierState& s, const HeadlinePerplexity& h);
    void refreshEstimate(const HeadlinePerplexity& h);
    void refreshLocked();
    QString numberHelp(const HeadlinePerplexity& h) const;
    const TierState* tierOnScreen() const;
    void refreshPlot();
    void refreshLines();
    QCPRange valueRange(bool deltaMode) const;
    QStringList setTicks(const QCPRange& values, int most, bool deltaMode);
    QString plotTitle() const;
    void draw(QCPPainter* painter);
    void drawBehind(QCPPainter* painter);
};

PerplexityPanel::PerplexityPanel(QWidget* parent) : QWidget(parent), d(std::make_unique<Private>())
{
    const NumberPage laid(this);
    d->stack = laid.stack;
    d->empty = laid.empty;
    d->page = laid.page;
    d->left = laid.left;
    QVBoxLayout* column = laid.column;
    d->empty->set(
        EmptyState::Kind::Empty, QStringLiteral("chart-line"), tr("Not evaluated yet"),
        tr("Evaluate measures this plan on all windows of the live text. A few of them are measured by themselves after an edit."),
        tr("Evaluate"));
    connect(d->empty, &EmptyState::buttonClicked, this, &PerplexityPanel::evaluateRequested);
    auto* top = new QHBoxLayout;
    top->setSpacing(6);
    d->clock = new QLabel(d->left);
    d->number = new QLabel(d->left);
    d->number->setAccessibleName(tr("Perplexity"));
    d->number->setTextInteractionFlags(Qt::TextSelectableByMouse);
    top->addWidget(d->clock);
    top->addWidget(d->number);
    top->addStretch(1);
    column->addLayout(top);
    d->second = new QLabel(d->left);
    column->addWidget(d->second);
    d->basis = new QLabel(d->left);
    d->basis->setProperty("role", QStringLiteral("muted"));
    d->basis->setFont(fontFor(FontRole::Small));
    d->basis->setAccessibleName(tr("what the perplexity is measured on"));
    column->addWidget(d->basis);
    column->addSpacing(pixelsOf(6));
    auto* grid = new QGridLayout;
    grid->setHorizontalSpacing(pixelsOf(14));
    grid->setVerticalSpacing(pixelsOf(2));
    const QString names[4] = {tr("full"), tr("quick"), tr("estimate"), tr("locked")};
    for (int i = 0; i < 4; ++i) {
        Private::Row& row = d->rows[i];
        row.name = new QLabel(names[i], d->left);
        row.name->setProperty("role", QStringLiteral("muted"));
        row.value = new QLabel(d->left);
        row.delta = new QLabel(d->left);
        row.note = new QLabel(d->left);
        row.note->setProperty("role", QStringLiteral("muted"));
        grid->addWidget(row.name, 2 * i, 0);
        grid->addWidget(row.value, 2 * i, 1);
        grid->addWidget(row.delta, 2 * i, 2);
        grid->addWidget(row.note, 2 * i + 1, 1, 1, 2);
    }
    grid->setColumnStretch(2, 1);
    column->addLayout(grid);
    column->addStretch(1);
    laid.across->addWidget(d->left);

    d->plot = new QCustomPlot(d->page);
    d->plot->setAccessibleName(tr("Running perplexity over windows"));
    preparePlot(d->plot);
    d->plot->plotLayout()->setMargins(QMargins(0, 0, 0, 0));
    d->plot->axisRect()->setAutoMargins(QCP::msNone);
    const auto graph = [this] { return d->plot->addGraph(); };
    d->denseLow = graph();
    d->denseHigh = graph();
    d->planLow = graph();
    d->planHigh = graph();
    d->denseLine = graph();
    d->planLine = graph();
    d->denseHigh->setChannelFillGraph(d->denseLow);
    d->planHigh->setChannelFillGraph(d->planLow);
    new PlotPainting(d->plot, QStringLiteral("background"), [this](QCPPainter* p) { d->drawBehind(p); });
    new PlotPainting(d->plot, QStringLiteral("axes"), [this](QCPPainter* p) { d->draw(p); });
    d->plot->setMinimumSize(1, 1);  // its margins are no room that it must have
    laid.across->addWidget(d->plot, 1);

    d->mode = new Segment({tr("PPL"), tr("Δ")});
    d->mode->setAccessibleName(tr("Perplexity or difference to dense"));
    d->mode->setSizePolicy(QSizePolicy::Fixed, QSizePolicy::Fixed);
    connect(d->mode, &Segment::chosen, this, [this](int index) {
        d->showDelta = index == 1;
        d->refreshPlot();
    });
    setState({});
}

PerplexityPanel::~PerplexityPanel()
{
    delete d->plot;
    d->plot = nullptr;
    if (d->mode && d->mode->parent() == nullptr) delete d->mode.data();
}

QCustomPlot* PerplexityPanel::plot() const { return d->plot; }
QWidget* PerplexityPanel::choosers() const { return d->mode; }

static void paintLabel(QLabel* label, const QColor& colour)
{
    QPalette p = label->palette();
    p.setColor(QPalette::WindowText, colour);
    label->setPalette(p);
}

void PerplexityPanel::Private::refreshText()
{
    const HeadlinePerplexity h = headline(state);
    const bool anything = h.kind != HeadlinePerplexity::Kind::None || !state.dense.empty() || state.full.running || state.quick.running;
    stack->setCurrentWidget(anything ? page : empty);
    refreshHeadline(h);
    refreshTier(rows[0], state.full, h);
    refreshTier(rows[1], state.quick, h);
    refreshEstimate(h);
    refreshLocked();
}

void PerplexityPanel::Private::refreshHeadline(const HeadlinePerplexity& h)
{
    const Theme& t = theme();
    using Kind = HeadlinePerplexity::Kind;
    number->setFont(fontFor(FontRole::Number));
    QString big;
    QString line;
    QColor colour = t.text;
    switch (h.kind) {
        case Kind::None:
            big = tr("not evaluated");
            line = state.refusal.isEmpty() ? state.notEstimated : state.refusal;
            colour = t.muted;
            break;
        case Kind::Full:
        case Kind::Quick:
            big = format::perplexity(h.ppl, h.error);
            if (h.delta)
                line = (compact ? tr("Δ %1, paired") : tr("Δ %1 to dense, paired")).arg(format::delta(*h.delta, h.deltaError.value_or(0)));
            if (h.running) line += line.isEmpty() ? tr("measuring") : format::kDot + tr("measuring");
            break;
        case Kind::Estimate:
            big = format::estimate(h.ppl);
            line = tr("est. Δ %1 to dense").arg(format::delta(h.delta.value_or(0)));
            colour = t.estimate;
            break;
        case Kind::Stale:
            big = format::perplexity(h.ppl, h.error);
            line = state.refusal.isEmpty() ? h.note : state.refusal;
            colour = t.stale;
            break;
    }
    // Room for the longest text, so that the plot beside it stays where it is when numbers change.
    const QString longest = format::delta(-88.88, 8.88);
    left->setMinimumWidth(
        second->fontMetrics().horizontalAdvance(compact ? tr("Δ %1, paired").arg(longest)
                                                        : tr("Δ %1 to dense, paired").arg(longest) + format::kDot + tr("measuring")) +
        pixelsOf(24));
    number->setText(big);
    number->setToolTip(numberHelp(h));
    basis->setFont(fontFor(FontRole::Small));
    basis->setVisible(!h.basis.isEmpty());
    basis->setToolTip(h.basis);
    const int room = left->minimumWidth() - pixelsOf(24);
    basis->setText(basis->fontMetrics().horizontalAdvance(h.basis) <= room
                       ? h.basis
                       : basis->fontMetrics().elidedText(h.shortBasis, Qt::ElideMiddle, room));
    paintLabel(number, colour);
    second->setText(line);
    second->setVisible(!line.isEmpty());
    paintLabel(second, h.kind == Kind::Estimate ? t.estimate : h.kind == Kind::Stale ? t.stale : t.text);
    clock->setVisible(h.kind == Kind::Stale);
    clock->setPixmap(iconPixmap(QStringLiteral("history"), t.stale, pixelsOf(18), plot->devicePixelRatioF()));
}

void PerplexityPanel::Private::refreshTier(Row& row, const TierState& s, const HeadlinePerplexity& h)
{
    const Theme& t = theme();
    using Kind = HeadlinePerplexity::Kind;
    const bool shown = !s.windows.empty() || s.running;
    for (QLabel* label : {row.name, row.value, row.delta, row.note})
        label->setVisible(shown);
    if (!shown) return;
    const bool stale = !s.staleNote.isEmpty();
    QString note;
    if (!s.windows.empty()) {
        const PerplexityEstimate e = perplexity(s.windows);
        row.value->setText(format::perplexity(e.ppl, e.pplError));
        const auto delta = format::pairedDelta(s.windows, state.dense);
        row.delta->setText(delta ? format::delta(delta->value, delta->error) : QString());
        const int have = static_cast<int>(s.windows.size());
        note = stale ? s.staleNote : tr("%1 windows").arg(have < s.wanted ? format::countOf(have, s.wanted) : format::count(have));
        if (!stale && s.running && have < s.wanted) note += QStringLiteral(", ") + tr("measuring");
        if (!stale && s.paused) note += QStringLiteral(", ") + tr("paused");
        if (!stale && s.seconds > 0 && !s.running) note += format::kDot + format::duration(s.seconds);
    } else {
        row.value->setText(tr("starting"));
        row.delta->clear();
    }
    // Compact: one line per tier; the tier that the large number is of says how many windows it had.
    const bool headlined = !stale && ((h.kind == Kind::Full && &s == &state.full) || (h.kind == Kind::Quick && &s == &state.quick));
    if (compact && headlined && !note.isEmpty()) row.value->setText(note.remove(QStringLiteral(", ") + tr("measuring")));
    row.delta->setVisible(!compact);
    row.note->setText(note);
    row.note->setFont(fontFor(FontRole::Small));
    row.note->setVisible(!note.isEmpty() && !compact);
    paintLabel(row.value, stale ? t.stale : t.text);
    paintLabel(row.delta, stale ? t.stale : t.text);
    row.value->setFont(fontFor(!stale && h.kind == Kind::Full && &s == &state.full ? FontRole::Head : FontRole::Body));
}

void PerplexityPanel::Private::refreshEstimate(const HeadlinePerplexity& h)
{
    const Theme& t = theme();
    using Kind = HeadlinePerplexity::Kind;
    Row& est = rows[2];
    const bool hasEstimate = state.estimatedDelta.has_value() && state.estimateBase > 0;
    const bool refused = !hasEstimate && !state.notEstimated.isEmpty() && (h.kind == Kind::None || h.kind == Kind::Stale);
    for (QLabel* label : {est.name, est.value, est.delta, est.note})
        label->setVisible(hasEstimate);
    if (refused) {
        est.name->setVisible(true);
        est.value->setVisible(true);
        est.value->setText(tr("not covered"));
        est.value->setToolTip(state.notEstimated);
        est.note->setVisible(!compact);
        est.note->setText(state.notEstimated);
        est.note->setFont(fontFor(FontRole::Small));
        paintLabel(est.value, t.muted);
    }
    if (hasEstimate) {
        est.value->setText(format::estimate(state.estimateBase + *state.estimatedDelta));
        est.value->setToolTip({});
        est.delta->setText(format::delta(*state.estimatedDelta));
        est.note->setText(state.estimateNote);
        est.note->setFont(fontFor(FontRole::Small));
        est.delta->setVisible(!compact);
        est.note->setVisible(!state.estimateNote.isEmpty() && !compact);
        paintLabel(est.value, t.estimate);
        paintLabel(est.delta, t.estimate);
    }
}

QString PerplexityPanel::Private::numberHelp(const HeadlinePerplexity& h) const
{
    using Kind = HeadlinePerplexity::Kind;
    QStringList lines;
    if (!h.basis.isEmpty()) lines += tr("On %1").arg(h.basis);
    if (h.kind == Kind::Stale && !state.staleName.isEmpty()) lines += tr("Measured of another plan: %1").arg(state.staleName);
    if (h.kind == Kind::Estimate && !state.estimateNote.isEmpty()) lines += state.estimateNote;
    if ((h.kind == Kind::Full || h.kind == Kind::Quick) && h.error > state.wideLimit * h.ppl)
        lines += tr("Its standard error is %1 of it, because windows differ: judge the plan by Δ, which is paired.")
                     .arg(format::share(h.error / h.ppl));
    return lines.join(QLatin1Char('\n'));
}

void PerplexityPanel::Private::refreshLocked()
{
    const LockedState& s = state.locked;
    Row& row = rows[3];
    const bool shown = s.running || !s.windows.empty();
    for (QLabel* label : {row.name, row.value, row.delta, row.note})
        label->setVisible(shown);
    if (!shown) return;
    const auto delta = format::pairedDelta(s.windows, s.dense);
    QString what = s.textName;
    if (!s.windows.empty()) {
        const PerplexityEstimate e = perplexity(s.windows);
        row.value->setText(format::perplexity(e.ppl, e.pplError));
        row.value->setToolTip(tr("On %1").arg(basisText(s.textName, e.windows, 0, s.windowLength)));
        what = basisText(s.textName, e.windows, 0, s.windowLength);
    } else {
        row.value->setText(tr("measuring"));
        row.value->setToolTip({});
    }
    row.delta->setText(delta ? format::delta(delta->value, delta->error) : QString());
    row.delta->setVisible(!compact);
    if (s.openings > 0)
        what += format::kDot + tr("opened %n time(s)", nullptr, s.openings) +
                (s.plans > 1 ? QString(QStringLiteral(", ") + tr("%n plan(s)", nullptr, s.plans)) : QString());
    row.note->setFont(fontFor(FontRole::Small));
    row.note->setText(row.note->fontMetrics().elidedText(what, Qt::ElideMiddle, left->minimumWidth() - pixelsOf(40)));
    row.note->setToolTip(what);
    row.note->setVisible(!compact);
}

// The tier that the headline speaks of, else the stale one; null: none is measured.
const TierState* PerplexityPanel::Private::tierOnScreen() const
{
    const bool fullCurrent = !state.full.windows.empty() && state.full.staleNote.isEmpty();
    const bool quickCurrent = !state.quick.windows.empty() && state.quick.staleNote.isEmpty();
    if (fullCurrent && (!quickCurrent || state.full.windows.size() >= state.quick.windows.size())) return &state.full;
    if (quickCurrent) return &state.quick;
    if (!state.full.windows.empty()) return &state.full;
    if (!state.quick.windows.empty()) return &state.quick;
    return nullptr;
}

void PerplexityPanel::Private::refreshPlot()
{
    const TierState* tier = tierOnScreen();
    const bool deltaMode = showDelta && !state.dense.empty();
    plan = {};
    dense = {};
    planStale = tier != nullptr && !tier->staleNote.isEmpty();
    planRunning = tier != nullptr && (tier->running || tier->paused) && static_cast<int>(tier->windows.size()) < tier->wanted;
    planLabel = planStale ? state.age
                          : QFontMetrics(fontFor(FontRole::SmallStrong))
                                .elidedText(state.planName, Qt::ElideRight, std::min(pixelsOf(kMostLabelWidth), plot->width() / 4));
    planValue.clear();
    if (tier != nullptr) {
        plan = deltaMode ? runningDelta(tier->windows, state.dense) : runningPerplexity(tier->windows, state.wideLimit);
        if (!plan.empty())
            planValue = deltaMode ? format::delta(plan.y.back(), plan.error.back()) : format::perplexity(plan.y.back(), plan.error.back());
    }
    // Beside a curve the dense model is shown on the windows of that curve: another set of windows would be another number.
    if (!deltaMode && !(state.planIsDense && !planStale && !plan.empty()))
        dense = runningPerplexity(plan.empty() ? state.dense : sameWindows(state.dense, tier->windows), state.wideLimit);
    denseValue = dense.empty() ? QString() : format::perplexity(dense.y.back());

    refreshLines();
    const bool few = tier == &state.quick || (tier == nullptr && static_cast<int>(state.dense.size()) <= state.quick.wanted);
    const int most =
        std::max({2, few ? state.quick.wanted : state.full.wanted, static_cast<int>(plan.x.size()), static_cast<int>(dense.x.size())});
    const QCPRange values = valueRange(deltaMode);
    plot->yAxis->setRange(values);
    plot->xAxis->setRange(0, most);
    const QStringList yTexts = setTicks(values, most, deltaMode);

    const QFontMetrics small(fontFor(FontRole::Small));
    const QFontMetrics strong(fontFor(FontRole::SmallStrong));
    int widest = 0;
    for (const QString& text : yTexts)
        widest = std::max(widest, small.horizontalAdvance(text));
    const int right = std::max({strong.horizontalAdvance(planLabel), small.horizontalAdvance(planValue),
                                small.horizontalAdvance(tr("dense") + QStringLiteral("  ") + denseValue)}) +
                      pixelsOf(16);
    plot->axisRect()->setMargins(QMargins(widest + pixelsOf(18), small.height() + pixelsOf(10), std::min(right, plot->width() / 2),
                                          2 * small.height() + pixelsOf(12)));
    plot->replot(QCustomPlot::rpQueuedReplot);
    plot->setAccessibleDescription(planLabel + QLatin1Char(' ') + planValue + QStringLiteral(", ") + tr("dense") + QLatin1Char(' ') +
                                   denseValue);
}

static void setBand(QCPGraph* line, QCPGraph* low, QCPGraph* high, const Running& r)
{
    QVector<double> below;
    QVector<double> above;
    for (int i = 0; i < r.x.size(); ++i) {
        below.append(r.y[i] - r.error[i]);
        above.append(r.y[i] + r.error[i]);
    }
    line->setData(r.x, r.y, true);
    low->setData(r.x, below, true);
    high->setData(r.x, above, true);
}

void PerplexityPanel::Private::refreshLines()
{
    const Theme& t = theme();
    setBand(planLine, planLow, planHigh, plan);
    setBand(denseLine, denseLow, denseHigh, dense);
    const QColor planColour = planStale ? t.stale : t.accent;
    planLine->setPen(QPen(planColour, 2, Qt::SolidLine, Qt::RoundCap, Qt::RoundJoin));
    QPen dashed(t.baseline, 1.5, Qt::CustomDashLine, Qt::FlatCap, Qt::RoundJoin);
    dashed.setDashPattern({4, 3});
    denseLine->setPen(dashed);
    for (QCPGraph* edge : {planLow, planHigh, denseLow, denseHigh})
        edge->setPen(Qt::NoPen);
    const auto fill = [](QColor colour, double opacity) {
        colour.setAlphaF(static_cast<float>(opacity));
        return QBrush(colour);
    };
    planHigh->setBrush(fill(planColour, 0.17));
    denseHigh->setBrush(fill(t.baseline, 0.13));
}

// Range from what has calmed down: the first windows jump.
QCPRange PerplexityPanel::Private::valueRange(bool deltaMode) const
{
    double low = 1e300;
    double high = -1e300;
    const auto include = [&](const Running& r) {
        const int skip = std::min<int>(static_cast<int>(r.x.size()) - 1, std::max(2, static_cast<int>(r.x.size()) / 16));
        for (int i = std::max(0, skip); i < r.x.size(); ++i) {
            low = std::min(low, r.y[i] - r.error[i]);
            high = std::max(high, r.y[i] + r.error[i]);
        }
    };
    include(plan);
    include(dense);
    if (deltaMode) {
        low = std::min(low, 0.0);
        high = std::max(high, 0.0);
    }
    if (!(high >= low)) {
        low = 0;
        high = 1;
    }
    const double pad = std::max((high - low) * 0.12, std::max(1e-3, std::abs(high) * 0.005));
    return {low - pad, high + pad};
}

// Returns the texts of the vertical axis, which its margin must hold.
QStringList PerplexityPanel::Private::setTicks(const QCPRange& values, int most, bool deltaMode)
{
    const QVector<double> ys = roundTicks(values.lower, values.upper, 5);
    const double step = ys.size() > 1 ? ys[1] - ys[0] : 1;
    // As many as the step has: 2.5 needs one more than its size says.
    int decimals = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 4);
    if (const double shown = step * std::pow(10.0, decimals); std::abs(shown - std::round(shown)) > 1e-6) ++decimals;
    QStringList yTexts;
    for (const double y : ys)
        yTexts.append(deltaMode ? format::signedNumber(y, decimals) : format::number(y, decimals));
    plot->yAxis->setTicker(fixedTicks(ys, yTexts));
    QVector<double> xs = {0, most / 4.0, most / 2.0, 3 * most / 4.0, static_cast<double>(most)};
    if (most % 4 != 0) xs = roundTicks(0, most, 5);
    QStringList xTexts;
    for (const double x : xs)
        xTexts.append(format::count(static_cast<std::int64_t>(x)));
    plot->xAxis->setTicker(fixedTicks(xs, xTexts));
    plot->xAxis->setLabel(state.windowLength > 0 ? tr("windows of %1 tokens").arg(format::count(state.windowLength)) : tr("windows"));
    return yTexts;
}

void PerplexityPanel::Private::drawBehind(QCPPainter* painter)
{
    if (showDelta || plan.empty()) return;
    const Theme& t = theme();
    const int until = plan.settled > 0 ? plan.settled : static_cast<int>(plan.x.back());
    const QRect frame = plot->axisRect()->rect();
    const double x0 = plot->xAxis->coordToPixel(0);
    const double x1 = std::min<double>(frame.right(), plot->xAxis->coordToPixel(until));
    QColor colour = t.neutral;
    colour.setAlphaF(0.45F);
    painter->setAntialiasing(false);
    painter->fillRect(QRectF(x0, frame.top(), x1 - x0, frame.height()), colour);
}

QString PerplexityPanel::Private::plotTitle() const
{
    const QString what = showDelta ? tr("Δ to dense, same windows (paired)") : tr("perplexity, running mean");
    return state.textName.isEmpty() ? what : QString(what + format::kDot + state.textName);
}

void PerplexityPanel::Private::draw(QCPPainter* painter)
{
    const Theme& t = theme();
    const QFont small = fontFor(FontRole::Small);
    const QFont strong = fontFor(FontRole::SmallStrong);
    const QFontMetrics ms(small);
    const QFontMetrics mb(strong);
    const QRect frame = plot->axisRect()->rect();
    painter->setFont(small);
    painter->setPen(t.muted);
    // Where room is short the middle goes: the name of the text stays.
    const int room = plot->width() - pixelsOf(14);
    painter->drawText(QRect(pixelsOf(10), pixelsOf(4), room, ms.height()), Qt::AlignLeft | Qt::AlignVCenter,
                      ms.elidedText(plotTitle(), Qt::ElideMiddle, room));
    painter->setAntialiasing(false);
    if (showDelta && !state.dense.empty()) {
        QPen dashed(t.baseline, 1.5, Qt::CustomDashLine);
        dashed.setDashPattern({4, 3});
        painter->setPen(dashed);
        const double y = plot->yAxis->coordToPixel(0);
        painter->drawLine(QLineF(frame.left(), y, frame.right(), y));
    }
    if (!showDelta && !plan.empty()) {
        const QString wide = tr("error above %1").arg(format::share(state.wideLimit));
        const double right = plot->xAxis->coordToPixel(plan.settled > 0 ? plan.settled : plan.x.back());
        painter->setPen(t.muted);
        if (right - frame.left() > ms.horizontalAdvance(wide) + pixelsOf(8))
            painter->drawText(QRectF(frame.left() + pixelsOf(4), frame.top(), right - frame.left(), ms.height()),
                              Qt::AlignLeft | Qt::AlignVCenter, wide);
    }
    // Labels at the lines' ends, pushed apart.
    double planY = -1;
    double denseY = -1;
    if (!dense.empty()) denseY = plot->yAxis->coordToPixel(dense.y.back());
    if (showDelta && !state.dense.empty()) denseY = plot->yAxis->coordToPixel(0);
    const QColor planColour = planStale ? t.stale : t.accent;
    if (!plan.empty()) {
        planY = plot->yAxis->coordToPixel(plan.y.back());
        const double x = plot->xAxis->coordToPixel(plan.x.back());
        if (planRunning && x < frame.right() - 8) {
            painter->setAntialiasing(true);
            painter->setPen(Qt::NoPen);
            painter->setBrush(planColour);
            painter->drawEllipse(QPointF(x, planY), 3.5, 3.5);
        }
        const double need = mb.height() + ms.height();
        double top = planY - need / 2;
        if (denseY >= 0) {
            const double wanted = need / 2 + ms.height() / 2.0 + 2;
            if (std::abs(planY - denseY) < wanted) {
                const double push = (wanted - std::abs(planY - denseY)) / 2;
                const bool above = planY <= denseY;
                top += above ? -push : push;
                denseY += above ? push : -push;
            }
        }
        top = std::clamp(top, 0.0, std::max(0.0, frame.bottom() - need));
        painter->setPen(planColour);
        painter->setFont(strong);
        painter->drawText(QRectF(frame.right() + pixelsOf(8), top, plot->width(), mb.height()), Qt::AlignLeft | Qt::AlignVCenter,
                          planLabel);
        painter->setFont(small);
        painter->drawText(QRectF(frame.right() + pixelsOf(8), top + mb.height(), plot->width(), ms.height()),
                          Qt::AlignLeft | Qt::AlignVCenter, planValue);
    }
    if (denseY >= 0) {
        painter->setFont(small);
        painter->setPen(t.baseline);
        painter->drawText(QRectF(frame.right() + pixelsOf(8), denseY - ms.height() / 2.0, plot->width(), ms.height()),
                          Qt::AlignLeft | Qt::AlignVCenter, showDelta ? tr("dense") : tr("dense") + QStringLiteral("  ") + denseValue);
    }
    if (plot->hasFocus()) {
        painter->setAntialiasing(true);
        painter->setBrush(Qt::NoBrush);
        painter->setPen(QPen(t.focus, 2));
        painter->drawRect(QRectF(plot->rect()).adjusted(1, 1, -1, -1));
    }
}

void PerplexityPanel::setState(const PerplexityState& state)
{
    d->state = state;
    d->refreshText();
    d->refreshPlot();
}

QSize PerplexityPanel::minimumSizeHint() const
{
    const QSize all = QWidget::minimumSizeHint();
    return {d->stack->currentWidget() == d->page ? std::min(all.width(), d->left->minimumWidth() + pixelsOf(24)) : all.width(),
            all.height()};
}

int PerplexityPanel::stripWidth() const { return d->left->minimumWidth(); }

bool PerplexityPanel::showsDelta() const { return d->showDelta; }

void PerplexityPanel::setShowsDelta(bool on)
{
    d->showDelta = on;
    if (d->mode) d->mode->setCurrent(on ? 1 : 0);
    d->refreshPlot();
}

void PerplexityPanel::setEvaluateEnabled(bool enabled, const QString& reason) { d->empty->setButtonEnabled(enabled, reason); }

void PerplexityPanel::setCompact(bool compact)
{
    if (std::exchange(d->compact, compact) == compact) return;
    d->refreshText();
    d->refreshPlot();
}

void PerplexityPanel::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if (event->type() == QEvent::StyleChange && d != nullptr && d->planLine != nullptr) {
        stylePlot(d->plot, theme());
        d->refreshText();
        d->refreshPlot();
    }
}

void PerplexityPanel::resizeEvent(QResizeEvent* event)
{
    QWidget::resizeEvent(event);
    if (d == nullptr || d->planLine == nullptr) return;
    // In a narrow strip the numbers are what matters.
    d->plot->setVisible(width() >= d->left->minimumWidth() + pixelsOf(kLeastPlotWidth));
    d->refreshPlot();
}

}  // namespace espalier
