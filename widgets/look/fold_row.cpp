#include "look/fold_row.h"

#include "look/icon.h"
#include "look/theme.h"

#include <QComboBox>
#include <QEvent>
#include <QFormLayout>
#include <QLabel>
#include <QStyle>
#include <QToolButton>

#include <algorithm>

namespace espalier
{

namespace
{
constexpr int kSpacing = 8;
}

int readableWidth(const QWidget* control)
{
    const int hint = control->sizeHint().expandedTo(control->minimumSize()).width();
    const auto* box = qobject_cast<const QComboBox*>(control);
    if (!box || box->count() == 0) return hint;
    const QFontMetrics metrics = box->fontMetrics();
    int widest = 0;
    for (int i = 0; i < box->count(); ++i)
        widest = std::max(widest, metrics.horizontalAdvance(box->itemText(i)));
    return hint - widest + metrics.horizontalAdvance(box->currentText());
}

FoldRow::FoldRow(const QString& more, QWidget* parent) : QWidget(parent)
{
    m_more = new QToolButton(this);
    m_more->setIcon(icon(QStringLiteral("ellipsis")));
    m_more->setAutoRaise(true);
    m_more->setToolTip(more);
    m_more->setAccessibleName(more);
    m_more->setVisible(false);
    m_list = new QFrame(this, Qt::Popup);
    m_list->setObjectName(QStringLiteral("foldedChoosers"));
    m_list->setProperty("frameless", true);
    m_rows = new QFormLayout(m_list);
    m_rows->setContentsMargins(12, 12, 12, 12);
    connect(m_more, &QToolButton::clicked, this, &FoldRow::showMore);
}

void FoldRow::add(QWidget* control, int importance, const QString& name)
{
    control->setParent(this);
    m_items.push_back({control, importance, name});
    m_more->raise();
    updateGeometry();
    arrange();
}

FoldRow::Item* FoldRow::itemOf(const QWidget* control)
{
    const auto found = std::find_if(m_items.begin(), m_items.end(), [control](const Item& item) { return item.control == control; });
    return found == m_items.end() ? nullptr : &*found;
}

void FoldRow::setShown(QWidget* control, bool shown)
{
    Item* item = itemOf(control);
    if (!item || item->shown == shown) return;
    item->shown = shown;
    updateGeometry();
    arrange();
}

void FoldRow::setFolded(QWidget* control, bool folded)
{
    Item* item = itemOf(control);
    if (!item || item->wantedFolded == folded) return;
    item->wantedFolded = folded;
    updateGeometry();
    arrange();
}

bool FoldRow::isFolded(const QWidget* control) const
{
    return std::any_of(m_items.begin(), m_items.end(), [control](const Item& item) { return item.control == control && item.folded; });
}

void FoldRow::showMore()
{
    m_list->adjustSize();
    m_list->move(m_more->mapToGlobal(QPoint(m_more->width() - m_list->width(), m_more->height())));
    m_list->show();
    for (const Item& item : m_items)
        if (item.folded && item.shown) {
            item.control->setFocus(Qt::PopupFocusReason);
            break;
        }
}

int FoldRow::widthOfRow(int least) const
{
    int width = 0;
    bool folds = false;
    for (const Item& item : m_items) {
        if (!item.shown) continue;
        if (item.importance < least || item.wantedFolded)
            folds = folds || !item.name.isEmpty();
        else
            width += (width > 0 ? kSpacing : 0) + readableWidth(item.control);
    }
    return width + (folds ? kSpacing + m_more->sizeHint().width() : 0);
}

QSize FoldRow::sizeHint() const
{
    QSize size(0, m_more->sizeHint().height());
    bool folds = false;
    for (const Item& item : m_items) {
        if (!item.shown) continue;
        folds = folds || (item.wantedFolded && !item.name.isEmpty());
        const QSize own = item.control->sizeHint().expandedTo(item.control->minimumSize());
        size.setHeight(std::max(size.height(), own.height()));
        if (!item.wantedFolded) size.rwidth() += (size.width() > 0 ? kSpacing : 0) + own.width();
    }
    if (folds) size.rwidth() += kSpacing + m_more->sizeHint().width();
    return size;
}

QSize FoldRow::minimumSizeHint() const
{
    int most = 0;
    for (const Item& item : m_items)
        if (item.shown) most = std::max(most, item.importance);
    return {widthOfRow(most), sizeHint().height()};
}

void FoldRow::setInList(Item& item, bool inList)
{
    if (item.folded != inList) {
        item.folded = inList;
        if (inList) {
            m_rows->addRow(item.name, item.control);
        } else {
            // Takes the row with its label; the control stays.
            const QFormLayout::TakeRowResult row = m_rows->takeRow(item.control);
            delete row.labelItem->widget();
            delete row.labelItem;
            delete row.fieldItem;
            item.control->setParent(this);
            // Back between its neighbours for the keyboard, too.
            QWidget* before = nullptr;
            for (const Item& other : m_items) {
                if (other.control == item.control) break;
                if (!other.folded && !other.name.isEmpty()) before = other.control;
            }
            if (before) setTabOrder(before, item.control);
        }
    }
    item.control->setVisible(item.shown);
    if (inList)
        if (QWidget* label = m_rows->labelForField(item.control)) label->setVisible(item.shown);
}

void FoldRow::arrange()
{
    // As many as can be read, the most important first.
    std::vector<int> grades;
    for (const Item& item : m_items)
        if (item.shown) grades.push_back(item.importance);
    std::sort(grades.begin(), grades.end());
    int least = grades.empty() ? 0 : grades.front();
    for (const int grade : grades) {
        least = grade;
        if (widthOfRow(grade) <= width()) break;
    }
    bool folds = false;
    for (Item& item : m_items) {
        const bool out = item.importance < least || item.wantedFolded;
        if (item.name.isEmpty()) {
            item.control->setVisible(item.shown && !out);
            continue;
        }
        setInList(item, out);
        folds = folds || (out && item.shown);
    }
    m_more->setVisible(folds);
    if (!folds) m_list->hide();
    place();
}

void FoldRow::place()
{
    std::vector<QWidget*> row;
    int spare = width();
    for (const Item& item : m_items)
        if (item.control->parentWidget() == this && !item.control->isHidden()) {
            row.push_back(item.control);
            spare -= readableWidth(item.control) + kSpacing;
        }
    spare += m_more->isHidden() ? kSpacing : -m_more->sizeHint().width();
    int x = 0;
    const auto put = [&](QWidget* control, int width) {
        const bool line = control->focusPolicy() == Qt::NoFocus;  // between controls
        const int height =
            line ? this->height() : std::min(this->height(), control->sizeHint().expandedTo(control->minimumSize()).height());
        const QRect there(x, (this->height() - height) / 2, width, std::max(height, 1));
        control->setGeometry(QStyle::visualRect(layoutDirection(), rect(), there));
        x += width + kSpacing;
    };
    for (QWidget* control : row) {
        const int readable = readableWidth(control);
        const int more = std::clamp(control->sizeHint().width() - readable, 0, std::max(spare, 0));
        spare -= more;
        put(control, readable + more);
    }
    if (!m_more->isHidden()) put(m_more, m_more->sizeHint().width());
}

bool FoldRow::event(QEvent* event)
{
    // What a control asks for has changed: its choices, its font.
    if (event->type() == QEvent::LayoutRequest) {
        updateGeometry();
        arrange();
    }
    return QWidget::event(event);
}

void FoldRow::resizeEvent(QResizeEvent* event)
{
    QWidget::resizeEvent(event);
    arrange();
}

}  // namespace espalier
