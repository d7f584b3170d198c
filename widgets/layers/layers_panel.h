// The left panel's page: curve over budget over table, one column. Passes values down and intents up.
#pragma once

#include "layers/kept_curve.h"
#include "layers/layer_table.h"
#include "planning/budget_bar.h"

#include <QWidget>

namespace espalier
{

class LayersPanel final : public QWidget
{
    Q_OBJECT
public:
    LayersPanel(SelectionModel* selection, HoverModel* hover, QWidget* parent = nullptr);

    KeptCurve* curve() const { return m_curve; }
    BudgetBar* budget() const { return m_budget; }
    LayerTable* table() const { return m_table; }

public slots:
    void setShape(const espalier::ModelShape& shape);
    void setPlan(const espalier::CompressionPlan& plan);
    void setScores(const espalier::ExpertScores& scores);
    void setReference(const std::optional<espalier::CompressionPlan>& before);
    void setCompact(bool compact);
    void setLow(bool low);  // on a low screen curve and table need less

signals:
    // Of curve and table together; the budget's are its own (budget()).
    void gestureStarted();
    void layerKeepMoved(int layer, int keep);
    void gestureFinished();
    void gestureCancelled();
    void lockRequested(int layer);
    void skipRequested(int layer, bool skip);
    void lockedTouched(int layer);  // somebody tried to move a locked layer

private:
    KeptCurve* m_curve = nullptr;
    BudgetBar* m_budget = nullptr;
    LayerTable* m_table = nullptr;
};

}  // namespace espalier
