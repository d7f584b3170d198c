// The search as it runs and as it ended: what it gained over the choice by the score, the best-so-far curve of a layer, and every layer
// searched. For the verified allocator the measured plans, for the receptive field its blocks, for recovery its loss and perplexities.
// Shows a SearchState, knows no engine.
#pragma once

#include "planning/search_state.h"

#include <QWidget>

#include <memory>

namespace espalier
{

class SearchBarPlot;
class SearchCurvePlot;

class SearchPanel final : public QWidget
{
    Q_OBJECT
public:
    explicit SearchPanel(QWidget* parent = nullptr);
    ~SearchPanel() override;

    SearchCurvePlot* curvePlot() const;
    SearchBarPlot* barPlot() const;
    QWidget* choosers() const;  // which part of the search is shown, for the trailing side of the header
    QWidget* firstControl() const;
    QString text() const;  // number and facts, line by line (accessibility, tests)

public slots:
    // `keepable`: the best plan so far can be taken.
    void setState(const espalier::SearchState& state, bool keepable);
    void setLayer(int layer);  // that the views have selected: shown where the search knows it and nothing runs
    void setCompact(bool compact);

signals:
    void stopRequested();      // stop, and keep the best so far
    void keepRequested();      // of an ended search
    void pipelineRequested();  // nothing was searched yet
    void layerChosen(int layer);

protected:
    void changeEvent(QEvent* event) override;

private:
    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
