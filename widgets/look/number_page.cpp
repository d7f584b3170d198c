#include "look/number_page.h"

#include "look/controls.h"
#include "look/theme.h"

#include <QHBoxLayout>
#include <QStackedLayout>
#include <QVBoxLayout>

namespace espalier
{

NumberPage::NumberPage(QWidget* panel)
    : stack(new QStackedLayout(panel)),
      empty(new EmptyState(panel)),
      page(new QWidget(panel)),
      across(new QHBoxLayout(page)),
      left(new QWidget(page)),
      column(new QVBoxLayout(left))
{
    stack->addWidget(empty);
    stack->addWidget(page);
    across->setContentsMargins(0, 0, 0, 0);
    across->setSpacing(0);
    left->setAutoFillBackground(true);
    column->setContentsMargins(pixelsOf(12), pixelsOf(8), pixelsOf(12), pixelsOf(8));
    column->setSpacing(pixelsOf(2));
}

}  // namespace espalier
