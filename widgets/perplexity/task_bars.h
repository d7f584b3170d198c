// Accuracies by task as a chart that is a table: a row per task with the dense model's bar over the plan's, whiskers of one standard
// error, and the paired difference. Where it is narrow, columns of numbers go and the bars stay. GUI thread.
#pragma once

#include "look/plot_table.h"
#include "perplexity/task_table.h"

#include <QWidget>

#include <vector>

namespace espalier
{

class TaskBars final : public QWidget, public AccessibleTable
{
    Q_OBJECT
public:
    explicit TaskBars(QWidget* parent = nullptr);
    // `stale`: the plan's numbers belong to another plan than the one on screen. `single`: there is one model, no bars to compare.
    void setRows(std::vector<TaskRow> rows, TaskMetric metric, bool stale, bool single);
    const std::vector<TaskRow>& rows() const { return m_rows; }

    QSize sizeHint() const override;
    QSize minimumSizeHint() const override;

    int tableRows() const override { return static_cast<int>(m_rows.size()); }
    int tableColumns() const override { return 3; }
    QString tableRowName(int row) const override { return m_rows[static_cast<std::size_t>(row)].name; }
    QString tableColumnName(int column) const override;
    QString tableCellName(int row, int column) const override;
    QString tableCellValue(int row, int column) const override;
    QRect tableCellRect(int row, int column) const override;
    bool tableCellSelected(int row, int) const override { return row == m_current; }
    QPoint tableCurrent() const override { return m_current < 0 ? QPoint(-1, -1) : QPoint(1, m_current); }
    void setTableCurrent(int row, int column) override;
    // All there is to say of a row, as its tool tip does.
    QString rowText(int row) const;

signals:
    void currentChanged(const QRect& row);  // in this widget: to be scrolled to

protected:
    bool event(QEvent* event) override;
    void paintEvent(QPaintEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void focusInEvent(QFocusEvent* event) override;
    void focusOutEvent(QFocusEvent* event) override;

private:
    struct Columns {
        int name = 0;  // right edges
        int bars = 0;
        int plan = 0;  // equal to `bars`: not shown
        int delta = 0;
        bool brief = false;  // the difference without its error
    };
    Columns columns() const;
    int rowHeight() const;
    int headHeight() const;
    int rowAt(const QPoint& position) const;
    QString metricName() const;
    void paintHead(QPainter& painter, const Columns& at) const;
    void paintRow(QPainter& painter, const Columns& at, int row) const;
    void paintBar(QPainter& painter, const QRectF& area, const Accuracy& value, const QColor& colour) const;

    std::vector<TaskRow> m_rows;
    TaskMetric m_metric = TaskMetric::Acc;
    bool m_stale = false;
    bool m_single = false;
    int m_current = -1;
    bool m_keyFocus = false;
};

}  // namespace espalier
