// The heatmap in words: readout, tooltip, what a screen reader is told.
#include "heatmap/heatmap_private.h"

#include "look/format.h"
#include "plan/cost_model.h"
#include "plan/rank_edit.h"

#include <QPainter>

#include <algorithm>
#include <cmath>
#include <utility>

namespace espalier
{

void HeatmapReadout::paintEvent(QPaintEvent*)
{
    QPainter painter(this);
    const Theme& t = theme();
    painter.fillRect(rect(), t.surface);
    if (name.isEmpty()) return;
    const int left = pixelsOf(10);
    const QFont head = fontFor(FontRole::Head);
    const QFont body = fontFor(FontRole::Body);
    const int nameWidth = QFontMetrics(head).horizontalAdvance(name);
    painter.setFont(head);
    painter.setPen(t.text);
    painter.drawText(QRect(left, 0, nameWidth + 4, height()), Qt::AlignLeft | Qt::AlignVCenter, name);
    const QFontMetrics metrics(body);
    const int available = width() - left - nameWidth - pixelsOf(16) - pixelsOf(10);
    const QString dot = QStringLiteral("  ·  ");
    QString text;
    for (int limit = 9; limit >= -1; --limit) {
        QStringList list;
        for (const Part& part : parts) {
            if (part.weight <= std::max(0, limit)) list += limit < 9 && !part.shorter.isEmpty() ? part.shorter : part.text;
        }
        text = list.join(dot);
        if (metrics.horizontalAdvance(text) <= available) break;
    }
    painter.setFont(body);
    painter.drawText(QRect(left + nameWidth + pixelsOf(16), 0, available, height()), Qt::AlignLeft | Qt::AlignVCenter, text);
}

void HeatmapView::Private::refreshReadout()
{
    const CellId hovered = hover->hovered();
    const CellId cell = validCell(hovered) ? hovered : selection->current();
    readout->parts.clear();
    readout->name.clear();
    if (const auto f = q->facts(cell)) {
        using Part = HeatmapReadout::Part;
        readout->name = format::layerExpert(cell.layer, cell.expert);
        if (options.ranks()) {
            rankParts(*f);
            readout->update();
            return;
        }
        readout->parts.push_back(Part{scoreName() + QLatin1Char(' ') + format::score(f->value) + valueUnit(),
                                      scoreName() + QLatin1Char(' ') + format::score(f->value), 0});
        if (f->place > 0)
            readout->parts.push_back(Part{HeatmapView::tr("place %1 of %2 in layer").arg(f->place).arg(f->experts),
                                          HeatmapView::tr("place %1 of %2").arg(f->place).arg(f->experts), 1});
        if (std::isfinite(f->percentile))
            readout->parts.push_back(Part{HeatmapView::tr("percentile %1").arg(format::number(f->percentile, 0)), {}, 4});
        if (std::isfinite(f->usage)) readout->parts.push_back(Part{HeatmapView::tr("usage %1").arg(format::share(f->usage)), {}, 6});
        QString state = f->view.text;
        if (f->view.state == ExpertState::LowRank) state = titleOf(ExpertState::Kept) + QStringLiteral(", ") + state;
        if (f->isProtected) state += QStringLiteral(", ") + HeatmapView::tr("protected");
        readout->parts.push_back(Part{state, {}, 2});
        if (f->locked) readout->parts.push_back(Part{HeatmapView::tr("layer locked"), {}, 7});
        if (f->searching) readout->parts.push_back(Part{HeatmapView::tr("layer being searched"), {}, 5});
        readout->parts.push_back(Part{sizeText(*f), format::bytes(f->bytes), 3});
    } else if (cell.valid() && cell.layer < rowCount()) {
        readout->name = format::layerExpert(cell.layer, -1);
        const QString run = hasPlan() ? runText(plan.layer(cell.layer)) : QString();
        QString text =
            expertsOf(cell.layer) == 0
                ? HeatmapView::tr("dense layer, no experts")
                : HeatmapView::tr("%1 kept").arg(format::keptOf(
                      hasPlan() ? static_cast<int>(plan.layer(cell.layer).kept().size()) : expertsOf(cell.layer), expertsOf(cell.layer)));
        if (!run.isEmpty()) text = skipped(cell.layer) ? run : QString(text + QStringLiteral(", ") + run);
        readout->parts.push_back({text, {}, 0});
    }
    readout->update();
}

// Of a constant the vector itself is left; of a skipped layer nothing.
QString HeatmapView::Private::sizeText(const CellFacts& f) const
{
    const QString size = format::bytes(f.bytes);
    if (f.view.state == ExpertState::Skipped) return HeatmapView::tr("%1 saved with the layer").arg(size);
    if (f.view.state == ExpertState::Constant && f.saved)
        return HeatmapView::tr("%1 left, %2 saved").arg(format::bytes(f.view.bytes), size);
    return f.saved ? HeatmapView::tr("%1 saved").arg(size) : HeatmapView::tr("%1 if dropped").arg(size);
}

void HeatmapView::Private::rankParts(const CellFacts& f)
{
    using Part = HeatmapReadout::Part;
    const QString score = std::isfinite(f.value) ? QString(scoreName() + QLatin1Char(' ') + format::score(f.value)) : QString();
    if (f.view.state != ExpertState::Kept && f.view.state != ExpertState::LowRank) {
        readout->parts.push_back(Part{f.view.text, {}, 0});
        readout->parts.push_back(Part{sizeText(f), format::bytes(f.bytes), 2});
    } else {
        readout->parts.push_back(Part{rankText(f), {}, 0});
        readout->parts.push_back(Part{HeatmapView::tr("break-even %1").arg(format::count(f.breakEven)), {}, 3});
        if (f.rank > 0) {
            const QString percent = format::number(100 * f.view.share, 0) + QChar(0x00A0) + QLatin1Char('%');
            readout->parts.push_back(Part{HeatmapView::tr("%1 of the dense bytes").arg(percent), {}, 1});
            readout->parts.push_back(
                Part{HeatmapView::tr("%1 of %2").arg(format::bytes(f.view.bytes), format::bytes(f.denseBytes)), {}, 2});
        } else {
            readout->parts.push_back(Part{format::bytes(f.denseBytes), {}, 2});
        }
    }
    if (!score.isEmpty()) readout->parts.push_back(Part{score, {}, 4});
    if (f.isProtected) readout->parts.push_back(Part{HeatmapView::tr("protected"), {}, 5});
    if (f.locked) readout->parts.push_back(Part{HeatmapView::tr("layer locked"), {}, 6});
}

// "rank 480 of 1,408", or "dense".
QString HeatmapView::Private::rankText(const CellFacts& f) const
{
    return f.rank > 0 ? HeatmapView::tr("rank %1").arg(format::countOf(f.rank, f.fullRank)) : HeatmapView::tr("dense");
}

QString HeatmapView::Private::tooltip(CellId c) const
{
    const auto f = q->facts(c);
    if (!f) return {};
    const bool measured = std::isfinite(f->value) || !options.ranks();
    QString second = measured ? QString(scoreName() + QLatin1Char(' ') + format::score(f->value) + valueUnit()) : QString();
    const bool computing = f->view.state == ExpertState::Kept || f->view.state == ExpertState::LowRank;
    if (options.ranks() && computing) {
        const QString rank = rankText(*f) + format::kDot + HeatmapView::tr("break-even %1").arg(format::count(f->breakEven));
        second = second.isEmpty() ? rank : rank + format::kDot + second;
    }
    QStringList third;
    if (f->place > 0) third += HeatmapView::tr("place %1 of %2 in layer").arg(f->place).arg(f->experts);
    if (std::isfinite(f->percentile)) third += HeatmapView::tr("percentile %1").arg(format::number(f->percentile, 0));
    if (std::isfinite(f->usage)) third += HeatmapView::tr("usage %1").arg(format::share(f->usage));
    QStringList fourth;
    fourth += f->view.state == ExpertState::LowRank ? titleOf(ExpertState::Kept) : f->view.text;
    if (f->isProtected) fourth += HeatmapView::tr("protected");
    if (f->locked) fourth += HeatmapView::tr("layer locked");
    if (f->searching) fourth += HeatmapView::tr("layer being searched");
    if (f->view.state == ExpertState::LowRank && !options.ranks()) fourth += f->view.text;
    fourth += sizeText(*f);
    QString text = QStringLiteral("<b>%1</b><br>%2").arg(format::layerExpert(c.layer, c.expert), second.toHtmlEscaped());
    if (!third.isEmpty()) text += QStringLiteral("<br>") + third.join(format::kDot).toHtmlEscaped();
    return text + QStringLiteral("<br>") + fourth.join(format::kDot).toHtmlEscaped();
}

void HeatmapView::Private::announce()
{
    const QString text = q->factsText(selection->current());
    canvas->setAccessibleDescription(text);
    const bool moved = std::exchange(told, selection->current()) != selection->current();
    if (std::exchange(toldText, text) != text || moved) announceTableCell(canvas, *canvas, moved);
}

std::optional<CellFacts> HeatmapView::facts(CellId cell) const
{
    if (!d->validCell(cell)) return std::nullopt;
    const LayerShape& layer = d->shape.layers[static_cast<std::size_t>(cell.layer)];
    CellFacts f;
    f.cell = cell;
    f.value = d->valueOf(cell);
    f.isProtected = d->isProtected(cell);
    f.locked = d->lockedLayer(cell.layer);
    f.searching = d->searchingLayer(cell.layer);
    f.experts = layer.experts;
    const auto l = static_cast<std::size_t>(cell.layer);
    if (l < d->places.size() && static_cast<std::size_t>(cell.expert) < d->places[l].size())
        f.place = d->places[l][static_cast<std::size_t>(cell.expert)];
    f.percentile = Private::gridValue(d->percentiles, cell);
    f.usage = Private::gridValue(d->usage, cell);
    f.view = expertView(d->shape, d->plan, cell);
    f.rank =
        f.view.state == ExpertState::LowRank ? rankOfLevel(d->shape, cell.layer, levelOf(d->shape, d->plan, cell.layer, cell.expert)) : 0;
    f.fullRank = fullRankOf(d->shape, cell.layer);
    f.breakEven = breakEvenOf(d->shape, cell.layer);
    f.denseBytes = layer.bytesPerExpert;
    // What goes with it when it is dropped: its matrices as they are now. Of one that is gone: what that saved.
    f.saved = !d->kept(cell);
    f.bytes = f.saved ? layer.bytesPerExpert - f.view.bytes + layer.routerBytesPerExpert - f.view.router : f.view.bytes + f.view.router;
    if (f.view.state == ExpertState::Skipped)
        f.bytes = layerBytes(layer, d->shape.hiddenSize, LayerPlan::allOf(layer.experts)) -
                  layerBytes(layer, d->shape.hiddenSize, d->plan.layer(cell.layer));
    return f;
}

QString HeatmapView::factsText(CellId cell) const
{
    QString text = d->tooltip(cell);
    text.replace(QStringLiteral("<br>"), QStringLiteral(", ")).remove(QStringLiteral("<b>")).remove(QStringLiteral("</b>"));
    return text;
}

// ---- the table that assistive technology reads

int HeatmapCanvas::tableRows() const { return d->hasScores ? d->rowCount() : 0; }
int HeatmapCanvas::tableColumns() const { return d->columnCount(); }
QString HeatmapCanvas::tableRowName(int row) const { return format::layerExpert(row, -1); }

QString HeatmapCanvas::tableColumnName(int column) const
{
    return d->options.sort == ExpertSort::Index ? HeatmapView::tr("expert %1").arg(column) : HeatmapView::tr("column %1").arg(column);
}

QString HeatmapCanvas::tableCellName(int row, int column) const
{
    const int expert = d->q->expertAtColumn(row, column);
    return expert < 0 ? HeatmapView::tr("Layer %1, no expert").arg(row) : format::layerExpert(row, expert);
}

QString HeatmapCanvas::tableCellValue(int row, int column) const
{
    const int expert = d->q->expertAtColumn(row, column);
    if (expert < 0) return {};
    // The facts begin with the name, which is told already.
    const QString facts = d->q->factsText({row, expert});
    return facts.section(QStringLiteral(", "), 1);
}

QRect HeatmapCanvas::tableCellRect(int row, int column) const
{
    const int expert = d->q->expertAtColumn(row, column);
    return expert < 0 ? QRect() : d->cellBox({row, expert});
}

bool HeatmapCanvas::tableCellSelected(int row, int column) const
{
    return d->selection->isSelected({row, d->q->expertAtColumn(row, column)});
}

QPoint HeatmapCanvas::tableCurrent() const
{
    const CellId cell = d->selection->current();
    return d->validCell(cell) ? QPoint(d->q->columnOf(cell), cell.layer) : QPoint(-1, -1);
}

void HeatmapCanvas::setTableCurrent(int row, int column)
{
    const int expert = d->q->expertAtColumn(row, std::min(column, d->expertsOf(row) - 1));
    if (expert >= 0) d->selection->setCurrent({row, expert});
}

}  // namespace espalier
