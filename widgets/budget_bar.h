// The target: experts kept over all layers by slider and text ("75%", "0.75", "96/128", "1,080"), the method that distributes them and
// its parameters, built from the registry's specs.
#pragma once

#include "base/method_registry.h"
#include "plan/compression_plan.h"
#include "plan/model_shape.h"

#include <QWidget>

#include <memory>

namespace espalier
{

// What the user asked the allocator for.
struct AllocationIntent {
    int keepTotal = 0;
    std::string method;
    Params params;
    bool equalCounts = false;  // one count for all layers, as a stock export needs
};

class BudgetBar final : public QWidget
{
    Q_OBJECT
public:
    explicit BudgetBar(QWidget* parent = nullptr);
    ~BudgetBar() override;
    AllocationIntent intent() const;

public slots:
    void setShape(const espalier::ModelShape& shape);
    void setPlan(const espalier::CompressionPlan& plan);                // moves slider and number, emits nothing
    void setMethods(const std::vector<espalier::MethodInfo>& methods);  // allocators; the first is chosen
    void setMethod(const QString& id);                                  // emits nothing
    void setChoice(const espalier::AllocationIntent& choice);           // method, parameters, equal counts; emits nothing
    // Methods that cannot run now and why ("importance" needs scores); empty reason: can.
    void setMethodAvailable(const QString& id, const QString& reasonWhyNot);
    // Methods that are run elsewhere: choosing one says methodElsewhere and leaves the choice as it was.
    void setMethodElsewhere(const QString& id, const QString& why);
    void setMessage(const QString& text, bool isError);  // clamp or infeasible; empty hides it

signals:
    void gestureStarted();
    void allocationRequested(const espalier::AllocationIntent& intent);  // live, within a gesture
    void gestureFinished();
    void gestureCancelled();
    void methodElsewhere(const QString& id);

private:
    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
