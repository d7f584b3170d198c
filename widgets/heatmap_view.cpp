#include "heatmap_view.h"

#include "controls.h"
#include "format.h"
#include "gesture.h"
#include "icon.h"
#include "plot.h"
#include "theme.h"

#include <QAccessible>
#include <QComboBox>
#include <QContextMenuEvent>
#include <QHBoxLayout>
#include <QHelpEvent>
#include <QKeyEvent>
#include <QMenu>
#include <QMouseEvent>
#include <QPainter>
#include <QPointer>
#include <QSignalBlocker>
#include <QStackedLayout>
#include <QToolTip>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace espalier
{

namespace
{

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr int kHatchStep = 6;
constexpr int kMarkLimit = 8;  // smaller cells get no gap, outline or corner

struct ClipChoice {
    double percent;
    const char* text;
};
constexpr ClipChoice kClips[] = {{0.0, QT_TRANSLATE_NOOP("HeatmapView", "min–max")},
                                 {0.5, QT_TRANSLATE_NOOP("HeatmapView", "clip 0.5–99.5 %")},
                                 {1.0, QT_TRANSLATE_NOOP("HeatmapView", "clip 1–99 %")},
                                 {2.0, QT_TRANSLATE_NOOP("HeatmapView", "clip 2–98 %")},
                                 {5.0, QT_TRANSLATE_NOOP("HeatmapView", "clip 5–95 %")}};

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

QString expertSortId(ExpertSort sort)
{
    switch (sort) {
        case ExpertSort::Score:
            return QStringLiteral("score");
        case ExpertSort::Usage:
            return QStringLiteral("usage");
        case ExpertSort::Index:
            break;
    }
    return QStringLiteral("index");
}

ExpertSort expertSortFromId(const QString& id)
{
    if (id == QLatin1StringView("score")) return ExpertSort::Score;
    if (id == QLatin1StringView("usage")) return ExpertSort::Usage;
    return ExpertSort::Index;
}

class HeatmapCanvas;

// The line under the map; parts are left out from the least important when it is too narrow, numbers are never cut.
class HeatmapReadout final : public QWidget
{
public:
    using QWidget::QWidget;
    QString name;
    // In order of reading; `weight` 0 stays longest.
    struct Part {
        QString text;
        QString shorter;
        int weight = 0;
    };
    std::vector<Part> parts;

    QSize sizeHint() const override { return {100, pixelsOf(26)}; }
    QSize minimumSizeHint() const override { return sizeHint(); }

protected:
    void paintEvent(QPaintEvent*) override
    {
        QPainter painter(this);
        const Theme& t = theme();
        painter.fillRect(rect(), t.surface);
        if (name.isEmpty()) return;
        const int left = pixelsOf(10);
        const QFont head = fontFor(FontRole::Head);
        const QFont body = fontFor(FontRole::Body);
        const int nameWidth = QFontMetrics(head).horizontalAdvance(name);
        painter.setFont(head);
        painter.setPen(t.text);
        painter.drawText(QRect(left, 0, nameWidth + 4, height()), Qt::AlignLeft | Qt::AlignVCenter, name);
        const QFontMetrics metrics(body);
        const int available = width() - left - nameWidth - pixelsOf(16) - pixelsOf(10);
        const QString dot = QStringLiteral("  ·  ");
        QString text;
        for (int limit = 9; limit >= -1; --limit) {
            QStringList list;
            for (const Part& part : parts) {
                if (part.weight <= std::max(0, limit)) list += limit < 9 && !part.shorter.isEmpty() ? part.shorter : part.text;
            }
            text = list.join(dot);
            if (metrics.horizontalAdvance(text) <= available) break;
        }
        painter.setFont(body);
        painter.drawText(QRect(left + nameWidth + pixelsOf(16), 0, available, height()), Qt::AlignLeft | Qt::AlignVCenter, text);
    }
};

class HeatmapView::Private
{
public:
    Private(HeatmapView* view, SelectionModel* selectionModel, HoverModel* hoverModel)
        : q(view), selection(selectionModel), hover(hoverModel)
    {
    }

    HeatmapView* q;
    SelectionModel* selection;
    HoverModel* hover;

    ModelShape shape;
    CompressionPlan plan;
    ExpertScores scores;
    ExpertGrid usage;
    HeatmapOptions options;
    bool compact = false;
    bool hasScores = false;

    // Derived from scores, usage, options.
    NormedGrid normed;
    std::vector<std::vector<int>> experts;  // per layer: column -> expert
    std::vector<std::vector<int>> columns;  // per layer: expert -> column
    std::vector<std::vector<int>> places;   // per layer, expert; 1 = most valuable, 0 no value
    ExpertGrid percentiles;
    std::vector<double> importance;

    HeatmapCanvas* canvas = nullptr;
    QCPColorMap* map = nullptr;
    HeatmapReadout* readout = nullptr;
    EmptyState* empty = nullptr;
    QStackedLayout* stack = nullptr;
    QPointer<QWidget> chooserRow;  // the panel's once it is added there, and may go before the view
    QComboBox* scoreBox = nullptr;
    QComboBox* normBox = nullptr;
    QComboBox* clipBox = nullptr;
    QComboBox* sortBox = nullptr;
    QWidget* chooserLine = nullptr;
    Switch* perLayer = nullptr;
    StepGesture* steps = nullptr;

    QString emptyWhat;
    QString emptyWhy;
    QString emptyButton;
    bool emptyButtonEnabled = true;
    bool isError = false;

    // Geometry, in the canvas' pixels.
    QRect cells;  // whole map
    int cellWidth = 1;
    int cellHeight = 1;
    QRect bars;
    QRect histogram;
    QRect colourBar;
    int labelRight = 0;  // right edge of the row labels

    // What is zoomed to, in columns and rows.
    QRect window;
    std::vector<QRect> zoomBack;

    CellId anchor;  // of shift selection
    QPoint pressed;
    bool boxing = false;
    QRect box;  // columns and rows of the box selection under way

    int rowCount() const { return static_cast<int>(shape.layers.size()); }
    int columnCount() const { return shape.maxExperts(); }
    int expertsOf(int layer) const { return layer >= 0 && layer < rowCount() ? shape.layers[static_cast<std::size_t>(layer)].experts : 0; }
    bool validCell(CellId c) const { return c.layer >= 0 && c.layer < rowCount() && c.expert >= 0 && c.expert < expertsOf(c.layer); }
    bool hasPlan() const { return plan.layerCount() == rowCount() && rowCount() > 0; }

    double valueOf(CellId c) const
    {
        const auto l = static_cast<std::size_t>(c.layer);
        const auto e = static_cast<std::size_t>(c.expert);
        if (c.layer < 0 || l >= scores.values.rows.size() || e >= scores.values.rows[l].size()) return kNaN;
        return scores.values.rows[l][e];
    }
    static double gridValue(const ExpertGrid& grid, CellId c)
    {
        const auto l = static_cast<std::size_t>(c.layer);
        const auto e = static_cast<std::size_t>(c.expert);
        return l < grid.rows.size() && e < grid.rows[l].size() ? grid.rows[l][e] : kNaN;
    }
    bool lockedLayer(int layer) const { return hasPlan() && plan.layer(layer).locked; }
    bool isProtected(CellId c) const
    {
        if (!hasPlan()) return false;
        const ExpertSet& set = plan.layer(c.layer).protectedExperts;
        return std::binary_search(set.begin(), set.end(), c.expert);
    }
    bool kept(CellId c) const { return !hasPlan() || plan.keeps(c.layer, c.expert); }
    int lowRank(CellId c) const
    {
        if (!hasPlan()) return 0;
        const LayerPlan& layer = plan.layer(c.layer);
        if (layer.ranks.empty()) return 0;
        const auto at = std::lower_bound(layer.kept.begin(), layer.kept.end(), c.expert);
        if (at == layer.kept.end() || *at != c.expert) return 0;
        const auto index = static_cast<std::size_t>(at - layer.kept.begin());
        if (index >= layer.ranks.size()) return 0;
        int smallest = 0;
        for (const int rank : layer.ranks[index]) {
            if (rank > 0 && (smallest == 0 || rank < smallest)) smallest = rank;
        }
        return smallest;
    }

    void rebuildOrder();
    void rebuildStatistics();
    void rebuildColours();
    void layoutPlot();
    void refreshEmpty();
    void refreshChoosers();
    void refreshReadout();
    void announce();
    void replot();
    void replotOverlay();

    // Left edge of the i-th column and upper edge of the i-th row in sight, and back.
    int edgeX(int i) const { return cells.left() + static_cast<int>(std::lround(static_cast<double>(i) * cells.width() / window.width())); }
    int edgeY(int i) const
    {
        return cells.top() + static_cast<int>(std::lround(static_cast<double>(i) * cells.height() / window.height()));
    }
    int columnAt(int x) const
    {
        int i = std::clamp((x - cells.left()) * window.width() / std::max(1, cells.width()), 0, window.width() - 1);
        if (x < edgeX(i) && i > 0) --i;
        if (x >= edgeX(i + 1) && i + 1 < window.width()) ++i;
        return window.left() + i;
    }
    int rowAt(int y) const
    {
        int i = std::clamp((y - cells.top()) * window.height() / std::max(1, cells.height()), 0, window.height() - 1);
        if (y < edgeY(i) && i > 0) --i;
        if (y >= edgeY(i + 1) && i + 1 < window.height()) ++i;
        return window.top() + i;
    }
    QRect cellBox(CellId c) const;
    QRect boxOf(int column, int row) const;
    bool visibleCell(int column, int row) const { return window.contains(column, row); }
    QColor colourOf(CellId c) const;
    QString valueUnit() const { return scores.unit.empty() ? QString() : QChar(0x00A0) + QString::fromStdString(scores.unit); }
    QString scoreName() const { return QString::fromStdString(scores.method); }
    QStringList legendTexts() const;

    void drawMarks(QCPPainter* painter);
    void drawFrame(QCPPainter* painter);
    void drawOverlay(QCPPainter* painter);
    void drawLegend(QCPPainter* painter, int top);
    void drawColourBar(QCPPainter* painter);

    void moveCursor(int columnStep, int rowStep, bool extend);
    void selectBox(const QRect& columnsRows);
    void setWindow(QRect next, bool remember);
    void userChanged();
    void key(QKeyEvent* event);
    void contextMenu(const QPoint& at, const QPoint& global);
    QString tooltip(CellId c) const;
    void requestToggle(CellId c);
};

// The plot widget: passes mouse and keys to the view.
class HeatmapCanvas final : public QCustomPlot
{
public:
    HeatmapCanvas(HeatmapView::Private* owner, QWidget* parent) : QCustomPlot(parent), d(owner)
    {
        setMouseTracking(true);
        setContextMenuPolicy(Qt::DefaultContextMenu);
    }
    bool keyFocus = false;  // the ring shows only where focus came by key

protected:
    void resizeEvent(QResizeEvent* event) override
    {
        d->layoutPlot();
        QCustomPlot::resizeEvent(event);
    }
    void mousePressEvent(QMouseEvent* event) override
    {
        setFocus(Qt::MouseFocusReason);
        if (event->button() != Qt::LeftButton) return;
        d->pressed = event->pos();
        d->boxing = false;
        const QPoint p = event->pos();
        // Row labels: the lock toggles, the number selects the layer.
        if (p.x() < d->cells.left() && p.y() >= d->cells.top() && p.y() <= d->cells.bottom()) {
            const int row = d->rowAt(p.y());
            if (p.x() < pixelsOf(22)) {
                emit d->q->lockRequested(row);
            } else {
                d->selection->setCurrentLayer(row);
                std::set<CellId> cells;
                for (int e = 0; e < d->expertsOf(row); ++e)
                    cells.insert({row, e});
                d->selection->select(std::move(cells));
            }
            d->pressed = QPoint(-1, -1);
            return;
        }
        const CellId cell = d->q->cellAt(event->position());
        if (!cell.valid()) {
            d->pressed = QPoint(-1, -1);
            return;
        }
        if (event->modifiers() & Qt::ControlModifier) {
            d->selection->setCurrent(cell);
            d->selection->toggle(cell);
            d->anchor = cell;
        } else if (event->modifiers() & Qt::ShiftModifier) {
            const CellId from = d->anchor.valid() ? d->anchor : d->selection->current();
            d->selection->setCurrent(cell);
            if (from.valid()) {
                const QPoint a(d->q->columnOf(from), from.layer);
                const QPoint b(d->q->columnOf(cell), cell.layer);
                d->selectBox(
                    QRect(QPoint(std::min(a.x(), b.x()), std::min(a.y(), b.y())), QPoint(std::max(a.x(), b.x()), std::max(a.y(), b.y()))));
            }
        } else {
            d->anchor = cell;
            d->selection->clear();
            d->selection->setCurrent(cell);
        }
    }
    void mouseMoveEvent(QMouseEvent* event) override
    {
        const CellId cell = d->q->cellAt(event->position());
        d->hover->setHovered(cell);
        if (!(event->buttons() & Qt::LeftButton) || d->pressed.x() < 0) return;
        if (!d->boxing && (event->pos() - d->pressed).manhattanLength() < 6) return;
        d->boxing = true;
        const auto clampPoint = [this](const QPoint& p) { return QPoint(d->columnAt(p.x()), d->rowAt(p.y())); };
        const QPoint a = clampPoint(d->pressed);
        const QPoint b = clampPoint(event->pos());
        d->box = QRect(QPoint(std::min(a.x(), b.x()), std::min(a.y(), b.y())), QPoint(std::max(a.x(), b.x()), std::max(a.y(), b.y())));
        d->selectBox(d->box);
    }
    void mouseReleaseEvent(QMouseEvent*) override
    {
        d->boxing = false;
        d->pressed = QPoint(-1, -1);
    }
    void mouseDoubleClickEvent(QMouseEvent* event) override
    {
        if (event->button() != Qt::LeftButton) return;
        const CellId cell = d->q->cellAt(event->position());
        if (cell.valid()) emit d->q->toggleRequested(cell.layer, cell.expert);
    }
    void wheelEvent(QWheelEvent* event) override
    {
        const int notches = event->angleDelta().y();
        if (notches == 0 || !d->cells.contains(event->position().toPoint())) return;
        const double factor = notches > 0 ? 0.8 : 1.25;
        const QRect w = d->window;
        const QPoint p = event->position().toPoint();
        const double fx = static_cast<double>(p.x() - d->cells.left()) / std::max(1, d->cells.width());
        const double fy = static_cast<double>(p.y() - d->cells.top()) / std::max(1, d->cells.height());
        const int width = std::clamp(static_cast<int>(std::lround(w.width() * factor)), std::min(8, d->columnCount()), d->columnCount());
        const int height = std::clamp(static_cast<int>(std::lround(w.height() * factor)), std::min(4, d->rowCount()), d->rowCount());
        const int left = w.left() + static_cast<int>(std::lround(fx * (w.width() - width)));
        const int top = w.top() + static_cast<int>(std::lround(fy * (w.height() - height)));
        d->setWindow(QRect(left, top, width, height), true);
        event->accept();
    }
    void keyPressEvent(QKeyEvent* event) override { d->key(event); }
    void leaveEvent(QEvent*) override { d->hover->clear(); }
    void focusInEvent(QFocusEvent* event) override
    {
        QCustomPlot::focusInEvent(event);
        keyFocus = event->reason() == Qt::TabFocusReason || event->reason() == Qt::BacktabFocusReason ||
                   event->reason() == Qt::ShortcutFocusReason;
        if (!d->selection->current().valid() && d->rowCount() > 0 && event->reason() != Qt::MouseFocusReason) {
            for (int l = 0; l < d->rowCount(); ++l) {
                if (d->expertsOf(l) == 0) continue;
                d->selection->setCurrent({l, 0});
                break;
            }
        }
        d->replotOverlay();
        d->announce();
    }
    void focusOutEvent(QFocusEvent* event) override
    {
        QCustomPlot::focusOutEvent(event);
        d->steps->finish();
        d->replotOverlay();
    }
    void contextMenuEvent(QContextMenuEvent* event) override
    {
        QPoint at = event->pos();
        if (event->reason() == QContextMenuEvent::Keyboard) at = d->cellBox(d->selection->current()).center();
        d->contextMenu(at, mapToGlobal(at));
    }
    bool event(QEvent* event) override
    {
        if (event->type() == QEvent::ToolTip) {
            auto* help = static_cast<QHelpEvent*>(event);
            const CellId cell = d->q->cellAt(help->pos());
            if (cell.valid())
                QToolTip::showText(help->globalPos() + QPoint(12, 12), d->tooltip(cell), this, d->cellBox(cell));
            else
                QToolTip::hideText();
            return true;
        }
        return QCustomPlot::event(event);
    }

private:
    HeatmapView::Private* d;
};

// ---- derived values

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
            const double v = options.sort == ExpertSort::Usage ? gridValue(usage, c)
                             : scores.better == Better::Higher ? valueOf(c)
                                                               : -valueOf(c);
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
    normed = normalise(scores.values, options.norm);
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
    QCPColorGradient gradient = gradientOf(options.map, theme().dark);
    gradient.setNanHandling(QCPColorGradient::nhNanColor);
    gradient.setNanColor(theme().neutral);
    map->setGradient(gradient);
    map->setDataRange(QCPRange(0, 1));
}

QColor HeatmapView::Private::colourOf(CellId c) const
{
    double position = gridValue(normed.positions, c);
    if (std::isnan(position)) return theme().neutral;
    return colourAt(options.map, std::max(0.0, position), theme().dark);
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
        std::max(small.horizontalAdvance(QStringLiteral("0.0003")), small.horizontalAdvance(scoreName()) - pixelsOf(12)) + pixelsOf(8);
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

// ---- drawing

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
            const int rank = large ? lowRank(cell) : 0;
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
    bool missing = false;
    bool noExperts = false;
    for (int row = 0; row < rowCount(); ++row) {
        if (expertsOf(row) == 0) {
            noExperts = true;
            continue;
        }
        if (hasPlan()) {
            const LayerPlan& layer = plan.layer(row);
            dropped = dropped || static_cast<int>(layer.kept.size()) < expertsOf(row);
            guarded = guarded || !layer.protectedExperts.empty();
            locked = locked || layer.locked;
            rank = rank || !layer.ranks.empty();
        }
        for (int e = 0; e < expertsOf(row) && !missing; ++e)
            missing = std::isnan(gridValue(normed.positions, {row, e}));
    }
    QStringList texts;
    if (dropped) texts += HeatmapView::tr("dropped");
    if (guarded) texts += HeatmapView::tr("protected");
    if (rank) texts += HeatmapView::tr("low rank");
    if (missing) texts += HeatmapView::tr("no value");
    if (noExperts) texts += HeatmapView::tr("dense layer");
    if (normed.belowFloor > 0) texts += HeatmapView::tr("below the log floor");
    if (locked) texts += HeatmapView::tr("locked layer");
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
    const QColor sample = colourAt(options.map, 0.25, t.dark);
    for (const QString& text : legendTexts()) {
        const QRect box(x, y, side, side);
        painter->setAntialiasing(false);
        if (text == HeatmapView::tr("locked layer")) {
            paintIcon(painter, QStringLiteral("lock"), t.muted, box);
        } else if (text == HeatmapView::tr("no value") || text == HeatmapView::tr("dense layer")) {
            painter->fillRect(box, t.neutral);
        } else if (text == HeatmapView::tr("below the log floor")) {
            painter->fillRect(box, colourAt(options.map, 0, t.dark));
        } else {
            painter->fillRect(box, sample);
            const QColor ink = inkOn(t, sample);
            if (text == HeatmapView::tr("dropped")) {
                QVector<QLineF> lines;
                addHatch(lines, box);
                painter->setAntialiasing(true);
                painter->setPen(QPen(withOpacity(ink, t.hatchOpacity), 1));
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
        x += width + pixelsOf(18);
    }
}

void HeatmapView::Private::drawColourBar(QCPPainter* painter)
{
    const Theme& t = theme();
    const QFont font = fontFor(FontRole::Small);
    const QFontMetrics metrics(font);
    painter->setFont(font);
    painter->setAntialiasing(false);
    for (int y = 0; y < colourBar.height(); ++y) {
        const double position = 1 - (y + 0.5) / colourBar.height();
        painter->fillRect(QRect(colourBar.left(), colourBar.top() + y, colourBar.width(), 1), colourAt(options.map, position, t.dark));
    }
    struct Tick {
        double position;
        QString text;
    };
    std::vector<Tick> ticks;
    const NormRange& range = normed.range;
    if (options.norm.norm == Norm::Rank) {
        for (const int percent : {0, 25, 50, 75, 100})
            ticks.push_back({percent / 100.0, QString::number(percent) + QChar(0x00A0) + QLatin1Char('%')});
    } else if (options.norm.perLayer) {
        ticks = {{0.0, HeatmapView::tr("low")}, {1.0, HeatmapView::tr("high")}};
    } else if (range.valid && range.high > range.low) {
        if (options.norm.norm == Norm::Log && range.high / range.low > 3) {
            const double decades = std::log10(range.high / range.low);
            for (double e = std::floor(std::log10(range.low)); e <= std::ceil(std::log10(range.high)); ++e) {
                for (const double factor : {1.0, 3.0}) {
                    if (factor == 3.0 && decades > 4) continue;
                    const double value = factor * std::pow(10.0, e);
                    if (value < range.low || value > range.high) continue;
                    ticks.push_back({normPosition(value, range, Norm::Log),
                                     value >= 0.001 && value < 1e4 ? QLocale().toString(value, 'g', 3) : format::score(value)});
                }
            }
        } else {
            for (const double value : roundTicks(range.low, range.high, 5))
                ticks.push_back({normPosition(value, range, options.norm.norm), format::score(value)});
        }
    } else if (range.valid) {
        ticks.push_back({0.5, format::score(range.low)});
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
    const QString name = scoreName();
    const int nameWidth = metrics.horizontalAdvance(name);
    const int right = std::min(canvas->width() - 2, std::max(colourBar.center().x() + nameWidth / 2 + 1, colourBar.left() + nameWidth));
    const int top = cells.bottom() + 1 + pixelsOf(4);
    painter->drawText(QRect(right - nameWidth - 2, top, nameWidth + 4, metrics.height()), Qt::AlignCenter, name);
    if (!scores.unit.empty()) {
        const QString unit = QString::fromStdString(scores.unit);
        painter->drawText(QRect(right - nameWidth - 60, top + metrics.height(), nameWidth + 60, metrics.height()),
                          Qt::AlignRight | Qt::AlignVCenter, unit);
    }
}

void HeatmapView::Private::drawFrame(QCPPainter* painter)
{
    if (!hasScores || rowCount() == 0) return;
    const Theme& t = theme();
    const QFont small = fontFor(FontRole::Small);
    const QFontMetrics metrics(small);
    const CellId current = selection->current();
    painter->setAntialiasing(false);

    // Row labels, every 14 px at least.
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
        if (row % rowStep != 0) continue;
        if (visibleCell(window.left(), current.layer) && std::abs(row - current.layer) * cellHeight < pixelsOf(12)) continue;
        painter->setFont(small);
        painter->setPen(t.muted);
        painter->drawText(rowRect(row), Qt::AlignRight | Qt::AlignVCenter, QString::number(row));
    }
    if (current.layer >= window.top() && current.layer <= window.bottom()) {
        painter->setFont(fontFor(FontRole::SmallStrong));
        painter->setPen(t.accent);
        painter->drawText(rowRect(current.layer), Qt::AlignRight | Qt::AlignVCenter, QString::number(current.layer));
    }

    // Column labels.
    int columnStep = 1;
    for (const int step : {1, 2, 5, 10, 20, 50, 100}) {
        columnStep = step;
        if (step * cellWidth >= pixelsOf(44)) break;
    }
    const int labelTop = cells.bottom() + 1 + pixelsOf(4);
    const int currentColumn =
        validCell(current) ? columns[static_cast<std::size_t>(current.layer)][static_cast<std::size_t>(current.expert)] : -1;
    const auto columnRect = [&](int column) {
        const int x = boxOf(column, window.top()).center().x();
        return QRect(x - 30, labelTop, 60, metrics.height());
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
                         : options.sort == ExpertSort::Score ? HeatmapView::tr("experts of each layer, by %1").arg(scoreName())
                                                             : HeatmapView::tr("experts of each layer, by usage");
    painter->drawText(QRect(cells.left(), labelTop + metrics.height(), cells.width(), metrics.height()), Qt::AlignCenter, axis);
    drawLegend(painter, labelTop + 2 * metrics.height() + pixelsOf(6));

    if (!bars.isNull()) {
        double most = 0;
        for (const double value : importance) {
            if (std::isfinite(value)) most = std::max(most, std::abs(value));
        }
        for (int row = window.top(); row <= window.bottom() && most > 0; ++row) {
            const double value = static_cast<std::size_t>(row) < importance.size() ? importance[static_cast<std::size_t>(row)] : kNaN;
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
    if (!histogram.isNull()) {
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

// ---- texts

void HeatmapView::Private::refreshReadout()
{
    const CellId hovered = hover->hovered();
    const CellId cell = validCell(hovered) ? hovered : selection->current();
    readout->parts.clear();
    readout->name.clear();
    if (const auto f = q->facts(cell)) {
        using Part = HeatmapReadout::Part;
        readout->name = format::layerExpert(cell.layer, cell.expert);
        readout->parts.push_back(Part{scoreName() + QLatin1Char(' ') + format::score(f->value) + valueUnit(),
                                      scoreName() + QLatin1Char(' ') + format::score(f->value), 0});
        if (f->place > 0)
            readout->parts.push_back(Part{HeatmapView::tr("place %1 of %2 in layer").arg(f->place).arg(f->experts),
                                          HeatmapView::tr("place %1 of %2").arg(f->place).arg(f->experts), 1});
        if (std::isfinite(f->percentile))
            readout->parts.push_back(Part{HeatmapView::tr("percentile %1").arg(format::number(f->percentile, 0)), {}, 4});
        if (std::isfinite(f->usage)) readout->parts.push_back(Part{HeatmapView::tr("usage %1").arg(format::share(f->usage)), {}, 6});
        QString state = f->state == CellState::Dropped ? HeatmapView::tr("dropped") : HeatmapView::tr("kept");
        if (f->isProtected) state += QStringLiteral(", ") + HeatmapView::tr("protected");
        if (f->rank > 0) state += QStringLiteral(", ") + HeatmapView::tr("rank %1").arg(f->rank);
        readout->parts.push_back(Part{state, {}, 2});
        if (f->locked) readout->parts.push_back(Part{HeatmapView::tr("layer locked"), {}, 7});
        const QString size = format::bytes(f->bytes);
        readout->parts.push_back(Part{
            f->state == CellState::Dropped ? HeatmapView::tr("%1 saved").arg(size) : HeatmapView::tr("%1 if dropped").arg(size), size, 3});
    } else if (cell.valid() && cell.layer < rowCount()) {
        readout->name = format::layerExpert(cell.layer, -1);
        readout->parts.push_back(
            {expertsOf(cell.layer) == 0
                 ? HeatmapView::tr("dense layer, no experts")
                 : HeatmapView::tr("%1 kept").arg(format::keptOf(
                       hasPlan() ? static_cast<int>(plan.layer(cell.layer).kept.size()) : expertsOf(cell.layer), expertsOf(cell.layer))),
             {},
             0});
    }
    readout->update();
}

QString HeatmapView::Private::tooltip(CellId c) const
{
    const auto f = q->facts(c);
    if (!f) return {};
    QString second = scoreName() + QLatin1Char(' ') + format::score(f->value) + valueUnit();
    if (f->place > 0) second += format::kDot + HeatmapView::tr("place %1 of %2 in layer").arg(f->place).arg(f->experts);
    QStringList third;
    if (std::isfinite(f->percentile)) third += HeatmapView::tr("percentile %1").arg(format::number(f->percentile, 0));
    if (std::isfinite(f->usage)) third += HeatmapView::tr("usage %1").arg(format::share(f->usage));
    QStringList fourth;
    fourth += f->state == CellState::Dropped ? HeatmapView::tr("dropped") : HeatmapView::tr("kept");
    if (f->isProtected) fourth += HeatmapView::tr("protected");
    if (f->locked) fourth += HeatmapView::tr("layer locked");
    if (f->rank > 0) fourth += HeatmapView::tr("rank %1").arg(f->rank);
    fourth += f->state == CellState::Dropped ? HeatmapView::tr("%1 saved").arg(format::bytes(f->bytes))
                                             : HeatmapView::tr("%1 if dropped").arg(format::bytes(f->bytes));
    QString text = QStringLiteral("<b>%1</b><br>%2").arg(format::layerExpert(c.layer, c.expert), second.toHtmlEscaped());
    if (!third.isEmpty()) text += QStringLiteral("<br>") + third.join(format::kDot).toHtmlEscaped();
    return text + QStringLiteral("<br>") + fourth.join(format::kDot).toHtmlEscaped();
}

void HeatmapView::Private::announce()
{
    const QString text = q->factsText(selection->current());
    canvas->setAccessibleDescription(text);
    if (!canvas->hasFocus()) return;
    QAccessibleEvent changed(canvas, QAccessible::DescriptionChanged);
    QAccessible::updateAccessibility(&changed);
    QAccessibleEvent name(canvas, QAccessible::NameChanged);
    QAccessible::updateAccessibility(&name);
}

void HeatmapView::Private::refreshEmpty()
{
    empty->set(isError ? EmptyState::Kind::Error : EmptyState::Kind::Empty,
               isError ? QStringLiteral("triangle-alert") : QStringLiteral("grid-3x3"), emptyWhat, emptyWhy, emptyButton);
    empty->setButtonEnabled(emptyButtonEnabled);
    stack->setCurrentIndex(hasScores && rowCount() > 0 ? 0 : 1);
}

void HeatmapView::Private::refreshChoosers()
{
    const QSignalBlocker b1(scoreBox);
    const QSignalBlocker b2(normBox);
    const QSignalBlocker b3(clipBox);
    const QSignalBlocker b4(sortBox);
    const QSignalBlocker b5(perLayer);
    scoreBox->setCurrentIndex(scoreBox->findData(options.score));
    normBox->setCurrentIndex(normBox->findData(normId(options.norm.norm)));
    int clip = -1;
    for (int i = 0; i < clipBox->count(); ++i) {
        if (std::abs(clipBox->itemData(i).toDouble() - options.norm.clipPercent) < 1e-6) clip = i;
    }
    clipBox->setCurrentIndex(clip);
    clipBox->setEnabled(options.norm.norm != Norm::Rank);
    sortBox->setCurrentIndex(sortBox->findData(expertSortId(options.sort)));
    perLayer->setChecked(options.norm.perLayer);
    clipBox->setVisible(!compact);
    chooserLine->setVisible(!compact);
    perLayer->setVisible(!compact);
    scoreBox->setVisible(scoreBox->count() > 0 && scoreBox->currentIndex() >= 0);
}

// ---- interaction

void HeatmapView::Private::selectBox(const QRect& box)
{
    std::set<CellId> chosen;
    for (int row = box.top(); row <= box.bottom(); ++row) {
        for (int column = box.left(); column <= std::min(box.right(), expertsOf(row) - 1); ++column)
            chosen.insert({row, experts[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)]});
    }
    selection->select(std::move(chosen));
}

void HeatmapView::Private::moveCursor(int columnStep, int rowStep, bool extend)
{
    CellId cell = selection->current();
    if (!validCell(cell)) {
        for (int l = 0; l < rowCount(); ++l) {
            if (expertsOf(l) > 0) {
                selection->setCurrent({l, 0});
                return;
            }
        }
        return;
    }
    int column = columns[static_cast<std::size_t>(cell.layer)][static_cast<std::size_t>(cell.expert)];
    int row = cell.layer;
    if (rowStep != 0) {
        const int direction = rowStep > 0 ? 1 : -1;
        int target = std::clamp(row + rowStep, 0, rowCount() - 1);
        // Dense layers are stepped over; at the edge the cursor stays on the last layer with experts.
        while (target >= 0 && target < rowCount() && expertsOf(target) == 0)
            target += direction;
        if (target < 0 || target >= rowCount()) {
            target = std::clamp(row + rowStep, 0, rowCount() - 1);
            while (target != row && expertsOf(target) == 0)
                target -= direction;
        }
        row = target;
    }
    column = std::clamp(column + columnStep, 0, std::max(0, expertsOf(row) - 1));
    const CellId next{row, experts[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)]};
    if (extend) {
        if (!anchor.valid()) anchor = cell;
        const int anchorColumn = q->columnOf(anchor);
        selectBox(QRect(QPoint(std::min(anchorColumn, column), std::min(anchor.layer, row)),
                        QPoint(std::max(anchorColumn, column), std::max(anchor.layer, row))));
    } else {
        anchor = next;
    }
    // Keeps the cursor in sight when zoomed.
    QRect view = window;
    if (column < view.left()) view.moveLeft(column);
    if (column > view.right()) view.moveRight(column);
    if (row < view.top()) view.moveTop(row);
    if (row > view.bottom()) view.moveBottom(row);
    setWindow(view, false);
    selection->setCurrent(next);
}

void HeatmapView::Private::requestToggle(CellId c)
{
    const std::set<CellId>& chosen = selection->selected();
    if (chosen.size() > 1 && chosen.contains(c))
        emit q->setKeptRequested(chosen, !kept(c));
    else
        emit q->toggleRequested(c.layer, c.expert);
}

void HeatmapView::Private::key(QKeyEvent* event)
{
    const CellId cell = selection->current();
    const bool shift = event->modifiers() & Qt::ShiftModifier;
    const bool control = event->modifiers() & Qt::ControlModifier;
    const auto keepStep = [&](int delta) {
        if (cell.layer < 0 || expertsOf(cell.layer) == 0) return;
        steps->step();
        emit q->keepStepRequested(cell.layer, delta);
    };
    switch (event->key()) {
        case Qt::Key_Left:
            if (control) break;
            moveCursor(-1, 0, shift);
            return;
        case Qt::Key_Right:
            if (control) break;
            moveCursor(1, 0, shift);
            return;
        case Qt::Key_Up:
            control ? keepStep(shift ? 5 : 1) : moveCursor(0, -1, shift);
            return;
        case Qt::Key_Down:
            control ? keepStep(shift ? -5 : -1) : moveCursor(0, 1, shift);
            return;
        case Qt::Key_BracketRight:
            keepStep(shift ? 5 : 1);
            return;
        case Qt::Key_BracketLeft:
            keepStep(shift ? -5 : -1);
            return;
        case Qt::Key_BraceRight:
            keepStep(5);
            return;
        case Qt::Key_BraceLeft:
            keepStep(-5);
            return;
        case Qt::Key_Home:
            moveCursor(-columnCount(), 0, shift);
            return;
        case Qt::Key_End:
            moveCursor(columnCount(), 0, shift);
            return;
        case Qt::Key_PageUp:
            moveCursor(0, -10, shift);
            return;
        case Qt::Key_PageDown:
            moveCursor(0, 10, shift);
            return;
        case Qt::Key_Space:
            if (validCell(cell)) requestToggle(cell);
            return;
        case Qt::Key_P:
            if (control) break;
            if (validCell(cell)) emit q->protectRequested(cell.layer, cell.expert);
            return;
        case Qt::Key_L:
            if (control) break;
            if (cell.valid()) emit q->lockRequested(cell.layer);
            return;
        case Qt::Key_F: {
            if (control || selection->selected().empty()) break;
            QRect around;
            for (const CellId& c : selection->selected()) {
                if (validCell(c)) around = around.united(QRect(q->columnOf(c), c.layer, 1, 1));
            }
            if (!around.isNull()) setWindow(around.adjusted(-1, -1, 1, 1), true);
            return;
        }
        case Qt::Key_Backspace:
            if (!zoomBack.empty()) {
                const QRect back = zoomBack.back();
                zoomBack.pop_back();
                setWindow(back, false);
            }
            return;
        case Qt::Key_Period:
        case Qt::Key_Comma: {
            const std::set<CellId>& chosen = selection->selected();
            if (chosen.empty()) return;
            auto at = event->key() == Qt::Key_Period ? chosen.upper_bound(cell) : chosen.lower_bound(cell);
            if (event->key() == Qt::Key_Period)
                at = at == chosen.end() ? chosen.begin() : at;
            else
                at = at == chosen.begin() ? std::prev(chosen.end()) : std::prev(at);
            selection->setCurrent(*at);
            return;
        }
        case Qt::Key_Escape:
            if (selection->selected().empty()) break;
            selection->clear();
            return;
        default:
            break;
    }
    event->ignore();
}

void HeatmapView::Private::contextMenu(const QPoint& at, const QPoint& global)
{
    QMenu menu(q);
    const CellId cell = q->cellAt(at);
    if (validCell(cell)) {
        if (!selection->isSelected(cell)) selection->setCurrent(cell);
        const bool many = selection->selected().size() > 1 && selection->isSelected(cell);
        if (many) {
            const std::set<CellId> chosen = selection->selected();
            const int count = static_cast<int>(chosen.size());
            QObject::connect(menu.addAction(HeatmapView::tr("Keep %n expert(s)", nullptr, count)), &QAction::triggered, q,
                             [this, chosen] { emit q->setKeptRequested(chosen, true); });
            QObject::connect(menu.addAction(HeatmapView::tr("Drop %n expert(s)", nullptr, count)), &QAction::triggered, q,
                             [this, chosen] { emit q->setKeptRequested(chosen, false); });
        } else {
            QAction* toggle = menu.addAction(kept(cell) ? HeatmapView::tr("Drop expert") : HeatmapView::tr("Keep expert"));
            toggle->setShortcut(Qt::Key_Space);
            QObject::connect(toggle, &QAction::triggered, q, [this, cell] { emit q->toggleRequested(cell.layer, cell.expert); });
        }
        QAction* guard = menu.addAction(isProtected(cell) ? HeatmapView::tr("Stop protecting expert") : HeatmapView::tr("Protect expert"));
        guard->setShortcut(Qt::Key_P);
        QObject::connect(guard, &QAction::triggered, q, [this, cell] { emit q->protectRequested(cell.layer, cell.expert); });
        QAction* lock = menu.addAction(lockedLayer(cell.layer) ? HeatmapView::tr("Unlock layer %1").arg(cell.layer)
                                                               : HeatmapView::tr("Lock layer %1").arg(cell.layer));
        lock->setShortcut(Qt::Key_L);
        QObject::connect(lock, &QAction::triggered, q, [this, cell] { emit q->lockRequested(cell.layer); });
        menu.addSeparator();
    }
    QMenu* maps = menu.addMenu(HeatmapView::tr("Colours"));
    for (const ColourMap choice : {ColourMap::Viridis, ColourMap::Cividis, ColourMap::Magma, ColourMap::Grey}) {
        QAction* action = maps->addAction(colourMapId(choice));
        action->setCheckable(true);
        action->setChecked(options.map == choice);
        QObject::connect(action, &QAction::triggered, q, [this, choice] {
            options.map = choice;
            userChanged();
        });
    }
    if (!zoomBack.empty()) {
        QObject::connect(menu.addAction(HeatmapView::tr("Show all")), &QAction::triggered, q, [this] {
            zoomBack.clear();
            setWindow(QRect(0, 0, columnCount(), rowCount()), false);
        });
    }
    menu.exec(global);
}

void HeatmapView::Private::userChanged()
{
    q->setOptions(HeatmapOptions(options));
    emit q->optionsChanged(options);
}

// ---- HeatmapView

HeatmapView::HeatmapView(SelectionModel* selection, HoverModel* hover, QWidget* parent)
    : QWidget(parent), d(std::make_unique<Private>(this, selection, hover))
{
    d->steps = new StepGesture(this);
    connect(d->steps, &StepGesture::started, this, &HeatmapView::gestureStarted);
    connect(d->steps, &StepGesture::finished, this, &HeatmapView::gestureFinished);

    d->stack = new QStackedLayout(this);
    auto* page = new QWidget(this);
    auto* column = new QVBoxLayout(page);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(0);
    d->canvas = new HeatmapCanvas(d.get(), page);
    preparePlot(d->canvas);
    d->canvas->setAccessibleName(tr("Importance of experts, layers by experts"));
    column->addWidget(d->canvas, 1);
    d->readout = new HeatmapReadout(page);
    column->addWidget(d->readout);
    d->stack->addWidget(page);
    d->empty = new EmptyState(this);
    d->stack->addWidget(d->empty);
    connect(d->empty, &EmptyState::buttonClicked, this, &HeatmapView::profileRequested);
    setFocusProxy(d->canvas);

    d->canvas->plotLayout()->setMargins(QMargins(0, 0, 0, 0));
    d->canvas->axisRect()->setAutoMargins(QCP::msNone);
    d->canvas->axisRect()->setMinimumSize(1, 1);
    d->canvas->yAxis->setRangeReversed(true);
    for (QCPAxis* axis : {d->canvas->xAxis, d->canvas->yAxis}) {
        axis->setVisible(false);
        axis->grid()->setVisible(false);
    }
    d->map = new QCPColorMap(d->canvas->xAxis, d->canvas->yAxis);
    d->map->setInterpolate(false);
    d->map->setAntialiased(false);
    new PlotPainting(d->canvas, QStringLiteral("axes"), [this](QCPPainter* p) {
        d->drawMarks(p);
        d->drawFrame(p);
    });
    new PlotPainting(d->canvas, kOverlayLayer, [this](QCPPainter* p) { d->drawOverlay(p); });

    d->chooserRow = new QWidget;
    auto* row = new QHBoxLayout(d->chooserRow);
    row->setContentsMargins(0, 0, 0, 0);
    row->setSpacing(8);
    const auto box = [&](const QString& name) {
        auto* combo = new QComboBox(d->chooserRow);
        combo->setSizeAdjustPolicy(QComboBox::AdjustToContents);
        combo->setAccessibleName(name);
        combo->setToolTip(name);
        row->addWidget(combo);
        return combo;
    };
    d->scoreBox = box(tr("Score"));
    d->normBox = box(tr("Norm"));
    for (const Norm norm : {Norm::Linear, Norm::Log, Norm::Sqrt, Norm::Rank})
        d->normBox->addItem(norm == Norm::Rank ? tr("percentile") : normId(norm), normId(norm));
    d->clipBox = box(tr("Range of the colours"));
    for (const ClipChoice& clip : kClips)
        d->clipBox->addItem(tr(clip.text), clip.percent);
    d->sortBox = box(tr("Order of the experts"));
    d->sortBox->addItem(tr("by index"), expertSortId(ExpertSort::Index));
    d->sortBox->addItem(tr("by score"), expertSortId(ExpertSort::Score));
    d->sortBox->addItem(tr("by usage"), expertSortId(ExpertSort::Usage));
    d->chooserLine = new QFrame(d->chooserRow);
    d->chooserLine->setFixedWidth(1);
    d->chooserLine->setObjectName(QStringLiteral("hairline"));
    d->chooserLine->hide();
    row->addWidget(d->chooserLine);
    d->perLayer = new Switch(tr("Per layer"), d->chooserRow);
    d->perLayer->setTextLeft(true);
    d->perLayer->setToolTip(tr("Each layer has its own range of colours"));
    row->addWidget(d->perLayer);
    connect(d->scoreBox, &QComboBox::activated, this, [this](int index) {
        d->options.score = d->scoreBox->itemData(index).toString();
        d->userChanged();
    });
    connect(d->normBox, &QComboBox::activated, this, [this](int index) {
        d->options.norm.norm = normFromId(d->normBox->itemData(index).toString());
        d->userChanged();
    });
    connect(d->clipBox, &QComboBox::activated, this, [this](int index) {
        d->options.norm.clipPercent = d->clipBox->itemData(index).toDouble();
        d->userChanged();
    });
    connect(d->sortBox, &QComboBox::activated, this, [this](int index) {
        d->options.sort = expertSortFromId(d->sortBox->itemData(index).toString());
        d->userChanged();
    });
    connect(d->perLayer, &QAbstractButton::clicked, this, [this](bool on) {
        d->options.norm.perLayer = on;
        d->userChanged();
    });

    connect(selection, &SelectionModel::currentChanged, this, [this] {
        d->replot();  // row and column labels follow the cursor
        d->refreshReadout();
        d->announce();
    });
    connect(selection, &SelectionModel::selectionChanged, this, [this] { d->replotOverlay(); });
    connect(hover, &HoverModel::hoveredChanged, this, [this] {
        d->replotOverlay();
        d->refreshReadout();
    });

    setEmptyText(tr("No scores yet"), tr("A profile pass measures every expert once and feeds all metrics."), tr("Profile…"));
    d->refreshChoosers();
}

HeatmapView::~HeatmapView()
{
    // The canvas draws through d; it must be gone first.
    delete d->canvas;
    d->canvas = nullptr;
    if (d->chooserRow && d->chooserRow->parent() == nullptr) delete d->chooserRow.data();
}

QWidget* HeatmapView::choosers() const { return d->chooserRow; }
const HeatmapOptions& HeatmapView::options() const { return d->options; }
QCustomPlot* HeatmapView::plot() const { return d->canvas; }
QStringList HeatmapView::legend() const { return d->legendTexts(); }

std::optional<CellFacts> HeatmapView::facts(CellId cell) const
{
    if (!d->validCell(cell)) return std::nullopt;
    const LayerShape& layer = d->shape.layers[static_cast<std::size_t>(cell.layer)];
    CellFacts f;
    f.cell = cell;
    f.value = d->valueOf(cell);
    f.isProtected = d->isProtected(cell);
    f.locked = d->lockedLayer(cell.layer);
    f.experts = layer.experts;
    const auto l = static_cast<std::size_t>(cell.layer);
    if (l < d->places.size() && static_cast<std::size_t>(cell.expert) < d->places[l].size())
        f.place = d->places[l][static_cast<std::size_t>(cell.expert)];
    f.percentile = Private::gridValue(d->percentiles, cell);
    f.usage = Private::gridValue(d->usage, cell);
    f.bytes = layer.bytesPerExpert + layer.routerBytesPerExpert;
    f.rank = d->lowRank(cell);
    f.state = !d->kept(cell)        ? CellState::Dropped
              : f.isProtected       ? CellState::Protected
              : std::isnan(f.value) ? CellState::Missing
                                    : CellState::Kept;
    return f;
}

QString HeatmapView::factsText(CellId cell) const
{
    QString text = d->tooltip(cell);
    text.replace(QStringLiteral("<br>"), QStringLiteral(", ")).remove(QStringLiteral("<b>")).remove(QStringLiteral("</b>"));
    return text;
}

CellId HeatmapView::cellAt(const QPointF& position) const
{
    const QPoint p(static_cast<int>(std::floor(position.x())), static_cast<int>(std::floor(position.y())));
    if (!d->hasScores || !d->cells.contains(p)) return {};
    const int column = d->columnAt(p.x());
    const int row = d->rowAt(p.y());
    if (row >= d->rowCount() || column >= d->expertsOf(row)) return {};
    return {row, d->experts[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)]};
}

QRectF HeatmapView::cellRect(CellId cell) const { return d->cellBox(cell); }

int HeatmapView::columnOf(CellId cell) const
{
    return d->validCell(cell) ? d->columns[static_cast<std::size_t>(cell.layer)][static_cast<std::size_t>(cell.expert)] : -1;
}

int HeatmapView::expertAtColumn(int layer, int column) const
{
    if (column < 0 || column >= d->expertsOf(layer)) return -1;
    return d->experts[static_cast<std::size_t>(layer)][static_cast<std::size_t>(column)];
}

int HeatmapView::layerCount() const { return d->rowCount(); }

QRect HeatmapView::zoom() const
{
    return d->window == QRect(0, 0, std::max(1, d->columnCount()), std::max(1, d->rowCount())) ? QRect() : d->window;
}

void HeatmapView::setZoom(const QRect& columnsRows)
{
    const QRect all(0, 0, std::max(1, d->columnCount()), std::max(1, d->rowCount()));
    d->zoomBack.clear();
    if (columnsRows.isNull()) return d->setWindow(all, false);
    d->setWindow(columnsRows, columnsRows != all && d->window == all);
}

void HeatmapView::setShape(const ModelShape& shape)
{
    d->shape = shape;
    d->plan = {};
    d->scores = {};
    d->usage = {};
    d->hasScores = false;
    d->zoomBack.clear();
    d->window = QRect(0, 0, std::max(1, d->columnCount()), std::max(1, d->rowCount()));
    d->rebuildStatistics();
    d->rebuildOrder();
    d->rebuildColours();
    d->layoutPlot();
    d->refreshEmpty();
    d->refreshReadout();
    d->replot();
}

void HeatmapView::setPlan(const CompressionPlan& plan)
{
    d->plan = plan;
    d->refreshReadout();
    d->announce();
    d->replot();
}

void HeatmapView::setScores(const ExpertScores& scores)
{
    d->scores = scores;
    d->hasScores = true;
    d->isError = false;
    if (d->options.score.isEmpty()) d->options.score = QString::fromStdString(scores.method);
    d->rebuildStatistics();
    d->rebuildOrder();
    d->rebuildColours();
    d->layoutPlot();
    d->refreshEmpty();
    d->refreshChoosers();
    d->refreshReadout();
    d->announce();
    d->replot();
}

void HeatmapView::setUsage(const ExpertGrid& usage)
{
    d->usage = usage;
    if (d->options.sort == ExpertSort::Usage) {
        d->rebuildOrder();
        d->rebuildColours();
    }
    d->refreshReadout();
    d->replot();
}

void HeatmapView::clearScores()
{
    d->scores = {};
    d->hasScores = false;
    d->rebuildStatistics();
    d->rebuildOrder();
    d->rebuildColours();
    d->refreshEmpty();
    d->refreshReadout();
    d->replot();
}

void HeatmapView::setScoreChoices(const QStringList& ids, const QStringList& titles)
{
    const QSignalBlocker blocker(d->scoreBox);
    d->scoreBox->clear();
    for (int i = 0; i < ids.size(); ++i) {
        d->scoreBox->addItem(ids[i], ids[i]);
        d->scoreBox->setItemData(i, titles.value(i), Qt::ToolTipRole);
    }
    d->refreshChoosers();
}

void HeatmapView::setOptions(const HeatmapOptions& options)
{
    d->options = options;
    d->rebuildOrder();
    d->rebuildColours();
    d->refreshChoosers();
    d->layoutPlot();
    d->refreshReadout();
    d->replot();
}

void HeatmapView::setEmptyText(const QString& what, const QString& why, const QString& button, bool buttonEnabled)
{
    d->isError = false;
    d->emptyWhat = what;
    d->emptyWhy = why;
    d->emptyButton = button;
    d->emptyButtonEnabled = buttonEnabled;
    d->refreshEmpty();
}

void HeatmapView::setErrorText(const QString& what, const QString& why, const QString& button)
{
    setEmptyText(what, why, button);
    d->isError = true;
    d->refreshEmpty();
}

void HeatmapView::setCompact(bool compact)
{
    if (d->compact == compact) return;
    d->compact = compact;
    d->refreshChoosers();
    d->layoutPlot();
    d->replot();
}

void HeatmapView::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if ((event->type() == QEvent::StyleChange || event->type() == QEvent::FontChange) && d != nullptr && d->map != nullptr &&
        d->readout != nullptr) {
        stylePlot(d->canvas, theme());
        d->rebuildColours();
        d->layoutPlot();
        d->replot();
        d->readout->update();
    }
}

bool HeatmapView::event(QEvent* event) { return QWidget::event(event); }

}  // namespace espalier
