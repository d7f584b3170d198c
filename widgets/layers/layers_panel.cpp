#include "layers/layers_panel.h"

#include "look/theme.h"

#include <QVBoxLayout>

namespace espalier
{

LayersPanel::LayersPanel(SelectionModel* selection, HoverModel* hover, QWidget* parent) : QWidget(parent)
{
    auto* layout = new QVBoxLayout(this);
    layout->setContentsMargins(0, 0, 0, 0);
    layout->setSpacing(0);
    m_curve = new KeptCurve(selection, hover, this);
    m_budget = new BudgetBar(this);
    m_table = new LayerTable(selection, hover, this);
    setLow(false);
    layout->addWidget(m_curve, 4);
    layout->addWidget(m_budget);
    layout->addWidget(m_table, 9);

    connect(m_curve, &KeptCurve::gestureStarted, this, &LayersPanel::gestureStarted);
    connect(m_curve, &KeptCurve::layerMoved, this, &LayersPanel::layerKeepMoved);
    connect(m_curve, &KeptCurve::gestureFinished, this, &LayersPanel::gestureFinished);
    connect(m_curve, &KeptCurve::gestureCancelled, this, &LayersPanel::gestureCancelled);
    connect(m_curve, &KeptCurve::lockRequested, this, &LayersPanel::lockRequested);
    connect(m_table, &LayerTable::gestureStarted, this, &LayersPanel::gestureStarted);
    connect(m_table, &LayerTable::layerMoved, this, &LayersPanel::layerKeepMoved);
    connect(m_table, &LayerTable::gestureFinished, this, &LayersPanel::gestureFinished);
    connect(m_table, &LayerTable::gestureCancelled, this, &LayersPanel::gestureCancelled);
    connect(m_table, &LayerTable::lockRequested, this, &LayersPanel::lockRequested);
    connect(m_curve, &KeptCurve::skipRequested, this, &LayersPanel::skipRequested);
    connect(m_table, &LayerTable::skipRequested, this, &LayersPanel::skipRequested);
    connect(m_curve, &KeptCurve::lockedTouched, this, &LayersPanel::lockedTouched);
    connect(m_table, &LayerTable::lockedTouched, this, &LayersPanel::lockedTouched);
}

void LayersPanel::setShape(const ModelShape& shape)
{
    m_curve->setShape(shape);
    m_budget->setShape(shape);
    m_table->setShape(shape);
}

void LayersPanel::setPlan(const CompressionPlan& plan)
{
    m_curve->setPlan(plan);
    m_budget->setPlan(plan);
    m_table->setPlan(plan);
}

void LayersPanel::setScores(const ExpertScores& scores) { m_table->setScores(scores); }

void LayersPanel::setReference(const std::optional<CompressionPlan>& before)
{
    m_curve->setReference(before);
    m_table->setReference(before);
}

void LayersPanel::setLow(bool low)
{
    m_curve->setMinimumHeight(pixelsOf(low ? 84 : 160));
    m_table->setMinimumHeight(pixelsOf(low ? 66 : 120));
}

void LayersPanel::setCompact(bool compact) { m_table->setMibVisible(!compact); }

}  // namespace espalier
