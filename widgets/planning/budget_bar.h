// The target: experts kept over all layers by slider and text ("75%", "0.75", "96/128", "1,080"), the method that distributes them, its
// parameters, built from the registry's specs, and the score that says which experts go.
#pragma once

#include "base/method_registry.h"
#include "plan/compression_plan.h"
#include "plan/model_shape.h"

#include <QWidget>

#include <memory>
#include <vector>

namespace espalier
{

// What the user asked the allocator for.
struct AllocationIntent {
    int keepTotal = 0;
    std::string method;
    Params params;
    bool equalCounts = false;  // one count for all layers, as a stock export needs
    enum class Change { Target, Method, Equality };
    Change change = Change::Target;  // what of it the user touched
    std::vector<int> unlock = {};    // layers whose locks are given up for it
};

QString unlockText(const std::vector<int>& layers);  // of the button that gives up their locks

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
    // Scores that experts can be ranked by, and the one in use; emits nothing. Not what the map shows.
    void setRankings(const QStringList& ids, const QString& current);
    // Clamp or infeasible; empty hides it. `locks`: layers whose locks stand in the way, offered to be unlocked.
    void setMessage(const QString& text, bool isError, const std::vector<int>& locks = {});

signals:
    void gestureStarted();
    void allocationRequested(const espalier::AllocationIntent& intent);  // live, within a gesture
    void gestureFinished();
    void gestureCancelled();
    void methodElsewhere(const QString& id);
    void rankingChosen(const QString& id);  // counts and experts stay until they are asked to change
    void rankAnewRequested();               // the best experts by that score, at the counts that are there
    void unlockRequested();                 // the locks of the message

protected:
    void keyPressEvent(QKeyEvent* event) override;

private:
    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
