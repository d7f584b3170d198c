// Small controls that Qt lacks or draws otherwise: segment, switch, the slider with a thin groove, the empty state of a panel.
#pragma once

#include <QAbstractButton>
#include <QSlider>
#include <QWidget>

#include <vector>

class QLabel;
class QPushButton;

namespace espalier
{

// One choice out of a few, side by side. Arrow keys move, the chosen one lies on a raised plate.
class Segment final : public QWidget
{
    Q_OBJECT
public:
    explicit Segment(QWidget* parent = nullptr);
    explicit Segment(const QStringList& texts, QWidget* parent = nullptr);

    void setTexts(const QStringList& texts);
    QStringList texts() const { return m_texts; }
    int current() const { return m_current; }
    void setCurrent(int index);     // emits nothing
    void setStretch(bool stretch);  // equal widths over the whole widget
    void setItemEnabled(int index, bool enabled);

    QSize sizeHint() const override;
    QSize minimumSizeHint() const override { return sizeHint(); }

signals:
    void chosen(int index);  // by the user

protected:
    void paintEvent(QPaintEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void leaveEvent(QEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void focusInEvent(QFocusEvent* event) override;
    void focusOutEvent(QFocusEvent* event) override;

private:
    std::vector<QRect> rects() const;
    int indexAt(const QPoint& position) const;
    void choose(int index);
    void updateName();

    QStringList m_texts;
    std::vector<bool> m_enabled;
    int m_current = 0;
    int m_hover = -1;
    bool m_stretch = false;
    bool m_keyFocus = false;
};

// On or off, 28 x 16 with its text at the right (or at the left).
class Switch final : public QAbstractButton
{
    Q_OBJECT
public:
    explicit Switch(const QString& text, QWidget* parent = nullptr);
    void setTextLeft(bool left);
    QSize sizeHint() const override;
    QSize minimumSizeHint() const override { return sizeHint(); }

protected:
    void paintEvent(QPaintEvent* event) override;
    void focusInEvent(QFocusEvent* event) override;
    void focusOutEvent(QFocusEvent* event) override;

private:
    bool m_textLeft = false;
    bool m_keyFocus = false;
};

// Horizontal slider, groove 4, handle 14. One gesture from press to release; wheel and key steps within 600 ms are one gesture too.
// Shift fine, Ctrl coarse, double click resets to resetValue, Esc during a drag restores the start.
class Slider final : public QWidget
{
    Q_OBJECT
public:
    explicit Slider(QWidget* parent = nullptr);

    void setRange(int low, int high);
    int low() const { return m_low; }
    int high() const { return m_high; }
    int value() const { return m_value; }
    void setValue(int value);  // by the program: emits nothing
    void setResetValue(int value) { m_reset = value; }
    void setFloor(int floor);  // values below are refused (top-k): clamped and `clamped` emitted
    bool inGesture() const { return m_gesture; }

    QSize sizeHint() const override;
    QSize minimumSizeHint() const override;

signals:
    void gestureStarted();
    void moved(int value);  // by the user, within a gesture
    void gestureFinished();
    void gestureCancelled();
    void clamped(int wanted, int floor);

protected:
    void paintEvent(QPaintEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void mouseDoubleClickEvent(QMouseEvent* event) override;
    void wheelEvent(QWheelEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void focusInEvent(QFocusEvent* event) override;
    void focusOutEvent(QFocusEvent* event) override;
    void timerEvent(QTimerEvent* event) override;

private:
    double position(int value) const;
    int valueAt(double x) const;
    void begin();
    void end();
    void moveTo(int value);
    void step(int delta);

    int m_low = 0;
    int m_high = 100;
    int m_value = 0;
    int m_reset = -1;
    int m_floor = INT_MIN;
    int m_start = 0;
    int m_pressValue = 0;
    double m_pressX = 0;
    bool m_gesture = false;
    bool m_dragging = false;
    bool m_keyFocus = false;
    int m_timer = 0;
};

// Empty, error and refusal of a panel: icon, what, why or how, at most one unfilled button; centred on base.
class EmptyState final : public QWidget
{
    Q_OBJECT
public:
    enum class Kind { Empty, Error, Refusal };

    explicit EmptyState(QWidget* parent = nullptr);
    void set(Kind kind, const QString& iconName, const QString& what, const QString& why, const QString& button = {});
    void setButtonEnabled(bool enabled, const QString& reason = {});

signals:
    void buttonClicked();

protected:
    void changeEvent(QEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;

private:
    void refresh();

    Kind m_kind = Kind::Empty;
    QString m_icon;
    QLabel* m_iconLabel = nullptr;
    QLabel* m_what = nullptr;
    QLabel* m_why = nullptr;
    QPushButton* m_button = nullptr;
};

// Draws the focus ring (2 px, radius 4) inside `rect`.
void paintFocusRing(QPainter* painter, const QRectF& rect, double radius = 4);

}  // namespace espalier
