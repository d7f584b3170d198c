// What is measured, and what is estimated: the panel of perplexity, the tool bar's switch and button, the job in the status bar, profiles.
#pragma once

#include "perplexity/perplexity_panel.h"
#include "shell/window/workspace.h"

#include <QTimer>

#include <optional>

class QPushButton;

namespace espalier
{

class EstimateController;
class Panel;
class Switch;
struct PlanLoss;

class MeasureWorkspace final : public Workspace
{
    Q_OBJECT
public:
    MeasureWorkspace(const WindowContext& context, QObject* parent);

    Panel* dock() const { return m_dock; }  // other workspaces add pages to it
    PerplexityPanel* panel() const { return m_panel; }
    Switch* automatic() const { return m_auto; }                // for the tool bar, which owns it
    QPushButton* evaluateButton() const { return m_evaluate; }  // likewise
    QWidget* firstControl() const;
    bool jobRunning() const { return m_jobRunning; }
    QHash<QString, PlanLoss> planLosses() const;  // measured, and the estimate of the plan on screen
    void measureProfile();                        // one that is complete is measured again only on request

    void updateActions() override;
    void show() override;
    void setSize(const WindowSize& size) override;
    void addToView(Json& view) const override;
    void restoreView(const Json& view) override;
    QString helpPage(const QWidget* focus) const override;

signals:
    void lossesChanged();                                              // planLosses()
    void headlineChanged(const QString& number, const QString& note);  // the perplexity of the plan on screen; of a stale one, its age
    void cellEstimateChanged(const QString& what, double delta);       // perplexity of dense with the current expert dropped, less dense

private:
    void makeActions();
    void makeButtons();
    void connectEstimates();
    void connectJobs();
    void updateButtons();
    void askLocked();
    void showJob(const std::optional<JobState>& job);
    void showPerplexity();
    void showEstimates();
    void showCellEstimate();
    void tellMeasured();
    void addEstimate(PerplexityState& state) const;
    bool buttonCancels() const { return m_jobVisible && !(m_job && m_job->background); }

    PerplexityPanel* m_panel = nullptr;
    Panel* m_dock = nullptr;
    EstimateController* m_estimates = nullptr;
    Switch* m_auto = nullptr;
    QPushButton* m_evaluate = nullptr;
    bool m_jobRunning = false;
    bool m_jobVisible = false;  // in the status bar
    std::optional<JobState> m_job;
    QTimer m_jobShown;
    QTimer m_jobGone;
};

}  // namespace espalier
