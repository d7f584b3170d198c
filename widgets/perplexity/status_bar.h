// The one place that always answers: what am I looking at, is it current, who is computing.
#pragma once

#include "perplexity/perplexity_panel.h"
#include "plan/cost_model.h"

#include <QWidget>

#include <memory>
#include <optional>

namespace espalier
{

enum class EngineState { NotStarted, Starting, Ready, Busy, NotResponding, Lost, Incompatible };

struct JobState {
    enum class Phase { Running, Finishing, Cancelling };
    QString what;  // "Full · keep-75"
    std::int64_t done = 0;
    std::int64_t total = 0;  // 0: not known yet
    std::optional<double> etaSeconds;
    Phase phase = Phase::Running;
    QString count = {};       // "48 of 128 windows", where done and total count something else
    bool background = false;  // nobody asked for it now: the button stays Evaluate
};

class StatusBar final : public QWidget
{
    Q_OBJECT
public:
    explicit StatusBar(QWidget* parent = nullptr);
    ~StatusBar() override;
    QString text() const;  // everything it says, in order (accessibility, tests)
    QSize sizeHint() const override;

public slots:
    void setPlan(const QString& name, bool modified);
    void setReadOnly(const QString& why);  // the session; stands beside the plan's name. Empty: it can be saved
    void setCost(const espalier::PlanCost& plan, const espalier::PlanCost& dense);
    void setPerplexity(const espalier::HeadlinePerplexity& headline);
    void setPerplexity(const espalier::HeadlinePerplexity& headline, std::optional<double> estimate);  // estimate beside a stale number
    void setSpeed(const QString& text, const QString& help);  // of the plan, beside the perplexity; empty: not measured
    void setJob(const std::optional<espalier::JobState>& job);
    void setEngine(espalier::EngineState state, const QString& text);
    void setCompact(bool compact);
    void clear();  // no model: only the engine remains

signals:
    void cancelRequested();
    void engineClicked();
    void perplexityClicked();

protected:
    bool event(QEvent* event) override;
    void changeEvent(QEvent* event) override;
    void paintEvent(QPaintEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;

private:
    void fit();  // leaves out what matters least, so that nothing is cut off

    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
