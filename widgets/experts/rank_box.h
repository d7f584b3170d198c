// The number field for a rank: takes a rank, "dense", or a share of break-even ("75%"), in the user's locale.
// Its value lies on the scale of plan/rank_edit.h: one above break-even is dense.
#pragma once

#include "look/number_box.h"

namespace espalier
{

class RankBox final : public NumberBox
{
    Q_OBJECT
public:
    explicit RankBox(QWidget* parent = nullptr);
    void setBreakEven(int rank);

    void stepBy(int steps) override;  // on multiples of the fine step

protected:
    QValidator::State validate(QString& text, int& position) const override;
    int valueFromText(const QString& text) const override;
    QString textFromValue(int value) const override;
    QString refusal(const QString& text) const override;
    QString correction(const QString& text) const override;

private:
    double asked(const QString& text) const;  // 0: not a rank; infinite: dense
    int parse(const QString& text) const;     // 0: not a rank
};

}  // namespace espalier
