#include "look/number_cell.h"

#include "look/theme.h"

#include <QFontMetricsF>
#include <QPainter>

namespace espalier
{

namespace
{

double widestDigit(const QFontMetricsF& metrics)
{
    double widest = 0;
    for (char digit = '0'; digit <= '9'; ++digit)
        widest = std::max(widest, metrics.horizontalAdvance(QLatin1Char(digit)));
    return widest;
}

}  // namespace

double numberWidth(const QFont& font, const QString& text)
{
    const QFontMetricsF metrics(font);
    if (digitsAlign(font)) return metrics.horizontalAdvance(text);
    const double digit = widestDigit(metrics);
    double width = 0;
    for (const QChar c : text)
        width += c.isDigit() ? digit : metrics.horizontalAdvance(c);
    return width;
}

void drawNumber(QPainter* painter, const QRectF& rect, const QString& text)
{
    const QFont font = painter->font();
    if (digitsAlign(font)) {
        painter->drawText(rect, Qt::AlignRight | Qt::AlignVCenter | Qt::TextSingleLine, text);
        return;
    }
    const QFontMetricsF metrics(font);
    const double digit = widestDigit(metrics);
    double x = rect.right() - numberWidth(font, text);
    const double y = rect.center().y() + (metrics.ascent() - metrics.descent()) / 2;
    for (const QChar c : text) {
        const double own = metrics.horizontalAdvance(c);
        const double cell = c.isDigit() ? digit : own;
        painter->drawText(QPointF(x + (cell - own) / 2, y), QString(c));
        x += cell;
    }
}

}  // namespace espalier
