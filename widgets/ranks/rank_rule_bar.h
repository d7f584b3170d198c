// Ranks by a rule: the size of the model on a slider, and the rule that shares it between the matrices, with its parameters. Says what is
// wanted; the plan comes back through setPlan.
#pragma once

#include "plan/compression_plan.h"
#include "plan/model_shape.h"
#include "planning/pipeline_recipe.h"

#include <QWidget>

#include <cstdint>
#include <functional>
#include <vector>

class QLabel;

namespace espalier
{

class MethodSection;
class Slider;

class RankRuleBar final : public QWidget
{
    Q_OBJECT
public:
    explicit RankRuleBar(QWidget* parent = nullptr);

    // Rank rules, and why one of them cannot run here ({}: it can). The first that can is chosen until the user chooses.
    void setMethods(const std::vector<MethodInfo>& rules, const std::function<QString(const MethodInfo&)>& whyNot);
    void setPlan(const ModelShape& shape, const CompressionPlan& plan);  // emits nothing
    std::int64_t leastBytes() const { return m_least; }                  // every unlocked matrix at rank 1
    std::int64_t mostBytes() const { return m_most; }                    // every unlocked matrix dense

signals:
    void gestureStarted();
    void sizeWanted(qint64 bytes, const espalier::MethodChoice& rule);  // within a gesture
    void gestureFinished();
    void gestureCancelled();

private:
    std::int64_t bytesAt(int step) const;
    void showSize(std::int64_t bytes);

    Slider* m_slider = nullptr;
    QLabel* m_size = nullptr;
    MethodSection* m_rule = nullptr;
    std::int64_t m_least = 0;
    std::int64_t m_most = 0;
    std::int64_t m_dense = 1;  // of the whole model
    std::int64_t m_bytes = 0;  // of the plan
    bool m_ranked = false;     // the plan has ranks
    bool m_chosen = false;     // a rule, by the user
};

}  // namespace espalier
