#include "shell/window/help_window.h"

#include "look/theme.h"

#include <QDir>
#include <QHBoxLayout>
#include <QListWidget>
#include <QTextBrowser>
#include <QTextTable>
#include <QUrl>

#include <algorithm>

namespace espalier
{

namespace
{

// Tables of Markdown come with a border around every cell and a gap between the borders: two lines where one is meant.
void drawTablesPlainly(QTextDocument* document)
{
    for (QTextFrame* frame : document->rootFrame()->childFrames()) {
        auto* table = qobject_cast<QTextTable*>(frame);
        if (!table) continue;
        QTextTableFormat format = table->format();
        format.setBorder(1);
        format.setBorderCollapse(true);
        format.setBorderBrush(theme().axis);
        format.setBorderStyle(QTextFrameFormat::BorderStyle_Solid);
        format.setCellSpacing(0);
        format.setCellPadding(pixelsOf(5));
        table->setFormat(format);
    }
}

}  // namespace

HelpWindow::HelpWindow(const QString& folder, QWidget* parent) : QDialog(parent), m_folder(folder)
{
    setWindowTitle(tr("Espalier help"));
    setModal(false);
    resize(pixelsOf(900), pixelsOf(640));
    m_list = new QListWidget;
    m_list->setAccessibleName(tr("help pages"));
    m_list->setMaximumWidth(pixelsOf(220));
    m_text = new QTextBrowser;
    m_text->setAccessibleName(tr("help text"));
    m_text->setSearchPaths({folder});
    m_text->setOpenExternalLinks(false);
    m_text->document()->setDocumentMargin(pixelsOf(16));
    auto* layout = new QHBoxLayout(this);
    layout->setContentsMargins(0, 0, 0, 0);
    layout->setSpacing(4);
    layout->addWidget(m_list);
    layout->addWidget(m_text, 1);
    const QStringList order = {QStringLiteral("getting-started"), QStringLiteral("heatmap"),    QStringLiteral("shaping-the-plan"),
                               QStringLiteral("pipeline"),        QStringLiteral("perplexity"), QStringLiteral("tasks"),
                               QStringLiteral("try-it"),          QStringLiteral("export"),     QStringLiteral("keyboard"),
                               QStringLiteral("command-line")};
    QStringList pages;
    for (const QFileInfo& file : QDir(folder).entryInfoList({QStringLiteral("*.md")}, QDir::Files))
        pages << file.completeBaseName();
    std::stable_sort(pages.begin(), pages.end(), [&](const QString& a, const QString& b) {
        const auto place = [&](const QString& p) { return order.contains(p) ? order.indexOf(p) : order.size(); };
        return place(a) < place(b);
    });
    for (const QString& page : pages) {
        QString title = page;
        title.replace(QLatin1Char('-'), QLatin1Char(' '));
        title[0] = title[0].toUpper();
        auto* item = new QListWidgetItem(title, m_list);
        item->setData(Qt::UserRole, page);
    }
    connect(m_list, &QListWidget::currentItemChanged, this, [this](QListWidgetItem* item) {
        if (item) m_text->setSource(QUrl(item->data(Qt::UserRole).toString() + QStringLiteral(".md")), QTextDocument::MarkdownResource);
    });
    connect(m_text, &QTextBrowser::sourceChanged, this, [this] { drawTablesPlainly(m_text->document()); });
    if (m_list->count() > 0) m_list->setCurrentRow(0);
}

void HelpWindow::showPage(const QString& name)
{
    for (int row = 0; row < m_list->count(); ++row)
        if (m_list->item(row)->data(Qt::UserRole).toString() == name) m_list->setCurrentRow(row);
}

}  // namespace espalier
