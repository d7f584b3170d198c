#include "look/controls.h"

#include "look/icon.h"
#include "look/theme.h"

#include <QAccessible>
#include <QEvent>
#include <QFontMetrics>
#include <QKeyEvent>
#include <QLabel>
#include <QMouseEvent>
#include <QPainter>
#include <QPushButton>
#include <QTimerEvent>
#include <QVBoxLayout>
#include <QWheelEvent>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

constexpr int kStepMsec = 600;

bool byKey(const QFocusEvent* event)
{
    return event->reason() == Qt::TabFocusReason || event->reason() == Qt::BacktabFocusReason || event->reason() == Qt::ShortcutFocusReason;
}

}  // namespace

void paintFocusRing(QPainter* painter, const QRectF& rect, double radius)
{
    painter->save();
    painter->setRenderHint(QPainter::Antialiasing);
    painter->setPen(QPen(theme().focus, 2));
    painter->setBrush(Qt::NoBrush);
    painter->drawRoundedRect(rect.adjusted(1, 1, -1, -1), radius, radius);
    painter->restore();
}

// ---- Segment

Segment::Segment(QWidget* parent) : QWidget(parent)
{
    setFocusPolicy(Qt::StrongFocus);
    setMouseTracking(true);
    setSizePolicy(QSizePolicy::Preferred, QSizePolicy::Fixed);
}

Segment::Segment(const QStringList& texts, QWidget* parent) : Segment(parent) { setTexts(texts); }

void Segment::setTexts(const QStringList& texts)
{
    m_texts = texts;
    m_enabled.assign(static_cast<std::size_t>(texts.size()), true);
    m_current = std::clamp(m_current, 0, std::max(0, static_cast<int>(texts.size()) - 1));
    updateGeometry();
    updateName();
    update();
}

void Segment::setCurrent(int index)
{
    if (index == m_current || index < 0 || index >= m_texts.size()) return;
    m_current = index;
    updateName();
    update();
}

void Segment::setStretch(bool stretch)
{
    m_stretch = stretch;
    updateGeometry();
    update();
}

void Segment::setItemEnabled(int index, bool enabled)
{
    if (index < 0 || index >= m_texts.size()) return;
    m_enabled[static_cast<std::size_t>(index)] = enabled;
    update();
}

// The property "rows" of a segment: where one row is too wide the items stand in two.
static int rowsOf(const QWidget& segment) { return std::max(1, segment.property("rows").toInt()); }
static int itemsInRow(const QWidget& segment, qsizetype items) { return (static_cast<int>(items) + rowsOf(segment) - 1) / rowsOf(segment); }

QSize Segment::sizeHint() const
{
    const QFontMetrics metrics(fontFor(FontRole::Head));
    const int inRow = std::max(1, itemsInRow(*this, m_texts.size()));
    int width = 4;
    for (int first = 0; first < m_texts.size(); first += inRow) {
        int row = 4;
        for (int i = first; i < std::min<int>(first + inRow, static_cast<int>(m_texts.size())); ++i)
            row += metrics.horizontalAdvance(m_texts[i]) + pixelsOf(24);
        width = std::max(width, row);
    }
    return {width, rowsOf(*this) * (metrics.height() + pixelsOf(8))};
}

std::vector<QRect> Segment::rects() const
{
    std::vector<QRect> result;
    if (m_texts.isEmpty()) return result;
    const QFontMetrics metrics(fontFor(FontRole::Head));
    int x = 2;
    const int available = width() - 4;
    // Narrower than it asks for: the words keep their width, the room beside them shrinks.
    const int inRow = itemsInRow(*this, m_texts.size());
    const int padding = pixelsOf(24) - std::max(0, sizeHint().width() - width()) / inRow;
    const int rowHeight = (height() - 4) / rowsOf(*this);
    for (int i = 0; i < m_texts.size(); ++i) {
        if (i % inRow == 0) x = 2;
        int w = metrics.horizontalAdvance(m_texts[i]) + padding;
        if (m_stretch) w = available * (i % inRow + 1) / inRow - available * (i % inRow) / inRow;
        result.emplace_back(x, 2 + i / inRow * rowHeight, w, rowHeight);
        x += w;
    }
    return result;
}

int Segment::indexAt(const QPoint& position) const
{
    const auto all = rects();
    for (std::size_t i = 0; i < all.size(); ++i) {
        if (all[i].contains(position)) return static_cast<int>(i);
    }
    return -1;
}

void Segment::choose(int index)
{
    if (index < 0 || index >= m_texts.size() || index == m_current || !m_enabled[static_cast<std::size_t>(index)]) return;
    m_current = index;
    updateName();
    update();
    emit chosen(index);
}

void Segment::updateName()
{
    setAccessibleDescription(m_texts.value(m_current));
    QAccessibleEvent event(this, QAccessible::DescriptionChanged);
    QAccessible::updateAccessibility(&event);
}

void Segment::paintEvent(QPaintEvent*)
{
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    const Theme& t = theme();
    const auto all = rects();
    if (all.empty()) return;
    int right = 0;
    for (const QRect& item : all)
        right = std::max(right, item.right());
    const QRectF track(0, 0, m_stretch ? width() : right + 3, height());
    painter.setPen(Qt::NoPen);
    painter.setBrush(t.segmentTrack);
    painter.drawRoundedRect(track, 5, 5);
    for (std::size_t i = 0; i < all.size(); ++i) {
        const bool chosen = static_cast<int>(i) == m_current;
        if (chosen) {
            painter.setPen(Qt::NoPen);
            painter.setBrush(t.segment);
            painter.drawRoundedRect(QRectF(all[i]), 3, 3);
        }
        const bool active = isEnabled() && m_enabled[i];
        painter.setFont(fontFor(chosen ? FontRole::Head : FontRole::Body));
        painter.setPen(!active ? t.disabled : chosen || static_cast<int>(i) == m_hover ? t.text : t.muted);
        painter.drawText(all[i], Qt::AlignCenter, m_texts[static_cast<int>(i)]);
    }
    if (m_keyFocus && hasFocus()) paintFocusRing(&painter, track, 5);
}

void Segment::mousePressEvent(QMouseEvent* event)
{
    if (event->button() == Qt::LeftButton) choose(indexAt(event->pos()));
}

void Segment::mouseMoveEvent(QMouseEvent* event)
{
    const int at = indexAt(event->pos());
    if (at == m_hover) return;
    m_hover = at;
    update();
}

void Segment::leaveEvent(QEvent*)
{
    m_hover = -1;
    update();
}

void Segment::keyPressEvent(QKeyEvent* event)
{
    const int step = event->key() == Qt::Key_Left || event->key() == Qt::Key_Up      ? -1
                     : event->key() == Qt::Key_Right || event->key() == Qt::Key_Down ? 1
                                                                                     : 0;
    if (step == 0) {
        QWidget::keyPressEvent(event);
        return;
    }
    for (int i = m_current + step; i >= 0 && i < m_texts.size(); i += step) {
        if (!m_enabled[static_cast<std::size_t>(i)]) continue;
        choose(i);
        break;
    }
}

void Segment::focusInEvent(QFocusEvent* event)
{
    m_keyFocus = byKey(event);
    update();
}

void Segment::focusOutEvent(QFocusEvent*) { update(); }

// ---- Switch

Switch::Switch(const QString& text, QWidget* parent) : QAbstractButton(parent)
{
    setText(text);
    setCheckable(true);
    setFocusPolicy(Qt::StrongFocus);
    setSizePolicy(QSizePolicy::Fixed, QSizePolicy::Fixed);
    setAttribute(Qt::WA_Hover);
}

void Switch::setTextLeft(bool left)
{
    m_textLeft = left;
    update();
}

QSize Switch::sizeHint() const
{
    const QFontMetrics metrics(font());
    const int text = this->text().isEmpty() ? 0 : metrics.horizontalAdvance(this->text()) + pixelsOf(8);
    return {text + pixelsOf(28) + 4, std::max(metrics.height(), pixelsOf(16)) + 4};
}

void Switch::paintEvent(QPaintEvent*)
{
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    const Theme& t = theme();
    const double w = pixelsOf(28);
    const double h = pixelsOf(16);
    const double left = m_textLeft ? width() - w - 2 : 2;
    const QRectF body(left, (height() - h) / 2, w, h);
    painter.setPen(Qt::NoPen);
    painter.setBrush(!isEnabled() ? t.border : isChecked() ? (underMouse() ? t.accentHover : t.accent) : t.fieldBorder);
    painter.drawRoundedRect(body, h / 2, h / 2);
    const double knob = h - 4;
    const double x = isChecked() ? body.right() - 2 - knob : body.left() + 2;
    painter.setBrush(isChecked() ? t.onAccent : t.inkLight);
    painter.drawEllipse(QRectF(x, body.top() + 2, knob, knob));
    painter.setFont(font());
    painter.setPen(isEnabled() ? t.text : t.disabled);
    const QRectF textRect =
        m_textLeft ? QRectF(2, 0, left - pixelsOf(8), height()) : QRectF(body.right() + pixelsOf(8), 0, width(), height());
    painter.drawText(textRect, Qt::AlignLeft | Qt::AlignVCenter | Qt::TextSingleLine, text());
    if (m_keyFocus && hasFocus()) paintFocusRing(&painter, body.adjusted(-2, -2, 2, 2), h / 2 + 2);
}

void Switch::focusInEvent(QFocusEvent* event)
{
    m_keyFocus = byKey(event);
    QAbstractButton::focusInEvent(event);
    update();
}

void Switch::focusOutEvent(QFocusEvent* event)
{
    QAbstractButton::focusOutEvent(event);
    update();
}

// ---- Slider

Slider::Slider(QWidget* parent) : QWidget(parent)
{
    setFocusPolicy(Qt::StrongFocus);
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
}

void Slider::setRange(int low, int high)
{
    m_low = low;
    m_high = std::max(low, high);
    m_value = std::clamp(m_value, m_low, m_high);
    update();
}

void Slider::setFloor(int floor) { m_floor = floor; }

void Slider::setValue(int value)
{
    value = std::clamp(value, m_low, m_high);
    if (value == m_value) return;
    m_value = value;
    QAccessibleValueChangeEvent event(this, value);
    QAccessible::updateAccessibility(&event);
    update();
}

QSize Slider::sizeHint() const { return {pixelsOf(140), pixelsOf(20)}; }
QSize Slider::minimumSizeHint() const { return {pixelsOf(60), pixelsOf(20)}; }

double Slider::position(int value) const
{
    const double handle = pixelsOf(14);
    if (m_high == m_low) return handle / 2;
    return handle / 2 + (width() - handle) * (value - m_low) / static_cast<double>(m_high - m_low);
}

int Slider::valueAt(double x) const
{
    const double handle = pixelsOf(14);
    const double part = std::clamp((x - handle / 2) / std::max(1.0, width() - handle), 0.0, 1.0);
    return m_low + static_cast<int>(std::lround(part * (m_high - m_low)));
}

void Slider::paintEvent(QPaintEvent*)
{
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    const Theme& t = theme();
    const double groove = pixelsOf(4);
    const double handle = pixelsOf(14);
    const double x = position(m_value);
    const QRectF whole(0, (height() - groove) / 2.0, width(), groove);
    painter.setPen(Qt::NoPen);
    painter.setBrush(t.border);
    painter.drawRoundedRect(whole, groove / 2, groove / 2);
    const QColor colour = isEnabled() ? t.accent : t.disabled;
    painter.setBrush(colour);
    painter.drawRoundedRect(QRectF(whole.left(), whole.top(), x, groove), groove / 2, groove / 2);
    const QRectF knob(x - handle / 2, (height() - handle) / 2, handle, handle);
    painter.drawEllipse(knob);
    if (m_keyFocus && hasFocus()) paintFocusRing(&painter, QRectF(knob).adjusted(-3, -3, 3, 3), handle / 2 + 3);
}

void Slider::begin()
{
    if (m_gesture) return;
    m_gesture = true;
    m_start = m_value;
    emit gestureStarted();
}

void Slider::end()
{
    if (m_timer != 0) killTimer(std::exchange(m_timer, 0));
    if (!m_gesture) return;
    m_gesture = false;
    emit gestureFinished();
}

void Slider::moveTo(int value)
{
    value = std::clamp(value, m_low, m_high);
    if (value < m_floor) {
        emit clamped(value, m_floor);
        value = m_floor;
    }
    if (value == m_value) return;
    m_value = value;
    update();
    emit moved(value);
}

void Slider::step(int delta)
{
    begin();
    moveTo(m_value + delta);
    if (m_timer != 0) killTimer(m_timer);
    m_timer = startTimer(kStepMsec);
}

void Slider::mousePressEvent(QMouseEvent* event)
{
    if (event->button() != Qt::LeftButton) return;
    if (m_timer != 0) end();
    begin();
    m_dragging = true;
    const double x = event->position().x();
    if (std::abs(x - position(m_value)) > pixelsOf(9)) moveTo(valueAt(x));
    m_pressX = x;
    m_pressValue = m_value;
}

void Slider::mouseMoveEvent(QMouseEvent* event)
{
    if (!m_dragging) return;
    const double handle = pixelsOf(14);
    const double perPixel = (m_high - m_low) / std::max(1.0, width() - handle);
    const double factor = event->modifiers() & Qt::ShiftModifier ? 0.1 : 1.0;
    int value = static_cast<int>(std::lround(m_pressValue + (event->position().x() - m_pressX) * perPixel * factor));
    if (event->modifiers() & Qt::ControlModifier) {
        const int coarse = std::max(1, (m_high - m_low) / 20);
        value = static_cast<int>(std::lround(static_cast<double>(value) / coarse)) * coarse;
    }
    moveTo(value);
}

void Slider::mouseReleaseEvent(QMouseEvent* event)
{
    if (event->button() != Qt::LeftButton || !m_dragging) return;
    m_dragging = false;
    end();
}

void Slider::mouseDoubleClickEvent(QMouseEvent* event)
{
    if (event->button() != Qt::LeftButton || m_reset < m_low) return;
    begin();
    moveTo(m_reset);
    m_dragging = false;
    end();
}

void Slider::wheelEvent(QWheelEvent* event)
{
    const int notches = event->angleDelta().y() / 120;
    if (notches == 0 || !hasFocus()) {
        event->ignore();  // the page scrolls
        return;
    }
    step(notches * (event->modifiers() & Qt::ControlModifier ? std::max(1, (m_high - m_low) / 20) : 1));
    event->accept();
}

void Slider::keyPressEvent(QKeyEvent* event)
{
    const int coarse = std::max(1, (m_high - m_low) / 10);
    const int single = event->modifiers() & Qt::ControlModifier ? std::max(1, (m_high - m_low) / 20) : 1;
    switch (event->key()) {
        case Qt::Key_Left:
        case Qt::Key_Down:
            step(-single);
            return;
        case Qt::Key_Right:
        case Qt::Key_Up:
            step(single);
            return;
        case Qt::Key_PageDown:
            step(-coarse);
            return;
        case Qt::Key_PageUp:
            step(coarse);
            return;
        case Qt::Key_Home:
            step(m_low - m_value);
            return;
        case Qt::Key_End:
            step(m_high - m_value);
            return;
        case Qt::Key_Escape:
            if (m_gesture) {
                m_dragging = false;
                if (m_timer != 0) killTimer(std::exchange(m_timer, 0));
                m_gesture = false;
                m_value = m_start;
                update();
                emit gestureCancelled();
                return;
            }
            break;
        default:
            break;
    }
    QWidget::keyPressEvent(event);
}

void Slider::focusInEvent(QFocusEvent* event)
{
    m_keyFocus = byKey(event);
    update();
}

void Slider::focusOutEvent(QFocusEvent*)
{
    if (m_timer != 0) end();
    update();
}

void Slider::timerEvent(QTimerEvent* event)
{
    if (event->timerId() == m_timer)
        end();
    else
        QWidget::timerEvent(event);
}

// ---- EmptyState

EmptyState::EmptyState(QWidget* parent) : QWidget(parent)
{
    auto* layout = new QVBoxLayout(this);
    layout->setContentsMargins(24, 12, 24, 12);
    layout->setSpacing(0);
    m_iconLabel = new QLabel(this);
    m_iconLabel->setAlignment(Qt::AlignCenter);
    m_what = new QLabel(this);
    m_what->setAlignment(Qt::AlignCenter);
    m_what->setWordWrap(true);
    m_what->setTextFormat(Qt::PlainText);
    m_why = new QLabel(this);
    m_why->setAlignment(Qt::AlignCenter);
    m_why->setWordWrap(true);
    m_why->setTextFormat(Qt::PlainText);
    m_why->setProperty("role", QStringLiteral("muted"));
    m_button = new QPushButton(this);
    m_button->hide();
    layout->addStretch();
    layout->addWidget(m_iconLabel);
    layout->addSpacing(8);
    layout->addWidget(m_what);
    layout->addSpacing(4);
    layout->addWidget(m_why, 0, Qt::AlignHCenter);
    layout->addSpacing(12);
    layout->addWidget(m_button, 0, Qt::AlignHCenter);
    layout->addStretch();
    connect(m_button, &QPushButton::clicked, this, &EmptyState::buttonClicked);
    setAutoFillBackground(true);
    refresh();
}

void EmptyState::set(Kind kind, const QString& iconName, const QString& what, const QString& why, const QString& button)
{
    m_kind = kind;
    m_icon = iconName;
    m_what->setText(what);
    m_why->setText(why);
    m_why->setVisible(!why.isEmpty());
    m_button->setText(button);
    m_button->setVisible(!button.isEmpty());
    refresh();
}

void EmptyState::setButtonEnabled(bool enabled, const QString& reason)
{
    m_button->setEnabled(enabled);
    m_button->setToolTip(reason);
}

void EmptyState::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if (event->type() == QEvent::StyleChange || event->type() == QEvent::PaletteChange) refresh();
}

void EmptyState::resizeEvent(QResizeEvent* event)
{
    QWidget::resizeEvent(event);
    refresh();
}

void EmptyState::refresh()
{
    if (m_button == nullptr) return;
    const Theme& t = theme();
    QPalette p = palette();
    if (p.color(QPalette::Window) != t.base) {
        p.setColor(QPalette::Window, t.base);
        setPalette(p);
    }
    const QColor colour = m_kind == Kind::Error ? t.error : m_kind == Kind::Refusal ? t.warning : t.muted;
    m_iconLabel->setPixmap(iconPixmap(m_icon, colour, pixelsOf(22), devicePixelRatioF()));
    m_what->setFont(fontFor(FontRole::Head));
    // A wrapped label inside stretches is given too little height: both sides are set from its text.
    const int wide = std::clamp(width() - 2 * pixelsOf(24), 40, pixelsOf(300));
    const QRect needed = m_why->fontMetrics().boundingRect(QRect(0, 0, wide, 1000), Qt::AlignCenter | Qt::TextWordWrap, m_why->text());
    if (width() > 120) m_why->setFixedSize(wide, needed.height() + 2);
    m_button->setMinimumHeight(pixelsOf(26));
}

}  // namespace espalier
