// The left panel's page about ranks: curve of the mean rank over size, rule and factors, over the tables.
#pragma once

#include "layers/kept_curve.h"
#include "layers/layer_table.h"

#include <QWidget>

#include <vector>

class QComboBox;
class QLabel;
class QPushButton;
class QStackedLayout;

namespace espalier
{

class RankRuleBar;
class RankTable;
class Segment;

class RankPanel final : public QWidget
{
    Q_OBJECT
public:
    RankPanel(SelectionModel* selection, HoverModel* hover, QWidget* parent = nullptr);

    KeptCurve* curve() const { return m_curve; }
    LayerTable* table() const { return m_table; }
    RankTable* matrices() const { return m_matrices; }  // in place of the table, when chosen
    RankRuleBar* rule() const { return m_rule; }
    QString text() const;  // of the note between curve and table

public slots:
    void setShape(const espalier::ModelShape& shape);
    void setPlan(const espalier::CompressionPlan& plan);
    void setReference(const std::optional<espalier::CompressionPlan>& before);
    // Whether the profile holds bases for whitened factors; `measure`: the button that measures them is offered; `note` says how it stands.
    void setMeasured(bool measured, const QString& note, bool measure);
    // Clamp or refusal in place of the note; empty: the note. `locks`: those that stand in the way, which a button gives up.
    void setMessage(const QString& text, bool isError, const std::vector<int>& locks = {});
    void setCompact(bool compact);

signals:
    void gestureStarted();
    void layerRankMoved(int layer, int level);
    void gestureFinished();
    void gestureCancelled();
    void lockRequested(int layer);
    void skipRequested(int layer, bool skip);
    void lockedTouched(int layer);
    void factorsChosen(bool whitened);
    void measureRequested();
    void unlockRequested();

protected:
    void changeEvent(QEvent* event) override;

private:
    void refresh();

    KeptCurve* m_curve = nullptr;
    QComboBox* m_factors = nullptr;
    RankRuleBar* m_rule = nullptr;
    Segment* m_shown = nullptr;
    QStackedLayout* m_tables = nullptr;
    RankTable* m_matrices = nullptr;
    QLabel* m_note = nullptr;
    QPushButton* m_unlock = nullptr;
    QPushButton* m_measure = nullptr;
    LayerTable* m_table = nullptr;
    ModelShape m_shape;
    CompressionPlan m_plan;
    bool m_measured = false;
    bool m_offer = false;
    bool m_messageIsError = false;
    QString m_noteText;
    QString m_message;
    std::vector<int> m_locks;
};

}  // namespace espalier
