#include "look/banner.h"

#include "look/icon.h"
#include "look/theme.h"

#include <QApplication>
#include <QEvent>
#include <QHBoxLayout>
#include <QLabel>
#include <QPainter>
#include <QPushButton>
#include <QRegularExpression>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>

namespace espalier
{

namespace
{

constexpr int kMostShown = 2;
constexpr int kSameEventMsec = 1000;

class BannerStrip final : public QWidget
{
public:
    BannerStrip(const Banner& banner, QWidget* parent) : QWidget(parent), m_kind(banner.kind) {}

protected:
    void paintEvent(QPaintEvent*) override
    {
        QPainter painter(this);
        const Theme& t = theme();
        const bool isError = m_kind == Banner::Kind::Error;
        const bool isInfo = m_kind == Banner::Kind::Info;
        painter.fillRect(rect(), isError ? t.errorTint : isInfo ? t.accentTint : t.warningTint);
        painter.fillRect(QRect(0, 0, 4, height()), isError ? t.error : isInfo ? t.accent : t.warning);
    }

private:
    Banner::Kind m_kind;
};

}  // namespace

QString withoutNumbers(QString text)
{
    static const QRegularExpression numbers(QStringLiteral("[0-9]+([.,][0-9]+)*"));
    return text.replace(numbers, QStringLiteral("#"));
}

BannerStack::BannerStack(QWidget* parent) : QWidget(parent)
{
    m_layout = new QVBoxLayout(this);
    m_layout->setContentsMargins(0, 0, 0, 0);
    m_layout->setSpacing(4);
    setSizePolicy(QSizePolicy::Preferred, QSizePolicy::Fixed);
    setAccessibleName(tr("Messages"));
    hide();
}

void BannerStack::show(Banner banner)
{
    const auto found = std::find_if(m_entries.begin(), m_entries.end(), [&](const Entry& e) { return e.banner.id == banner.id; });
    if (found != m_entries.end()) {
        const bool other = withoutNumbers(found->banner.cause) != withoutNumbers(banner.cause);
        const bool again = !banner.once || found->counted.elapsed() > kSameEventMsec;
        found->banner = std::move(banner);
        if (other) found->repeats = 0;
        if (again || other) {
            ++found->repeats;
            found->counted.start();
        }
    } else {
        m_entries.push_back({std::move(banner), 1, {}});
        m_entries.back().counted.start();
    }
    rebuild();
    emit countChanged(count());
}

void BannerStack::dismiss(const QString& id)
{
    if (std::erase_if(m_entries, [&](const Entry& e) { return e.banner.id == id; }) == 0) return;
    rebuild();
    emit dismissed(id);
    emit countChanged(count());
}

void BannerStack::dismissAll()
{
    while (!m_entries.empty())
        dismiss(QString(m_entries.back().banner.id));
}

void BannerStack::dismissOfModel()
{
    QStringList ids;
    for (const Entry& entry : m_entries)
        if (entry.banner.ofModel) ids << entry.banner.id;
    for (const QString& id : ids)
        dismiss(id);
}

void BannerStack::dismissOthers(const QStringList& starts, const QString& id)
{
    QStringList ids;
    for (const Entry& entry : m_entries)
        if (entry.banner.id != id &&
            std::any_of(starts.begin(), starts.end(), [&](const QString& start) { return entry.banner.id.startsWith(start); }))
            ids << entry.banner.id;
    for (const QString& other : ids)
        dismiss(other);
}

int BannerStack::repeats(const QString& id) const
{
    for (const Entry& entry : m_entries) {
        if (entry.banner.id == id) return entry.repeats;
    }
    return 0;
}

QString BannerStack::text() const
{
    QStringList lines;
    for (const Entry& entry : m_entries)
        lines += entry.banner.cause + QLatin1Char(' ') + entry.banner.consequence;
    return lines.join(QLatin1Char('\n'));
}

void BannerStack::changeEvent(QEvent* event)
{
    QWidget::changeEvent(event);
    if (event->type() == QEvent::StyleChange) rebuild();
}

void BannerStack::rebuild()
{
    if (QWidget* focus = QApplication::focusWidget(); focus && isAncestorOf(focus) && m_focusReturn)
        m_focusReturn->setFocus(Qt::OtherFocusReason);
    // Buttons of the strips may be on the call stack: they go when control returns to the event loop.
    while (QLayoutItem* item = m_layout->takeAt(0)) {
        if (item->widget() != nullptr) {
            item->widget()->hide();
            item->widget()->deleteLater();
        }
        delete item;
    }
    const int total = count();
    if (total <= kMostShown) m_unfolded = false;
    const int shown = m_unfolded ? total : std::min(total, kMostShown);
    const Theme& t = theme();
    for (int i = 0; i < shown; ++i) {
        const Entry& entry = m_entries[static_cast<std::size_t>(total - 1 - i)];
        const Banner& banner = entry.banner;
        auto* strip = new BannerStrip(banner, this);
        strip->setMinimumHeight(pixelsOf(44));
        auto* row = new QHBoxLayout(strip);
        row->setContentsMargins(12, 4, 8, 4);
        row->setSpacing(10);
        auto* sign = new QLabel(strip);
        const bool isError = banner.kind == Banner::Kind::Error;
        const bool isInfo = banner.kind == Banner::Kind::Info;
        const QString iconName = !banner.iconName.isEmpty() ? banner.iconName
                                 : isInfo                   ? QStringLiteral("info")
                                                            : QStringLiteral("triangle-alert");
        sign->setPixmap(iconPixmap(iconName, isError ? t.error : isInfo ? t.accent : t.warning, pixelsOf(18), devicePixelRatioF()));
        row->addWidget(sign);
        QString words = QStringLiteral("<b>%1</b>").arg(banner.cause.toHtmlEscaped());
        if (!banner.consequence.isEmpty()) words += QStringLiteral("&nbsp;&nbsp;") + banner.consequence.toHtmlEscaped();
        if (entry.repeats > 1) words += QStringLiteral("&nbsp;&nbsp;×%1").arg(entry.repeats);
        auto* label = new QLabel(words, strip);
        label->setTextFormat(Qt::RichText);
        label->setWordWrap(true);
        label->setTextInteractionFlags(Qt::TextSelectableByMouse);
        label->setAccessibleName(banner.cause + QLatin1Char(' ') + banner.consequence);
        row->addWidget(label, 1);
        for (std::size_t a = 0; a < banner.actions.size(); ++a) {
            const BannerAction& action = banner.actions[a];
            auto* button = new QPushButton(action.text, strip);
            if (a == 0 && action.filled) button->setProperty("filled", true);
            row->addWidget(button);
            connect(button, &QPushButton::clicked, this, [this, id = banner.id, action] {
                if (action.dismisses) dismiss(id);
                if (action.run) action.run();
            });
        }
        auto* close = new QToolButton(strip);
        close->setIcon(icon(QStringLiteral("x")));
        close->setIconSize({pixelsOf(16), pixelsOf(16)});
        close->setToolTip(tr("Close this message"));
        close->setAccessibleName(tr("Close this message"));
        row->addWidget(close);
        connect(close, &QToolButton::clicked, this, [this, id = banner.id] { dismiss(id); });
        m_layout->addWidget(strip);
    }
    if (total > shown) {
        auto* more = new QPushButton(tr("and %1 more").arg(total - shown), this);
        more->setProperty("link", true);
        m_layout->addWidget(more, 0, Qt::AlignLeft);
        connect(more, &QPushButton::clicked, this, [this] {
            m_unfolded = true;
            rebuild();
        });
    }
    setVisible(total > 0);
}

}  // namespace espalier
