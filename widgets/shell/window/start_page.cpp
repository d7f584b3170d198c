#include "shell/window/start_page.h"

#include "look/controls.h"
#include "look/icon.h"
#include "look/theme.h"

#include <QDir>
#include <QFileInfo>
#include <QHBoxLayout>
#include <QKeyEvent>
#include <QLabel>
#include <QPainter>
#include <QPushButton>
#include <QVBoxLayout>

namespace espalier
{

namespace
{

// Painted buttons that Return presses too, as on a dialog's default button.
class StartButton : public QAbstractButton
{
public:
    explicit StartButton(QWidget* parent) : QAbstractButton(parent)
    {
        setFocusPolicy(Qt::StrongFocus);
        setAttribute(Qt::WA_Hover);
    }

protected:
    bool m_keyFocus = false;  // the ring shows only where focus came by key

    void focusInEvent(QFocusEvent* event) override
    {
        m_keyFocus = event->reason() == Qt::TabFocusReason || event->reason() == Qt::BacktabFocusReason;
        QAbstractButton::focusInEvent(event);
    }
    void keyPressEvent(QKeyEvent* event) override
    {
        if (event->key() == Qt::Key_Return || event->key() == Qt::Key_Enter)
            click();
        else
            QAbstractButton::keyPressEvent(event);
    }
};

// A wide button with icon, title, second line and shortcut.
class EntryButton final : public StartButton
{
public:
    EntryButton(const QString& iconName, const QString& title, const QString& text, const QString& shortcut, bool filled, QWidget* parent)
        : StartButton(parent), m_icon(iconName), m_title(title), m_text(text), m_shortcut(shortcut), m_filled(filled)
    {
        setAccessibleName(title + QStringLiteral(", ") + text);
        setText(title);
    }
    QSize sizeHint() const override { return {pixelsOf(380), pixelsOf(56)}; }

protected:
    void paintEvent(QPaintEvent*) override
    {
        const Theme& t = theme();
        QPainter painter(this);
        painter.setRenderHint(QPainter::Antialiasing);
        painter.setPen(Qt::NoPen);
        painter.setBrush(m_filled ? (underMouse() ? t.accentHover : t.accent) : (underMouse() ? t.controlHover : t.control));
        painter.drawRoundedRect(QRectF(rect()).adjusted(1, 1, -1, -1), 4, 4);
        const QColor ink = m_filled ? t.onAccent : t.text;
        const qreal icon = pixelsOf(20);
        paintIcon(&painter, m_icon, ink, QRectF(pixelsOf(16), (height() - icon) / 2.0, icon, icon));
        const int left = pixelsOf(54);
        painter.setFont(fontFor(FontRole::Head));
        painter.setPen(ink);
        const int half = height() / 2;
        painter.drawText(QRect(left, 0, width() - left - pixelsOf(90), half - pixelsOf(1)), Qt::AlignLeft | Qt::AlignBottom, m_title);
        painter.setFont(fontFor(FontRole::Small));
        painter.setPen(m_filled ? t.onAccent : t.muted);
        painter.drawText(QRect(left, half + pixelsOf(1), width() - left - pixelsOf(16), half), Qt::AlignLeft | Qt::AlignTop, m_text);
        painter.drawText(QRect(0, 0, width() - pixelsOf(16), height()), Qt::AlignRight | Qt::AlignVCenter, m_shortcut);
        if (!hasFocus() || !m_keyFocus) return;
        if (!m_filled) return paintFocusRing(&painter, QRectF(rect()));
        // On the accent the ring takes the ink's colour, inside.
        painter.setBrush(Qt::NoBrush);
        painter.setPen(QPen(ink, 2));
        painter.drawRoundedRect(QRectF(rect()).adjusted(4, 4, -4, -4), 3, 3);
    }

private:
    QString m_icon, m_title, m_text, m_shortcut;
    bool m_filled;
};

// One line of the recent list: name and path; greyed when it is gone.
class RecentButton final : public StartButton
{
public:
    RecentButton(const QString& path, QWidget* parent) : StartButton(parent), m_path(path), m_exists(QFileInfo::exists(path))
    {
        setText(QFileInfo(path).fileName());
        setAccessibleName(text());
        setToolTip(path);
        setEnabled(m_exists);
    }
    QSize sizeHint() const override { return {pixelsOf(640), pixelsOf(56)}; }

protected:
    void paintEvent(QPaintEvent*) override
    {
        const Theme& t = theme();
        QPainter painter(this);
        painter.setRenderHint(QPainter::Antialiasing);
        if (underMouse() && m_exists) painter.fillRect(rect(), t.rowHover);
        const bool session = m_path.endsWith(QLatin1String(".espalier"));
        const qreal icon = pixelsOf(20);
        paintIcon(&painter, session ? QStringLiteral("grid-3x3") : QStringLiteral("box"), m_exists ? t.muted : t.disabled,
                  QRectF(pixelsOf(14), (height() - icon) / 2.0, icon, icon));
        const int left = pixelsOf(52);
        const int half = height() / 2;
        painter.setFont(fontFor(FontRole::Head));
        painter.setPen(m_exists ? t.text : t.muted);
        painter.drawText(QRect(left, 0, width() - left, half - pixelsOf(1)), Qt::AlignLeft | Qt::AlignBottom, text());
        painter.setFont(fontFor(FontRole::Small));
        painter.setPen(t.muted);
        const QString shown = m_exists ? QDir::toNativeSeparators(m_path)
                                       : QObject::tr("Not found: the file was moved or the disk is not mounted · %1").arg(m_path);
        painter.drawText(QRect(left, half + pixelsOf(1), width() - left - pixelsOf(8), half), Qt::AlignLeft | Qt::AlignTop,
                         painter.fontMetrics().elidedText(shown, Qt::ElideMiddle, width() - left - pixelsOf(8)));
        if (hasFocus() && m_keyFocus) paintFocusRing(&painter, QRectF(rect()));
    }

private:
    QString m_path;
    bool m_exists;
};

class Sign final : public QWidget
{
public:
    explicit Sign(QWidget* parent) : QWidget(parent) { setFixedSize(pixelsOf(32), pixelsOf(32)); }

protected:
    void paintEvent(QPaintEvent*) override
    {
        QPainter painter(this);
        painter.setRenderHint(QPainter::Antialiasing);
        paintSign(&painter, theme().accent, QRectF(rect()));
    }
};

}  // namespace

StartPage::StartPage(QWidget* parent) : QWidget(parent)
{
    auto* left = new QVBoxLayout;
    left->setSpacing(8);
    auto* name = new QHBoxLayout;
    name->setSpacing(12);
    name->addWidget(new Sign(this));
    auto* title = new QLabel(QStringLiteral("Espalier"));
    title->setFont(fontFor(FontRole::Display));
    name->addWidget(title);
    name->addStretch();
    left->addLayout(name);
    auto* line = new QLabel(tr("Choose what a Mixture-of-Experts model keeps,\nand watch its perplexity while you do."));
    line->setProperty("role", QStringLiteral("muted"));
    left->addWidget(line);
    left->addSpacing(16);
    auto* model = new EntryButton(QStringLiteral("box"), tr("Open model…"), tr("A Hugging Face folder, and the texts to measure it on"),
                                  QStringLiteral("Ctrl+O"), true, this);
    auto* session = new EntryButton(QStringLiteral("folder-open"), tr("Open session…"), tr("An .espalier file"),
                                    QStringLiteral("Ctrl+Shift+O"), false, this);
    m_demo = new EntryButton(QStringLiteral("sprout"), tr("Try the demo"), tr("15 MB model, profiled on this computer, no download"), {},
                             false, this);
    model->setObjectName(QStringLiteral("start.openModel"));
    session->setObjectName(QStringLiteral("start.openSession"));
    m_demo->setObjectName(QStringLiteral("start.demo"));
    connect(model, &QAbstractButton::clicked, this, &StartPage::openModelRequested);
    connect(session, &QAbstractButton::clicked, this, &StartPage::openSessionRequested);
    connect(m_demo, &QAbstractButton::clicked, this, &StartPage::demoRequested);
    left->addWidget(model);
    left->addWidget(session);
    left->addWidget(m_demo);
    left->addSpacing(16);
    auto* drop = new QLabel(tr("Or drop a folder or a file anywhere in this window."));
    drop->setProperty("role", QStringLiteral("muted"));
    left->addWidget(drop);
    left->addStretch();

    auto* right = new QVBoxLayout;
    right->setSpacing(4);
    auto* head = new QHBoxLayout;
    auto* recent = new QLabel(tr("Recent"));
    recent->setFont(fontFor(FontRole::Head));
    m_recentCount = new QLabel;
    m_recentCount->setFont(fontFor(FontRole::Small));
    head->addWidget(recent);
    head->addStretch();
    head->addWidget(m_recentCount);
    right->addLayout(head);
    m_recent = new QVBoxLayout;
    m_recent->setSpacing(4);
    right->addLayout(m_recent);
    right->addSpacing(20);
    auto* engine = new QLabel(tr("Engine"));
    engine->setFont(fontFor(FontRole::Head));
    right->addWidget(engine);
    auto* engineLine = new QHBoxLayout;
    m_engineIcon = new QLabel;
    m_engine = new QLabel;
    m_restart = new QPushButton(tr("Check again"));
    connect(m_restart, &QPushButton::clicked, this, &StartPage::engineRestartRequested);
    engineLine->addWidget(m_engineIcon);
    engineLine->addWidget(m_engine, 1);
    engineLine->addWidget(m_restart);
    right->addLayout(engineLine);
    right->addStretch();

    auto* columns = new QHBoxLayout;
    columns->addStretch(1);
    columns->addLayout(left);
    columns->addSpacing(pixelsOf(60));
    columns->addLayout(right, 4);
    columns->addStretch(1);
    auto* all = new QVBoxLayout(this);
    all->addStretch(1);
    all->addLayout(columns);
    all->addStretch(2);
    setRecent({});
}

void StartPage::setRecent(const QStringList& paths)
{
    m_paths = paths;
    while (QLayoutItem* item = m_recent->takeAt(0)) {
        // It may be the button whose click leads here.
        if (QWidget* old = item->widget()) {
            old->hide();
            old->deleteLater();
        }
        delete item;
    }
    QWidget* last = m_demo;
    for (const QString& path : paths) {
        auto* button = new RecentButton(path, this);
        QWidget::setTabOrder(last, button);
        last = button;
        connect(button, &QAbstractButton::clicked, this, [this, path] { emit recentRequested(path); });
        m_recent->addWidget(button);
    }
    if (paths.isEmpty()) {
        auto* none = new QLabel(tr("Nothing yet. Models and sessions you open appear here."));
        none->setProperty("role", QStringLiteral("muted"));
        m_recent->addWidget(none);
    }
    QWidget::setTabOrder(last, m_restart);
    m_recentCount->setText(paths.isEmpty() ? QString() : tr("%n entry(ies)", nullptr, static_cast<int>(paths.size())));
}

void StartPage::setEngine(EngineState state, const QString& text)
{
    m_state = state;
    m_stateText = text;
    const bool bad = state == EngineState::Lost || state == EngineState::Incompatible || state == EngineState::NotResponding;
    const bool good = state == EngineState::Ready || state == EngineState::Busy;
    m_engineIcon->setPixmap(iconPixmap(good  ? QStringLiteral("circle-check")
                                       : bad ? QStringLiteral("unplug")
                                             : QStringLiteral("cpu"),
                                       good  ? theme().accent
                                       : bad ? theme().error
                                             : theme().muted,
                                       pixelsOf(16), devicePixelRatioF()));
    m_engine->setText(text);
}

void StartPage::paintEvent(QPaintEvent*)
{
    QPainter painter(this);
    painter.fillRect(rect(), theme().base);
}

void StartPage::changeEvent(QEvent* event)
{
    if (event->type() == QEvent::StyleChange || event->type() == QEvent::PaletteChange) {
        setEngine(m_state, m_stateText);
        update();
    }
    QWidget::changeEvent(event);
}

}  // namespace espalier
