// The two plots of the search panel: a best-so-far curve against a dashed reference, and one bar per layer (or block) of what the search
// gained. Both are accessible tables. They draw what they are given and know nothing of searches.
#pragma once

#include "look/plot.h"
#include "look/plot_table.h"

#include <QString>

#include <functional>
#include <optional>
#include <vector>

namespace espalier
{

struct SearchCurve {
    struct Point {
        double y = 0;
        double error = 0;  // one standard error; 0: none
        bool taken = false;
        QString words;  // for the tooltip and who cannot see the point
    };

    QString title;   // above the plot: "layer output error, layer 14"
    QString xLabel;  // "generation"
    int first = 0;   // x of the first value
    std::vector<double> best;
    std::vector<double> xs;     // of each value, ascending; empty: first, first + 1, ..
    std::vector<Point> points;  // single measurements, at the same x as `best`
    std::optional<double> reference;
    QString referenceName;        // "by reap"
    std::optional<double> other;  // a second line to compare with
    QString otherName;
    QString bestName;  // "best"
    int most = 0;      // right end of the axis; 0: the last value
    bool growing = false;
    int decimals = -1;  // of values; -1: three significant digits
};

struct SearchBar {
    enum class State { Waiting, Running, Done, Locked };

    int id = 0;     // what `chosen` says
    QString label;  // under the axis
    QString name;   // "Layer 14"
    State state = State::Waiting;
    std::optional<double> value;
    QString words;
};

struct SearchBars {
    QString title;
    QString xLabel;
    bool percent = true;  // values are shares
    int decimals = 0;
    std::vector<SearchBar> bars;
    int current = -1;  // id
};

// What the two have in common: one row of values that the arrow keys walk, with tooltips, a focus ring and a table for screen readers.
class SearchPlot : public QCustomPlot, public AccessibleTable
{
    Q_OBJECT
public:
    int tableColumns() const override { return 1; }
    QString tableCellName(int row, int) const override { return tableRowName(row); }

protected:
    explicit SearchPlot(QWidget* parent);
    virtual void refresh() = 0;
    virtual void drawLabels(QCPPainter* painter) = 0;      // over the plot; not draw: that is QCustomPlot's own
    virtual int rowAt(const QPointF& position) const = 0;  // -1: none
    bool showsKeyFocus() const { return m_keyFocus && hasFocus(); }

    void resizeEvent(QResizeEvent* event) override;
    void changeEvent(QEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void focusInEvent(QFocusEvent* event) override;
    void focusOutEvent(QFocusEvent* event) override;
    bool event(QEvent* event) override;

private:
    bool m_keyFocus = false;
};

class SearchCurvePlot final : public SearchPlot
{
    Q_OBJECT
public:
    explicit SearchCurvePlot(QWidget* parent = nullptr);
    void setCurve(SearchCurve curve);
    const SearchCurve& curve() const { return m_curve; }

    int tableRows() const override { return static_cast<int>(m_curve.best.size()); }
    QString tableRowName(int row) const override;
    QString tableColumnName(int) const override { return m_curve.title; }
    QString tableCellValue(int row, int) const override;
    QRect tableCellRect(int row, int) const override;
    bool tableCellSelected(int row, int) const override { return row == m_cursor; }
    QPoint tableCurrent() const override { return m_cursor < 0 ? QPoint(-1, -1) : QPoint(0, m_cursor); }
    void setTableCurrent(int row, int) override;

private:
    void refresh() override;
    void drawLabels(QCPPainter* painter) override;
    int rowAt(const QPointF& position) const override;
    QString valueText(double value) const;
    double xOf(int row) const;
    QPointF at(int row, double y) const;

    SearchCurve m_curve;
    int m_cursor = -1;
};

class SearchBarPlot final : public SearchPlot
{
    Q_OBJECT
public:
    explicit SearchBarPlot(QWidget* parent = nullptr);
    void setBars(SearchBars bars);
    const SearchBars& bars() const { return m_bars; }

    int tableRows() const override { return static_cast<int>(m_bars.bars.size()); }
    QString tableRowName(int row) const override { return m_bars.bars[static_cast<std::size_t>(row)].name; }
    QString tableColumnName(int) const override { return m_bars.title; }
    QString tableCellValue(int row, int) const override { return m_bars.bars[static_cast<std::size_t>(row)].words; }
    QRect tableCellRect(int row, int) const override;
    bool tableCellSelected(int row, int) const override;
    QPoint tableCurrent() const override;
    void setTableCurrent(int row, int) override;

signals:
    void chosen(int id);

protected:
    void mousePressEvent(QMouseEvent* event) override;

private:
    void refresh() override;
    void drawLabels(QCPPainter* painter) override;
    int rowOf(int id) const;
    int rowAt(const QPointF& position) const override;

    SearchBars m_bars;
};

}  // namespace espalier
