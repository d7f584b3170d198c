// The heatmap's inside, shared by its files: what is drawn (Private), the plot widget that passes mouse and keys on, the readout.
// heatmap_data.cpp derives order, statistics, colours and geometry; heatmap_marks.cpp and heatmap_frame.cpp draw; heatmap_canvas.cpp
// takes input; heatmap_texts.cpp says everything in words; heatmap_view.cpp is the public face.
#pragma once

#include "heatmap/heatmap_view.h"
#include "look/controls.h"
#include "look/fold_row.h"
#include "look/gesture.h"
#include "look/plot.h"
#include "look/plot_table.h"

#include <QPointer>

#include <algorithm>
#include <limits>
#include <vector>

class QComboBox;
class QMenu;
class QStackedLayout;

namespace espalier
{

inline constexpr int kMarkLimit = 8;  // smaller cells get no gap, outline or corner

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
    void paintEvent(QPaintEvent* event) override;
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
    ExpertScores ranks;  // of the plan: dense experts at break-even, dropped ones without value
    ExpertGrid usage;
    HeatmapOptions options;
    bool compact = false;
    bool hasScores = false;
    std::vector<int> searching;  // layers, ascending
    QString constantsProblem;

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
    QPointer<FoldRow> chooserRow;  // the panel's once it is added there, and may go before the view
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

    CellId told;       // what a screen reader was told last
    QString toldText;  // and what of it
    CellId anchor;     // of shift selection
    QPoint pressed;
    bool boxing = false;
    CellId armed;  // pressed without a key: a double click there toggles it, unless a drag came between
    QRect box;     // columns and rows of the box selection under way

    int rowCount() const { return static_cast<int>(shape.layers.size()); }
    int columnCount() const { return shape.maxExperts(); }
    int expertsOf(int layer) const { return layer >= 0 && layer < rowCount() ? shape.layers[static_cast<std::size_t>(layer)].experts : 0; }
    bool validCell(CellId c) const { return c.layer >= 0 && c.layer < rowCount() && c.expert >= 0 && c.expert < expertsOf(c.layer); }
    bool hasPlan() const { return plan.layerCount() == rowCount() && rowCount() > 0; }

    // What the colours are of.
    NormOptions& normShown() { return options.ranks() ? options.rankNorm : options.norm; }
    const ExpertScores& shown() const { return options.ranks() ? ranks : scores; }
    double valueOf(CellId c) const { return gridValue(scores.values, c); }
    static double gridValue(const ExpertGrid& grid, CellId c)
    {
        const auto l = static_cast<std::size_t>(c.layer);
        const auto e = static_cast<std::size_t>(c.expert);
        return c.layer >= 0 && l < grid.rows.size() && e < grid.rows[l].size() ? grid.rows[l][e] : std::numeric_limits<double>::quiet_NaN();
    }
    bool lockedLayer(int layer) const { return hasPlan() && plan.isLocked(layer); }
    bool searchingLayer(int layer) const { return std::binary_search(searching.begin(), searching.end(), layer); }
    bool isProtected(CellId c) const
    {
        if (!hasPlan()) return false;
        const ExpertSet& set = plan.protectedExperts(c.layer);
        return std::binary_search(set.begin(), set.end(), c.expert);
    }
    ExpertState stateOf(CellId c) const { return expertState(shape, plan, c); }
    bool computes(CellId c) const
    {
        const ExpertState state = stateOf(c);
        return state == ExpertState::Kept || state == ExpertState::LowRank;
    }
    bool kept(CellId c) const { return !hasPlan() || plan.keeps(c.layer, c.expert); }
    bool rankFree() const { return !hasPlan() || !plan.hasRanks(); }
    bool dense(CellId c) const { return stateOf(c) == ExpertState::Kept; }
    bool skipped(int layer) const { return hasPlan() && layer >= 0 && layer < rowCount() && !plan.layer(layer).runsExperts(); }

    void makeMap();
    void makeChoosers();
    void connectChoosers();

    void rebuildOrder();
    void rebuildStatistics();
    void rebuildRanks();
    void rebuildColours();
    void layoutPlot();
    void refreshEmpty();
    void refreshChoosers();
    void refreshReadout();
    void rankParts(const CellFacts& facts);  // of the readout
    QString rankText(const CellFacts& facts) const;
    QString sizeText(const CellFacts& facts) const;
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
    int labelAt(const QPoint& p) const;  // row of the label there; -1: none
    bool visibleCell(int column, int row) const { return window.contains(column, row); }
    QColor colourOf(CellId c) const;
    QString valueUnit() const { return scores.unit.empty() ? QString() : QChar(0x00A0) + QString::fromStdString(scores.unit); }
    QString scoreName() const { return QString::fromStdString(scores.method); }
    QString shownName() const { return QString::fromStdString(shown().method); }
    // What the legend can explain: the states of experts, and what is beside them.
    struct LegendEntry {
        enum class Kind { State, Protected, Whole, Missing, BelowFloor, Locked, Searching };
        Kind kind = Kind::State;
        ExpertState state = ExpertState::Kept;
        QString text;
    };
    std::vector<LegendEntry> legendEntries() const;

    void drawMarks(QCPPainter* painter);
    void drawFrame(QCPPainter* painter);
    void drawSearched(QCPPainter* painter);
    void drawRowLabels(QCPPainter* painter);
    void drawColumnLabels(QCPPainter* painter, int top);
    void drawLayerBars(QCPPainter* painter, int labelTop);
    void drawHistogram(QCPPainter* painter);
    void drawOverlay(QCPPainter* painter);
    void drawSkippedRows(QCPPainter* painter);
    void drawLegend(QCPPainter* painter, int top);
    void drawLegendBox(QCPPainter* painter, const LegendEntry& entry, const QRect& box) const;
    void drawColourBar(QCPPainter* painter);

    void moveCursor(int columnStep, int rowStep, bool extend);
    void selectBox(const QRect& columnsRows);
    void setWindow(QRect next, bool remember);
    void userChanged();
    void key(QKeyEvent* event);
    // Each: whether the key was one of its own.
    bool stepKey(QKeyEvent* event);
    bool editKey(QKeyEvent* event);
    bool selectionKey(QKeyEvent* event);
    void contextMenu(const QPoint& at, const QPoint& global);
    void addConstantActions(QMenu& menu, CellId cell);
    void addLayerActions(QMenu& menu, int layer);
    void requestConstant(CellId cell);
    QString tooltip(CellId c) const;
    void requestToggle(CellId c);
};

// The plot widget: passes mouse and keys to the view.
class HeatmapCanvas final : public QCustomPlot, public AccessibleTable
{
public:
    HeatmapCanvas(HeatmapView::Private* owner, QWidget* parent);
    bool keyFocus = false;  // the ring shows only where focus came by key

    // Rows are layers, columns as drawn.
    int tableRows() const override;
    int tableColumns() const override;
    QString tableRowName(int row) const override;
    QString tableColumnName(int column) const override;
    QString tableCellName(int row, int column) const override;
    QString tableCellValue(int row, int column) const override;
    QRect tableCellRect(int row, int column) const override;
    bool tableCellSelected(int row, int column) const override;
    QPoint tableCurrent() const override;
    void setTableCurrent(int row, int column) override;

protected:
    void resizeEvent(QResizeEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent*) override;
    void mouseDoubleClickEvent(QMouseEvent* event) override;
    void wheelEvent(QWheelEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void leaveEvent(QEvent*) override;
    void focusInEvent(QFocusEvent* event) override;
    void focusOutEvent(QFocusEvent* event) override;
    void contextMenuEvent(QContextMenuEvent* event) override;
    bool event(QEvent* event) override;

private:
    HeatmapView::Private* d;
};

}  // namespace espalier
