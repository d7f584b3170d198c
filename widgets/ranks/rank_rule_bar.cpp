#include "ranks/rank_rule_bar.h"

#include "look/controls.h"
#include "look/format.h"
#include "look/theme.h"
#include "plan/cost_model.h"
#include "plan/rank_edit.h"
#include "planning/method_section.h"

#include <QHBoxLayout>
#include <QLabel>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

constexpr int kSteps = 1000;

// The size with every unlocked layer at one end of the scale.
std::int64_t bytesWith(const ModelShape& shape, CompressionPlan plan, bool dense)
{
    for (const LayerShape& layer : shape.layers) {
        if (!layer.moe || breakEvenOf(shape, layer.index) < 1 || plan.isLocked(layer.index)) continue;
        Result<CompressionPlan> next =
            withMeanLevel(shape, plan, layer.index, dense ? denseLevel(shape, layer.index) : 1, FactorSettings{"svd", {}});
        if (next.ok()) plan = std::move(next).value();
    }
    return planCost(shape, plan).bytes;
}

}  // namespace

RankRuleBar::RankRuleBar(QWidget* parent) : QWidget(parent)
{
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(0);
    auto* top = new QHBoxLayout;
    top->setContentsMargins(pixelsOf(12), pixelsOf(8), pixelsOf(12), 0);
    top->setSpacing(pixelsOf(8));
    auto* name = new QLabel(tr("Size"), this);
    name->setProperty("role", QStringLiteral("muted"));
    m_slider = new Slider(this);
    m_slider->setObjectName(QStringLiteral("rank.size"));
    m_slider->setAccessibleName(tr("size of the model"));
    m_slider->setToolTip(tr("Size of the model: the ranks of all unlocked layers are shared anew; who is kept stays"));
    m_slider->setRange(0, kSteps);
    m_slider->setResetValue(kSteps);
    m_size = new QLabel(this);
    top->addWidget(name);
    top->addWidget(m_slider, 1);
    top->addWidget(m_size);
    column->addLayout(top);
    m_rule = new MethodSection(tr("Rank rule"), false, this, tr("rule"));
    column->addWidget(m_rule);

    connect(m_slider, &Slider::gestureStarted, this, &RankRuleBar::gestureStarted);
    connect(m_slider, &Slider::gestureFinished, this, &RankRuleBar::gestureFinished);
    connect(m_slider, &Slider::gestureCancelled, this, &RankRuleBar::gestureCancelled);
    connect(m_slider, &Slider::moved, this, [this](int step) {
        if (m_rule->problem().isEmpty()) emit sizeWanted(bytesAt(step), m_rule->choice());
    });
    connect(m_rule, &MethodSection::changed, this, [this] {
        m_chosen = true;
        m_slider->setEnabled(m_rule->problem().isEmpty());
        // Of a plan without ranks a rule says nothing yet.
        if (!m_ranked || !m_rule->problem().isEmpty()) return;
        emit gestureStarted();
        emit sizeWanted(m_bytes, m_rule->choice());
        emit gestureFinished();
    });
}

std::int64_t RankRuleBar::bytesAt(int step) const
{
    return step >= kSteps ? m_most : m_least + static_cast<std::int64_t>(static_cast<double>(m_most - m_least) * step / kSteps);
}

void RankRuleBar::setMethods(const std::vector<MethodInfo>& rules, const std::function<QString(const MethodInfo&)>& whyNot)
{
    m_rule->setMethods(rules, whyNot);
    if (!m_chosen)
        for (const MethodInfo& rule : rules)
            if (whyNot(rule).isEmpty()) {
                m_rule->setChoice({rule.id, {}});
                break;
            }
    m_slider->setEnabled(m_most > m_least && m_rule->problem().isEmpty());
}

void RankRuleBar::setPlan(const ModelShape& shape, const CompressionPlan& plan)
{
    if (plan.layerCount() != static_cast<int>(shape.layers.size()) || plan.layerCount() == 0) return;
    m_bytes = planCost(shape, plan).bytes;
    m_ranked = plan.hasRanks();
    if (!m_slider->inGesture()) {
        m_dense = std::max<std::int64_t>(1, planCost(shape, CompressionPlan::identity(shape)).bytes);
        m_least = bytesWith(shape, plan, false);
        m_most = bytesWith(shape, plan, true);
        const double span = static_cast<double>(std::max<std::int64_t>(1, m_most - m_least));
        m_slider->setValue(static_cast<int>(std::lround(static_cast<double>(m_bytes - m_least) / span * kSteps)));
        m_slider->setEnabled(m_most > m_least && m_rule->problem().isEmpty());
    }
    showSize(m_bytes);
}

void RankRuleBar::showSize(std::int64_t bytes)
{
    m_size->setFont(fontFor(FontRole::Head));
    m_size->setText(
        tr("%1 (%2)").arg(format::bytes(bytes), format::percentChange(static_cast<double>(bytes) / static_cast<double>(m_dense))));
}

}  // namespace espalier
