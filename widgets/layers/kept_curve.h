// Curve of one number per layer: the experts kept (with bars), or the mean rank. Points are dragged; the curve before stays as a ghost.
#pragma once

#include "experts/selection.h"
#include "layers/layer_quantity.h"
#include "plan/compression_plan.h"
#include "plan/model_shape.h"

#include <QWidget>

#include <memory>
#include <optional>

class QCustomPlot;

namespace espalier
{

class CurveCanvas;

class KeptCurve final : public QWidget
{
    Q_OBJECT
public:
    KeptCurve(SelectionModel* selection, HoverModel* hover, QWidget* parent = nullptr, LayerQuantity quantity = LayerQuantity::Kept);
    ~KeptCurve() override;
    QCustomPlot* plot() const;
    QWidget* focusTarget() const;            // what takes the keyboard; a proxy would put the view into the tab order a second time
    QPointF pointPosition(int layer) const;  // of a layer's point in plot()

public slots:
    void setShape(const espalier::ModelShape& shape);
    void setPlan(const espalier::CompressionPlan& plan);
    void setReference(const std::optional<espalier::CompressionPlan>& before);  // the ghost; none: no ghost
    void setLarge(bool large);                                                  // layout Budget: more ticks, readout with the estimate

signals:
    void gestureStarted();
    void layerMoved(int layer, int value);  // leastOf <= value <= mostOf
    void gestureFinished();
    void gestureCancelled();
    void resetRequested(int layer);  // double click on a point
    void lockRequested(int layer);
    void skipRequested(int layer, bool skip);
    void lockedTouched(int layer);  // somebody tried to move a locked layer

protected:
    void changeEvent(QEvent* event) override;

private:
    friend class CurveCanvas;
    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
