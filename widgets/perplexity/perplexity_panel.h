// Perplexity in three tiers: the big number, its paired difference to dense, the running mean with its band.
// Every number carries the plan it belongs to: a tier with a staleNote is drawn grey with a clock and that note.
#pragma once

#include "base/statistics.h"

#include <QString>
#include <QWidget>

#include <memory>
#include <optional>
#include <vector>

class QCustomPlot;

namespace espalier
{

struct TierState {
    std::vector<WindowLoss> windows;  // measured so far, any order; empty: not evaluated
    int wanted = 0;                   // windows of the whole tier
    double seconds = 0;               // how long it took; 0 unknown
    bool running = false;
    bool paused = false;  // the engine was lost or pre-empted
    QString staleNote;    // "before this edit · 14:31"; empty: belongs to the plan on screen
};

// What the locked text showed of the plan on screen; it is opened on request only.
struct LockedState {
    QString textName;
    std::vector<WindowLoss> windows;  // empty: not opened for this plan
    std::vector<WindowLoss> dense;    // the identity plan on the same windows
    int windowLength = 0;
    int openings = 0;  // of the text, for all plans
    int plans = 0;
    bool running = false;
};

struct PerplexityState {
    QString planName;
    QString textName;               // of the live text, which everything here but `locked` is measured on
    std::vector<WindowLoss> dense;  // the identity plan on the same text; empty: not measured yet
    TierState full;
    TierState quick;
    LockedState locked;
    std::optional<double> estimatedDelta;  // change of perplexity to dense, from the profile
    double estimateBase = 0;               // perplexity of the dense model that it is added to
    int estimateWindows = 0;               // windows that both are of
    QString estimateNote;                  // "likely 44.1 to 47.9"
    QString notEstimated;                  // what the plan does that no estimate covers; empty: nothing
    int windowLength = 0;                  // tokens
    double wideLimit = 0.02;               // relative standard error above which a number says little by itself
    QString age;                           // of the stale number in short: "before the last change"
    QString staleName;                     // of the plan that it belongs to
    QString refusal;                       // why the plan on screen cannot be evaluated; empty: it can
    bool planIsDense = false;              // the plan on screen drops nothing: one line, not two on top of each other
};

// The number that stands for the plan on screen in panel, status bar and history: full, else quick, else estimate, else a stale one.
struct HeadlinePerplexity {
    enum class Kind { None, Full, Quick, Estimate, Stale };
    Kind kind = Kind::None;
    double ppl = 0;
    double error = 0;
    std::optional<double> delta;  // to dense, paired
    std::optional<double> deltaError;
    bool running = false;  // windows are still to come
    int windows = 0;       // that the number is of
    int windowsOf = 0;     // of the whole text
    QString note;          // what it is of ("notes.txt · 16 of 128 windows of 256 tokens"), or the age
    QString basis;         // what it is of, always
    QString shortBasis;    // the same in few characters: "notes.txt 16/128 × 256"
};
HeadlinePerplexity headline(const PerplexityState& state);

// Of the windows of `all` those that `windows` has too: what may stand beside it.
std::vector<WindowLoss> sameWindows(const std::vector<WindowLoss>& all, const std::vector<WindowLoss>& windows);

// "notes.txt · 16 of 128 windows of 256 tokens"; `total` not more than `windows`: only what is there.
QString basisText(const QString& textName, int windows, int total, int windowLength);

class PerplexityPanel final : public QWidget
{
    Q_OBJECT
public:
    explicit PerplexityPanel(QWidget* parent = nullptr);
    ~PerplexityPanel() override;
    QCustomPlot* plot() const;
    QWidget* choosers() const;  // the segment PPL | Δ, for the trailing side of the header
    bool showsDelta() const;
    // Of the page that is seen; the plot gives way first.
    QSize minimumSizeHint() const override;
    int stripWidth() const;  // that the numbers need; the plot comes with more room

public slots:
    void setState(const espalier::PerplexityState& state);
    void setShowsDelta(bool on);
    void setEvaluateEnabled(bool enabled, const QString& reason = {});
    void setCompact(bool compact);

signals:
    void evaluateRequested();

protected:
    void changeEvent(QEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;

private:
    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
