// A row of choosers that folds where it is too narrow for them: the least important ones move behind a button at its end, which opens them
// in a list with their names. What stays in the row can be read: a chooser is never narrower than the choice it shows. GUI thread.
#pragma once

#include <QWidget>

#include <vector>

class QFormLayout;
class QToolButton;

namespace espalier
{

class FoldRow final : public QWidget
{
    Q_OBJECT
public:
    // `more` names the button for tool tip and assistive technology.
    explicit FoldRow(const QString& more, QWidget* parent = nullptr);

    // At the end of the row. The one with the highest `importance` always stays in it. `name` stands beside the control in the list; a
    // control without one is shown in the row only.
    void add(QWidget* control, int importance, const QString& name);
    void setShown(QWidget* control, bool shown);    // anywhere
    void setFolded(QWidget* control, bool folded);  // even where it has room
    void choicesChanged() { arrange(); }            // another choice is shown, which may be longer
    bool isFolded(const QWidget* control) const;    // is in the list now
    QToolButton* moreButton() const { return m_more; }
    void showMore();

    QSize sizeHint() const override;         // all in the row
    QSize minimumSizeHint() const override;  // the most important one and the button

protected:
    bool event(QEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;

private:
    struct Item {
        QWidget* control = nullptr;
        int importance = 0;
        QString name;
        bool shown = true;
        bool wantedFolded = false;
        bool folded = false;
    };
    Item* itemOf(const QWidget* control);
    int widthOfRow(int least) const;  // with items of at least this importance in it, each as narrow as can be read
    void arrange();
    void place();
    void setInList(Item& item, bool inList);

    std::vector<Item> m_items;
    QToolButton* m_more = nullptr;
    QWidget* m_list = nullptr;  // a popup
    QFormLayout* m_rows = nullptr;
};

// The width that a control needs for what it shows now: for a chooser that of its current choice, else what it asks for.
int readableWidth(const QWidget* control);

}  // namespace espalier
