// Base of our plots: QCustomPlot with one frame for all (hairlines) and one overlay layer. The only header that includes qcustomplot.h.
#pragma once

#include "look/colour_map.h"
#include "look/theme.h"

#include <qcustomplot.h>

#include <functional>

namespace espalier
{

// Anything drawn by a function on a layer of the plot; vector exports get the same calls.
class PlotPainting final : public QCPLayerable
{
    Q_OBJECT
public:
    PlotPainting(QCustomPlot* plot, const QString& layer, std::function<void(QCPPainter*)> draw);

protected:
    void applyDefaultAntialiasingHint(QCPPainter* painter) const override;
    void draw(QCPPainter* painter) override;
    QRect clipRect() const override;

private:
    std::function<void(QCPPainter*)> m_draw;
};

// Layers: "background", "grid", "main", "axes", "marks" as QCustomPlot has them, and "cursor" as a buffered overlay on top.
void preparePlot(QCustomPlot* plot);
// Colours, pens and fonts of axes and background from the theme.
void stylePlot(QCustomPlot* plot, const Theme& theme);
inline const QString kOverlayLayer = QStringLiteral("cursor");

QCPColorGradient gradientOf(ColourMap map, bool dark);

// Ticks at given values only, with given texts.
QSharedPointer<QCPAxisTicker> fixedTicks(const QVector<double>& values, const QStringList& texts);
// 3 to 6 round steps, texts in the user's locale.
QVector<double> roundTicks(double low, double high, int most = 6);

}  // namespace espalier
