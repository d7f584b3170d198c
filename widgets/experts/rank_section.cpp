#include "experts/rank_section.h"

#include "experts/rank_box.h"
#include "look/controls.h"
#include "look/flow_row.h"
#include "look/format.h"
#include "look/number_cell.h"
#include "look/theme.h"
#include "plan/rank_edit.h"

#include <QHBoxLayout>
#include <QLabel>
#include <QPainter>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

constexpr double kWanted = 0.95;  // energy that the last column asks for

// matrix | shape | rank | energy | at 95 %: painted, so that digits stand below each other.
class MatrixTable final : public QWidget
{
public:
    struct Row {
        QString name, shape, rank, energy, wanted;
    };
    explicit MatrixTable(QWidget* parent) : QWidget(parent) {}

    void set(std::vector<Row> rows)
    {
        m_rows = std::move(rows);
        setAccessibleName(RankSection::tr("matrices of the expert"));
        setAccessibleDescription(text());
        setToolTip(text().replace(QStringLiteral("; "), QStringLiteral("\n")));
        updateGeometry();
        update();
    }
    QString text() const
    {
        QStringList lines;
        for (const Row& row : m_rows)
            lines += RankSection::tr("%1 %2, rank %3, energy %4, %5 at 95 %").arg(row.name, row.shape, row.rank, row.energy, row.wanted);
        return lines.join(QStringLiteral("; "));
    }
    QSize sizeHint() const override { return {std::max(pixelsOf(240), neededWidth(true)), pixelsOf(24) + pixelsOf(22) * 3}; }
    QSize minimumSizeHint() const override { return {neededWidth(false), sizeHint().height()}; }

protected:
    void paintEvent(QPaintEvent*) override
    {
        QPainter painter(this);
        const Theme& t = theme();
        const QFont small = fontFor(FontRole::Small);
        const QFont body = fontFor(FontRole::Body);
        // The shape is the first to go: it says what the model is, not what the plan does.
        const bool shapes = neededWidth(true) <= width();
        const std::vector<int> columns = shapes ? std::vector<int>{0, 1, 2, 3, 4} : std::vector<int>{0, 2, 3, 4};
        int widths[kColumns] = {};
        int used = 0;
        for (const int i : columns)
            used += widths[i] = widest(i);
        const int gap = std::max(pixelsOf(4), (width() - used) / (static_cast<int>(columns.size()) - 1));
        int left[kColumns] = {};
        int x = 0;
        for (const int i : columns) {
            left[i] = i == kColumns - 1 ? width() - widths[i] : x;
            x += widths[i] + gap;
        }
        const int top = pixelsOf(24);
        painter.setFont(small);
        painter.setPen(t.muted);
        for (const int i : columns)
            painter.drawText(QRect(left[i], 0, widths[i], top), (i < 2 ? Qt::AlignLeft : Qt::AlignRight) | Qt::AlignVCenter, headOf(i));
        painter.setPen(t.border);
        painter.drawLine(0, top - 1, width(), top - 1);
        painter.setFont(body);
        for (std::size_t r = 0; r < m_rows.size(); ++r) {
            const Row& row = m_rows[r];
            const int y = top + static_cast<int>(r) * pixelsOf(22);
            const QString cells[] = {row.name, row.shape, row.rank, row.energy, row.wanted};
            for (const int i : columns) {
                painter.setPen(i == 1 || i == 4 ? t.muted : t.text);
                const QRect cell(left[i], y, widths[i], pixelsOf(22));
                if (i < 2)
                    painter.drawText(cell, Qt::AlignLeft | Qt::AlignVCenter, cells[i]);
                else
                    drawNumber(&painter, cell, cells[i]);
            }
        }
    }

private:
    static constexpr int kColumns = 5;

    static QString headOf(int column)
    {
        const QString heads[] = {RankSection::tr("matrix"), RankSection::tr("shape"), RankSection::tr("rank"), RankSection::tr("energy"),
                                 RankSection::tr("at 95 %")};
        return heads[column];
    }
    int widest(int column) const
    {
        const QFont body = fontFor(FontRole::Body);
        const QFontMetrics metrics(body);
        double width = QFontMetrics(fontFor(FontRole::Small)).horizontalAdvance(headOf(column));
        for (const Row& row : m_rows) {
            const QString* cells[] = {&row.name, &row.shape, &row.rank, &row.energy, &row.wanted};
            width = std::max(width, column < 2 ? metrics.horizontalAdvance(*cells[column]) : numberWidth(body, *cells[column]));
        }
        return static_cast<int>(std::ceil(width)) + 2;
    }
    int neededWidth(bool shapes) const
    {
        int width = -pixelsOf(4);
        for (int i = 0; i < kColumns; ++i)
            if (shapes || i != 1) width += widest(i) + pixelsOf(4);
        return width;
    }

    std::vector<Row> m_rows;
};

}  // namespace

class RankSection::Private
{
public:
    QWidget* row = nullptr;
    Slider* slider = nullptr;
    RankBox* box = nullptr;
    QLabel* note = nullptr;
    MatrixTable* table = nullptr;
    int dense = 2;
    bool filling = false;
    QWidget* asking = nullptr;
    int rankAt(int level) const { return level >= dense ? 0 : level; }
};

RankSection::RankSection(QWidget* parent) : QWidget(parent), d(std::make_unique<Private>())
{
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(4);
    auto* row = new FlowRow(pixelsOf(6));
    auto* name = new QLabel(tr("Rank"));
    name->setProperty("role", QStringLiteral("muted"));
    d->slider = new Slider;
    d->slider->setObjectName(QStringLiteral("inspector.rank"));
    d->slider->setAccessibleName(tr("rank of the expert's matrices"));
    d->box = new RankBox;
    d->box->setObjectName(QStringLiteral("inspector.rankNumber"));
    d->box->setAccessibleName(tr("rank of the expert's matrices as a number"));
    row->add(name);
    row->add(d->slider, 1);
    row->add(d->box);
    column->addLayout(row);
    d->note = new QLabel;
    d->note->setProperty("role", QStringLiteral("muted"));
    d->note->setWordWrap(true);
    column->addWidget(d->note);
    d->table = new MatrixTable(this);
    column->addWidget(d->table);
    connect(d->slider, &Slider::gestureStarted, this, &RankSection::gestureStarted);
    connect(d->slider, &Slider::moved, this, [this](int level) { emit rankMoved(d->rankAt(level)); });
    connect(d->slider, &Slider::gestureFinished, this, &RankSection::gestureFinished);
    connect(d->slider, &Slider::gestureCancelled, this, &RankSection::gestureCancelled);
    connect(d->box, &QSpinBox::valueChanged, this, [this](int level) {
        if (d->filling) return;
        d->asking = d->box;
        emit gestureStarted();
        emit rankMoved(d->rankAt(level));
        emit gestureFinished();
        d->asking = nullptr;
    });
}

RankSection::~RankSection() = default;

QString RankSection::tableText() const { return d->table->text(); }

QWidget* RankSection::asking() const { return d->asking; }

bool RankSection::inGesture() const { return d->slider->inGesture(); }

void RankSection::set(const ModelShape& shape, const CompressionPlan& plan, CellId cell, const std::optional<ExpertSpectra>& curves)
{
    d->filling = true;
    const LayerShape& layer = shape.layers[static_cast<std::size_t>(cell.layer)];
    const int breakEven = breakEvenOf(shape, cell.layer);
    const int level = levelOf(shape, plan, cell.layer, cell.expert);
    const bool locked = plan.isLocked(cell.layer);
    d->dense = breakEven + 1;
    d->slider->setRange(1, d->dense);
    d->slider->setResetValue(d->dense);
    d->slider->setValue(level);
    d->box->setBreakEven(breakEven);
    d->box->setValue(level);
    d->slider->setEnabled(!locked);
    d->box->setEnabled(!locked);
    d->note->setFont(fontFor(FontRole::Small));
    d->note->setText(locked ? tr("The layer is locked: unlock it to change ranks.")
                            : tr("Break-even is %1: the factors then cost what the matrix costs.").arg(format::count(breakEven)));
    const bool known = curves && curves->cell == cell;
    const RankTriple ranks = ranksOf(plan, cell.layer, cell.expert);
    std::vector<MatrixTable::Row> rows;
    for (int m = 0; m < 3; ++m) {
        const int rank = ranks[static_cast<std::size_t>(m)];
        // Gate and up are [I, H], down [H, I].
        const int high = m == 2 ? shape.hiddenSize : layer.expertWidth;
        const int wide = m == 2 ? layer.expertWidth : shape.hiddenSize;
        MatrixTable::Row row;
        row.name = matrixName(m);
        row.shape = tr("%1 × %2").arg(high).arg(wide);
        row.rank = rank == 0 ? tr("dense") : format::count(rank);
        if (known && !curves->matrices[static_cast<std::size_t>(m)].empty()) {
            const MatrixSpectrum& curve = curves->matrices[static_cast<std::size_t>(m)];
            row.energy = rank == 0 ? format::share(1) : format::share(curve.keptAt(rank));
            const std::optional<int> wanted = curve.rankKeeping(kWanted);
            row.wanted = wanted && *wanted <= breakEven ? format::count(*wanted) : tr("dense");
        } else {
            row.energy = row.wanted = QStringLiteral("–");
        }
        rows.push_back(std::move(row));
    }
    d->table->set(std::move(rows));
    d->filling = false;
}

}  // namespace espalier
