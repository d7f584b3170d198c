// The instant estimate: what the change of perplexity will be, from the deep profile, before anything is evaluated. Asked every frame of a
// drag: at most one request in flight, the newest plan wins. An estimate belongs to one plan hash and is given for that one only. It rests
// on the plans that were measured with the profile; what was measured exactly later, on the same windows as the number it stands beside,
// refines the estimates of other plans. Nothing else moves it. GUI thread; talks to the engine only.
#pragma once

#include "base/statistics.h"
#include "experts/selection.h"
#include "plan/compression_plan.h"
#include "plan/plan_history.h"
#include "rpc/protocol_evaluation.h"
#include "score/probe_fit.h"
#include "shell/engine/engine_client.h"

#include <QObject>
#include <QString>

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace espalier
{

struct PlanRun;

class EstimateController final : public QObject
{
    Q_OBJECT
public:
    explicit EstimateController(EngineClient* engine, QObject* parent = nullptr);

    // The profile that estimates come from; empty: none. Another profile or text forgets every estimate.
    void setProfile(const QString& file, const QString& sha256);
    bool available() const { return !m_file.isEmpty(); }
    void setShape(const ModelShape& shape);
    void setPlan(const CompressionPlan& plan);
    void setCell(CellId cell);
    // What is measured exactly on this text, and which plan a hash stands for. Quick windows and those of the full tier are calibrated each
    // by itself, by the plans that have all of them; the dense model must have them too.
    struct Tiers {
        std::vector<int> quick;
        std::vector<int> full;
    };
    void setMeasured(const std::map<std::string, PlanRun>& runs, const PlanHistory& history, const CompressionPlan& identity,
                     const Tiers& tiers);

    enum class Tier { Quick, Full };
    struct Estimate {
        double deltaPpl = 0;  // to dense
        // Nine of ten measurements lie between; NaN where nothing says how far it may be off.
        double low = 0;
        double high = 0;
        bool calibrated = false;  // of the right size: fitted to plans that were measured
        int probes = 0;           // plans measured with the profile
        int runs = 0;             // plans measured later on the windows of the tier
        QString note;             // "likely 44.1 to 47.9", or what it lacks
    };
    // Of this plan; nothing while its answer is not there. `densePpl` as measured on the windows of the tier.
    std::optional<Estimate> estimateOf(const std::string& planHash, double densePpl, Tier tier = Tier::Quick) const;

    // What the plan on screen does that no estimate covers, in words; empty: all of it is covered, or there are no estimates.
    QString notCovered() const;

    // What a session keeps, so that it opens with the same estimates: those of the plans that were measured.
    Json record() const;
    void restoreRecord(const Json& record);

    // How the current cell could be otherwise, in words ("if dropped"); empty: not at all, or no estimates.
    QString cellWhat() const { return available() ? m_cellWhat : QString(); }
    // Change of perplexity if it were, to the plan on screen; NaN: not there yet.
    double cellDelta(double densePpl, Tier tier = Tier::Quick) const;

signals:
    void changed();

private:
    // Of NLL per token, to dense: slope and curvature, NaN where the profile says nothing; fitted where it has measured plans.
    struct Known {
        double e1 = 0;
        double e2 = 0;
        std::optional<NllInterval> fitted;
    };
    // Of profiles without measured plans. The newest fit holds for all of them.
    struct Fit {
        double beta1 = 1;
        double beta2 = 1;
        double band = 0;  // NaN: too few pairs
        int pairs = 0;
        double change(const Known& known) const { return beta1 * known.e1 + beta2 * known.e2; }
    };
    using Exact = std::map<std::string, double>;  // measured change of NLL per token, by plan hash
    const Exact& exactOf(Tier tier) const { return tier == Tier::Full ? m_full : m_quick; }
    void forget();
    bool settled() const;  // the record is whole: estimates will not move until something is measured
    // Of the plan, in the light of the others that were measured.
    std::optional<NllInterval> intervalOf(const std::string& planHash, Tier tier, int* runs = nullptr) const;
    void ask();
    void refreshCell();
    std::vector<EstimatePoint> pairs() const;
    void take(const std::string& hash, const EstimateAnswer& answer);  // for the plan of that hash

    EngineClient* m_engine;
    QString m_file;
    QString m_sha256;
    ModelShape m_shape;
    CompressionPlan m_plan;
    CellId m_cell;
    QString m_cellWhat;
    std::optional<CompressionPlan> m_cellPlan;  // the plan with the cell otherwise
    std::map<std::string, Known> m_known;       // by plan hash
    Fit m_fit;
    std::size_t m_sentPairs = 0;
    int m_probes = 0;
    Exact m_quick;
    Exact m_full;
    Json m_restored;                                    // a record that waits for its profile
    std::map<std::string, CompressionPlan> m_unpaired;  // measured, but their estimate is not known
    std::int64_t m_request = 0;
    int m_epoch = 0;
    bool m_refused = false;  // the engine or the profile cannot; not asked again
};

}  // namespace espalier
