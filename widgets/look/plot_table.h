// Painted views for assistive technology: a plot that is a table to it. A plot widget derives from AccessibleTable too; whoever asks
// gets rows, columns and cells with names, values, states and places on screen, made when they are asked for.
#pragma once

#include <QPoint>
#include <QRect>
#include <QString>

class QWidget;

namespace espalier
{

class AccessibleTable
{
public:
    virtual ~AccessibleTable() = default;
    virtual int tableRows() const = 0;
    virtual int tableColumns() const = 0;
    virtual QString tableRowName(int row) const = 0;
    virtual QString tableColumnName(int column) const = 0;
    virtual QString tableCellName(int row, int column) const = 0;   // "Layer 2 · expert 5"
    virtual QString tableCellValue(int row, int column) const = 0;  // the value and the states, in words
    virtual QRect tableCellRect(int row, int column) const = 0;     // in the widget; null out of sight
    virtual bool tableCellSelected(int row, int column) const = 0;
    virtual QPoint tableCurrent() const = 0;  // x column, y row; negative: none
    virtual void setTableCurrent(int row, int column) = 0;
};

// Once per program; later calls do nothing.
void installAccessibleTables();
// While the widget has the keyboard: the cursor came to another cell, or what its cell says has changed.
void announceTableCell(QWidget* widget, const AccessibleTable& table, bool moved);
// Another model: other rows and columns.
void announceTableReset(QWidget* widget);

}  // namespace espalier
