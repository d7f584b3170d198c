// What the number fields of this window have in common: what was typed and is no value of theirs goes back to the value before, and the
// reason stands below the field.
#pragma once

#include <QSpinBox>

#include <string>

namespace espalier
{

// What people type in their locale as core reads it: no grouping, decimal point.
std::string plainNumber(QString text);

class NumberBox : public QSpinBox
{
    Q_OBJECT
public:
    explicit NumberBox(QWidget* parent = nullptr);

    void fixup(QString& text) const override;

protected:
    bool event(QEvent* event) override;
    // Why this text is no value; and where it is one, what is taken in its place. Empty: nothing to say.
    virtual QString refusal(const QString& text) const = 0;
    virtual QString correction(const QString& text) const;

private:
    QString m_typed;
    bool m_abandoned = false;  // by Escape: nobody asks why
};

}  // namespace espalier
