#include "pipeline_target.h"

#include "allocate/allocator.h"
#include "controls.h"
#include "format.h"
#include "icon.h"
#include "keep_box.h"
#include "method_section.h"
#include "plan/cost_model.h"
#include "theme.h"

#include <QComboBox>
#include <QEvent>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QSignalBlocker>
#include <QStyle>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>

namespace espalier
{

namespace
{
constexpr double kMiB = 1024.0 * 1024.0;
constexpr double kGiB = 1024.0 * kMiB;
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
    m_units->addItem(tr("experts"), Experts);
    m_units->addItem(tr("MiB"), MiB);
    m_units->addItem(tr("GiB"), GiB);
    m_units->addItem(tr("% of dense"), Percent);
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

    connect(m_field, &QLineEdit::returnPressed, this, &PipelineTarget::enter);
    connect(m_field, &QLineEdit::editingFinished, this, [this] {
        if (m_field->isModified()) enter();
    });
    connect(m_units, &QComboBox::activated, this, [this](int index) { setUnit(static_cast<Unit>(m_units->itemData(index).toInt())); });
    connect(m_take, &QToolButton::clicked, this, &PipelineTarget::takeSizeOfPlan);
    connect(m_equal, &QAbstractButton::clicked, this, &PipelineTarget::changed);
}

std::int64_t PipelineTarget::denseBytes() const { return planCost(m_shape, CompressionPlan::identity(m_shape)).bytes; }

void PipelineTarget::setShape(const ModelShape& shape)
{
    m_shape = shape;
    m_plan = {};
    m_unit = Experts;
    m_experts = 0;
}

void PipelineTarget::setPlan(const CompressionPlan& plan)
{
    m_plan = plan;
    m_take->setEnabled(!planIsDense());
}

void PipelineTarget::show(const PipelineRecipe& recipe)
{
    m_experts = recipe.experts;
    m_bytes = recipe.bytes;
    m_equal->setChecked(recipe.uniformCount);
    if (recipe.target == PipelineRecipe::Target::Experts)
        m_unit = Experts;
    else if (m_unit == Experts)
        m_unit = denseBytes() >= static_cast<std::int64_t>(kGiB) ? GiB : MiB;
    setBad(false);
    refresh();
}

void PipelineTarget::write(PipelineRecipe& recipe) const
{
    recipe.target = m_unit == Experts ? PipelineRecipe::Target::Experts : PipelineRecipe::Target::Bytes;
    recipe.experts = m_experts;
    recipe.bytes = m_bytes;
    recipe.uniformCount = m_equal->isChecked();
}

QString PipelineTarget::problem() const
{
    if (!m_bad) return {};
    return m_unit == Experts ? tr("The target is a number of experts, 75%, 0.75 or 96/128.") : tr("The target is a size, 75% or 20.9 GiB.");
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

void PipelineTarget::setUnit(Unit unit)
{
    // The same size in the other unit: as many experts dropped, priced dense.
    if ((unit == Experts) != (m_unit == Experts)) {
        std::int64_t each = 0;
        for (const LayerShape& layer : m_shape.layers)
            if (layer.experts > 0) each = std::max(each, layer.bytesPerExpert + layer.routerBytesPerExpert);
        const std::int64_t total = m_shape.totalExperts();
        if (unit == Experts && each > 0) {
            const std::int64_t dropped = (denseBytes() - m_bytes + each - 1) / each;
            m_experts = static_cast<int>(std::clamp<std::int64_t>(total - dropped, 1, std::max<std::int64_t>(1, total)));
        } else if (unit != Experts) {
            m_bytes = denseBytes() - (total - m_experts) * each;
        }
    }
    m_unit = unit;
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
    if (m_unit == Experts) {
        const int total = static_cast<int>(m_shape.totalExperts());
        if (const int number = QString::fromStdString(typed).toInt(&read); read && number > total) {
            m_experts = total;
            clamped = tr("%1 asked, %2 taken: the model has %2.").arg(format::count(number), format::count(total));
        } else if (const auto keep = parseKeep(typed, static_cast<int>(m_shape.totalExperts())); keep.ok() && *keep > 0) {
            m_experts = *keep;
            read = true;
        } else {
            read = false;
        }
    } else {
        const double percent = static_cast<double>(denseBytes()) / 100;
        QString number = QString::fromStdString(typed).toLower();
        double factor = m_unit == MiB ? kMiB : m_unit == GiB ? kGiB : percent;
        for (const auto& [suffix, scale] : {std::pair("%", percent), std::pair("gib", kGiB), std::pair("mib", kMiB)})
            if (const QLatin1String unit(suffix); number.endsWith(unit)) {
                factor = scale;
                number.chop(unit.size());
                break;
            }
        const double value = number.trimmed().toDouble(&read);
        read = read && value > 0 && value * factor < 1e18;
        if (read) m_bytes = std::min(denseBytes(), static_cast<std::int64_t>(value * factor));
        if (read && value * factor > static_cast<double>(denseBytes()))
            clamped = tr("%1 asked, %2 taken: that is the dense model.")
                          .arg(format::bytes(static_cast<std::int64_t>(value * factor)), format::bytes(denseBytes()));
    }
    setBad(!read);
    note(clamped);
    if (read) refresh();
    m_field->setModified(false);
    emit changed();
}

void PipelineTarget::refresh()
{
    const double dense = static_cast<double>(std::max<std::int64_t>(1, denseBytes()));
    const double bytes = static_cast<double>(m_bytes);
    QString text;
    switch (m_unit) {
        case Experts:
            text = format::count(m_experts);
            m_of->setText(tr("of %1, %2")
                              .arg(format::count(m_shape.totalExperts()),
                                   format::share(m_experts / static_cast<double>(std::max<std::int64_t>(1, m_shape.totalExperts())))));
            break;
        case MiB:
            text = format::number(bytes / kMiB, 1);
            break;
        case GiB:
            text = format::number(bytes / kGiB, 2);
            break;
        case Percent:
            text = format::number(100 * bytes / dense, 1);
            break;
    }
    const QString whole = format::bytes(denseBytes());
    if (m_unit == Percent) m_of->setText(tr("%1 of %2").arg(format::bytes(m_bytes), whole));
    if (m_unit == MiB || m_unit == GiB) m_of->setText(tr("of %1 (%2)").arg(whole, format::percentChange(bytes / dense)));
    m_field->setToolTip(m_unit == Experts ? tr("Experts kept over all layers: a number, 75%, 0.75 or 96/128")
                                          : tr("Size of the whole model at most: a number, 75% of the dense model, or 20.9 GiB"));
    m_field->setText(text);
    m_field->setModified(false);
    m_field->setFixedWidth(std::max(pixelsOf(64), m_field->fontMetrics().horizontalAdvance(text) + pixelsOf(22)));
    const QSignalBlocker blocker(m_units);
    m_units->setCurrentIndex(m_units->findData(m_unit));
}

void PipelineTarget::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if (event->type() == QEvent::StyleChange && m_take != nullptr) m_take->setIcon(icon(QStringLiteral("circle-dot")));
}

}  // namespace espalier
