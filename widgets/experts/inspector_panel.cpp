#include "experts/inspector_panel.h"

#include "experts/expert_view.h"
#include "experts/keep_box.h"
#include "experts/rank_box.h"
#include "experts/rank_section.h"
#include "look/controls.h"
#include "look/field_note.h"
#include "look/flow_row.h"
#include "look/format.h"
#include "look/icon.h"
#include "look/theme.h"
#include "plan/cost_model.h"
#include "plan/plan_rules.h"
#include "plan/rank_edit.h"

#include <QCheckBox>
#include <QEvent>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QPainter>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

// In pixels whatever the size of the text: a large one must leave room for what stands beside.
constexpr int kMostMinimumHeight = 380;
constexpr int kMostNameWidth = 110;
constexpr int kLeastPadding = 8;  // beside a word of the segment

// Of the segment, in its order.
enum Form { Dense, LowRankForm, Drop, ConstantForm, FormCount };

// The experts of one layer by score, best first: kept in the accent, constants hollow, dropped in neutral, the current one in the text
// colour.
class SortedBars final : public QWidget
{
public:
    explicit SortedBars(QWidget* parent = nullptr) : QWidget(parent) { setMinimumHeight(pixelsOf(104)); }

    struct Bar {
        double value;
        bool kept;
        bool constant;
        bool current;
    };
    void set(std::vector<Bar> bars, const QString& caption, const QString& counts)
    {
        m_bars = std::move(bars);
        m_caption = caption;
        m_kept = static_cast<int>(std::count_if(m_bars.begin(), m_bars.end(), [](const Bar& bar) { return bar.kept; }));
        m_constants = static_cast<int>(std::count_if(m_bars.begin(), m_bars.end(), [](const Bar& bar) { return bar.constant; }));
        setAccessibleName(caption + QStringLiteral(", ") + counts);
        update();
    }

protected:
    void paintEvent(QPaintEvent*) override
    {
        const Theme& t = theme();
        QPainter painter(this);
        painter.setFont(fontFor(FontRole::Small));
        painter.setPen(t.muted);
        const int line = painter.fontMetrics().height();
        painter.drawText(QRect(0, height() - line, width(), line), Qt::AlignCenter, m_caption);
        const QRect area(0, line + 2, width(), height() - 2 * line - 6);
        double most = 0;
        for (const Bar& bar : m_bars)
            if (std::isfinite(bar.value)) most = std::max(most, bar.value);
        if (m_bars.empty() || most <= 0) return;
        const double step = static_cast<double>(area.width()) / static_cast<double>(m_bars.size());
        for (std::size_t i = 0; i < m_bars.size(); ++i) {
            const Bar& bar = m_bars[i];
            const double h = std::isfinite(bar.value) ? std::max(1.0, bar.value / most * area.height()) : 1.0;
            const QRectF rect(area.left() + static_cast<double>(i) * step, area.bottom() - h, std::max(1.0, step - 1), h);
            if (bar.constant && !bar.current && rect.width() >= 3 && rect.height() >= 3) {
                painter.setPen(QPen(t.muted, 1));
                painter.setBrush(Qt::NoBrush);
                painter.drawRect(rect.adjusted(0.5, 0.5, -0.5, -0.5));
                continue;
            }
            painter.fillRect(rect, bar.current ? t.text : bar.kept ? t.keptBar() : mixed(t.muted, t.base, 0.45));
        }
        // The cut stands after as many bars as are kept; its two counts beside it where they fit.
        const double cut = std::round(area.left() + m_kept * step) + 0.5;
        painter.setPen(QPen(t.text, 1, Qt::DashLine));
        painter.drawLine(QLineF(cut, 1, cut, area.bottom()));
        painter.setPen(t.muted);
        const QString left = InspectorPanel::tr("%1 kept").arg(m_kept);
        const int gone = static_cast<int>(m_bars.size()) - m_kept - m_constants;
        QString right = InspectorPanel::tr("%1 dropped").arg(gone);
        if (m_constants > 0)
            right = InspectorPanel::tr("%1 constant").arg(m_constants) + (gone > 0 ? QStringLiteral(", ") + right : QString());
        if (painter.fontMetrics().horizontalAdvance(left) + 5 < cut)
            painter.drawText(QRectF(0, 0, cut - 4, line), Qt::AlignRight | Qt::AlignTop, left);
        if (painter.fontMetrics().horizontalAdvance(right) + 5 < width() - cut)
            painter.drawText(QRectF(cut + 5, 0, width(), line), Qt::AlignLeft | Qt::AlignTop, right);
        painter.setPen(t.axis);
        painter.drawLine(area.left(), area.bottom(), area.right(), area.bottom());
    }

private:
    std::vector<Bar> m_bars;
    QString m_caption;
    int m_kept = 0;
    int m_constants = 0;
};

}  // namespace

class InspectorPanel::Private
{
public:
    explicit Private(InspectorPanel* panel) : q(panel) {}

    InspectorPanel* q;
    SelectionModel* selection = nullptr;
    ModelShape shape;
    CompressionPlan plan;
    ExpertScores scores;
    ExpertGrid usage;
    QString constantsProblem;
    QString estimateWhat;
    double estimate = std::nan("");
    std::optional<ExpertSpectra> curves;

    EmptyState* empty = nullptr;
    QWidget* page = nullptr;
    QLabel* title = nullptr;
    Segment* keep = nullptr;
    QToolButton* protect = nullptr;
    QWidget* constantRow = nullptr;
    Segment* constant = nullptr;    // how it is made
    QLabel* whyNot = nullptr;       // a form that cannot be chosen
    QWidget* expertPart = nullptr;  // what a layer without experts has not
    QWidget* layerPart = nullptr;
    QCheckBox* skip = nullptr;
    QLabel* whyNoSkipping = nullptr;
    QLabel* names[4] = {};
    QLabel* values[4] = {};
    RankSection* ranks = nullptr;
    SortedBars* bars = nullptr;
    QLabel* layerTitle = nullptr;
    QLabel* layerSize = nullptr;
    Slider* slider = nullptr;
    KeepBox* spin = nullptr;
    QLabel* of = nullptr;
    Slider* rankSlider = nullptr;
    RankBox* rankBox = nullptr;
    QToolButton* locked = nullptr;
    bool filling = false;
    QWidget* asking = nullptr;  // the box whose number is on its way

    // Half of what costs as much as the matrix, on a round step.
    int firstRank(int layer) const
    {
        const int breakEven = breakEvenOf(shape, layer);
        const int step = rankStep(breakEven, false);
        return std::max(1, breakEven / 2 / step * step);
    }
    void makeForms(QVBoxLayout* column);
    void makeExpert(QVBoxLayout* column);
    void makeLayerHead(QVBoxLayout* column);
    void makeSkip(QVBoxLayout* column);
    void makeLayer(QVBoxLayout* column);
    void connectExpert();
    void connectLayer();
    void refresh();
    void refreshForm(CellId cell);
    void fitForms();
    int room = 0;  // for the controls, in pixels; 0: not known yet
    void refreshLayer(int layer);
};

namespace
{

QLabel* mutedNote(const QString& name)
{
    auto* label = new QLabel;
    label->setObjectName(name);
    label->setFont(fontFor(FontRole::Small));
    label->setWordWrap(true);
    label->setProperty("role", QStringLiteral("muted"));
    return label;
}

// A widget that is shown and hidden as a whole; its column.
QVBoxLayout* addPart(QVBoxLayout* column, QWidget*& widget)
{
    widget = new QWidget;
    auto* inner = new QVBoxLayout(widget);
    inner->setContentsMargins(0, 0, 0, 0);
    inner->setSpacing(8);
    column->addWidget(widget);
    return inner;
}

}  // namespace

// One row of words, or two where the panel is too narrow for one.
void InspectorPanel::Private::fitForms()
{
    const auto least = [this](int items) { return keep->sizeHint().width() - items * (pixelsOf(24) - kLeastPadding); };
    keep->setProperty("rows", 1);
    if (const int wanted = least(Form::FormCount); wanted <= room || room == 0) {
        keep->setMinimumWidth(wanted);
    } else {
        keep->setProperty("rows", 2);
        keep->setMinimumWidth(least((Form::FormCount + 1) / 2));
    }
    keep->updateGeometry();
}

void InspectorPanel::resizeEvent(QResizeEvent* event)
{
    QScrollArea::resizeEvent(event);
    d->room = viewport()->width() - 24;
    d->fitForms();
}

// What stands in the expert's place, whether it is protected, how a constant is made, and why one cannot be.
void InspectorPanel::Private::makeForms(QVBoxLayout* column)
{
    auto* state = new FlowRow(pixelsOf(8));
    keep = new Segment(
        {InspectorPanel::tr("Dense"), InspectorPanel::tr("Low rank"), InspectorPanel::tr("Drop"), InspectorPanel::tr("Constant")});
    keep->setObjectName(QStringLiteral("inspector.form"));
    keep->setAccessibleName(InspectorPanel::tr("keep the expert dense, keep it at low rank, drop it, or put a constant in its place"));
    keep->setSizePolicy(QSizePolicy::Maximum, QSizePolicy::Fixed);
    protect = new QToolButton;
    protect->setCheckable(true);
    protect->setAutoRaise(true);
    protect->setIconSize({pixelsOf(16), pixelsOf(16)});
    protect->setAccessibleName(InspectorPanel::tr("Protect"));
    protect->setToolTip(InspectorPanel::tr("Allocators and searches never drop a protected expert (P)"));
    state->add(keep);
    state->add(protect);
    column->addLayout(state);
    constantRow = new QWidget;
    auto* row = new FlowRow(pixelsOf(8));
    constantRow->setLayout(row);
    auto* name = new QLabel(InspectorPanel::tr("Mean of outputs"));
    name->setProperty("role", QStringLiteral("muted"));
    constant = new Segment({InspectorPanel::tr("plain"), InspectorPanel::tr("weighted")});
    constant->setObjectName(QStringLiteral("inspector.constant"));
    constant->setAccessibleName(
        InspectorPanel::tr("the constant is the plain mean of the expert's outputs, or weighted by the squared routing weight"));
    constant->setToolTip(InspectorPanel::tr("Weighted by the squared routing weight: the least squared error in the layer's output"));
    constant->setSizePolicy(QSizePolicy::Maximum, QSizePolicy::Fixed);
    row->add(name);
    row->add(constant);
    column->addWidget(constantRow);
    whyNot = mutedNote(QStringLiteral("inspector.whyNot"));
    column->addWidget(whyNot);
}

void InspectorPanel::Private::makeSkip(QVBoxLayout* column)
{
    skip = new QCheckBox(InspectorPanel::tr("S&kip this layer"));
    skip->setObjectName(QStringLiteral("inspector.skip"));
    skip->setToolTip(InspectorPanel::tr("Nothing of the layer runs: what comes in goes on unchanged (S)"));
    column->addWidget(skip);
    whyNoSkipping = mutedNote(QStringLiteral("inspector.whyNoSkip"));
    column->addWidget(whyNoSkipping);
}

void InspectorPanel::Private::makeExpert(QVBoxLayout* column)
{
    makeForms(column);
    ranks = new RankSection;
    column->addWidget(ranks);
    auto* grid = new QGridLayout;
    grid->setVerticalSpacing(4);
    grid->setHorizontalSpacing(12);
    for (int i = 0; i < 4; ++i) {
        names[i] = new QLabel;
        names[i]->setProperty("role", QStringLiteral("muted"));
        values[i] = new QLabel;
        values[i]->setTextInteractionFlags(Qt::TextSelectableByMouse);
        values[i]->setWordWrap(true);
        names[i]->setAlignment(Qt::AlignLeft | Qt::AlignTop);
        values[i]->setAlignment(Qt::AlignLeft | Qt::AlignTop);
        grid->addWidget(names[i], i, 0);
        grid->addWidget(values[i], i, 1);
    }
    grid->setColumnMinimumWidth(0, std::min(pixelsOf(96), kMostNameWidth));
    grid->setColumnStretch(1, 1);
    column->addLayout(grid);
    bars = new SortedBars;
    column->addWidget(bars);
}

void InspectorPanel::Private::makeLayerHead(QVBoxLayout* column)
{
    auto* layerHead = new QHBoxLayout;
    layerTitle = new QLabel;
    layerTitle->setFont(fontFor(FontRole::Head));
    layerSize = new QLabel;
    layerSize->setProperty("role", QStringLiteral("muted"));
    locked = new QToolButton;
    locked->setCheckable(true);
    locked->setIconSize({pixelsOf(16), pixelsOf(16)});
    locked->setAccessibleName(InspectorPanel::tr("Lock layer"));
    locked->setToolTip(InspectorPanel::tr("Allocators leave a locked layer as it is (L)"));
    layerHead->addWidget(layerTitle);
    layerHead->addWidget(locked);
    layerHead->addStretch();
    layerHead->addWidget(layerSize);
    column->addLayout(layerHead);
}

// How many experts the layer keeps and at what mean rank, in two rows whose sliders begin below each other.
void InspectorPanel::Private::makeLayer(QVBoxLayout* column)
{
    auto* row = new FlowRow(pixelsOf(6));
    auto* keptLabel = new QLabel(InspectorPanel::tr("Kept"));
    keptLabel->setProperty("role", QStringLiteral("muted"));
    slider = new Slider;
    slider->setObjectName(QStringLiteral("inspector.keep"));
    slider->setAccessibleName(InspectorPanel::tr("experts kept in this layer"));
    spin = new KeepBox;
    spin->setAccessibleName(InspectorPanel::tr("number of experts kept in this layer"));
    of = new QLabel;
    auto* number = new QWidget;
    auto* numberRow = new QHBoxLayout(number);
    numberRow->setContentsMargins(0, 0, 0, 0);
    numberRow->addWidget(spin);
    numberRow->addWidget(of);
    row->add(keptLabel);
    row->add(slider, 1);
    row->add(number);
    column->addLayout(row);
    auto* rankRow = new FlowRow(pixelsOf(6));
    auto* rankLabel = new QLabel(InspectorPanel::tr("Rank"));
    rankLabel->setProperty("role", QStringLiteral("muted"));
    rankSlider = new Slider;
    rankSlider->setObjectName(QStringLiteral("inspector.layerRank"));
    rankSlider->setAccessibleName(InspectorPanel::tr("mean rank of the experts kept in this layer"));
    rankBox = new RankBox;
    rankBox->setAccessibleName(InspectorPanel::tr("mean rank of the experts kept in this layer as a number"));
    const int nameWidth = std::max(keptLabel->sizeHint().width(), rankLabel->sizeHint().width());
    keptLabel->setMinimumWidth(nameWidth);
    rankLabel->setMinimumWidth(nameWidth);
    rankRow->add(rankLabel);
    rankRow->add(rankSlider, 1);
    rankRow->add(rankBox);
    column->addLayout(rankRow);
}

void InspectorPanel::Private::connectExpert()
{
    QObject::connect(keep, &Segment::chosen, q, [this](int index) {
        const CellId cell = selection->current();
        const bool was = plan.keeps(cell.layer, cell.expert);
        refresh();  // the plan decides: it comes back through setPlan
        if (!cell.valid() || cell.expert < 0) return;
        if (index == Form::Drop)
            emit q->keepRequested(cell.layer, cell.expert, false);
        else if (index == Form::ConstantForm)
            emit q->constantRequested(cell.layer, cell.expert, ConstantKind::Mean);
        else if (index == Form::Dense && !was)
            emit q->keepRequested(cell.layer, cell.expert, true);
        else
            emit q->rankRequested(cell.layer, cell.expert, index == Form::Dense ? 0 : firstRank(cell.layer));
    });
    QObject::connect(constant, &Segment::chosen, q, [this](int index) {
        const CellId cell = selection->current();
        refresh();
        if (cell.valid() && cell.expert >= 0)
            emit q->constantRequested(cell.layer, cell.expert, index == 0 ? ConstantKind::Mean : ConstantKind::Weighted);
    });
    QObject::connect(ranks, &RankSection::gestureStarted, q, &InspectorPanel::gestureStarted);
    QObject::connect(ranks, &RankSection::rankMoved, q, [this](int rank) {
        const CellId cell = selection->current();
        emit q->rankMoved(cell.layer, cell.expert, rank);
    });
    QObject::connect(ranks, &RankSection::gestureFinished, q, &InspectorPanel::gestureFinished);
    QObject::connect(ranks, &RankSection::gestureFinished, q, [this] { refresh(); });
    QObject::connect(ranks, &RankSection::gestureCancelled, q, &InspectorPanel::gestureCancelled);
    QObject::connect(protect, &QToolButton::clicked, q, [this](bool on) {
        const CellId cell = selection->current();
        if (cell.valid() && cell.expert >= 0) emit q->protectRequested(cell.layer, cell.expert, on);
    });
}

void InspectorPanel::Private::connectLayer()
{
    const auto layer = [this] { return selection->currentLayer(); };
    QObject::connect(skip, &QCheckBox::clicked, q, [this, layer](bool on) {
        refresh();
        emit q->skipRequested(layer(), on);
    });
    QObject::connect(rankSlider, &Slider::gestureStarted, q, &InspectorPanel::gestureStarted);
    QObject::connect(rankSlider, &Slider::moved, q, [this, layer](int value) { emit q->layerRankMoved(layer(), value); });
    QObject::connect(rankSlider, &Slider::gestureFinished, q, &InspectorPanel::gestureFinished);
    QObject::connect(rankSlider, &Slider::gestureCancelled, q, &InspectorPanel::gestureCancelled);
    QObject::connect(rankBox, &QSpinBox::valueChanged, q, [this, layer](int value) {
        if (filling) return;
        asking = rankBox;
        emit q->gestureStarted();
        emit q->layerRankMoved(layer(), value);
        emit q->gestureFinished();
        asking = nullptr;
        refresh();
    });
    QObject::connect(locked, &QToolButton::clicked, q, [this, layer] { emit q->lockRequested(layer()); });
    QObject::connect(slider, &Slider::gestureStarted, q, &InspectorPanel::gestureStarted);
    QObject::connect(slider, &Slider::moved, q, [this, layer](int value) { emit q->layerKeepMoved(layer(), value); });
    QObject::connect(slider, &Slider::clamped, q, [this, layer](int wanted) { emit q->layerKeepMoved(layer(), wanted); });
    QObject::connect(slider, &Slider::gestureFinished, q, &InspectorPanel::gestureFinished);
    QObject::connect(slider, &Slider::gestureCancelled, q, &InspectorPanel::gestureCancelled);
    QObject::connect(spin, &QSpinBox::valueChanged, q, [this, layer](int value) {
        if (filling) return;
        asking = spin;
        emit q->gestureStarted();
        emit q->layerKeepMoved(layer(), value);
        emit q->gestureFinished();
        asking = nullptr;
        refresh();  // a number that was not taken goes back, also when the plan stays the same
    });
}

InspectorPanel::InspectorPanel(SelectionModel* selection, QWidget* parent) : QScrollArea(parent), d(std::make_unique<Private>(this))
{
    d->selection = selection;
    setFrameShape(QFrame::NoFrame);
    setFocusPolicy(Qt::NoFocus);  // its controls take the keyboard and scroll into sight
    setWidgetResizable(true);
    // Rows break where the text is large; what is wider even then is reached by scrolling.
    setHorizontalScrollBarPolicy(Qt::ScrollBarAsNeeded);
    setLow(false);
    auto* content = new QWidget;
    setWidget(content);
    auto* outer = new QVBoxLayout(content);
    outer->setContentsMargins(0, 0, 0, 0);
    d->empty = new EmptyState;
    d->empty->set(EmptyState::Kind::Empty, QStringLiteral("info"), tr("Nothing selected"),
                  tr("Click a cell, or move the cursor with the arrow keys."));
    outer->addWidget(d->empty, 1);
    d->page = new QWidget;
    outer->addWidget(d->page);
    auto* column = new QVBoxLayout(d->page);
    column->setContentsMargins(12, 10, 12, 12);
    column->setSpacing(8);
    d->title = new QLabel;
    d->title->setFont(fontFor(FontRole::Title));
    d->title->setWordWrap(true);
    column->addWidget(d->title);
    d->makeExpert(addPart(column, d->expertPart));
    d->makeLayerHead(column);
    d->makeSkip(column);
    d->makeLayer(addPart(column, d->layerPart));
    column->addStretch();

    d->connectExpert();
    d->connectLayer();
    connect(selection, &SelectionModel::currentChanged, this, [this] { d->refresh(); });
    d->refresh();
}

InspectorPanel::~InspectorPanel() = default;

void InspectorPanel::setLow(bool low)
{
    // The layer's slider stays in sight beside a long history.
    setMinimumHeight(std::min(pixelsOf(low ? 150 : 330), kMostMinimumHeight));
}

QWidget* InspectorPanel::firstControl() const { return d->keep; }

void InspectorPanel::explain(const QString& text, bool isError)
{
    QWidget* box = d->asking != nullptr ? d->asking : d->ranks->asking();
    // What is beyond a rank's end the box says itself.
    if (box != nullptr && !text.isEmpty() && (isError || box == d->spin)) FieldNote::say(box, text);
}

void InspectorPanel::setShape(const ModelShape& shape)
{
    d->shape = shape;
    d->scores = {};
    d->usage = {};
    d->refresh();
}

void InspectorPanel::setPlan(const CompressionPlan& plan)
{
    d->plan = plan;
    d->refresh();
}

void InspectorPanel::setScores(const ExpertScores& scores)
{
    d->scores = scores;
    d->refresh();
}

void InspectorPanel::setUsage(const ExpertGrid& usage)
{
    d->usage = usage;
    d->refresh();
}

void InspectorPanel::setCellEstimate(const QString& what, double deltaPpl)
{
    if (d->estimateWhat == what && (d->estimate == deltaPpl || (std::isnan(d->estimate) && std::isnan(deltaPpl)))) return;
    d->estimateWhat = what;
    d->estimate = deltaPpl;
    d->refresh();
}

void InspectorPanel::setCurves(const std::optional<ExpertSpectra>& curves)
{
    d->curves = curves;
    d->refresh();
}

void InspectorPanel::setConstantsProblem(const QString& why)
{
    d->constantsProblem = why;
    d->refresh();
}

void InspectorPanel::changeEvent(QEvent* event)
{
    if (event->type() == QEvent::StyleChange || event->type() == QEvent::PaletteChange) d->refresh();
    QScrollArea::changeEvent(event);
}

void InspectorPanel::Private::refresh()
{
    const CellId cell = selection->current();
    const bool valid =
        cell.valid() && cell.layer < static_cast<int>(shape.layers.size()) && plan.layerCount() == static_cast<int>(shape.layers.size());
    empty->setVisible(!valid);
    page->setVisible(valid);
    if (!valid) return;
    filling = true;
    const LayerShape& layer = shape.layers[static_cast<std::size_t>(cell.layer)];
    const bool expert = cell.expert >= 0 && cell.expert < layer.experts;
    title->setText(expert ? format::layerExpert(cell.layer, cell.expert) : InspectorPanel::tr("Layer %1").arg(cell.layer));
    expertPart->setVisible(layer.moe);
    layerPart->setVisible(layer.moe);
    refreshForm(cell);
    const ExpertView view = expertView(shape, plan, cell);
    const bool isKept = expert && plan.keeps(cell.layer, cell.expert);
    const bool lowRank = expert && view.state == ExpertState::LowRank;
    const bool showRanks = lowRank || (isKept && ranks->inGesture());
    ranks->setVisible(showRanks);
    if (showRanks) ranks->set(shape, plan, cell, curves);
    const ExpertSet& pinned = plan.protectedExperts(cell.layer);
    const bool isPinned = std::binary_search(pinned.begin(), pinned.end(), cell.expert);
    protect->setChecked(expert && isPinned);
    protect->setIcon(icon(QStringLiteral("shield")));
    const auto l = static_cast<std::size_t>(cell.layer);
    const bool haveScores = l < scores.values.rows.size() && static_cast<int>(scores.values.rows[l].size()) == layer.experts;
    const bool higher = scores.better == Better::Higher;
    std::vector<int> order(static_cast<std::size_t>(layer.experts));
    for (int e = 0; e < layer.experts; ++e)
        order[static_cast<std::size_t>(e)] = e;
    if (haveScores) {
        const std::vector<double>& row = scores.values.rows[l];
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
            const double x = row[static_cast<std::size_t>(a)];
            const double y = row[static_cast<std::size_t>(b)];
            if (std::isnan(x) || std::isnan(y)) return !std::isnan(x) && std::isnan(y);
            return higher ? x > y : x < y;
        });
    }
    for (QLabel* label : names)
        label->clear();
    for (QLabel* label : values)
        label->clear();
    title->setFont(fontFor(FontRole::Title));
    // The words in a narrow panel stand closer.
    fitForms();
    layerTitle->setFont(fontFor(FontRole::Head));
    if (expert) {
        const auto e = static_cast<std::size_t>(cell.expert);
        // Beside the ranks' table there is no room for them; the map's readout has them.
        if (haveScores && !showRanks) {
            const int place = static_cast<int>(std::find(order.begin(), order.end(), cell.expert) - order.begin()) + 1;
            names[0]->setText(QString::fromStdString(scores.method));
            const double value = scores.values.rows[l][e];
            values[0]->setText(std::isfinite(value) ? QString(format::score(value) + format::kDot +
                                                              InspectorPanel::tr("place %1 of %2").arg(place).arg(layer.experts))
                                                    : InspectorPanel::tr("no value"));
        }
        if (!showRanks && l < usage.rows.size() && e < usage.rows[l].size() && std::isfinite(usage.rows[l][e])) {
            names[1]->setText(InspectorPanel::tr("usage"));
            values[1]->setText(format::share(usage.rows[l][e]) + format::kDot +
                               InspectorPanel::tr("even share %1").arg(format::share(1.0 / layer.experts)));
        }
        names[2]->setText(InspectorPanel::tr("size"));
        values[2]->setText(
            lowRank || view.state == ExpertState::Constant
                ? InspectorPanel::tr("%1 of %2").arg(format::bytes(view.bytes), format::bytes(layer.bytesPerExpert))
                : QString(format::bytes(layer.bytesPerExpert) + format::kDot + QString::fromStdString(shape.dtype).toLower()));
        if (!estimateWhat.isEmpty()) {
            names[3]->setText(estimateWhat);
            // The row stays while a newer estimate is on its way: nothing below it moves.
            values[3]->setText(std::isfinite(estimate) ? InspectorPanel::tr("est. Δ PPL %1").arg(format::signedNumber(estimate, 3))
                                                       : QStringLiteral(" "));
            QPalette palette = values[3]->palette();
            palette.setColor(QPalette::WindowText, theme().estimate);
            values[3]->setPalette(palette);
        }
    }
    for (int i = 0; i < 4; ++i) {
        names[i]->setVisible(!names[i]->text().isEmpty());
        values[i]->setVisible(!names[i]->text().isEmpty());
    }
    std::vector<SortedBars::Bar> sorted;
    if (haveScores)
        for (const int e : order)
            sorted.push_back({scores.values.rows[l][static_cast<std::size_t>(e)], plan.keeps(cell.layer, e),
                              expertState(shape, plan, {cell.layer, e}) == ExpertState::Constant, e == cell.expert});
    bars->setVisible(haveScores && !showRanks);
    bars->set(std::move(sorted),
              InspectorPanel::tr("experts of layer %1, by %2").arg(cell.layer).arg(QString::fromStdString(scores.method)),
              countsText(shape, plan, cell.layer));
    refreshLayer(cell.layer);
    filling = false;
}

void InspectorPanel::Private::refreshForm(CellId cell)
{
    const LayerShape& layer = shape.layers[static_cast<std::size_t>(cell.layer)];
    const bool runs = runsExperts(shape, plan, cell.layer);
    const bool expert = runs && cell.expert >= 0 && cell.expert < layer.experts;
    const ExpertState state = expertState(shape, plan, cell);
    keep->setEnabled(expert);
    protect->setEnabled(expert);
    keep->setCurrent(!expert                          ? Form::Dense
                     : state == ExpertState::LowRank  ? Form::LowRankForm
                     : state == ExpertState::Constant ? Form::ConstantForm
                     : state == ExpertState::Dropped  ? Form::Drop
                                                      : Form::Dense);
    keep->setItemEnabled(Form::LowRankForm, !plan.isLocked(cell.layer) && !layer.isSourceConstant(cell.expert));
    const bool isConstant = expert && plan.layer(cell.layer).isConstant(cell.expert);
    const QString profile = plan.needsConstants() && !plan.constantsProfile().empty() ? QString() : constantsProblem;
    const QString why = expert && !isConstant ? whyNoConstant(shape, plan, cell, profile) : QString();
    keep->setItemEnabled(Form::ConstantForm, why.isEmpty());
    constantRow->setVisible(isConstant);
    if (isConstant) {
        const auto* body = std::get_if<ConstantBody>(plan.layer(cell.layer).bodyOf(cell.expert));
        constant->setCurrent(body->kind == ConstantKind::Weighted ? 1 : 0);
        constant->setEnabled(!plan.isLocked(cell.layer) && body->values.empty());
    }
    whyNot->setFont(fontFor(FontRole::Small));
    const QString text = layer.moe && !runs ? InspectorPanel::tr("The layer is skipped: its experts do not run.")
                         : why.isEmpty()    ? QString()
                                            : InspectorPanel::tr("No constant: %1").arg(why);
    whyNot->setText(text);
    whyNot->setVisible(!text.isEmpty());
}

void InspectorPanel::Private::refreshLayer(int index)
{
    const CellId cell{index, -1};
    const LayerShape& layer = shape.layers[static_cast<std::size_t>(index)];
    const LayerPlan& layerPlan = plan.layer(index);
    const int kept = static_cast<int>(layerPlan.kept().size());
    const bool movable = runsExperts(shape, plan, index) && !plan.isLocked(index);
    locked->setVisible(layer.moe);
    locked->setChecked(plan.isLocked(index));
    locked->setIcon(icon(plan.isLocked(index) ? QStringLiteral("lock") : QStringLiteral("lock-open"), QStringLiteral("muted")));
    slider->setEnabled(movable);
    spin->setEnabled(movable);
    const QString why = whyNoSkip(shape, plan, index);
    skip->setChecked(layerPlan.run() == LayerRun::Skipped);
    skip->setEnabled(why.isEmpty());
    whyNoSkipping->setFont(fontFor(FontRole::Small));
    whyNoSkipping->setText(why.isEmpty() ? QString() : InspectorPanel::tr("Cannot be changed: %1").arg(why));
    whyNoSkipping->setVisible(!why.isEmpty());
    layerTitle->setText(InspectorPanel::tr("Layer %1").arg(cell.layer));
    layerSize->setText(format::bytes(layerBytes(layer, shape.hiddenSize, layerPlan)));
    const int floor = fewestExperts(layer, layerPlan, plan.protectedExperts(cell.layer));
    slider->setRange(0, layer.experts);
    slider->setFloor(floor);
    slider->setResetValue(layer.experts);
    slider->setValue(kept);
    spin->setExperts(floor, layer.experts);
    spin->setValue(kept);
    of->setText(InspectorPanel::tr("of %1").arg(layer.experts));
    const int breakEven = breakEvenOf(shape, cell.layer);
    const int level = meanLevelOf(shape, plan, cell.layer);
    rankSlider->setRange(1, breakEven + 1);
    rankSlider->setResetValue(breakEven + 1);
    rankSlider->setValue(level);
    rankBox->setBreakEven(breakEven);
    rankBox->setValue(level);
    rankSlider->setEnabled(movable);
    rankBox->setEnabled(movable);
}

}  // namespace espalier
