// A sentence right below a field: why what was typed there was not taken, or what was taken in its place. One at a time in a window; the
// next key or click takes it away. GUI thread.
#pragma once

#include <QLabel>

namespace espalier
{

class FieldNote final : public QLabel
{
    Q_OBJECT
public:
    // Below `place`, a rectangle in `widget`; the whole widget where it is empty.
    static void say(QWidget* widget, const QString& text, const QRect& place = {});

protected:
    bool eventFilter(QObject* object, QEvent* event) override;

private:
    explicit FieldNote(QWidget* window);

    bool m_fresh = false;  // the key that made it still travels from widget to widget
};

}  // namespace espalier
