// The frame of a view: a header of 34 px (name or tabs, subtitle, the view's choosers, stretch, tool buttons) over its content.
// Panel is the dock; PanelFrame the same for the central place. Views that share a place are tabs in the header.
#pragma once

#include <QDockWidget>
#include <QWidget>

#include <vector>

class QAction;
class QHBoxLayout;
class QLabel;
class QStackedWidget;
class QToolButton;

namespace espalier
{

class PanelHeader final : public QWidget
{
    Q_OBJECT
public:
    explicit PanelHeader(QWidget* parent = nullptr);

    int addPage(const QString& title, QWidget* choosers = nullptr);
    void setPageTitle(int page, const QString& title);
    void setPageVisible(int page, bool visible);  // its tab; the only page left in sight becomes the title
    void setCurrentPage(int page);
    int currentPage() const { return m_current; }
    int pageCount() const { return static_cast<int>(m_pages.size()); }
    void setSubtitle(const QString& text);  // shown where the rest leaves it room
    void addTrailing(QWidget* widget);      // right of the stretch, before the tool buttons
    QToolButton* addTool(QAction* action);
    QToolButton* addTool(const QString& iconName, const QString& toolTip);

    QSize sizeHint() const override;
    QSize minimumSizeHint() const override;  // tabs, choosers and buttons whole, without the subtitle

signals:
    void currentPageChanged(int page);

protected:
    bool event(QEvent* event) override;
    void paintEvent(QPaintEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;

private:
    struct Page {
        QToolButton* tab = nullptr;
        QWidget* choosers = nullptr;
        bool visible = true;
    };
    void refresh();
    void fitSubtitle();
    int widthOfSubtitle() const;

    std::vector<Page> m_pages;
    QHBoxLayout* m_tabs = nullptr;
    QHBoxLayout* m_choosers = nullptr;
    QHBoxLayout* m_trailing = nullptr;
    QHBoxLayout* m_tools = nullptr;
    QLabel* m_subtitle = nullptr;
    int m_current = 0;
};

class PanelFrame final : public QWidget
{
    Q_OBJECT
public:
    explicit PanelFrame(QWidget* parent = nullptr);
    PanelHeader* header() const { return m_header; }
    // The first page gives the frame its name. The frame takes the page; `choosers` go into the header while it is in front.
    int addPage(const QString& title, QWidget* page, QWidget* choosers = nullptr);
    void setCurrentPage(int page);
    QWidget* currentPage() const;

private:
    PanelHeader* m_header = nullptr;
    QStackedWidget* m_stack = nullptr;
};

class Panel final : public QDockWidget
{
    Q_OBJECT
public:
    // `id` becomes the objectName, which layouts are saved by.
    Panel(const QString& id, const QString& title, QWidget* parent = nullptr);
    PanelHeader* header() const { return m_header; }
    int addPage(const QString& title, QWidget* page, QWidget* choosers = nullptr);
    void setCurrentPage(int page);
    QWidget* currentPage() const;

private:
    PanelHeader* m_header = nullptr;
    QStackedWidget* m_stack = nullptr;
};

}  // namespace espalier
