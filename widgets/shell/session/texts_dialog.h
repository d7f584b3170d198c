// Which texts a model is measured on, not modal: one for scores and searches, one for the perplexity while editing, one that stays locked;
// and the folder of multiple-choice tasks.
#pragma once

#include "shell/session/text_choice.h"

#include <QDialog>

#include <array>

class QComboBox;
class QLabel;

namespace espalier
{

class TextsDialog final : public QDialog
{
    Q_OBJECT
public:
    enum Role { Calibration, Live, Locked, Tasks };

    // `opens`: the button opens the model, else it changes the texts of the open one.
    TextsDialog(const QString& model, bool opens, const TextChoice& now, const TextChoice& builtIn, QWidget* parent = nullptr);
    TextChoice choice() const;

public slots:
    void setFile(int role, const QString& file);

signals:
    void browseRequested(espalier::TextsDialog::Role role, const QString& title);
    void chosen(const espalier::TextChoice& texts);

private:
    void refresh();
    void offer(Role role, const QString& file);

    TextChoice m_builtIn;
    std::array<QComboBox*, 4> m_files{};
    QLabel* m_note = nullptr;
};

}  // namespace espalier
