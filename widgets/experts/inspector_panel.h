// Facts about the current cell and its layer, with the edits that belong to them.
#pragma once

#include "experts/expert_spectra.h"
#include "experts/selection.h"
#include "plan/compression_plan.h"
#include "plan/expert_grid.h"
#include "plan/model_shape.h"

#include <QScrollArea>

#include <memory>
#include <optional>

namespace espalier
{

class InspectorPanel final : public QScrollArea
{
    Q_OBJECT
public:
    explicit InspectorPanel(SelectionModel* selection, QWidget* parent = nullptr);
    ~InspectorPanel() override;

    QWidget* firstControl() const;  // where the keyboard enters

    void setLow(bool low);  // on a low screen it needs less, and scrolls

public slots:
    void setShape(const espalier::ModelShape& shape);
    void setPlan(const espalier::CompressionPlan& plan);
    void setScores(const espalier::ExpertScores& scores);
    void setUsage(const espalier::ExpertGrid& usage);
    // Estimated change of perplexity if the current cell were otherwise: `what` says how ("if dropped"). NaN: not there yet, the row stays;
    // empty `what`: no row.
    void setCellEstimate(const QString& what, double deltaPpl);
    void setCurves(const std::optional<espalier::ExpertSpectra>& curves);  // of the current cell, or none
    // Why a number was not taken, or what was taken instead: stands below the box that asks, and is nothing of ours where none does.
    void explain(const QString& text, bool isError);
    void setConstantsProblem(const QString& why);  // why no profile offers constants; empty: one does

signals:
    void keepRequested(int layer, int expert, bool keep);
    void protectRequested(int layer, int expert, bool isProtected);
    void lockRequested(int layer);
    void rankRequested(int layer, int expert, int rank);  // 0 = dense; a dropped expert comes back
    void constantRequested(int layer, int expert, espalier::ConstantKind kind);
    void skipRequested(int layer, bool skip);
    void gestureStarted();
    void rankMoved(int layer, int expert, int rank);
    void layerKeepMoved(int layer, int keep);
    void layerRankMoved(int layer, int level);  // one above break-even: dense
    void gestureFinished();
    void gestureCancelled();

protected:
    void resizeEvent(QResizeEvent* event) override;
    void changeEvent(QEvent* event) override;

private:
    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
