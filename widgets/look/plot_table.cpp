#include "look/plot_table.h"

#include <QAccessible>
#include <QAccessibleWidget>
#include <QWidget>

#include <unordered_map>

namespace espalier
{

namespace
{

class PlotTable;

class PlotCell final : public QAccessibleInterface, public QAccessibleTableCellInterface
{
public:
    PlotCell(PlotTable* table, int row, int column) : m_table(table), m_row(row), m_column(column) {}

    bool isValid() const override;
    QObject* object() const override { return nullptr; }
    QAccessibleInterface* parent() const override;
    QAccessibleInterface* child(int) const override { return nullptr; }
    int childCount() const override { return 0; }
    int indexOfChild(const QAccessibleInterface*) const override { return -1; }
    QAccessibleInterface* childAt(int, int) const override { return nullptr; }
    QString text(QAccessible::Text text) const override;
    void setText(QAccessible::Text, const QString&) override {}
    QRect rect() const override;
    QAccessible::Role role() const override { return QAccessible::Cell; }
    QAccessible::State state() const override;
    void* interface_cast(QAccessible::InterfaceType type) override
    {
        return type == QAccessible::TableCellInterface ? static_cast<QAccessibleTableCellInterface*>(this) : nullptr;
    }

    bool isSelected() const override;
    QList<QAccessibleInterface*> columnHeaderCells() const override { return {}; }
    QList<QAccessibleInterface*> rowHeaderCells() const override { return {}; }
    int columnIndex() const override { return m_column; }
    int rowIndex() const override { return m_row; }
    int columnExtent() const override { return 1; }
    int rowExtent() const override { return 1; }
    QAccessibleInterface* table() const override;

private:
    PlotTable* m_table;
    int m_row;
    int m_column;
};

class PlotTable final : public QAccessibleWidget, public QAccessibleTableInterface
{
public:
    PlotTable(QWidget* widget, AccessibleTable* table) : QAccessibleWidget(widget, QAccessible::Table), m_table(table) {}
    ~PlotTable() override { forget(); }

    const AccessibleTable& content() const { return *m_table; }
    QWidget* view() const { return widget(); }
    bool holds(int row, int column) const { return row >= 0 && row < rowCount() && column >= 0 && column < columnCount(); }

    QAccessible::State state() const override
    {
        QAccessible::State state = QAccessibleWidget::state();
        state.multiSelectable = true;
        return state;
    }
    int childCount() const override { return rowCount() * columnCount(); }
    QAccessibleInterface* child(int index) const override
    {
        return columnCount() > 0 ? cell(index / columnCount(), index % columnCount()) : nullptr;
    }
    int indexOfChild(const QAccessibleInterface* child) const override
    {
        if (!child || child->parent() != this) return -1;
        const auto* cell = static_cast<const PlotCell*>(child);
        return cell->rowIndex() * columnCount() + cell->columnIndex();
    }
    QAccessibleInterface* childAt(int x, int y) const override
    {
        const QPoint at = widget()->mapFromGlobal(QPoint(x, y));
        for (int row = 0; row < rowCount(); ++row)
            for (int column = 0; column < columnCount(); ++column)
                if (m_table->tableCellRect(row, column).contains(at)) return cell(row, column);
        return nullptr;
    }
    QAccessibleInterface* focusChild() const override
    {
        if (!widget()->hasFocus()) return nullptr;
        const QPoint at = m_table->tableCurrent();
        return cell(at.y(), at.x());
    }
    void* interface_cast(QAccessible::InterfaceType type) override
    {
        return type == QAccessible::TableInterface ? static_cast<QAccessibleTableInterface*>(this)
                                                   : QAccessibleWidget::interface_cast(type);
    }

    QAccessibleInterface* caption() const override { return nullptr; }
    QAccessibleInterface* summary() const override { return nullptr; }
    QAccessibleInterface* cellAt(int row, int column) const override { return cell(row, column); }
    int selectedCellCount() const override { return static_cast<int>(selectedCells().size()); }
    QList<QAccessibleInterface*> selectedCells() const override
    {
        QList<QAccessibleInterface*> cells;
        for (int row = 0; row < rowCount(); ++row)
            for (int column = 0; column < columnCount(); ++column)
                if (m_table->tableCellSelected(row, column)) cells << cell(row, column);
        return cells;
    }
    QString columnDescription(int column) const override { return m_table->tableColumnName(column); }
    QString rowDescription(int row) const override { return m_table->tableRowName(row); }
    int selectedColumnCount() const override { return 0; }
    int selectedRowCount() const override { return 0; }
    int columnCount() const override { return m_table->tableColumns(); }
    int rowCount() const override { return m_table->tableRows(); }
    QList<int> selectedColumns() const override { return {}; }
    QList<int> selectedRows() const override { return {}; }
    bool isColumnSelected(int) const override { return false; }
    bool isRowSelected(int) const override { return false; }
    bool selectRow(int row) override
    {
        if (row < 0 || row >= rowCount()) return false;
        m_table->setTableCurrent(row, std::max(0, m_table->tableCurrent().x()));
        return true;
    }
    bool selectColumn(int column) override
    {
        if (column < 0 || column >= columnCount()) return false;
        m_table->setTableCurrent(std::max(0, m_table->tableCurrent().y()), column);
        return true;
    }
    bool unselectRow(int) override { return false; }
    bool unselectColumn(int) override { return false; }
    void modelChange(QAccessibleTableModelChangeEvent*) override { forget(); }

private:
    QAccessibleInterface* cell(int row, int column) const
    {
        if (!holds(row, column)) return nullptr;
        const int key = row * columnCount() + column;
        if (const auto it = m_cells.find(key); it != m_cells.end()) return QAccessible::accessibleInterface(it->second);
        QAccessibleInterface* made = new PlotCell(const_cast<PlotTable*>(this), row, column);
        m_cells.emplace(key, QAccessible::registerAccessibleInterface(made));
        return made;
    }
    void forget()
    {
        for (const auto& [key, id] : m_cells)
            QAccessible::deleteAccessibleInterface(id);
        m_cells.clear();
    }

    AccessibleTable* m_table;
    mutable std::unordered_map<int, QAccessible::Id> m_cells;  // by row * columns + column; owned by the cache of Qt
};

bool PlotCell::isValid() const { return m_table->isValid() && m_table->holds(m_row, m_column); }

QAccessibleInterface* PlotCell::parent() const { return m_table; }
QAccessibleInterface* PlotCell::table() const { return m_table; }

QString PlotCell::text(QAccessible::Text text) const
{
    if (!isValid()) return {};
    if (text == QAccessible::Name) return m_table->content().tableCellName(m_row, m_column);
    if (text == QAccessible::Value || text == QAccessible::Description) return m_table->content().tableCellValue(m_row, m_column);
    return {};
}

QRect PlotCell::rect() const
{
    const QRect inside = m_table->content().tableCellRect(m_row, m_column);
    return inside.isNull() ? QRect() : QRect(m_table->view()->mapToGlobal(inside.topLeft()), inside.size());
}

bool PlotCell::isSelected() const { return isValid() && m_table->content().tableCellSelected(m_row, m_column); }

QAccessible::State PlotCell::state() const
{
    QAccessible::State state;
    if (!isValid()) {
        state.invalid = true;
        return state;
    }
    state.focusable = true;
    state.selectable = true;
    state.selected = isSelected();
    state.focused = m_table->view()->hasFocus() && m_table->content().tableCurrent() == QPoint(m_column, m_row);
    state.offscreen = m_table->content().tableCellRect(m_row, m_column).isNull();
    return state;
}

QAccessibleInterface* makePlotTable(const QString&, QObject* object)
{
    auto* widget = qobject_cast<QWidget*>(object);
    auto* table = dynamic_cast<AccessibleTable*>(object);
    return widget && table ? new PlotTable(widget, table) : nullptr;
}

}  // namespace

void installAccessibleTables()
{
    static const bool once = [] {
        QAccessible::installFactory(makePlotTable);
        return true;
    }();
    (void)once;
}

void announceTableCell(QWidget* widget, const AccessibleTable& table, bool moved)
{
    const QPoint at = table.tableCurrent();
    if (!widget->hasFocus() || at.x() < 0 || at.y() < 0 || at.y() >= table.tableRows() || at.x() >= table.tableColumns()) return;
    QAccessibleEvent event(widget, moved ? QAccessible::Focus : QAccessible::DescriptionChanged);
    event.setChild(at.y() * table.tableColumns() + at.x());
    QAccessible::updateAccessibility(&event);
}

void announceTableReset(QWidget* widget)
{
    QAccessibleTableModelChangeEvent change(widget, QAccessibleTableModelChangeEvent::ModelReset);
    QAccessible::updateAccessibility(&change);
}

}  // namespace espalier
