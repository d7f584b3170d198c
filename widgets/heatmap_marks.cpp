// States over the colours, never by colour alone, and the legend of those present.
#include "heatmap_private.h"

#include "icon.h"

#include <QPainter>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

constexpr int kHatchStep = 6;

// 45 degree lines x + y = c, every kHatchStep pixels, clipped to the rectangle; anchored to the plot so that neighbours join.
void addHatch(QVector<QLineF>& lines, const QRectF& r)
{
    const double first = std::ceil((r.left() + r.top()) / kHatchStep) * kHatchStep;
    for (double c = first; c < r.right() + r.bottom(); c += kHatchStep) {
        const double x0 = std::max(r.left(), c - r.bottom());
        const double x1 = std::min(r.right(), c - r.top());
        if (x1 - x0 > 0.5) lines.append(QLineF(x0, c - x0, x1, c - x1));
    }
}

QColor withOpacity(QColor colour, double opacity)
{
    colour.setAlphaF(static_cast<float>(opacity));
    return colour;
}

}  // namespace

void HeatmapView::Private::drawMarks(QCPPainter* painter)
{
    if (!hasScores || rowCount() == 0) return;
    const Theme& t = theme();
    const bool large = cellWidth >= kMarkLimit && cellHeight >= kMarkLimit;
    QVector<QLineF> white;
    QVector<QLineF> black;
    QVector<QLineF> faint;
    struct Outline {
        QRect box;
        QColor ink;
    };
    std::vector<Outline> outlines;
    std::vector<Outline> corners;
    for (int row = window.top(); row <= window.bottom(); ++row) {
        const int n = expertsOf(row);
        for (int column = window.left(); column <= std::min(window.right(), n - 1); ++column) {
            const CellId cell{row, experts[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)]};
            const bool dropped = !kept(cell);
            const bool guarded = large && isProtected(cell);
            const int rank = large && !options.ranks() ? lowRank(cell) : 0;  // the rank map says it by colour
            if (!dropped && !guarded && rank == 0) continue;
            QRect box = boxOf(column, row);
            if (large) box.adjust(0, 0, -1, -1);
            const QColor ink = inkOn(t, colourOf(cell));
            if (dropped) {
                const bool noValue = std::isnan(gridValue(normed.positions, cell));
                QVector<QLineF>& lines = noValue ? faint : ink == t.inkLight ? white : black;
                if (large)
                    addHatch(lines, box);
                else
                    lines.append(QLineF(box.left(), box.bottom() + 1, box.right() + 1, box.top()));
            }
            if (guarded) outlines.push_back({box, ink});
            if (rank > 0) corners.push_back({box, withOpacity(ink, 0.85)});
        }
    }
    painter->setAntialiasing(true);
    const auto stroke = [painter](const QVector<QLineF>& lines, const QColor& colour) {
        if (lines.isEmpty()) return;
        painter->setPen(QPen(colour, 1));
        painter->drawLines(lines);
    };
    stroke(white, withOpacity(t.inkLight, t.hatchOpacity));
    stroke(black, withOpacity(t.inkDark, t.hatchOpacity));
    stroke(faint, withOpacity(t.muted, t.moreContrast ? 1.0 : 0.4));
    for (const Outline& corner : corners) {
        const double side = std::min({6.0, corner.box.width() - 2.0, corner.box.height() - 2.0});
        const QPointF at = QPointF(corner.box.right() + 1, corner.box.bottom() + 1);
        painter->setPen(Qt::NoPen);
        painter->setBrush(corner.ink);
        painter->drawPolygon(QPolygonF({at, at - QPointF(side, 0), at - QPointF(0, side)}));
    }
    painter->setAntialiasing(false);
    painter->setBrush(Qt::NoBrush);
    for (const Outline& outline : outlines) {
        for (int inset = 1; inset <= 2; ++inset) {
            painter->setPen(QPen(outline.ink, 1));
            painter->drawRect(outline.box.adjusted(inset, inset, -inset - 1, -inset - 1));
        }
    }
    if (large) {
        for (int column = 1; column <= window.width(); ++column)
            painter->fillRect(QRect(edgeX(column) - 1, cells.top(), 1, cells.height()), t.base);
        for (int row = 1; row <= window.height(); ++row)
            painter->fillRect(QRect(cells.left(), edgeY(row) - 1, cells.width(), 1), t.base);
    }
    // Layers with fewer experts than the widest: the rest of the row is no cell at all.
    for (int row = window.top(); row <= window.bottom(); ++row) {
        const int n = expertsOf(row);
        if (n == 0 || n > window.right()) continue;
        const QRect first = boxOf(std::max(n, window.left()), row);
        painter->fillRect(QRect(first.left(), first.top(), cells.right() + 1 - first.left(), first.height()), t.base);
    }
}

QStringList HeatmapView::Private::legendTexts() const
{
    bool dropped = false;
    bool guarded = false;
    bool locked = false;
    bool rank = false;
    bool whole = false;
    bool missing = false;
    bool noExperts = false;
    for (int row = 0; row < rowCount(); ++row) {
        if (expertsOf(row) == 0) {
            noExperts = true;
            continue;
        }
        if (hasPlan()) {
            const LayerPlan& layer = plan.layer(row);
            dropped = dropped || static_cast<int>(layer.kept().size()) < expertsOf(row);
            guarded = guarded || !plan.protectedExperts(row).empty();
            locked = locked || plan.isLocked(row);
            rank = rank || (!options.ranks() && !layer.ranks().empty());
        }
        for (int e = 0; e < expertsOf(row) && !missing; ++e)
            missing = std::isnan(gridValue(normed.positions, {row, e})) && !(options.ranks() && !kept({row, e}));
        for (int e = 0; e < expertsOf(row) && options.ranks() && !whole; ++e)
            whole = dense({row, e});
    }
    QStringList texts;
    if (dropped) texts += HeatmapView::tr("dropped");
    if (guarded) texts += HeatmapView::tr("protected");
    if (rank) texts += HeatmapView::tr("low rank");
    if (whole) texts += HeatmapView::tr("dense");
    if (missing) texts += HeatmapView::tr("no value");
    if (noExperts) texts += HeatmapView::tr("dense layer");
    if (normed.belowFloor > 0) texts += HeatmapView::tr("below the log floor");
    if (locked) texts += HeatmapView::tr("locked layer");
    if (!searching.empty()) texts += HeatmapView::tr("being searched");
    return texts;
}

void HeatmapView::Private::drawLegend(QCPPainter* painter, int top)
{
    const Theme& t = theme();
    const QFont font = fontFor(FontRole::Small);
    const QFontMetrics metrics(font);
    painter->setFont(font);
    int x = cells.left();
    const int side = pixelsOf(14);
    const int y = top + (metrics.height() - side) / 2;
    const QColor sample = colourAt(options.mapInForce(), 0.25, t.dark);
    const int gap = pixelsOf(compact ? 10 : 18);
    for (const QString& text : legendTexts()) {
        // What does not fit is left out: half a word explains nothing, and the table twin tells every state.
        if (x + side + pixelsOf(6) + metrics.horizontalAdvance(text) > canvas->width()) break;
        const QRect box(x, y, side, side);
        painter->setAntialiasing(false);
        if (text == HeatmapView::tr("being searched")) {
            painter->fillRect(box, t.selection);
            painter->setPen(t.axis);
            painter->setBrush(Qt::NoBrush);
            painter->drawRect(box.adjusted(0, 0, -1, -1));
        } else if (text == HeatmapView::tr("locked layer")) {
            paintIcon(painter, QStringLiteral("lock"), t.muted, box);
        } else if (text == HeatmapView::tr("no value") || text == HeatmapView::tr("dense layer")) {
            painter->fillRect(box, t.neutral);
        } else if (text == HeatmapView::tr("below the log floor")) {
            painter->fillRect(box, colourAt(options.mapInForce(), 0, t.dark));
        } else if (text == HeatmapView::tr("dense")) {
            painter->fillRect(box, colourAt(options.mapInForce(), 1, t.dark));
        } else {
            const bool noValue = options.ranks() && text == HeatmapView::tr("dropped");
            painter->fillRect(box, noValue ? t.neutral : sample);
            const QColor ink = noValue ? t.muted : inkOn(t, sample);
            if (text == HeatmapView::tr("dropped")) {
                QVector<QLineF> lines;
                addHatch(lines, box);
                painter->setAntialiasing(true);
                painter->setPen(QPen(withOpacity(ink, noValue ? (t.moreContrast ? 1.0 : 0.4) : t.hatchOpacity), 1));
                painter->drawLines(lines);
            } else if (text == HeatmapView::tr("protected")) {
                painter->setPen(QPen(ink, 1));
                painter->setBrush(Qt::NoBrush);
                for (int inset = 1; inset <= 2; ++inset)
                    painter->drawRect(box.adjusted(inset, inset, -inset - 1, -inset - 1));
            } else {
                painter->setAntialiasing(true);
                painter->setPen(Qt::NoPen);
                painter->setBrush(withOpacity(ink, 0.85));
                const QPointF at(box.right() + 1, box.bottom() + 1);
                painter->drawPolygon(QPolygonF({at, at - QPointF(6, 0), at - QPointF(0, 6)}));
            }
        }
        x += side + pixelsOf(6);
        painter->setPen(t.muted);
        const int width = metrics.horizontalAdvance(text);
        painter->drawText(QRect(x, top, width + 4, metrics.height()), Qt::AlignLeft | Qt::AlignVCenter, text);
        x += width + gap;
    }
}

}  // namespace espalier
