#include "look/number_box.h"

#include "look/field_note.h"

#include <QKeyEvent>
#include <QLineEdit>
#include <QLocale>

#include <utility>

namespace espalier
{

std::string plainNumber(QString text)
{
    const QLocale locale;
    text = text.trimmed();
    for (const QString& group : {locale.groupSeparator(), QString(QChar(0x00A0)), QString(QChar(0x202F))}) {
        if (!group.isEmpty()) text.remove(group);
    }
    if (locale.decimalPoint() != QLatin1StringView(".")) text.replace(locale.decimalPoint(), QStringLiteral("."));
    return text.toStdString();
}

NumberBox::NumberBox(QWidget* parent) : QSpinBox(parent)
{
    setKeyboardTracking(false);
    setCorrectionMode(QAbstractSpinBox::CorrectToPreviousValue);
    connect(lineEdit(), &QLineEdit::textEdited, this, [this](const QString& text) {
        m_typed = text;
        m_abandoned = false;
    });
    connect(this, &QAbstractSpinBox::editingFinished, this, [this] {
        const QString typed = std::exchange(m_typed, QString());
        const QString said = typed.isEmpty() || m_abandoned ? QString() : correction(typed);
        if (!said.isEmpty()) FieldNote::say(this, said);
    });
}

void NumberBox::fixup(QString& text) const
{
    const QString why = m_abandoned ? QString() : refusal(text);
    if (!why.isEmpty()) FieldNote::say(const_cast<NumberBox*>(this), why);
}

bool NumberBox::event(QEvent* event)
{
    if (event->type() == QEvent::ShortcutOverride && static_cast<QKeyEvent*>(event)->key() == Qt::Key_Escape) m_abandoned = true;
    return QSpinBox::event(event);
}

QString NumberBox::correction(const QString&) const { return {}; }

}  // namespace espalier
