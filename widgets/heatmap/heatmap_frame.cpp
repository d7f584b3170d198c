// Around the cells: labels, bars per layer, histogram, colour bar; and on the overlay selection, hover, cursor.
#include "heatmap/heatmap_private.h"

#include "look/format.h"
#include "look/icon.h"

#include <QPainter>

#include <algorithm>
#include <cmath>
#include <set>

namespace espalier
{

namespace
{
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
}  // namespace

void HeatmapView::Private::drawColourBar(QCPPainter* painter)
{
    const Theme& t = theme();
    const QFont font = fontFor(FontRole::Small);
    const QFontMetrics metrics(font);
    painter->setFont(font);
    painter->setAntialiasing(false);
    for (int y = 0; y < colourBar.height(); ++y) {
        const double position = 1 - (y + 0.5) / colourBar.height();
        painter->fillRect(QRect(colourBar.left(), colourBar.top() + y, colourBar.width(), 1),
                          colourAt(options.mapInForce(), position, t.dark));
    }
    struct Tick {
        double position;
        QString text;
    };
    std::vector<Tick> ticks;
    const NormRange& range = normed.range;
    const NormOptions& norm = options.normInForce();
    const auto number = [this](double value) { return options.ranks() ? format::count(std::llround(value)) : format::score(value); };
    if (norm.norm == Norm::Rank) {
        for (const int percent : {0, 25, 50, 75, 100})
            ticks.push_back({percent / 100.0, QString::number(percent) + QChar(0x00A0) + QLatin1Char('%')});
    } else if (norm.perLayer) {
        ticks = {{0.0, HeatmapView::tr("low")}, {1.0, HeatmapView::tr("high")}};
    } else if (range.valid && range.high > range.low) {
        if (norm.norm == Norm::Log && range.high / range.low > 3) {
            const double decades = std::log10(range.high / range.low);
            for (double e = std::floor(std::log10(range.low)); e <= std::ceil(std::log10(range.high)); ++e) {
                for (const double factor : {1.0, 2.0, 3.0, 5.0}) {
                    if (factor == 3.0 && decades > 4) continue;
                    if ((factor == 2.0 || factor == 5.0) && decades >= 1.2) continue;
                    const double value = factor * std::pow(10.0, e);
                    if (value < range.low || value > range.high) continue;
                    ticks.push_back({normPosition(value, range, Norm::Log), options.ranks() ? number(value)
                                                                            : value >= 0.001 && value < 1e4
                                                                                ? QLocale().toString(value, 'g', 3)
                                                                                : format::score(value)});
                }
            }
        } else {
            for (const double value : roundTicks(range.low, range.high, 5))
                ticks.push_back({normPosition(value, range, norm.norm), number(value)});
        }
    } else if (range.valid && options.ranks() && rankFree()) {
        // Every cell has the colour of the top; the scale says what the others would mean.
        ticks = {{0.0, HeatmapView::tr("low")}, {1.0, HeatmapView::tr("dense")}};
    } else if (range.valid) {
        ticks.push_back({0.5, number(range.low)});
    }
    for (const Tick& tick : ticks) {
        const int y = colourBar.bottom() - static_cast<int>(std::lround(tick.position * (colourBar.height() - 1)));
        painter->setPen(QPen(t.axis, 1));
        painter->drawLine(QLineF(colourBar.right() + 1, y, colourBar.right() + pixelsOf(4), y));
        painter->setPen(t.muted);
        painter->drawText(QRect(colourBar.right() + pixelsOf(6), y - metrics.height() / 2, pixelsOf(60), metrics.height()),
                          Qt::AlignLeft | Qt::AlignVCenter, tick.text);
    }
    painter->setPen(t.muted);
    const QString name = shownName();
    const int nameWidth = metrics.horizontalAdvance(name);
    const int right = std::min(canvas->width() - 2, std::max(colourBar.center().x() + nameWidth / 2 + 1, colourBar.left() + nameWidth));
    const int top = cells.bottom() + 1 + pixelsOf(4);
    painter->drawText(QRect(right - nameWidth - 2, top, nameWidth + 4, metrics.height()), Qt::AlignCenter, name);
    if (!shown().unit.empty()) {
        const QString unit = QString::fromStdString(shown().unit);
        // It may be long and reaches left below bars and histogram, as far as the axis' name leaves room.
        const int room = right - cells.center().x() - pixelsOf(110);
        painter->drawText(QRect(right - room, top + metrics.height(), room, metrics.height()), Qt::AlignRight | Qt::AlignVCenter,
                          metrics.elidedText(unit, Qt::ElideRight, room));
    }
}

// What a search works on: a band on both sides of the cells, whose colours stay the data's.
void HeatmapView::Private::drawSearched(QCPPainter* painter)
{
    const Theme& t = theme();
    for (const int row : searching) {
        if (row < window.top() || row > window.bottom()) continue;
        const QRect box = boxOf(window.left(), row);
        painter->fillRect(QRect(0, box.top(), cells.left(), box.height()), t.selection);
        painter->fillRect(QRect(cells.right() + 1, box.top(), canvas->width() - cells.right() - 1, box.height()), t.selection);
    }
}

// Every 14 px at least.
void HeatmapView::Private::drawRowLabels(QCPPainter* painter)
{
    const Theme& t = theme();
    const QFont small = fontFor(FontRole::Small);
    const QFontMetrics metrics(small);
    const CellId current = selection->current();
    int rowStep = 1;
    for (const int step : {1, 2, 5, 10, 20, 50}) {
        rowStep = step;
        if (step * cellHeight >= pixelsOf(14)) break;
    }
    const auto rowRect = [&](int row) {
        const QRect box = boxOf(window.left(), row);
        return QRect(0, box.center().y() - metrics.height() / 2, labelRight, metrics.height());
    };
    for (int row = window.top(); row <= window.bottom(); ++row) {
        const bool isCurrent = row == current.layer;
        if (lockedLayer(row) && cellHeight >= 6) {
            const int side = std::min(pixelsOf(13), std::max(8, cellHeight + 3));
            const int y = boxOf(window.left(), row).center().y();
            paintIcon(painter, QStringLiteral("lock"), t.baseline, QRectF(pixelsOf(6), y - side / 2.0, side, side));
        }
        if (isCurrent) continue;
        const bool searched = searchingLayer(row);
        if (row % rowStep != 0 && !searched) continue;
        if (!searched && visibleCell(window.left(), current.layer) && std::abs(row - current.layer) * cellHeight < pixelsOf(12)) continue;
        painter->setFont(searched ? fontFor(FontRole::SmallStrong) : small);
        painter->setPen(searched ? t.text : t.muted);
        painter->drawText(rowRect(row), Qt::AlignRight | Qt::AlignVCenter, QString::number(row));
    }
    if (current.layer >= window.top() && current.layer <= window.bottom()) {
        painter->setFont(fontFor(FontRole::SmallStrong));
        painter->setPen(t.accent);
        painter->drawText(rowRect(current.layer), Qt::AlignRight | Qt::AlignVCenter, QString::number(current.layer));
    }
}

void HeatmapView::Private::drawColumnLabels(QCPPainter* painter, int top)
{
    const Theme& t = theme();
    const QFont small = fontFor(FontRole::Small);
    const QFontMetrics metrics(small);
    const CellId current = selection->current();
    int columnStep = 1;
    for (const int step : {1, 2, 5, 10, 20, 50, 100}) {
        columnStep = step;
        if (step * cellWidth >= pixelsOf(44)) break;
    }
    const int currentColumn =
        validCell(current) ? columns[static_cast<std::size_t>(current.layer)][static_cast<std::size_t>(current.expert)] : -1;
    const auto columnRect = [&](int column) {
        const int x = boxOf(column, window.top()).center().x();
        return QRect(x - 30, top, 60, metrics.height());
    };
    for (int column = window.left(); column <= window.right(); ++column) {
        if (column % columnStep != 0 || column == currentColumn) continue;
        if (currentColumn >= 0 && std::abs(column - currentColumn) * cellWidth < pixelsOf(24)) continue;
        painter->setFont(small);
        painter->setPen(t.muted);
        painter->drawText(columnRect(column), Qt::AlignCenter, QString::number(column));
    }
    if (currentColumn >= window.left() && currentColumn <= window.right()) {
        painter->setFont(fontFor(FontRole::SmallStrong));
        painter->setPen(t.accent);
        painter->drawText(columnRect(currentColumn), Qt::AlignCenter, QString::number(currentColumn));
    }
    painter->setFont(small);
    painter->setPen(t.muted);
    const QString axis = options.sort == ExpertSort::Index   ? HeatmapView::tr("expert")
                         : options.sort == ExpertSort::Score ? HeatmapView::tr("experts of each layer, by %1").arg(shownName())
                                                             : HeatmapView::tr("experts of each layer, by usage");
    painter->drawText(QRect(cells.left(), top + metrics.height(), cells.width(), metrics.height()), Qt::AlignCenter, axis);
}

void HeatmapView::Private::drawLayerBars(QCPPainter* painter, int labelTop)
{
    const Theme& t = theme();
    const QFontMetrics metrics(fontFor(FontRole::Small));
    const CellId current = selection->current();
    double most = 0;
    const std::vector<double>& bar = options.ranks() ? ranks.layerImportance : importance;
    for (const double value : bar) {
        if (std::isfinite(value)) most = std::max(most, std::abs(value));
    }
    for (int row = window.top(); row <= window.bottom() && most > 0; ++row) {
        const double value = static_cast<std::size_t>(row) < bar.size() ? bar[static_cast<std::size_t>(row)] : kNaN;
        if (!std::isfinite(value)) continue;
        const QRect box = boxOf(window.left(), row);
        const int height = std::clamp(static_cast<int>(cellHeight * 0.4), 1, pixelsOf(8));
        const int width = std::max(1, static_cast<int>(std::lround(std::abs(value) / most * bars.width())));
        painter->fillRect(QRect(bars.left(), box.center().y() - height / 2, width, height), row == current.layer ? t.text : t.ghost);
    }
    painter->setPen(t.muted);
    painter->drawText(QRect(bars.left(), labelTop, pixelsOf(70), metrics.height()), Qt::AlignLeft | Qt::AlignVCenter,
                      HeatmapView::tr("per layer"));
}

void HeatmapView::Private::drawHistogram(QCPPainter* painter)
{
    const Theme& t = theme();
    const int bins = std::clamp(histogram.height() / 8, 8, 64);
    std::vector<int> counts(static_cast<std::size_t>(bins), 0);
    for (const auto& row : normed.positions.rows) {
        for (const double position : row) {
            if (std::isnan(position)) continue;
            ++counts[static_cast<std::size_t>(std::clamp(static_cast<int>(position * bins), 0, bins - 1))];
        }
    }
    const int most = std::max(1, *std::max_element(counts.begin(), counts.end()));
    for (int i = 0; i < bins; ++i) {
        const int y0 = histogram.bottom() + 1 - histogram.height() * (i + 1) / bins;
        const int y1 = histogram.bottom() + 1 - histogram.height() * i / bins;
        const int width = histogram.width() * counts[static_cast<std::size_t>(i)] / most;
        painter->fillRect(QRect(histogram.right() + 1 - width, y0, width, y1 - y0), t.neutral);
    }
}

void HeatmapView::Private::drawFrame(QCPPainter* painter)
{
    if (!hasScores || rowCount() == 0) return;
    const int line = QFontMetrics(fontFor(FontRole::Small)).height();
    const int labelTop = cells.bottom() + 1 + pixelsOf(4);
    painter->setAntialiasing(false);
    drawSearched(painter);
    drawRowLabels(painter);
    drawColumnLabels(painter, labelTop);
    drawLegend(painter, labelTop + 2 * line + pixelsOf(6));
    if (!bars.isNull()) drawLayerBars(painter, labelTop);
    if (!histogram.isNull()) drawHistogram(painter);
    drawColourBar(painter);
}

void HeatmapView::Private::drawOverlay(QCPPainter* painter)
{
    if (!hasScores || rowCount() == 0) return;
    const Theme& t = theme();

    // Selection: the outline of the union.
    if (!selection->selected().empty()) {
        std::set<std::pair<int, int>> marked;
        for (const CellId& cell : selection->selected()) {
            if (!validCell(cell)) continue;
            marked.insert({columns[static_cast<std::size_t>(cell.layer)][static_cast<std::size_t>(cell.expert)], cell.layer});
        }
        QVector<QLineF> edges;
        for (const auto& [column, row] : marked) {
            if (!visibleCell(column, row)) continue;
            const QRect box = boxOf(column, row);
            const double l = box.left() - 0.5;
            const double r = box.left() + box.width() - 0.5;
            const double u = box.top() - 0.5;
            const double b = box.top() + box.height() - 0.5;
            if (!marked.contains({column - 1, row})) edges.append(QLineF(l, u, l, b));
            if (!marked.contains({column + 1, row})) edges.append(QLineF(r, u, r, b));
            if (!marked.contains({column, row - 1})) edges.append(QLineF(l, u, r, u));
            if (!marked.contains({column, row + 1})) edges.append(QLineF(l, b, r, b));
        }
        painter->setAntialiasing(true);
        painter->setPen(QPen(t.base, 4, Qt::SolidLine, Qt::SquareCap));
        painter->drawLines(edges);
        painter->setPen(QPen(t.text, 1.5, Qt::SolidLine, Qt::SquareCap));
        painter->drawLines(edges);
    }

    const CellId hovered = hover->hovered();
    const CellId current = selection->current();
    if (validCell(hovered) && hovered != current) {
        const QRect box = cellBox(hovered);
        if (!box.isNull()) {
            painter->setAntialiasing(false);
            painter->setBrush(Qt::NoBrush);
            painter->setPen(QPen(inkOn(t, colourOf(hovered)), 1));
            painter->drawRect(box.adjusted(0, 0, -1, -1));
        }
    } else if (hovered.valid() && hovered.expert < 0 && hovered.layer >= window.top() && hovered.layer <= window.bottom()) {
        // A layer is hovered in another view: its row is framed.
        const QRect first = boxOf(window.left(), hovered.layer);
        painter->setAntialiasing(false);
        painter->setBrush(Qt::NoBrush);
        painter->setPen(QPen(t.text, 1));
        painter->drawRect(QRect(cells.left() - 1, first.top() - 1, cells.width(), first.height()));
    }
    const QRect box = cellBox(current);
    if (!box.isNull()) {
        const QRectF ring = QRectF(box).adjusted(-2, -2, 2, 2);
        painter->setAntialiasing(true);
        painter->setBrush(Qt::NoBrush);
        painter->setPen(QPen(t.inkDark, 5, Qt::SolidLine, Qt::RoundCap, Qt::RoundJoin));
        painter->drawRoundedRect(ring, 2, 2);
        painter->setPen(QPen(t.inkLight, 2.5, Qt::SolidLine, Qt::RoundCap, Qt::RoundJoin));
        painter->drawRoundedRect(ring, 2, 2);
    }
    if (canvas->hasFocus() && canvas->keyFocus) {
        painter->setAntialiasing(true);
        painter->setBrush(Qt::NoBrush);
        painter->setPen(QPen(t.focus, 2));
        painter->drawRect(QRectF(canvas->rect()).adjusted(1, 1, -1, -1));
    }
}

void HeatmapView::Private::replot() { canvas->replot(QCustomPlot::rpQueuedReplot); }

void HeatmapView::Private::replotOverlay()
{
    if (hasScores) canvas->layer(kOverlayLayer)->replot();
}

}  // namespace espalier
