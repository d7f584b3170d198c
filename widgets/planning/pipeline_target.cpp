#include "planning/pipeline_target.h"

#include "allocate/allocator.h"
#include "experts/keep_box.h"
#include "look/controls.h"
#include "look/format.h"
#include "look/icon.h"
#include "look/theme.h"
#include "plan/cost_model.h"
#include "planning/budget_bar.h"
#include "planning/method_section.h"

#include <QComboBox>
#include <QEvent>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QPushButton>
#include <QSignalBlocker>
#include <QStyle>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>
#include <vector>

namespace espalier
{

namespace
{
constexpr std::int64_t kGiB = std::int64_t{1} << 30;
}  // namespace

PipelineTarget::PipelineTarget(QWidget* parent) : QWidget(parent)
{
    auto* rows = new QVBoxLayout(this);
    rows->setContentsMargins(0, 0, 0, 0);
    rows->setSpacing(pixelsOf(6));
    auto* first = new QHBoxLayout;
    first->setSpacing(pixelsOf(6));
    auto* name = new QLabel(tr("Target"), this);
    name->setFont(fontFor(FontRole::Head));
    m_field = new QLineEdit(this);
    m_field->setAlignment(Qt::AlignRight);
    m_field->setAccessibleName(tr("Target"));
    name->setBuddy(m_field);
    m_units = new QComboBox(this);
    m_units->setAccessibleName(tr("Target, unit"));
    const auto add = [this](const QString& text, TargetUnit unit) { m_units->addItem(text, static_cast<int>(unit)); };
    add(tr("experts"), TargetUnit::Experts);
    add(tr("MiB"), TargetUnit::MiB);
    add(tr("GiB"), TargetUnit::GiB);
    add(tr("% of dense"), TargetUnit::Percent);
    add(tr("MiB of experts"), TargetUnit::ExpertMiB);
    add(tr("M parameters"), TargetUnit::Parameters);
    add(tr("M active"), TargetUnit::ActiveParameters);
    m_units->setItemData(m_units->count() - 1,
                         tr("Parameters that one token runs. They depend on ranks, not on how many experts there are: the "
                            "target sets the mean rank, the number of experts stays."),
                         Qt::ToolTipRole);
    guardWheel(m_units);
    m_take = new QToolButton(this);
    m_take->setIcon(icon(QStringLiteral("circle-dot")));
    m_take->setIconSize({pixelsOf(16), pixelsOf(16)});
    m_take->setAutoRaise(true);
    m_take->setToolTip(tr("Take the size of the plan on screen"));
    m_take->setAccessibleName(m_take->toolTip());
    first->addWidget(name);
    first->addStretch(1);
    first->addWidget(m_field);
    first->addWidget(m_units);
    first->addWidget(m_take);
    rows->addLayout(first);
    auto* second = new QHBoxLayout;
    m_of = new QLabel(this);
    m_of->setProperty("role", QStringLiteral("muted"));
    m_equal = new Switch(tr("Equal counts"), this);
    m_equal->setTextLeft(true);
    m_equal->setToolTip(tr("One count for all layers, as a stock export needs"));
    second->addWidget(m_of);
    second->addStretch(1);
    second->addWidget(m_equal);
    rows->addLayout(second);
    m_note = new QLabel(this);
    m_note->setObjectName(QStringLiteral("target.note"));
    m_note->setProperty("role", QStringLiteral("muted"));
    m_note->setWordWrap(true);
    m_note->hide();
    rows->addWidget(m_note);
    m_unlock = new QPushButton(this);
    m_unlock->setObjectName(QStringLiteral("target.unlock"));
    m_unlock->hide();
    rows->addWidget(m_unlock, 0, Qt::AlignLeft);

    connect(m_field, &QLineEdit::returnPressed, this, &PipelineTarget::enter);
    connect(m_field, &QLineEdit::editingFinished, this, [this] {
        if (m_field->isModified()) enter();
    });
    connect(m_units, &QComboBox::activated, this,
            [this](int index) { setUnit(static_cast<TargetUnit>(m_units->itemData(index).toInt())); });
    connect(m_take, &QToolButton::clicked, this, &PipelineTarget::takeSizeOfPlan);
    connect(m_equal, &QAbstractButton::clicked, this, &PipelineTarget::changed);
    connect(m_unlock, &QPushButton::clicked, this, [this] { emit unlockRequested(std::vector(m_locks)); });
}

void PipelineTarget::setShape(const ModelShape& shape)
{
    m_shape = shape;
    m_scale = sizeScale(shape);
    m_plan = {};
    m_unit = TargetUnit::Experts;
    m_rank.reset();
    m_experts = 0;
}

void PipelineTarget::setPlan(const CompressionPlan& plan)
{
    m_plan = plan;
    m_take->setEnabled(!planIsDense());
    checkReach();
}

// A target below what locks, protection and the routers leave: what stands in the way is named before anything runs.
void PipelineTarget::checkReach()
{
    m_beyond.clear();
    m_locks.clear();
    const bool known = m_plan.layerCount() > 0 && m_plan.layerCount() == static_cast<int>(m_shape.layers.size());
    if (known && m_experts > 0) {
        const LeastSize least = leastSize(m_shape, m_plan);
        const bool experts = inExperts();
        if (experts ? m_experts < least.experts : m_bytes < least.bytes) {
            const QString asked = experts ? format::count(m_experts) : format::bytes(m_bytes);
            const bool free = experts ? m_experts >= least.freeExperts : m_bytes >= least.freeBytes;
            m_locks = experts ? least.countLocks : least.locks;
            QStringList reasons;
            for (const int layer : m_locks)
                reasons << tr("layer %1 is locked at %2").arg(layer).arg(m_plan.layer(layer).kept().size());
            if (reasons.size() > 3) reasons = {tr("%n layer(s) are locked", nullptr, static_cast<int>(m_locks.size()))};
            if (!free) reasons << tr("the routers need their experts");
            m_beyond =
                experts ? tr("%1 asked, at least %2 stay: %3.").arg(asked, format::count(least.experts), reasons.join(tr(", and ")))
                        : tr("%1 asked, the model has at least %2: %3.").arg(asked, format::bytes(least.bytes), reasons.join(tr(", and ")));
        }
    }
    m_unlock->setText(unlockText(m_locks));
    m_unlock->setVisible(!m_locks.empty());
}

void PipelineTarget::show(const PipelineRecipe& recipe)
{
    m_experts = recipe.experts;
    m_bytes = recipe.bytes;
    m_equal->setChecked(recipe.uniformCount);
    const bool experts = recipe.target == PipelineRecipe::Target::Experts;
    if (m_unit == TargetUnit::ActiveParameters && !(recipe.ranks && recipe.rankBudget == PipelineRecipe::RankBudget::Average)) {
        m_unit = TargetUnit::Experts;
        m_rank.reset();
    }
    if (experts && m_unit != TargetUnit::ActiveParameters)
        m_unit = TargetUnit::Experts;
    else if (!experts && (m_unit == TargetUnit::Experts || m_unit == TargetUnit::ActiveParameters))
        m_unit = denseBytes() >= kGiB ? TargetUnit::GiB : TargetUnit::MiB;
    setBad(false);
    refresh();
}

void PipelineTarget::write(PipelineRecipe& recipe) const
{
    recipe.target = inExperts() ? PipelineRecipe::Target::Experts : PipelineRecipe::Target::Bytes;
    recipe.experts = m_experts;
    recipe.bytes = m_bytes;
    recipe.uniformCount = m_equal->isChecked();
    if (m_unit == TargetUnit::ActiveParameters && m_rank) {
        recipe.ranks = true;
        recipe.rankBudget = PipelineRecipe::RankBudget::Average;
        recipe.averageRank = *m_rank;
    }
}

QString PipelineTarget::problem() const
{
    if (!m_bad) return m_beyond;
    switch (m_unit) {
        case TargetUnit::Experts:
            return tr("The target is a number of experts, 75%, 0.75 or 96/128.");
        case TargetUnit::ActiveParameters:
            return tr("The target is a number of parameters that a token runs, in millions, below those of the dense model.");
        default:
            return tr("The target is a size, 75%, 20.9 GiB or 7.2 B parameters.");
    }
}

void PipelineTarget::takeSizeOfPlan()
{
    if (planIsDense()) return;
    m_experts = m_plan.keptExperts();
    m_bytes = planCost(m_shape, m_plan).bytes;
    setBad(false);
    refresh();
    emit changed();
}

void PipelineTarget::setUnit(TargetUnit unit)
{
    // The same size in the other unit: as many experts dropped, priced dense.
    const bool experts = unit == TargetUnit::Experts || unit == TargetUnit::ActiveParameters;
    if (experts && !inExperts())
        m_experts = std::max(1, expertsWithin(m_bytes, m_scale));
    else if (!experts && inExperts())
        m_bytes = denseBytes() - (m_scale.experts - m_experts) * m_scale.bytesEach;
    m_unit = unit;
    m_rank.reset();
    setBad(false);
    refresh();
    emit changed();
}

void PipelineTarget::note(const QString& text)
{
    m_note->setFont(fontFor(FontRole::Small));
    m_note->setText(text);
    m_note->setVisible(!text.isEmpty());
}

void PipelineTarget::setBad(bool bad)
{
    note({});
    m_bad = bad;
    if (m_field->property("invalid").toBool() == bad) return;
    m_field->setProperty("invalid", bad);
    m_field->style()->unpolish(m_field);
    m_field->style()->polish(m_field);
}

void PipelineTarget::enter()
{
    const std::string typed = plainNumber(m_field->text());
    bool read = false;
    QString clamped;
    if (m_unit == TargetUnit::Experts) {
        const int total = static_cast<int>(m_shape.totalExperts());
        if (const int number = QString::fromStdString(typed).toInt(&read); read && number > total) {
            m_experts = total;
            clamped = tr("%1 asked, %2 taken: the model has %2.").arg(format::count(number), format::count(total));
        } else if (const auto keep = parseKeep(typed, total); keep.ok() && *keep > 0) {
            m_experts = *keep;
            read = true;
        } else {
            read = false;
        }
    } else if (m_unit == TargetUnit::ActiveParameters) {
        const double millions = QString::fromStdString(typed).toDouble(&read);
        read = read && millions > 0 && millions < 1e9;
        if (read) {
            m_rank = rankForActive(std::llround(millions * 1e6), m_shape);
            if (!m_rank) clamped = tr("The dense model runs no more than that: no rank is asked for.");
            if (m_rank && *m_rank == 0) {
                m_rank = 1;
                clamped = tr("Below what rank 1 needs: rank 1 is taken.");
            }
        }
    } else if (const auto bytes = parseSize(QString::fromStdString(typed), m_unit, m_scale)) {
        read = true;
        m_bytes = std::min(denseBytes(), *bytes);
        if (*bytes > denseBytes())
            clamped = tr("%1 asked, %2 taken: that is the dense model.").arg(format::bytes(*bytes), format::bytes(denseBytes()));
    }
    setBad(!read);
    note(clamped);
    if (read) refresh();
    m_field->setModified(false);
    emit changed();
}

void PipelineTarget::refresh()
{
    const QString whole = format::bytes(denseBytes());
    const double share = static_cast<double>(m_bytes) / static_cast<double>(std::max<std::int64_t>(1, denseBytes()));
    const double number = valueOf(m_bytes, m_unit, m_scale);
    QString text;
    QString of;
    QString tip = tr("Size of the whole model at most: a number, 75% of the dense model, 20.9 GiB or 7.2 B parameters");
    switch (m_unit) {
        case TargetUnit::Experts:
            text = format::count(m_experts);
            of = tr("of %1, %2")
                     .arg(format::count(m_scale.experts), format::share(m_experts / static_cast<double>(std::max(1, m_scale.experts))));
            tip = tr("Experts kept over all layers: a number, 75%, 0.75 or 96/128");
            break;
        case TargetUnit::MiB:
            text = format::number(number, 1);
            of = tr("of %1 (%2)").arg(whole, format::percentChange(share));
            break;
        case TargetUnit::GiB:
            text = format::number(number, 2);
            of = tr("of %1 (%2)").arg(whole, format::percentChange(share));
            break;
        case TargetUnit::Percent:
            text = format::number(number, 1);
            of = tr("%1 of %2").arg(format::bytes(m_bytes), whole);
            break;
        case TargetUnit::ExpertMiB:
            text = format::number(number, 1);
            of = tr("of %1, the model then %2").arg(format::bytes(m_scale.expertBytes), format::bytes(m_bytes));
            tip = tr("Bytes of all routed experts at most, in MiB");
            break;
        case TargetUnit::Parameters:
            text = format::number(number, 2);
            of = tr("of %1, the model then %2").arg(format::parameters(m_scale.denseParameters), format::bytes(m_bytes));
            break;
        case TargetUnit::ActiveParameters: {
            CompressionPlan plan = CompressionPlan::identity(m_shape);
            if (m_rank)
                for (const LayerShape& layer : m_shape.layers)
                    if (layer.experts > 0)
                        if (Result<CompressionPlan> next = plan.withRanks(
                                m_shape, layer.index,
                                std::vector<RankTriple>(static_cast<std::size_t>(layer.experts), RankTriple{*m_rank, *m_rank, *m_rank}));
                            next.ok())
                            plan = std::move(next).value();
            text = format::number(static_cast<double>(planCost(m_shape, plan).activeParameters) / 1e6, 2);
            of = m_rank ? tr("mean rank %1, experts kept: %2").arg(format::count(*m_rank), format::count(m_experts))
                        : tr("all matrices dense, experts kept: %1").arg(format::count(m_experts));
            tip = tr("Parameters that one token runs at most, in millions: sets the mean rank");
            break;
        }
    }
    m_of->setText(of);
    m_field->setToolTip(tip);
    m_field->setText(text);
    m_field->setModified(false);
    m_field->setFixedWidth(std::max(pixelsOf(64), m_field->fontMetrics().horizontalAdvance(text) + pixelsOf(22)));
    const QSignalBlocker blocker(m_units);
    m_units->setCurrentIndex(m_units->findData(static_cast<int>(m_unit)));
    checkReach();
}

void PipelineTarget::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if (event->type() == QEvent::StyleChange && m_take != nullptr) m_take->setIcon(icon(QStringLiteral("circle-dot")));
}

}  // namespace espalier
