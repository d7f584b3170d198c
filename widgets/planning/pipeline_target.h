// How much a pipeline may keep: experts, a size of the whole model (MiB, GiB, percent of dense, parameters) or of its experts, or the
// parameters that a token runs; and whether all layers get one count.
#pragma once

#include "plan/compression_plan.h"
#include "plan/model_shape.h"
#include "planning/pipeline_recipe.h"
#include "planning/size_target.h"

#include <QWidget>

class QComboBox;
class QLabel;
class QLineEdit;
class QPushButton;
class QToolButton;

namespace espalier
{

class Switch;

class PipelineTarget final : public QWidget
{
    Q_OBJECT
public:
    explicit PipelineTarget(QWidget* parent = nullptr);

    void setShape(const ModelShape& shape);
    void setPlan(const CompressionPlan& plan);
    void show(const PipelineRecipe& recipe);  // its target; emits nothing
    void write(PipelineRecipe& recipe) const;
    QString problem() const;  // what was typed is no target, or one below what locks and routers leave; empty: it is one
    void takeSizeOfPlan();    // of the plan on screen, in the unit that is chosen; nothing for the dense model

signals:
    void changed();
    void unlockRequested(const std::vector<int>& layers);  // that stand in the way of the target

protected:
    void changeEvent(QEvent* event) override;

private:
    std::int64_t denseBytes() const { return m_scale.denseBytes; }
    bool planIsDense() const { return m_plan.layerCount() == 0 || m_plan.isIdentity(m_shape); }
    bool inExperts() const { return m_unit == TargetUnit::Experts || m_unit == TargetUnit::ActiveParameters; }
    void setUnit(TargetUnit unit);
    void enter();
    void setBad(bool bad);
    void refresh();
    void note(const QString& text);
    void checkReach();

    ModelShape m_shape;
    CompressionPlan m_plan;
    TargetUnit m_unit = TargetUnit::Experts;
    SizeScale m_scale;
    std::optional<int> m_rank;  // that active parameters ask for; set while that is the unit
    int m_experts = 0;
    std::int64_t m_bytes = 0;
    bool m_bad = false;
    QString m_beyond;          // why the target cannot be reached; empty: it can
    std::vector<int> m_locks;  // that stand in its way
    QLineEdit* m_field = nullptr;
    QComboBox* m_units = nullptr;
    QLabel* m_of = nullptr;
    QLabel* m_note = nullptr;  // what was asked for and is not possible
    QPushButton* m_unlock = nullptr;
    QToolButton* m_take = nullptr;
    Switch* m_equal = nullptr;
};

}  // namespace espalier
