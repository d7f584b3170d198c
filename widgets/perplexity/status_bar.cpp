#include "perplexity/status_bar.h"

#include "look/format.h"
#include "look/icon.h"
#include "look/theme.h"

#include <QEvent>
#include <QHBoxLayout>
#include <QLabel>
#include <QMouseEvent>
#include <QPainter>
#include <QProgressBar>
#include <QRegularExpression>
#include <QToolButton>

#include <cmath>
#include <functional>
#include <utility>

namespace espalier
{

namespace
{

constexpr int kMostNameWidth = 260;  // longer names are cut; the tooltip has them whole

// A label that can be clicked, for the parts that lead somewhere.
class Part final : public QLabel
{
public:
    using QLabel::QLabel;
    std::function<void()> clicked;

protected:
    void mouseReleaseEvent(QMouseEvent* event) override
    {
        if (event->button() == Qt::LeftButton && clicked && rect().contains(event->pos())) clicked();
    }
};

class Hairline final : public QWidget
{
public:
    explicit Hairline(QWidget* parent) : QWidget(parent) { setFixedSize(1, pixelsOf(16)); }

protected:
    void paintEvent(QPaintEvent*) override
    {
        QPainter painter(this);
        painter.fillRect(rect(), theme().border);
    }
};

// Takes the room that is left: the long text where it fits, else the short one, else what fits of that.
class Basis final : public QWidget
{
public:
    explicit Basis(QWidget* parent) : QWidget(parent) { setSizePolicy(QSizePolicy::Ignored, QSizePolicy::Preferred); }
    void set(const QString& text, const QString& brief)
    {
        m_text = text;
        m_brief = brief;
        setToolTip(text);
        setAccessibleName(text);
        update();
    }
    const QString& text() const { return m_text; }
    QSize sizeHint() const override { return {fontMetrics().horizontalAdvance(m_text), fontMetrics().height()}; }
    QSize minimumSizeHint() const override { return {0, 0}; }

protected:
    void paintEvent(QPaintEvent*) override
    {
        QPainter painter(this);
        painter.setPen(theme().muted);
        const QFontMetrics metrics = painter.fontMetrics();
        const QString shown = metrics.horizontalAdvance(m_text) <= width() ? m_text : metrics.elidedText(m_brief, Qt::ElideRight, width());
        painter.drawText(rect(), Qt::AlignLeft | Qt::AlignVCenter, shown);
    }

private:
    QString m_text;
    QString m_brief;
};

QString coloured(const QString& text, const QColor& colour)
{
    return QStringLiteral("<span style=\"color:%1\">%2</span>").arg(colour.name(), text.toHtmlEscaped());
}

QString strong(const QString& text) { return QStringLiteral("<b>%1</b>").arg(text.toHtmlEscaped()); }

}  // namespace

class StatusBar::Private
{
public:
    QString planName;
    QString readOnly;
    bool modified = false;
    bool hasPlan = false;
    std::optional<PlanCost> cost;
    std::optional<PlanCost> dense;
    HeadlinePerplexity headline;
    std::optional<double> estimate;
    std::optional<JobState> job;
    EngineState engine = EngineState::NotStarted;
    QString engineText;
    bool compact = false;
    QString perplexityText;   // with its difference to dense
    QString perplexityBrief;  // without
    int textWidth = 0;
    int briefWidth = 0;

    QLabel* planIcon = nullptr;
    QLabel* plan = nullptr;
    Hairline* afterPlan = nullptr;
    QLabel* size = nullptr;
    Hairline* afterSize = nullptr;
    QLabel* active = nullptr;
    Hairline* afterActive = nullptr;
    QLabel* clock = nullptr;
    Part* perplexity = nullptr;
    QLabel* speed = nullptr;
    Basis* basis = nullptr;  // of the perplexity: text, windows, window length
    QLabel* jobText = nullptr;
    QProgressBar* bar = nullptr;
    QLabel* jobEta = nullptr;
    QToolButton* cancel = nullptr;
    Hairline* beforeEngine = nullptr;
    QLabel* engineIcon = nullptr;
    Part* engineLabel = nullptr;
};

StatusBar::StatusBar(QWidget* parent) : QWidget(parent), d(std::make_unique<Private>())
{
    setAccessibleName(tr("Status"));
    auto* row = new QHBoxLayout(this);
    row->setContentsMargins(12, 0, 12, 0);
    row->setSpacing(8);
    const auto label = [&](auto* widget) {
        widget->setTextFormat(Qt::RichText);
        row->addWidget(widget);
        return widget;
    };
    d->planIcon = label(new QLabel(this));
    d->plan = label(new QLabel(this));
    row->addWidget(d->afterPlan = new Hairline(this));
    d->size = label(new QLabel(this));
    row->addWidget(d->afterSize = new Hairline(this));
    d->active = label(new QLabel(this));
    row->addWidget(d->afterActive = new Hairline(this));
    d->clock = label(new QLabel(this));
    d->perplexity = label(new Part(this));
    row->addWidget(d->basis = new Basis(this), 1);
    d->speed = label(new QLabel(this));
    d->speed->hide();
    d->jobText = label(new QLabel(this));
    d->bar = new QProgressBar(this);
    d->bar->setTextVisible(false);
    row->addWidget(d->bar);
    d->jobEta = label(new QLabel(this));
    d->cancel = new QToolButton(this);
    d->cancel->setIconSize({pixelsOf(16), pixelsOf(16)});
    d->cancel->setToolTip(tr("Cancel (Ctrl+.)"));
    d->cancel->setAccessibleName(tr("Cancel the running job"));
    row->addWidget(d->cancel);
    row->addWidget(d->beforeEngine = new Hairline(this));
    d->engineIcon = label(new QLabel(this));
    d->engineLabel = label(new Part(this));
    d->perplexity->clicked = [this] { emit perplexityClicked(); };
    d->engineLabel->clicked = [this] { emit engineClicked(); };
    d->engineLabel->setCursor(Qt::PointingHandCursor);
    connect(d->cancel, &QToolButton::clicked, this, &StatusBar::cancelRequested);
    setSizePolicy(QSizePolicy::Preferred, QSizePolicy::Fixed);
    clear();
}

StatusBar::~StatusBar() = default;

QSize StatusBar::sizeHint() const { return {QWidget::sizeHint().width(), pixelsOf(28)}; }

static QString plain(QString text)
{
    static const QRegularExpression tags(QStringLiteral("<[^>]*>"));
    return text.remove(tags);
}

QString StatusBar::text() const
{
    QStringList parts;
    for (const QLabel* label : {d->plan, d->size, d->active, static_cast<QLabel*>(d->perplexity), d->speed, d->jobText, d->jobEta,
                                static_cast<QLabel*>(d->engineLabel)}) {
        const QString& words = label == d->perplexity ? d->perplexityText : label->text();
        if ((!label->isHidden() || label == d->engineLabel || label == d->speed) && !words.isEmpty()) parts += plain(words);
        if (label == d->perplexity && !d->basis->text().isEmpty()) parts += d->basis->text();
    }
    return parts.join(QStringLiteral(" | "));
}

void StatusBar::setPlan(const QString& name, bool modified)
{
    d->hasPlan = true;
    d->planName = name;
    d->modified = modified;
    d->planIcon->setPixmap(iconPixmap(QStringLiteral("circle-dot"), theme().accent, pixelsOf(14), devicePixelRatioF()));
    const QFontMetrics head(fontFor(FontRole::Head));
    const QString shown = head.elidedText(name, Qt::ElideRight, pixelsOf(kMostNameWidth));
    d->plan->setText(strong(modified ? shown + QLatin1Char('*') : shown));
    QString tip = modified ? tr("Plan %1, not saved").arg(name) : tr("Plan %1").arg(name);
    if (!d->readOnly.isEmpty()) {
        d->plan->setText(d->plan->text() + QLatin1Char(' ') + coloured(tr("read-only"), theme().warning));
        tip += QLatin1Char('\n') + d->readOnly;
    }
    d->plan->setToolTip(tip);
    d->planIcon->show();
    d->plan->show();
}

void StatusBar::setReadOnly(const QString& why)
{
    if (std::exchange(d->readOnly, why) == why || !d->hasPlan) return;
    setPlan(QString(d->planName), d->modified);
}

void StatusBar::setCost(const PlanCost& plan, const PlanCost& dense)
{
    d->cost = plan;
    d->dense = dense;
    const Theme& t = theme();
    QString text = format::bytes(plan.bytes).toHtmlEscaped();
    if (dense.bytes > 0) {
        const double ratio = static_cast<double>(plan.bytes) / static_cast<double>(dense.bytes);
        text += QLatin1Char(' ') + coloured(QLatin1Char('(') + format::percentChange(ratio) + QLatin1Char(')'), t.muted);
    }
    d->size->setText(text);
    d->size->setToolTip(tr("%1 parameters of %2").arg(format::parameters(plan.parameters), format::parameters(dense.parameters)));
    d->active->setText(coloured((plan.activeAtMost ? tr("active at most") : tr("active")) + QLatin1Char(' '), t.muted) +
                       format::parameters(plan.activeParameters));
    d->active->setToolTip(plan.activeAtMost ? tr("Parameters used per token at most: tokens may skip experts")
                                            : tr("Parameters used per token"));
    d->size->show();
    d->afterPlan->show();
    d->active->setVisible(!d->compact);
    d->afterSize->setVisible(!d->compact);
}

void StatusBar::setPerplexity(const HeadlinePerplexity& headline) { setPerplexity(headline, std::nullopt); }

void StatusBar::setPerplexity(const HeadlinePerplexity& headline, std::optional<double> estimate)
{
    using Kind = HeadlinePerplexity::Kind;
    d->headline = headline;
    d->estimate = estimate;
    const Theme& t = theme();
    QString text, brief;
    QString differences;
    if (headline.delta) {
        differences =
            tr("Δ %1").arg(headline.deltaError ? format::delta(*headline.delta, *headline.deltaError) : format::delta(*headline.delta));
        if (headline.kind != Kind::Estimate) differences += tr(" paired");
        differences = QStringLiteral(" (%1)").arg(differences);
    }
    switch (headline.kind) {
        case Kind::None:
            break;
        case Kind::Full:
        case Kind::Quick:
            brief = coloured(tr("PPL") + QLatin1Char(' '), t.muted) + strong(format::perplexity(headline.ppl, headline.error));
            text = brief + coloured(differences, t.muted);
            if (headline.running) text += coloured(QLatin1Char(' ') + tr("measuring"), t.muted);
            break;
        case Kind::Estimate:
            brief = coloured(format::estimate(headline.ppl), t.estimate);
            text = coloured(format::estimate(headline.ppl) + differences, t.estimate);
            break;
        case Kind::Stale:
            // The clock beside it says that it is of another plan.
            brief = coloured(tr("PPL %1").arg(format::perplexity(headline.ppl, headline.error)), t.stale);
            text = coloured(tr("PPL %1 · %2").arg(format::perplexity(headline.ppl, headline.error), headline.note), t.stale);
            if (estimate) text += QStringLiteral("&nbsp;&nbsp;") + coloured(format::estimate(*estimate), t.estimate);
            break;
    }
    d->basis->set(headline.basis.isEmpty() ? QString() : tr("on %1").arg(headline.basis), headline.shortBasis);
    const bool stale = headline.kind == Kind::Stale;
    if (stale) d->clock->setPixmap(iconPixmap(QStringLiteral("history"), t.stale, pixelsOf(14), devicePixelRatioF()));
    d->clock->setVisible(stale);
    d->perplexityText = text;
    d->perplexityBrief = brief;
    d->perplexity->setText(brief);
    d->briefWidth = d->perplexity->sizeHint().width();
    d->perplexity->setText(text);
    d->textWidth = d->perplexity->sizeHint().width();
    QStringList tip = {headline.basis};
    if (!headline.note.isEmpty() && headline.note != headline.basis) tip.prepend(headline.note);
    if (!differences.isEmpty()) tip.prepend(differences.trimmed());
    d->perplexity->setToolTip(tip.join(QLatin1Char('\n')));
    d->perplexity->setVisible(!text.isEmpty());
    d->afterActive->setVisible(!text.isEmpty());
    fit();
}

void StatusBar::setSpeed(const QString& text, const QString& help)
{
    d->speed->setText(text.toHtmlEscaped());
    d->speed->setToolTip(help);
    fit();
}

// Changes nothing where nothing has to be: a change asks for the layout, which calls this again.
void StatusBar::fit()
{
    int need = layout()->minimumSize().width();
    if (d->engineLabel->isHidden()) need += d->engineLabel->sizeHint().width() + layout()->spacing();
    if (!d->speed->isHidden()) need -= d->speed->sizeHint().width() + layout()->spacing();
    bool whole = true;
    if (!d->perplexity->isHidden()) {
        need += d->textWidth - d->perplexity->sizeHint().width();
        whole = need <= width();
        if (!whole) need -= d->textWidth - d->briefWidth;
    }
    const QString& shown = whole ? d->perplexityText : d->perplexityBrief;
    if (d->perplexity->text() != shown) d->perplexity->setText(shown);
    // Its icon stays, with the words in its tool tip.
    d->engineLabel->setVisible(need <= width());
    // What was measured once gives way to what changes; the history's tool tip has it.
    d->speed->setVisible(!d->speed->text().isEmpty() && need + d->speed->sizeHint().width() + layout()->spacing() <= width());
}

bool StatusBar::event(QEvent* event)
{
    const bool done = QWidget::event(event);
    if (event->type() == QEvent::LayoutRequest && d != nullptr && d->engineLabel != nullptr) fit();
    return done;
}

void StatusBar::resizeEvent(QResizeEvent* event)
{
    QWidget::resizeEvent(event);
    fit();
}

void StatusBar::setJob(const std::optional<JobState>& job)
{
    d->job = job;
    const Theme& t = theme();
    const bool shown = job.has_value();
    d->jobText->setVisible(shown);
    d->bar->setVisible(shown && job->phase != JobState::Phase::Cancelling);
    d->jobEta->setVisible(shown);
    d->cancel->setVisible(shown && job->phase != JobState::Phase::Cancelling);
    if (!shown) return;
    d->bar->setFixedWidth(pixelsOf(d->compact ? 90 : 140));
    switch (job->phase) {
        case JobState::Phase::Running: {
            QString text = d->jobText->fontMetrics().elidedText(job->what, Qt::ElideRight, pixelsOf(kMostNameWidth));
            if (!job->count.isEmpty())
                text += format::kDot + job->count;
            else if (job->total > 0)
                text += format::kDot + format::countOf(job->done, job->total);
            d->jobText->setText(text.toHtmlEscaped());
            d->jobText->setToolTip(job->what);
            // Without a total the bar stays empty: a moving one would say nothing.
            d->bar->setRange(0, 1000);
            d->bar->setValue(job->total > 0 ? static_cast<int>(1000 * job->done / job->total) : 0);
            d->jobEta->setText(job->etaSeconds ? coloured(format::eta(*job->etaSeconds), t.muted) : QString());
            break;
        }
        case JobState::Phase::Finishing:
            d->jobText->setText(d->jobText->fontMetrics().elidedText(job->what, Qt::ElideRight, pixelsOf(kMostNameWidth)).toHtmlEscaped());
            d->bar->setRange(0, 1000);
            d->bar->setValue(1000);
            d->jobEta->setText(coloured(tr("finishing"), t.muted));
            break;
        case JobState::Phase::Cancelling:
            d->jobText->setText(coloured(job->what + format::kDot + tr("cancelling"), t.muted));
            d->jobEta->clear();
            break;
    }
    d->bar->setAccessibleName(plain(d->jobText->text()));
}

void StatusBar::setEngine(EngineState state, const QString& text)
{
    d->engine = state;
    d->engineText = text;
    const Theme& t = theme();
    QString iconName = QStringLiteral("cpu");
    QColor colour = t.muted;
    QString fallback;
    switch (state) {
        case EngineState::NotStarted:
            fallback = tr("Engine not started");
            break;
        case EngineState::Starting:
            fallback = tr("Engine starting");
            break;
        case EngineState::Ready:
            fallback = tr("Engine ready");
            colour = t.accent;
            break;
        case EngineState::Busy:
            fallback = tr("Engine busy");
            colour = t.accent;
            break;
        case EngineState::NotResponding:
            fallback = tr("Engine not responding");
            iconName = QStringLiteral("triangle-alert");
            colour = t.warning;
            break;
        case EngineState::Lost:
            fallback = tr("Engine stopped");
            iconName = QStringLiteral("unplug");
            colour = t.error;
            break;
        case EngineState::Incompatible:
            fallback = tr("Engine incompatible");
            iconName = QStringLiteral("triangle-alert");
            colour = t.error;
            break;
    }
    const QString shown = text.isEmpty() ? fallback : text;
    const bool bad = state == EngineState::Lost || state == EngineState::Incompatible || state == EngineState::NotResponding;
    d->engineIcon->setPixmap(iconPixmap(iconName, colour, pixelsOf(16), devicePixelRatioF()));
    d->engineLabel->setText(bad ? coloured(shown, colour) : shown.toHtmlEscaped());
    d->engineLabel->setToolTip(fallback);
    d->engineIcon->setToolTip(text.isEmpty() ? fallback : QString(fallback + QLatin1Char('\n') + text));
    d->engineLabel->setAccessibleName(fallback + QStringLiteral(": ") + shown);
}

void StatusBar::setCompact(bool compact)
{
    if (d->compact == compact) return;
    d->compact = compact;
    if (d->cost) setCost(*d->cost, *d->dense);
    setJob(d->job);
}

void StatusBar::clear()
{
    d->hasPlan = false;
    d->readOnly.clear();
    d->cost.reset();
    d->dense.reset();
    d->headline = {};
    d->basis->set({}, {});
    d->speed->clear();
    d->speed->hide();
    for (QWidget* widget : std::initializer_list<QWidget*>{d->planIcon, d->plan, d->afterPlan, d->size, d->afterSize, d->active,
                                                           d->afterActive, d->clock, d->perplexity})
        widget->hide();
    d->plan->setText(coloured(tr("No model open"), theme().muted));
    d->plan->setToolTip({});
    d->plan->show();
    setJob(std::nullopt);
    d->cancel->setIcon(icon(QStringLiteral("x")));
    setEngine(d->engine, d->engineText);
}

void StatusBar::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if (event->type() != QEvent::StyleChange || d == nullptr || d->engineLabel == nullptr) return;
    if (d->hasPlan)
        setPlan(QString(d->planName), d->modified);
    else
        clear();
    if (d->cost) setCost(PlanCost(*d->cost), PlanCost(*d->dense));
    setPerplexity(HeadlinePerplexity(d->headline), d->estimate);
    setJob(std::optional<JobState>(d->job));
    setEngine(d->engine, QString(d->engineText));
}

void StatusBar::paintEvent(QPaintEvent*)
{
    QPainter painter(this);
    painter.fillRect(rect(), theme().window);
}

}  // namespace espalier
