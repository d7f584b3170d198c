// The instant estimate (methods.md 4.9): what the change of perplexity will be, from the deep profile's gradients, before anything is
// evaluated. Asked every frame of a drag: at most one request in flight, the newest plan wins. An estimate belongs to one plan hash and is
// given for that one only; exact evaluations on the same text calibrate it. GUI thread; talks to the engine only.
#pragma once

#include "base/statistics.h"
#include "plan/compression_plan.h"
#include "plan/plan_history.h"
#include "selection.h"
#include "shell/engine_client.h"

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
    // What is measured exactly on this text, and which plan a hash stands for. These windows are compared, in plans that have all.
    void setMeasured(const std::map<std::string, PlanRun>& runs, const PlanHistory& history, const CompressionPlan& identity,
                     const std::vector<int>& windows);

    struct Estimate {
        double deltaPpl = 0;  // to dense
        QString note;         // "past error ±0.05 over 14 runs", or "uncalibrated, 3 runs"
    };
    // Of this plan; nothing while its answer is not there. `densePpl` as measured on the text.
    std::optional<Estimate> estimateOf(const std::string& planHash, double densePpl) const;
    // How the current cell could be otherwise, in words ("if dropped"); empty: not at all, or no estimates.
    QString cellWhat() const { return available() ? m_cellWhat : QString(); }
    // Change of perplexity if it were, to the plan on screen; NaN: not there yet.
    double cellDelta(double densePpl) const;

signals:
    void changed();

private:
    // Of NLL per token, to dense: slope and curvature, NaN where the profile says nothing.
    struct Known {
        double e1 = 0;
        double e2 = 0;
    };
    // The newest fit holds for all of them.
    struct Fit {
        double beta1 = 1;
        double beta2 = 1;
        double band = 0;  // NaN: too few pairs
        int pairs = 0;
        double change(const Known& known) const { return beta1 * known.e1 + beta2 * known.e2; }
    };
    void ask();
    void refreshCell();
    Json pairs() const;

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
    std::map<std::string, double> m_exact;              // measured change of NLL per token, by plan hash
    std::map<std::string, CompressionPlan> m_unpaired;  // measured, but their estimate is not known
    std::int64_t m_request = 0;
    int m_epoch = 0;
    bool m_refused = false;  // the engine or the profile cannot; not asked again
};

}  // namespace espalier
