// The left panel's page that makes a plan by method: stages from score to ranks, the target, and the buttons that start the engine.
// Shows a recipe and changes it; knows no engine.
#pragma once

#include "base/method_registry.h"
#include "plan/compression_plan.h"
#include "plan/model_shape.h"
#include "planning/pipeline_recipe.h"

#include <QWidget>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace espalier
{

class PipelinePanel final : public QWidget
{
    Q_OBJECT
public:
    explicit PipelinePanel(QWidget* parent = nullptr);
    ~PipelinePanel() override;

    const PipelineRecipe& recipe() const;  // what is shown
    QString problem() const;               // why what is shown cannot run; empty: it can
    bool canFind() const;                  // "Find a plan for this size" is possible
    bool canRecover() const;               // new numbers for the plan on screen are possible
    QWidget* firstControl() const;

public slots:
    void setShape(const espalier::ModelShape& shape);  // and the recipe that a model starts with
    void setPlan(const espalier::CompressionPlan& plan);
    void setMethods(const std::vector<espalier::MethodInfo>& methods);
    // Statistics of the profile, nothing: there is none. `noText`: why nothing can run on the calibration text.
    void setAvailable(const std::optional<std::set<std::string>>& statistics, const QString& noText);
    void setRecipe(const espalier::PipelineRecipe& recipe);  // emits nothing
    void choosePreset(espalier::PipelinePreset preset);
    void chooseAllocation(const QString& id);
    void takeSizeOfPlan();                   // the target becomes the size of the plan on screen
    void setBlocked(const QString& reason);  // why nothing can be started now; empty: it can

signals:
    void recipeChanged();
    void runRequested();
    void unlockRequested(const std::vector<int>& layers);  // that stand in the way of the target
    void findRequested();                                  // "Find a plan for this size"
    void recoverRequested();                               // "Recover this plan"

protected:
    void changeEvent(QEvent* event) override;

private:
    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
