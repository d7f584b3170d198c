#include "ranks/rank_panel.h"

#include "look/controls.h"
#include "look/theme.h"
#include "plan/factor_methods.h"
#include "planning/budget_bar.h"
#include "ranks/rank_rule_bar.h"
#include "ranks/rank_table.h"

#include <QComboBox>
#include <QEvent>
#include <QHBoxLayout>
#include <QLabel>
#include <QPushButton>
#include <QSignalBlocker>
#include <QStackedLayout>
#include <QStandardItemModel>
#include <QVBoxLayout>

namespace espalier
{

RankPanel::RankPanel(SelectionModel* selection, HoverModel* hover, QWidget* parent) : QWidget(parent)
{
    auto* layout = new QVBoxLayout(this);
    layout->setContentsMargins(0, 0, 0, 0);
    layout->setSpacing(0);
    m_curve = new KeptCurve(selection, hover, this, LayerQuantity::Rank);
    m_curve->setMinimumHeight(pixelsOf(160));
    layout->addWidget(m_curve, 4);

    m_rule = new RankRuleBar(this);
    m_rule->setAutoFillBackground(true);
    layout->addWidget(m_rule);
    auto* between = new QWidget(this);
    between->setAutoFillBackground(true);
    auto* column = new QVBoxLayout(between);
    column->setContentsMargins(pixelsOf(12), 0, pixelsOf(12), pixelsOf(8));
    column->setSpacing(pixelsOf(4));
    auto* row = new QHBoxLayout;
    auto* name = new QLabel(tr("Factors"));
    name->setProperty("role", QStringLiteral("muted"));
    m_factors = new QComboBox;
    m_factors->addItems({tr("whitened"), tr("plain SVD")});
    m_factors->setItemData(0, tr("Keeps what the experts' own inputs use: the input's second moment decides"), Qt::ToolTipRole);
    m_factors->setItemData(1, tr("Of the weights alone; needs no profile"), Qt::ToolTipRole);
    m_factors->setObjectName(QStringLiteral("rank.factors"));
    m_factors->setAccessibleName(tr("how factors are made"));
    m_shown = new Segment(QStringList{tr("Layers"), tr("Matrices")});
    m_shown->setObjectName(QStringLiteral("rank.tables"));
    m_shown->setAccessibleName(tr("which table is shown"));
    m_shown->setSizePolicy(QSizePolicy::Fixed, QSizePolicy::Fixed);
    row->addWidget(name);
    row->addWidget(m_factors);
    row->addStretch(1);
    row->addWidget(m_shown);
    column->addLayout(row);
    m_note = new QLabel;
    m_note->setWordWrap(true);
    m_note->setObjectName(QStringLiteral("rank.note"));
    column->addWidget(m_note);
    m_unlock = new QPushButton;
    m_unlock->setObjectName(QStringLiteral("rank.unlock"));
    column->addWidget(m_unlock, 0, Qt::AlignLeft);
    m_measure = new QPushButton(tr("Measure ranks and gradients"));
    m_measure->setObjectName(QStringLiteral("rank.measure"));
    auto* buttonRow = new QHBoxLayout;
    buttonRow->addWidget(m_measure);
    buttonRow->addStretch(1);
    column->addLayout(buttonRow);
    layout->addWidget(between);

    m_table = new LayerTable(selection, hover, this, LayerQuantity::Rank);
    m_table->setMinimumHeight(pixelsOf(120));
    m_matrices = new RankTable(selection, this);
    m_tables = new QStackedLayout;
    m_tables->addWidget(m_table);
    m_tables->addWidget(m_matrices);
    layout->addLayout(m_tables, 9);
    connect(m_shown, &Segment::chosen, this, [this](int index) { m_tables->setCurrentIndex(index); });
    connect(m_rule, &RankRuleBar::gestureStarted, this, &RankPanel::gestureStarted);
    connect(m_rule, &RankRuleBar::gestureFinished, this, &RankPanel::gestureFinished);
    connect(m_rule, &RankRuleBar::gestureCancelled, this, &RankPanel::gestureCancelled);

    connect(m_factors, &QComboBox::activated, this, [this](int index) {
        emit factorsChosen(index == 0);
        refresh();  // the plan decides
    });
    connect(m_unlock, &QPushButton::clicked, this, &RankPanel::unlockRequested);
    connect(m_measure, &QPushButton::clicked, this, &RankPanel::measureRequested);
    const auto pass = [this](auto* view) {
        using View = std::remove_pointer_t<decltype(view)>;
        connect(view, &View::gestureStarted, this, &RankPanel::gestureStarted);
        connect(view, &View::layerMoved, this, &RankPanel::layerRankMoved);
        connect(view, &View::gestureFinished, this, &RankPanel::gestureFinished);
        connect(view, &View::gestureCancelled, this, &RankPanel::gestureCancelled);
        connect(view, &View::lockRequested, this, &RankPanel::lockRequested);
        connect(view, &View::skipRequested, this, &RankPanel::skipRequested);
        connect(view, &View::lockedTouched, this, &RankPanel::lockedTouched);
    };
    pass(m_curve);
    pass(m_table);
    // Double click: the matrices are whole again.
    connect(m_curve, &KeptCurve::resetRequested, this,
            [this](int layer) { emit layerRankMoved(layer, mostOf(LayerQuantity::Rank, m_shape, layer)); });
    refresh();
}

QString RankPanel::text() const { return m_note->text(); }

void RankPanel::setShape(const ModelShape& shape)
{
    m_shape = shape;
    m_plan = {};
    m_curve->setShape(shape);
    m_table->setShape(shape);
}

void RankPanel::setPlan(const CompressionPlan& plan)
{
    m_plan = plan;
    m_curve->setPlan(plan);
    m_table->setPlan(plan);
    m_matrices->setPlan(m_shape, plan);
    m_rule->setPlan(m_shape, plan);
    refresh();
}

void RankPanel::setReference(const std::optional<CompressionPlan>& before)
{
    m_curve->setReference(before);
    m_table->setReference(before);
}

void RankPanel::setMeasured(bool measured, const QString& note, bool measure)
{
    m_measured = measured;
    m_noteText = note;
    m_offer = measure;
    refresh();
}

void RankPanel::setMessage(const QString& text, bool isError, const std::vector<int>& locks)
{
    m_message = text;
    m_messageIsError = isError;
    m_locks = locks;
    refresh();
}

void RankPanel::setCompact(bool compact) { m_table->setMibVisible(!compact); }

void RankPanel::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if (event->type() == QEvent::StyleChange && m_measure) refresh();
}

void RankPanel::refresh()
{
    const Theme& t = theme();
    const bool ranks = m_plan.hasRanks();
    const bool plain = ranks ? !factorsNeedProfile(m_plan) : !m_measured;
    const QSignalBlocker blocker(m_factors);
    m_factors->setCurrentIndex(plain ? 1 : 0);
    if (auto* items = qobject_cast<QStandardItemModel*>(m_factors->model())) items->item(0)->setEnabled(m_measured || !plain);
    m_factors->setToolTip(ranks ? tr("How the low-rank factors of this plan are made")
                                : tr("How factors will be made once a matrix has a rank"));
    m_factors->setEnabled(ranks);
    const QString text = m_message.isEmpty() ? m_noteText : m_message;
    m_note->setFont(fontFor(FontRole::Small));
    m_note->setText(text);
    m_note->setVisible(!text.isEmpty());
    QPalette palette = m_note->palette();
    palette.setColor(QPalette::WindowText, !m_message.isEmpty() && m_messageIsError ? t.error : t.muted);
    m_note->setPalette(palette);
    m_unlock->setText(unlockText(m_locks));
    m_unlock->setVisible(!text.isEmpty() && !m_locks.empty());
    m_measure->setVisible(m_offer);
}

}  // namespace espalier
