#include "pipeline_panel.h"

#include "allocate/allocator.h"
#include "controls.h"
#include "format.h"
#include "icon.h"
#include "keep_box.h"
#include "method_section.h"
#include "plan/cost_model.h"
#include "theme.h"

#include <QComboBox>
#include <QDoubleSpinBox>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QPainter>
#include <QPushButton>
#include <QScrollArea>
#include <QSignalBlocker>
#include <QSpinBox>
#include <QStandardItemModel>
#include <QStyle>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>
#include <utility>

namespace espalier
{

namespace
{

constexpr double kMiB = 1024.0 * 1024.0;

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

    enum Unit { Experts, MiB, GiB, Percent };

    PipelinePanel* q;
    PipelineRecipe recipe;
    ModelShape shape;
    CompressionPlan plan;
    std::vector<MethodInfo> methods;
    Json registry = Json::array();
    std::optional<std::set<std::string>> statistics;
    QString noText;
    QString blocked;
    Unit unit = Experts;
    bool showing = false;  // the controls are being set, nothing is a change of the user's
    bool badTarget = false;

    QComboBox* preset = nullptr;
    MethodSection* score = nullptr;
    MethodSection* allocate = nullptr;
    MethodSection* select = nullptr;
    MethodSection* field = nullptr;
    MethodSection* ranks = nullptr;
    QSpinBox* seed = nullptr;
    QSpinBox* sets = nullptr;
    QSpinBox* block = nullptr;
    QComboBox* budget = nullptr;
    QSpinBox* average = nullptr;
    QDoubleSpinBox* share = nullptr;
    QComboBox* factors = nullptr;
    QLineEdit* target = nullptr;
    QComboBox* units = nullptr;
    QLabel* of = nullptr;
    QToolButton* take = nullptr;
    Switch* equal = nullptr;
    QPushButton* run = nullptr;
    QPushButton* find = nullptr;
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
        if ((method.id == "verified" || std::count(method.needs.begin(), method.needs.end(), "text") > 0) && !noText.isEmpty())
            return noText;
        if (!statistics) return {};
        for (const std::string& need : method.needs)
            if (need != "text" && !statistics->contains(need))
                return PipelinePanel::tr("the profile has no %1").arg(QString::fromStdString(need));
        return {};
    }
    std::int64_t denseBytes() const { return planCost(shape, CompressionPlan::identity(shape)).bytes; }
    void build();
    void buildFooter(QVBoxLayout* column);
    void fillMethods();
    void refill();
    void showFactors();
    void show();     // the controls from the recipe
    void collect();  // the recipe from the controls
    void showTarget();
    void enterTarget();
    void refreshButtons();
};

PipelinePanel::PipelinePanel(QWidget* parent) : QWidget(parent), d(std::make_unique<Private>(this))
{
    d->build();
    d->fillMethods();
    d->show();
}

PipelinePanel::~PipelinePanel() = default;

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

    auto* top = new QWidget(page);
    auto* topRow = new QHBoxLayout(top);
    topRow->setContentsMargins(pixelsOf(12), pixelsOf(8), pixelsOf(12), pixelsOf(8));
    topRow->setSpacing(pixelsOf(8));
    auto* presetLabel = new QLabel(tr("preset"), top);
    presetLabel->setProperty("role", QStringLiteral("muted"));
    preset = new QComboBox(top);
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
    guardWheel(preset);
    presetLabel->setBuddy(preset);
    topRow->addWidget(presetLabel);
    topRow->addWidget(preset, 1);
    stages->addWidget(top);

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
    stages->addStretch(1);

    const auto spin = [&](int low, int high, int width) {
        auto* box = new QSpinBox(page);
        box->setRange(low, high);
        box->setKeyboardTracking(false);
        box->setAlignment(Qt::AlignRight);
        box->setFixedWidth(pixelsOf(width));
        guardWheel(box);
        QObject::connect(box, &QSpinBox::valueChanged, q, [this] { collect(); });
        return box;
    };
    seed = spin(0, 2'000'000'000, 96);
    select->extra()->addRow(tr("seed"), seed, {}, tr("Select, seed"),
                            methodToolTip(tr("seed"), tr("The same seed gives the same sets, whatever runs in parallel.").toStdString()));
    sets = spin(1, 64, 64);
    block = spin(1, 64, 64);
    field->extra()->addRow(tr("sets"), sets, tr("per layer"), tr("Receptive field, sets"),
                           methodToolTip(tr("sets"), tr("Best sets of every layer (K) that are tried together.").toStdString()));
    field->extra()->addRow(tr("block"), block, tr("layers"), tr("Receptive field, block"),
                           methodToolTip(tr("block"), tr("Layers (T) whose sets are chosen together.").toStdString()));
    budget = new QComboBox(page);
    budget->addItem(tr("automatic"), static_cast<int>(PipelineRecipe::RankBudget::Automatic));
    budget->addItem(tr("average rank"), static_cast<int>(PipelineRecipe::RankBudget::Average));
    budget->addItem(tr("share decomposed"), static_cast<int>(PipelineRecipe::RankBudget::Share));
    guardWheel(budget);
    ranks->extra()->addRow(
        tr("budget"), budget, {}, tr("Ranks, budget"),
        methodToolTip(tr("budget"),
                      tr("How much the ranks may keep. Automatic is what the layer's shape and the target give.").toStdString()));
    average = spin(1, 1'000'000, 96);
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
    factors = new QComboBox(page);
    guardWheel(factors);
    ranks->extra()->addRow(
        tr("factors"), factors, {}, tr("Ranks, factors"),
        methodToolTip(tr("factors"),
                      tr("How a matrix is factored. Automatic is whitened where the profile has its inputs.").toStdString()));
    for (QComboBox* box : {budget, factors})
        QObject::connect(box, &QComboBox::activated, q, [this] { collect(); });
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
    auto* first = new QHBoxLayout;
    first->setSpacing(pixelsOf(6));
    auto* name = new QLabel(tr("Target"), footer);
    name->setFont(fontFor(FontRole::Head));
    target = new QLineEdit(footer);
    target->setAlignment(Qt::AlignRight);
    target->setAccessibleName(tr("Target"));
    name->setBuddy(target);
    units = new QComboBox(footer);
    units->setAccessibleName(tr("Target, unit"));
    units->addItem(tr("experts"), Experts);
    units->addItem(tr("MiB"), MiB);
    units->addItem(tr("GiB"), GiB);
    units->addItem(tr("% of dense"), Percent);
    guardWheel(units);
    take = new QToolButton(footer);
    take->setIcon(icon(QStringLiteral("circle-dot")));
    take->setIconSize({pixelsOf(16), pixelsOf(16)});
    take->setAutoRaise(true);
    take->setToolTip(tr("Take the size of the plan on screen"));
    take->setAccessibleName(take->toolTip());
    first->addWidget(name);
    first->addStretch(1);
    first->addWidget(target);
    first->addWidget(units);
    first->addWidget(take);
    rows->addLayout(first);
    auto* second = new QHBoxLayout;
    of = new QLabel(footer);
    of->setProperty("role", QStringLiteral("muted"));
    equal = new Switch(tr("Equal counts"), footer);
    equal->setTextLeft(true);
    equal->setToolTip(tr("One count for all layers, as a stock export needs"));
    second->addWidget(of);
    second->addStretch(1);
    second->addWidget(equal);
    rows->addLayout(second);
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
    reason = new QLabel(footer);
    reason->setWordWrap(true);
    reason->setProperty("role", QStringLiteral("muted"));
    rows->addWidget(reason);
    column->addWidget(footer);

    QObject::connect(target, &QLineEdit::returnPressed, q, [this] { enterTarget(); });
    QObject::connect(target, &QLineEdit::editingFinished, q, [this] {
        if (target->isModified()) enterTarget();
    });
    QObject::connect(units, &QComboBox::activated, q, [this](int index) {
        unit = static_cast<Unit>(units->itemData(index).toInt());
        // The same size in the other unit, as far as a number of experts can say it.
        if (unit == Experts && recipe.target != PipelineRecipe::Target::Experts) {
            recipe.experts = std::max(1, plan.layerCount() > 0 && !plan.isIdentity(shape) ? plan.keptExperts() : recipe.experts);
            recipe.target = PipelineRecipe::Target::Experts;
        } else if (unit != Experts && recipe.target == PipelineRecipe::Target::Experts) {
            const double dropped = static_cast<double>(shape.totalExperts() - recipe.experts);
            std::int64_t each = 0;
            for (const LayerShape& layer : shape.layers)
                if (layer.experts > 0) each = std::max(each, layer.bytesPerExpert + layer.routerBytesPerExpert);
            recipe.bytes = denseBytes() - static_cast<std::int64_t>(dropped * static_cast<double>(each));
            recipe.target = PipelineRecipe::Target::Bytes;
        }
        badTarget = false;
        showTarget();
        refreshButtons();
        emit q->recipeChanged();
    });
    QObject::connect(take, &QToolButton::clicked, q, &PipelinePanel::takeSizeOfPlan);
    QObject::connect(equal, &QAbstractButton::clicked, q, [this] { collect(); });
    QObject::connect(run, &QPushButton::clicked, q, &PipelinePanel::runRequested);
    QObject::connect(find, &QPushButton::clicked, q, &PipelinePanel::findRequested);
}

void PipelinePanel::Private::fillMethods()
{
    const auto why = [this](const MethodInfo& method) { return whyNot(method); };
    score->setMethods(slot(Slot::Score), why);
    allocate->setMethods(slot(Slot::Allocate), why);
    select->setMethods(slot(Slot::Select), why);
    ranks->setMethods(slot(Slot::RankRule), why);
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
    const QFontMetrics metrics(q->font());
    int width = 0;
    for (MethodSection* section : {score, allocate, select, ranks})
        width = std::max(width, section->labelWidth());
    for (const QString& label : {tr("factors"), tr("average"), tr("budget"), tr("block")})
        width = std::max(width, metrics.horizontalAdvance(label));
    for (MethodSection* section : {score, allocate, select, field, ranks})
        section->setLabelWidth(width);
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
    seed->setValue(static_cast<int>(recipe.seed));
    sets->setValue(recipe.sets);
    block->setValue(recipe.blockSize);
    budget->setCurrentIndex(budget->findData(static_cast<int>(recipe.rankBudget)));
    average->setValue(static_cast<int>(std::lround(recipe.averageRank)));
    share->setValue(100 * recipe.share);
    showFactors();
    equal->setChecked(recipe.uniformCount);
    if (recipe.target == PipelineRecipe::Target::Experts)
        unit = Experts;
    else if (unit == Experts)
        unit = denseBytes() >= static_cast<std::int64_t>(1024 * kMiB) ? GiB : MiB;
    showTarget();
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
    recipe.seed = seed->value();
    recipe.sets = sets->value();
    recipe.blockSize = block->value();
    recipe.rankBudget = static_cast<PipelineRecipe::RankBudget>(budget->currentData().toInt());
    recipe.averageRank = average->value();
    recipe.share = share->value() / 100;
    recipe.factors = factors->currentData().toString().toStdString();
    recipe.uniformCount = equal->isChecked();
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

void PipelinePanel::Private::showTarget()
{
    const std::int64_t dense = denseBytes();
    QString text;
    switch (unit) {
        case Experts:
            text = format::count(recipe.experts);
            of->setText(tr("of %1, %2").arg(format::count(shape.totalExperts()), targetText(recipe, shape)));
            target->setToolTip(tr("Experts kept over all layers: a number, 75%, 0.75 or 96/128"));
            break;
        case MiB:
            text = format::number(static_cast<double>(recipe.bytes) / kMiB, 1);
            break;
        case GiB:
            text = format::number(static_cast<double>(recipe.bytes) / kMiB / 1024, 2);
            break;
        case Percent:
            text = format::number(dense > 0 ? 100.0 * static_cast<double>(recipe.bytes) / static_cast<double>(dense) : 100, 1);
            break;
    }
    if (unit != Experts) {
        const double ratio = dense > 0 ? static_cast<double>(recipe.bytes) / static_cast<double>(dense) : 1;
        of->setText(unit == Percent ? tr("%1 of %2").arg(format::bytes(recipe.bytes), format::bytes(dense))
                                    : tr("of %1 (%2)").arg(format::bytes(dense), format::percentChange(ratio)));
        target->setToolTip(tr("Size of the whole model at most: a number, 75% of the dense model, or 20.9 GiB"));
    }
    target->setText(text);
    target->setModified(false);
    const QSignalBlocker blocker(units);
    units->setCurrentIndex(units->findData(unit));
    target->setFixedWidth(std::max(pixelsOf(64), target->fontMetrics().horizontalAdvance(text) + pixelsOf(22)));
}

void PipelinePanel::Private::enterTarget()
{
    const std::string typed = plainNumber(target->text());
    const QString text = QString::fromStdString(typed).toLower();
    const std::int64_t dense = denseBytes();
    badTarget = true;
    if (unit == Experts) {
        if (const auto keep = parseKeep(typed, static_cast<int>(shape.totalExperts())); keep.ok() && *keep > 0) {
            recipe.experts = *keep;
            recipe.target = PipelineRecipe::Target::Experts;
            badTarget = false;
        }
    } else {
        QString number = text;
        double factor = unit == MiB ? kMiB : unit == GiB ? 1024 * kMiB : static_cast<double>(dense) / 100;
        for (const auto& [suffix, scale] :
             {std::pair("%", static_cast<double>(dense) / 100), std::pair("gib", 1024 * kMiB), std::pair("mib", kMiB)})
            if (number.endsWith(QLatin1String(suffix))) {
                factor = scale;
                number.chop(static_cast<int>(qstrlen(suffix)));
                break;
            }
        bool ok = false;
        const double value = number.trimmed().toDouble(&ok);
        if (ok && value > 0 && value * factor < 1e18) {
            recipe.bytes = std::min(dense, static_cast<std::int64_t>(value * factor));
            recipe.target = PipelineRecipe::Target::Bytes;
            badTarget = false;
        }
    }
    target->setProperty("invalid", badTarget);
    target->style()->unpolish(target);
    target->style()->polish(target);
    if (!badTarget) showTarget();
    target->setModified(false);
    refreshButtons();
    emit q->recipeChanged();
}

void PipelinePanel::Private::refreshButtons()
{
    // The field has a target that Find needs as well; the methods it chooses itself.
    const QString target_ = badTarget ? (unit == Experts ? tr("The target is a number of experts, 75%, 0.75 or 96/128.")
                                                         : tr("The target is a size, 75% or 20.9 GiB."))
                                      : QString();
    const QString forRun = !blocked.isEmpty() ? blocked : q->problem();
    const MethodInfo* verified = findMethod(methods, Slot::Allocate, "verified");
    QString forFind = !blocked.isEmpty() ? blocked : target_;
    if (forFind.isEmpty() && !verified) forFind = tr("This engine has no verified allocation.");
    if (forFind.isEmpty())
        if (const QString why = whyNot(*verified); !why.isEmpty())
            forFind = tr("%1 cannot run: %2.").arg(QString::fromStdString(verified->title), why);
    run->setEnabled(forRun.isEmpty());
    run->setToolTip(forRun.isEmpty() ? tr("Make a plan with the stages above") : forRun);
    find->setEnabled(forFind.isEmpty());
    find->setToolTip(forFind.isEmpty()
                         ? tr("Measures candidates on the calibration text and exchanges experts between layers while that helps")
                         : forFind);
    reason->setText(forRun);
    reason->setFont(fontFor(FontRole::Small));
    reason->setVisible(!forRun.isEmpty());
    take->setEnabled(plan.layerCount() > 0 && !plan.isIdentity(shape));
}

const PipelineRecipe& PipelinePanel::recipe() const { return d->recipe; }
QWidget* PipelinePanel::firstControl() const { return d->preset; }

QString PipelinePanel::problem() const
{
    if (d->badTarget)
        return d->unit == Private::Experts ? tr("The target is a number of experts, 75%, 0.75 or 96/128.")
                                           : tr("The target is a size, 75% or 20.9 GiB.");
    for (const MethodSection* section : {d->score, d->allocate, d->select, d->ranks})
        if (const QString why = section->problem(); !why.isEmpty()) return why;
    if (d->recipe.field && !d->noText.isEmpty()) return tr("The receptive field cannot run: %1.").arg(d->noText);
    return {};
}

void PipelinePanel::setShape(const ModelShape& shape)
{
    d->shape = shape;
    d->plan = {};
    d->unit = Private::Experts;
    d->badTarget = false;
    PipelineRecipe start = withPreset({}, PipelinePreset::MoeI2);
    start.experts = static_cast<int>(std::lround(0.75 * static_cast<double>(shape.totalExperts())));
    start.bytes = static_cast<std::int64_t>(0.75 * static_cast<double>(d->denseBytes()));
    start.averageRank = std::max(1, shape.layers.empty() ? 1 : shape.layers.back().expertWidth / 4);
    setRecipe(start);
}

void PipelinePanel::setPlan(const CompressionPlan& plan)
{
    d->plan = plan;
    d->take->setEnabled(plan.layerCount() > 0 && !plan.isIdentity(d->shape));
}

bool PipelinePanel::canFind() const { return d->find->isEnabled(); }

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
    d->badTarget = false;
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

void PipelinePanel::takeSizeOfPlan()
{
    if (d->plan.layerCount() == 0 || d->plan.isIdentity(d->shape)) return;
    if (d->unit == Private::Experts) {
        d->recipe.target = PipelineRecipe::Target::Experts;
        d->recipe.experts = d->plan.keptExperts();
    } else {
        d->recipe.target = PipelineRecipe::Target::Bytes;
        d->recipe.bytes = planCost(d->shape, d->plan).bytes;
    }
    d->badTarget = false;
    d->show();
    emit recipeChanged();
}

void PipelinePanel::setBlocked(const QString& reason)
{
    d->blocked = reason;
    d->refreshButtons();
}

void PipelinePanel::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if (event->type() == QEvent::StyleChange && d != nullptr && d->footer != nullptr) {
        d->take->setIcon(icon(QStringLiteral("circle-dot")));
        d->refreshButtons();
    }
}

}  // namespace espalier
