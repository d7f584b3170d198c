#include "budget_bar.h"

#include "allocate/allocator.h"
#include "controls.h"
#include "format.h"
#include "keep_box.h"
#include "theme.h"

#include <QComboBox>
#include <QFormLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QLocale>
#include <QPainter>
#include <QSignalBlocker>
#include <QStandardItemModel>
#include <QStyle>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>
#include <set>

namespace espalier
{

namespace
{

constexpr int kNumberSteps = 100;

}  // namespace

class BudgetBar::Private
{
public:
    explicit Private(BudgetBar* bar) : q(bar) {}

    BudgetBar* q;
    ModelShape shape;
    CompressionPlan plan;
    std::vector<MethodInfo> methods;
    Params params;
    std::string method;
    std::set<QString> elsewhere;
    int total = 0;
    int least = 0;

    QLabel* targetLabel = nullptr;
    QLineEdit* field = nullptr;
    QLabel* ofLabel = nullptr;
    QLabel* shareLabel = nullptr;
    Slider* slider = nullptr;
    QComboBox* methodBox = nullptr;
    QWidget* paramArea = nullptr;
    QVBoxLayout* paramLayout = nullptr;
    Switch* equal = nullptr;
    QLabel* message = nullptr;

    const MethodInfo* info() const
    {
        for (const MethodInfo& m : methods) {
            if (m.id == method) return &m;
        }
        return nullptr;
    }
    void showNumber(int value)
    {
        // A text being typed is left alone.
        if (!(field->hasFocus() && field->isModified())) field->setText(format::count(value));
        ofLabel->setText(BudgetBar::tr("of %1").arg(format::count(total)));
        shareLabel->setText(total > 0 ? format::share(static_cast<double>(value) / total) : QString());
    }
    void request() { emit q->allocationRequested(q->intent()); }
    void requestOnce()
    {
        emit q->gestureStarted();
        request();
        emit q->gestureFinished();
    }
    void rebuildParams(const Params& start = {});  // parameters that are not in `start` get their defaults
    void enter();
};

BudgetBar::BudgetBar(QWidget* parent) : QWidget(parent), d(std::make_unique<Private>(this))
{
    setAutoFillBackground(true);
    auto* layout = new QVBoxLayout(this);
    layout->setContentsMargins(pixelsOf(12), pixelsOf(8), pixelsOf(12), pixelsOf(8));
    layout->setSpacing(pixelsOf(6));

    auto* first = new QHBoxLayout;
    first->setSpacing(6);
    d->targetLabel = new QLabel(tr("Target"), this);
    d->targetLabel->setProperty("role", QStringLiteral("muted"));
    d->field = new QLineEdit(this);
    d->field->setAlignment(Qt::AlignRight);
    d->field->setAccessibleName(tr("Experts kept"));
    d->field->setToolTip(tr("Experts kept over all layers: a number, 75%, 0.75 or 96/128"));
    d->targetLabel->setBuddy(d->field);
    d->ofLabel = new QLabel(this);
    d->shareLabel = new QLabel(this);
    d->shareLabel->setProperty("role", QStringLiteral("muted"));
    first->addWidget(d->targetLabel);
    first->addStretch(1);
    first->addWidget(d->shareLabel);
    first->addSpacing(6);
    first->addWidget(d->field);
    first->addWidget(d->ofLabel);
    layout->addLayout(first);

    d->slider = new Slider(this);
    d->slider->setAccessibleName(tr("Experts kept"));
    layout->addWidget(d->slider);

    auto* second = new QHBoxLayout;
    second->setSpacing(8);
    d->methodBox = new QComboBox(this);
    d->methodBox->setAccessibleName(tr("How layers share the target"));
    d->methodBox->setSizeAdjustPolicy(QComboBox::AdjustToContents);
    d->equal = new Switch(tr("Equal counts"), this);
    d->equal->setTextLeft(true);
    d->equal->setToolTip(tr("One count for all layers, as a stock export needs"));
    second->addWidget(d->methodBox);
    second->addStretch(1);
    second->addWidget(d->equal);
    layout->addLayout(second);

    d->paramArea = new QWidget(this);
    d->paramLayout = new QVBoxLayout(d->paramArea);
    d->paramLayout->setContentsMargins(0, 0, 0, 0);
    d->paramLayout->setSpacing(4);
    d->paramArea->hide();
    layout->addWidget(d->paramArea);

    d->message = new QLabel(this);
    d->message->setWordWrap(true);
    d->message->hide();
    layout->addWidget(d->message);

    connect(d->slider, &Slider::gestureStarted, this, &BudgetBar::gestureStarted);
    connect(d->slider, &Slider::gestureFinished, this, &BudgetBar::gestureFinished);
    connect(d->slider, &Slider::gestureCancelled, this, &BudgetBar::gestureCancelled);
    connect(d->slider, &Slider::moved, this, [this](int value) {
        setMessage({}, false);
        d->showNumber(value);
        d->request();
    });
    connect(d->slider, &Slider::clamped, this, [this](int, int floor) {
        setMessage(tr("At least %1: the router picks %2 in each layer.").arg(format::count(floor)).arg(d->shape.layers.empty() ? 0 : [this] {
            int most = 0;
            for (const LayerShape& layer : d->shape.layers)
                most = std::max(most, layer.router.topK);
            return most;
        }()),
                   false);
    });
    connect(d->field, &QLineEdit::returnPressed, this, [this] { d->enter(); });
    connect(d->field, &QLineEdit::editingFinished, this, [this] {
        if (d->field->isModified()) d->enter();
    });
    connect(d->methodBox, &QComboBox::activated, this, [this](int index) {
        if (const QString id = d->methodBox->itemData(index).toString(); d->elsewhere.contains(id)) {
            d->methodBox->setCurrentIndex(d->methodBox->findData(QString::fromStdString(d->method)));
            emit methodElsewhere(id);
            return;
        }
        d->method = d->methodBox->itemData(index).toString().toStdString();
        d->rebuildParams();
        d->requestOnce();
    });
    connect(d->equal, &QAbstractButton::clicked, this, [this] { d->requestOnce(); });
    setTabOrder(d->field, d->slider);
    setTabOrder(d->slider, d->methodBox);
    setTabOrder(d->methodBox, d->equal);
    setEnabled(false);
}

BudgetBar::~BudgetBar() = default;

AllocationIntent BudgetBar::intent() const { return {d->slider->value(), d->method, d->params, d->equal->isChecked()}; }

void BudgetBar::Private::enter()
{
    const std::string text = plainNumber(field->text());
    const auto result = parseKeep(text, total);
    const auto mark = [this](bool invalid) {
        if (field->property("invalid").toBool() == invalid) return;
        field->setProperty("invalid", invalid);
        field->style()->unpolish(field);
        field->style()->polish(field);
    };
    if (!result.ok()) {
        mark(true);
        q->setMessage(BudgetBar::tr("Write a number of experts, 75%, 0.75 or 96/128."), true);
        return;
    }
    mark(false);
    field->setModified(false);
    int wanted = *result;
    q->setMessage({}, false);
    if (wanted < least) {
        q->setMessage(BudgetBar::tr("At least %1: the router needs its choice in each layer.").arg(format::count(least)), false);
        wanted = least;
    }
    slider->setValue(wanted);
    showNumber(wanted);
    field->setText(format::count(wanted));
    requestOnce();
}

void BudgetBar::Private::rebuildParams(const Params& start)
{
    while (QLayoutItem* item = paramLayout->takeAt(0)) {
        delete item->widget();
        delete item;
    }
    params.clear();
    const MethodInfo* m = info();
    if (m == nullptr) {
        paramArea->hide();
        return;
    }
    QWidget* last = equal;
    for (const ParamSpec& spec : m->params) {
        const auto given = start.find(spec.key);
        const Json value0 = given != start.end() && given->second.type() == spec.defaultValue.type() ? given->second : spec.defaultValue;
        params[spec.key] = value0;
        auto* line = new QWidget(paramArea);
        auto* row = new QHBoxLayout(line);
        row->setContentsMargins(0, 0, 0, 0);
        row->setSpacing(8);
        const QString name = QString::fromStdString(spec.key);
        auto* label = new QLabel(name, line);
        label->setProperty("role", QStringLiteral("muted"));
        const QString help = QString::fromStdString(spec.help);
        label->setToolTip(help);
        row->addWidget(label);
        switch (spec.type) {
            case ParamType::Number:
            case ParamType::Integer: {
                const bool whole = spec.type == ParamType::Integer;
                auto* knob = new Slider(line);
                knob->setAccessibleName(name);
                knob->setToolTip(help);
                const int steps = whole ? static_cast<int>(spec.high - spec.low) : kNumberSteps;
                knob->setRange(0, std::max(1, steps));
                const double span = spec.high > spec.low ? spec.high - spec.low : 1;
                const auto stepOf = [&](const Json& number) {
                    const double at = number.is_number() ? number.get<double>() : spec.low;
                    return static_cast<int>(std::lround((at - spec.low) / span * std::max(1, steps)));
                };
                knob->setValue(stepOf(value0));
                knob->setResetValue(stepOf(spec.defaultValue));
                auto* value = new QLabel(line);
                value->setAlignment(Qt::AlignRight | Qt::AlignVCenter);
                const QString unit = spec.unit.empty() ? QString() : QChar(0x00A0) + QString::fromStdString(spec.unit);
                const auto show = [=](double v) { value->setText((whole ? format::number(v, 0) : format::number(v, 2)) + unit); };
                value->setMinimumWidth(value->fontMetrics().horizontalAdvance(format::number(spec.high, whole ? 0 : 2) + unit));
                show(value0.is_number() ? value0.get<double>() : spec.low);
                row->addWidget(knob, 1);
                row->addWidget(value);
                QObject::connect(knob, &Slider::gestureStarted, q, &BudgetBar::gestureStarted);
                QObject::connect(knob, &Slider::gestureFinished, q, &BudgetBar::gestureFinished);
                QObject::connect(knob, &Slider::gestureCancelled, q, [=, this, key = spec.key] {
                    const double v = spec.low + span * knob->value() / std::max(1, steps);
                    if (whole)
                        params[key] = static_cast<std::int64_t>(std::llround(v));
                    else
                        params[key] = v;
                    show(v);
                    emit q->gestureCancelled();
                });
                QObject::connect(knob, &Slider::moved, q, [=, this, key = spec.key, low = spec.low](int step) {
                    const double v = low + span * step / std::max(1, steps);
                    if (whole)
                        params[key] = static_cast<std::int64_t>(std::llround(v));
                    else
                        params[key] = v;
                    show(v);
                    request();
                });
                break;
            }
            case ParamType::Choice: {
                auto* box = new QComboBox(line);
                box->setAccessibleName(name);
                box->setToolTip(help);
                for (const std::string& choice : spec.choices)
                    box->addItem(QString::fromStdString(choice));
                if (value0.is_string()) box->setCurrentText(QString::fromStdString(value0.get<std::string>()));
                row->addStretch(1);
                row->addWidget(box);
                QObject::connect(box, &QComboBox::activated, q, [this, box, key = spec.key] {
                    params[key] = box->currentText().toStdString();
                    requestOnce();
                });
                break;
            }
            case ParamType::Switch: {
                auto* toggle = new Switch(QString(), line);
                toggle->setAccessibleName(name);
                toggle->setToolTip(help);
                toggle->setChecked(value0.is_boolean() && value0.get<bool>());
                row->addStretch(1);
                row->addWidget(toggle);
                QObject::connect(toggle, &QAbstractButton::clicked, q, [this, key = spec.key](bool on) {
                    params[key] = on;
                    requestOnce();
                });
                break;
            }
        }
        paramLayout->addWidget(line);
        // Between the switch before and the table after.
        for (QWidget* control : line->findChildren<QWidget*>())
            if (control->focusPolicy() & Qt::TabFocus) {
                QWidget::setTabOrder(last, control);
                last = control;
            }
    }
    paramArea->setVisible(!m->params.empty());
}

void BudgetBar::setShape(const ModelShape& shape)
{
    d->shape = shape;
    d->plan = {};
    d->total = static_cast<int>(shape.totalExperts());
    d->least = 0;
    for (const LayerShape& layer : shape.layers) {
        if (layer.experts > 0) d->least += std::max(1, layer.router.topK);
    }
    d->slider->setRange(0, d->total);
    d->slider->setFloor(d->least);
    d->slider->setResetValue(d->total);
    d->slider->setValue(d->total);
    d->field->setModified(false);
    d->field->setMinimumWidth(d->field->fontMetrics().horizontalAdvance(format::count(std::max(d->total, 1000))) + pixelsOf(18));
    d->field->setMaximumWidth(d->field->minimumWidth());
    d->showNumber(d->total);
    setMessage({}, false);
    setEnabled(d->total > 0);
}

void BudgetBar::setPlan(const CompressionPlan& plan)
{
    d->plan = plan;
    if (plan.layerCount() != static_cast<int>(d->shape.layers.size())) return;
    int least = 0;
    for (int l = 0; l < plan.layerCount(); ++l) {
        const LayerShape& layer = d->shape.layers[static_cast<std::size_t>(l)];
        if (layer.experts == 0) continue;
        const LayerPlan& lp = plan.layer(l);
        least += lp.locked ? static_cast<int>(lp.kept.size())
                           : std::max({1, lp.topK.value_or(layer.router.topK), static_cast<int>(lp.protectedExperts.size())});
    }
    d->least = least;
    d->slider->setFloor(least);
    // While the slider is held it shows the target asked for; rounding to equal counts may keep less.
    if (!d->slider->inGesture()) {
        d->slider->setValue(plan.keptExperts());
        d->showNumber(plan.keptExperts());
    }
}

void BudgetBar::setMethods(const std::vector<MethodInfo>& methods)
{
    d->elsewhere.clear();
    d->methods.clear();
    for (const MethodInfo& m : methods) {
        if (m.slot == Slot::Allocate) d->methods.push_back(m);
    }
    const QSignalBlocker blocker(d->methodBox);
    d->methodBox->clear();
    for (const MethodInfo& m : d->methods) {
        d->methodBox->addItem(QString::fromStdString(m.title), QString::fromStdString(m.id));
        d->methodBox->setItemData(d->methodBox->count() - 1, QString::fromStdString(m.help), Qt::ToolTipRole);
    }
    if (!d->methods.empty() && d->info() == nullptr) d->method = d->methods.front().id;
    setMethod(QString::fromStdString(d->method));
}

void BudgetBar::setMethod(const QString& id)
{
    const int index = d->methodBox->findData(id);
    if (index < 0) return;
    const bool changed = d->method != id.toStdString() || d->params.empty();
    d->method = id.toStdString();
    const QSignalBlocker blocker(d->methodBox);
    d->methodBox->setCurrentIndex(index);
    if (changed) d->rebuildParams();
}

void BudgetBar::setChoice(const AllocationIntent& choice)
{
    d->equal->setChecked(choice.equalCounts);
    const int index = d->methodBox->findData(QString::fromStdString(choice.method));
    if (index < 0) return;
    d->method = choice.method;
    const QSignalBlocker blocker(d->methodBox);
    d->methodBox->setCurrentIndex(index);
    d->rebuildParams(choice.params);
}

void BudgetBar::setMethodAvailable(const QString& id, const QString& reasonWhyNot)
{
    const int index = d->methodBox->findData(id);
    if (index < 0) return;
    auto* model = qobject_cast<QStandardItemModel*>(d->methodBox->model());
    if (model == nullptr) return;
    model->item(index)->setEnabled(reasonWhyNot.isEmpty());
    QString help = reasonWhyNot;
    for (const MethodInfo& m : d->methods) {
        if (reasonWhyNot.isEmpty() && QString::fromStdString(m.id) == id) help = QString::fromStdString(m.help);
    }
    d->methodBox->setItemData(index, help, Qt::ToolTipRole);
    if (!reasonWhyNot.isEmpty() && d->method == id.toStdString() && !d->methods.empty())
        setMethod(QString::fromStdString(d->methods.front().id));
}

void BudgetBar::setMethodElsewhere(const QString& id, const QString& why)
{
    const int index = d->methodBox->findData(id);
    if (index < 0) return;
    if (d->elsewhere.insert(id).second) d->methodBox->setItemText(index, d->methodBox->itemText(index) + QChar(0x2026));
    d->methodBox->setItemData(index, why, Qt::ToolTipRole);
    if (d->method == id.toStdString() && !d->methods.empty()) setMethod(QString::fromStdString(d->methods.front().id));
}

void BudgetBar::setMessage(const QString& text, bool isError)
{
    d->message->setText(text);
    d->message->setProperty("role", isError ? QStringLiteral("error") : QStringLiteral("muted"));
    d->message->style()->unpolish(d->message);
    d->message->style()->polish(d->message);
    d->message->setFont(fontFor(FontRole::Small));
    d->message->setVisible(!text.isEmpty());
}

}  // namespace espalier
