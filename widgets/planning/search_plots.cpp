#include "planning/search_plots.h"

#include "look/controls.h"
#include "look/format.h"
#include "look/icon.h"
#include "look/theme.h"

#include <QHelpEvent>
#include <QKeyEvent>
#include <QToolTip>

#include <algorithm>
#include <cmath>
#include <utility>

namespace espalier
{

namespace
{

constexpr double kBarWidth = 0.62;

bool byKey(const QFocusEvent* event)
{
    return event->reason() == Qt::TabFocusReason || event->reason() == Qt::BacktabFocusReason || event->reason() == Qt::ShortcutFocusReason;
}

void prepare(QCustomPlot* plot)
{
    preparePlot(plot);
    installAccessibleTables();
    plot->plotLayout()->setMargins(QMargins(0, 0, 0, 0));
    plot->axisRect()->setAutoMargins(QCP::msNone);
}

// Decimals that tell neighbouring ticks apart.
int decimalsFor(const QVector<double>& ticks)
{
    const double step = ticks.size() > 1 ? ticks[1] - ticks[0] : 1;
    int decimals = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 6);
    if (const double shown = step * std::pow(10.0, decimals); std::abs(shown - std::round(shown)) > 1e-6) ++decimals;
    return decimals;
}

// At whole numbers, at most as many as have room.
QVector<double> wholeTicks(double low, double high, int most)
{
    QVector<double> ticks;
    for (const double tick : roundTicks(low, high, std::max(2, most)))
        if (std::abs(tick - std::round(tick)) < 1e-9) ticks.append(std::round(tick));
    return ticks;
}

void drawTitle(QCPPainter* painter, const QCustomPlot* plot, const QString& title)
{
    const QFontMetrics small(fontFor(FontRole::Small));
    painter->setFont(fontFor(FontRole::Small));
    painter->setPen(theme().muted);
    const int left = pixelsOf(12);
    painter->drawText(QRect(left, pixelsOf(6), plot->width() - left, small.height()), Qt::AlignLeft | Qt::AlignVCenter,
                      small.elidedText(title, Qt::ElideRight, plot->width() - left - pixelsOf(4)));
}

int topMargin() { return QFontMetrics(fontFor(FontRole::Small)).height() + pixelsOf(14); }
int bottomMargin() { return 2 * QFontMetrics(fontFor(FontRole::Small)).height() + pixelsOf(14); }

}  // namespace

// ---- SearchPlot

SearchPlot::SearchPlot(QWidget* parent) : QCustomPlot(parent)
{
    prepare(this);
    new PlotPainting(this, QStringLiteral("main"), [this](QCPPainter* p) { drawLabels(p); });
}

void SearchPlot::resizeEvent(QResizeEvent* event)
{
    QCustomPlot::resizeEvent(event);
    refresh();
}

void SearchPlot::changeEvent(QEvent* event)
{
    QCustomPlot::changeEvent(event);
    if (event->type() != QEvent::StyleChange) return;
    stylePlot(this, theme());
    refresh();
}

void SearchPlot::keyPressEvent(QKeyEvent* event)
{
    const int row = tableCurrent().y();
    const int last = tableRows() - 1;
    switch (event->key()) {
        case Qt::Key_Left:
            return setTableCurrent(row < 0 ? last : std::max(0, row - 1), 0);
        case Qt::Key_Right:
            return setTableCurrent(row < 0 ? 0 : std::min(last, row + 1), 0);
        case Qt::Key_Home:
            return setTableCurrent(0, 0);
        case Qt::Key_End:
            return setTableCurrent(last, 0);
        default:
            QCustomPlot::keyPressEvent(event);
    }
}

void SearchPlot::focusInEvent(QFocusEvent* event)
{
    m_keyFocus = byKey(event);
    QCustomPlot::focusInEvent(event);
    replot(QCustomPlot::rpQueuedReplot);
}

void SearchPlot::focusOutEvent(QFocusEvent* event)
{
    QCustomPlot::focusOutEvent(event);
    replot(QCustomPlot::rpQueuedReplot);
}

bool SearchPlot::event(QEvent* event)
{
    if (event->type() == QEvent::ToolTip) {
        const QPoint position = static_cast<QHelpEvent*>(event)->pos();
        const int row = rowAt(position);
        QToolTip::showText(mapToGlobal(position),
                           row < 0 ? QString() : QStringLiteral("<b>%1</b><br>%2").arg(tableRowName(row), tableCellValue(row, 0)), this);
        return true;
    }
    return QCustomPlot::event(event);
}

// ---- SearchCurvePlot

SearchCurvePlot::SearchCurvePlot(QWidget* parent) : SearchPlot(parent) { refresh(); }

QString SearchCurvePlot::valueText(double value) const
{
    return m_curve.decimals < 0 ? format::score(value) : format::number(value, m_curve.decimals);
}

void SearchCurvePlot::setCurve(SearchCurve curve)
{
    const bool other = curve.title != m_curve.title || curve.best.size() < m_curve.best.size();
    m_curve = std::move(curve);
    if (other) {
        m_cursor = -1;
        announceTableReset(this);
    }
    m_cursor = std::min(m_cursor, tableRows() - 1);
    QString description = m_curve.best.empty() ? QString() : QStringLiteral("%1 %2").arg(m_curve.bestName, valueText(m_curve.best.back()));
    if (m_curve.reference) description += QStringLiteral(", %1 %2").arg(m_curve.referenceName, valueText(*m_curve.reference));
    if (m_curve.other) description += QStringLiteral(", %1 %2").arg(m_curve.otherName, valueText(*m_curve.other));
    setAccessibleName(m_curve.title);
    setAccessibleDescription(description);
    refresh();
}

void SearchCurvePlot::refresh()
{
    const QFontMetrics small(fontFor(FontRole::Small));
    const QFontMetrics strong(fontFor(FontRole::SmallStrong));
    double low = 1e300;
    double high = -1e300;
    const auto include = [&](double y) {
        if (!std::isfinite(y)) return;
        low = std::min(low, y);
        high = std::max(high, y);
    };
    for (const double y : m_curve.best)
        include(y);
    for (const SearchCurve::Point& point : m_curve.points) {
        include(point.y - point.error);
        include(point.y + point.error);
    }
    if (m_curve.reference) include(*m_curve.reference);
    if (m_curve.other) include(*m_curve.other);
    const bool any = high >= low;
    if (!any) {
        low = 0;
        high = 1;
    }
    const double pad = std::max((high - low) * 0.10, std::max(1e-9, std::abs(high) * 0.01));
    yAxis->setRange(low - pad, high + pad);
    const double last = tableRows() > 0 ? xOf(tableRows() - 1) : m_curve.first;
    const int most = std::max({m_curve.most, static_cast<int>(std::ceil(last)), m_curve.first + 1});
    xAxis->setRange(m_curve.first - (m_curve.points.empty() ? 0.0 : 0.5), most + (m_curve.points.empty() ? 0.0 : 0.5));

    const QVector<double> ys = any ? roundTicks(low - pad, high + pad, 4) : QVector<double>();
    const int decimals = decimalsFor(ys);
    QStringList yTexts;
    int widest = 0;
    for (const double y : ys) {
        yTexts.append(format::number(y, decimals));
        widest = std::max(widest, small.horizontalAdvance(yTexts.back()));
    }
    yAxis->setTicker(fixedTicks(ys, yTexts));
    QStringList xTexts;
    const QVector<double> xs = wholeTicks(m_curve.first, most, 5);
    for (const double x : xs)
        xTexts.append(format::count(static_cast<std::int64_t>(x)));
    xAxis->setTicker(fixedTicks(xs, xTexts));
    xAxis->setLabel(m_curve.xLabel);
    int right = pixelsOf(16);
    if (!m_curve.best.empty())
        right = std::max(right, strong.horizontalAdvance(m_curve.bestName + QStringLiteral("  ") + valueText(m_curve.best.back())));
    if (m_curve.reference)
        right = std::max(right, small.horizontalAdvance(m_curve.referenceName + QStringLiteral("  ") + valueText(*m_curve.reference)));
    if (m_curve.other)
        right = std::max(right, small.horizontalAdvance(m_curve.otherName + QStringLiteral("  ") + valueText(*m_curve.other)));
    axisRect()->setMargins(QMargins(widest + pixelsOf(20), topMargin(), std::min(right + pixelsOf(18), width() / 2), bottomMargin()));
    replot(QCustomPlot::rpQueuedReplot);
}

double SearchCurvePlot::xOf(int row) const
{
    return row < static_cast<int>(m_curve.xs.size()) ? m_curve.xs[static_cast<std::size_t>(row)] : m_curve.first + row;
}

QPointF SearchCurvePlot::at(int row, double y) const { return {xAxis->coordToPixel(xOf(row)), yAxis->coordToPixel(y)}; }

void SearchCurvePlot::drawLabels(QCPPainter* painter)
{
    const Theme& t = theme();
    const QFont small = fontFor(FontRole::Small);
    const QFont strong = fontFor(FontRole::SmallStrong);
    const QFontMetrics ms(small);
    const QRect frame = axisRect()->rect();
    drawTitle(painter, this, m_curve.title);
    const auto dashedLine = [&](double value) {
        const double y = yAxis->coordToPixel(value);
        QPen dashed(t.baseline, 1.5, Qt::CustomDashLine, Qt::FlatCap);
        dashed.setDashPattern({4, 3});
        painter->setAntialiasing(false);
        painter->setPen(dashed);
        painter->drawLine(QLineF(frame.left(), y, frame.right(), y));
        return y;
    };
    double referenceY = m_curve.reference ? dashedLine(*m_curve.reference) : -1;
    const double otherY = m_curve.other ? dashedLine(*m_curve.other) : -1;
    const int rows = tableRows();
    painter->setAntialiasing(true);
    for (std::size_t i = 0; i < m_curve.points.size(); ++i) {
        const SearchCurve::Point& point = m_curve.points[i];
        const QPointF centre = at(static_cast<int>(i), point.y);
        const QColor colour = point.taken ? t.accent : t.ghost;
        if (point.error > 0) {
            const double above = yAxis->coordToPixel(point.y + point.error);
            const double below = yAxis->coordToPixel(point.y - point.error);
            painter->setPen(QPen(colour, 1));
            painter->drawLine(QLineF(centre.x(), above, centre.x(), below));
            for (const double y : {above, below})
                painter->drawLine(QLineF(centre.x() - 2.5, y, centre.x() + 2.5, y));
        }
    }
    if (rows > 0) {
        QPainterPath line(at(0, m_curve.best.front()));
        for (int i = 1; i < rows; ++i) {
            const QPointF next = at(i, m_curve.best[static_cast<std::size_t>(i)]);
            line.lineTo(next.x(), line.currentPosition().y());
            line.lineTo(next);
        }
        painter->setBrush(Qt::NoBrush);
        painter->setPen(QPen(t.accent, 2, Qt::SolidLine, Qt::RoundCap, Qt::RoundJoin));
        painter->drawPath(line);
    }
    for (std::size_t i = 0; i < m_curve.points.size(); ++i) {
        const SearchCurve::Point& point = m_curve.points[i];
        painter->setPen(point.taken ? QPen(Qt::NoPen) : QPen(t.ghost, 1.5));
        painter->setBrush(point.taken ? t.accent : t.base);
        const double radius = m_curve.points.size() > 24 ? (point.taken ? 3 : 2) : (point.taken ? 3.5 : 3);
        painter->drawEllipse(at(static_cast<int>(i), point.y), radius, radius);
    }
    if (m_cursor >= 0 && m_cursor < rows && hasFocus()) {
        painter->setBrush(Qt::NoBrush);
        painter->setPen(QPen(t.text, 1.5));
        const double y = m_curve.points.empty() ? m_curve.best[static_cast<std::size_t>(m_cursor)]
                                                : m_curve.points[static_cast<std::size_t>(m_cursor)].y;
        painter->drawEllipse(at(m_cursor, y), 6, 6);
    }
    // Labels at the lines' ends, pushed apart.
    const int labelX = frame.right() + pixelsOf(8);
    const int gap = ms.height() + 1;
    double bestY = -1;
    if (rows > 0) {
        const QPointF end = at(rows - 1, m_curve.best.back());
        if (m_curve.growing && m_curve.points.empty()) {
            painter->setPen(Qt::NoPen);
            painter->setBrush(t.accent);
            painter->drawEllipse(end, 3.5, 3.5);
        }
        bestY = end.y();
        if (referenceY >= 0 && std::abs(bestY - referenceY) < gap) {
            const double push = (gap - std::abs(bestY - referenceY)) / 2;
            const double sign = bestY >= referenceY ? 1 : -1;
            bestY += sign * push;
            referenceY -= sign * push;
        }
    }
    const auto label = [&](double y, const QString& name, double value, const QColor& colour, bool bold) {
        const QRectF place(labelX, y - ms.height() / 2.0, width() - labelX, ms.height());
        painter->setPen(colour);
        painter->setFont(bold ? strong : small);
        painter->drawText(place, Qt::AlignLeft | Qt::AlignVCenter, name + QStringLiteral("  ") + valueText(value));
    };
    if (m_curve.reference) label(referenceY, m_curve.referenceName, *m_curve.reference, t.muted, false);
    // The second line has its name where there is room.
    const bool room = (rows == 0 || std::abs(otherY - bestY) >= gap) && (!m_curve.reference || std::abs(otherY - referenceY) >= gap);
    if (m_curve.other && room) label(otherY, m_curve.otherName, *m_curve.other, t.muted, false);
    if (rows > 0) label(bestY, m_curve.bestName, m_curve.best.back(), t.accent, true);
    if (showsKeyFocus()) paintFocusRing(painter, rect(), 0);
}

QString SearchCurvePlot::tableRowName(int row) const
{
    const QString x = m_curve.xs.empty() ? QString::number(m_curve.first + row) : format::number(xOf(row), 1);
    return tr("%1 %2").arg(m_curve.xLabel, x);
}

QString SearchCurvePlot::tableCellValue(int row, int) const
{
    if (row < static_cast<int>(m_curve.points.size())) return m_curve.points[static_cast<std::size_t>(row)].words;
    return valueText(m_curve.best[static_cast<std::size_t>(row)]);
}

QRect SearchCurvePlot::tableCellRect(int row, int) const
{
    if (row < 0 || row >= tableRows()) return {};
    const double y = row < static_cast<int>(m_curve.points.size()) ? m_curve.points[static_cast<std::size_t>(row)].y
                                                                   : m_curve.best[static_cast<std::size_t>(row)];
    return QRect(at(row, y).toPoint() - QPoint(4, 4), QSize(9, 9));
}

int SearchCurvePlot::rowAt(const QPointF& position) const
{
    int row = static_cast<int>(std::lround(xAxis->pixelToCoord(position.x()))) - m_curve.first;
    if (!m_curve.xs.empty()) {
        // Of several at one place the nearest in both directions.
        double nearest = 1e300;
        for (int i = 0; i < tableRows(); ++i) {
            const auto index = static_cast<std::size_t>(i);
            const QPointF offset = at(i, index < m_curve.points.size() ? m_curve.points[index].y : m_curve.best[index]) - position;
            if (const double distance = std::hypot(offset.x(), offset.y()); distance < nearest) {
                nearest = distance;
                row = i;
            }
        }
    }
    return axisRect()->rect().contains(position.toPoint()) && row >= 0 && row < tableRows() ? row : -1;
}

void SearchCurvePlot::setTableCurrent(int row, int)
{
    if (row < 0 || row >= tableRows()) return;
    m_cursor = row;
    announceTableCell(this, *this, true);
    replot(QCustomPlot::rpQueuedReplot);
}

// ---- SearchBarPlot

SearchBarPlot::SearchBarPlot(QWidget* parent) : SearchPlot(parent) { refresh(); }

void SearchBarPlot::setBars(SearchBars bars)
{
    const bool other = bars.bars.size() != m_bars.bars.size() || bars.title != m_bars.title;
    const bool moved = bars.current != m_bars.current;
    m_bars = std::move(bars);
    setAccessibleName(m_bars.title);
    const int row = rowOf(m_bars.current);
    setAccessibleDescription(row < 0 ? QString() : QStringLiteral("%1: %2").arg(tableRowName(row), tableCellValue(row, 0)));
    if (other) announceTableReset(this);
    if (moved) announceTableCell(this, *this, true);
    refresh();
}

int SearchBarPlot::rowOf(int id) const
{
    for (std::size_t i = 0; i < m_bars.bars.size(); ++i)
        if (m_bars.bars[i].id == id) return static_cast<int>(i);
    return -1;
}

void SearchBarPlot::refresh()
{
    const QFontMetrics small(fontFor(FontRole::Small));
    const int count = tableRows();
    double low = 0;
    double high = 0;
    for (const SearchBar& bar : m_bars.bars)
        if (bar.value && std::isfinite(*bar.value)) {
            low = std::min(low, *bar.value);
            high = std::max(high, *bar.value);
        }
    if (low == 0 && high == 0) low = m_bars.percent ? -0.1 : 0, high = m_bars.percent ? 0 : 1;
    yAxis->setRange(low * 1.12, high * 1.12);
    xAxis->setRange(-0.6, std::max(1, count) - 0.4);
    // Without a value there is no scale.
    const bool any = std::any_of(m_bars.bars.begin(), m_bars.bars.end(), [](const SearchBar& bar) { return bar.value.has_value(); });
    const QVector<double> ys = any ? roundTicks(low * 1.12, high * 1.12, 4) : QVector<double>();
    QVector<double> shown = ys;
    for (double& y : shown)
        y *= m_bars.percent ? 100 : 1;
    const int decimals = decimalsFor(shown);
    QStringList yTexts;
    int widest = 0;
    for (const double y : shown) {
        yTexts.append(m_bars.percent ? format::number(y, decimals) + QStringLiteral("\u00A0%") : format::number(y, decimals));
        widest = std::max(widest, small.horizontalAdvance(yTexts.back()));
    }
    yAxis->setTicker(fixedTicks(ys, yTexts));
    const int left = widest + pixelsOf(20);
    int label = 1;
    for (const SearchBar& bar : m_bars.bars)
        label = std::max(label, small.horizontalAdvance(bar.label));
    const double slot = count > 0 ? static_cast<double>(std::max(1, width() - left - pixelsOf(12))) / count : 1;
    int every = 1;
    for (const int step : {1, 2, 3, 4, 5, 6, 8, 10, 12, 20, 24, 30, 50, 100}) {
        every = step;
        if (slot * step >= label + pixelsOf(8)) break;
    }
    QVector<double> xs;
    QStringList xTexts;
    for (int i = 0; i < count; i += every) {
        xs.append(i);
        xTexts.append(m_bars.bars[static_cast<std::size_t>(i)].label);
    }
    xAxis->setTicker(fixedTicks(xs, xTexts));
    xAxis->setLabel(m_bars.xLabel);
    axisRect()->setMargins(QMargins(left, topMargin(), pixelsOf(12), bottomMargin()));
    replot(QCustomPlot::rpQueuedReplot);
}

void SearchBarPlot::drawLabels(QCPPainter* painter)
{
    const Theme& t = theme();
    drawTitle(painter, this, m_bars.title);
    const double zero = yAxis->coordToPixel(0);
    const QRect frame = axisRect()->rect();
    // Marks without a bar hang from the zero line, into the plot.
    const double into = zero - frame.top() < frame.bottom() - zero ? 1 : -1;
    for (std::size_t i = 0; i < m_bars.bars.size(); ++i) {
        const SearchBar& bar = m_bars.bars[i];
        const double centre = xAxis->coordToPixel(static_cast<double>(i));
        const double half = std::max(1.0, (xAxis->coordToPixel(1) - xAxis->coordToPixel(0)) * kBarWidth / 2);
        const bool current = bar.id == m_bars.current;
        painter->setAntialiasing(false);
        if (bar.state == SearchBar::State::Locked) {
            const double side = std::min<double>(pixelsOf(12), 2 * half + 4);
            paintIcon(painter, QStringLiteral("lock"), t.baseline,
                      QRectF(centre - side / 2, zero + into * pixelsOf(5) - (into < 0 ? side : 0), side, side));
        } else if (bar.value && std::isfinite(*bar.value)) {
            const double end = yAxis->coordToPixel(*bar.value);
            QRectF rect(std::round(centre - half), std::min(zero, end), std::max(1.0, std::round(2 * half)), std::abs(end - zero));
            if (rect.height() < 2) rect.setTop(into > 0 ? rect.top() : rect.bottom() - 2), rect.setHeight(2);
            painter->fillRect(rect, current || bar.state == SearchBar::State::Running ? t.accent : t.keptBar());
        } else {
            QPen pen(bar.state == SearchBar::State::Running ? t.accent : t.ghost, bar.state == SearchBar::State::Running ? 2 : 1,
                     Qt::DotLine);
            painter->setPen(pen);
            painter->drawLine(QLineF(std::round(centre), zero, std::round(centre), zero + into * frame.height() * 0.16));
        }
        if (current && showsKeyFocus()) {
            painter->setPen(QPen(t.text, 1.5));
            painter->setBrush(Qt::NoBrush);
            painter->drawRect(QRectF(centre - half - 2, frame.top() + 1, 2 * half + 4, frame.height() - 2));
        }
    }
    if (showsKeyFocus()) paintFocusRing(painter, rect(), 0);
}

QRect SearchBarPlot::tableCellRect(int row, int) const
{
    if (row < 0 || row >= tableRows()) return {};
    const double from = xAxis->coordToPixel(row - 0.5);
    const double to = xAxis->coordToPixel(row + 0.5);
    const QRect frame = axisRect()->rect();
    return QRectF(from, frame.top(), to - from, frame.height()).toRect();
}

bool SearchBarPlot::tableCellSelected(int row, int) const
{
    return row >= 0 && row < tableRows() && m_bars.bars[static_cast<std::size_t>(row)].id == m_bars.current;
}

QPoint SearchBarPlot::tableCurrent() const
{
    const int row = rowOf(m_bars.current);
    return row < 0 ? QPoint(-1, -1) : QPoint(0, row);
}

void SearchBarPlot::setTableCurrent(int row, int)
{
    if (row >= 0 && row < tableRows()) emit chosen(m_bars.bars[static_cast<std::size_t>(row)].id);
}

int SearchBarPlot::rowAt(const QPointF& position) const
{
    if (!axisRect()->rect().contains(position.toPoint())) return -1;
    const int row = static_cast<int>(std::lround(xAxis->pixelToCoord(position.x())));
    return row >= 0 && row < tableRows() ? row : -1;
}

void SearchBarPlot::mousePressEvent(QMouseEvent* event)
{
    QCustomPlot::mousePressEvent(event);
    if (event->button() == Qt::LeftButton) setTableCurrent(rowAt(event->position()), 0);
}

}  // namespace espalier
