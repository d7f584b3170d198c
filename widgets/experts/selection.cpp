#include "experts/selection.h"

namespace espalier
{

void SelectionModel::setCurrent(CellId cell)
{
    if (m_current == cell) return;
    m_current = cell;
    emit currentChanged(m_current);
}

void SelectionModel::setCurrentLayer(int layer) { setCurrent({layer, m_current.expert}); }

void SelectionModel::select(std::set<CellId> cells)
{
    if (m_selected == cells) return;
    m_selected = std::move(cells);
    emit selectionChanged();
}

void SelectionModel::toggle(CellId cell)
{
    if (m_selected.erase(cell) == 0) m_selected.insert(cell);
    emit selectionChanged();
}

void SelectionModel::clear() { select({}); }

void HoverModel::setHovered(CellId cell)
{
    if (m_hovered == cell) return;
    m_hovered = cell;
    emit hoveredChanged(m_hovered);
}

}  // namespace espalier
