#include "completions/try_panel.h"

#include "completions/token_view.h"
#include "look/format.h"
#include "look/theme.h"

#include <QComboBox>
#include <QEvent>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QPushButton>
#include <QSignalBlocker>
#include <QVBoxLayout>

#include <algorithm>

namespace espalier
{

namespace
{

constexpr int kCounts[] = {16, 32, 64, 128, 256};
constexpr int kUsual = 64;

}  // namespace

class TryPanel::Private
{
public:
    CompletionState state;
    bool enabled = false;
    QString reason;

    QLineEdit* prompt = nullptr;
    QComboBox* tokens = nullptr;
    QPushButton* go = nullptr;
    struct Side {
        QWidget* column = nullptr;
        QLabel* name = nullptr;
        QLabel* note = nullptr;
        TokenView* view = nullptr;
    };
    Side dense, plan;

    void refresh();
    static void refreshSide(const Side& side, const Completion& completion, const Completion& beside);
};

TryPanel::TryPanel(QWidget* parent) : QWidget(parent), d(std::make_unique<Private>())
{
    setWhatsThis(
        tr("How the dense model and the plan go on from a prompt, the most probable token each time. Tokens that differ are marked; "
           "hovering one shows its probability, and what else could have come."));
    setAutoFillBackground(true);
    auto* all = new QVBoxLayout(this);
    all->setContentsMargins(0, pixelsOf(8), 0, 0);
    all->setSpacing(pixelsOf(6));
    auto* row = new QHBoxLayout;
    row->setContentsMargins(pixelsOf(12), 0, pixelsOf(12), 0);
    row->setSpacing(pixelsOf(8));
    d->prompt = new QLineEdit;
    d->prompt->setObjectName(QStringLiteral("try.prompt"));
    d->prompt->setAccessibleName(tr("Prompt"));
    d->prompt->setPlaceholderText(tr("a beginning, for both models to go on from"));
    d->prompt->setToolTip(tr("\\n stands for a line break"));
    row->addWidget(d->prompt, 1);
    d->tokens = new QComboBox;
    d->tokens->setObjectName(QStringLiteral("try.tokens"));
    d->tokens->setAccessibleName(tr("Tokens at most"));
    for (const int count : kCounts)
        d->tokens->addItem(tr("%1 tokens").arg(format::count(count)), count);
    row->addWidget(d->tokens);
    d->go = new QPushButton;
    d->go->setObjectName(QStringLiteral("try.go"));
    row->addWidget(d->go);
    all->addLayout(row);
    auto* sides = new QHBoxLayout;
    sides->setContentsMargins(0, 0, 0, 0);
    sides->setSpacing(1);
    for (auto [side, name] :
         {std::pair(&d->dense, tr("Completion of the dense model")), std::pair(&d->plan, tr("Completion of the plan"))}) {
        side->column = new QWidget;
        auto* column = new QVBoxLayout(side->column);
        column->setContentsMargins(0, 0, 0, 0);
        column->setSpacing(pixelsOf(2));
        auto* head = new QHBoxLayout;
        head->setContentsMargins(pixelsOf(12), 0, pixelsOf(12), 0);
        side->name = new QLabel;
        side->name->setFont(fontFor(FontRole::Head));
        side->name->setSizePolicy(QSizePolicy::Ignored, QSizePolicy::Preferred);
        side->note = new QLabel;
        side->note->setProperty("role", QStringLiteral("muted"));
        side->note->setFont(fontFor(FontRole::Small));
        head->addWidget(side->name, 1);
        head->addWidget(side->note);
        column->addLayout(head);
        side->view = new TokenView(name);
        column->addWidget(side->view, 1);
        sides->addWidget(side->column, 1);
    }
    all->addLayout(sides, 1);
    connect(d->go, &QPushButton::clicked, this, [this] { d->state.busy ? emit stopRequested() : emit completeRequested(); });
    connect(d->prompt, &QLineEdit::returnPressed, this, [this] {
        if (d->go->isEnabled()) emit completeRequested();
    });
    connect(d->prompt, &QLineEdit::textEdited, this, [this] {
        d->refresh();
        emit choicesChanged();
    });
    connect(d->tokens, &QComboBox::activated, this, &TryPanel::choicesChanged);
    // Something to begin with: the demo knows such prose.
    d->prompt->setText(tr("It was a cold and windy night, and the old man"));
    setTokens(kUsual);
    d->refresh();
}

TryPanel::~TryPanel() = default;

QString TryPanel::prompt() const { return d->prompt->text(); }

void TryPanel::setPrompt(const QString& text)
{
    d->prompt->setText(text);
    d->refresh();
}

int TryPanel::tokens() const { return d->tokens->currentData().toInt(); }

void TryPanel::setTokens(int count)
{
    const QSignalBlocker blocked(d->tokens);
    const int index = d->tokens->findData(count);
    d->tokens->setCurrentIndex(index >= 0 ? index : d->tokens->findData(kUsual));
}

const TokenView* TryPanel::dense() const { return d->dense.view; }
const TokenView* TryPanel::plan() const { return d->plan.view; }
QWidget* TryPanel::firstControl() const { return d->prompt; }

QString TryPanel::text() const
{
    QStringList lines;
    for (const Private::Side* side : {&d->dense, &d->plan})
        if (!side->column->isHidden()) lines << side->name->toolTip() << side->note->text() << side->view->text();
    return lines.join(QLatin1Char('\n'));
}

void TryPanel::Private::refreshSide(const Side& side, const Completion& completion, const Completion& beside)
{
    side.name->setToolTip(completion.name);
    QStringList notes;
    if (completion.stale) notes += TryPanel::tr("an earlier plan");
    if (completion.waiting)
        notes += TryPanel::tr("next");
    else if (completion.running)
        notes += TryPanel::tr("%n token(s)", nullptr, static_cast<int>(completion.tokens.size()));
    if (!completion.finish.isEmpty()) notes += completion.finish;
    if (completion.tokensPerSecond > 0 && !completion.stale)
        notes += TryPanel::tr("%1 tokens/s").arg(format::number(completion.tokensPerSecond, 1));
    side.note->setText(notes.join(format::kDot));
    const int room = side.column->width() - side.note->sizeHint().width() - pixelsOf(32);
    side.name->setText(side.name->fontMetrics().elidedText(completion.name, Qt::ElideRight, std::max(0, room)));
    side.view->set(completion, beside);
}

void TryPanel::Private::refresh()
{
    const bool can = enabled && !prompt->text().trimmed().isEmpty();
    go->setText(state.busy ? TryPanel::tr("Stop") : TryPanel::tr("Complete"));
    go->setEnabled(state.busy || can);
    go->setToolTip(enabled ? QString() : reason);
    plan.column->setVisible(!state.planIsDense);
    refreshSide(dense, state.dense, state.planIsDense ? Completion() : state.plan);
    refreshSide(plan, state.plan, state.dense);
}

void TryPanel::setState(const CompletionState& state)
{
    d->state = state;
    d->refresh();
}

void TryPanel::setEnabledFor(bool enabled, const QString& reason)
{
    d->enabled = enabled;
    d->reason = reason;
    d->refresh();
}

void TryPanel::resizeEvent(QResizeEvent* event)
{
    QWidget::resizeEvent(event);
    layout()->activate();
    if (d->plan.view != nullptr) d->refresh();
}

void TryPanel::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if (event->type() == QEvent::StyleChange && d != nullptr && d->plan.view != nullptr) d->refresh();
}

}  // namespace espalier
