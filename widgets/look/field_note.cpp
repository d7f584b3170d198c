#include "look/field_note.h"

#include "look/theme.h"

#include <QAccessible>
#include <QApplication>
#include <QEvent>
#include <QTimer>

#include <algorithm>

namespace espalier
{

namespace
{

constexpr int kWidest = 280;

}  // namespace

FieldNote::FieldNote(QWidget* window) : QLabel(window)
{
    setObjectName(QStringLiteral("field.note"));
    setWordWrap(true);
    setAutoFillBackground(true);
    setBackgroundRole(QPalette::ToolTipBase);
    setForegroundRole(QPalette::ToolTipText);
    setFrameShape(QFrame::Box);
    setMargin(pixelsOf(4));
    setAttribute(Qt::WA_TransparentForMouseEvents);
    qApp->installEventFilter(this);
}

void FieldNote::say(QWidget* widget, const QString& text, const QRect& place)
{
    QWidget* window = widget->window();
    auto* note = window->findChild<FieldNote*>(QString(), Qt::FindDirectChildrenOnly);
    if (text.isEmpty()) {
        if (note) note->hide();
        return;
    }
    if (note == nullptr) note = new FieldNote(window);
    note->setFont(fontFor(FontRole::Small));
    note->setText(text);
    note->setAccessibleName(text);
    note->setFixedWidth(std::min({pixelsOf(kWidest), window->width(), note->fontMetrics().horizontalAdvance(text) + pixelsOf(12)}));
    note->setFixedHeight(note->heightForWidth(note->width()));
    const QRect at = place.isNull() ? widget->rect() : place;
    const QRect field(widget->mapTo(window, at.topLeft()), at.size());
    const int x = std::clamp(field.right() + 1 - note->width(), 0, std::max(0, window->width() - note->width()));
    // Above it where there is no room below.
    const bool below = field.bottom() + 2 + note->height() <= window->height();
    note->move(x, below ? field.bottom() + 2 : std::max(0, field.top() - 1 - note->height()));
    note->show();
    note->raise();
    note->m_fresh = true;
    QTimer::singleShot(0, note, [note] { note->m_fresh = false; });
    QAccessibleEvent event(note, QAccessible::Alert);
    QAccessible::updateAccessibility(&event);
}

bool FieldNote::eventFilter(QObject* object, QEvent* event)
{
    if (!m_fresh && isVisible() && object->isWidgetType() && static_cast<QWidget*>(object)->window() == window()) switch (event->type()) {
            case QEvent::KeyPress:
            case QEvent::MouseButtonPress:
            case QEvent::Wheel:
            case QEvent::Resize:
                if (event->type() != QEvent::Resize || object == window()) hide();
                break;
            default:
                break;
        }
    return QLabel::eventFilter(object, event);
}

}  // namespace espalier
