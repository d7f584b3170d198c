#include "heatmap/heatmap_table.h"

#include "look/format.h"
#include "look/theme.h"

#include <QAbstractTableModel>
#include <QApplication>
#include <QClipboard>
#include <QHeaderView>
#include <QKeyEvent>
#include <QSortFilterProxyModel>
#include <QStyledItemDelegate>

#include <cmath>

namespace espalier
{

namespace
{

enum TableColumn { Layer, Expert, Value, Place, Percentile, Usage, State, Rank, Bytes, ColumnCount };

QString stateText(const CellFacts& facts)
{
    // The rank has a column of its own.
    QString text = facts.view.state == ExpertState::LowRank ? titleOf(ExpertState::Kept) : facts.view.text;
    if (facts.isProtected) text += QStringLiteral(", ") + HeatmapTable::tr("protected");
    if (facts.locked) text += QStringLiteral(", ") + HeatmapTable::tr("locked");
    if (facts.searching) text += QStringLiteral(", ") + HeatmapTable::tr("being searched");
    return text;
}

bool computes(const CellFacts& facts) { return facts.view.state == ExpertState::Kept || facts.view.state == ExpertState::LowRank; }

class FactsModel final : public QAbstractTableModel
{
public:
    using QAbstractTableModel::QAbstractTableModel;

    std::vector<CellFacts> facts;
    void set(std::vector<CellFacts> next)
    {
        beginResetModel();
        facts = std::move(next);
        endResetModel();
    }
    int rowCount(const QModelIndex& parent = {}) const override { return parent.isValid() ? 0 : static_cast<int>(facts.size()); }
    int columnCount(const QModelIndex& parent = {}) const override { return parent.isValid() ? 0 : ColumnCount; }
    QVariant headerData(int section, Qt::Orientation orientation, int role) const override
    {
        if (orientation != Qt::Horizontal || role != Qt::DisplayRole) return {};
        const QString heads[] = {HeatmapTable::tr("layer"), HeatmapTable::tr("expert"),     HeatmapTable::tr("score"),
                                 HeatmapTable::tr("place"), HeatmapTable::tr("percentile"), HeatmapTable::tr("usage"),
                                 HeatmapTable::tr("state"), HeatmapTable::tr("rank"),       HeatmapTable::tr("MiB if dropped, or saved")};
        return heads[section];
    }
    QVariant data(const QModelIndex& index, int role) const override
    {
        const CellFacts& f = facts[static_cast<std::size_t>(index.row())];
        if (role == Qt::TextAlignmentRole)
            return QVariant(index.column() == State ? Qt::AlignLeft | Qt::AlignVCenter : Qt::AlignRight | Qt::AlignVCenter);
        if (role == Qt::UserRole) {  // for sorting
            switch (index.column()) {
                case Layer:
                    return f.cell.layer;
                case Expert:
                    return f.cell.expert;
                case Value:
                    return f.value;
                case Place:
                    return f.place;
                case Percentile:
                    return f.percentile;
                case Usage:
                    return f.usage;
                case State:
                    return stateText(f);
                case Rank:
                    // 0 is dense, as in a plan's file; nothing where there is no expert any more.
                    return computes(f) ? QVariant(f.rank) : QVariant(std::nan(""));
                default:
                    return QVariant::fromValue(static_cast<qlonglong>(f.bytes));
            }
        }
        if (role != Qt::DisplayRole) return {};
        switch (index.column()) {
            case Layer:
                return QString::number(f.cell.layer);
            case Expert:
                return QString::number(f.cell.expert);
            case Value:
                return format::score(f.value);
            case Place:
                return f.place > 0 ? QString::number(f.place) : QString();
            case Percentile:
                return std::isfinite(f.percentile) ? format::number(f.percentile, 0) : QString();
            case Usage:
                return std::isfinite(f.usage) ? format::share(f.usage) : QString();
            case State:
                return stateText(f);
            case Rank:
                return !computes(f) ? QString() : f.rank > 0 ? format::count(f.rank) : HeatmapTable::tr("dense");
            default:
                return format::number(static_cast<double>(f.bytes) / (1024.0 * 1024.0), 2);
        }
    }
};

// Words stand left, the numbers of the column before them right: a gap keeps the two from reading as one ("8.3 % kept").
class WordDelegate final : public QStyledItemDelegate
{
public:
    using QStyledItemDelegate::QStyledItemDelegate;

protected:
    void initStyleOption(QStyleOptionViewItem* option, const QModelIndex& index) const override
    {
        QStyledItemDelegate::initStyleOption(option, index);
        // An empty decoration is the one inset that styles leave in front of a text.
        option->features |= QStyleOptionViewItem::HasDecoration;
        option->decorationSize = QSize(pixelsOf(16), 1);
    }
};

}  // namespace

class HeatmapTable::Private
{
public:
    HeatmapView* heatmap = nullptr;
    SelectionModel* selection = nullptr;
    FactsModel* model = nullptr;
    QSortFilterProxyModel* proxy = nullptr;
    bool following = false;
};

HeatmapTable::HeatmapTable(HeatmapView* heatmap, SelectionModel* selection, QWidget* parent)
    : QTableView(parent), d(std::make_unique<Private>())
{
    d->heatmap = heatmap;
    d->selection = selection;
    d->model = new FactsModel(this);
    d->proxy = new QSortFilterProxyModel(this);
    d->proxy->setSourceModel(d->model);
    d->proxy->setSortRole(Qt::UserRole);
    setModel(d->proxy);
    setItemDelegateForColumn(TableColumn::State, new WordDelegate(this));
    setSortingEnabled(true);
    sortByColumn(-1, Qt::AscendingOrder);
    setAccessibleName(tr("experts as a table"));
    setFrameShape(QFrame::NoFrame);
    setShowGrid(false);
    setSelectionBehavior(QAbstractItemView::SelectRows);
    verticalHeader()->hide();
    verticalHeader()->setMinimumSectionSize(pixelsOf(20));
    verticalHeader()->setDefaultSectionSize(pixelsOf(22));
    horizontalHeader()->setHighlightSections(false);
    connect(selectionModel(), &QItemSelectionModel::currentRowChanged, this, [this](const QModelIndex& index) {
        if (d->following || !index.isValid()) return;
        d->selection->setCurrent(d->model->facts[static_cast<std::size_t>(d->proxy->mapToSource(index).row())].cell);
    });
    connect(selection, &SelectionModel::currentChanged, this, [this](CellId cell) {
        if (!isVisible()) return;
        for (std::size_t row = 0; row < d->model->facts.size(); ++row) {
            if (d->model->facts[row].cell != cell) continue;
            d->following = true;
            setCurrentIndex(d->proxy->mapFromSource(d->model->index(static_cast<int>(row), 0)));
            d->following = false;
        }
    });
}

HeatmapTable::~HeatmapTable() = default;

void HeatmapTable::refresh()
{
    if (!isVisible()) return;
    std::vector<CellFacts> facts;
    // Layers and experts are asked for until the heatmap knows no more.
    for (int layer = 0, missed = 0; missed < 64; ++layer) {
        int expert = 0;
        while (const std::optional<CellFacts> cell = d->heatmap->facts({layer, expert})) {
            facts.push_back(*cell);
            ++expert;
        }
        missed = expert == 0 ? missed + 1 : 0;
    }
    d->following = true;
    d->model->set(std::move(facts));
    d->following = false;
    resizeColumnsToContents();
}

QString HeatmapTable::tsv() const
{
    QString text;
    for (int c = 0; c < ColumnCount; ++c)
        text += (c ? QStringLiteral("\t") : QString()) + d->model->headerData(c, Qt::Horizontal, Qt::DisplayRole).toString();
    text += QLatin1Char('\n');
    for (int row = 0; row < d->proxy->rowCount(); ++row) {
        for (int c = 0; c < ColumnCount; ++c) {
            const QVariant value = d->proxy->index(row, c).data(Qt::UserRole);
            if (c) text += QLatin1Char('\t');
            const bool number = value.typeId() == QMetaType::Double;
            if (!number)
                text += value.toString();
            else if (std::isfinite(value.toDouble()))
                text += QString::number(value.toDouble(), 'g', 9);
        }
        text += QLatin1Char('\n');
    }
    return text;
}

void HeatmapTable::keyPressEvent(QKeyEvent* event)
{
    if (event->matches(QKeySequence::Copy)) {
        QApplication::clipboard()->setText(tsv());
        return;
    }
    QTableView::keyPressEvent(event);
}

void HeatmapTable::showEvent(QShowEvent* event)
{
    QTableView::showEvent(event);
    refresh();
}

}  // namespace espalier
