// The inspector's part about one expert's ranks: slider and number, what break-even means, and what each matrix keeps.
#pragma once

#include "experts/expert_spectra.h"
#include "plan/compression_plan.h"
#include "plan/model_shape.h"

#include <QWidget>

#include <memory>
#include <optional>

namespace espalier
{

class RankSection final : public QWidget
{
    Q_OBJECT
public:
    explicit RankSection(QWidget* parent = nullptr);
    ~RankSection() override;
    QString tableText() const;  // the table's rows as text, "gate 1408 × 2048, rank 480, energy 85.8 %, 831 at 95 %" (accessibility, tests)

    bool inGesture() const;  // of its slider: the section stays while it is moved to dense

    QWidget* asking() const;  // the box whose number is on its way, or none

    // `cell` is a kept expert of the plan. Curves of another cell count as none.
    void set(const ModelShape& shape, const CompressionPlan& plan, CellId cell, const std::optional<ExpertSpectra>& curves);

signals:
    void gestureStarted();
    void rankMoved(int rank);  // 0 = dense
    void gestureFinished();
    void gestureCancelled();

private:
    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
