// The history as a list with a rail: current path in the accent, the current entry bold, other branches dimmed but clickable.
#pragma once

#include "plan/plan_history.h"

#include <QAbstractListModel>
#include <QHash>
#include <QListView>

#include <optional>
#include <vector>

namespace espalier
{

// What is known about a plan, by plan hash.
// Shown is how much the perplexity is above that of the dense model on the same windows: one quantity, whatever windows it is of.
struct PlanLoss {
    double ppl = 0;
    bool full = false;           // a filled dot: of all windows; else of the quick ones
    bool estimate = false;       // violet, "est."
    double increase = 0;         // perplexity over that of dense, less 1
    double increaseError = 0;    // standard error, of the paired difference
    QString basis = {};          // "notes.txt · 128 windows of 256 tokens"
    QStringList elsewhere = {};  // what other texts showed, in words

    bool operator==(const PlanLoss&) const = default;
};

// A search whose result is still to come: a row above the entry that it started from, in no history yet.
struct RunningEntry {
    int parent = -1;  // entry id
    QString text;
    QString progress;  // "13 of 22"

    bool operator==(const RunningEntry&) const = default;
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
        LossRole,  // increase over dense, a fraction
        EstimateRole,
        FullRole,
        TierRole,  // "quick", where the list also holds numbers of all windows
        RailAboveRole,
        RailBelowRole,
        BranchRole,
        BendRole,     // depth of the rail that a branch leaves
        RunningRole,  // no entry yet
        ProgressRole,
        ReadableRole  // false: its plan cannot be read here, the tooltip says why
    };
    using QAbstractListModel::QAbstractListModel;
    void set(const PlanHistory& history, const QHash<QString, PlanLoss>& losses);
    void setLosses(const QHash<QString, PlanLoss>& losses);  // of the same history
    void setNames(const QHash<QString, QString>& names);     // given by the user, by plan hash
    void setRunning(const std::optional<RunningEntry>& running);
    int runningRow() const;  // -1: nothing runs
    int rowCount(const QModelIndex& parent = {}) const override;
    QVariant data(const QModelIndex& index, int role) const override;
    int currentRow() const;
    // Editing the current entry gives its plan a name.
    Qt::ItemFlags flags(const QModelIndex& index) const override;
    bool setData(const QModelIndex& index, const QVariant& value, int role) override;

signals:
    void named(const QString& name);

private:
    void addRunning();
    void findMixed();
    QVariant runningData(int row, int role) const;
    QVariant railData(int row, int role) const;

    std::vector<HistoryEntry> m_entries;  // by row; the running one is empty
    std::vector<PlanHistory::Row> m_rows;
    std::optional<RunningEntry> m_running;
    QHash<QString, PlanLoss> m_losses;
    QHash<QString, QString> m_names;
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
    void setLosses(const QHash<QString, espalier::PlanLoss>& losses);  // of the history that is shown; cheap where nothing changed
    void setRunning(const std::optional<espalier::RunningEntry>& running);
    void setNames(const QHash<QString, QString>& names);
    void editName();  // of the current entry's plan, in place

signals:
    void nameEntered(const QString& name);  // for the current entry's plan; empty: none
    void jumpRequested(int id);
    void runningChosen();

protected:
    void changeEvent(QEvent* event) override;

private:
    void showCurrent();

    HistoryModel* m_model = nullptr;
};

}  // namespace espalier
