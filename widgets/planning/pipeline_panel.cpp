#include "planning/pipeline_panel.h"

#include "look/theme.h"
#include "plan/cost_model.h"
#include "planning/method_section.h"
#include "planning/pipeline_target.h"

#include <QComboBox>
#include <QDoubleSpinBox>
#include <QEvent>
#include <QHBoxLayout>
#include <QLabel>
#include <QPainter>
#include <QPushButton>
#include <QScrollArea>
#include <QSignalBlocker>
#include <QSpinBox>
#include <QStandardItemModel>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>
#include <utility>

namespace espalier
{

namespace
{

class Rule final : public QWidget
{
public:
    explicit Rule(QWidget* parent) : QWidget(parent) { setFixedHeight(1); }

protected:
    void paintEvent(QPaintEvent*) override
    {
        QPainter painter(this);
        painter.fillRect(rect(), theme().border);
    }
};

}  // namespace

class PipelinePanel::Private
{
public:
    explicit Private(PipelinePanel* panel) : q(panel) {}

    PipelinePanel* q;
    PipelineRecipe recipe;
    ModelShape shape;
    std::vector<MethodInfo> methods;
    Json registry = Json::array();
    std::optional<std::set<std::string>> statistics;
    QString noText;
    QString blocked;
    bool showing = false;  // the controls are being set, nothing is a change of the user's

    Chooser* preset = nullptr;
    QLabel* presetLabel = nullptr;
    MethodSection* score = nullptr;
    MethodSection* allocate = nullptr;
    MethodSection* select = nullptr;
    MethodSection* field = nullptr;
    MethodSection* ranks = nullptr;
    MethodSection* recover = nullptr;
    QSpinBox* seed = nullptr;
    QSpinBox* sets = nullptr;
    QSpinBox* block = nullptr;
    Chooser* budget = nullptr;
    QSpinBox* average = nullptr;
    QDoubleSpinBox* share = nullptr;
    Chooser* factors = nullptr;
    PipelineTarget* target = nullptr;
    QPushButton* run = nullptr;
    QPushButton* find = nullptr;
    QPushButton* recoverNow = nullptr;
    bool compressed = false;  // the plan on screen differs from the model
    QDoubleSpinBox* minutes = nullptr;
    QLabel* reason = nullptr;
    QWidget* footer = nullptr;

    std::vector<MethodInfo> slot(Slot wanted) const
    {
        std::vector<MethodInfo> found;
        for (const MethodInfo& method : methods)
            if (method.slot == wanted) found.push_back(method);
        return found;
    }
    QString whyNot(const MethodInfo& method) const
    {
        if ((method.runsModel || std::count(method.needs.begin(), method.needs.end(), "text") > 0) && !noText.isEmpty()) return noText;
        if (!statistics) return {};
        for (const std::string& need : method.needs)
            // The text is asked for above; weights are read from the model.
            if (need != "text" && need != "weights" && !statistics->contains(need))
                return PipelinePanel::tr("the profile has no %1").arg(QString::fromStdString(need));
        return {};
    }
    void build();
    void buildPresets(QWidget* page, QVBoxLayout* stages);
    void buildStages(QWidget* page, QVBoxLayout* stages);
    void buildSetRows(QWidget* page);  // of the selection and the receptive field
    void buildRankRows(QWidget* page);
    QSpinBox* spin(QWidget* page, int low, int high, int width);
    void buildFooter(QVBoxLayout* column);
    void fillMethods();
    void refill();
    void showFactors();
    void show();     // the controls from the recipe
    void collect();  // the recipe from the controls
    void refreshButtons();
};

PipelinePanel::PipelinePanel(QWidget* parent) : QWidget(parent), d(std::make_unique<Private>(this))
{
    d->build();
    d->fillMethods();
    d->show();
}

PipelinePanel::~PipelinePanel() = default;

QSpinBox* PipelinePanel::Private::spin(QWidget* page, int low, int high, int width)
{
    auto* box = new QSpinBox(page);
    box->setRange(low, high);
    box->setKeyboardTracking(false);
    box->setAlignment(Qt::AlignRight);
    box->setFixedWidth(pixelsOf(width));
    guardWheel(box);
    QObject::connect(box, &QSpinBox::valueChanged, q, [this] { collect(); });
    return box;
}

void PipelinePanel::Private::buildPresets(QWidget* page, QVBoxLayout* stages)
{
    auto* top = new QWidget(page);
    auto* topRow = new QHBoxLayout(top);
    topRow->setContentsMargins(pixelsOf(12), pixelsOf(8), pixelsOf(12), pixelsOf(8));
    topRow->setSpacing(pixelsOf(8));
    presetLabel = new QLabel(tr("preset"), top);
    presetLabel->setProperty("role", QStringLiteral("muted"));
    preset = new Chooser(top);
    preset->setAccessibleName(tr("preset"));
    preset->setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
    preset->addItem(tr("MoE-I²"), static_cast<int>(PipelinePreset::MoeI2));
    preset->addItem(tr("Uniform, ranked by REAP"), static_cast<int>(PipelinePreset::UniformReap));
    preset->addItem(tr("Verified"), static_cast<int>(PipelinePreset::Verified));
    const QString tips[] = {
        methodToolTip(tr("MoE-I²"), tr("Budgets by importance, genetic search, blocks of 3 layers, then low ranks.").toStdString(),
                      "arXiv 2411.01016"),
        methodToolTip(tr("Uniform, ranked by REAP"),
                      tr("The same share in every layer, the experts with the best REAP scores.").toStdString()),
        methodToolTip(tr("Verified"), tr("Every candidate is measured on the calibration text before it is taken.").toStdString())};
    for (int i = 0; i < 3; ++i)
        preset->setItemData(i, tips[i], Qt::ToolTipRole);
    presetLabel->setBuddy(preset);
    topRow->addWidget(presetLabel);
    topRow->addWidget(preset, 1);
    stages->addWidget(top);
}

void PipelinePanel::Private::buildStages(QWidget* page, QVBoxLayout* stages)
{
    const auto add = [&](const QString& title, bool switchable, const QString& chooser) {
        stages->addWidget(new Rule(page));
        auto* section = new MethodSection(title, switchable, page, chooser);
        stages->addWidget(section);
        QObject::connect(section, &MethodSection::changed, q, [this] { collect(); });
        return section;
    };
    score = add(tr("Score"), false, tr("method"));
    allocate = add(tr("Allocate"), false, tr("method"));
    select = add(tr("Select"), false, tr("method"));
    field = add(tr("Receptive field"), true, {});
    ranks = add(tr("Ranks"), true, tr("rule"));
    recover = add(tr("Recover"), true, tr("method"));
}

void PipelinePanel::Private::buildSetRows(QWidget* page)
{
    select->setExtraAsParameters();
    seed = spin(page, 0, 2'000'000'000, 96);
    select->extra()->addRow(tr("seed"), seed, {}, tr("Select, seed"),
                            methodToolTip(tr("seed"), tr("The same seed gives the same sets, whatever runs in parallel.").toStdString()));
    sets = spin(page, 1, 64, 64);
    block = spin(page, 1, 64, 64);
    field->extra()->addRow(tr("sets"), sets, tr("per layer"), tr("Receptive field, sets"),
                           methodToolTip(tr("sets"), tr("Best sets of every layer (K) that are tried together.").toStdString()));
    field->extra()->addRow(tr("block"), block, tr("layers"), tr("Receptive field, block"),
                           methodToolTip(tr("block"), tr("Layers (T) whose sets are chosen together.").toStdString()));
}

void PipelinePanel::Private::buildRankRows(QWidget* page)
{
    budget = new Chooser(page);
    budget->addItem(tr("automatic"), static_cast<int>(PipelineRecipe::RankBudget::Automatic));
    budget->addItem(tr("average rank"), static_cast<int>(PipelineRecipe::RankBudget::Average));
    budget->addItem(tr("share decomposed"), static_cast<int>(PipelineRecipe::RankBudget::Share));
    ranks->extra()->addRow(
        tr("budget"), budget, {}, tr("Ranks, budget"),
        methodToolTip(tr("budget"),
                      tr("How much the ranks may keep. Automatic is what the layer's shape and the target give.").toStdString()));
    average = spin(page, 1, 1'000'000, 96);
    average->setGroupSeparatorShown(true);
    ranks->extra()->addRow(tr("average"), average, {}, tr("Ranks, average rank"),
                           methodToolTip(tr("average"), tr("Mean rank of a layer's matrices.").toStdString()));
    share = new QDoubleSpinBox(page);
    share->setRange(0, 99);
    share->setDecimals(1);
    share->setKeyboardTracking(false);
    share->setAlignment(Qt::AlignRight);
    share->setFixedWidth(pixelsOf(80));
    guardWheel(share);
    QObject::connect(share, &QDoubleSpinBox::valueChanged, q, [this] { collect(); });
    ranks->extra()->addRow(tr("share"), share, QStringLiteral("%"), tr("Ranks, share decomposed"),
                           methodToolTip(tr("share"), tr("Part of the kept experts' parameters that goes.").toStdString()));
    factors = new Chooser(page);
    ranks->extra()->addRow(
        tr("factors"), factors, {}, tr("Ranks, factors"),
        methodToolTip(tr("factors"),
                      tr("How a matrix is factored. Automatic is whitened where the profile has its inputs.").toStdString()));
    for (QComboBox* box : {budget, factors})
        QObject::connect(box, &QComboBox::activated, q, [this] { collect(); });
}

void PipelinePanel::Private::build()
{
    auto* column = new QVBoxLayout(q);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(0);
    auto* scroll = new QScrollArea(q);
    scroll->setFrameShape(QFrame::NoFrame);
    scroll->setWidgetResizable(true);
    scroll->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    scroll->setFocusPolicy(Qt::NoFocus);
    auto* page = new QWidget(scroll);
    page->setAutoFillBackground(true);
    auto* stages = new QVBoxLayout(page);
    stages->setContentsMargins(0, 0, 0, 0);
    stages->setSpacing(0);

    buildPresets(page, stages);
    buildStages(page, stages);
    stages->addStretch(1);
    buildSetRows(page);
    buildRankRows(page);
    QObject::connect(preset, &QComboBox::activated, q,
                     [this](int index) { q->choosePreset(static_cast<PipelinePreset>(preset->itemData(index).toInt())); });

    scroll->setWidget(page);
    column->addWidget(scroll, 1);
    column->addWidget(new Rule(q));
    buildFooter(column);
}

void PipelinePanel::Private::buildFooter(QVBoxLayout* column)
{
    footer = new QWidget(q);
    footer->setAutoFillBackground(true);
    auto* rows = new QVBoxLayout(footer);
    rows->setContentsMargins(pixelsOf(12), pixelsOf(8), pixelsOf(12), pixelsOf(10));
    rows->setSpacing(pixelsOf(6));
    target = new PipelineTarget(footer);
    rows->addWidget(target);
    auto* buttons = new QHBoxLayout;
    buttons->setSpacing(pixelsOf(8));
    run = new QPushButton(tr("Run"), footer);
    run->setObjectName(QStringLiteral("pipeline.run"));
    find = new QPushButton(tr("Find a plan for this size"), footer);
    find->setObjectName(QStringLiteral("pipeline.find"));
    buttons->addWidget(run);
    buttons->addWidget(find);
    buttons->addStretch(1);
    rows->addLayout(buttons);
    auto* limit = new QHBoxLayout;
    limit->setSpacing(pixelsOf(8));
    auto* limitName = new QLabel(tr("find for at most"), footer);
    limitName->setProperty("role", QStringLiteral("muted"));
    minutes = new QDoubleSpinBox(footer);
    minutes->setRange(0, 10000);
    minutes->setDecimals(1);
    minutes->setSpecialValueText(tr("no limit"));
    minutes->setSuffix(tr(" min"));
    minutes->setKeyboardTracking(false);
    minutes->setAlignment(Qt::AlignRight);
    minutes->setFixedWidth(pixelsOf(96));
    minutes->setAccessibleName(tr("Find, minutes"));
    minutes->setToolTip(
        tr("The search answers within this time with the best plan it has measured. Without a limit it ends when nothing helps any more."));
    limitName->setBuddy(minutes);
    guardWheel(minutes);
    QObject::connect(minutes, &QDoubleSpinBox::valueChanged, q, [this] { collect(); });
    limit->addWidget(limitName);
    limit->addStretch(1);
    limit->addWidget(minutes);
    rows->addLayout(limit);
    recoverNow = new QPushButton(tr("Recover the plan on screen"), footer);
    recoverNow->setObjectName(QStringLiteral("pipeline.recover"));
    rows->addWidget(recoverNow, 0, Qt::AlignLeft);
    reason = new QLabel(footer);
    reason->setWordWrap(true);
    reason->setProperty("role", QStringLiteral("muted"));
    rows->addWidget(reason);
    column->addWidget(footer);

    QObject::connect(target, &PipelineTarget::changed, q, [this] {
        collect();
        emit q->recipeChanged();  // also where what was typed is no target, which changes what can start
    });
    QObject::connect(target, &PipelineTarget::unlockRequested, q, &PipelinePanel::unlockRequested);
    QObject::connect(run, &QPushButton::clicked, q, &PipelinePanel::runRequested);
    QObject::connect(find, &QPushButton::clicked, q, &PipelinePanel::findRequested);
    QObject::connect(recoverNow, &QPushButton::clicked, q, &PipelinePanel::recoverRequested);
}

void PipelinePanel::Private::fillMethods()
{
    const auto why = [this](const MethodInfo& method) { return whyNot(method); };
    score->setMethods(slot(Slot::Score), why);
    allocate->setMethods(slot(Slot::Allocate), why);
    select->setMethods(slot(Slot::Select), why);
    ranks->setMethods(slot(Slot::RankRule), why);
    recover->setMethods(slot(Slot::Recover), why);
    const QSignalBlocker blocker(factors);
    factors->clear();
    factors->addItem(tr("automatic"), QString());
    auto* model = qobject_cast<QStandardItemModel*>(factors->model());
    for (const MethodInfo& method : slot(Slot::Factors)) {
        const QString not_ = whyNot(method);
        const QString title = QString::fromStdString(method.title);
        factors->addItem(not_.isEmpty() ? title : tr("%1 (%2)").arg(title, not_), QString::fromStdString(method.id));
        factors->setItemData(factors->count() - 1, methodToolTip(title, method.help, method.source), Qt::ToolTipRole);
        if (model) model->item(factors->count() - 1)->setEnabled(not_.isEmpty());
    }
    showFactors();
    factors->fitList();
    const QFontMetrics metrics(q->font());
    int choosers = 0;
    for (const QString& label :
         {tr("preset"), tr("method"), tr("rule"), tr("budget"), tr("factors"), tr("average"), tr("share"), tr("sets"), tr("block")})
        choosers = std::max(choosers, metrics.horizontalAdvance(label));
    int parameters = choosers;
    for (MethodSection* section : {score, allocate, select, ranks, recover})
        parameters = std::max(parameters, section->labelWidth());
    // Labels are a little wider than their text.
    choosers += 2;
    parameters += 2;
    presetLabel->setFixedWidth(choosers);
    for (MethodSection* section : {score, allocate, select, field, ranks, recover})
        section->setLabelWidths(choosers, parameters);
}

// A choice made with another engine stays, known here or not.
void PipelinePanel::Private::showFactors()
{
    const QString id = QString::fromStdString(recipe.factors);
    if (factors->findData(id) < 0) factors->addItem(id, id);
    factors->setCurrentIndex(factors->findData(id));
}

void PipelinePanel::Private::show()
{
    showing = true;
    score->setChoice(recipe.score);
    allocate->setChoice(recipe.allocate);
    select->setChoice(recipe.select);
    ranks->setChoice(recipe.rule);
    field->setOn(recipe.field);
    ranks->setOn(recipe.ranks);
    recover->setChoice(recipe.recover);
    recover->setOn(recipe.recovers);
    seed->setValue(static_cast<int>(recipe.seed));
    sets->setValue(recipe.sets);
    block->setValue(recipe.blockSize);
    budget->setCurrentIndex(budget->findData(static_cast<int>(recipe.rankBudget)));
    average->setValue(static_cast<int>(std::lround(recipe.averageRank)));
    share->setValue(100 * recipe.share);
    minutes->setValue(recipe.minutes);
    showFactors();
    target->show(recipe);
    showing = false;
    collect();
}

// Reads what is on screen, so that what is sent is what is seen.
void PipelinePanel::Private::collect()
{
    if (std::exchange(showing, true)) return;
    const PipelineRecipe before = recipe;
    recipe.score = score->choice();
    recipe.allocate = allocate->choice();
    recipe.select = select->choice();
    recipe.rule = ranks->choice();
    recipe.field = field->isOn();
    recipe.ranks = ranks->isOn();
    recipe.recover = recover->choice();
    recipe.recovers = recover->isOn();
    recipe.seed = seed->value();
    recipe.sets = sets->value();
    recipe.blockSize = block->value();
    recipe.rankBudget = static_cast<PipelineRecipe::RankBudget>(budget->currentData().toInt());
    recipe.averageRank = average->value();
    recipe.share = share->value() / 100;
    recipe.factors = factors->currentData().toString().toStdString();
    recipe.minutes = minutes->value();
    target->write(recipe);
    // Rows that say nothing with the choices above them.
    const MethodInfo* selector = select->info();
    select->extra()->setRowVisible(0, selector && selector->stochastic);
    ranks->extra()->setRowVisible(1, recipe.rankBudget == PipelineRecipe::RankBudget::Average);
    ranks->extra()->setRowVisible(2, recipe.rankBudget == PipelineRecipe::RankBudget::Share);
    const std::optional<PipelinePreset> now = presetOf(recipe);
    if (now) {
        if (preset->count() > 3) preset->removeItem(3);
        preset->setCurrentIndex(preset->findData(static_cast<int>(*now)));
    } else {
        if (preset->count() == 3) preset->addItem(tr("as set below"), -1);
        preset->setCurrentIndex(3);
    }
    preset->setToolTip(preset->currentData(Qt::ToolTipRole).toString());
    refreshButtons();
    showing = false;
    if (!(recipe == before)) emit q->recipeChanged();
}

void PipelinePanel::Private::refreshButtons()
{
    const QString forRun = !blocked.isEmpty() ? blocked : q->problem();
    const MethodInfo* verified = findMethod(methods, Slot::Allocate, findRecipe(recipe).allocate.method);
    QString forFind = !blocked.isEmpty() ? blocked : target->problem();
    if (!verified) {
        if (forFind.isEmpty()) forFind = tr("This engine has no verified allocation.");
    } else if (forFind.isEmpty()) {
        if (const QString why = whyNot(*verified); !why.isEmpty())
            forFind = tr("%1 cannot run: %2.").arg(QString::fromStdString(verified->title), why);
    }
    run->setEnabled(forRun.isEmpty());
    run->setToolTip(forRun.isEmpty() ? tr("Make a plan with the stages above") : forRun);
    find->setEnabled(forFind.isEmpty());
    find->setToolTip(forFind.isEmpty()
                         ? tr("Measures the plan on screen, other methods' and its own on the calibration text, experts and ranks together")
                         : forFind);
    QString forRecover = blocked;
    const MethodInfo* method = recover->info();
    if (forRecover.isEmpty() && !method) forRecover = tr("This engine has no recovery.");
    if (forRecover.isEmpty() && !compressed) forRecover = tr("The plan on screen is the whole model: nothing was lost.");
    if (forRecover.isEmpty() && method)
        if (const QString why = whyNot(*method); !why.isEmpty())
            forRecover = tr("%1 cannot run: %2.").arg(QString::fromStdString(method->title), why);
    recoverNow->setEnabled(forRecover.isEmpty());
    recoverNow->setToolTip(forRecover.isEmpty() ? tr("New numbers for the plan as it is, by the method chosen under Recover; sizes stay")
                                                : forRecover);
    reason->setText(forRun);
    reason->setFont(fontFor(FontRole::Small));
    reason->setVisible(!forRun.isEmpty());
}

const PipelineRecipe& PipelinePanel::recipe() const { return d->recipe; }
QWidget* PipelinePanel::firstControl() const { return d->preset; }

QString PipelinePanel::problem() const
{
    if (QString why = d->target->problem(); !why.isEmpty()) return why;
    for (const MethodSection* section : {d->score, d->allocate, d->select, d->ranks, d->recover})
        if (QString why = section->problem(); !why.isEmpty()) return why;
    if (d->recipe.field && !d->noText.isEmpty()) return tr("The receptive field cannot run: %1.").arg(d->noText);
    return {};
}

void PipelinePanel::setShape(const ModelShape& shape)
{
    d->shape = shape;
    d->target->setShape(shape);
    PipelineRecipe start = withPreset({}, PipelinePreset::MoeI2);
    start.experts = static_cast<int>(std::lround(0.75 * static_cast<double>(shape.totalExperts())));
    start.bytes = static_cast<std::int64_t>(0.75 * static_cast<double>(planCost(shape, CompressionPlan::identity(shape)).bytes));
    start.averageRank = std::max(1, shape.layers.empty() ? 1 : shape.layers.back().expertWidth / 4);
    setRecipe(start);
}

void PipelinePanel::setPlan(const CompressionPlan& plan)
{
    const QString before = d->target->problem();
    d->target->setPlan(plan);
    const bool compressed = !plan.isIdentity(d->shape);
    if (d->target->problem() == before && compressed == d->compressed) return;
    d->compressed = compressed;
    d->refreshButtons();
    emit recipeChanged();  // what can start
}

bool PipelinePanel::canFind() const { return d->find->isEnabled(); }
bool PipelinePanel::canRecover() const { return d->recoverNow->isEnabled(); }

void PipelinePanel::setMethods(const std::vector<MethodInfo>& methods)
{
    // The same again must not rebuild rows in which somebody types.
    Json registry = Json::array();
    for (const MethodInfo& method : methods)
        registry.push_back(toJson(method));
    if (registry == d->registry) return;
    d->registry = std::move(registry);
    d->methods = methods;
    d->refill();
}

void PipelinePanel::Private::refill()
{
    showing = true;
    fillMethods();
    showing = false;
    show();
}

void PipelinePanel::setAvailable(const std::optional<std::set<std::string>>& statistics, const QString& noText)
{
    if (statistics == d->statistics && noText == d->noText) return;
    d->statistics = statistics;
    d->noText = noText;
    d->refill();
}
void PipelinePanel::setRecipe(const PipelineRecipe& recipe)
{
    const QSignalBlocker blocker(this);
    d->recipe = recipe;
    d->show();
}

void PipelinePanel::choosePreset(PipelinePreset preset)
{
    if (static_cast<int>(preset) < 0) return;
    d->recipe = withPreset(d->recipe, preset);
    d->show();
    emit recipeChanged();
}

void PipelinePanel::chooseAllocation(const QString& id)
{
    d->recipe.allocate = {id.toStdString(), {}};
    d->show();
    emit recipeChanged();
}

void PipelinePanel::takeSizeOfPlan() { d->target->takeSizeOfPlan(); }

void PipelinePanel::setBlocked(const QString& reason)
{
    d->blocked = reason;
    d->refreshButtons();
}

void PipelinePanel::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if (event->type() == QEvent::StyleChange && d != nullptr && d->footer != nullptr) {
        d->refreshButtons();
    }
}

}  // namespace espalier
