// Numbers in cells: right-aligned, digits of one width even in fonts without tabular figures.
#pragma once

#include <QString>

class QFont;
class QPainter;
class QRectF;

namespace espalier
{

// Width of `text` with each digit as wide as the font's widest digit.
double numberWidth(const QFont& font, const QString& text);
// Draws `text` right-aligned and vertically centred in `rect`, in the painter's font and pen.
void drawNumber(QPainter* painter, const QRectF& rect, const QString& text);

}  // namespace espalier
