// The heatmap: layers x experts coloured by a score, with the plan's states drawn over it, and the readout line below.
// Renders from values set by slots; emits intents. Accessible as a table (row = layer, column = expert).
#pragma once

#include "experts/expert_view.h"
#include "experts/selection.h"
#include "look/colour_map.h"
#include "plan/compression_plan.h"
#include "plan/expert_grid.h"
#include "plan/model_shape.h"

#include <QStringList>
#include <QWidget>

#include <memory>
#include <optional>

class QCustomPlot;

namespace espalier
{

enum class ExpertSort { Index, Score, Usage };
QString expertSortId(ExpertSort sort);
ExpertSort expertSortFromId(const QString& id);

// The plan's matrix ranks instead of a score: no method, known without a profile.
inline const QString kRankMetric = QStringLiteral("rank");

// What the user chose to see; saved with the session.
struct HeatmapOptions {
    QString score;  // method id, or kRankMetric
    NormOptions norm;
    ExpertSort sort = ExpertSort::Index;
    ColourMap map = ColourMap::Viridis;
    NormOptions rankNorm = {Norm::Linear, 0, false};  // of ranks: whole numbers on a scale with a known end
    ColourMap rankMap = ColourMap::Cividis;

    bool ranks() const { return score == kRankMetric; }
    const NormOptions& normInForce() const { return ranks() ? rankNorm : norm; }
    ColourMap mapInForce() const { return ranks() ? rankMap : map; }

    bool operator==(const HeatmapOptions&) const = default;
};

// Everything that is known about one cell; tooltip, readout, table twin and accessibility are made from it.
struct CellFacts {
    CellId cell;
    ExpertView view;
    bool isProtected = false;
    bool locked = false;     // its layer
    bool searching = false;  // a search works on its layer
    double value = 0;        // NaN: no value
    int place = 0;           // in its layer, 1 = most valuable; 0 unknown
    int experts = 0;         // in its layer
    double percentile = 0;   // over the whole model, 100 = most valuable; NaN unknown
    double usage = 0;        // share of the layer's selections in [0, 1]; NaN unknown
    bool saved = false;      // what `bytes` are: saved already, or by dropping it
    std::int64_t bytes = 0;  // of a skipped layer: all that it had
    int rank = 0;            // mean of its matrices, 0 = dense
    int fullRank = 0;        // of a dense matrix
    int breakEven = 0;
    std::int64_t denseBytes = 0;  // of the expert's matrices in the checkpoint; as the plan has them: view.bytes
};

class HeatmapCanvas;

class HeatmapView final : public QWidget
{
    Q_OBJECT
public:
    HeatmapView(SelectionModel* selection, HoverModel* hover, QWidget* parent = nullptr);
    ~HeatmapView() override;

    // For the panel's header: score, norm, clip, sort, per layer. Owned by the panel once it is added there.
    QWidget* choosers() const;

    const HeatmapOptions& options() const;
    std::optional<CellFacts> facts(CellId cell) const;
    QString factsText(CellId cell) const;  // the readout as plain text
    // The cell under a position of plot(), and the rectangle of a cell in it (empty when out of sight).
    CellId cellAt(const QPointF& position) const;
    QRectF cellRect(CellId cell) const;
    QCustomPlot* plot() const;
    QWidget* focusTarget() const;  // what takes the keyboard; a proxy would put the view into the tab order a second time
    // The legend's entries as shown ("dropped", "protected", ...): only the states present.
    QStringList legend() const;
    // Column of each expert as drawn (sorting is per layer).
    int columnOf(CellId cell) const;
    int expertAtColumn(int layer, int column) const;
    int layerCount() const;
    QRect zoom() const;  // columns and rows in sight; null: all

public slots:
    void setShape(const espalier::ModelShape& shape);
    void setPlan(const espalier::CompressionPlan& plan);
    void setScores(const espalier::ExpertScores& scores);  // partial while a profile runs: missing rows empty or NaN
    void setUsage(const espalier::ExpertGrid& usage);      // share per layer, or empty
    void clearScores();
    bool setSearching(const std::vector<int>& layers);  // that a running search works on: marked. True where others than before
    void setConstantsProblem(const QString& why);       // why no profile offers constants; empty: one does
    void setScoreChoices(const QStringList& ids, const QStringList& titles);
    void setOptions(const espalier::HeatmapOptions& options);  // emits nothing
    void setZoom(const QRect& columnsRows);                    // null: all
    // Shown in place of the map while there are no scores; `buttonEnabled` and the reason why not.
    void setEmptyText(const QString& what, const QString& why, const QString& button, bool buttonEnabled = true);
    void setErrorText(const QString& what, const QString& why, const QString& button);
    void setCompact(bool compact);  // below 1400 px: no per-layer bars and histogram, fewer choosers in the row

signals:
    void optionsChanged(const espalier::HeatmapOptions& options);  // by the user; a new score id asks for setScores
    void toggleRequested(int layer, int expert);
    void protectRequested(int layer, int expert);
    void lockRequested(int layer);
    void keepStepRequested(int layer, int delta);                   // within gestureStarted ... gestureFinished
    void rankStepRequested(int layer, int direction, bool coarse);  // likewise
    void setKeptRequested(const std::set<espalier::CellId>& cells, bool kept);
    void constantRequested(const std::set<espalier::CellId>& cells, espalier::ConstantKind kind);
    void skipRequested(int layer, bool skip);
    void gestureStarted();
    void gestureFinished();
    void profileRequested();

protected:
    void changeEvent(QEvent* event) override;
    bool event(QEvent* event) override;

private:
    friend class HeatmapCanvas;
    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
