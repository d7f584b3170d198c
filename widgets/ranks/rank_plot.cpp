#include "ranks/rank_plot.h"

#include "look/controls.h"
#include "look/format.h"
#include "look/gesture.h"
#include "look/plot.h"
#include "look/theme.h"
#include "plan/rank_edit.h"

#include <QComboBox>
#include <QKeyEvent>
#include <QMouseEvent>
#include <QPainter>
#include <QPointer>
#include <QStackedLayout>

#include <algorithm>
#include <cmath>

namespace espalier
{

class RankCanvas;

class RankPlot::Private
{
public:
    Private(RankPlot* view, Kind shown) : q(view), kind(shown) {}

    RankPlot* q;
    Kind kind;
    RankPlotState state;
    bool logarithmic = true;  // of the spectrum
    bool asError = false;     // of the energy

    QStackedLayout* stack = nullptr;
    EmptyState* empty = nullptr;
    RankCanvas* canvas = nullptr;
    QCPGraph* lines[3] = {};
    QPointer<QWidget> chooser;
    StepGesture* steps = nullptr;
    bool held = false;
    int lastSent = -1;

    const MatrixSpectrum& matrix(int m) const { return state.curves->matrices[static_cast<std::size_t>(m)]; }
    int fullRank() const { return state.curves ? matrix(0).fullRank : 1; }
    int breakEven() const { return state.curves ? matrix(0).breakEven : 1; }
    bool lowRank() const { return state.kept && state.ranks != RankTriple{}; }
    bool movable() const { return state.curves && state.kept && !state.locked; }
    int level() const;  // of the accent line; break-even + 1 where dense
    double valueAt(int m, double rank) const;
    QString axisTitle() const;

    void refresh();
    void refreshAxes();
    void draw(QCPPainter* painter);
    void drawBehind(QCPPainter* painter);
    void send(int level);
};

class RankCanvas final : public QCustomPlot
{
public:
    RankCanvas(RankPlot::Private* owner, QWidget* parent) : QCustomPlot(parent), d(owner) { setMouseTracking(true); }
    bool keyFocus = false;

protected:
    bool near(const QPointF& at) const
    {
        return d->movable() && axisRect()->rect().adjusted(0, 0, 0, pixelsOf(6)).contains(at.toPoint()) && d->lowRank() &&
               std::abs(at.x() - xAxis->coordToPixel(d->level())) <= pixelsOf(10);
    }
    int rankAt(const QPointF& at) const { return std::max(1, static_cast<int>(std::lround(xAxis->pixelToCoord(at.x())))); }
    void mousePressEvent(QMouseEvent* event) override
    {
        setFocus(Qt::MouseFocusReason);
        if (event->button() != Qt::LeftButton || !near(event->position())) return;
        d->steps->finish();
        d->held = true;
        m_pressX = event->position().x();
        m_moving = false;
        d->lastSent = d->level();
        emit d->q->gestureStarted();
    }
    void mouseMoveEvent(QMouseEvent* event) override
    {
        m_moving = m_moving || std::abs(event->position().x() - m_pressX) >= kDragPixels;
        if (d->held && m_moving)
            d->send(rankAt(event->position()));
        else if (!d->held)
            setCursor(near(event->position()) ? Qt::SizeHorCursor : Qt::ArrowCursor);
    }
    void mouseReleaseEvent(QMouseEvent* event) override
    {
        if (event->button() != Qt::LeftButton || !d->held) return;
        d->held = false;
        emit d->q->gestureFinished();
    }
    void wheelEvent(QWheelEvent* event) override { event->ignore(); }
    void keyPressEvent(QKeyEvent* event) override
    {
        const auto step = [this, event](int direction) {
            if (!d->movable()) return;
            const int by = rankStep(d->breakEven(), event->modifiers() & Qt::ShiftModifier);
            const int now = d->level();
            d->steps->step();
            d->lastSent = now;
            d->send(direction > 0 ? (now / by + 1) * by : ((now + by - 1) / by - 1) * by);
        };
        if (event->key() == Qt::Key_Escape && d->held) {
            d->held = false;
            emit d->q->gestureCancelled();
        } else if (event->key() == Qt::Key_Right || event->key() == Qt::Key_Up) {
            step(1);
        } else if (event->key() == Qt::Key_Left || event->key() == Qt::Key_Down) {
            step(-1);
        } else {
            event->ignore();
        }
    }
    void focusInEvent(QFocusEvent* event) override
    {
        QCustomPlot::focusInEvent(event);
        keyFocus = event->reason() == Qt::TabFocusReason || event->reason() == Qt::BacktabFocusReason ||
                   event->reason() == Qt::ShortcutFocusReason;
        replot(rpQueuedReplot);
    }
    void focusOutEvent(QFocusEvent* event) override
    {
        QCustomPlot::focusOutEvent(event);
        d->steps->finish();
        replot(rpQueuedReplot);
    }

private:
    RankPlot::Private* d;
    double m_pressX = 0;
    bool m_moving = false;  // the hand went far enough to mean it
};

int RankPlot::Private::level() const
{
    if (!lowRank()) return breakEven() + 1;
    int sum = 0;
    for (const int rank : state.ranks)
        sum += rank > 0 ? rank : breakEven() + 1;
    return (sum + 1) / 3;
}

double RankPlot::Private::valueAt(int m, double rank) const
{
    const MatrixSpectrum& curve = matrix(m);
    return asError ? curve.lostAt(rank) : curve.keptAt(rank);
}

QString RankPlot::Private::axisTitle() const
{
    if (kind == Kind::Energy) return asError ? RankPlot::tr("energy lost") : RankPlot::tr("energy kept");
    return state.curves && state.curves->whitened ? RankPlot::tr("singular value, whitened") : RankPlot::tr("singular value");
}

void RankPlot::Private::send(int wanted)
{
    wanted = std::clamp(wanted, 1, breakEven() + 1);
    if (wanted == lastSent) return;
    lastSent = wanted;
    emit q->rankMoved(state.curves->cell.layer, state.curves->cell.expert, wanted > breakEven() ? 0 : wanted);
}

void RankPlot::Private::refreshAxes()
{
    const QFontMetrics small(fontFor(FontRole::Small));
    const QFontMetrics strong(fontFor(FontRole::SmallStrong));
    int labels = 0;
    for (int m = 0; m < 3; ++m)
        labels = std::max(labels, strong.horizontalAdvance(matrixName(m) + (kind == Kind::Energy ? QStringLiteral("  100 %") : QString())));
    const int left = small.horizontalAdvance(kind == Kind::Energy ? QStringLiteral("100 %") : QStringLiteral("0.003")) + pixelsOf(18);
    canvas->axisRect()->setMargins(QMargins(left, small.height() + pixelsOf(14), labels + pixelsOf(18), 2 * small.height() + pixelsOf(12)));
    canvas->xAxis->setLabel(kind == Kind::Energy ? RankPlot::tr("rank") : RankPlot::tr("index"));
    const int full = fullRank();
    const int even = breakEven();
    canvas->xAxis->setRange(0, full);
    // Round steps below break-even, which is named itself, and the full rank.
    const double pixel = std::max(1, canvas->width() - left - labels - pixelsOf(18)) / static_cast<double>(full);
    const double apart = small.horizontalAdvance(format::count(full)) + pixelsOf(12);
    QVector<double> xs = {static_cast<double>(full)};
    if ((full - even) * pixel >= apart) xs.append(even);
    for (const double x : roundTicks(0, full, std::clamp(static_cast<int>(full * pixel / (2 * apart)), 1, 6)))
        if (std::all_of(xs.begin(), xs.end(), [&](double taken) { return std::abs(taken - x) * pixel >= apart; })) xs.append(x);
    std::sort(xs.begin(), xs.end());
    QStringList xTexts;
    for (const double x : xs)
        xTexts.append(format::count(std::llround(x)));
    canvas->xAxis->setTicker(fixedTicks(xs, xTexts));

    QVector<double> ys;
    QStringList yTexts;
    const bool logScale = kind == Kind::Spectrum && logarithmic;
    canvas->yAxis->setScaleType(logScale ? QCPAxis::stLogarithmic : QCPAxis::stLinear);
    if (kind == Kind::Energy) {
        canvas->yAxis->setRange(0, 1.02);
        for (const double y : {0.0, 0.25, 0.5, 0.75, 1.0}) {
            ys.append(y);
            yTexts.append(format::number(y * 100, 0) + QChar(0x00A0) + QLatin1Char('%'));
        }
    } else if (state.curves) {
        double high = 0;
        double low = 1e300;
        for (int m = 0; m < 3; ++m)
            for (const QPointF& p : matrix(m).singular) {
                high = std::max(high, p.y());
                if (p.y() > 0) low = std::min(low, p.y());
            }
        if (!(high > 0)) high = low = 1;  // an expert that no token reached
        low = std::max(low, high * 1e-4);
        if (logScale) {
            const double bottom = low / 1.6;
            const double top = high * 1.4;
            canvas->yAxis->setRange(bottom, top);
            const bool wide = std::log10(top / bottom) > 3;
            for (double e = std::floor(std::log10(bottom)); e <= std::ceil(std::log10(top)); ++e)
                for (const double factor : {1.0, 3.0}) {
                    const double y = factor * std::pow(10.0, e);
                    if (y < bottom || y > top || (wide && factor > 1)) continue;
                    ys.append(y);
                    yTexts.append(QLocale().toString(y, 'g', 3));
                }
        } else {
            canvas->yAxis->setRange(0, high * 1.06);
            ys = roundTicks(0, high, 4);
            for (const double y : ys)
                yTexts.append(QLocale().toString(y, 'g', 3));
        }
    }
    canvas->yAxis->setTicker(fixedTicks(ys, yTexts));
}

void RankPlot::Private::refresh()
{
    stack->setCurrentIndex(state.curves ? 1 : 0);
    empty->set(state.isError ? EmptyState::Kind::Error : EmptyState::Kind::Empty,
               state.isError ? QStringLiteral("triangle-alert") : QStringLiteral("chart-line"), state.what, state.why, state.button);
    if (chooser) chooser->setEnabled(state.curves.has_value());
    if (!state.curves) return;
    const Theme& t = theme();
    QStringList said;
    for (int m = 0; m < 3; ++m) {
        QVector<double> x;
        QVector<double> y;
        const MatrixSpectrum& curve = matrix(m);
        for (const QPointF& p : kind == Kind::Energy ? curve.error : curve.singular) {
            if (kind == Kind::Spectrum && logarithmic && !(p.y() > 0)) continue;
            x.append(p.x());
            y.append(kind == Kind::Spectrum || asError ? p.y() : 1 - p.y());
        }
        lines[m]->setData(x, y, true);
        lines[m]->setPen(QPen(t.series[static_cast<std::size_t>(m)], 1.75, Qt::SolidLine, Qt::RoundCap, Qt::RoundJoin));
        if (kind == Kind::Energy && lowRank())
            said += RankPlot::tr("%1 keeps %2").arg(matrixName(m), format::share(curve.keptAt(state.ranks[static_cast<std::size_t>(m)])));
    }
    refreshAxes();
    QString description = format::layerExpert(state.curves->cell.layer, state.curves->cell.expert) + QStringLiteral(", ") +
                          (lowRank() ? RankPlot::tr("rank %1").arg(level()) : RankPlot::tr("dense"));
    if (!said.isEmpty()) description += QStringLiteral(", ") + said.join(QStringLiteral(", "));
    canvas->setAccessibleDescription(description);
    canvas->replot(QCustomPlot::rpQueuedReplot);
}

void RankPlot::Private::drawBehind(QCPPainter* painter)
{
    if (!state.curves) return;
    const Theme& t = theme();
    const QFontMetrics small(fontFor(FontRole::Small));
    const QRect frame = canvas->axisRect()->rect();
    const double x = canvas->xAxis->coordToPixel(breakEven());
    QColor fill = t.neutral;
    fill.setAlphaF(0.55F);
    painter->setAntialiasing(false);
    painter->fillRect(QRectF(x, frame.top(), frame.right() + 1 - x, frame.height()), fill);
    const QString text = RankPlot::tr("saves nothing");
    if (small.horizontalAdvance(text) + pixelsOf(8) > frame.right() - x) return;
    painter->setFont(fontFor(FontRole::Small));
    painter->setPen(t.muted);
    // Where no line runs: a spectrum ends low, kept energy ends high.
    const bool below = kind == Kind::Energy && !asError;
    painter->drawText(QRectF(x + pixelsOf(4), below ? frame.bottom() - small.height() - pixelsOf(4) : frame.top() + pixelsOf(2),
                             frame.right() - x, small.height()),
                      Qt::AlignLeft | Qt::AlignVCenter, text);
}

void RankPlot::Private::draw(QCPPainter* painter)
{
    if (!state.curves) return;
    const Theme& t = theme();
    const QFont small = fontFor(FontRole::Small);
    const QFont strong = fontFor(FontRole::SmallStrong);
    const QFontMetrics ms(small);
    const QFontMetrics mb(strong);
    const QRect frame = canvas->axisRect()->rect();
    painter->setFont(small);
    painter->setPen(t.muted);
    painter->drawText(QRect(pixelsOf(10), pixelsOf(4), canvas->width(), ms.height()), Qt::AlignLeft | Qt::AlignVCenter, axisTitle());

    if (lowRank()) {
        const double x = std::round(canvas->xAxis->coordToPixel(std::min(level(), breakEven()))) + 0.5;
        painter->setAntialiasing(false);
        painter->setPen(QPen(t.accent, 1.5));
        painter->drawLine(QLineF(x, frame.top(), x, frame.bottom()));
        painter->setAntialiasing(true);
        if (kind == Kind::Energy)
            for (int m = 0; m < 3; ++m) {
                const int rank = state.ranks[static_cast<std::size_t>(m)];
                if (rank == 0 || matrix(m).empty()) continue;
                painter->setPen(QPen(t.series[static_cast<std::size_t>(m)], 1.75));
                painter->setBrush(t.base);
                painter->drawEllipse(QPointF(canvas->xAxis->coordToPixel(rank), canvas->yAxis->coordToPixel(valueAt(m, rank))), 4, 4);
            }
        const bool equal = state.ranks[0] == state.ranks[1] && state.ranks[1] == state.ranks[2];
        const QString chip =
            equal ? RankPlot::tr("rank %1").arg(format::count(level())) : RankPlot::tr("mean rank %1").arg(format::count(level()));
        const double width = mb.horizontalAdvance(chip) + pixelsOf(14);
        const double height = mb.height() + pixelsOf(4);
        const double left =
            std::clamp(x - width / 2, static_cast<double>(frame.left()), std::max<double>(frame.left(), frame.right() - width));
        const QRectF box(left, frame.bottom() - height - pixelsOf(3), width, height);
        painter->setPen(Qt::NoPen);
        painter->setBrush(t.accent);
        painter->drawRoundedRect(box, 4, 4);
        painter->setFont(strong);
        painter->setPen(t.onAccent);
        painter->drawText(box, Qt::AlignCenter, chip);
    }

    // Names at the lines' ends, from the top down, pushed apart.
    struct End {
        int matrix;
        double y;
    };
    std::vector<End> ends;
    for (int m = 0; m < 3; ++m) {
        const MatrixSpectrum& curve = matrix(m);
        if (curve.empty()) continue;
        double at = 0;
        if (kind == Kind::Energy)
            at = valueAt(m,
                         lowRank() && state.ranks[static_cast<std::size_t>(m)] > 0 ? state.ranks[static_cast<std::size_t>(m)] : fullRank());
        else if (!curve.singular.isEmpty())
            at = curve.singular.back().y();
        const double y = canvas->yAxis->coordToPixel(std::max(at, canvas->yAxis->range().lower));
        // Energies end in one point: their names stand in the order of what they keep, from the line's end down.
        ends.push_back({m, kind == Kind::Energy
                               ? (asError ? frame.bottom() - (frame.bottom() - y) * 1e-3 : frame.top() + (y - frame.top()) * 1e-3)
                               : y});
    }
    std::stable_sort(ends.begin(), ends.end(), [](const End& a, const End& b) { return a.y < b.y; });
    const double step = pixelsOf(15);
    const double top = frame.top() + ms.height() / 2.0;
    for (std::size_t i = 0; i < ends.size(); ++i)
        ends[i].y = std::max({ends[i].y, top, i > 0 ? ends[i - 1].y + step : top});
    for (std::size_t i = ends.size(); i-- > 0;)
        ends[i].y = std::min(ends[i].y, i + 1 < ends.size() ? ends[i + 1].y - step : frame.bottom() - ms.height() / 2.0);
    painter->setFont(strong);
    for (const End& end : ends) {
        painter->setPen(t.series[static_cast<std::size_t>(end.matrix)]);
        QString text = matrixName(end.matrix);
        const int rank = state.ranks[static_cast<std::size_t>(end.matrix)];
        if (kind == Kind::Energy && lowRank())
            text += QStringLiteral("  ") +
                    format::number(100 * (rank > 0  ? valueAt(end.matrix, rank)
                                          : asError ? 0
                                                    : 1),
                                   0) +
                    QChar(0x00A0) + QLatin1Char('%');
        painter->drawText(QRectF(frame.right() + pixelsOf(8), end.y - mb.height() / 2.0, canvas->width(), mb.height()),
                          Qt::AlignLeft | Qt::AlignVCenter, text);
    }
    if (canvas->hasFocus() && canvas->keyFocus) {
        painter->setAntialiasing(true);
        painter->setBrush(Qt::NoBrush);
        painter->setPen(QPen(t.focus, 2));
        painter->drawRect(QRectF(canvas->rect()).adjusted(1, 1, -1, -1));
    }
}

RankPlot::RankPlot(Kind kind, QWidget* parent) : QWidget(parent), d(std::make_unique<Private>(this, kind))
{
    d->steps = new StepGesture(this);
    connect(d->steps, &StepGesture::started, this, &RankPlot::gestureStarted);
    connect(d->steps, &StepGesture::finished, this, &RankPlot::gestureFinished);
    d->stack = new QStackedLayout(this);
    d->empty = new EmptyState(this);
    connect(d->empty, &EmptyState::buttonClicked, this, &RankPlot::buttonClicked);
    d->canvas = new RankCanvas(d.get(), this);
    preparePlot(d->canvas);
    d->canvas->setAccessibleName(kind == Kind::Spectrum ? tr("Singular values of the expert's matrices") : tr("Energy kept over rank"));
    d->canvas->plotLayout()->setMargins(QMargins(0, 0, 0, 0));
    d->canvas->axisRect()->setAutoMargins(QCP::msNone);
    for (QCPGraph*& line : d->lines)
        line = d->canvas->addGraph();
    new PlotPainting(d->canvas, QStringLiteral("background"), [this](QCPPainter* p) { d->drawBehind(p); });
    new PlotPainting(d->canvas, QStringLiteral("axes"), [this](QCPPainter* p) { d->draw(p); });
    d->stack->addWidget(d->empty);
    d->stack->addWidget(d->canvas);
    if (kind == Kind::Spectrum) {
        auto* scale = new QComboBox;
        scale->addItems({tr("log"), tr("linear")});
        scale->setAccessibleName(tr("Scale of the singular values"));
        connect(scale, &QComboBox::activated, this, [this](int index) {
            d->logarithmic = index == 0;
            d->refresh();
        });
        d->chooser = scale;
    } else {
        auto* mode = new Segment({tr("Energy"), tr("Error")});
        mode->setAccessibleName(tr("Energy kept or lost"));
        mode->setSizePolicy(QSizePolicy::Fixed, QSizePolicy::Fixed);
        connect(mode, &Segment::chosen, this, [this](int index) {
            d->asError = index == 1;
            d->refresh();
        });
        d->chooser = mode;
    }
    d->refresh();
}

RankPlot::~RankPlot()
{
    delete d->canvas;
    d->canvas = nullptr;
    if (d->chooser && d->chooser->parent() == nullptr) delete d->chooser.data();
}

QCustomPlot* RankPlot::plot() const { return d->canvas; }
QWidget* RankPlot::focusTarget() const { return d->state.curves ? static_cast<QWidget*>(d->canvas) : d->empty; }
QWidget* RankPlot::choosers() const { return d->chooser; }

QPointF RankPlot::rankPosition(int rank) const
{
    return {d->canvas->xAxis->coordToPixel(rank), static_cast<double>(d->canvas->axisRect()->center().y())};
}

void RankPlot::setState(const RankPlotState& state)
{
    d->state = state;
    d->refresh();
}

void RankPlot::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if (event->type() == QEvent::StyleChange && d != nullptr && d->canvas != nullptr) {
        stylePlot(d->canvas, theme());
        d->refresh();
    }
}

void RankPlot::resizeEvent(QResizeEvent* event)
{
    QWidget::resizeEvent(event);
    if (d != nullptr && d->canvas != nullptr && d->state.curves) d->refresh();
}

}  // namespace espalier
