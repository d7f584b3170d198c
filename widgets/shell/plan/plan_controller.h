// The plan being edited: one gesture is one history entry, going back keeps the way forward, nothing edits a plan in place.
// GUI thread. Pure logic but for Qt's signals: no widget, no engine.
#pragma once

#include "allocate/allocator.h"
#include "experts/selection.h"
#include "plan/compression_plan.h"
#include "plan/expert_grid.h"
#include "plan/plan_history.h"
#include "planning/budget_bar.h"

#include <QObject>
#include <QTimer>

#include <functional>
#include <map>
#include <optional>
#include <set>

namespace espalier
{

class PlanController final : public QObject
{
    Q_OBJECT
public:
    explicit PlanController(QObject* parent = nullptr);

    void open(const ModelShape& shape, const PlanModel& model, const QString& name);
    void restore(const ModelShape& shape, PlanHistory history);
    void close();
    bool isOpen() const { return !m_history.empty(); }

    const ModelShape& shape() const { return m_shape; }
    const PlanHistory& history() const { return m_history; }
    const CompressionPlan& plan() const { return m_live ? *m_live : m_history.current().plan; }  // on screen, mid-gesture too
    const CompressionPlan& committed() const { return m_history.current().plan; }
    bool inGesture() const { return m_live.has_value(); }

    // Scores that decide which experts go when only a count is given. What the map shows is a matter of the map.
    void setScores(const ExpertScores& scores);
    void setLayerImportance(std::vector<double> importance) { m_layerImportance = std::move(importance); }

    void beginGesture();
    void finishGesture();
    void cancelGesture();

    // Within a gesture, or one entry of their own.
    void setKeep(int layer, int keep);
    void toggleExpert(int layer, int expert);
    void setKept(const std::set<CellId>& cells, bool kept);
    void toggleProtected(int layer, int expert);
    void toggleLocked(int layer);
    void stepKeep(int layer, int delta);
    // Counts by target and method (plan_controller_allocation.cpp). Experts that were chosen stay as far as their layer's count allows;
    // what is added or goes is by the scores. A target that cannot be met becomes the nearest one, and the reason is told.
    void allocateTo(const AllocationIntent& intent);
    std::vector<int> lockedLayers() const;
    QString lockedText(const std::vector<int>& layers) const;  // "Layer 0 is locked at 16."
    void unlock(const std::vector<int>& layers);
    void retryUnlocked();         // what was asked last, without the locks that stood in its way
    void refusesKeep(int layer);  // a locked layer: says why, and offers to unlock it
    void rankAnew();              // the best experts of every unlocked layer by the scores; counts stay
    void replacePlan(const CompressionPlan& plan, const QString& text);
    // A child of an earlier entry; the plan on screen and a gesture stay. Returns the entry, or -1 where nothing was added.
    int addBranch(int parent, const CompressionPlan& plan, const QString& text);

    // Ranks (plan_controller_ranks.cpp). What new ranks are factored by; a plan that has ranks keeps its own.
    void setRankFactors(FactorSettings factors) { m_rankFactors = std::move(factors); }
    const FactorSettings& rankFactors() const { return m_rankFactors; }
    // Gate, up and down of one expert; 0 or beyond break-even: dense. A dropped one comes back.
    void setExpertRank(int layer, int expert, int rank);
    // Mean over the kept experts on the scale of plan/rank_edit.h, where one above break-even is dense.
    void setMeanRank(int layer, int level);
    void stepMeanRank(int layer, int direction, bool coarse);
    void setAllDense();
    void setPlanFactors(const FactorSettings& factors);
    bool refusesRank(int layer);  // a locked layer, say, and says why

    // What stands in an expert's place, and which layers run (plan_controller_forms.cpp). New constants are made of the profile with this
    // hash; where there is none, `problem` says why and what measures it. A plan that has constants keeps its profile.
    void setConstantsSource(std::string profileSha256, QString problem)
    {
        m_constantsProfile = std::move(profileSha256);
        m_constantsProblem = std::move(problem);
    }
    const QString& constantsProblem() const { return m_constantsProblem; }
    const std::string& constantsProfile() const { return m_constantsProfile; }
    void setConstants(const std::set<CellId>& cells, ConstantKind kind);
    void setDroppedAs(std::optional<ConstantKind> kind);  // of all layers that are not fixed; nothing: constants become dropped
    bool hasDropped() const;                              // in such a layer
    void setConstantsFrom(const std::string& profileSha256);
    void setSkipped(int layer, bool skip);
    bool refusesSkipped(int layer);  // says that nothing of it runs

    // Where values files lie now, by id: of every plan of the history. No edit.
    void placeValues(const std::map<ValuesId, std::string>& files);

    void undo();
    void redo();
    void jumpTo(int id);
    bool canUndo() const { return !inGesture() && m_history.canUndo(); }
    bool canRedo() const { return !inGesture() && m_history.canRedo(); }

signals:
    void shapeChanged();    // another model, before its plan is announced
    void planChanged();     // the plan on screen, every frame of a drag
    void historyChanged();  // an entry was added, or the current one moved
    // Why something was clamped or refused; empty: nothing to say. `locks`: layers whose locks stand in the way of what was asked, which
    // retryUnlocked() gives up.
    void explained(const QString& text, bool isError, const std::vector<int>& locks = {});

private:
    // What is told goes with its cause: `note` replaces it whenever the plan is edited.
    void apply(Result<CompressionPlan> plan, const QString& text, const QString& note = {}, const std::vector<int>& locks = {});
    CompressionPlan base() const;  // what a gesture's moves start from
    void say(const QString& text, bool isError = false, const std::vector<int>& locks = {});
    // Kept experts first, then by score: as scores of one layer's experts, higher is better.
    std::vector<double> orderOf(const CompressionPlan& start, const LayerShape& layer) const;
    // Who leaves a layer whose others all are constants becomes one too; elsewhere it is dropped.
    Result<CompressionPlan> withKeptAs(const CompressionPlan& start, int layer, const ExpertSet& kept) const;
    QString cellsText(const std::set<CellId>& cells) const;
    Result<CompressionPlan> withCounts(const CompressionPlan& start, const std::vector<int>& counts) const;
    QString whyUnchanged(const AllocationIntent& intent, const CompressionPlan& start) const;

    ModelShape m_shape;
    PlanHistory m_history;
    std::optional<CompressionPlan> m_live;
    QString m_gestureText;
    std::optional<ExpertScores> m_scores;
    std::vector<double> m_layerImportance;
    FactorSettings m_rankFactors = {"svd", {}};
    std::string m_constantsProfile;
    QString m_constantsProblem;
    struct Offer {
        std::optional<AllocationIntent> intent;  // none: the layers are unlocked and that is all
        std::vector<int> locks;
    };
    std::optional<Offer> m_offer;  // what was asked, and what stood in its way
};

}  // namespace espalier
