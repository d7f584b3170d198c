// What all views agree on: one selection (current cell and selected cells) and one hovered cell. Layers are decoder layer indices,
// experts original ids; expert -1 means the whole layer. Not part of the plan.
#pragma once

#include <QObject>

#include <set>

namespace espalier
{

struct CellId {
    int layer = -1;
    int expert = -1;

    bool valid() const noexcept { return layer >= 0; }
    auto operator<=>(const CellId&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 sees a 0 here
};

class SelectionModel final : public QObject
{
    Q_OBJECT
public:
    using QObject::QObject;

    CellId current() const { return m_current; }
    int currentLayer() const { return m_current.layer; }
    const std::set<CellId>& selected() const { return m_selected; }
    bool isSelected(CellId cell) const { return m_selected.contains(cell); }

    void setCurrent(CellId cell);     // keeps the selected cells
    void setCurrentLayer(int layer);  // keeps the expert
    void select(std::set<CellId> cells);
    void toggle(CellId cell);
    void clear();  // selected cells only

signals:
    void currentChanged(espalier::CellId current);
    void selectionChanged();

private:
    CellId m_current;
    std::set<CellId> m_selected;
};

class HoverModel final : public QObject
{
    Q_OBJECT
public:
    using QObject::QObject;

    CellId hovered() const { return m_hovered; }
    void setHovered(CellId cell);
    void clear() { setHovered({}); }

signals:
    void hoveredChanged(espalier::CellId hovered);

private:
    CellId m_hovered;
};

}  // namespace espalier
