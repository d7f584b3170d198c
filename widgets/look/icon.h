// Icons by name: Lucide's SVG outlines, stroked in a role of the theme in force, sharp at every pixel ratio.
#pragma once

#include <QColor>
#include <QIcon>
#include <QPixmap>
#include <QString>

namespace espalier
{

// `name` as in resources/icons ("folder-open"). `role` is a theme role ("text", "accent", ...); the icon follows theme changes.
// An unknown name gives a null icon.
QIcon icon(const QString& name, const QString& role = {});
QPixmap iconPixmap(const QString& name, const QColor& colour, int size, qreal pixelRatio);
bool hasIcon(const QString& name);
// Draws the icon into a square at (x, y), device independent pixels.
void paintIcon(class QPainter* painter, const QString& name, const QColor& colour, const QRectF& square);
// The sign of the start page: a candelabra espalier in five strokes.
void paintSign(QPainter* painter, const QColor& colour, const QRectF& square);

}  // namespace espalier
