#include "heatmap/heatmap_view.h"

#include "heatmap/heatmap_private.h"
#include "look/icon.h"

#include <QApplication>
#include <QComboBox>
#include <QEvent>
#include <QSignalBlocker>
#include <QStackedLayout>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

struct ClipChoice {
    double percent;
    const char* text;
};
constexpr ClipChoice kClips[] = {{0.0, QT_TRANSLATE_NOOP("HeatmapView", "min–max")},
                                 {0.5, QT_TRANSLATE_NOOP("HeatmapView", "clip 0.5–99.5 %")},
                                 {1.0, QT_TRANSLATE_NOOP("HeatmapView", "clip 1–99 %")},
                                 {2.0, QT_TRANSLATE_NOOP("HeatmapView", "clip 2–98 %")},
                                 {5.0, QT_TRANSLATE_NOOP("HeatmapView", "clip 5–95 %")}};

}  // namespace

QString expertSortId(ExpertSort sort)
{
    switch (sort) {
        case ExpertSort::Score:
            return QStringLiteral("score");
        case ExpertSort::Usage:
            return QStringLiteral("usage");
        case ExpertSort::Index:
            break;
    }
    return QStringLiteral("index");
}

ExpertSort expertSortFromId(const QString& id)
{
    if (id == QLatin1StringView("score")) return ExpertSort::Score;
    if (id == QLatin1StringView("usage")) return ExpertSort::Usage;
    return ExpertSort::Index;
}

void HeatmapView::Private::refreshEmpty()
{
    empty->set(isError ? EmptyState::Kind::Error : EmptyState::Kind::Empty,
               isError ? QStringLiteral("triangle-alert") : QStringLiteral("grid-3x3"), emptyWhat, emptyWhy, emptyButton);
    empty->setButtonEnabled(emptyButtonEnabled);
    // The keyboard stays in this panel when the map gives way to the text, and comes back with the map.
    const bool map = hasScores && rowCount() > 0;
    QWidget* focus = QApplication::focusWidget();
    const bool here = focus == canvas || focus == empty || (focus && empty->isAncestorOf(focus));
    stack->setCurrentIndex(map ? 0 : 1);
    if (here) (map ? static_cast<QWidget*>(canvas) : empty)->setFocus(Qt::OtherFocusReason);
}

void HeatmapView::Private::refreshChoosers()
{
    const QSignalBlocker b1(scoreBox);
    const QSignalBlocker b2(normBox);
    const QSignalBlocker b3(clipBox);
    const QSignalBlocker b4(sortBox);
    const QSignalBlocker b5(perLayer);
    scoreBox->setCurrentIndex(scoreBox->findData(options.score));
    const NormOptions& norm = options.normInForce();
    normBox->setCurrentIndex(normBox->findData(normId(norm.norm)));
    int clip = -1;
    for (int i = 0; i < clipBox->count(); ++i) {
        if (std::abs(clipBox->itemData(i).toDouble() - norm.clipPercent) < 1e-6) clip = i;
    }
    clipBox->setCurrentIndex(clip);
    clipBox->setEnabled(norm.norm != Norm::Rank);
    sortBox->setCurrentIndex(sortBox->findData(expertSortId(options.sort)));
    perLayer->setChecked(norm.perLayer);
    canvas->setAccessibleName(options.ranks() ? HeatmapView::tr("Ranks of experts, layers by experts")
                                              : HeatmapView::tr("Importance of experts, layers by experts"));
    if (!chooserRow) return;
    for (QWidget* control : {static_cast<QWidget*>(clipBox), chooserLine, static_cast<QWidget*>(perLayer)})
        chooserRow->setFolded(control, compact);
    chooserRow->setShown(scoreBox, scoreBox->count() > 0 && scoreBox->currentIndex() >= 0);
    chooserRow->choicesChanged();
}

// What is drawn on the canvas: the colour map, and around and above it the layers of this view.
void HeatmapView::Private::makeMap()
{
    canvas->plotLayout()->setMargins(QMargins(0, 0, 0, 0));
    canvas->axisRect()->setAutoMargins(QCP::msNone);
    canvas->axisRect()->setMinimumSize(1, 1);
    canvas->yAxis->setRangeReversed(true);
    for (QCPAxis* axis : {canvas->xAxis, canvas->yAxis}) {
        axis->setVisible(false);
        axis->grid()->setVisible(false);
    }
    map = new QCPColorMap(canvas->xAxis, canvas->yAxis);
    map->setInterpolate(false);
    map->setAntialiased(false);
    new PlotPainting(canvas, QStringLiteral("axes"), [this](QCPPainter* p) {
        drawMarks(p);
        drawFrame(p);
    });
    new PlotPainting(canvas, kOverlayLayer, [this](QCPPainter* p) { drawOverlay(p); });
}

void HeatmapView::Private::makeChoosers()
{
    chooserRow = new FoldRow(HeatmapView::tr("How the map is drawn"));
    // Where there is little room the score comes first.
    const auto box = [&](const QString& name, int weight) {
        auto* combo = new QComboBox;
        combo->setSizeAdjustPolicy(QComboBox::AdjustToContents);
        combo->setAccessibleName(name);
        combo->setToolTip(name);
        chooserRow->add(combo, weight, name);
        return combo;
    };
    scoreBox = box(HeatmapView::tr("Score"), 5);
    normBox = box(HeatmapView::tr("Norm"), 4);
    for (const Norm norm : {Norm::Linear, Norm::Log, Norm::Sqrt, Norm::Rank})
        normBox->addItem(norm == Norm::Rank ? HeatmapView::tr("percentile") : normId(norm), normId(norm));
    clipBox = box(HeatmapView::tr("Range of the colours"), 2);
    for (const ClipChoice& clip : kClips)
        clipBox->addItem(HeatmapView::tr(clip.text), clip.percent);
    sortBox = box(HeatmapView::tr("Order of the experts"), 3);
    sortBox->addItem(HeatmapView::tr("by index"), expertSortId(ExpertSort::Index));
    sortBox->addItem(HeatmapView::tr("by score"), expertSortId(ExpertSort::Score));
    sortBox->addItem(HeatmapView::tr("by usage"), expertSortId(ExpertSort::Usage));
    chooserLine = new QFrame;
    chooserLine->setFixedWidth(1);
    chooserLine->setObjectName(QStringLiteral("hairline"));
    chooserRow->add(chooserLine, 1, {});
    perLayer = new Switch(HeatmapView::tr("Per layer"));
    perLayer->setTextLeft(true);
    perLayer->setToolTip(HeatmapView::tr("Each layer has its own range of colours"));
    chooserRow->add(perLayer, 1, HeatmapView::tr("Range"));
}

void HeatmapView::Private::connectChoosers()
{
    QObject::connect(scoreBox, &QComboBox::activated, q, [this](int index) {
        options.score = scoreBox->itemData(index).toString();
        userChanged();
    });
    QObject::connect(normBox, &QComboBox::activated, q, [this](int index) {
        normShown().norm = normFromId(normBox->itemData(index).toString());
        userChanged();
    });
    QObject::connect(clipBox, &QComboBox::activated, q, [this](int index) {
        normShown().clipPercent = clipBox->itemData(index).toDouble();
        userChanged();
    });
    QObject::connect(sortBox, &QComboBox::activated, q, [this](int index) {
        options.sort = expertSortFromId(sortBox->itemData(index).toString());
        userChanged();
    });
    QObject::connect(perLayer, &QAbstractButton::clicked, q, [this](bool on) {
        normShown().perLayer = on;
        userChanged();
    });
}

HeatmapView::HeatmapView(SelectionModel* selection, HoverModel* hover, QWidget* parent)
    : QWidget(parent), d(std::make_unique<Private>(this, selection, hover))
{
    d->steps = new StepGesture(this);
    connect(d->steps, &StepGesture::started, this, &HeatmapView::gestureStarted);
    connect(d->steps, &StepGesture::finished, this, &HeatmapView::gestureFinished);

    d->stack = new QStackedLayout(this);
    auto* page = new QWidget(this);
    auto* column = new QVBoxLayout(page);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(0);
    d->canvas = new HeatmapCanvas(d.get(), page);
    preparePlot(d->canvas);
    installAccessibleTables();
    d->canvas->setAccessibleName(tr("Importance of experts, layers by experts"));
    column->addWidget(d->canvas, 1);
    d->readout = new HeatmapReadout(page);
    column->addWidget(d->readout);
    d->stack->addWidget(page);
    d->empty = new EmptyState(this);
    d->stack->addWidget(d->empty);
    connect(d->empty, &EmptyState::buttonClicked, this, &HeatmapView::profileRequested);

    d->makeMap();
    d->makeChoosers();
    d->connectChoosers();

    connect(selection, &SelectionModel::currentChanged, this, [this] {
        d->replot();  // row and column labels follow the cursor
        d->refreshReadout();
        d->announce();
    });
    connect(selection, &SelectionModel::selectionChanged, this, [this] { d->replotOverlay(); });
    connect(hover, &HoverModel::hoveredChanged, this, [this] {
        d->replotOverlay();
        d->refreshReadout();
    });

    setEmptyText(tr("No scores yet"), tr("A profile pass measures every expert once and feeds all metrics."), tr("Profile…"));
    d->refreshChoosers();
}

HeatmapView::~HeatmapView()
{
    // The canvas draws through d; it must be gone first.
    delete d->canvas;
    d->canvas = nullptr;
    if (d->chooserRow && d->chooserRow->parent() == nullptr) delete d->chooserRow.data();
}

QWidget* HeatmapView::choosers() const { return d->chooserRow; }
const HeatmapOptions& HeatmapView::options() const { return d->options; }
QCustomPlot* HeatmapView::plot() const { return d->canvas; }
QWidget* HeatmapView::focusTarget() const { return d->canvas; }
QStringList HeatmapView::legend() const
{
    QStringList texts;
    for (const Private::LegendEntry& entry : d->legendEntries())
        texts << entry.text;
    return texts;
}
void HeatmapView::setConstantsProblem(const QString& why) { d->constantsProblem = why; }

CellId HeatmapView::cellAt(const QPointF& position) const
{
    const QPoint p(static_cast<int>(std::floor(position.x())), static_cast<int>(std::floor(position.y())));
    if (!d->hasScores || !d->cells.contains(p)) return {};
    const int column = d->columnAt(p.x());
    const int row = d->rowAt(p.y());
    if (row >= d->rowCount() || column >= d->expertsOf(row)) return {};
    return {row, d->experts[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)]};
}

QRectF HeatmapView::cellRect(CellId cell) const { return d->cellBox(cell); }

int HeatmapView::columnOf(CellId cell) const
{
    return d->validCell(cell) ? d->columns[static_cast<std::size_t>(cell.layer)][static_cast<std::size_t>(cell.expert)] : -1;
}

int HeatmapView::expertAtColumn(int layer, int column) const
{
    if (column < 0 || column >= d->expertsOf(layer)) return -1;
    return d->experts[static_cast<std::size_t>(layer)][static_cast<std::size_t>(column)];
}

int HeatmapView::layerCount() const { return d->rowCount(); }

QRect HeatmapView::zoom() const
{
    return d->window == QRect(0, 0, std::max(1, d->columnCount()), std::max(1, d->rowCount())) ? QRect() : d->window;
}

void HeatmapView::setZoom(const QRect& columnsRows)
{
    const QRect all(0, 0, std::max(1, d->columnCount()), std::max(1, d->rowCount()));
    d->zoomBack.clear();
    if (columnsRows.isNull()) return d->setWindow(all, false);
    d->setWindow(columnsRows, columnsRows != all && d->window == all);
}

void HeatmapView::setShape(const ModelShape& shape)
{
    d->shape = shape;
    d->plan = {};
    d->scores = {};
    d->usage = {};
    d->hasScores = false;
    announceTableReset(d->canvas);
    d->zoomBack.clear();
    d->window = QRect(0, 0, std::max(1, d->columnCount()), std::max(1, d->rowCount()));
    d->rebuildRanks();
    d->rebuildStatistics();
    d->rebuildOrder();
    d->rebuildColours();
    d->layoutPlot();
    d->refreshEmpty();
    d->refreshReadout();
    d->replot();
}

void HeatmapView::setPlan(const CompressionPlan& plan)
{
    d->plan = plan;
    d->rebuildRanks();
    if (d->options.ranks()) {
        if (d->options.sort == ExpertSort::Score) d->rebuildOrder();
        d->rebuildColours();
    }
    d->refreshReadout();
    d->announce();
    d->replot();
}

void HeatmapView::setScores(const ExpertScores& scores)
{
    d->scores = scores;
    d->hasScores = true;
    d->isError = false;
    if (d->options.score.isEmpty()) d->options.score = QString::fromStdString(scores.method);
    d->rebuildStatistics();
    d->rebuildOrder();
    d->rebuildColours();
    d->layoutPlot();
    d->refreshEmpty();
    d->refreshChoosers();
    d->refreshReadout();
    d->announce();
    d->replot();
}

void HeatmapView::setUsage(const ExpertGrid& usage)
{
    d->usage = usage;
    if (d->options.sort == ExpertSort::Usage) {
        d->rebuildOrder();
        d->rebuildColours();
    }
    d->refreshReadout();
    d->replot();
}

void HeatmapView::clearScores()
{
    d->scores = {};
    d->hasScores = false;
    d->rebuildStatistics();
    d->rebuildOrder();
    d->rebuildColours();
    d->refreshEmpty();
    d->refreshReadout();
    d->replot();
}

bool HeatmapView::setSearching(const std::vector<int>& layers)
{
    if (d->searching == layers) return false;
    d->searching = layers;
    d->refreshReadout();
    d->replot();
    return true;
}

void HeatmapView::setScoreChoices(const QStringList& ids, const QStringList& titles)
{
    const QSignalBlocker blocker(d->scoreBox);
    d->scoreBox->clear();
    for (int i = 0; i < ids.size(); ++i) {
        d->scoreBox->addItem(ids[i], ids[i]);
        d->scoreBox->setItemData(i, titles.value(i), Qt::ToolTipRole);
    }
    d->refreshChoosers();
}

void HeatmapView::setOptions(const HeatmapOptions& options)
{
    d->options = options;
    d->rebuildOrder();
    d->rebuildColours();
    d->refreshChoosers();
    d->layoutPlot();
    d->refreshReadout();
    d->replot();
}

void HeatmapView::setEmptyText(const QString& what, const QString& why, const QString& button, bool buttonEnabled)
{
    d->isError = false;
    d->emptyWhat = what;
    d->emptyWhy = why;
    d->emptyButton = button;
    d->emptyButtonEnabled = buttonEnabled;
    d->refreshEmpty();
}

void HeatmapView::setErrorText(const QString& what, const QString& why, const QString& button)
{
    setEmptyText(what, why, button);
    d->isError = true;
    d->refreshEmpty();
}

void HeatmapView::setCompact(bool compact)
{
    if (d->compact == compact) return;
    d->compact = compact;
    d->refreshChoosers();
    d->layoutPlot();
    d->replot();
}

void HeatmapView::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if ((event->type() == QEvent::StyleChange || event->type() == QEvent::FontChange) && d != nullptr && d->map != nullptr &&
        d->readout != nullptr) {
        stylePlot(d->canvas, theme());
        d->rebuildColours();
        d->layoutPlot();
        d->replot();
        d->readout->update();
    }
}

bool HeatmapView::event(QEvent* event) { return QWidget::event(event); }

}  // namespace espalier
