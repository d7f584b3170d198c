#include "layers/layer_table.h"

#include "experts/expert_view.h"
#include "experts/keep_box.h"
#include "experts/rank_box.h"
#include "look/controls.h"
#include "look/field_note.h"
#include "look/format.h"
#include "look/gesture.h"
#include "look/icon.h"
#include "look/number_cell.h"
#include "look/theme.h"
#include "plan/cost_model.h"
#include "plan/plan_name.h"

#include <QAbstractItemDelegate>
#include <QContextMenuEvent>
#include <QHeaderView>
#include <QKeyEvent>
#include <QMenu>
#include <QMouseEvent>
#include <QPainter>
#include <QStyledItemDelegate>

#include <algorithm>
#include <cmath>
#include <limits>

namespace espalier
{

// ---- LayerModel

void LayerModel::set(const ModelShape& shape, const CompressionPlan& plan, const ExpertScores& scores,
                     const std::optional<CompressionPlan>& before)
{
    const bool sameRows = shape.layers.size() == m_shape.layers.size() && !m_shape.layers.empty();
    if (!sameRows) beginResetModel();
    m_shape = shape;
    m_plan = plan;
    m_before = before;
    m_removed.assign(shape.layers.size(), std::numeric_limits<double>::quiet_NaN());
    if (plan.layerCount() == static_cast<int>(shape.layers.size())) {
        for (std::size_t l = 0; l < shape.layers.size() && l < scores.values.rows.size(); ++l) {
            const auto& row = scores.values.rows[l];
            double all = 0;
            double kept = 0;
            bool known = !row.empty();
            for (std::size_t e = 0; e < row.size(); ++e) {
                if (!std::isfinite(row[e])) known = false;
                const double worth = std::abs(row[e]);
                all += worth;
                if (plan.keeps(static_cast<int>(l), static_cast<int>(e))) kept += worth;
            }
            if (known && all > 0) m_removed[l] = 1 - kept / all;
        }
    }
    if (!sameRows)
        endResetModel();
    else
        emit dataChanged(index(0, 0), index(rowCount() - 1, ColumnCount - 1));
}

int LayerModel::rowCount(const QModelIndex& parent) const { return parent.isValid() ? 0 : static_cast<int>(m_shape.layers.size()); }
int LayerModel::columnCount(const QModelIndex& parent) const { return parent.isValid() ? 0 : ColumnCount; }

QVariant LayerModel::data(const QModelIndex& index, int role) const
{
    if (!index.isValid() || index.row() >= rowCount()) return {};
    const int layer = index.row();
    const LayerShape& shape = m_shape.layers[static_cast<std::size_t>(layer)];
    const bool hasPlan = m_plan.layerCount() == rowCount();
    const QString run = hasPlan ? runText(m_plan.layer(layer)) : QString();
    const bool moe = runsExperts(m_shape, m_plan, layer);  // and they run: there is a number
    const int value = !moe ? 0 : hasPlan ? quantityOf(m_quantity, m_shape, m_plan, layer) : mostOf(m_quantity, m_shape, layer);
    const int most = moe ? mostOf(m_quantity, m_shape, layer) : 0;
    const bool ranks = m_quantity == LayerQuantity::Rank;
    const double removed = m_removed[static_cast<std::size_t>(layer)];
    switch (role) {
        case Qt::DisplayRole:
            switch (index.column()) {
                case Layer:
                    return QString::number(layer);
                case Value:
                    if (moe) return quantityNumber(m_quantity, m_shape, layer, value);
                    if (!run.isEmpty()) return tr("skipped");
                    return ranks ? tr("none") : tr("dense");
                case Second:
                    return moe ? secondText(layer) : QString();
                case Mib:
                    if (!hasPlan) return {};
                    {
                        const double mib =
                            static_cast<double>(layerBytes(shape, m_shape.hiddenSize, m_plan.layer(layer))) / (1024.0 * 1024.0);
                        return format::number(mib, mib < 10 ? 2 : 0);
                    }
                default:
                    return {};
            }
        case Qt::EditRole:
            return index.column() == Value || index.column() == Bar ? QVariant(value) : data(index, Qt::DisplayRole);
        case Qt::TextAlignmentRole:
            return static_cast<int>(Qt::AlignRight | Qt::AlignVCenter);
        case Qt::ToolTipRole:
        case Qt::AccessibleDescriptionRole: {
            if (!moe && !run.isEmpty()) return tr("Layer %1: %2").arg(layer).arg(run);
            // Linear maps beside the experts, channels, a skip rule, a merged layer.
            QString others;
            if (hasPlan)
                for (const std::string& words : otherForms(m_plan.layer(layer)))
                    others += format::kDot + QString::fromStdString(words);
            if (!moe) return QString(tr("Layer %1: dense, no experts").arg(layer) + others);
            const int kept = hasPlan ? static_cast<int>(m_plan.layer(layer).kept().size()) : shape.experts;
            QString text = tr("Layer %1: %2 kept").arg(layer).arg(format::keptOf(kept, shape.experts));
            if (const int constants = hasPlan ? static_cast<int>(m_plan.layer(layer).constants().size()) : 0; constants > 0)
                text += format::kDot + tr("%1 constant").arg(constants);
            if (!run.isEmpty()) text += format::kDot + run;
            if (ranks) text += format::kDot + quantityText(m_quantity, m_shape, layer, value);
            if (!ranks && std::isfinite(removed)) text += format::kDot + tr("%1 of its importance removed").arg(format::share(removed));
            text += others;
            if (hasPlan && m_plan.isLocked(layer)) text += format::kDot + tr("locked");
            return text;
        }
        case Qt::AccessibleTextRole: {
            const QString head = headerData(index.column(), Qt::Horizontal, Qt::DisplayRole).toString();
            return QString(head + QLatin1Char(' ') + data(index, index.column() == Bar ? Qt::EditRole : Qt::DisplayRole).toString());
        }
        case LockedRole:
            return hasPlan && m_plan.isLocked(layer);
        case FractionRole:
            // A dense layer fills the bar as one at break-even does.
            return moe ? static_cast<double>(value) / most : 0.0;
        case BeforeRole: {
            if (!moe || !m_before || m_before->layerCount() != rowCount() || !m_before->layer(layer).runsExperts()) return -1.0;
            const int before = quantityOf(m_quantity, m_shape, *m_before, layer);
            return before == value ? -1.0 : static_cast<double>(before) / most;
        }
        case EditableRole:
            return moe && hasPlan && !m_plan.isLocked(layer);
        case MinimumRole:
            return hasPlan && moe ? leastOf(m_quantity, m_shape, m_plan, layer) : 1;
        case MaximumRole:
            return most;
        case SkippedRole:
            return hasPlan && m_plan.layer(layer).run() == LayerRun::Skipped;
        case WhyNoSkipRole:
            return whyNoSkip(m_shape, m_plan, layer);
        case RawRole:
            switch (index.column()) {
                case Layer:
                    return layer;
                case Second:
                    return ranks ? QVariant(static_cast<int>(m_plan.layer(layer).kept().size())) : QVariant(removed);
                default:
                    return value;
            }
        default:
            return {};
    }
}

QString LayerModel::secondText(int layer) const
{
    if (m_quantity == LayerQuantity::Rank) return format::count(static_cast<int>(m_plan.layer(layer).kept().size()));
    const double removed = m_removed[static_cast<std::size_t>(layer)];
    return std::isfinite(removed) ? format::number(removed * 100, 1) : QString();
}

QVariant LayerModel::headerData(int section, Qt::Orientation orientation, int role) const
{
    if (orientation != Qt::Horizontal) return {};
    if (role == Qt::FontRole) return fontFor(FontRole::Small);
    if (role == Qt::TextAlignmentRole) return static_cast<int>((section == Bar ? Qt::AlignLeft : Qt::AlignRight) | Qt::AlignVCenter);
    if (role == Qt::ToolTipRole) {
        switch (section) {
            case Bar:
                return m_quantity == LayerQuantity::Rank ? tr("Mean rank of the kept experts against break-even; dense counts as one more")
                                                         : tr("Share of the layer's experts that is kept");
            case Second:
                return m_quantity == LayerQuantity::Rank ? tr("Experts kept")
                                                         : tr("Share of the layer's importance that goes with the dropped experts");
            case Mib:
                return tr("Size of the layer");
            default:
                return {};
        }
    }
    if (role != Qt::DisplayRole) return {};
    switch (section) {
        case Layer:
            return tr("layer");
        case Bar:
            return m_quantity == LayerQuantity::Rank ? tr("mean rank") : tr("kept");
        case Value:
            return QString();
        case Second:
            return m_quantity == LayerQuantity::Rank ? tr("kept") : tr("importance lost %");
        case Mib:
            return tr("MiB");
        default:
            return {};
    }
}

Qt::ItemFlags LayerModel::flags(const QModelIndex& index) const
{
    Qt::ItemFlags flags = Qt::ItemIsEnabled | Qt::ItemIsSelectable;
    if (index.column() == Value && data(index, EditableRole).toBool()) flags |= Qt::ItemIsEditable;
    return flags;
}

bool LayerModel::setData(const QModelIndex& index, const QVariant& value, int role)
{
    if (role != Qt::EditRole || index.column() != Value) return false;
    // The plan belongs to the window: the number is an intent, and comes back through set().
    emit valueEntered(index.row(), value.toInt());
    return true;
}

// ---- delegate

namespace
{

class LayerDelegate final : public QStyledItemDelegate
{
public:
    LayerDelegate(QTableView* view, HoverModel* hover) : QStyledItemDelegate(view), m_view(view), m_hover(hover) {}

    static QRectF barRect(const QRect& cell)
    {
        const double height = pixelsOf(6);
        return QRectF(cell.left() + pixelsOf(6), cell.center().y() - height / 2 + 0.5, cell.width() - pixelsOf(12), height);
    }

    void paint(QPainter* painter, const QStyleOptionViewItem& option, const QModelIndex& index) const override
    {
        const Theme& t = theme();
        const bool selected = option.state & QStyle::State_Selected;
        const bool hovered = m_hover->hovered().layer == index.row();
        painter->fillRect(option.rect, selected ? t.selection : hovered ? t.rowHover : t.base);
        const bool locked = index.data(LayerModel::LockedRole).toBool();
        const QRect cell = option.rect;
        switch (index.column()) {
            case LayerModel::Layer:
                if (locked) {
                    const double side = pixelsOf(13);
                    paintIcon(painter, QStringLiteral("lock"), t.muted,
                              QRectF(cell.left() + pixelsOf(6), cell.center().y() - side / 2 + 0.5, side, side));
                }
                break;
            case LayerModel::Bar: {
                const QRectF bar = barRect(cell);
                painter->setRenderHint(QPainter::Antialiasing);
                painter->setPen(Qt::NoPen);
                const bool moe = index.data(LayerModel::MaximumRole).toInt() > 0;
                if (!moe) break;
                painter->setBrush(selected ? mixed(t.neutral, t.base, 0.9) : t.neutral);
                painter->drawRoundedRect(bar, 1, 1);
                const double fraction = index.data(LayerModel::FractionRole).toDouble();
                painter->setBrush(locked ? t.ghost : selected ? t.accent : t.keptBar());
                painter->drawRoundedRect(QRectF(bar.left(), bar.top(), bar.width() * fraction, bar.height()), 1, 1);
                const double before = index.data(LayerModel::BeforeRole).toDouble();
                if (before >= 0) {
                    painter->setRenderHint(QPainter::Antialiasing, false);
                    painter->fillRect(QRectF(bar.left() + bar.width() * before - 0.75, bar.top() - 3, 1.5, bar.height() + 6), t.text);
                }
                break;
            }
            default:
                break;
        }
        if (index.column() != LayerModel::Bar) {
            painter->setFont(option.font);
            // Words instead of a number, and what is only beside the number that the table is about.
            const auto* model = static_cast<const LayerModel*>(index.model());
            const bool words =
                index.column() == LayerModel::Value && !index.data().toString().isEmpty() && index.data().toString().at(0).isLetter();
            const bool beside = index.column() == LayerModel::Second && model->quantity() == LayerQuantity::Rank;
            painter->setPen(words || beside ? t.muted : t.text);
            const int right =
                index.column() == LayerModel::Mib || (index.column() == LayerModel::Second && m_view->isColumnHidden(LayerModel::Mib))
                    ? pixelsOf(8)
                    : pixelsOf(6);
            drawNumber(painter, QRectF(cell).adjusted(0, 0, -right, 0), index.data().toString());
        }
        if (selected && m_view->hasFocus()) {
            painter->setRenderHint(QPainter::Antialiasing, false);
            painter->fillRect(QRect(cell.left(), cell.top(), cell.width(), 2), t.focus);
            painter->fillRect(QRect(cell.left(), cell.bottom() - 1, cell.width(), 2), t.focus);
            if (index.column() == 0) painter->fillRect(QRect(cell.left(), cell.top(), 2, cell.height()), t.focus);
            const int last = m_view->isColumnHidden(LayerModel::Mib) ? LayerModel::Second : LayerModel::Mib;
            if (index.column() == last) painter->fillRect(QRect(cell.right() - 1, cell.top(), 2, cell.height()), t.focus);
        }
    }

    QWidget* createEditor(QWidget* parent, const QStyleOptionViewItem&, const QModelIndex& index) const override
    {
        const auto* model = static_cast<const LayerModel*>(index.model());
        QSpinBox* box = nullptr;
        if (model->quantity() == LayerQuantity::Rank) {
            auto* ranks = new RankBox(parent);
            ranks->setBreakEven(index.data(LayerModel::MaximumRole).toInt() - 1);
            box = ranks;
        } else {
            auto* kept = new KeepBox(parent);
            kept->setExperts(index.data(LayerModel::MinimumRole).toInt(), index.data(LayerModel::MaximumRole).toInt());
            box = kept;
        }
        box->setButtonSymbols(QAbstractSpinBox::NoButtons);
        box->setAlignment(Qt::AlignRight);
        box->setFrame(false);
        box->setAccessibleName(model->quantity() == LayerQuantity::Rank ? LayerTable::tr("Mean rank of layer %1").arg(index.row())
                                                                        : LayerTable::tr("Experts kept in layer %1").arg(index.row()));
        return box;
    }
    void setEditorData(QWidget* editor, const QModelIndex& index) const override
    {
        auto* box = static_cast<QSpinBox*>(editor);
        box->setValue(index.data(Qt::EditRole).toInt());
        box->selectAll();
    }
    void setModelData(QWidget* editor, QAbstractItemModel* model, const QModelIndex& index) const override
    {
        auto* box = static_cast<QSpinBox*>(editor);
        box->interpretText();
        if (box->value() != index.data(Qt::EditRole).toInt()) model->setData(index, box->value(), Qt::EditRole);
    }
    void updateEditorGeometry(QWidget* editor, const QStyleOptionViewItem& option, const QModelIndex&) const override
    {
        editor->setGeometry(option.rect.adjusted(-pixelsOf(16), -1, 2, 1));
    }

private:
    QTableView* m_view;
    HoverModel* m_hover;
};

}  // namespace

// ---- LayerTable

class LayerTable::Private
{
public:
    LayerModel* model = nullptr;
    SelectionModel* selection = nullptr;
    HoverModel* hover = nullptr;
    StepGesture* steps = nullptr;
    ModelShape shape;
    CompressionPlan plan;
    ExpertScores scores;
    std::optional<CompressionPlan> before;
    int dragged = -1;
    int lastSent = -1;
    QPoint pressed;
    bool moving = false;  // the hand went far enough to mean it
    bool mibVisible = true;
    int asking = -1;  // the row whose number was typed and is on its way

    void refresh() { model->set(shape, plan, scores, before); }
};

LayerTable::LayerTable(SelectionModel* selection, HoverModel* hover, QWidget* parent, LayerQuantity quantity)
    : QTableView(parent), d(std::make_unique<Private>())
{
    d->selection = selection;
    d->hover = hover;
    d->model = new LayerModel(quantity, this);
    d->steps = new StepGesture(this);
    setModel(d->model);
    setItemDelegate(new LayerDelegate(this, hover));
    setAccessibleName(quantity == LayerQuantity::Rank ? tr("Layers by mean rank") : tr("Layers"));
    setShowGrid(false);
    setSelectionBehavior(QAbstractItemView::SelectRows);
    setSelectionMode(QAbstractItemView::SingleSelection);
    setEditTriggers(QAbstractItemView::DoubleClicked | QAbstractItemView::EditKeyPressed | QAbstractItemView::AnyKeyPressed);
    setMouseTracking(true);
    setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    setTabKeyNavigation(false);
    verticalHeader()->hide();
    verticalHeader()->setMinimumSectionSize(1);
    horizontalHeader()->setHighlightSections(false);
    horizontalHeader()->setSectionsClickable(false);
    horizontalHeader()->setMinimumSectionSize(1);
    setFrameShape(QFrame::NoFrame);

    connect(d->steps, &StepGesture::started, this, &LayerTable::gestureStarted);
    connect(d->steps, &StepGesture::finished, this, &LayerTable::gestureFinished);
    connect(d->model, &LayerModel::valueEntered, this, [this](int layer, int value) {
        d->asking = layer;
        emit gestureStarted();
        emit layerMoved(layer, value);
        emit gestureFinished();
        d->asking = -1;
    });
    connect(selectionModel(), &QItemSelectionModel::currentRowChanged, this, [this](const QModelIndex& now) {
        if (now.isValid() && d->selection->currentLayer() != now.row()) d->selection->setCurrentLayer(now.row());
    });
    connect(selection, &SelectionModel::currentChanged, this, [this](CellId cell) {
        if (cell.layer < 0 || cell.layer >= d->model->rowCount() || currentIndex().row() == cell.layer) return;
        setCurrentIndex(d->model->index(cell.layer, LayerModel::Value));
    });
    connect(hover, &HoverModel::hoveredChanged, this, [this] { viewport()->update(); });
    QEvent style(QEvent::StyleChange);
    changeEvent(&style);
}

LayerTable::~LayerTable() = default;

LayerModel* LayerTable::layerModel() const { return d->model; }

void LayerTable::setShape(const ModelShape& shape)
{
    d->shape = shape;
    d->plan = {};
    d->scores = {};
    d->before.reset();
    d->refresh();
    layoutColumns();
}

void LayerTable::setPlan(const CompressionPlan& plan)
{
    d->plan = plan;
    d->refresh();
    layoutColumns();  // a word may stand where only numbers did
    const int layer = d->selection->currentLayer();
    if (layer >= 0 && currentIndex().row() != layer) setCurrentIndex(d->model->index(layer, LayerModel::Value));
}

void LayerTable::setScores(const ExpertScores& scores)
{
    d->scores = scores;
    d->refresh();
}

void LayerTable::setReference(const std::optional<CompressionPlan>& before)
{
    d->before = before;
    d->refresh();
}

void LayerTable::explain(const QString& text, bool isError)
{
    // What is beyond a rank's end the box says itself.
    if (d->asking < 0 || text.isEmpty() || (d->model->quantity() == LayerQuantity::Rank && !isError)) return;
    FieldNote::say(viewport(), text, visualRect(d->model->index(d->asking, LayerModel::Value)));
}

void LayerTable::setMibVisible(bool visible)
{
    d->mibVisible = visible;
    setColumnHidden(LayerModel::Mib, !visible);
    QResizeEvent event(size(), size());
    resizeEvent(&event);
}

void LayerTable::changeEvent(QEvent* event)
{
    QTableView::changeEvent(event);
    if (event->type() != QEvent::StyleChange || d == nullptr || d->model == nullptr) return;
    verticalHeader()->setDefaultSectionSize(pixelsOf(20));
    horizontalHeader()->setFont(fontFor(FontRole::Small));
    horizontalHeader()->setFixedHeight(pixelsOf(24));
    QResizeEvent resized(size(), size());
    resizeEvent(&resized);
    viewport()->update();
}

void LayerTable::resizeEvent(QResizeEvent* event)
{
    QTableView::resizeEvent(event);
    layoutColumns();
}

void LayerTable::layoutColumns()
{
    const QFont body = fontFor(FontRole::Body);
    const QFontMetrics small(fontFor(FontRole::Small));
    const int gap = pixelsOf(14);
    const int layer = pixelsOf(24) +
                      std::max<int>(static_cast<int>(numberWidth(body, QStringLiteral("888"))), small.horizontalAdvance(tr("layer"))) +
                      pixelsOf(6);
    const bool ranks = d->model->quantity() == LayerQuantity::Rank;
    int kept = static_cast<int>(numberWidth(body, ranks ? QStringLiteral("8,888") : QStringLiteral("888"))) + gap;
    // Words stand in the same column: a rank may be dense, and so may a whole layer.
    const bool anyDenseLayer =
        std::any_of(d->shape.layers.begin(), d->shape.layers.end(), [](const LayerShape& layer) { return layer.experts == 0; });
    const bool anySkipped = std::any_of(d->shape.layers.begin(), d->shape.layers.end(), [this](const LayerShape& layer) {
        return d->plan.layerCount() > layer.index && !runText(d->plan.layer(layer.index)).isEmpty();
    });
    if (anySkipped) kept = std::max(kept, QFontMetrics(body).horizontalAdvance(tr("skipped")) + gap);
    for (const QString& word : {tr("dense"), tr("none")})
        if (ranks || anyDenseLayer) kept = std::max(kept, QFontMetrics(body).horizontalAdvance(word) + gap);
    const int removed =
        ranks ? std::max(small.horizontalAdvance(tr("kept")), static_cast<int>(numberWidth(body, QStringLiteral("888")))) + gap
              : small.horizontalAdvance(tr("importance lost %")) + gap + pixelsOf(6);
    const int mib = static_cast<int>(numberWidth(body, QStringLiteral("8,888"))) + gap;
    setColumnWidth(LayerModel::Layer, layer);
    setColumnWidth(LayerModel::Value, kept);
    setColumnWidth(LayerModel::Second, removed);
    setColumnWidth(LayerModel::Mib, mib);
    const int used = layer + kept + removed + (d->mibVisible ? mib : 0);
    setColumnWidth(LayerModel::Bar, std::max(pixelsOf(40), viewport()->width() - used));
}

void LayerTable::mousePressEvent(QMouseEvent* event)
{
    const QModelIndex index = indexAt(event->pos());
    if (event->button() == Qt::LeftButton && index.isValid()) {
        if (index.column() == LayerModel::Bar && index.data(LayerModel::LockedRole).toBool()) emit lockedTouched(index.row());
        if (index.column() == LayerModel::Bar && index.data(LayerModel::EditableRole).toBool()) {
            setFocus(Qt::MouseFocusReason);
            setCurrentIndex(index);
            // The bar is a slider: the end of the bar is grabbed where it is, a press elsewhere moves it there with the first move.
            d->steps->finish();
            d->dragged = index.row();
            d->pressed = event->pos();
            d->moving = false;
            d->lastSent = index.data(Qt::EditRole).toInt();
            emit gestureStarted();
            return;
        }
    }
    QTableView::mousePressEvent(event);
}

void LayerTable::mouseMoveEvent(QMouseEvent* event)
{
    if (d->dragged >= 0) {
        const QModelIndex index = d->model->index(d->dragged, LayerModel::Bar);
        const QRectF bar = LayerDelegate::barRect(visualRect(index));
        d->moving = d->moving || std::abs(event->pos().x() - d->pressed.x()) >= kDragPixels;
        if (!d->moving) return;
        const int most = index.data(LayerModel::MaximumRole).toInt();
        // Below what is possible is asked for too: the plan says why not.
        const int keep = std::clamp(static_cast<int>(std::lround((event->position().x() - bar.left()) / bar.width() * most)), 0, most);
        if (keep != d->lastSent) {
            d->lastSent = keep;
            emit layerMoved(d->dragged, keep);
        }
        return;
    }
    const QModelIndex index = indexAt(event->pos());
    d->hover->setHovered(index.isValid() ? CellId{index.row(), -1} : CellId{});
    viewport()->setCursor(index.isValid() && index.column() == LayerModel::Bar && index.data(LayerModel::EditableRole).toBool()
                              ? Qt::SizeHorCursor
                              : Qt::ArrowCursor);
    if (event->buttons() == Qt::NoButton) QTableView::mouseMoveEvent(event);
}

void LayerTable::mouseReleaseEvent(QMouseEvent* event)
{
    if (d->dragged >= 0 && event->button() == Qt::LeftButton) {
        d->dragged = -1;
        emit gestureFinished();
        return;
    }
    QTableView::mouseReleaseEvent(event);
}

// A click selects; twice on the lock's place, beside the number, locks or unlocks.
void LayerTable::mouseDoubleClickEvent(QMouseEvent* event)
{
    const QModelIndex index = indexAt(event->pos());
    if (event->button() == Qt::LeftButton && index.isValid() && index.column() == LayerModel::Layer && event->pos().x() < pixelsOf(22))
        emit lockRequested(index.row());
    else
        QTableView::mouseDoubleClickEvent(event);
}

void LayerTable::keyPressEvent(QKeyEvent* event)
{
    const QModelIndex current = currentIndex();
    const auto step = [&](int direction) {
        if (current.isValid() && (current.data(LayerModel::LockedRole).toBool() || current.data(LayerModel::SkippedRole).toBool()))
            emit lockedTouched(current.row());
        if (!current.isValid() || !current.data(LayerModel::EditableRole).toBool()) return;
        const bool far = event->modifiers() & Qt::ShiftModifier;
        const QModelIndex kept = d->model->index(current.row(), LayerModel::Value);
        const int now = kept.data(Qt::EditRole).toInt();
        const int next = std::clamp(steppedOf(d->model->quantity(), d->shape, current.row(), now, direction, far), 0,
                                    kept.data(LayerModel::MaximumRole).toInt());
        d->steps->step();
        if (next != now) emit layerMoved(current.row(), next);
    };
    const bool control = event->modifiers() & Qt::ControlModifier;
    switch (event->key()) {
        case Qt::Key_Escape:
            if (d->dragged >= 0) {
                d->dragged = -1;
                emit gestureCancelled();
                return;
            }
            break;
        case Qt::Key_BracketRight:
            step(1);
            return;
        case Qt::Key_BracketLeft:
            step(-1);
            return;
        case Qt::Key_Right:
        case Qt::Key_Plus:
            step(1);
            return;
        case Qt::Key_Left:
        case Qt::Key_Minus:
            step(-1);
            return;
        case Qt::Key_Up:
            if (!control) break;
            step(1);
            return;
        case Qt::Key_Down:
            if (!control) break;
            step(-1);
            return;
        case Qt::Key_L:
            if (control || !current.isValid()) break;
            if (!event->isAutoRepeat()) emit lockRequested(current.row());
            return;
        case Qt::Key_S:
            if (control || !current.isValid()) break;
            if (!event->isAutoRepeat()) emit skipRequested(current.row(), !current.data(LayerModel::SkippedRole).toBool());
            return;
        case Qt::Key_Return:
        case Qt::Key_Enter:
            if (control || !current.isValid()) break;
            edit(d->model->index(current.row(), LayerModel::Value));
            return;
        default:
            break;
    }
    // A digit starts editing the kept number wherever the row's current cell is.
    if (current.isValid() && !event->text().isEmpty() && event->text().at(0).isDigit())
        setCurrentIndex(d->model->index(current.row(), LayerModel::Value));
    QTableView::keyPressEvent(event);
}

void LayerTable::leaveEvent(QEvent* event)
{
    d->hover->clear();
    QTableView::leaveEvent(event);
}

void LayerTable::contextMenuEvent(QContextMenuEvent* event)
{
    const QModelIndex index = event->reason() == QContextMenuEvent::Keyboard ? currentIndex() : indexAt(event->pos());
    if (!index.isValid()) return;
    QMenu menu(this);
    QAction* lock = menu.addAction(index.data(LayerModel::LockedRole).toBool() ? tr("Unlock layer %1").arg(index.row())
                                                                               : tr("Lock layer %1").arg(index.row()));
    lock->setShortcut(Qt::Key_L);
    connect(lock, &QAction::triggered, this, [this, row = index.row()] { emit lockRequested(row); });
    const bool skipped = index.data(LayerModel::SkippedRole).toBool();
    QAction* skip = menu.addAction(skipped ? tr("Run layer %1").arg(index.row()) : tr("Skip layer %1").arg(index.row()));
    skip->setShortcut(Qt::Key_S);
    const QString why = index.data(LayerModel::WhyNoSkipRole).toString();
    skip->setToolTip(why);
    skip->setEnabled(why.isEmpty());
    menu.setToolTipsVisible(true);
    connect(skip, &QAction::triggered, this, [this, row = index.row(), skipped] { emit skipRequested(row, !skipped); });
    menu.exec(event->globalPos());
}

}  // namespace espalier
