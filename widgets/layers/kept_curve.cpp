#include "layers/kept_curve.h"

#include "experts/expert_view.h"
#include "look/format.h"
#include "look/gesture.h"
#include "look/icon.h"
#include "look/plot.h"
#include "look/plot_table.h"
#include "look/theme.h"
#include "plan/cost_model.h"

#include <QKeyEvent>
#include <QMouseEvent>
#include <QPainter>
#include <QPainterPath>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>
#include <utility>

namespace espalier
{

class CurveCanvas;

class KeptCurve::Private
{
public:
    Private(KeptCurve* view, SelectionModel* selectionModel, HoverModel* hoverModel, LayerQuantity shown)
        : q(view), quantity(shown), selection(selectionModel), hover(hoverModel)
    {
    }

    KeptCurve* q;
    LayerQuantity quantity;
    SelectionModel* selection;
    HoverModel* hover;
    ModelShape shape;
    CompressionPlan plan;
    std::optional<CompressionPlan> before;
    bool large = false;

    CurveCanvas* canvas = nullptr;
    StepGesture* steps = nullptr;
    int held = -1;        // layer under the pressed button
    double heldFrom = 0;  // curve value at the press
    double pressY = 0;
    bool moving = false;  // the hand went far enough to mean it
    int lastSent = -1;

    int layerCount() const { return static_cast<int>(shape.layers.size()); }
    bool valid() const { return layerCount() > 0 && plan.layerCount() == layerCount(); }
    bool moe(int layer) const { return layer >= 0 && layer < layerCount() && shape.layers[static_cast<std::size_t>(layer)].experts > 0; }
    // Whether there is a number to move: not in layers whose experts do not run.
    bool moves(int layer) const { return moe(layer) && runsExperts(shape, plan, layer); }
    bool ranks() const { return quantity == LayerQuantity::Rank; }
    int valueIn(const CompressionPlan& of, int layer) const { return quantityOf(quantity, shape, of, layer); }
    int value(int layer) const { return valueIn(plan, layer); }
    QString text(int layer) const { return quantityText(quantity, shape, layer, value(layer)); }
    // Dense layers stand in the middle of the band above break-even.
    double drawn(int layer, double v) const
    {
        return ranks() && v > mostOf(quantity, shape, layer) - 1 ? scaleOf(quantity, shape) * 1.06 : v;
    }
    bool locked(int layer) const { return plan.isLocked(layer); }
    int least(int layer) const { return leastOf(quantity, shape, plan, layer); }

    void updateAxes();
    void draw(QCPPainter* painter);
    void drawKept(QCPPainter* painter);
    void drawDenseBand(QCPPainter* painter);
    void drawSkipped(QCPPainter* painter);
    void drawOverlay(QCPPainter* painter);
    QPointF point(int layer, double value) const;
    int layerNear(const QPointF& p, double reach) const;
    void replot();
    void send(int layer, int wanted);
    QString words(int layer) const;  // "33 of 60, locked"
    void announce();
    int told = -1;  // what a screen reader was told last
    QString toldText;
    void key(QKeyEvent* event);
};

class CurveCanvas final : public QCustomPlot, public AccessibleTable
{
public:
    CurveCanvas(KeptCurve::Private* owner, QWidget* parent) : QCustomPlot(parent), d(owner) { setMouseTracking(true); }
    bool keyFocus = false;  // the ring shows only where focus came by key

    // One column: the layer's number.
    int tableRows() const override { return d->valid() ? d->layerCount() : 0; }
    int tableColumns() const override { return 1; }
    QString tableRowName(int row) const override { return KeptCurve::tr("Layer %1").arg(row); }
    QString tableColumnName(int) const override { return d->ranks() ? KeptCurve::tr("mean rank") : KeptCurve::tr("experts kept"); }
    QString tableCellName(int row, int) const override { return tableRowName(row); }
    QString tableCellValue(int row, int) const override { return d->words(row); }
    QRect tableCellRect(int row, int) const override
    {
        if (!d->moves(row)) return {};
        const QPoint at = d->point(row, d->value(row)).toPoint();
        return QRect(at, QSize(1, 1)).adjusted(-pixelsOf(6), -pixelsOf(6), pixelsOf(6), pixelsOf(6));
    }
    bool tableCellSelected(int row, int) const override { return d->selection->currentLayer() == row; }
    QPoint tableCurrent() const override
    {
        return d->moe(d->selection->currentLayer()) ? QPoint(0, d->selection->currentLayer()) : QPoint(-1, -1);
    }
    void setTableCurrent(int row, int) override
    {
        if (d->moe(row)) d->selection->setCurrentLayer(row);
    }

protected:
    void resizeEvent(QResizeEvent* event) override
    {
        d->updateAxes();
        QCustomPlot::resizeEvent(event);
    }
    void mousePressEvent(QMouseEvent* event) override
    {
        setFocus(Qt::MouseFocusReason);
        if (event->button() != Qt::LeftButton || !d->valid()) return;
        const int near = d->layerNear(event->position(), pixelsOf(12));
        if (near >= 0) {
            d->selection->setCurrentLayer(near);
            if (d->locked(near)) {
                emit d->q->lockedTouched(near);
                return;
            }
            d->steps->finish();
            d->held = near;
            d->heldFrom = d->value(near);
            d->pressY = event->position().y();
            d->moving = false;
            d->lastSent = d->value(near);
            emit d->q->gestureStarted();
            d->replot();
            return;
        }
        const int layer = static_cast<int>(std::lround(xAxis->pixelToCoord(event->position().x())));
        if (d->moe(layer) && axisRect()->rect().contains(event->pos())) d->selection->setCurrentLayer(layer);
    }
    void mouseMoveEvent(QMouseEvent* event) override
    {
        if (d->held < 0) {
            const int near = d->valid() ? d->layerNear(event->position(), pixelsOf(12)) : -1;
            setCursor(near >= 0 && !d->locked(near) ? Qt::SizeVerCursor : Qt::ArrowCursor);
            int layer = -1;
            if (d->valid() && axisRect()->rect().contains(event->pos())) {
                layer = static_cast<int>(std::lround(xAxis->pixelToCoord(event->position().x())));
                if (!d->moe(layer)) layer = -1;
            }
            d->hover->setHovered(layer >= 0 ? CellId{layer, -1} : CellId{});
            return;
        }
        d->moving = d->moving || std::abs(event->position().y() - d->pressY) >= kDragPixels;
        if (!d->moving) return;
        const double fine = event->modifiers() & Qt::ShiftModifier ? 0.2 : 1.0;
        const double perPixel = yAxis->pixelToCoord(0) - yAxis->pixelToCoord(1);
        double value = d->heldFrom + (d->pressY - event->position().y()) * perPixel * fine;
        if (const double coarse = d->ranks() ? stepOf(d->quantity, d->shape, d->held, true) : 4; event->modifiers() & Qt::ControlModifier)
            value = std::round(value / coarse) * coarse;
        d->send(d->held, static_cast<int>(std::lround(value)));
    }
    void mouseReleaseEvent(QMouseEvent* event) override
    {
        if (event->button() != Qt::LeftButton || d->held < 0) return;
        d->held = -1;
        emit d->q->gestureFinished();
        d->replot();
    }
    void mouseDoubleClickEvent(QMouseEvent* event) override
    {
        if (!d->valid()) return;
        const int near = d->layerNear(event->position(), pixelsOf(12));
        if (near >= 0 && !d->locked(near)) emit d->q->resetRequested(near);
    }
    void wheelEvent(QWheelEvent* event) override { event->ignore(); }
    void leaveEvent(QEvent*) override { d->hover->clear(); }
    void keyPressEvent(QKeyEvent* event) override { d->key(event); }
    void focusInEvent(QFocusEvent* event) override
    {
        QCustomPlot::focusInEvent(event);
        keyFocus = event->reason() == Qt::TabFocusReason || event->reason() == Qt::BacktabFocusReason ||
                   event->reason() == Qt::ShortcutFocusReason;
        d->told = -1;  // the keyboard came: where it is, is news
        d->announce();
        d->replot();
    }
    void focusOutEvent(QFocusEvent* event) override
    {
        QCustomPlot::focusOutEvent(event);
        d->steps->finish();
        d->replot();
    }

private:
    KeptCurve::Private* d;
};

QPointF KeptCurve::Private::point(int layer, double value) const
{
    return {canvas->xAxis->coordToPixel(layer), canvas->yAxis->coordToPixel(drawn(layer, value))};
}

int KeptCurve::Private::layerNear(const QPointF& p, double reach) const
{
    int best = -1;
    double bestDistance = reach;
    for (int layer = 0; layer < layerCount(); ++layer) {
        if (!moves(layer)) continue;
        const QPointF delta = point(layer, value(layer)) - p;
        const double distance = std::hypot(delta.x(), delta.y());
        if (distance <= bestDistance) {
            best = layer;
            bestDistance = distance;
        }
    }
    return best;
}

void KeptCurve::Private::send(int layer, int wanted)
{
    // Below what is possible is asked for too: the plan says why not.
    wanted = std::clamp(wanted, 0, mostOf(quantity, shape, layer));
    if (wanted == lastSent) return;
    lastSent = wanted;
    emit q->layerMoved(layer, wanted);
}

void KeptCurve::Private::replot() { canvas->replot(QCustomPlot::rpQueuedReplot); }

void KeptCurve::Private::updateAxes()
{
    const QFontMetrics small(fontFor(FontRole::Small));
    const int most = std::max(1, scaleOf(quantity, shape));
    const int layers = std::max(1, layerCount());
    const int left = small.horizontalAdvance(format::count(std::max(most, 100))) + pixelsOf(18);
    canvas->axisRect()->setMargins(QMargins(left, small.height() + pixelsOf(16), pixelsOf(14), 2 * small.height() + pixelsOf(12)));
    canvas->xAxis->setRange(-0.6, layers - 0.4);
    canvas->yAxis->setRange(0, most * (ranks() ? 1.12 : 1.06));
    QVector<double> ys;
    QStringList yTexts;
    int step = std::max(1, most / 4);
    if (most % 4 != 0 || ranks()) {
        const QVector<double> rounds = roundTicks(0, most, 5);
        step = rounds.size() > 1 ? static_cast<int>(rounds[1]) : most;
    }
    for (int value = 0; value <= most; value += std::max(1, step)) {
        if (ranks() && value < most && value > most - step / 2) continue;  // break-even itself is named
        ys.append(value);
        yTexts.append(format::count(value));
    }
    if (ranks() && ys.back() != most) {
        ys.append(most);
        yTexts.append(format::count(most));
    }
    canvas->yAxis->setTicker(fixedTicks(ys, yTexts));
    const double perLayer = (canvas->width() - left - pixelsOf(14)) / static_cast<double>(layers);
    int every = 1;
    for (const int candidate : {1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 32}) {
        every = candidate;
        if (candidate * perLayer >= pixelsOf(26)) break;
    }
    QVector<double> xs;
    QStringList xTexts;
    for (int layer = 0; layer < layers; layer += every) {
        xs.append(layer);
        xTexts.append(QString::number(layer));
    }
    canvas->xAxis->setTicker(fixedTicks(xs, xTexts));
    canvas->xAxis->setLabel(KeptCurve::tr("layer"));
}

void KeptCurve::Private::draw(QCPPainter* painter)
{
    const Theme& t = theme();
    const QFont small = fontFor(FontRole::Small);
    const QFontMetrics metrics(small);
    const QRect frame = canvas->axisRect()->rect();
    painter->setFont(small);
    painter->setPen(t.muted);
    painter->drawText(QRect(pixelsOf(10), pixelsOf(6), canvas->width(), metrics.height()), Qt::AlignLeft | Qt::AlignVCenter,
                      ranks() ? KeptCurve::tr("mean rank of kept experts") : KeptCurve::tr("experts kept"));
    if (!valid()) return;
    ranks() ? drawDenseBand(painter) : drawKept(painter);

    painter->setAntialiasing(true);
    const auto curve = [&](const CompressionPlan& of) {
        QPainterPath path;
        bool open = false;
        for (int layer = 0; layer < layerCount(); ++layer) {
            if (!moe(layer) || !runsExperts(shape, of, layer)) {
                open = false;
                continue;
            }
            const QPointF p = point(layer, valueIn(of, layer));
            open ? path.lineTo(p) : path.moveTo(p);
            open = true;
        }
        return path;
    };
    painter->setBrush(Qt::NoBrush);
    if (before && before->layerCount() == layerCount()) {
        painter->setPen(QPen(t.ghost, 1.5, Qt::DashLine, Qt::FlatCap, Qt::RoundJoin));
        painter->drawPath(curve(*before));
    }
    painter->setPen(QPen(t.accent, 2, Qt::SolidLine, Qt::RoundCap, Qt::RoundJoin));
    painter->drawPath(curve(plan));

    // Every layer can be dragged; rings stand where there is room for them.
    const double perLayer = frame.width() / static_cast<double>(layerCount());
    int ringEvery = 1;
    for (const int candidate : {1, 2, 3, 4, 6, 8, 12, 16}) {
        ringEvery = candidate;
        if (candidate * perLayer >= pixelsOf(20)) break;
    }
    drawSkipped(painter);
    for (int layer = 0; layer < layerCount(); ++layer) {
        if (!moves(layer)) continue;
        const QPointF p = point(layer, value(layer));
        if (locked(layer)) {
            painter->setPen(Qt::NoPen);
            painter->setBrush(t.baseline);
            painter->drawRect(QRectF(p.x() - 3.5, p.y() - 3.5, 7, 7));
            // Above the mark, or below where the name of the axis stands above.
            const double side = pixelsOf(13);
            const double above = p.y() - side - 6;
            paintIcon(painter, QStringLiteral("lock"), t.muted,
                      QRectF(p.x() - side / 2, above >= frame.top() ? above : p.y() + 6, side, side));
            continue;
        }
        if (layer % ringEvery == 0) {
            painter->setPen(QPen(t.accent, 1.75));
            painter->setBrush(t.base);
            painter->drawEllipse(p, 4.5, 4.5);
        } else {
            painter->setPen(Qt::NoPen);
            painter->setBrush(t.accent);
            painter->drawEllipse(p, 2, 2);
        }
    }
}

// Where nothing runs the curve has a gap: a struck-out column says that it is one.
void KeptCurve::Private::drawSkipped(QCPPainter* painter)
{
    const Theme& t = theme();
    const QRect frame = canvas->axisRect()->rect();
    const double perLayer = frame.width() / static_cast<double>(layerCount());
    const double width = std::max(4.0, std::floor(perLayer * 0.72));
    for (int layer = 0; layer < layerCount(); ++layer) {
        if (plan.layer(layer).run() != LayerRun::Skipped && (!moe(layer) || moves(layer))) continue;
        const double x = std::round(canvas->xAxis->coordToPixel(layer) - width / 2);
        const QRectF column(x, frame.top(), width, frame.height());
        painter->save();
        painter->setClipRect(column);
        painter->setAntialiasing(true);
        QColor hatch = t.muted;
        hatch.setAlphaF(t.moreContrast ? 1.0F : 0.45F);
        painter->setPen(QPen(hatch, 1));
        for (double y = column.top() - column.width(); y < column.bottom(); y += 6)
            painter->drawLine(QLineF(column.left(), y, column.right(), y + column.width()));
        painter->restore();
    }
}

void KeptCurve::Private::drawDenseBand(QCPPainter* painter)
{
    const Theme& t = theme();
    const QFontMetrics metrics(fontFor(FontRole::Small));
    const QRect frame = canvas->axisRect()->rect();
    const int most = scaleOf(quantity, shape);
    const QRectF band(frame.left(), frame.top(), frame.width(), canvas->yAxis->coordToPixel(most) - frame.top());
    QColor fill = t.neutral;
    fill.setAlphaF(0.55F);
    painter->setAntialiasing(false);
    painter->fillRect(band, fill);
    painter->setPen(t.muted);
    painter->drawText(QRectF(frame.left() + pixelsOf(4), frame.top() - metrics.height(), frame.width() - pixelsOf(8), metrics.height()),
                      Qt::AlignRight | Qt::AlignVCenter, KeptCurve::tr("above %1: dense").arg(format::count(most)));
}

void KeptCurve::Private::drawKept(QCPPainter* painter)
{
    const Theme& t = theme();
    const QFont small = fontFor(FontRole::Small);
    const QFontMetrics metrics(small);
    const QRect frame = canvas->axisRect()->rect();
    const double perLayer = frame.width() / static_cast<double>(layerCount());
    const double barWidth = std::max(2.0, std::floor(perLayer * 0.72));
    const double zero = canvas->yAxis->coordToPixel(0);
    painter->setAntialiasing(false);
    for (int layer = 0; layer < layerCount(); ++layer) {
        const double x = canvas->xAxis->coordToPixel(layer);
        if (!moves(layer)) continue;
        const QPointF p = point(layer, value(layer));
        QColor bar = locked(layer) ? t.baseline : t.accent;
        bar.setAlphaF(0.20F);
        painter->fillRect(QRectF(std::round(x - barWidth / 2), p.y(), barWidth, zero - p.y()), bar);
    }
    // Below top-k the router has no choice.
    int fewest = 0;
    for (int layer = 0; layer < layerCount(); ++layer) {
        if (moves(layer)) fewest = std::max(fewest, least(layer));
    }
    const QRectF floor(frame.left(), canvas->yAxis->coordToPixel(fewest), frame.width(), zero - canvas->yAxis->coordToPixel(fewest));
    painter->fillRect(floor, t.base);
    painter->save();
    painter->setClipRect(floor);
    painter->setAntialiasing(true);
    QColor hatch = t.ghost;
    hatch.setAlphaF(t.moreContrast ? 1.0F : 0.55F);
    painter->setPen(QPen(hatch, 1));
    for (double x = floor.left() - floor.height(); x < floor.right(); x += 6)
        painter->drawLine(QLineF(x, floor.bottom(), x + floor.height(), floor.top()));
    painter->restore();
    if (large) {
        painter->setPen(t.muted);
        painter->setFont(small);
        painter->drawText(QRectF(frame.left(), floor.top() - metrics.height() - 1, frame.width() - 4, metrics.height()), Qt::AlignRight,
                          KeptCurve::tr("below %1 the router has no choice").arg(fewest));
    }

    // Mean over the layers with experts.
    int total = 0;
    int count = 0;
    for (int layer = 0; layer < layerCount(); ++layer) {
        if (!moves(layer)) continue;
        total += value(layer);
        ++count;
    }
    if (count > 0) {
        const double mean = static_cast<double>(total) / count;
        const double y = canvas->yAxis->coordToPixel(mean);
        painter->setAntialiasing(false);
        painter->setPen(QPen(t.muted, 1, Qt::DotLine));
        painter->drawLine(QLineF(frame.left(), y, frame.right(), y));
        if (large) {
            painter->setPen(t.muted);
            painter->drawText(QRectF(frame.center().x() - 60, y - metrics.height() - 2, 80, metrics.height()), Qt::AlignRight,
                              KeptCurve::tr("mean %1").arg(format::number(mean, mean == std::floor(mean) ? 0 : 1)));
        }
    }
}

void KeptCurve::Private::drawOverlay(QCPPainter* painter)
{
    if (!valid()) return;
    const Theme& t = theme();
    const int current = selection->currentLayer();
    const int hovered = hover->hovered().layer;
    painter->setAntialiasing(true);
    if (moves(hovered) && hovered != current && !locked(hovered)) {
        painter->setPen(QPen(t.accent, 1.75));
        painter->setBrush(t.base);
        painter->drawEllipse(point(hovered, value(hovered)), 5, 5);
    }
    if (moves(current)) {
        const QPointF p = point(current, value(current));
        if (!locked(current)) {
            QColor halo = t.accent;
            halo.setAlphaF(0.30F);
            painter->setPen(Qt::NoPen);
            if (current == held || before) {
                painter->setBrush(halo);
                painter->drawEllipse(p, 10.5, 10.5);
            }
            painter->setBrush(t.accent);
            painter->drawEllipse(p, 5.5, 5.5);
        }
    }
    const int told = held >= 0 ? held : moe(hovered) ? hovered : current;
    const bool differs = moves(told) && before && before->layerCount() == layerCount() && runsExperts(shape, *before, told) &&
                         valueIn(*before, told) != value(told);
    if (moe(told) && (held >= 0 || moe(hovered) || differs)) {
        const QString first = KeptCurve::tr("Layer %1: %2").arg(told).arg(moves(told) ? text(told) : runText(plan.layer(told)));
        QString second;
        if (differs) {
            const LayerShape& layer = shape.layers[static_cast<std::size_t>(told)];
            const std::int64_t change =
                layerBytes(layer, shape.hiddenSize, plan.layer(told)) - layerBytes(layer, shape.hiddenSize, before->layer(told));
            second = KeptCurve::tr("was %1").arg(quantityNumber(quantity, shape, told, valueIn(*before, told))) + format::kDot +
                     format::bytesChange(change);
        } else if (locked(told)) {
            second = KeptCurve::tr("locked");
        } else if (moves(told) && !ranks() && value(told) <= least(told)) {
            second = KeptCurve::tr("at least %1: the router picks %1").arg(least(told));
        }
        const QFont strong = fontFor(FontRole::SmallStrong);
        const QFont small = fontFor(FontRole::Small);
        const QFontMetrics ms(strong);
        const QFontMetrics mn(small);
        const double width = std::max(ms.horizontalAdvance(first), mn.horizontalAdvance(second)) + pixelsOf(16);
        const double height = ms.height() + (second.isEmpty() ? 0 : mn.height() + 2) + pixelsOf(10);
        const QPointF p = point(told, value(told));
        double x = p.x() + pixelsOf(14);
        if (x + width > canvas->width() - 4) x = p.x() - width - pixelsOf(14);
        x = std::clamp(x, 2.0, std::max(2.0, canvas->width() - width - 2));
        double y = p.y() + pixelsOf(12);
        if (y + height > canvas->axisRect()->bottom()) y = p.y() - height - pixelsOf(12);
        y = std::max(2.0, y);
        const QRectF box(x, y, width, height);
        painter->setPen(QPen(t.border, 1));
        painter->setBrush(t.raised);
        painter->drawRoundedRect(box.adjusted(0.5, 0.5, -0.5, -0.5), 4, 4);
        painter->setFont(strong);
        painter->setPen(t.text);
        painter->drawText(QRectF(x + pixelsOf(8), y + pixelsOf(5), width, ms.height()), Qt::AlignLeft | Qt::AlignVCenter, first);
        if (!second.isEmpty()) {
            painter->setFont(small);
            painter->setPen(t.muted);
            painter->drawText(QRectF(x + pixelsOf(8), y + pixelsOf(5) + ms.height() + 2, width, mn.height()),
                              Qt::AlignLeft | Qt::AlignVCenter, second);
        }
    }
    if (canvas->hasFocus() && canvas->keyFocus) {
        painter->setBrush(Qt::NoBrush);
        painter->setPen(QPen(t.focus, 2));
        painter->drawRect(QRectF(canvas->rect()).adjusted(1, 1, -1, -1));
    }
}

void KeptCurve::Private::announce()
{
    const int layer = selection->currentLayer();
    const QString text = valid() && moe(layer) ? KeptCurve::tr("Layer %1: %2").arg(layer).arg(words(layer)) : QString();
    canvas->setAccessibleDescription(text);
    const bool moved = std::exchange(told, layer) != layer;
    if (std::exchange(toldText, text) != text || moved) announceTableCell(canvas, *canvas, moved);
}

QString KeptCurve::Private::words(int layer) const
{
    if (!valid() || layer < 0 || layer >= layerCount()) return {};
    if (!moe(layer)) return KeptCurve::tr("dense layer, no experts");
    if (!moves(layer)) return runText(plan.layer(layer));
    QString words = text(layer);
    if (const int constants = ranks() ? 0 : static_cast<int>(plan.layer(layer).constants().size()); constants > 0)
        words += QStringLiteral(", ") + KeptCurve::tr("%1 constant").arg(constants);
    if (locked(layer)) words += QStringLiteral(", ") + KeptCurve::tr("locked");
    return words;
}

void KeptCurve::Private::key(QKeyEvent* event)
{
    if (!valid()) {
        event->ignore();
        return;
    }
    int layer = selection->currentLayer();
    const auto walk = [&](int step) {
        int next = layer < 0 ? (step > 0 ? 0 : layerCount() - 1) : layer + step;
        while (next >= 0 && next < layerCount() && !moe(next))
            next += step > 0 ? 1 : -1;
        if (moe(next)) selection->setCurrentLayer(next);
    };
    const auto change = [&](int direction, bool far) {
        if (!moe(layer)) return;
        if (locked(layer) || !moves(layer)) {
            emit q->lockedTouched(layer);
            return;
        }
        steps->step();
        lastSent = value(layer);
        send(layer, steppedOf(quantity, shape, layer, lastSent, direction, far));
    };
    const bool coarse = event->modifiers() & Qt::ShiftModifier;
    // Where the map changes the rank with Ctrl+Right and Ctrl+Left, they do it here too.
    const bool sideways = ranks() && event->modifiers() & Qt::ControlModifier;
    switch (event->key()) {
        case Qt::Key_Left:
            sideways ? change(-1, coarse) : walk(-1);
            return;
        case Qt::Key_Right:
            sideways ? change(1, coarse) : walk(1);
            return;
        case Qt::Key_Home:
            layer = -1;
            walk(1);
            return;
        case Qt::Key_End:
            layer = layerCount();
            walk(-1);
            return;
        case Qt::Key_Up:
        case Qt::Key_BracketRight:
            change(1, coarse);
            return;
        case Qt::Key_Down:
        case Qt::Key_BracketLeft:
            change(-1, coarse);
            return;
        case Qt::Key_PageUp:
            change(1, true);
            return;
        case Qt::Key_PageDown:
            change(-1, true);
            return;
        case Qt::Key_L:
            if (event->modifiers() & Qt::ControlModifier) break;
            if (moe(layer) && !event->isAutoRepeat()) emit q->lockRequested(layer);
            return;
        case Qt::Key_S:
            if (event->modifiers() & Qt::ControlModifier) break;
            if (moe(layer) && !event->isAutoRepeat()) emit q->skipRequested(layer, plan.layer(layer).run() != LayerRun::Skipped);
            return;
        case Qt::Key_Escape:
            if (held < 0) break;
            held = -1;
            emit q->gestureCancelled();
            replot();
            return;
        default:
            break;
    }
    event->ignore();
}

KeptCurve::KeptCurve(SelectionModel* selection, HoverModel* hover, QWidget* parent, LayerQuantity quantity)
    : QWidget(parent), d(std::make_unique<Private>(this, selection, hover, quantity))
{
    d->steps = new StepGesture(this);
    connect(d->steps, &StepGesture::started, this, &KeptCurve::gestureStarted);
    connect(d->steps, &StepGesture::finished, this, &KeptCurve::gestureFinished);
    auto* layout = new QVBoxLayout(this);
    layout->setContentsMargins(0, 0, 0, 0);
    d->canvas = new CurveCanvas(d.get(), this);
    preparePlot(d->canvas);
    installAccessibleTables();
    d->canvas->setAccessibleName(quantity == LayerQuantity::Kept ? tr("Experts kept per layer") : tr("Mean rank per layer"));
    d->canvas->plotLayout()->setMargins(QMargins(0, 0, 0, 0));
    d->canvas->axisRect()->setAutoMargins(QCP::msNone);
    layout->addWidget(d->canvas);
    new PlotPainting(d->canvas, QStringLiteral("main"), [this](QCPPainter* p) { d->draw(p); });
    new PlotPainting(d->canvas, kOverlayLayer, [this](QCPPainter* p) { d->drawOverlay(p); });
    connect(selection, &SelectionModel::currentChanged, this, [this] {
        d->announce();
        d->canvas->layer(kOverlayLayer)->replot();
    });
    connect(hover, &HoverModel::hoveredChanged, this, [this] { d->canvas->layer(kOverlayLayer)->replot(); });
    d->updateAxes();
}

KeptCurve::~KeptCurve()
{
    delete d->canvas;
    d->canvas = nullptr;
}

QCustomPlot* KeptCurve::plot() const { return d->canvas; }
QWidget* KeptCurve::focusTarget() const { return d->canvas; }

QPointF KeptCurve::pointPosition(int layer) const { return d->valid() && d->moves(layer) ? d->point(layer, d->value(layer)) : QPointF(); }

void KeptCurve::setShape(const ModelShape& shape)
{
    d->shape = shape;
    d->plan = {};
    d->before.reset();
    announceTableReset(d->canvas);
    d->updateAxes();
    d->replot();
}

void KeptCurve::setPlan(const CompressionPlan& plan)
{
    d->plan = plan;
    d->announce();
    d->replot();
}

void KeptCurve::setReference(const std::optional<CompressionPlan>& before)
{
    d->before = before;
    d->replot();
}

void KeptCurve::setLarge(bool large)
{
    d->large = large;
    d->replot();
}

void KeptCurve::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if (event->type() == QEvent::StyleChange && d != nullptr && d->canvas != nullptr) {
        stylePlot(d->canvas, theme());
        d->updateAxes();
        d->replot();
    }
}

}  // namespace espalier
