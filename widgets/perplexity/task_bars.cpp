#include "perplexity/task_bars.h"

#include "look/controls.h"
#include "look/drawn_list.h"
#include "look/format.h"
#include "look/theme.h"

#include <QHelpEvent>
#include <QKeyEvent>
#include <QMouseEvent>
#include <QPainter>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

constexpr double kRow = 24;
constexpr double kBar = 7;
constexpr double kPad = 10;
constexpr double kLeastBars = 48;

QString widestNumber() { return accuracyText({0.8888, 0.0888}); }
QString widestDelta() { return accuracyDelta({-0.8888, 0.0888}); }

bool byKey(const QFocusEvent* event)
{
    return event->reason() == Qt::TabFocusReason || event->reason() == Qt::BacktabFocusReason || event->reason() == Qt::ShortcutFocusReason;
}

}  // namespace

TaskBars::TaskBars(QWidget* parent) : QWidget(parent)
{
    installAccessibleTables();
    setFocusPolicy(Qt::StrongFocus);
    setAccessibleName(tr("Accuracy by task"));
}

void TaskBars::setRows(std::vector<TaskRow> rows, TaskMetric metric, bool stale, bool single)
{
    const bool other = rows.size() != m_rows.size();
    m_rows = std::move(rows);
    m_metric = metric;
    m_stale = stale;
    m_single = single;
    m_current = std::min(m_current, tableRows() - 1);
    if (other) announceTableReset(this);
    updateGeometry();
    update();
}

int TaskBars::rowHeight() const { return std::max(pixelsOf(kRow), QFontMetrics(fontFor(FontRole::Body)).height() + pixelsOf(4)); }
int TaskBars::headHeight() const { return QFontMetrics(fontFor(FontRole::Small)).height() + pixelsOf(10); }

QSize TaskBars::sizeHint() const { return {pixelsOf(420), headHeight() + tableRows() * rowHeight() + pixelsOf(6)}; }
QSize TaskBars::minimumSizeHint() const { return {pixelsOf(200), sizeHint().height()}; }

QString TaskBars::metricName() const { return m_metric == TaskMetric::Norm ? QStringLiteral("acc_norm") : QStringLiteral("acc"); }

TaskBars::Columns TaskBars::columns() const
{
    const QFontMetrics body(fontFor(FontRole::Body));
    const QFontMetrics head(fontFor(FontRole::Head));
    const int pad = pixelsOf(kPad);
    int name = 0;
    for (const TaskRow& row : m_rows)
        // An advance is rounded, and what is short of half a pixel is cut to an ellipsis.
        name = std::max(name, (row.kind == TaskRow::Kind::Task ? body : head).horizontalAdvance(row.name) + 1);
    const int number = head.horizontalAdvance(widestNumber()) + pad;
    const int delta = m_single ? 0 : body.horizontalAdvance(widestDelta()) + pad;
    const int brief = body.horizontalAdvance(accuracyDelta({-0.8888, std::nullopt})) + pad;
    const int room = width() - name - 3 * pad - pixelsOf(kLeastBars);
    Columns at;
    at.delta = width() - pad;
    at.plan = at.bars = at.delta;
    if (m_single) {
        if (number <= room) at.bars = at.plan - number;
    } else {
        // The difference is what a plan is judged by: it stays longest, in the end without its error.
        at.brief = delta > room;
        if (std::min(delta, brief) <= room) at.plan = at.bars = at.delta - (at.brief ? brief : delta);
        if (delta + number <= room) at.bars = at.plan - number;
    }
    const int least = pixelsOf(kLeastBars);
    at.name = std::min(pad + name, std::max(at.bars - least, pad + (at.bars - pad) / 2));
    return at;
}

int TaskBars::rowAt(const QPoint& position) const
{
    const int row = (position.y() - headHeight()) / rowHeight();
    return position.y() >= headHeight() && row < tableRows() ? row : -1;
}

void TaskBars::paintHead(QPainter& painter, const Columns& at) const
{
    const Theme& t = theme();
    const QFont small = fontFor(FontRole::Small);
    const QFontMetrics metrics(small);
    painter.setFont(small);
    const int pad = pixelsOf(kPad);
    const int height = headHeight();
    // What the two bars are, where they stand: the first over the second.
    int x = at.name + pad;
    const int side = pixelsOf(8);
    const QString ofPlan = m_stale ? tr("earlier plan") : tr("plan");
    const auto legend = [&](const QColor& colour, const QString& text) {
        painter.fillRect(QRect(x, (height - side) / 2, side, side), colour);
        x += side + pixelsOf(4);
        painter.setPen(t.muted);
        painter.drawText(QRect(x, 0, metrics.horizontalAdvance(text) + 2, height), Qt::AlignLeft | Qt::AlignVCenter, text);
        x += metrics.horizontalAdvance(text) + pixelsOf(10);
    };
    // Both or none: the row's tool tip says it too.
    const int need = 2 * (side + pixelsOf(4)) + pixelsOf(10) + metrics.horizontalAdvance(tr("dense")) + metrics.horizontalAdvance(ofPlan);
    if (!m_single && x + need <= at.bars) {
        legend(mixed(t.baseline, t.base, 0.55), tr("dense"));
        legend(m_stale ? t.stale : t.keptBar(), ofPlan);
    }
    painter.setPen(t.muted);
    painter.drawText(QRect(pad, 0, at.name - pad, height), Qt::AlignLeft | Qt::AlignVCenter, tr("task"));
    if (at.plan > at.bars) painter.drawText(QRect(at.bars, 0, at.plan - at.bars, height), Qt::AlignRight | Qt::AlignVCenter, metricName());
    if (at.delta > at.plan)
        painter.drawText(QRect(at.plan, 0, at.delta - at.plan, height), Qt::AlignRight | Qt::AlignVCenter,
                         at.brief ? tr("Δ") : tr("Δ paired"));
    painter.fillRect(QRect(0, height - 1, width(), 1), t.border);
}

void TaskBars::paintBar(QPainter& painter, const QRectF& area, const Accuracy& value, const QColor& colour) const
{
    const double x = area.left() + area.width() * std::clamp(value.value, 0.0, 1.0);
    painter.fillRect(QRectF(area.left(), area.top(), std::max(1.0, x - area.left()), area.height()), colour);
    if (!value.error || !(*value.error > 0)) return;
    const double low = area.left() + area.width() * std::clamp(value.value - *value.error, 0.0, 1.0);
    const double high = area.left() + area.width() * std::clamp(value.value + *value.error, 0.0, 1.0);
    const double y = std::floor(area.center().y()) + 0.5;
    painter.setPen(QPen(theme().text, 1));
    painter.drawLine(QLineF(low, y, high, y));
    for (const double end : {low, high})
        painter.drawLine(QLineF(end, y - 2, end, y + 2));
}

void TaskBars::paintRow(QPainter& painter, const Columns& at, int index) const
{
    const Theme& t = theme();
    const TaskRow& row = m_rows[static_cast<std::size_t>(index)];
    const bool mean = row.kind != TaskRow::Kind::Task;
    const int pad = pixelsOf(kPad);
    const QRect rect(0, headHeight() + index * rowHeight(), width(), rowHeight());
    if (index == m_current) painter.fillRect(rect, t.selection);
    if (mean && (index == 0 || m_rows[static_cast<std::size_t>(index) - 1].kind == TaskRow::Kind::Task))
        painter.fillRect(QRect(pad, rect.top(), width() - 2 * pad, 1), t.border);
    painter.setFont(fontFor(mean ? FontRole::Head : FontRole::Body));
    painter.setPen(t.text);
    const QFontMetrics metrics = painter.fontMetrics();
    painter.drawText(QRect(pad, rect.top(), at.name - pad, rect.height()), Qt::AlignLeft | Qt::AlignVCenter,
                     metrics.elidedText(row.name, Qt::ElideRight, at.name - pad));
    // Two bars about the middle, one on it.
    const double bar = std::min<double>(pixelsOf(kBar), rect.height() / 3.0);
    const double left = at.name + pad;
    const double span = std::max(1.0, at.bars - pad - left);
    const double middle = rect.center().y() + 0.5;
    const bool two = !m_single && row.dense && row.plan;
    const auto area = [&](bool upper) { return QRectF(left, two ? middle + (upper ? -bar - 1 : 1) : middle - bar / 2, span, bar); };
    if (row.dense && !m_single) paintBar(painter, area(true), *row.dense, mixed(t.baseline, t.base, 0.55));
    if (row.plan) paintBar(painter, area(false), *row.plan, m_stale ? t.stale : t.keptBar());
    painter.setPen(m_stale ? t.stale : t.text);
    painter.setFont(fontFor(FontRole::Body));
    if (at.plan > at.bars && row.plan)
        painter.drawText(QRect(at.bars, rect.top(), at.plan - at.bars, rect.height()), Qt::AlignRight | Qt::AlignVCenter,
                         accuracyText(*row.plan));
    if (at.delta <= at.plan) return;
    QString last;
    if (row.delta) last = at.brief ? accuracyDelta({row.delta->value, std::nullopt}) : accuracyDelta(*row.delta);
    if (row.questions < row.wanted) {
        last = format::countOf(row.questions, row.wanted);
        painter.setPen(t.muted);
    }
    painter.drawText(QRect(at.plan, rect.top(), at.delta - at.plan, rect.height()), Qt::AlignRight | Qt::AlignVCenter, last);
}

void TaskBars::paintEvent(QPaintEvent*)
{
    QPainter painter(this);
    painter.fillRect(rect(), theme().base);
    const Columns at = columns();
    paintHead(painter, at);
    for (int row = 0; row < tableRows(); ++row)
        paintRow(painter, at, row);
    if (m_keyFocus && hasFocus()) paintFocusRing(&painter, QRectF(rect()).adjusted(1, 1, -1, -1), 0);
}

QString TaskBars::tableColumnName(int column) const
{
    return column == 0 ? tr("dense") : column == 1 ? metricName() : tr("difference, paired");
}

QString TaskBars::tableCellName(int row, int column) const { return tr("%1, %2").arg(tableRowName(row), tableColumnName(column)); }

QString TaskBars::tableCellValue(int row, int column) const
{
    const TaskRow& of = m_rows[static_cast<std::size_t>(row)];
    const auto text = [](const std::optional<Accuracy>& value) { return value ? accuracyText(*value) : TaskBars::tr("not measured"); };
    QString value = column == 0 ? text(of.dense) : column == 1 ? text(of.plan) : of.delta ? accuracyDelta(*of.delta) : tr("not measured");
    if (column > 0 && m_stale) value += QStringLiteral(", ") + tr("of an earlier plan");
    return value;
}

QRect TaskBars::tableCellRect(int row, int) const
{
    if (row < 0 || row >= tableRows()) return {};
    return {0, headHeight() + row * rowHeight(), width(), rowHeight()};
}

QString TaskBars::rowText(int row) const
{
    const TaskRow& of = m_rows[static_cast<std::size_t>(row)];
    QStringList lines = {of.name + format::kDot + (of.byAcc ? QStringLiteral("acc") : metricName())};
    if (of.plan) lines += (m_stale ? tr("earlier plan %1") : m_single ? tr("dense %1") : tr("plan %1")).arg(accuracyText(*of.plan));
    if (of.dense && !m_single) lines += tr("dense %1").arg(accuracyText(*of.dense));
    if (of.delta) lines += tr("Δ %1 on the same questions (paired)").arg(accuracyDelta(*of.delta));
    QString questions = of.questions < of.wanted ? tr("%1 questions answered").arg(format::countOf(of.questions, of.wanted))
                                                 : tr("%n question(s)", nullptr, of.questions);
    if (of.hidden > 0) questions += format::kDot + tr("%n without a right answer in the file: they count as wrong", nullptr, of.hidden);
    lines += questions;
    if (of.byAcc) lines += tr("This task reports no acc_norm.");
    return lines.join(QLatin1Char('\n'));
}

void TaskBars::setTableCurrent(int row, int)
{
    if (row < 0 || row >= tableRows()) return;
    m_current = row;
    announceTableCell(this, *this, true);
    emit currentChanged(tableCellRect(row, 0));
    update();
}

bool TaskBars::event(QEvent* event)
{
    if (event->type() == QEvent::ToolTip) {
        auto* help = static_cast<QHelpEvent*>(event);
        const int row = rowAt(help->pos());
        showRowTip(*help, this, *this, row, row < 0 ? QString() : rowText(row));
        return true;
    }
    if (event->type() == QEvent::StyleChange) updateGeometry();
    return QWidget::event(event);
}

void TaskBars::keyPressEvent(QKeyEvent* event)
{
    const int row = rowOfKey(*this, event->key(), Qt::Key_Up, Qt::Key_Down);
    if (row < 0) return QWidget::keyPressEvent(event);
    setTableCurrent(row, 0);
}

void TaskBars::mousePressEvent(QMouseEvent* event)
{
    if (event->button() == Qt::LeftButton) setTableCurrent(rowAt(event->position().toPoint()), 0);
}

void TaskBars::focusInEvent(QFocusEvent* event)
{
    m_keyFocus = byKey(event);
    if (m_current < 0 && m_keyFocus) setTableCurrent(0, 0);
    QWidget::focusInEvent(event);
    update();
}

void TaskBars::focusOutEvent(QFocusEvent* event)
{
    QWidget::focusOutEvent(event);
    update();
}

}  // namespace espalier
