// A view whose numbers stand in a column at the left of its picture; before there are any, an empty state in their place. GUI thread.
#pragma once

class QHBoxLayout;
class QStackedLayout;
class QVBoxLayout;
class QWidget;

namespace espalier
{

class EmptyState;

struct NumberPage {
    explicit NumberPage(QWidget* panel);  // lays it out; everything belongs to the panel. The empty state is in front

    QStackedLayout* stack;
    EmptyState* empty;
    QWidget* page;
    QHBoxLayout* across;  // of the page: the column is to be added once it is filled, then the picture
    QWidget* left;
    QVBoxLayout* column;  // of left
};

}  // namespace espalier
