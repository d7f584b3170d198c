// Multiple-choice tasks: the mean accuracy as the big number, its paired difference to dense, a bar chart by task. Every number carries
// the plan it belongs to: those of another plan are drawn grey with a clock and a note.
#pragma once

#include "perplexity/task_table.h"

#include <QString>
#include <QWidget>

#include <memory>
#include <vector>

namespace espalier
{

class TaskBars;

struct TasksState {
    QString folder;                // of the tasks, its name
    std::vector<TaskMarks> plan;   // of the plan on screen, or of an earlier one; empty: not measured
    std::vector<TaskMarks> dense;  // of the dense model; empty: not measured
    bool planIsDense = false;      // one model
    QString age;                   // of an earlier plan's numbers: "an earlier plan"; empty: they belong to the plan on screen
    QString planName;              // whose numbers they are
    int first = 0;                 // questions of every task that were asked for; 0: all
    QString running;               // what is being measured: "keep-75"; empty: nothing
};

class TasksPanel final : public QWidget
{
    Q_OBJECT
public:
    explicit TasksPanel(QWidget* parent = nullptr);
    ~TasksPanel() override;

    TaskMetric taskMetric() const;
    void setMetric(TaskMetric metric);
    int questions() const;  // of every task to be asked for; 0: all
    void setQuestions(int first);
    const TaskBars* bars() const;
    QWidget* firstControl() const;
    QString text() const;  // everything it says, in order (tests)

public slots:
    void setState(const espalier::TasksState& state);
    void setMeasureEnabled(bool enabled, const QString& reason = {});

signals:
    void measureRequested();
    void choicesChanged();  // by the user: metric, questions

protected:
    void changeEvent(QEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;

private:
    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
