#include "layer_table.h"

#include "controls.h"
#include "format.h"
#include "gesture.h"
#include "icon.h"
#include "keep_box.h"
#include "number.h"
#include "plan/cost_model.h"
#include "theme.h"

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
    const bool moe = shape.experts > 0;
    const int kept = hasPlan ? static_cast<int>(m_plan.layer(layer).kept.size()) : shape.experts;
    const double removed = m_removed[static_cast<std::size_t>(layer)];
    switch (role) {
        case Qt::DisplayRole:
            switch (index.column()) {
                case Layer:
                    return QString::number(layer);
                case Kept:
                    return moe ? QString::number(kept) : tr("dense");
                case Removed:
                    return moe && std::isfinite(removed) ? format::number(removed * 100, 1) : QString();
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
            return index.column() == Kept || index.column() == Bar ? QVariant(kept) : data(index, Qt::DisplayRole);
        case Qt::TextAlignmentRole:
            return static_cast<int>(Qt::AlignRight | Qt::AlignVCenter);
        case Qt::ToolTipRole:
        case Qt::AccessibleDescriptionRole: {
            if (!moe) return tr("Layer %1: dense, no experts").arg(layer);
            QString text = tr("Layer %1: %2 kept").arg(layer).arg(format::keptOf(kept, shape.experts));
            if (std::isfinite(removed)) text += format::kDot + tr("%1 of its importance removed").arg(format::share(removed));
            if (hasPlan && m_plan.layer(layer).locked) text += format::kDot + tr("locked");
            return text;
        }
        case Qt::AccessibleTextRole: {
            const QString head = headerData(index.column(), Qt::Horizontal, Qt::DisplayRole).toString();
            return QString(head + QLatin1Char(' ') + data(index, index.column() == Bar ? Qt::EditRole : Qt::DisplayRole).toString());
        }
        case LockedRole:
            return hasPlan && m_plan.layer(layer).locked;
        case FractionRole:
            return moe ? static_cast<double>(kept) / shape.experts : 0.0;
        case BeforeRole: {
            if (!moe || !m_before || m_before->layerCount() != rowCount()) return -1.0;
            const auto before = static_cast<int>(m_before->layer(layer).kept.size());
            return before == kept ? -1.0 : static_cast<double>(before) / shape.experts;
        }
        case EditableRole:
            return moe && hasPlan && !m_plan.layer(layer).locked;
        case MinimumRole:
            return hasPlan ? std::max(1, m_plan.layer(layer).topK.value_or(shape.router.topK)) : 1;
        case MaximumRole:
            return shape.experts;
        case RawRole:
            switch (index.column()) {
                case Layer:
                    return layer;
                case Removed:
                    return removed;
                default:
                    return kept;
            }
        default:
            return {};
    }
}

QVariant LayerModel::headerData(int section, Qt::Orientation orientation, int role) const
{
    if (orientation != Qt::Horizontal) return {};
    if (role == Qt::FontRole) return fontFor(FontRole::Small);
    if (role == Qt::TextAlignmentRole) return static_cast<int>((section == Bar ? Qt::AlignLeft : Qt::AlignRight) | Qt::AlignVCenter);
    if (role == Qt::ToolTipRole) {
        switch (section) {
            case Bar:
                return tr("Share of the layer's experts that is kept");
            case Removed:
                return tr("Share of the layer's importance that goes with the dropped experts");
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
            return tr("kept");
        case Kept:
            return QString();
        case Removed:
            return tr("removed %");
        case Mib:
            return tr("MiB");
        default:
            return {};
    }
}

Qt::ItemFlags LayerModel::flags(const QModelIndex& index) const
{
    Qt::ItemFlags flags = Qt::ItemIsEnabled | Qt::ItemIsSelectable;
    if (index.column() == Kept && data(index, EditableRole).toBool()) flags |= Qt::ItemIsEditable;
    return flags;
}

bool LayerModel::setData(const QModelIndex& index, const QVariant& value, int role)
{
    if (role != Qt::EditRole || index.column() != Kept) return false;
    // The plan belongs to the window: the number is an intent, and comes back through set().
    emit keepEntered(index.row(), value.toInt());
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
            const bool dense = index.column() == LayerModel::Kept && index.data(LayerModel::MaximumRole).toInt() == 0;
            painter->setPen(dense ? t.muted : t.text);
            const int right =
                index.column() == LayerModel::Mib || (index.column() == LayerModel::Removed && m_view->isColumnHidden(LayerModel::Mib))
                    ? pixelsOf(8)
                    : pixelsOf(6);
            drawNumber(painter, QRectF(cell).adjusted(0, 0, -right, 0), index.data().toString());
        }
        if (selected && m_view->hasFocus()) {
            painter->setRenderHint(QPainter::Antialiasing, false);
            painter->fillRect(QRect(cell.left(), cell.top(), cell.width(), 2), t.focus);
            painter->fillRect(QRect(cell.left(), cell.bottom() - 1, cell.width(), 2), t.focus);
            if (index.column() == 0) painter->fillRect(QRect(cell.left(), cell.top(), 2, cell.height()), t.focus);
            const int last = m_view->isColumnHidden(LayerModel::Mib) ? LayerModel::Removed : LayerModel::Mib;
            if (index.column() == last) painter->fillRect(QRect(cell.right() - 1, cell.top(), 2, cell.height()), t.focus);
        }
    }

    QWidget* createEditor(QWidget* parent, const QStyleOptionViewItem&, const QModelIndex& index) const override
    {
        auto* box = new KeepBox(parent);
        box->setExperts(index.data(LayerModel::MinimumRole).toInt(), index.data(LayerModel::MaximumRole).toInt());
        box->setButtonSymbols(QAbstractSpinBox::NoButtons);
        box->setAlignment(Qt::AlignRight);
        box->setFrame(false);
        box->setAccessibleName(LayerTable::tr("Experts kept in layer %1").arg(index.row()));
        return box;
    }
    void setEditorData(QWidget* editor, const QModelIndex& index) const override
    {
        auto* box = static_cast<KeepBox*>(editor);
        box->setValue(index.data(Qt::EditRole).toInt());
        box->selectAll();
    }
    void setModelData(QWidget* editor, QAbstractItemModel* model, const QModelIndex& index) const override
    {
        auto* box = static_cast<KeepBox*>(editor);
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
    bool mibVisible = true;

    void refresh() { model->set(shape, plan, scores, before); }
};

LayerTable::LayerTable(SelectionModel* selection, HoverModel* hover, QWidget* parent) : QTableView(parent), d(std::make_unique<Private>())
{
    d->selection = selection;
    d->hover = hover;
    d->model = new LayerModel(this);
    d->steps = new StepGesture(this);
    setModel(d->model);
    setItemDelegate(new LayerDelegate(this, hover));
    setAccessibleName(tr("Layers"));
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
    connect(d->model, &LayerModel::keepEntered, this, [this](int layer, int keep) {
        emit gestureStarted();
        emit layerKeepMoved(layer, keep);
        emit gestureFinished();
    });
    connect(selectionModel(), &QItemSelectionModel::currentRowChanged, this, [this](const QModelIndex& now) {
        if (now.isValid() && d->selection->currentLayer() != now.row()) d->selection->setCurrentLayer(now.row());
    });
    connect(selection, &SelectionModel::currentChanged, this, [this](CellId cell) {
        if (cell.layer < 0 || cell.layer >= d->model->rowCount() || currentIndex().row() == cell.layer) return;
        setCurrentIndex(d->model->index(cell.layer, LayerModel::Kept));
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
}

void LayerTable::setPlan(const CompressionPlan& plan)
{
    d->plan = plan;
    d->refresh();
    const int layer = d->selection->currentLayer();
    if (layer >= 0 && currentIndex().row() != layer) setCurrentIndex(d->model->index(layer, LayerModel::Kept));
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
    const QFont body = fontFor(FontRole::Body);
    const QFontMetrics small(fontFor(FontRole::Small));
    const int gap = pixelsOf(14);
    const int layer = pixelsOf(24) +
                      std::max<int>(static_cast<int>(numberWidth(body, QStringLiteral("888"))), small.horizontalAdvance(tr("layer"))) +
                      pixelsOf(6);
    const int kept = static_cast<int>(numberWidth(body, QStringLiteral("888"))) + gap;
    const int removed = small.horizontalAdvance(tr("removed %")) + gap + pixelsOf(6);
    const int mib = static_cast<int>(numberWidth(body, QStringLiteral("8,888"))) + gap;
    setColumnWidth(LayerModel::Layer, layer);
    setColumnWidth(LayerModel::Kept, kept);
    setColumnWidth(LayerModel::Removed, removed);
    setColumnWidth(LayerModel::Mib, mib);
    const int used = layer + kept + removed + (d->mibVisible ? mib : 0);
    setColumnWidth(LayerModel::Bar, std::max(pixelsOf(40), viewport()->width() - used));
}

void LayerTable::mousePressEvent(QMouseEvent* event)
{
    const QModelIndex index = indexAt(event->pos());
    if (event->button() == Qt::LeftButton && index.isValid()) {
        if (index.column() == LayerModel::Layer && event->pos().x() < pixelsOf(22)) {
            emit lockRequested(index.row());
            return;
        }
        if (index.column() == LayerModel::Bar && index.data(LayerModel::EditableRole).toBool()) {
            setFocus(Qt::MouseFocusReason);
            setCurrentIndex(index);
            // The bar is a slider: the end of the bar is grabbed where it is, a press elsewhere moves it there with the first move.
            d->steps->finish();
            d->dragged = index.row();
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
        const int most = index.data(LayerModel::MaximumRole).toInt();
        const int least = index.data(LayerModel::MinimumRole).toInt();
        const int keep = std::clamp(static_cast<int>(std::lround((event->position().x() - bar.left()) / bar.width() * most)), least, most);
        if (keep != d->lastSent) {
            d->lastSent = keep;
            emit layerKeepMoved(d->dragged, keep);
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

void LayerTable::keyPressEvent(QKeyEvent* event)
{
    const QModelIndex current = currentIndex();
    const auto step = [&](int delta) {
        if (!current.isValid() || !current.data(LayerModel::EditableRole).toBool()) return;
        const QModelIndex kept = d->model->index(current.row(), LayerModel::Kept);
        const int now = kept.data(Qt::EditRole).toInt();
        const int next = std::clamp(now + delta, kept.data(LayerModel::MinimumRole).toInt(), kept.data(LayerModel::MaximumRole).toInt());
        d->steps->step();
        if (next != now) emit layerKeepMoved(current.row(), next);
    };
    const bool control = event->modifiers() & Qt::ControlModifier;
    const int coarse = event->modifiers() & Qt::ShiftModifier ? 5 : 1;
    switch (event->key()) {
        case Qt::Key_Escape:
            if (d->dragged >= 0) {
                d->dragged = -1;
                emit gestureCancelled();
                return;
            }
            break;
        case Qt::Key_BracketRight:
            step(coarse);
            return;
        case Qt::Key_BracketLeft:
            step(-coarse);
            return;
        case Qt::Key_Right:
        case Qt::Key_Plus:
            step(coarse);
            return;
        case Qt::Key_Left:
        case Qt::Key_Minus:
            step(-coarse);
            return;
        case Qt::Key_Up:
            if (!control) break;
            step(coarse);
            return;
        case Qt::Key_Down:
            if (!control) break;
            step(-coarse);
            return;
        case Qt::Key_L:
            if (control || !current.isValid()) break;
            emit lockRequested(current.row());
            return;
        case Qt::Key_Return:
        case Qt::Key_Enter:
            if (control || !current.isValid()) break;
            edit(d->model->index(current.row(), LayerModel::Kept));
            return;
        default:
            break;
    }
    // A digit starts editing the kept number wherever the row's current cell is.
    if (current.isValid() && !event->text().isEmpty() && event->text().at(0).isDigit())
        setCurrentIndex(d->model->index(current.row(), LayerModel::Kept));
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
    menu.exec(event->globalPos());
}

}  // namespace espalier
