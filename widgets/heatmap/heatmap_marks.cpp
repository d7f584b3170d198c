// States over the colours, never by colour alone, and the legend of those present.
#include "heatmap/heatmap_private.h"

#include "look/icon.h"

#include <QPainter>

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>
#include <type_traits>

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

void drawCorner(QPainter* painter, const QRect& box, const QColor& ink)
{
    const double side = std::min({6.0, box.width() - 2.0, box.height() - 2.0});
    const QPointF at = QPointF(box.right() + 1, box.bottom() + 1);
    painter->setPen(Qt::NoPen);
    painter->setBrush(ink);
    painter->drawPolygon(QPolygonF({at, at - QPointF(side, 0), at - QPointF(0, side)}));
}

// One answer whatever comes in: a dot in the cell's middle; in cells too small for it a line across.
void drawDot(QPainter* painter, const QRect& box, const QColor& ink)
{
    if (box.width() < kMarkLimit - 1 || box.height() < kMarkLimit - 1) {
        painter->fillRect(QRect(box.left(), box.center().y(), box.width(), 1), ink);
        return;
    }
    const double radius = std::clamp(0.21 * std::min(box.width(), box.height()), 2.0, 4.5);
    painter->setPen(Qt::NoPen);
    painter->setBrush(ink);
    painter->drawEllipse(QRectF(box).center(), radius, radius);
}

// The other way than the hatch of dropped experts, over what does not run at all.
void drawRowHatch(QPainter* painter, const QRect& r, const Theme& t)
{
    painter->save();
    painter->setClipRect(r);
    painter->setRenderHint(QPainter::Antialiasing);
    QColor ground = t.base;
    ground.setAlphaF(0.72F);
    painter->fillRect(r, ground);
    painter->setPen(QPen(withOpacity(t.muted, t.moreContrast ? 1.0 : 0.7), 1));
    for (int x = r.left() - r.height() - r.left() % kHatchStep; x < r.right() + 1; x += kHatchStep)
        painter->drawLine(QLineF(x, r.top(), x + r.height(), r.bottom() + 1));
    painter->restore();
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
    struct Mark {
        QRect box;
        QColor ink;
    };
    std::vector<Mark> outlines;
    std::vector<Mark> corners;
    std::vector<Mark> dots;
    for (int row = window.top(); row <= window.bottom(); ++row) {
        const int n = expertsOf(row);
        for (int column = window.left(); column <= std::min(window.right(), n - 1); ++column) {
            const CellId cell{row, experts[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)]};
            const ExpertMark mark = infoOf(stateOf(cell)).mark;
            const bool guarded = large && isProtected(cell);
            if (mark == ExpertMark::None && !guarded) continue;
            QRect box = boxOf(column, row);
            if (large) box.adjust(0, 0, -1, -1);
            const QColor ink = inkOn(t, colourOf(cell));
            if (mark == ExpertMark::Hatch) {
                const bool noValue = std::isnan(gridValue(normed.positions, cell));
                QVector<QLineF>& lines = noValue ? faint : ink == t.inkLight ? white : black;
                if (large)
                    addHatch(lines, box);
                else
                    lines.append(QLineF(box.left(), box.bottom() + 1, box.right() + 1, box.top()));
            } else if (mark == ExpertMark::Corner && large && !options.ranks()) {  // the rank map says it by colour
                corners.push_back({box, withOpacity(ink, 0.85)});
            } else if (mark == ExpertMark::Dot) {
                dots.push_back({box, ink});
            }
            if (guarded) outlines.push_back({box, ink});
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
    for (const Mark& corner : corners)
        drawCorner(painter, corner.box, corner.ink);
    for (const Mark& dot : dots)
        drawDot(painter, dot.box, dot.ink);
    painter->setAntialiasing(false);
    painter->setBrush(Qt::NoBrush);
    for (const Mark& outline : outlines) {
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
    drawSkippedRows(painter);
}

// Layers whose experts do not run: the row is struck out and named.
void HeatmapView::Private::drawSkippedRows(QCPPainter* painter)
{
    const Theme& t = theme();
    const QFont font = fontFor(FontRole::SmallStrong);
    const QFontMetrics metrics(font);
    for (int row = window.top(); row <= window.bottom(); ++row) {
        if (!skipped(row)) continue;
        const QRect box = boxOf(window.left(), row);
        const QRect across(cells.left(), box.top(), cells.width(), std::max(1, box.height() - (box.height() >= kMarkLimit ? 1 : 0)));
        drawRowHatch(painter, across, t);
        const QString text = runText(plan.layer(row));
        QRect label(0, 0, metrics.horizontalAdvance(text) + pixelsOf(12), metrics.height());
        label.moveCenter(across.center());
        if (across.height() < metrics.height() - 2 || label.width() > across.width()) continue;
        painter->fillRect(label.intersected(across), t.base);
        painter->setFont(font);
        painter->setPen(t.text);
        painter->drawText(label, Qt::AlignCenter, text);
    }
}

std::vector<HeatmapView::Private::LegendEntry> HeatmapView::Private::legendEntries() const
{
    using Kind = LegendEntry::Kind;
    std::array<bool, std::tuple_size_v<std::remove_cvref_t<decltype(expertStates())>>> present{};
    bool guarded = false;
    bool locked = false;
    bool missing = false;
    for (int row = 0; row < rowCount(); ++row) {
        guarded = guarded || (hasPlan() && !plan.protectedExperts(row).empty());
        locked = locked || (expertsOf(row) > 0 && lockedLayer(row));
        present[static_cast<std::size_t>(ExpertState::DenseLayer)] =
            present[static_cast<std::size_t>(ExpertState::DenseLayer)] || expertsOf(row) == 0;
        present[static_cast<std::size_t>(ExpertState::Skipped)] = present[static_cast<std::size_t>(ExpertState::Skipped)] || skipped(row);
        for (int e = 0; e < expertsOf(row); ++e) {
            const ExpertState state = stateOf({row, e});
            present[static_cast<std::size_t>(state)] = true;
            missing = missing || (std::isnan(gridValue(normed.positions, {row, e})) && !(options.ranks() && !computes({row, e})));
        }
    }
    std::vector<LegendEntry> entries;
    for (const ExpertStateInfo& info : expertStates()) {
        // Kept experts are what the scale is about; in the map of ranks they are its upper end, and its colours tell the others.
        if (!present[static_cast<std::size_t>(info.state)]) continue;
        if (info.state == ExpertState::Kept && options.ranks())
            entries.push_back({Kind::Whole, info.state, HeatmapView::tr("dense")});
        else if (info.state != ExpertState::Kept && !(info.state == ExpertState::LowRank && options.ranks()))
            entries.push_back({Kind::State, info.state, titleOf(info.state)});
    }
    if (guarded) entries.push_back({Kind::Protected, {}, HeatmapView::tr("protected")});
    if (missing) entries.push_back({Kind::Missing, {}, HeatmapView::tr("no value")});
    if (normed.belowFloor > 0) entries.push_back({Kind::BelowFloor, {}, HeatmapView::tr("below the log floor")});
    if (locked) entries.push_back({Kind::Locked, {}, HeatmapView::tr("locked layer")});
    if (!searching.empty()) entries.push_back({Kind::Searching, {}, HeatmapView::tr("being searched")});
    return entries;
}

void HeatmapView::Private::drawLegendBox(QCPPainter* painter, const LegendEntry& entry, const QRect& box) const
{
    using Kind = LegendEntry::Kind;
    const Theme& t = theme();
    const QColor sample = colourAt(options.mapInForce(), 0.25, t.dark);
    painter->setAntialiasing(false);
    switch (entry.kind) {
        case Kind::Searching:
            painter->fillRect(box, t.selection);
            painter->setPen(t.axis);
            painter->setBrush(Qt::NoBrush);
            painter->drawRect(box.adjusted(0, 0, -1, -1));
            return;
        case Kind::Locked:
            paintIcon(painter, QStringLiteral("lock"), t.muted, box);
            return;
        case Kind::Missing:
            painter->fillRect(box, t.neutral);
            return;
        case Kind::BelowFloor:
            painter->fillRect(box, colourAt(options.mapInForce(), 0, t.dark));
            return;
        case Kind::Whole:
            painter->fillRect(box, colourAt(options.mapInForce(), 1, t.dark));
            return;
        case Kind::Protected:
            painter->fillRect(box, sample);
            painter->setPen(QPen(inkOn(t, sample), 1));
            painter->setBrush(Qt::NoBrush);
            for (int inset = 1; inset <= 2; ++inset)
                painter->drawRect(box.adjusted(inset, inset, -inset - 1, -inset - 1));
            return;
        case Kind::State:
            break;
    }
    // In the map of ranks only what computes has a colour.
    const bool noValue = options.ranks() || entry.state == ExpertState::DenseLayer;
    const QColor ground = noValue ? t.neutral : sample;
    painter->fillRect(box, ground);
    switch (infoOf(entry.state).mark) {
        case ExpertMark::Hatch: {
            QVector<QLineF> lines;
            addHatch(lines, box);
            painter->setAntialiasing(true);
            const QColor ink = noValue ? t.muted : inkOn(t, sample);
            painter->setPen(QPen(withOpacity(ink, noValue ? (t.moreContrast ? 1.0 : 0.4) : t.hatchOpacity), 1));
            painter->drawLines(lines);
            break;
        }
        case ExpertMark::Corner:
            painter->setAntialiasing(true);
            drawCorner(painter, box, withOpacity(inkOn(t, ground), 0.85));
            break;
        case ExpertMark::Dot:
            painter->setAntialiasing(true);
            drawDot(painter, box, inkOn(t, ground));
            break;
        case ExpertMark::Row:
            drawRowHatch(painter, box, t);
            break;
        case ExpertMark::None:
            break;
    }
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
    const int gap = pixelsOf(compact ? 10 : 18);
    for (const LegendEntry& entry : legendEntries()) {
        // What does not fit is left out: half a word explains nothing, and the table twin tells every state.
        if (x + side + pixelsOf(6) + metrics.horizontalAdvance(entry.text) > canvas->width()) break;
        drawLegendBox(painter, entry, QRect(x, y, side, side));
        x += side + pixelsOf(6);
        painter->setPen(t.muted);
        const int width = metrics.horizontalAdvance(entry.text);
        painter->drawText(QRect(x, top, width + 4, metrics.height()), Qt::AlignLeft | Qt::AlignVCenter, entry.text);
        x += width + gap;
    }
}

}  // namespace espalier
