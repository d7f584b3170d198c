#include "look/drawn_list.h"

#include "look/plot_table.h"

#include <QHelpEvent>
#include <QToolTip>

#include <algorithm>

namespace espalier
{

int rowOfKey(const AccessibleTable& table, int key, Qt::Key back, Qt::Key forward)
{
    const int last = table.tableRows() - 1;
    if (last < 0) return -1;
    const int current = table.tableCurrent().y();
    if (key == back) return std::max(0, current - 1);
    if (key == forward) return std::min(last, current + 1);
    if (key == Qt::Key_Home) return 0;
    return key == Qt::Key_End ? last : -1;
}

void showRowTip(const QHelpEvent& event, QWidget* widget, const AccessibleTable& table, int row, const QString& text)
{
    if (row < 0)
        QToolTip::hideText();
    else
        QToolTip::showText(event.globalPos(), text, widget, table.tableCellRect(row, 0));
}

}  // namespace espalier
