#include "look/plot.h"

#include <QLocale>

#include <cmath>

namespace espalier
{

PlotPainting::PlotPainting(QCustomPlot* plot, const QString& layer, std::function<void(QCPPainter*)> draw)
    : QCPLayerable(plot, layer), m_draw(std::move(draw))
{
}

void PlotPainting::applyDefaultAntialiasingHint(QCPPainter* painter) const { painter->setAntialiasing(false); }

void PlotPainting::draw(QCPPainter* painter) { m_draw(painter); }

QRect PlotPainting::clipRect() const { return mParentPlot->viewport(); }

void preparePlot(QCustomPlot* plot)
{
    plot->addLayer(kOverlayLayer, plot->layer(QStringLiteral("overlay")), QCustomPlot::limBelow);
    plot->layer(kOverlayLayer)->setMode(QCPLayer::lmBuffered);
    plot->setNoAntialiasingOnDrag(false);
    plot->setPlottingHint(QCP::phCacheLabels, true);
    plot->setFocusPolicy(Qt::StrongFocus);
    plot->setMinimumSize(40, 40);
    for (QCPAxis* axis : {plot->xAxis, plot->yAxis, plot->xAxis2, plot->yAxis2}) {
        axis->setSubTicks(false);
        axis->setTickLengthIn(0);
        axis->grid()->setSubGridVisible(false);
    }
    plot->xAxis->grid()->setVisible(false);
    plot->yAxis->grid()->setVisible(true);
    plot->yAxis->grid()->setAntialiased(false);
    stylePlot(plot, theme());
}

void stylePlot(QCustomPlot* plot, const Theme& theme)
{
    plot->setBackground(QBrush(theme.base));
    const QFont small = fontFor(FontRole::Small);
    for (QCPAxis* axis : {plot->xAxis, plot->yAxis, plot->xAxis2, plot->yAxis2}) {
        axis->setTickLabelFont(small);
        axis->setLabelFont(small);
        axis->setTickLabelColor(theme.muted);
        axis->setLabelColor(theme.muted);
        axis->grid()->setPen(QPen(theme.grid, 1));
        axis->grid()->setZeroLinePen(Qt::NoPen);
        axis->setTickLabelPadding(4);
        axis->setLabelPadding(2);
    }
    plot->xAxis->setBasePen(QPen(theme.axis, 1));
    plot->xAxis->setTickPen(QPen(theme.axis, 1));
    plot->xAxis->setTickLengthOut(4);
    plot->yAxis->setBasePen(Qt::NoPen);
    plot->yAxis->setTickPen(Qt::NoPen);
    plot->yAxis->setTickLengthOut(0);
}

QCPColorGradient gradientOf(ColourMap map, bool dark)
{
    QCPColorGradient gradient;
    gradient.clearColorStops();
    gradient.setLevelCount(256);
    gradient.setColorInterpolation(QCPColorGradient::ciRGB);
    const std::vector<QColor>& stops = colourMapStops(map, dark);
    for (std::size_t i = 0; i < stops.size(); ++i)
        gradient.setColorStopAt(static_cast<double>(i) / static_cast<double>(stops.size() - 1), stops[i]);
    return gradient;
}

QSharedPointer<QCPAxisTicker> fixedTicks(const QVector<double>& values, const QStringList& texts)
{
    QSharedPointer<QCPAxisTickerText> ticker(new QCPAxisTickerText);
    ticker->setSubTickCount(0);
    for (int i = 0; i < values.size(); ++i)
        ticker->addTick(values[i], texts.value(i));
    return ticker;
}

QVector<double> roundTicks(double low, double high, int most)
{
    QVector<double> ticks;
    if (!(high > low) || !std::isfinite(low) || !std::isfinite(high)) return ticks;
    const double raw = (high - low) / std::max(1, most);
    double step = std::pow(10.0, std::floor(std::log10(raw)));
    for (const double factor : {1.0, 2.0, 2.5, 5.0, 10.0}) {
        if (step * factor >= raw * 0.999) {
            step *= factor;
            break;
        }
    }
    for (double value = std::ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step)
        ticks.append(std::abs(value) < step * 1e-9 ? 0.0 : value);
    return ticks;
}

}  // namespace espalier
