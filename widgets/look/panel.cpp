#include "look/panel.h"

#include "look/icon.h"
#include "look/theme.h"

#include <QAction>
#include <QEvent>
#include <QFocusEvent>
#include <QHBoxLayout>
#include <QLabel>
#include <QPainter>
#include <QStackedWidget>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>

namespace espalier
{

namespace
{

// Pages behind the one that is seen ask for no width: QStackedWidget takes the largest of all.
class Pages final : public QStackedWidget
{
public:
    explicit Pages(QWidget* parent) : QStackedWidget(parent)
    {
        connect(this, &QStackedWidget::currentChanged, this, &QWidget::updateGeometry);
    }
    QSize minimumSizeHint() const override
    {
        const QWidget* page = currentWidget();
        return {page ? std::max(page->minimumSizeHint().width(), page->minimumWidth()) : 0, QStackedWidget::minimumSizeHint().height()};
    }
};

// The name of a page in the header: a title when it is alone, a tab with an underline when there are several.
class HeaderTab final : public QToolButton
{
public:
    using QToolButton::QToolButton;
    bool alone = true;

    QSize sizeHint() const override
    {
        const QFontMetrics metrics(fontFor(FontRole::Head));
        return {metrics.horizontalAdvance(text()) + (alone ? 0 : pixelsOf(16)), pixelsOf(34)};
    }
    QSize minimumSizeHint() const override { return sizeHint(); }

protected:
    void paintEvent(QPaintEvent*) override
    {
        QPainter painter(this);
        const Theme& t = theme();
        const bool front = alone || isChecked();
        painter.setFont(fontFor(front ? FontRole::Head : FontRole::Body));
        painter.setPen(front || underMouse() ? t.text : t.muted);
        painter.drawText(rect(), Qt::AlignCenter | Qt::TextSingleLine, text());
        if (!alone && isChecked()) painter.fillRect(QRect(0, height() - 2, width(), 2), t.accent);
        if (property("keyFocus").toBool()) {
            painter.setRenderHint(QPainter::Antialiasing);
            painter.setPen(QPen(t.focus, 2));
            painter.drawRoundedRect(QRectF(rect()).adjusted(1, 4, -1, -4), 4, 4);
        }
    }
    void mousePressEvent(QMouseEvent* event) override
    {
        // A lone title is part of the dock's handle.
        if (alone)
            event->ignore();
        else
            QToolButton::mousePressEvent(event);
    }
};

HeaderTab* tabOf(QToolButton* button) { return static_cast<HeaderTab*>(button); }

}  // namespace

PanelHeader::PanelHeader(QWidget* parent) : QWidget(parent)
{
    auto* layout = new QHBoxLayout(this);
    layout->setContentsMargins(10, 0, 6, 0);
    layout->setSpacing(8);
    const auto addRow = [layout](int spacing) {
        auto* row = new QHBoxLayout;
        row->setContentsMargins(0, 0, 0, 0);
        row->setSpacing(spacing);
        layout->addLayout(row);
        return row;
    };
    m_tabs = addRow(2);
    m_subtitle = new QLabel(this);
    m_subtitle->setProperty("role", QStringLiteral("muted"));
    m_subtitle->hide();
    layout->addWidget(m_subtitle);
    m_choosers = addRow(8);
    layout->addStretch(1);
    m_trailing = addRow(8);
    m_tools = addRow(2);
    setSizePolicy(QSizePolicy::Preferred, QSizePolicy::Fixed);
}

int PanelHeader::addPage(const QString& title, QWidget* choosers)
{
    auto* tab = new HeaderTab(this);
    tab->setText(title);
    tab->setCheckable(true);
    tab->setAutoExclusive(true);
    tab->setAccessibleName(title);
    const int page = static_cast<int>(m_pages.size());
    tab->setChecked(page == m_current);
    m_tabs->addWidget(tab);
    if (choosers != nullptr) m_choosers->addWidget(choosers);
    m_pages.push_back({tab, choosers});
    connect(tab, &QToolButton::clicked, this, [this, page] { setCurrentPage(page); });
    refresh();
    return page;
}

void PanelHeader::setPageTitle(int page, const QString& title)
{
    m_pages.at(static_cast<std::size_t>(page)).tab->setText(title);
    m_pages.at(static_cast<std::size_t>(page)).tab->setAccessibleName(title);
    refresh();
}

void PanelHeader::setPageVisible(int page, bool visible)
{
    m_pages.at(static_cast<std::size_t>(page)).visible = visible;
    if (!visible && page == m_current) setCurrentPage(0);
    refresh();
}

void PanelHeader::setCurrentPage(int page)
{
    if (page == m_current || page < 0 || page >= pageCount()) return;
    m_current = page;
    refresh();
    emit currentPageChanged(page);
}

void PanelHeader::setSubtitle(const QString& text)
{
    m_subtitle->setText(text);
    m_subtitle->setFont(fontFor(FontRole::Small));
    fitSubtitle();
}

int PanelHeader::widthOfSubtitle() const { return m_subtitle->sizeHint().width() + layout()->spacing(); }

void PanelHeader::fitSubtitle()
{
    const int others = layout()->sizeHint().width() - (m_subtitle->isHidden() ? 0 : widthOfSubtitle());
    m_subtitle->setVisible(!m_subtitle->text().isEmpty() && others + widthOfSubtitle() <= width());
}

bool PanelHeader::event(QEvent* event)
{
    const bool done = QWidget::event(event);
    // A chooser came, went or became wider.
    if (event->type() == QEvent::LayoutRequest) fitSubtitle();
    return done;
}

void PanelHeader::resizeEvent(QResizeEvent* event)
{
    QWidget::resizeEvent(event);
    fitSubtitle();
}

void PanelHeader::addTrailing(QWidget* widget) { m_trailing->addWidget(widget); }

QToolButton* PanelHeader::addTool(QAction* action)
{
    auto* button = new QToolButton(this);
    button->setDefaultAction(action);
    button->setAutoRaise(true);
    button->setIconSize({pixelsOf(16), pixelsOf(16)});
    button->setFixedSize(pixelsOf(26), pixelsOf(26));
    button->setAccessibleName(action->text());
    m_tools->addWidget(button);
    return button;
}

QToolButton* PanelHeader::addTool(const QString& iconName, const QString& toolTip)
{
    auto* button = new QToolButton(this);
    button->setIcon(icon(iconName));
    button->setToolTip(toolTip);
    button->setAccessibleName(toolTip);
    button->setAutoRaise(true);
    button->setIconSize({pixelsOf(16), pixelsOf(16)});
    button->setFixedSize(pixelsOf(26), pixelsOf(26));
    m_tools->addWidget(button);
    return button;
}

void PanelHeader::refresh()
{
    const bool several = std::count_if(m_pages.begin(), m_pages.end(), [](const Page& page) { return page.visible; }) > 1;
    for (std::size_t i = 0; i < m_pages.size(); ++i) {
        HeaderTab* tab = tabOf(m_pages[i].tab);
        tab->alone = !several;
        tab->setVisible(m_pages[i].visible);
        tab->setFocusPolicy(tab->alone ? Qt::NoFocus : Qt::TabFocus);
        tab->setChecked(static_cast<int>(i) == m_current);
        tab->updateGeometry();
        tab->update();
        if (m_pages[i].choosers != nullptr) m_pages[i].choosers->setVisible(static_cast<int>(i) == m_current);
    }
    // Tabs carry their own padding.
    layout()->setContentsMargins(several ? 2 : 10, 0, 6, 0);
}

QSize PanelHeader::sizeHint() const { return {QWidget::sizeHint().width(), pixelsOf(34)}; }
QSize PanelHeader::minimumSizeHint() const
{
    return {layout()->minimumSize().width() - (m_subtitle->isHidden() ? 0 : widthOfSubtitle()), pixelsOf(34)};
}

void PanelHeader::paintEvent(QPaintEvent*)
{
    QPainter painter(this);
    painter.fillRect(rect(), theme().surface);
}

PanelFrame::PanelFrame(QWidget* parent) : QWidget(parent)
{
    auto* layout = new QVBoxLayout(this);
    layout->setContentsMargins(0, 0, 0, 0);
    layout->setSpacing(0);
    m_header = new PanelHeader(this);
    m_stack = new Pages(this);
    layout->addWidget(m_header);
    layout->addWidget(m_stack, 1);
    connect(m_header, &PanelHeader::currentPageChanged, m_stack, &QStackedWidget::setCurrentIndex);
}

int PanelFrame::addPage(const QString& title, QWidget* page, QWidget* choosers)
{
    m_stack->addWidget(page);
    return m_header->addPage(title, choosers);
}

void PanelFrame::setCurrentPage(int page) { m_header->setCurrentPage(page); }

QWidget* PanelFrame::currentPage() const { return m_stack->currentWidget(); }

Panel::Panel(const QString& id, const QString& title, QWidget* parent) : QDockWidget(title, parent)
{
    setObjectName(id);
    setAllowedAreas(Qt::AllDockWidgetAreas);
    setFeatures(QDockWidget::DockWidgetMovable | QDockWidget::DockWidgetFloatable | QDockWidget::DockWidgetClosable);
    m_header = new PanelHeader(this);
    m_stack = new Pages(this);
    setTitleBarWidget(m_header);
    setWidget(m_stack);
    connect(m_header, &PanelHeader::currentPageChanged, m_stack, &QStackedWidget::setCurrentIndex);
}

int Panel::addPage(const QString& title, QWidget* page, QWidget* choosers)
{
    m_stack->addWidget(page);
    return m_header->addPage(title, choosers);
}

void Panel::setCurrentPage(int page) { m_header->setCurrentPage(page); }

QWidget* Panel::currentPage() const { return m_stack->currentWidget(); }

}  // namespace espalier
