#include "planning/budget_bar.h"

#include "allocate/allocator.h"
#include "experts/keep_box.h"
#include "look/controls.h"
#include "look/flow_row.h"
#include "look/format.h"
#include "look/icon.h"
#include "look/theme.h"
#include "plan/plan_rules.h"
#include "planning/method_section.h"
#include "planning/size_target.h"

#include <QComboBox>
#include <QFormLayout>
#include <QHBoxLayout>
#include <QKeyEvent>
#include <QLabel>
#include <QLineEdit>
#include <QLocale>
#include <QPushButton>
#include <QSignalBlocker>
#include <QStandardItemModel>
#include <QStyle>
#include <QToolButton>
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

QString unlockText(const std::vector<int>& layers)
{
    return layers.size() == 1 ? BudgetBar::tr("Unlock layer %1").arg(layers.front())
                              : BudgetBar::tr("Unlock %n layer(s)", nullptr, static_cast<int>(layers.size()));
}

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
    int asked = -1;  // below what is possible, by the hand on the slider; -1: what the slider shows

    QLabel* targetLabel = nullptr;
    QLineEdit* field = nullptr;
    QLabel* ofLabel = nullptr;
    QLabel* shareLabel = nullptr;
    Slider* slider = nullptr;
    QComboBox* methodBox = nullptr;
    QWidget* paramArea = nullptr;
    QVBoxLayout* paramLayout = nullptr;
    Switch* equal = nullptr;
    QWidget* rankLine = nullptr;
    QComboBox* rankBox = nullptr;
    QToolButton* anew = nullptr;
    QWidget* messageLine = nullptr;
    QLabel* message = nullptr;
    QPushButton* unlock = nullptr;

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
        if (!(field->hasFocus() && field->isModified())) {
            field->setText(format::count(value));
            mark(false);
        }
        ofLabel->setText(BudgetBar::tr("of %1").arg(format::count(total)));
        shareLabel->setText(total > 0 ? format::share(static_cast<double>(value) / total) : QString());
    }
    void mark(bool invalid)
    {
        if (field->property("invalid").toBool() == invalid) return;
        field->setProperty("invalid", invalid);
        field->style()->unpolish(field);
        field->style()->polish(field);
    }
    using Change = AllocationIntent::Change;
    void request(Change change)
    {
        AllocationIntent intent = q->intent();
        intent.change = change;
        if (asked >= 0) intent.keepTotal = asked;
        emit q->allocationRequested(intent);
    }
    void requestOnce(Change change)
    {
        emit q->gestureStarted();
        request(change);
        emit q->gestureFinished();
    }
    void rebuildParams(const Params& start = {});  // parameters that are not in `start` get their defaults
    // The control of one parameter, in its row after the name.
    void addNumber(const ParamSpec& spec, const Json& start, QHBoxLayout* row);
    void addChoice(const ParamSpec& spec, const Json& start, QHBoxLayout* row);
    void addSwitch(const ParamSpec& spec, const Json& start, QHBoxLayout* row);
    void enter();

    void makeTarget(QVBoxLayout* layout);
    void makeMethod(QVBoxLayout* layout);  // and the place of its parameters
    void makeRanking(QVBoxLayout* layout);
    void makeMessage(QVBoxLayout* layout);
    void connectTarget();
    void connectChoices();  // method, equal counts, ranking, unlocking
};

void BudgetBar::Private::makeTarget(QVBoxLayout* layout)
{
    auto* first = new QHBoxLayout;
    first->setSpacing(6);
    targetLabel = new QLabel(BudgetBar::tr("Target"), q);
    targetLabel->setProperty("role", QStringLiteral("muted"));
    field = new QLineEdit(q);
    field->setAlignment(Qt::AlignRight);
    field->setAccessibleName(BudgetBar::tr("Experts kept"));
    field->setToolTip(
        BudgetBar::tr("Experts kept over all layers: a number, 75%, 0.75, 96/128, or a size of the model: 10.4 MiB, 12.1 M parameters"));
    targetLabel->setBuddy(field);
    ofLabel = new QLabel(q);
    shareLabel = new QLabel(q);
    shareLabel->setProperty("role", QStringLiteral("muted"));
    first->addWidget(targetLabel);
    first->addStretch(1);
    first->addWidget(shareLabel);
    first->addSpacing(6);
    first->addWidget(field);
    first->addWidget(ofLabel);
    layout->addLayout(first);

    slider = new Slider(q);
    slider->setAccessibleName(BudgetBar::tr("Experts kept"));
    layout->addWidget(slider);
}

void BudgetBar::Private::makeMethod(QVBoxLayout* layout)
{
    // Beside each other where there is room for whole words, else in lines of their own.
    const auto filler = [this] {
        auto* space = new QWidget(q);
        space->setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
        return space;
    };
    auto* second = new FlowRow(pixelsOf(8));
    methodBox = new QComboBox(q);
    methodBox->setAccessibleName(BudgetBar::tr("How layers share the target"));
    methodBox->setSizeAdjustPolicy(QComboBox::AdjustToContents);
    equal = new Switch(BudgetBar::tr("Equal counts"), q);
    equal->setTextLeft(true);
    equal->setToolTip(BudgetBar::tr("One count for all layers, as a stock export needs"));
    second->add(methodBox);
    second->add(filler(), 1);
    second->add(equal);
    layout->addLayout(second);

    paramArea = new QWidget(q);
    paramLayout = new QVBoxLayout(paramArea);
    paramLayout->setContentsMargins(0, 0, 0, 0);
    paramLayout->setSpacing(4);
    paramArea->hide();
    layout->addWidget(paramArea);
}

void BudgetBar::Private::makeRanking(QVBoxLayout* layout)
{
    rankLine = new QWidget(q);
    auto* third = new FlowRow(pixelsOf(8), rankLine);
    auto* rankLabel = new QLabel(BudgetBar::tr("ranked by"), rankLine);
    rankLabel->setProperty("role", QStringLiteral("muted"));
    rankBox = new QComboBox(rankLine);
    rankBox->setAccessibleName(BudgetBar::tr("Score that experts are ranked by"));
    rankBox->setToolTip(
        BudgetBar::tr("Where a count changes, the experts with the lowest score go and the best come back. What the map shows has no "
                      "part in it."));
    rankBox->setSizeAdjustPolicy(QComboBox::AdjustToContents);
    rankLabel->setToolTip(rankBox->toolTip());
    rankLabel->setBuddy(rankBox);
    anew = new QToolButton(rankLine);
    anew->setIcon(icon(QStringLiteral("wand-sparkles")));
    anew->setIconSize({pixelsOf(16), pixelsOf(16)});
    anew->setAutoRaise(true);
    anew->setToolTip(BudgetBar::tr("Choose the experts of all unlocked layers anew by this score; the counts stay"));
    anew->setAccessibleName(BudgetBar::tr("Choose the experts anew"));
    third->add(rankLabel);
    third->add(rankBox);
    third->add(anew);
    rankLine->hide();
    layout->addWidget(rankLine);
}

void BudgetBar::Private::makeMessage(QVBoxLayout* layout)
{
    messageLine = new QWidget(q);
    auto* told = new QVBoxLayout(messageLine);
    told->setContentsMargins(0, 0, 0, 0);
    told->setSpacing(pixelsOf(4));
    message = new QLabel(messageLine);
    message->setWordWrap(true);
    unlock = new QPushButton(messageLine);
    unlock->setObjectName(QStringLiteral("budget.unlock"));
    told->addWidget(message);
    told->addWidget(unlock, 0, Qt::AlignLeft);
    messageLine->hide();
    layout->addWidget(messageLine);
}

void BudgetBar::Private::connectTarget()
{
    QObject::connect(slider, &Slider::gestureStarted, q, &BudgetBar::gestureStarted);
    QObject::connect(slider, &Slider::gestureFinished, q, [this] {
        asked = -1;
        emit q->gestureFinished();
    });
    QObject::connect(slider, &Slider::gestureCancelled, q, [this] {
        asked = -1;
        emit q->gestureCancelled();
    });
    QObject::connect(slider, &Slider::moved, q, [this](int value) {
        if (value != least) asked = -1;
        showNumber(value);
        request(Change::Target);
    });
    // The plan knows what stands in the way; it says so.
    QObject::connect(slider, &Slider::clamped, q, [this](int wanted) {
        asked = wanted;
        request(Change::Target);
    });
    QObject::connect(field, &QLineEdit::textEdited, q, [this] {
        if (!field->property("invalid").toBool()) return;
        mark(false);
        q->setMessage({}, false);
    });
    QObject::connect(field, &QLineEdit::returnPressed, q, [this] { enter(); });
    QObject::connect(field, &QLineEdit::editingFinished, q, [this] {
        if (field->isModified()) enter();
    });
}

void BudgetBar::Private::connectChoices()
{
    // A wheel that scrolls past must not share the target anew.
    guardWheel(methodBox);
    guardWheel(rankBox);
    QObject::connect(rankBox, &QComboBox::activated, q, [this](int index) { emit q->rankingChosen(rankBox->itemData(index).toString()); });
    QObject::connect(anew, &QToolButton::clicked, q, &BudgetBar::rankAnewRequested);
    QObject::connect(unlock, &QPushButton::clicked, q, &BudgetBar::unlockRequested);
    QObject::connect(methodBox, &QComboBox::activated, q, [this](int index) {
        if (const QString id = methodBox->itemData(index).toString(); elsewhere.contains(id)) {
            methodBox->setCurrentIndex(methodBox->findData(QString::fromStdString(method)));
            emit q->methodElsewhere(id);
            return;
        }
        method = methodBox->itemData(index).toString().toStdString();
        rebuildParams();
        requestOnce(Change::Method);
    });
    QObject::connect(equal, &QAbstractButton::clicked, q, [this] { requestOnce(Change::Equality); });
}

BudgetBar::BudgetBar(QWidget* parent) : QWidget(parent), d(std::make_unique<Private>(this))
{
    setAutoFillBackground(true);
    auto* layout = new QVBoxLayout(this);
    layout->setContentsMargins(pixelsOf(12), pixelsOf(8), pixelsOf(12), pixelsOf(8));
    layout->setSpacing(pixelsOf(6));
    d->makeTarget(layout);
    d->makeMethod(layout);
    d->makeRanking(layout);
    d->makeMessage(layout);
    d->connectTarget();
    d->connectChoices();
    setTabOrder(d->field, d->slider);
    setTabOrder(d->slider, d->methodBox);
    setTabOrder(d->methodBox, d->equal);
    setTabOrder(d->equal, d->rankBox);
    setTabOrder(d->rankBox, d->anew);
    setTabOrder(d->anew, d->unlock);
    setEnabled(false);
}

BudgetBar::~BudgetBar() = default;

AllocationIntent BudgetBar::intent() const { return {d->slider->value(), d->method, d->params, d->equal->isChecked()}; }

void BudgetBar::Private::enter()
{
    const std::string text = plainNumber(field->text());
    // More than there are is a number too: the plan says what it can keep.
    bool whole = false;
    const int number = QString::fromStdString(text).toInt(&whole);
    auto result = whole && number > total ? Result<int>(number) : parseKeep(text, total);
    // A size with its unit ("10.4 MiB", "12.1 M parameters") is as many experts as fit it.
    if (const SizeScale scale = sizeScale(shape); !result.ok())
        if (const auto bytes = parseSize(QString::fromStdString(text), TargetUnit::Experts, scale))
            result = plan.isPlain() ? expertsWithin(*bytes, scale) : expertsWithin(*bytes, shape, plan);
    if (!result.ok()) {
        mark(true);
        q->setMessage(BudgetBar::tr("Write a number of experts, 75%, 0.75, 96/128, or a size: 10.4 MiB, 12.1 M parameters."), true);
        return;
    }
    mark(false);
    field->setModified(false);
    asked = *result;
    slider->setValue(std::max(least, *result));
    requestOnce(Change::Target);
    asked = -1;
    // What was taken, also where the plan stays as it was.
    slider->setValue(plan.keptExperts());
    showNumber(plan.keptExperts());
}

void BudgetBar::keyPressEvent(QKeyEvent* event)
{
    if (event->key() != Qt::Key_Escape || !d->field->hasFocus() || !d->field->isModified()) {
        QWidget::keyPressEvent(event);
        return;
    }
    if (d->field->property("invalid").toBool()) setMessage({}, false);
    d->field->setModified(false);
    d->showNumber(d->slider->value());
}

void BudgetBar::Private::addNumber(const ParamSpec& spec, const Json& start, QHBoxLayout* row)
{
    const bool whole = spec.type == ParamType::Integer;
    auto* knob = new Slider(row->parentWidget());
    knob->setAccessibleName(QString::fromStdString(spec.key));
    knob->setToolTip(QString::fromStdString(spec.help));
    const int steps = whole ? static_cast<int>(spec.high - spec.low) : kNumberSteps;
    knob->setRange(0, std::max(1, steps));
    const double span = spec.high > spec.low ? spec.high - spec.low : 1;
    const auto stepOf = [&](const Json& number) {
        const double at = number.is_number() ? number.get<double>() : spec.low;
        return static_cast<int>(std::lround((at - spec.low) / span * std::max(1, steps)));
    };
    knob->setValue(stepOf(start));
    knob->setResetValue(stepOf(spec.defaultValue));
    auto* value = new QLabel(row->parentWidget());
    value->setAlignment(Qt::AlignRight | Qt::AlignVCenter);
    const QString unit = spec.unit.empty() ? QString() : QChar(0x00A0) + QString::fromStdString(spec.unit);
    const auto show = [=](double v) { value->setText((whole ? format::number(v, 0) : format::number(v, 2)) + unit); };
    value->setMinimumWidth(value->fontMetrics().horizontalAdvance(format::number(spec.high, whole ? 0 : 2) + unit));
    show(start.is_number() ? start.get<double>() : spec.low);
    row->addWidget(knob, 1);
    row->addWidget(value);
    QObject::connect(knob, &Slider::gestureStarted, q, &BudgetBar::gestureStarted);
    QObject::connect(knob, &Slider::gestureFinished, q, &BudgetBar::gestureFinished);
    const auto take = [=, this, key = spec.key, low = spec.low](int step) {
        const double v = low + span * step / std::max(1, steps);
        if (whole)
            params[key] = static_cast<std::int64_t>(std::llround(v));
        else
            params[key] = v;
        show(v);
    };
    QObject::connect(knob, &Slider::gestureCancelled, q, [=, this] {
        take(knob->value());
        emit q->gestureCancelled();
    });
    QObject::connect(knob, &Slider::moved, q, [=, this](int step) {
        take(step);
        request(Change::Method);
    });
}

void BudgetBar::Private::addChoice(const ParamSpec& spec, const Json& start, QHBoxLayout* row)
{
    auto* box = new QComboBox(row->parentWidget());
    box->setAccessibleName(QString::fromStdString(spec.key));
    box->setToolTip(QString::fromStdString(spec.help));
    for (const std::string& choice : spec.choices)
        box->addItem(QString::fromStdString(choice));
    if (start.is_string()) box->setCurrentText(QString::fromStdString(start.get<std::string>()));
    row->addStretch(1);
    row->addWidget(box);
    QObject::connect(box, &QComboBox::activated, q, [this, box, key = spec.key] {
        params[key] = box->currentText().toStdString();
        requestOnce(Change::Method);
    });
}

void BudgetBar::Private::addSwitch(const ParamSpec& spec, const Json& start, QHBoxLayout* row)
{
    auto* toggle = new Switch(QString(), row->parentWidget());
    toggle->setAccessibleName(QString::fromStdString(spec.key));
    toggle->setToolTip(QString::fromStdString(spec.help));
    toggle->setChecked(start.is_boolean() && start.get<bool>());
    row->addStretch(1);
    row->addWidget(toggle);
    QObject::connect(toggle, &QAbstractButton::clicked, q, [this, key = spec.key](bool on) {
        params[key] = on;
        requestOnce(Change::Method);
    });
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
        const Json value = given != start.end() && given->second.type() == spec.defaultValue.type() ? given->second : spec.defaultValue;
        params[spec.key] = value;
        auto* line = new QWidget(paramArea);
        auto* row = new QHBoxLayout(line);
        row->setContentsMargins(0, 0, 0, 0);
        row->setSpacing(8);
        auto* label = new QLabel(QString::fromStdString(spec.key), line);
        label->setProperty("role", QStringLiteral("muted"));
        label->setToolTip(QString::fromStdString(spec.help));
        row->addWidget(label);
        switch (spec.type) {
            case ParamType::Number:
            case ParamType::Integer:
                addNumber(spec, value, row);
                break;
            case ParamType::Choice:
                addChoice(spec, value, row);
                break;
            case ParamType::Switch:
                addSwitch(spec, value, row);
                break;
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
        if (layer.experts > 0) d->least += fewestExperts(layer, LayerPlan::allOf(layer.experts));
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
        least += plan.isFixed(l) ? static_cast<int>(lp.kept().size()) : fewestExperts(layer, lp, plan.protectedExperts(l));
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

void BudgetBar::setRankings(const QStringList& ids, const QString& current)
{
    QStringList shown;
    for (int i = 0; i < d->rankBox->count(); ++i)
        shown << d->rankBox->itemData(i).toString();
    if (shown != ids) {
        const QSignalBlocker blocker(d->rankBox);
        d->rankBox->clear();
        for (const QString& id : ids)
            d->rankBox->addItem(id, id);
    }
    d->rankBox->setCurrentIndex(d->rankBox->findData(current));
    d->rankLine->setVisible(!ids.isEmpty());
}

void BudgetBar::setMessage(const QString& text, bool isError, const std::vector<int>& locks)
{
    d->message->setText(text);
    d->message->setProperty("role", isError ? QStringLiteral("error") : QStringLiteral("muted"));
    d->message->style()->unpolish(d->message);
    d->message->style()->polish(d->message);
    d->message->setFont(fontFor(FontRole::Small));
    d->unlock->setText(unlockText(locks));
    d->unlock->setVisible(!locks.empty());
    d->messageLine->setVisible(!text.isEmpty());
}

}  // namespace espalier
