// The history as a list with a rail: current path in the accent, the current entry bold, other branches dimmed but clickable.
#pragma once

#include "plan/plan_history.h"

#include <QAbstractListModel>
#include <QHash>
#include <QListView>

#include <memory>

namespace espalier
{

// What is known about a plan, by plan hash.
struct PlanLoss {
    double ppl = 0;
    bool full = false;      // a filled dot; else quick
    bool estimate = false;  // violet, "est."
};

class HistoryModel final : public QAbstractListModel
{
    Q_OBJECT
public:
    enum Role {
        IdRole = Qt::UserRole,
        DepthRole,
        OnPathRole,
        CurrentRole,
        LossRole,
        EstimateRole,
        FullRole,
        TierRole,  // "quick", where the list also holds numbers of all windows
        RailAboveRole,
        RailBelowRole,
        BranchRole
    };
    using QAbstractListModel::QAbstractListModel;
    void set(const PlanHistory& history, const QHash<QString, PlanLoss>& losses);
    int rowCount(const QModelIndex& parent = {}) const override;
    QVariant data(const QModelIndex& index, int role) const override;
    int currentRow() const;

    // A piece of the rail in one row: at the depth's column, from top (0), centre (1) to bottom (2) of the row; `into` >= 0 bends to
    // that depth at the lower end (a branch leaving its parent).
    struct Rail {
        int depth = 0;
        int from = 0;
        int to = 2;
        int into = -1;
        bool onPath = false;
    };
    const std::vector<Rail>& rails(int row) const { return m_rails[static_cast<std::size_t>(row)]; }

private:
    std::vector<HistoryEntry> m_entries;  // by row
    std::vector<PlanHistory::Row> m_rows;
    std::vector<std::vector<Rail>> m_rails;
    QHash<QString, PlanLoss> m_losses;
    bool m_mixed = false;  // some numbers are of few windows, some of all
    int m_current = -1;
};

class HistoryPanel final : public QListView
{
    Q_OBJECT
public:
    explicit HistoryPanel(QWidget* parent = nullptr);
    ~HistoryPanel() override;

public slots:
    void setHistory(const espalier::PlanHistory& history, const QHash<QString, espalier::PlanLoss>& losses);

signals:
    void jumpRequested(int id);

protected:
    void changeEvent(QEvent* event) override;

private:
    HistoryModel* m_model = nullptr;
};

}  // namespace espalier
