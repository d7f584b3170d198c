// What the heatmap derives from scores, usage and options, and where things lie.
#include "heatmap/heatmap_private.h"
#include "plan/rank_edit.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace espalier
{

namespace
{
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
}  // namespace

void HeatmapView::Private::rebuildStatistics()
{
    const std::size_t layers = shape.layers.size();
    places.assign(layers, {});
    percentiles = {};
    percentiles.rows.resize(layers);
    importance.assign(layers, kNaN);
    struct Entry {
        double worth;
        CellId cell;
    };
    std::vector<Entry> all;
    const double sign = scores.better == Better::Higher ? 1 : -1;
    for (std::size_t l = 0; l < layers; ++l) {
        const int n = shape.layers[l].experts;
        places[l].assign(static_cast<std::size_t>(n), 0);
        percentiles.rows[l].assign(static_cast<std::size_t>(n), kNaN);
        std::vector<Entry> row;
        double sum = 0;
        for (int e = 0; e < n; ++e) {
            const double value = valueOf({static_cast<int>(l), e});
            if (!std::isfinite(value)) continue;
            row.push_back({sign * value, {static_cast<int>(l), e}});
            sum += value;
        }
        std::stable_sort(row.begin(), row.end(), [](const Entry& a, const Entry& b) { return a.worth > b.worth; });
        for (std::size_t i = 0; i < row.size(); ++i)
            places[l][static_cast<std::size_t>(row[i].cell.expert)] = static_cast<int>(i) + 1;
        if (!row.empty()) importance[l] = sum / static_cast<double>(row.size());
        all.insert(all.end(), row.begin(), row.end());
    }
    if (scores.layerImportance.size() == layers) importance = scores.layerImportance;
    std::sort(all.begin(), all.end(), [](const Entry& a, const Entry& b) { return a.worth < b.worth; });
    for (std::size_t i = 0; i < all.size();) {
        std::size_t j = i;
        while (j + 1 < all.size() && all[j + 1].worth == all[i].worth)
            ++j;
        const double middle = 0.5 * static_cast<double>(i + j);
        const double percentile = all.size() > 1 ? 100 * middle / static_cast<double>(all.size() - 1) : 100;
        for (std::size_t k = i; k <= j; ++k)
            percentiles.rows[static_cast<std::size_t>(all[k].cell.layer)][static_cast<std::size_t>(all[k].cell.expert)] = percentile;
        i = j + 1;
    }
}

void HeatmapView::Private::rebuildRanks()
{
    ranks = {};
    ranks.method = kRankMetric.toStdString();
    ranks.title = ranks.method;
    ranks.values.rows.resize(shape.layers.size());
    ranks.layerImportance.assign(shape.layers.size(), kNaN);
    for (int layer = 0; layer < rowCount(); ++layer) {
        if (expertsOf(layer) == 0) continue;
        std::vector<double>& row = ranks.values.rows[static_cast<std::size_t>(layer)];
        const int breakEven = breakEvenOf(shape, layer);
        for (int e = 0; e < expertsOf(layer); ++e)
            row.push_back(!computes({layer, e}) ? kNaN : hasPlan() ? std::min(levelOf(shape, plan, layer, e), breakEven) : breakEven);
        if (skipped(layer)) continue;
        ranks.layerImportance[static_cast<std::size_t>(layer)] =
            hasPlan() ? std::min(meanLevelOf(shape, plan, layer), breakEven) : breakEven;
    }
}

void HeatmapView::Private::rebuildOrder()
{
    const std::size_t layers = shape.layers.size();
    experts.assign(layers, {});
    columns.assign(layers, {});
    for (std::size_t l = 0; l < layers; ++l) {
        const auto n = static_cast<std::size_t>(shape.layers[l].experts);
        std::vector<int>& order = experts[l];
        order.resize(n);
        std::iota(order.begin(), order.end(), 0);
        const auto worth = [&](int e) {
            const CellId c{static_cast<int>(l), e};
            const double v = options.sort == ExpertSort::Usage  ? gridValue(usage, c)
                             : shown().better == Better::Higher ? gridValue(shown().values, c)
                                                                : -gridValue(shown().values, c);
            return std::isfinite(v) ? v : -std::numeric_limits<double>::infinity();
        };
        if (options.sort != ExpertSort::Index)
            std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return worth(a) > worth(b); });
        columns[l].resize(n);
        for (std::size_t c = 0; c < n; ++c)
            columns[l][static_cast<std::size_t>(order[c])] = static_cast<int>(c);
    }
}

void HeatmapView::Private::rebuildColours()
{
    normed = normalise(shown().values, options.normInForce());
    // Dense is the top of the scale, also where it is all there is.
    if (options.ranks())
        for (int row = 0; row < rowCount(); ++row)
            for (int e = 0; e < expertsOf(row); ++e)
                if (dense({row, e})) normed.positions.rows[static_cast<std::size_t>(row)][static_cast<std::size_t>(e)] = 1;
    const int nc = std::max(1, columnCount());
    const int nr = std::max(1, rowCount());
    QCPColorMapData* data = map->data();
    data->setSize(nc, nr);
    data->setRange(QCPRange(0, nc - 1), QCPRange(0, nr - 1));
    for (int row = 0; row < nr; ++row) {
        for (int column = 0; column < nc; ++column) {
            double position = kNaN;
            if (row < rowCount() && column < expertsOf(row)) {
                position = gridValue(normed.positions, {row, experts[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)]});
                if (position == NormedGrid::kBelowFloor) position = 0;
            }
            data->setCell(column, row, position);
        }
    }
    QCPColorGradient gradient = gradientOf(options.mapInForce(), theme().dark);
    gradient.setNanHandling(QCPColorGradient::nhNanColor);
    gradient.setNanColor(theme().neutral);
    map->setGradient(gradient);
    map->setDataRange(QCPRange(0, 1));
}

QColor HeatmapView::Private::colourOf(CellId c) const
{
    double position = gridValue(normed.positions, c);
    if (std::isnan(position)) return theme().neutral;
    return colourAt(options.mapInForce(), std::max(0.0, position), theme().dark);
}

// ---- geometry

void HeatmapView::Private::layoutPlot()
{
    const int nc = std::max(1, window.width());
    const int nr = std::max(1, window.height());
    const QFontMetrics small(fontFor(FontRole::Small));
    const QFontMetrics strong(fontFor(FontRole::SmallStrong));
    const int labelWidth = strong.horizontalAdvance(QString::number(std::max(10, rowCount() - 1)));
    const int left = pixelsOf(23) + labelWidth + pixelsOf(6);
    labelRight = left - pixelsOf(6);
    const int top = pixelsOf(8);
    const int bottom = 2 * small.height() + pixelsOf(6) + small.height() + pixelsOf(16);
    const int tickWidth =
        std::max(small.horizontalAdvance(QStringLiteral("0.0003")), small.horizontalAdvance(shownName()) - pixelsOf(12)) + pixelsOf(8);
    const int right = compact ? pixelsOf(12) + pixelsOf(12) + tickWidth : pixelsOf(10 + 46 + 10 + 30 + 3 + 12) + tickWidth;
    const int availableWidth = std::max(nc, canvas->width() - left - right);
    const int availableHeight = std::max(nr, canvas->height() - top - bottom);
    cellWidth = std::max(1, availableWidth / nc);
    cellHeight = std::max(1, availableHeight / nr);
    // Very few columns would give silly bars.
    cellWidth = std::min(cellWidth, 6 * std::max(cellHeight, 12));
    // Edges are rounded to whole pixels, so that cells fill the place; below the gap's size all are equal.
    const bool fill = cellWidth >= kMarkLimit && cellHeight >= kMarkLimit;
    const int widest = 6 * std::max(cellHeight, 12) * nc;
    cells = QRect(left, top, fill ? std::min(availableWidth, widest) : cellWidth * nc, fill ? availableHeight : cellHeight * nr);
    int x = cells.right() + 1 + pixelsOf(10);
    bars = histogram = QRect();
    if (!compact) {
        bars = QRect(x, top, pixelsOf(46), cells.height());
        x = bars.right() + 1 + pixelsOf(10);
        histogram = QRect(x, top, pixelsOf(30), cells.height());
        x = histogram.right() + 1 + pixelsOf(3);
    } else {
        x += pixelsOf(2);
    }
    colourBar = QRect(x, top, pixelsOf(12), cells.height());

    QCPAxisRect* rect = canvas->axisRect();
    rect->setMargins(QMargins(cells.left(), cells.top(), std::max(0, canvas->width() - cells.right() - 1),
                              std::max(0, canvas->height() - cells.bottom() - 1)));
    canvas->xAxis->setRange(window.left() - 0.5, window.left() + nc - 0.5);
    canvas->yAxis->setRange(window.top() - 0.5, window.top() + nr - 0.5);
}

QRect HeatmapView::Private::boxOf(int column, int row) const
{
    const int left = edgeX(column - window.left());
    const int top = edgeY(row - window.top());
    return {left, top, edgeX(column - window.left() + 1) - left, edgeY(row - window.top() + 1) - top};
}

QRect HeatmapView::Private::cellBox(CellId c) const
{
    if (!validCell(c)) return {};
    const int column = columns[static_cast<std::size_t>(c.layer)][static_cast<std::size_t>(c.expert)];
    if (!visibleCell(column, c.layer)) return {};
    QRect box = boxOf(column, c.layer);
    if (cellWidth >= kMarkLimit && cellHeight >= kMarkLimit) box.adjust(0, 0, -1, -1);  // the gap belongs to no cell
    return box;
}

void HeatmapView::Private::setWindow(QRect next, bool remember)
{
    const QRect whole(0, 0, std::max(1, columnCount()), std::max(1, rowCount()));
    next.setWidth(std::clamp(next.width(), 1, whole.width()));
    next.setHeight(std::clamp(next.height(), 1, whole.height()));
    next.moveLeft(std::clamp(next.left(), 0, whole.width() - next.width()));
    next.moveTop(std::clamp(next.top(), 0, whole.height() - next.height()));
    if (next == window) return;
    if (remember) zoomBack.push_back(window);
    window = next;
    layoutPlot();
    replot();
}

}  // namespace espalier
