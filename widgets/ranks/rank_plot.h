// Spectrum and energy of the current expert's matrices over rank: beyond break-even a factor saves nothing,
// the rank of the plan is the accent line with a chip at its foot. The line is dragged; arrow keys move it.
#pragma once

#include "experts/expert_spectra.h"
#include "plan/compression_plan.h"

#include <QWidget>

#include <memory>
#include <optional>

class QCustomPlot;

namespace espalier
{

// What both plots show.
struct RankPlotState {
    std::optional<ExpertSpectra> curves;  // none: the text below is shown
    RankTriple ranks = {};                // of the current cell in the plan; zeros: dense or dropped
    bool kept = false;
    bool locked = false;
    bool isError = false;
    QString what;  // in place of the plot
    QString why;
    QString button;  // empty: none
};

class RankPlot final : public QWidget
{
    Q_OBJECT
public:
    enum class Kind { Spectrum, Energy };

    explicit RankPlot(Kind kind, QWidget* parent = nullptr);
    ~RankPlot() override;
    QCustomPlot* plot() const;
    QWidget* focusTarget() const;          // what takes the keyboard
    QWidget* choosers() const;             // log or linear; energy or error. Owned by the panel once it is added there.
    QPointF rankPosition(int rank) const;  // on the rank axis, in plot()

public slots:
    void setState(const espalier::RankPlotState& state);

signals:
    void gestureStarted();
    void rankMoved(int layer, int expert, int rank);  // 0 = dense
    void gestureFinished();
    void gestureCancelled();
    void buttonClicked();

protected:
    void changeEvent(QEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;

private:
    friend class RankCanvas;
    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
