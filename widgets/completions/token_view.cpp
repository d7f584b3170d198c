#include "completions/token_view.h"

#include "look/controls.h"
#include "look/drawn_list.h"
#include "look/theme.h"

#include <QHelpEvent>
#include <QKeyEvent>
#include <QMouseEvent>
#include <QPainter>
#include <QScrollBar>
#include <QToolTip>

#include <algorithm>

namespace espalier
{

TokenView::TokenView(const QString& name, QWidget* parent) : QAbstractScrollArea(parent)
{
    installAccessibleTables();
    setAccessibleName(name);
    setFrameShape(QFrame::NoFrame);
    setFocusPolicy(Qt::StrongFocus);
    setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    viewport()->setMouseTracking(true);
}

void TokenView::set(const Completion& completion, const Completion& beside)
{
    const bool shorter = completion.tokens.size() < m_completion.tokens.size();
    const bool atEnd = verticalScrollBar()->value() == verticalScrollBar()->maximum();
    m_completion = completion;
    m_beside = beside;
    if (shorter) {
        m_current = -1;
        announceTableReset(this);
    }
    layOut();
    // What comes is followed, unless somebody reads further up.
    if (atEnd && m_completion.running) verticalScrollBar()->setValue(verticalScrollBar()->maximum());
}

QString TokenView::text() const
{
    QString text;
    for (const GeneratedTokenEvent& token : m_completion.tokens)
        text += QString::fromStdString(token.text);
    return text;
}

bool TokenView::marked(int token) const { return token >= 0 && differsAt(m_completion, m_beside, static_cast<std::size_t>(token)); }

// Words break at the spaces that tokens begin with; a token that is wider than the line breaks where it must.
void TokenView::layOut()
{
    const QFontMetrics metrics(fontFor(FontRole::Body));
    const int pad = pixelsOf(10);
    const int right = std::max(pad + 1, viewport()->width() - pad);
    const int line = metrics.height() + pixelsOf(4);
    m_pieces.clear();
    int x = pad;
    int y = pixelsOf(6);
    for (std::size_t i = 0; i < m_completion.tokens.size(); ++i) {
        const QString text = QString::fromStdString(m_completion.tokens[i].text);
        const QStringList parts = text.split(QLatin1Char('\n'));
        for (int part = 0; part < parts.size(); ++part) {
            if (part > 0) {
                x = pad;
                y += line;
            }
            QString rest = parts[part];
            while (!rest.isEmpty()) {
                int width = metrics.horizontalAdvance(rest);
                if (x + width > right && x > pad) {
                    x = pad;
                    y += line;
                    // The line break stands for the space.
                    if (rest.size() > 1 && rest.startsWith(QLatin1Char(' '))) rest.remove(0, 1);
                }
                QString now = rest;
                while (now.size() > 1 && x + metrics.horizontalAdvance(now) > right)
                    now.chop(1);
                width = metrics.horizontalAdvance(now);
                m_pieces.push_back({static_cast<int>(i), QRect(x, y, width, metrics.height()), now});
                x += width;
                rest = rest.mid(now.size());
            }
        }
    }
    m_height = y + line + pixelsOf(6);
    verticalScrollBar()->setPageStep(viewport()->height());
    verticalScrollBar()->setSingleStep(line);
    verticalScrollBar()->setRange(0, std::max(0, m_height - viewport()->height()));
    viewport()->update();
}

int TokenView::tokenAt(const QPoint& position) const
{
    const QPoint at = position + QPoint(0, verticalScrollBar()->value());
    for (const Piece& piece : m_pieces)
        if (piece.place.adjusted(0, -2, 0, 2).contains(at)) return piece.token;
    return -1;
}

void TokenView::paintEvent(QPaintEvent*)
{
    const Theme& t = theme();
    QPainter painter(viewport());
    painter.fillRect(viewport()->rect(), t.base);
    painter.setFont(fontFor(FontRole::Body));
    painter.translate(0, -verticalScrollBar()->value());
    const int first = firstDifference(m_completion, m_beside);
    for (const Piece& piece : m_pieces) {
        // Not by colour alone: what differs is underlined, and the first one framed.
        const bool differs = marked(piece.token);
        if (differs) {
            painter.fillRect(piece.place, t.accentTint);
            painter.fillRect(QRect(piece.place.left(), piece.place.bottom(), piece.place.width(), 1), t.accent);
        }
        if (piece.token == m_current) painter.fillRect(piece.place, t.selection);
        painter.setPen(m_completion.stale ? t.stale : t.text);
        painter.drawText(piece.place, Qt::AlignLeft | Qt::AlignVCenter | Qt::TextSingleLine, piece.text);
        if (differs && piece.token == first) {
            painter.setPen(QPen(t.accent, 1));
            painter.setBrush(Qt::NoBrush);
            painter.drawRect(QRectF(piece.place).adjusted(-0.5, -0.5, 0.5, 0.5));
        }
    }
    if (m_completion.running && !m_pieces.empty()) {
        const QRect last = m_pieces.back().place;
        painter.fillRect(QRect(last.right() + 2, last.top(), 2, last.height()), t.accent);
    }
    painter.resetTransform();
    if (hasFocus()) paintFocusRing(&painter, QRectF(viewport()->rect()).adjusted(1, 1, -1, -1), 0);
}

void TokenView::resizeEvent(QResizeEvent* event)
{
    QAbstractScrollArea::resizeEvent(event);
    layOut();
}

QString TokenView::tableRowName(int row) const { return tr("token %1").arg(row + 1); }

QString TokenView::tableCellValue(int row, int) const
{
    QString value = tokenWords(m_completion, m_beside, static_cast<std::size_t>(row)).replace(QLatin1Char('\n'), QStringLiteral(", "));
    if (marked(row)) value += QStringLiteral(", ") + tr("differs");
    return value;
}

QRect TokenView::tableCellRect(int row, int) const
{
    for (const Piece& piece : m_pieces)
        if (piece.token == row) return piece.place.translated(0, -verticalScrollBar()->value());
    return {};
}

void TokenView::setTableCurrent(int row, int)
{
    if (row < 0 || row >= tableRows()) return;
    m_current = row;
    announceTableCell(this, *this, true);
    const QRect place = tableCellRect(row, 0);
    if (!place.isNull() && !viewport()->rect().contains(place))
        verticalScrollBar()->setValue(verticalScrollBar()->value() + place.top() - viewport()->height() / 2);
    viewport()->update();
    // By keys too: what hovering says.
    if (hasFocus() && !place.isNull())
        QToolTip::showText(viewport()->mapToGlobal(tableCellRect(row, 0).bottomLeft()),
                           tokenWords(m_completion, m_beside, static_cast<std::size_t>(row)), viewport());
}

void TokenView::keyPressEvent(QKeyEvent* event)
{
    const int row = rowOfKey(*this, event->key(), Qt::Key_Left, Qt::Key_Right);
    if (row < 0) return QAbstractScrollArea::keyPressEvent(event);
    setTableCurrent(row, 0);
}

void TokenView::mousePressEvent(QMouseEvent* event)
{
    if (event->button() == Qt::LeftButton) setTableCurrent(tokenAt(event->position().toPoint()), 0);
}

void TokenView::focusInEvent(QFocusEvent* event)
{
    QAbstractScrollArea::focusInEvent(event);
    if (m_current < 0 && tableRows() > 0) m_current = std::max(0, firstDifference(m_completion, m_beside));
    m_current = std::min(m_current, tableRows() - 1);
    viewport()->update();
}

bool TokenView::viewportEvent(QEvent* event)
{
    if (event->type() == QEvent::ToolTip) {
        auto* help = static_cast<QHelpEvent*>(event);
        const int token = tokenAt(help->pos());
        showRowTip(*help, viewport(), *this, token,
                   token < 0 ? QString() : tokenWords(m_completion, m_beside, static_cast<std::size_t>(token)));
        return true;
    }
    return QAbstractScrollArea::viewportEvent(event);
}

}  // namespace espalier
