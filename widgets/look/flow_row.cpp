#include "look/flow_row.h"

#include <QStyle>
#include <QWidget>

#include <algorithm>

namespace espalier
{

FlowRow::FlowRow(int spacing, QWidget* parent) : QLayout(parent), m_spacing(spacing) { setContentsMargins(0, 0, 0, 0); }

FlowRow::~FlowRow()
{
    for (const Item& each : m_items)
        delete each.item;
}

// What stretches needs its least, everything else what it asks for; alone in a line that is narrower, its least too.
int FlowRow::Item::width() const { return (stretch > 0 ? item->minimumSize() : item->sizeHint().expandedTo(item->minimumSize())).width(); }

void FlowRow::add(QWidget* widget, int stretch)
{
    addChildWidget(widget);
    addItem(new QWidgetItem(widget));
    m_items.back().stretch = stretch;
}

void FlowRow::addItem(QLayoutItem* item)
{
    m_items.push_back({item, 0});
    invalidate();
}

QLayoutItem* FlowRow::itemAt(int index) const
{
    return index >= 0 && index < count() ? m_items[static_cast<std::size_t>(index)].item : nullptr;
}

QLayoutItem* FlowRow::takeAt(int index)
{
    QLayoutItem* item = itemAt(index);
    if (item) m_items.erase(m_items.begin() + index);
    return item;
}

int FlowRow::heightForWidth(int width) const { return arrange(QRect(0, 0, width, 0), false); }

QSize FlowRow::sizeHint() const
{
    QSize size;
    for (const Item& each : m_items) {
        if (!each.shown()) continue;
        size.rwidth() += (size.width() > 0 ? m_spacing : 0) + each.item->sizeHint().width();
        size.setHeight(std::max(size.height(), each.item->sizeHint().height()));
    }
    return size;
}

QSize FlowRow::minimumSize() const
{
    QSize size;
    for (const Item& each : m_items)
        if (each.shown()) size = size.expandedTo({each.item->minimumSize().width(), each.item->sizeHint().height()});
    return size;
}

void FlowRow::setGeometry(const QRect& rect)
{
    QLayout::setGeometry(rect);
    arrange(rect, true);
}

int FlowRow::arrange(const QRect& rect, bool apply) const
{
    int y = rect.top();
    std::vector<const Item*> shown;
    for (const Item& each : m_items)
        if (each.shown()) shown.push_back(&each);
    for (std::size_t first = 0; first < shown.size();) {
        std::size_t end = first;
        int used = 0;
        int height = 0;
        int stretches = 0;
        while (end < shown.size()) {
            const int more = shown[end]->width() + (end > first ? m_spacing : 0);
            if (end > first && used + more > rect.width()) break;
            used += more;
            height = std::max(height, shown[end]->item->sizeHint().height());
            stretches += shown[end]->stretch;
            ++end;
        }
        int left = std::max(0, rect.width() - used);
        int x = rect.left();
        for (; first < end; ++first) {
            const Item& each = *shown[first];
            int width = std::max(each.item->minimumSize().width(), std::min(each.width(), rect.width()));
            if (each.stretch > 0) {
                const int extra = left * each.stretch / stretches;
                width += extra;
                left -= extra;
                stretches -= each.stretch;
            }
            const int own = std::min(height, each.item->sizeHint().height());
            const QRect place(x, y + (height - own) / 2, width, own);
            if (apply)
                each.item->setGeometry(
                    QStyle::visualRect(parentWidget() ? parentWidget()->layoutDirection() : Qt::LeftToRight, rect, place));
            x += width + m_spacing;
        }
        y += height + (end < shown.size() ? m_spacing : 0);
    }
    return y - rect.top();
}

}  // namespace espalier
