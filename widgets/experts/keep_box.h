// The number field for kept experts: takes a count, 75%, 0.75 or 96/128, in the user's locale.
#pragma once

#include "look/number_box.h"

namespace espalier
{

class KeepBox final : public NumberBox
{
    Q_OBJECT
public:
    explicit KeepBox(QWidget* parent = nullptr);
    // `floor`: the arrows stop there. A smaller number may still be typed; whoever takes it says why it is not reached.
    void setExperts(int floor, int total);

protected:
    QValidator::State validate(QString& text, int& position) const override;
    int valueFromText(const QString& text) const override;
    StepEnabled stepEnabled() const override;
    QString refusal(const QString& text) const override;

private:
    int m_floor = 0;
};

}  // namespace espalier
