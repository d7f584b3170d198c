// Export of the plan on screen, not modal: what you get on the left, where it goes on the right; progress, cancel, and the proof by
// reopening at the end.
#pragma once

#include "shell/plan/workbench.h"

#include <QDialog>

class QButtonGroup;
class QCheckBox;
class QLabel;
class QLineEdit;
class QProgressBar;
class QPushButton;
class QVBoxLayout;

namespace espalier
{

class ExportDialog final : public QDialog
{
    Q_OBJECT
public:
    ExportDialog(Workbench* workbench, QWidget* parent = nullptr);

public slots:
    void refresh();  // the plan on screen changed: other flavours may be possible

signals:
    void equaliseRequested();  // one count for all layers, which a stock export needs

protected:
    // Closing while an export runs only hides: it comes back with the result.
    void closeEvent(QCloseEvent* event) override;
    void showEvent(QShowEvent* event) override;
    void reject() override;

private:
    void makeWhat(QVBoxLayout* rows);
    void makeForms(QVBoxLayout* rows);
    void makeFolder(QVBoxLayout* rows);
    void cancelOrClose();
    void explain(const QString& text, bool isError, const std::vector<int>& locks);
    QString flavour() const;
    void browse();
    QString folderName() const;  // of the model and the plan
    void dryRun();
    void showMeasured();
    void startExport();
    void setRunning(bool running);
    void focusForm();  // the keyboard to the form that is chosen
    void showResult(const QString& text, bool isError);

    Workbench* m_workbench;
    QButtonGroup* m_flavours = nullptr;
    std::vector<QLabel*> m_reasons;
    QLineEdit* m_folder = nullptr;
    bool m_folderChosen = false;  // in the file dialog
    QCheckBox* m_replace = nullptr;
    QLabel* m_plan = nullptr;
    QLabel* m_measured = nullptr;
    QLabel* m_size = nullptr;
    QLabel* m_result = nullptr;
    QProgressBar* m_bar = nullptr;
    QPushButton* m_export = nullptr;
    QPushButton* m_cancel = nullptr;
    QPushButton* m_equalise = nullptr;
    QPushButton* m_unlock = nullptr;  // the locks that stand in the way of equal counts
    bool m_explained = false;         // the result is what the plan says, and goes with it
    std::int64_t m_request = 0;
    CompressionPlan m_exporting;
};

}  // namespace espalier
