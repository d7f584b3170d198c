#include "ranks/rank_table.h"

#include "experts/expert_view.h"
#include "look/format.h"
#include "look/number_cell.h"
#include "look/theme.h"
#include "plan/cost_model.h"

#include <QApplication>
#include <QClipboard>
#include <QHeaderView>
#include <QKeyEvent>
#include <QPainter>
#include <QStyledItemDelegate>

#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

namespace espalier
{

class RankTableModel final : public QAbstractTableModel
{
public:
    enum Column { Layer, Kept, Gate, Up, Down, Dense, Mib, ColumnCount };
    struct Row {
        bool moe = false;
        int kept = 0;
        std::array<double, 3> mean = {};  // over the matrices that have a rank; NaN: none has
        int dense = 0;                    // matrices of kept experts
        std::int64_t bytes = 0;
    };
    using QAbstractTableModel::QAbstractTableModel;

    void set(std::vector<Row> rows)
    {
        if (rows.size() != m_rows.size()) {
            beginResetModel();
            m_rows = std::move(rows);
            endResetModel();
            return;
        }
        m_rows = std::move(rows);
        if (!m_rows.empty()) emit dataChanged(index(0, 0), index(rowCount() - 1, ColumnCount - 1));
    }
    int rowCount(const QModelIndex& parent = {}) const override { return parent.isValid() ? 0 : static_cast<int>(m_rows.size()); }
    int columnCount(const QModelIndex& parent = {}) const override { return parent.isValid() ? 0 : ColumnCount; }
    QVariant headerData(int section, Qt::Orientation orientation, int role) const override
    {
        if (orientation != Qt::Horizontal) return {};
        if (role == Qt::FontRole) return fontFor(FontRole::Small);
        if (role == Qt::TextAlignmentRole) return static_cast<int>(Qt::AlignRight | Qt::AlignVCenter);
        if (role == Qt::ToolTipRole && section >= Gate && section <= Down) return RankTable::tr("Mean rank of the matrices that have one");
        if (role == Qt::ToolTipRole && section == Dense) return RankTable::tr("Matrices of kept experts that stay as they are");
        if (role != Qt::DisplayRole) return {};
        const QString heads[] = {RankTable::tr("layer"), RankTable::tr("kept"),  RankTable::tr("gate"), RankTable::tr("up"),
                                 RankTable::tr("down"),  RankTable::tr("dense"), RankTable::tr("MiB")};
        return heads[section];
    }
    QVariant data(const QModelIndex& index, int role) const override
    {
        const Row& row = m_rows[static_cast<std::size_t>(index.row())];
        const int column = index.column();
        if (role == Qt::TextAlignmentRole) return static_cast<int>(Qt::AlignRight | Qt::AlignVCenter);
        if (role == Qt::UserRole) {
            if (column == Layer) return index.row();
            if (column == Mib) return static_cast<double>(row.bytes) / (1024.0 * 1024.0);
            if (!row.moe) return {};
            if (column == Kept) return row.kept;
            if (column == Dense) return row.dense;
            const double mean = row.mean[static_cast<std::size_t>(column - Gate)];
            return std::isfinite(mean) ? QVariant(mean) : QVariant();
        }
        if (role == Qt::AccessibleTextRole)
            return QString(headerData(column, Qt::Horizontal, Qt::DisplayRole).toString() + QLatin1Char(' ') +
                           data(index, Qt::DisplayRole).toString());
        if (role != Qt::DisplayRole) return {};
        const QVariant value = data(index, Qt::UserRole);
        if (!value.isValid()) return row.moe ? RankTable::tr("–") : QString();
        if (column == Mib) return format::number(value.toDouble(), value.toDouble() < 10 ? 2 : 0);
        return format::count(std::llround(value.toDouble()));
    }

private:
    std::vector<Row> m_rows;
};

namespace
{

class NumberDelegate final : public QStyledItemDelegate
{
public:
    using QStyledItemDelegate::QStyledItemDelegate;

    void paint(QPainter* painter, const QStyleOptionViewItem& option, const QModelIndex& index) const override
    {
        const Theme& t = theme();
        painter->fillRect(option.rect, option.state & QStyle::State_Selected    ? t.selection
                                       : option.state & QStyle::State_MouseOver ? t.rowHover
                                                                                : t.base);
        painter->setFont(option.font);
        painter->setPen(index.column() == RankTableModel::Layer || index.column() == RankTableModel::Dense ? t.muted : t.text);
        drawNumber(painter, QRectF(option.rect).adjusted(0, 0, -pixelsOf(6), 0), index.data().toString());
    }
};

}  // namespace

RankTable::RankTable(SelectionModel* selection, QWidget* parent)
    : QTableView(parent), m_model(new RankTableModel(this)), m_selection(selection)
{
    setModel(m_model);
    setItemDelegate(new NumberDelegate(this));
    setAccessibleName(tr("kept experts and ranks per layer"));
    setFrameShape(QFrame::NoFrame);
    setShowGrid(false);
    setMouseTracking(true);
    setTabKeyNavigation(false);
    setSelectionBehavior(QAbstractItemView::SelectRows);
    setSelectionMode(QAbstractItemView::SingleSelection);
    verticalHeader()->hide();
    verticalHeader()->setMinimumSectionSize(pixelsOf(20));
    verticalHeader()->setDefaultSectionSize(pixelsOf(22));
    horizontalHeader()->setHighlightSections(false);
    horizontalHeader()->setMinimumSectionSize(pixelsOf(28));
    horizontalHeader()->setSectionResizeMode(QHeaderView::Stretch);
    connect(selectionModel(), &QItemSelectionModel::currentRowChanged, this, [this](const QModelIndex& index) {
        if (!m_following && index.isValid()) m_selection->setCurrentLayer(index.row());
    });
    connect(selection, &SelectionModel::currentChanged, this, &RankTable::follow);
}

void RankTable::follow()
{
    const int layer = m_selection->currentLayer();
    if (layer < 0 || layer >= m_model->rowCount()) return;
    m_following = true;
    setCurrentIndex(m_model->index(layer, std::max(0, currentIndex().column())));
    m_following = false;
}

void RankTable::setPlan(const ModelShape& shape, const CompressionPlan& plan)
{
    std::vector<RankTableModel::Row> rows;
    if (plan.layerCount() == static_cast<int>(shape.layers.size()))
        for (const LayerShape& layer : shape.layers) {
            const LayerPlan& of = plan.layer(layer.index);
            RankTableModel::Row row;
            row.moe = runsExperts(shape, plan, layer.index);
            row.kept = static_cast<int>(of.kept().size());
            row.bytes = layerBytes(layer, shape.hiddenSize, of);
            for (std::size_t m = 0; m < 3; ++m) {
                double sum = 0;
                int ranked = 0;
                for (const RankTriple& ranks : of.ranks())
                    if (ranks[m] > 0) {
                        sum += ranks[m];
                        ++ranked;
                    }
                row.mean[m] = ranked > 0 ? sum / ranked : std::numeric_limits<double>::quiet_NaN();
                row.dense += row.kept - ranked;
            }
            rows.push_back(row);
        }
    m_model->set(std::move(rows));
    if (!currentIndex().isValid()) follow();
}

QString RankTable::tsv() const
{
    QString text;
    for (int c = 0; c < m_model->columnCount(); ++c)
        text += (c ? QStringLiteral("\t") : QString()) + m_model->headerData(c, Qt::Horizontal, Qt::DisplayRole).toString();
    for (int row = 0; row < m_model->rowCount(); ++row)
        for (int c = 0; c < m_model->columnCount(); ++c) {
            const QVariant value = m_model->index(row, c).data(Qt::UserRole);
            text += c ? QLatin1Char('\t') : QLatin1Char('\n');
            if (value.isValid()) text += QString::number(value.toDouble(), 'g', 9);
        }
    return text + QLatin1Char('\n');
}

void RankTable::keyPressEvent(QKeyEvent* event)
{
    if (event->matches(QKeySequence::Copy))
        QApplication::clipboard()->setText(tsv());
    else
        QTableView::keyPressEvent(event);
}

}  // namespace espalier
