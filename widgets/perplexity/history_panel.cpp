#include "perplexity/history_panel.h"

#include "look/error_text.h"
#include "look/format.h"
#include "look/icon.h"
#include "look/number_cell.h"
#include "look/theme.h"

#include <QEvent>
#include <QLineEdit>
#include <QPainter>
#include <QStyledItemDelegate>

#include <algorithm>
#include <cstddef>
#include <string>
#include <unordered_map>

namespace espalier
{

namespace
{

QString lossText(const PlanLoss& loss)
{
    const QString to = HistoryModel::tr("%1 to dense on the same windows").arg(format::percentDelta(loss.increase, loss.increaseError));
    const QString number = loss.estimate ? format::estimate(loss.ppl) : HistoryModel::tr("perplexity %1").arg(format::perplexity(loss.ppl));
    return number + QStringLiteral(", ") + to + (loss.basis.isEmpty() ? QString() : QString(QLatin1Char('\n') + loss.basis));
}

QString unreadText(const UnreadPlan& plan)
{
    return plan.reason.kind == ErrorKind::Unsupported ? HistoryModel::tr("made by a newer Espalier: cannot be shown")
                                                      : HistoryModel::tr("not a valid plan: cannot be shown");
}

}  // namespace

// ---- model

void HistoryModel::set(const PlanHistory& history, const QHash<QString, PlanLoss>& losses)
{
    beginResetModel();
    m_entries.clear();
    m_rows = history.rows();
    m_losses = losses;
    m_current = history.currentId();
    for (const PlanHistory::Row& row : m_rows)
        m_entries.push_back(history.entries()[static_cast<std::size_t>(row.id)]);
    findMixed();
    addRunning();
    endResetModel();
}

void HistoryModel::setLosses(const QHash<QString, PlanLoss>& losses)
{
    if (m_losses == losses) return;
    m_losses = losses;
    findMixed();
    if (!m_rows.empty()) emit dataChanged(index(0, 0), index(static_cast<int>(m_rows.size()) - 1, 0));
}

// One quantity, but of few windows it is less sure: side by side the quick ones say so.
void HistoryModel::findMixed()
{
    // Few plans have been measured, many are there.
    std::unordered_map<std::string, bool> isFull;
    for (auto loss = m_losses.constBegin(); loss != m_losses.constEnd(); ++loss)
        isFull[loss.key().toStdString()] = loss->full;
    bool full = false;
    bool quick = false;
    for (const HistoryEntry& entry : m_entries) {
        if (!entry.readable()) continue;
        if (const auto loss = isFull.find(entry.plan.hash()); loss != isFull.end()) (loss->second ? full : quick) = true;
    }
    m_mixed = full && quick;
}

// Above the entry that it started from, as the branch that it would be.
void HistoryModel::addRunning()
{
    if (!m_running) return;
    for (std::size_t i = 0; i < m_rows.size(); ++i)
        if (m_rows[i].id == m_running->parent) {
            const auto at = static_cast<std::ptrdiff_t>(i);
            m_entries.insert(m_entries.begin() + at, HistoryEntry{});
            m_rows.insert(m_rows.begin() + at, PlanHistory::Row{-1, m_rows[i].depth + 1, false});
            return;
        }
}

int HistoryModel::runningRow() const
{
    for (std::size_t i = 0; i < m_rows.size(); ++i)
        if (m_rows[i].id < 0) return static_cast<int>(i);
    return -1;
}

void HistoryModel::setRunning(const std::optional<RunningEntry>& running)
{
    if (m_running == running) return;
    const int was = runningRow();
    if (m_running && running && m_running->parent == running->parent) {
        m_running = running;
        if (was >= 0) emit dataChanged(index(was, 0), index(was, 0));
        return;
    }
    beginResetModel();
    if (was >= 0) {
        m_entries.erase(m_entries.begin() + was);
        m_rows.erase(m_rows.begin() + was);
    }
    m_running = running;
    addRunning();
    endResetModel();
}

void HistoryModel::setNames(const QHash<QString, QString>& names)
{
    if (m_names == names) return;
    m_names = names;
    if (!m_rows.empty()) emit dataChanged(index(0, 0), index(static_cast<int>(m_rows.size()) - 1, 0));
}

Qt::ItemFlags HistoryModel::flags(const QModelIndex& index) const
{
    Qt::ItemFlags flags = QAbstractListModel::flags(index);
    if (index.isValid() && !m_entries[static_cast<std::size_t>(index.row())].readable()) flags &= ~Qt::ItemIsEnabled;
    return index.isValid() && index.row() == currentRow() ? flags | Qt::ItemIsEditable : flags;
}

bool HistoryModel::setData(const QModelIndex& index, const QVariant& value, int role)
{
    if (role != Qt::EditRole || index.row() != currentRow()) return false;
    // The names belong to the window: this is an intent and comes back through setNames().
    emit named(value.toString());
    return true;
}

int HistoryModel::rowCount(const QModelIndex& parent) const { return parent.isValid() ? 0 : static_cast<int>(m_rows.size()); }

int HistoryModel::currentRow() const
{
    for (std::size_t i = 0; i < m_rows.size(); ++i)
        if (m_rows[i].id == m_current) return static_cast<int>(i);
    return -1;
}

QVariant HistoryModel::data(const QModelIndex& index, int role) const
{
    if (!index.isValid() || index.row() >= rowCount()) return {};
    const auto i = static_cast<std::size_t>(index.row());
    const HistoryEntry& entry = m_entries[i];
    const PlanHistory::Row& row = m_rows[i];
    if (row.id < 0) return runningData(index.row(), role);
    if (!entry.readable()) {
        if (role == Qt::ToolTipRole)
            return QStringList{QString::fromStdString(entry.text), unreadText(*entry.unread), causeText(entry.unread->reason),
                               tr("It is kept when the session is saved.")}
                .join(QLatin1Char('\n'));
        if (role == Qt::AccessibleTextRole)
            return QString(QString::fromStdString(entry.text) + QStringLiteral(", ") + unreadText(*entry.unread));
        if (role == ReadableRole) return false;
        if (role == LossRole) return {};
    }
    const auto loss = m_losses.constFind(QString::fromStdString(entry.plan.hash()));
    const bool known = loss != m_losses.constEnd();
    const QString name = m_names.value(QString::fromStdString(entry.plan.hash()));
    switch (role) {
        case Qt::DisplayRole:
            return name.isEmpty() ? QString::fromStdString(entry.text) : name;
        case Qt::EditRole:
            return name;
        case Qt::ToolTipRole: {
            QString text = QString::fromStdString(entry.text) + QLatin1Char('\n') + tr("%1 experts kept").arg(entry.plan.keptExperts());
            if (known) text += QLatin1Char('\n') + lossText(*loss);
            if (known && !loss->elsewhere.isEmpty()) text += QLatin1Char('\n') + loss->elsewhere.join(QLatin1Char('\n'));
            return text;
        }
        case Qt::AccessibleTextRole: {
            QString text = name.isEmpty() ? QString::fromStdString(entry.text) : name;
            if (known) text += QStringLiteral(", ") + lossText(*loss).replace(QLatin1Char('\n'), QStringLiteral(", "));
            if (row.id == m_current)
                text += QStringLiteral(", ") + tr("current");
            else if (!row.onPath)
                text += QStringLiteral(", ") + tr("other branch");
            return text;
        }
        case IdRole:
            return row.id;
        case DepthRole:
            return row.depth;
        case OnPathRole:
            return row.onPath;
        case CurrentRole:
            return row.id == m_current;
        case LossRole:
            return known ? QVariant(loss->increase) : QVariant();
        case EstimateRole:
            return known && loss->estimate;
        case FullRole:
            return known && loss->full;
        case TierRole:
            return known && m_mixed && !loss->full && !loss->estimate ? tr("quick") : QString();
        case RailAboveRole:
        case RailBelowRole:
        case BranchRole:
        case BendRole:
            return railData(index.row(), role);
        case RunningRole:
            return false;
        case ReadableRole:
            return true;
        default:
            return {};
    }
}

// The rail begins at the newest entry; a search stands above it.
QVariant HistoryModel::railData(int row, int role) const
{
    const auto i = static_cast<std::size_t>(row);
    const auto top = std::find_if(m_rows.begin(), m_rows.end(), [](const PlanHistory::Row& r) { return r.depth == 0; }) - m_rows.begin();
    const int depth = m_rows[i].depth;
    const int below = i + 1 < m_rows.size() ? m_rows[i + 1].depth : 0;
    switch (role) {
        case RailAboveRole:
            return row > top;
        case RailBelowRole:
            return row >= top && i + 1 < m_rows.size();
        // A side branch leaves the rail below its last entry.
        case BranchRole:
            return depth > 0 && below < depth;
        default:
            return m_rows[i].id < 0 ? below : 0;
    }
}

QVariant HistoryModel::runningData(int row, int role) const
{
    switch (role) {
        case Qt::DisplayRole:
            return m_running->text;
        case Qt::ToolTipRole:
            return QString(m_running->text + QLatin1Char('\n') + tr("One history entry when it ends; the plan is unchanged until then."));
        case Qt::AccessibleTextRole:
            return m_running->progress.isEmpty() ? m_running->text : QString(m_running->text + QStringLiteral(", ") + m_running->progress);
        case IdRole:
            return -1;
        case DepthRole:
            return m_rows[static_cast<std::size_t>(row)].depth;
        case OnPathRole:
        case CurrentRole:
        case EstimateRole:
        case FullRole:
            return false;
        case RunningRole:
        case ReadableRole:
            return true;
        case ProgressRole:
            return m_running->progress;
        case RailAboveRole:
        case RailBelowRole:
        case BranchRole:
        case BendRole:
            return railData(row, role);
        default:
            return {};
    }
}

// ---- view

namespace
{

class HistoryDelegate final : public QStyledItemDelegate
{
public:
    using QStyledItemDelegate::QStyledItemDelegate;

    QSize sizeHint(const QStyleOptionViewItem&, const QModelIndex&) const override { return {pixelsOf(120), pixelsOf(24)}; }

    QWidget* createEditor(QWidget* parent, const QStyleOptionViewItem&, const QModelIndex&) const override
    {
        auto* line = new QLineEdit(parent);
        line->setObjectName(QStringLiteral("history.name"));
        line->setAccessibleName(HistoryPanel::tr("name of the plan"));
        line->setPlaceholderText(HistoryPanel::tr("name of this plan"));
        line->setMaxLength(80);
        return line;
    }

    void paint(QPainter* painter, const QStyleOptionViewItem& option, const QModelIndex& index) const override
    {
        const Theme& t = theme();
        painter->save();
        painter->setRenderHint(QPainter::Antialiasing);
        const QRect r = option.rect;
        const bool isCurrent = index.data(HistoryModel::CurrentRole).toBool();
        const bool readable = index.data(HistoryModel::ReadableRole).toBool();
        const bool onPath = readable && index.data(HistoryModel::OnPathRole).toBool();
        const int depth = index.data(HistoryModel::DepthRole).toInt();
        if (isCurrent)
            painter->fillRect(r, t.selection);
        else if (readable && (option.state & QStyle::State_MouseOver))
            painter->fillRect(r, t.rowHover);

        const double rail = r.left() + pixelsOf(14);
        const double middle = r.center().y() + 0.5;
        painter->setPen(QPen(t.accent, 2));
        if (index.data(HistoryModel::RailAboveRole).toBool()) painter->drawLine(QPointF(rail, r.top()), QPointF(rail, middle));
        if (index.data(HistoryModel::RailBelowRole).toBool()) painter->drawLine(QPointF(rail, middle), QPointF(rail, r.bottom() + 1));
        const double x = rail + depth * pixelsOf(12);
        const double bend = rail + index.data(HistoryModel::BendRole).toInt() * pixelsOf(12);
        if (depth > 0) {
            painter->setPen(QPen(t.ghost, 1.25));
            painter->drawLine(QPointF(x, middle),
                              QPointF(x, index.data(HistoryModel::BranchRole).toBool() ? r.bottom() - 2 : r.bottom() + 1));
            if (index.data(HistoryModel::BranchRole).toBool()) painter->drawLine(QPointF(x, r.bottom() - 2), QPointF(bend, r.bottom() + 1));
        }
        const QColor ring = depth > 0 || !onPath ? t.ghost : t.accent;
        const double radius = isCurrent ? pixelsOf(5) : pixelsOf(4) - 0.5;
        painter->setPen(QPen(ring, 1.5));
        painter->setBrush(isCurrent || index.data(HistoryModel::FullRole).toBool() ? ring : t.base);
        painter->drawEllipse(QPointF(x, middle), radius, radius);

        const QVariant loss = index.data(HistoryModel::LossRole);
        const QString number = loss.isValid() ? (index.data(HistoryModel::EstimateRole).toBool()
                                                     ? HistoryModel::tr("est. %1").arg(format::percentDelta(loss.toDouble()))
                                                     : format::percentDelta(loss.toDouble()))
                                              : index.data(HistoryModel::ProgressRole).toString();
        painter->setFont(fontFor(isCurrent ? FontRole::Head : FontRole::Body));
        int numberWidthPixels = number.isEmpty() ? 0 : static_cast<int>(numberWidth(painter->font(), number)) + pixelsOf(8);
        if (const QString tier = index.data(HistoryModel::TierRole).toString(); !tier.isEmpty()) {
            const QFont font = painter->font();
            painter->setFont(fontFor(FontRole::Small));
            painter->setPen(t.muted);
            const int width = painter->fontMetrics().horizontalAdvance(tier);
            painter->drawText(QRect(r.right() - pixelsOf(10) - numberWidthPixels - width, r.top(), width, r.height()),
                              Qt::AlignLeft | Qt::AlignVCenter, tier);
            painter->setFont(font);
            numberWidthPixels += width + pixelsOf(4);
        }
        const int left = static_cast<int>(x) + pixelsOf(14);
        const QRect textRect(left, r.top(), r.right() - pixelsOf(10) - numberWidthPixels - left, r.height());
        painter->setPen(!readable ? t.disabled : onPath ? t.text : t.muted);
        painter->drawText(textRect, Qt::AlignLeft | Qt::AlignVCenter,
                          painter->fontMetrics().elidedText(index.data().toString(), Qt::ElideRight, textRect.width()));
        if (!number.isEmpty()) {
            painter->setPen(index.data(HistoryModel::EstimateRole).toBool() ? t.estimate : onPath ? t.text : t.muted);
            drawNumber(painter, QRectF(r.left(), r.top(), r.width() - pixelsOf(10), r.height()), number);
        }
        painter->restore();
    }
};

}  // namespace

HistoryPanel::HistoryPanel(QWidget* parent) : QListView(parent), m_model(new HistoryModel(this))
{
    setModel(m_model);
    setItemDelegate(new HistoryDelegate(this));
    setAccessibleName(tr("history"));
    setFrameShape(QFrame::NoFrame);
    setMouseTracking(true);
    setUniformItemSizes(true);
    setSelectionMode(QAbstractItemView::SingleSelection);
    setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    // A click goes back in the history; a name is written by F2, or from the menu.
    setEditTriggers(QAbstractItemView::EditKeyPressed);
    connect(m_model, &HistoryModel::named, this, &HistoryPanel::nameEntered);
    const auto jump = [this](const QModelIndex& index) {
        if (index.data(HistoryModel::RunningRole).toBool())
            emit runningChosen();
        else if (index.data(HistoryModel::ReadableRole).toBool())
            emit jumpRequested(index.data(HistoryModel::IdRole).toInt());
    };
    connect(this, &QListView::clicked, this, jump);
    connect(this, &QListView::activated, this, [this, jump](const QModelIndex& index) {
        if (!index.data(HistoryModel::CurrentRole).toBool()) jump(index);
    });
}

HistoryPanel::~HistoryPanel() = default;

void HistoryPanel::setHistory(const PlanHistory& history, const QHash<QString, PlanLoss>& losses)
{
    m_model->set(history, losses);
    showCurrent();
}

void HistoryPanel::setLosses(const QHash<QString, PlanLoss>& losses) { m_model->setLosses(losses); }

void HistoryPanel::setRunning(const std::optional<RunningEntry>& running)
{
    const bool was = m_model->runningRow() >= 0;
    m_model->setRunning(running);
    if (was != (m_model->runningRow() >= 0)) showCurrent();
}

void HistoryPanel::setNames(const QHash<QString, QString>& names) { m_model->setNames(names); }

void HistoryPanel::editName()
{
    const int row = m_model->currentRow();
    if (row < 0) return;
    setCurrentIndex(m_model->index(row, 0));
    setFocus(Qt::OtherFocusReason);
    edit(m_model->index(row, 0));
}

void HistoryPanel::showCurrent()
{
    if (const int row = m_model->currentRow(); row >= 0) {
        const QModelIndex index = m_model->index(row, 0);
        setCurrentIndex(index);
        scrollTo(index);
    }
    // The search stands next to the entry it started from; where that is in sight, it is too.
    if (const int row = m_model->runningRow(); row >= 0 && row + 1 == m_model->currentRow()) scrollTo(m_model->index(row, 0));
}

void HistoryPanel::changeEvent(QEvent* event)
{
    if (event->type() == QEvent::StyleChange || event->type() == QEvent::PaletteChange) viewport()->update();
    QListView::changeEvent(event);
}

}  // namespace espalier
