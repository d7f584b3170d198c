// The user help of resources/help, shown in the window: one page per file, links between them. Not modal.
#pragma once

#include <QDialog>

class QListWidget;
class QTextBrowser;

namespace espalier
{

class HelpWindow final : public QDialog
{
    Q_OBJECT
public:
    HelpWindow(const QString& folder, QWidget* parent = nullptr);
    void showPage(const QString& name);  // "keyboard" for keyboard.md

private:
    QString m_folder;
    QListWidget* m_list = nullptr;
    QTextBrowser* m_text = nullptr;
};

}  // namespace espalier
