// What lists that are drawn by hand have in common: keys, tool tips. GUI thread.
#pragma once

#include <Qt>

class QHelpEvent;
class QString;
class QWidget;

namespace espalier
{

class AccessibleTable;

// The row of `table` that a key leads to from its current one; -1: not a key of lists, or no rows. `back`, `forward`: the arrows along it.
int rowOfKey(const AccessibleTable& table, int key, Qt::Key back, Qt::Key forward);
// Answers a request for a tool tip: over `row` of what is drawn on `widget`, `text`; row -1: over none.
void showRowTip(const QHelpEvent& event, QWidget* widget, const AccessibleTable& table, int row, const QString& text);

}  // namespace espalier
