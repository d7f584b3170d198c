// A row of controls that becomes several where it is too narrow for them: nothing is cut off, nothing overlaps. One of them, a slider
// say, may take what is left of its line.
#pragma once

#include <QLayout>

#include <vector>

namespace espalier
{

class FlowRow final : public QLayout
{
    Q_OBJECT
public:
    explicit FlowRow(int spacing, QWidget* parent = nullptr);
    ~FlowRow() override;

    void add(QWidget* widget, int stretch = 0);

    void addItem(QLayoutItem* item) override;
    int count() const override { return static_cast<int>(m_items.size()); }
    QLayoutItem* itemAt(int index) const override;
    QLayoutItem* takeAt(int index) override;
    Qt::Orientations expandingDirections() const override { return Qt::Horizontal; }
    bool hasHeightForWidth() const override { return true; }
    int heightForWidth(int width) const override;
    QSize sizeHint() const override;     // all in one line
    QSize minimumSize() const override;  // the widest alone
    void setGeometry(const QRect& rect) override;

private:
    struct Item {
        QLayoutItem* item = nullptr;
        int stretch = 0;

        bool shown() const { return !item->isEmpty(); }
        int width() const;
    };
    int arrange(const QRect& rect, bool apply) const;  // the height that it takes

    std::vector<Item> m_items;
    int m_spacing;
};

}  // namespace espalier
